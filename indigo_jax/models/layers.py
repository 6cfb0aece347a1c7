"""Building blocks shared by the networks: time embedding, residual block, resampling, checks."""
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models.convolutions import CONVOLUTIONS, conv_flipped_gradient  # noqa: F401  (used by others)
from indigo_jax.typing import Array


def timestep_embedding(t: Array, features: int, *, max_period: float = 10_000.0) -> Array:
    """Sinusoidal embedding ``[cos(w_k t), sin(w_k t)]``, ``w_k = max_period^(-k / half)``.

    Args:
        t: times ``[B]``, in the units of 0..1000 (multiply an InDI time by 1000 first: on ``[0, 1]`` all
            frequencies stay below one radian and the embedding is almost linear).
        features: even number of features.

    Returns:
        ``[B, features]`` float32.

    >>> timestep_embedding(jnp.zeros(2), 4)[0].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Network(nn.Module, kw_only=True):
    """What networks and their parts share.

    Attributes:
        convolution: ``"plain"``, or ``"flipped"`` for fast gradients on a CPU; see :mod:`models.convolutions`.
        dtype: of the computation; parameters, normalisation, softmax and results stay float32.
    """
    convolution: str = "plain"
    dtype: Any = jnp.float32

    epsilon = 1e-6  # of every GroupNorm

    @property
    def how(self) -> dict:
        """The fields above, for a part of the network."""
        return {"convolution": self.convolution, "dtype": self.dtype}

    def conv3x3(self, x: Array, features: int, name: str, *, strides: int = 1, zero_init: bool = False,
                use_bias: bool = True) -> Array:
        """3x3 convolution with padding 1 on every side (so that stride 2 halves even sizes)."""
        # asked for its shape whenever the network is traced, where the draws of the other would be traced as well
        is_drawn = self.is_initializing() and not zero_init
        init = nn.initializers.lecun_normal() if is_drawn else nn.initializers.zeros_init()
        return nn.Conv(features, (3, 3), strides=(strides, strides), padding=((1, 1), (1, 1)), dtype=self.dtype,
                       use_bias=use_bias, kernel_init=init, conv_general_dilated=CONVOLUTIONS[self.convolution],
                       name=name)(x)

    def group_norm(self, x: Array, name: str) -> Array:
        """GroupNorm of ``self.num_groups`` in float32."""
        norm = nn.GroupNorm(num_groups=self.num_groups, epsilon=self.epsilon, dtype=jnp.float32,
                            use_fast_variance=False, name=name)
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class ResidualBlock(Network):
    """``h = conv(resample(silu(norm(x)))) + Dense(t)``, ``h = conv(silu(norm(h)))``; ``shortcut(resample(x)) + h``.

    With ``scale_shift``, ``scale, shift = Dense(t)``, and ``norm(h) (1 + scale) + shift`` takes the place of
    ``norm(h + Dense(t))``.

    Attributes:
        features: channels of the result.
        num_groups, epsilon: of both norms.
        resample: ``"up"`` (nearest, by 2), ``"down"`` (average of 2 x 2) or None.
        scale_shift: as said above.
        zero_init: the second convolution starts at zero.
        names: of the parts, as released weights have them: norm, convolution, Dense, norm, convolution, shortcut.
    """
    features: int
    num_groups: int = 32
    epsilon: float = 1e-6
    resample: str | None = None
    scale_shift: bool = False
    zero_init: bool = False
    names: tuple[str, ...] = ("norm1", "conv1", "time", "norm2", "conv2", "shortcut")

    @nn.compact
    def __call__(self, x: Array, time: Array | None = None) -> Array:
        """``x`` ``[B, H, W, C]``, activated features of the time ``[B, T]`` or None -> ``[B, H', W', features]``."""
        norm_in, conv_in, dense, norm_out, conv_out, shortcut = self.names
        resample = {"up": upsample_nearest, "down": average_2x2, None: lambda h: h}[self.resample]
        h = self.conv3x3(resample(nn.silu(self.group_norm(x, norm_in))), self.features, conv_in)
        if time is not None:
            time = nn.Dense(self.features * (1 + self.scale_shift), dtype=self.dtype, name=dense)(time)[:, None, None]
        if self.scale_shift:
            scale, shift = jnp.split(time, 2, axis=-1)
            h = self.group_norm(h, norm_out) * (1 + scale) + shift
        else:
            h = self.group_norm(h if time is None else h + time, norm_out)
        h = self.conv3x3(nn.silu(h), self.features, conv_out, zero_init=self.zero_init)
        x = resample(x)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name=shortcut)(x)
        return x + h


IN_OUT = ("norm_in", "conv_in", "time", "norm_out", "conv_out", "shortcut")  # other names of these parts


class Normalization(nn.Module):
    """Normalisation computed in float32 whatever the network's type.

    ``"group"``: GroupNorm over the whole picture, of the most groups up to 32 that divide the channels. ``"layer"``:
    over channels, per pixel. With ``"layer"`` no statistic is taken over the picture: what a pixel becomes depends on
    its receptive field only, so a picture and its tiles agree. ``"group"`` learns faster.
    """
    kind: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        if self.kind not in ("layer", "group"):
            raise ValueError(f"norm must be 'group' or 'layer', got {self.kind!r}")
        if self.kind == "layer":
            norm = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="norm")
        else:
            norm = GroupNorm(num_groups=math.gcd(x.shape[-1], 32), name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class GroupNorm(nn.Module):
    """``(x - mean) scale / sqrt(var + 1e-6) + bias`` of a float32 ``[B, H, W, C]``; mean and var are its groups'.

    The same parameters and result as flax's of this name. There the picture is reshaped to groups of few channels, a
    float32 copy that the tiles of a TPU's memory blow up; here only its sums ``[B, C]`` are. The variance is that about
    the mean, not E[x^2] - mean^2, which loses all digits where the mean is large.
    """
    num_groups: int

    @nn.compact
    def __call__(self, x):
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)

        def of_group(values):
            means = values.reshape(batch, self.num_groups, channels // self.num_groups).mean(axis=-1)
            return jnp.repeat(means, channels // self.num_groups, axis=-1)

        mean = of_group(jnp.mean(x, axis=(1, 2)))
        variance = of_group(jnp.mean((x - mean[:, None, None]) ** 2, axis=(1, 2)))
        a = scale * jax.lax.rsqrt(variance + 1e-6)
        return (x - mean[:, None, None]) * a[:, None, None] + bias


def upsample_nearest(x: Array) -> Array:
    """Repeat every pixel 2 x 2: ``[B, H, W, C] -> [B, 2H, 2W, C]``."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def average_2x2(x: Array) -> Array:
    """The mean of every 2 x 2 pixels: ``[B, H, W, C] -> [B, H/2, W/2, C]``."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def space_to_depth(x: Array, block: int) -> Array:
    """``[B, H, W, C] -> [B, H / block, W / block, block^2 C]``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: Array, block: int) -> Array:
    """Inverse of :func:`space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, block, block, c // block**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * block, w * block, c // block**2)


def level_map(sigma: Array, x: Array) -> Array:
    """The noise level of pictures ``[B, H, W, C]`` as one more channel ``[B, H, W, 1]``, of ``[B]`` or such a map.

    Errors:
        ValueError for a sigma of another shape.
    """
    if sigma.ndim == 1:
        sigma = sigma[:, None, None, None]
    if sigma.shape not in ((x.shape[0], 1, 1, 1), (*x.shape[:3], 1)):
        raise ValueError(f"sigma has the shape {sigma.shape}: give [B] or [B, H, W, 1] for pictures of {x.shape}")
    return jnp.broadcast_to(sigma.astype(x.dtype), (*x.shape[:3], 1))


def check_pictures(x: Array, *, multiple: int, channels: int | None = None) -> None:
    """ValueError unless ``x`` is ``[B, H, W, channels]`` with H and W divisible by ``multiple`` and not 0."""
    if (x.ndim != 4 or channels not in (None, x.shape[-1])
            or any(side % multiple or not side for side in x.shape[1:3])):
        raise ValueError(f"pictures [B, H, W, {channels or 'C'}] with sides divisible by {multiple} are needed "
                         f"(pad them first), got {x.shape}")


def check_latents(z: Array, *, channels: int) -> None:
    """ValueError unless ``z`` is ``[B, h, w, channels]`` and not empty."""
    if z.ndim != 4 or z.shape[-1] != channels or 0 in z.shape[1:3]:
        raise ValueError(f"latents [B, h, w, {channels}] are needed, got {z.shape}")
