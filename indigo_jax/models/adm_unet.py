"""The UNet of guided diffusion (ADM; Dhariwal & Nichol 2021), with learned variance."""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import group_norm
from indigo_jax.typing import Array

_EPSILON = 1e-5  # torch's default


class ADMUNet(nn.Module):
    """Noise predictor of guided diffusion: ``[eps, v]``, v being where the log-variance lies between its bounds.

    At its defaults, the unconditional network for ImageNet 256: 552,814,086 parameters. Its weights, and those of its
    relatives for other sizes and pictures, come through :func:`convert.guided_diffusion`; its output goes to
    ``denoisers.from_eps(..., learned_variance=True)``.

    Attributes:
        channels: the unit of width; also of the time embedding.
        multipliers: width of each level over ``channels``, fractions allowed; each level halves the sides.
        num_res_blocks: residual blocks per level on the way down, a number or one per level; one more on the way up.
        attention_resolutions: sides, of pictures of ``image_size``, at which each block is followed by attention.
        image_size: side of the pictures of its training. It only places the attention: any sides that the levels
            divide can be put in.
        num_head_channels: width of one head of attention; divides the widths that attend.
        num_heads: heads of attention on every level; 0: as many as ``num_head_channels`` makes.
        resblock_updown: resample inside residual blocks, else with a convolution of its own.
        use_scale_shift_norm: the time scales and shifts the second norm, else it is added before it.
        out_channels: twice those of the pictures with a learned variance, else as many.
        num_groups: of every GroupNorm.
        convolution: ``"plain"``, or ``"flipped"`` for fast input gradients in loops on a CPU.
        dtype: of the computation; parameters, normalisation, softmax and result stay float32.

    Differs from the reference in: no dropout, no classes (the converter adds one to the time); it runs at sizes other
    than ``image_size``.
    """
    channels: int = 256
    multipliers: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    image_size: int = 256
    num_head_channels: int = 64
    num_heads: int = 0
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    out_channels: int = 6
    num_groups: int = 32
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise and, in the second half of the channels, the variance.

        Args:
            x: noisy pictures ``[B, H, W, C]``; H and W divisible by ``2 ** (levels - 1)``.
            t: ``[B]`` timesteps, as numbers from 0 to 999 (not divided by anything).

        Returns:
            ``[B, H, W, out_channels]`` float32.

        Errors:
            ValueError for sides that the levels do not divide, or widths that the heads do not.
        """
        multiple = 2 ** (len(self.multipliers) - 1)
        if x.ndim != 4 or x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(f"pictures [B, H, W, C] with sides divisible by {multiple} are needed, got {x.shape}")
        widths = [int(multiplier * self.channels) for multiplier in self.multipliers]
        attends = [self.image_size // 2**level in self.attention_resolutions for level in range(len(widths))]
        per_level = self.num_res_blocks
        per_level = (per_level,) * len(widths) if isinstance(per_level, int) else per_level
        conv = dict(dtype=self.dtype, convolution=self.convolution)

        features = layers.timestep_embedding(t, self.channels).astype(self.dtype)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="time_embed_0")(features)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="time_embed_2")(nn.silu(features))

        def residual(h, width, name, resample=None):
            return ADMBlock(width, resample, self.use_scale_shift_norm, self.num_groups, name=name, **conv)(h, features)

        def attention(h, name):
            size = h.shape[-1] // self.num_heads if self.num_heads else self.num_head_channels
            return ADMAttention(size, self.num_groups, self.dtype, name=name)(h)

        # Submodules are numbered as the reference's lists are: stage, place in the list, place within the entry.
        h = layers.conv3x3(widths[0], name="input_0_0", **conv)(x.astype(self.dtype))
        skips = [h]
        for level, width in enumerate(widths):
            for _ in range(per_level[level]):
                h = residual(h, width, f"input_{len(skips)}_0")
                if attends[level]:
                    h = attention(h, f"input_{len(skips)}_1")
                skips.append(h)
            if level < len(widths) - 1:
                name = f"input_{len(skips)}_0"
                if self.resblock_updown:
                    h = residual(h, width, name, "down")
                else:
                    h = layers.conv3x3(width, strides=2, name=name, **conv)(h)
                skips.append(h)
        h = residual(h, widths[-1], "middle_0")
        h = attention(h, "middle_1")
        h = residual(h, widths[-1], "middle_2")
        place = 0
        for level, width in reversed(list(enumerate(widths))):
            for i in range(per_level[level] + 1):
                h = residual(jnp.concatenate([h, skips.pop()], axis=-1), width, f"output_{place}_0")
                if attends[level]:
                    h = attention(h, f"output_{place}_1")
                if level and i == per_level[level]:
                    name = f"output_{place}_{1 + attends[level]}"
                    if self.resblock_updown:
                        h = residual(h, width, name, "up")
                    else:
                        h = layers.conv3x3(width, name=name, **conv)(layers.upsample_nearest(h))
                place += 1
        h = nn.silu(_norm(h, self.num_groups, self.dtype, "norm_out"))
        return layers.conv3x3(self.out_channels, zero_init=True, name="conv_out", **conv)(h).astype(jnp.float32)


class ADMBlock(nn.Module):
    """``h = conv(resample(silu(norm(x))))``, then with ``scale, shift = Dense(silu(temb))``
    ``h = conv(silu(norm(h) (1 + scale) + shift))``; returns ``shortcut(resample(x)) + h``.

    Attributes:
        features: channels of the result.
        resample: ``"up"`` (nearest, by 2), ``"down"`` (average of 2 x 2) or None.
        use_scale_shift_norm: if not, ``Dense(silu(temb))`` is added to h before its norm.
    """
    features: int
    resample: str | None = None
    use_scale_shift_norm: bool = True
    num_groups: int = 32
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, features: Array) -> Array:
        """``x`` ``[B, H, W, C]``, ``features`` ``[B, T]`` -> ``[B, H', W', self.features]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        resample = {"up": layers.upsample_nearest, "down": _average_2x2, None: lambda h: h}[self.resample]
        h = resample(nn.silu(_norm(x, self.num_groups, self.dtype, "norm_in")))
        h = layers.conv3x3(self.features, name="conv_in", **conv)(h)
        time = nn.Dense(self.features * (1 + self.use_scale_shift_norm), dtype=self.dtype, name="time")(
            nn.silu(features))[:, None, None]
        if self.use_scale_shift_norm:
            scale, shift = jnp.split(time, 2, axis=-1)
            h = _norm(h, self.num_groups, self.dtype, "norm_out") * (1 + scale) + shift
        else:
            h = _norm(h + time, self.num_groups, self.dtype, "norm_out")
        h = layers.conv3x3(self.features, zero_init=True, name="conv_out", **conv)(nn.silu(h))
        x = resample(x)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + h


class ADMAttention(nn.Module):
    """Self-attention over all pixels: ``x + proj(softmax((q s) (k s)^T) v)`` of ``norm(x)``, ``s = D^(-1/4)``.

    D is ``head_channels``. The channels of ``qkv`` are ordered by head, then q, k, v, then channel of the head, as in
    the released weights (the reference also has a later order).
    """
    head_channels: int
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        batch, height, width, channels = x.shape
        if channels % self.head_channels:
            raise ValueError(f"heads of {self.head_channels} channels do not divide {channels} channels")
        h = _norm(x, self.num_groups, self.dtype, "norm").reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, height * width, -1, 3, self.head_channels), 3, 0)
        scale = self.head_channels**-0.25  # on both sides: no product grows large in half precision
        scores = jnp.einsum("bihc,bjhc->bhij", q * scale, k * scale).astype(jnp.float32)
        h = jnp.einsum("bhij,bjhc->bihc", jax.nn.softmax(scores).astype(self.dtype), v)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros_init(), name="proj_out")(
            h.reshape(batch, height * width, channels))
        return x + h.reshape(x.shape)


def _norm(x, num_groups, dtype, name):
    return group_norm(num_groups, dtype, name, _EPSILON)(x)


def _average_2x2(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
