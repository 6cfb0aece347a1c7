"""The UNet of DDPM (Ho et al. 2020), as BIRD uses it for CelebA-HQ."""
import math
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.typing import Array


class DDPMUNet(nn.Module):
    """Noise predictor of DDPM in the layout of its public torch port (the ``Model`` of DDIM, SDEdit and BIRD).

    At its defaults, BIRD's network for CelebA-HQ 256: 113,673,219 parameters. Weights of that port come through
    :func:`convert.ddpm_unet`.

    Attributes:
        channels: width of the first level.
        multipliers: width of each level over ``channels``; each level halves the sides.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_resolutions: sides, of pictures of ``image_size``, at which each block is followed by attention.
        image_size: side of the pictures of its training. It only places the attention: any sides that the levels
            divide can be put in.
        out_channels: of the prediction.
        num_groups: of every GroupNorm.
        patch_size: side of the pixel blocks folded into channels at the door (1: none). 2 costs a quarter.
        convolution: ``"plain"``, or ``"flipped"`` for fast input gradients in loops on a CPU.
        dtype: of the computation; parameters, normalisation, softmax and result stay float32.

    Differs from the reference in: no dropout; it runs at sizes other than ``image_size``.
    """
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    image_size: int = 256
    out_channels: int = 3
    num_groups: int = 32
    patch_size: int = 1
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise.

        Args:
            x: noisy pictures ``[B, H, W, C]``; H and W divisible by ``patch_size 2^(levels - 1)``.
            t: ``[B]`` timesteps, as numbers from 0 to 999 (not divided by anything).

        Returns:
            ``[B, H, W, out_channels]`` float32.

        Errors:
            ValueError for sides that the levels do not divide.
        """
        multiple = self.patch_size * 2 ** (len(self.multipliers) - 1)
        if x.ndim != 4 or x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(f"pictures [B, H, W, C] with sides divisible by {multiple} are needed, got {x.shape}")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        sides = [self.image_size // self.patch_size // 2**level for level in range(len(widths))]
        attends = [side in self.attention_resolutions for side in sides]
        conv = dict(dtype=self.dtype, convolution=self.convolution)

        features = sinusoidal_embedding(t, self.channels).astype(self.dtype)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="temb_dense_0")(features)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="temb_dense_1")(nn.swish(features))

        def block(h, level, name, attention):
            h = DDPMBlock(widths[level], self.num_groups, name=f"{name[0]}block_{name[1]}", **conv)(h, features)
            return Attention(self.num_groups, self.dtype, name=f"{name[0]}attn_{name[1]}")(h) if attention else h

        h = layers.space_to_depth(x.astype(self.dtype), self.patch_size)
        h = layers.conv3x3(self.channels, name="conv_in", **conv)(h)
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.num_res_blocks):
                h = block(h, level, (f"down_{level}_", i), attends[level])
                skips.append(h)
            if level < len(widths) - 1:
                h = nn.Conv(width, (3, 3), strides=(2, 2), padding=((0, 1), (0, 1)), dtype=self.dtype,
                            name=f"down_{level}_downsample")(h)
                skips.append(h)
        h = block(h, -1, ("mid_", 1), True)
        h = block(h, -1, ("mid_", 2), False)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, (f"up_{level}_", i), attends[level])
            if level:
                h = layers.conv3x3(width, name=f"up_{level}_upsample", **conv)(layers.upsample_nearest(h))
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm_out")(h))
        h = layers.conv3x3(self.out_channels * self.patch_size**2, name="conv_out", **conv)(h)
        return layers.depth_to_space(h, self.patch_size).astype(jnp.float32)


class DDPMBlock(nn.Module):
    """``h = conv(swish(norm(x))) + Dense(swish(temb))``, ``h = conv(swish(norm(h)))``, returns ``shortcut(x) + h``."""
    features: int
    num_groups: int = 32
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, features: Array) -> Array:
        """``x`` ``[B, H, W, C]``, ``features`` ``[B, T]`` -> ``[B, H, W, self.features]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm1")(x))
        h = layers.conv3x3(self.features, name="conv1", **conv)(h)
        h = h + nn.Dense(self.features, dtype=self.dtype, name="temb_proj")(nn.swish(features))[:, None, None]
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm2")(h))
        h = layers.conv3x3(self.features, name="conv2", **conv)(h)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, one head: ``x + proj(softmax(q k^T / sqrt(C)) v)`` of ``norm(x)``."""
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        h = group_norm(self.num_groups, self.dtype, "norm")(x)
        q, k, v = (nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name=name)(h) for name in "qkv")
        return x + nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="proj_out")(attend(q, k, v))


def attend(q: Array, k: Array, v: Array) -> Array:
    """``softmax(q k^T / sqrt(C)) v`` over the pixels of ``[B, H, W, C]``; the softmax in float32."""
    q, k, v_ = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (q, k, v))
    scores = jnp.einsum("bic,bjc->bij", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    return jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores).astype(v.dtype), v_).reshape(v.shape)


def group_norm(num_groups: int, dtype: Any, name: str, epsilon: float = 1e-6) -> Callable[[Array], Array]:
    """GroupNorm in float32, result in ``dtype``."""
    norm = nn.GroupNorm(num_groups=num_groups, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)
    return lambda x: norm(x.astype(jnp.float32)).astype(dtype)


def sinusoidal_embedding(t: Array, features: int) -> Array:
    """``[sin(t f_i), cos(t f_i)]`` with ``f_i = 10000^(-i / (half - 1))``: t ``[B]`` -> ``[B, features]`` float32."""
    half = features // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
