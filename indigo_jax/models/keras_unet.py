"""The UNet of the widely copied Keras example of DDPM, for the pixel priors that were trained with it."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import attend, group_norm, sinusoidal_embedding
from indigo_jax.typing import Array

_EPSILON = 1e-3  # Keras' default


class KerasUNet(nn.Module):
    """Noise predictor with the layers of the Keras DDPM example; weights come through :func:`convert.keras_ddpm`.

    It differs from :class:`DDPMUNet` in the order within a block, in GroupNorm (8 groups, epsilon 1e-3), in padding
    stride-2 convolutions as TensorFlow's "SAME", and in attention, whose residual goes past the normalised input.

    Attributes:
        widths: channels of each level; each level halves the sides.
        has_attention: of each level.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        first_channels: of the first convolution; the time embedding has four times as many.
        out_channels: of the prediction.
        num_groups: of every GroupNorm.
        convolution: ``"plain"``, or ``"flipped"`` for fast input gradients in loops on a CPU.
        dtype: of the computation; parameters and result stay float32.
    """
    widths: tuple[int, ...] = (64, 128, 256, 512)
    has_attention: tuple[bool, ...] = (False, False, True, True)
    num_res_blocks: int = 2
    first_channels: int = 64
    out_channels: int = 3
    num_groups: int = 8
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise: ``x`` ``[B, H, W, C]`` with sides that the levels divide, ``t`` ``[B]`` timesteps from 0
        -> ``[B, H, W, out_channels]`` float32."""
        multiple = 2 ** (len(self.widths) - 1)
        if x.ndim != 4 or x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(f"pictures [B, H, W, C] with sides divisible by {multiple} are needed, got {x.shape}")
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        features = sinusoidal_embedding(t, 4 * self.first_channels).astype(self.dtype)
        features = nn.Dense(4 * self.first_channels, dtype=self.dtype, name="time_in")(features)
        features = nn.Dense(4 * self.first_channels, dtype=self.dtype, name="time_out")(nn.swish(features))

        def block(h, width, name, attention):
            h = KerasBlock(width, self.num_groups, name=f"{name}_block", **conv)(h, features)
            return KerasAttention(self.num_groups, self.dtype, name=f"{name}_attention")(h) if attention else h

        h = layers.conv3x3(self.first_channels, name="conv_in", **conv)(x.astype(self.dtype))
        skips = [h]
        for level, width in enumerate(self.widths):
            for i in range(self.num_res_blocks):
                h = block(h, width, f"down_{level}_{i}", self.has_attention[level])
                skips.append(h)
            if level < len(self.widths) - 1:
                h = nn.Conv(width, (3, 3), strides=(2, 2), padding="SAME", dtype=self.dtype,
                            name=f"down_{level}_downsample")(h)
                skips.append(h)
        h = block(h, self.widths[-1], "mid_0", True)
        h = block(h, self.widths[-1], "mid_1", False)
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, f"up_{level}_{i}", self.has_attention[level])
            if level:
                h = layers.conv3x3(width, name=f"up_{level}_upsample", **conv)(layers.upsample_nearest(h))
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm_out", _EPSILON)(h))
        return layers.conv3x3(self.out_channels, name="conv_out", **conv)(h).astype(jnp.float32)


class KerasBlock(nn.Module):
    """``h = conv(swish(norm(x))) + Dense(swish(temb))``, ``h = conv(swish(norm(h)))``, returns ``shortcut(x) + h``."""
    features: int
    num_groups: int
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, features: Array) -> Array:
        """``x`` ``[B, H, W, C]``, ``features`` ``[B, T]`` -> ``[B, H, W, self.features]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        shortcut = x
        if x.shape[-1] != self.features:
            shortcut = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        time = nn.Dense(self.features, dtype=self.dtype, name="time")(nn.swish(features))[:, None, None]
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm_in", _EPSILON)(x))
        h = layers.conv3x3(self.features, name="conv_in", **conv)(h) + time
        h = nn.swish(group_norm(self.num_groups, self.dtype, "norm_out", _EPSILON)(h))
        return layers.conv3x3(self.features, name="conv_out", **conv)(h) + shortcut


class KerasAttention(nn.Module):
    """``h = norm(x)``, returns ``h + proj(softmax(q k^T / sqrt(C)) v)``: not x, as the original does."""
    num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        h = group_norm(self.num_groups, self.dtype, "norm", _EPSILON)(x)
        q, k, v = (nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(h) for name in ("query", "key", "value"))
        return h + nn.Dense(x.shape[-1], dtype=self.dtype, name="proj")(attend(q, k, v))
