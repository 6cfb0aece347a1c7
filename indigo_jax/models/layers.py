"""Building blocks shared by the networks: time embedding, residual block, resampling, convolution switch."""
import math
from typing import Any, Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

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


# ------------------------------------------------------------------------------------------------ convolution switch

def conv_flipped_gradient(lhs, rhs, window_strides, padding, *, lhs_dilation=None, rhs_dilation=None,
                          dimension_numbers=None, feature_group_count=1, batch_group_count=1, precision=None,
                          preferred_element_type=None):
    """``jax.lax.conv_general_dilated`` whose input gradient is an ordinary convolution with a flipped kernel.

    XLA:CPU runs the usual input gradient of a convolution inside ``lax.scan`` several times too slowly; an
    explicitly flipped HWIO kernel avoids that. Applies to stride-1, undilated, ungrouped NHWC convolutions with odd
    kernels and ``SAME`` padding; anything else falls through to the plain one. It defines a ``custom_vjp`` and so
    blocks forward-mode differentiation: that is why it is a switch.
    """
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, window_strides, padding, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers, feature_group_count=feature_group_count,
            batch_group_count=batch_group_count, precision=precision, preferred_element_type=preferred_element_type)

    height, width = rhs.shape[:2]
    same = padding == "SAME" or tuple(map(tuple, padding)) == ((height // 2,) * 2, (width // 2,) * 2)
    simple = (lhs.ndim == 4 and same and height % 2 and width % 2 and set(window_strides) == {1}
              and set(lhs_dilation or (1,)) == {1} and set(rhs_dilation or (1,)) == {1}
              and feature_group_count == batch_group_count == 1)
    if not simple:
        return plain(lhs, rhs)

    @jax.custom_vjp
    def convolve(x, kernel):
        return plain(x, kernel)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(residuals, cotangent):
        x, kernel = residuals
        grad_x = plain(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
        _, kernel_vjp = jax.vjp(lambda k: plain(x, k), kernel)
        return grad_x.astype(x.dtype), kernel_vjp(cotangent)[0]

    convolve.defvjp(forward, backward)
    return convolve(lhs, rhs)


CONVOLUTIONS: dict[str, Callable] = {"plain": jax.lax.conv_general_dilated, "flipped": conv_flipped_gradient}


def conv3x3(features: int, *, dtype: Any, convolution: str = "plain", strides: int = 1, zero_init: bool = False,
            use_bias: bool = True, name: str | None = None) -> nn.Conv:
    """3x3 convolution with padding 1 on every side (so that stride 2 halves even sizes)."""
    init = nn.initializers.zeros_init() if zero_init else nn.initializers.lecun_normal()
    return nn.Conv(features, (3, 3), strides=(strides, strides), padding=((1, 1), (1, 1)), dtype=dtype,
                   use_bias=use_bias, kernel_init=init, conv_general_dilated=CONVOLUTIONS[convolution], name=name)


def normalization(kind: str, *, dtype: Any, name: str) -> nn.Module:
    """``"group"``: GroupNorm of at most 32 groups over the whole picture. ``"layer"``: over channels, per pixel.

    With ``"layer"`` no statistic is taken over the picture: what a pixel becomes depends on its receptive field only,
    so a picture and its tiles agree. ``"group"`` learns faster.
    """
    if kind not in ("layer", "group"):
        raise ValueError(f"norm must be 'group' or 'layer', got {kind!r}")
    return Normalization(kind, dtype=dtype, name=name)


class Normalization(nn.Module):
    """Normalisation computed in float32 whatever the network's type. Groups: the most up to 32 that divide the
    channels."""
    kind: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
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


class ResBlock(nn.Module):
    """``h = conv(silu(norm(x))) + Dense(temb)``, ``h = conv(silu(norm(h)))``, returns ``shortcut(x) + h`` (SR3)."""
    features: int
    norm: str = "group"
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, time_features: Array) -> Array:
        """``x`` ``[B, H, W, C]``, ``time_features`` ``[B, T]`` -> ``[B, H, W, features]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        h = nn.silu(normalization(self.norm, dtype=self.dtype, name="norm_in")(x))
        h = conv3x3(self.features, name="conv_in", **conv)(h)
        h = h + nn.Dense(self.features, dtype=self.dtype, name="time")(time_features)[:, None, None, :]
        h = nn.silu(normalization(self.norm, dtype=self.dtype, name="norm_out")(h))
        h = conv3x3(self.features, zero_init=True, name="conv_out", **conv)(h)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + h


def upsample_nearest(x: Array) -> Array:
    """Repeat every pixel 2 x 2: ``[B, H, W, C] -> [B, 2H, 2W, C]``."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


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
