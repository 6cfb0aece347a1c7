"""The UNet of the widely copied Keras example of DDPM, for the pixel priors that were trained with it."""
import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import attend, sinusoidal_embedding
from indigo_jax.typing import Array


class KerasUNet(layers.Network):
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
        convolution, dtype: see :class:`layers.Network`.
    """
    widths: tuple[int, ...] = (64, 128, 256, 512)
    has_attention: tuple[bool, ...] = (False, False, True, True)
    num_res_blocks: int = 2
    first_channels: int = 64
    out_channels: int = 3
    num_groups: int = 8

    epsilon = 1e-3  # Keras' default

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise: ``x`` ``[B, H, W, C]`` with sides that the levels divide, ``t`` ``[B]`` timesteps from 0
        -> ``[B, H, W, out_channels]`` float32."""
        layers.check_pictures(x, multiple=2 ** (len(self.widths) - 1))
        features = sinusoidal_embedding(t, 4 * self.first_channels).astype(self.dtype)
        features = nn.Dense(4 * self.first_channels, dtype=self.dtype, name="time_in")(features)
        features = nn.Dense(4 * self.first_channels, dtype=self.dtype, name="time_out")(nn.silu(features))

        def block(h, width, name, attention):
            h = layers.ResidualBlock(width, self.num_groups, self.epsilon, names=layers.IN_OUT, name=f"{name}_block",
                                     **self.how)(h, nn.silu(features))
            return KerasAttention(self.num_groups, name=f"{name}_attention", **self.how)(h) if attention else h

        h = self.conv3x3(x.astype(self.dtype), self.first_channels, "conv_in")
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
                h = self.conv3x3(layers.upsample_nearest(h), width, f"up_{level}_upsample")
        h = nn.silu(self.group_norm(h, "norm_out"))
        return self.conv3x3(h, self.out_channels, "conv_out").astype(jnp.float32)


class KerasAttention(layers.Network):
    """``h = norm(x)``, returns ``h + proj(softmax(q k^T / sqrt(C)) v)``: not x, as the original does."""
    num_groups: int

    epsilon = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        h = self.group_norm(x, "norm")
        q, k, v = (nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(h) for name in ("query", "key", "value"))
        return h + nn.Dense(x.shape[-1], dtype=self.dtype, name="proj")(attend(q, k, v))
