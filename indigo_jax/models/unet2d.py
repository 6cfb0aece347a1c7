"""The unconditional UNet of the diffusers library (``UNet2DModel``): DDPM's, with heads and paddings to choose."""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.typing import Array


class UNet2D(layers.Network):
    """Predictor (of eps, v or x0, as it was trained) for noisy pictures.

    With ``head_channels=0, epsilon=1e-6, symmetric=False, flip=False, frequency_shift=1`` it computes what
    :class:`DDPMUNet` does; so are the published networks ``google/ddpm-*``. The defaults are those of the library,
    which its training scripts leave as they are. Weights come through :func:`convert.diffusers_unet2d`.

    Attributes:
        block_out_channels: width of each level; each but the last halves the sides.
        has_attention: of each level: whether attention follows each block.
        mid_attention: whether it does in the middle.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        head_channels: width of one head of attention; 0: one head of all channels.
        out_channels: of the prediction.
        image_size: side of the pictures of its training. Any sides that the levels divide can be put in.
        num_groups: of every GroupNorm.
        epsilon: of every GroupNorm.
        symmetric: the halving convolutions pad one pixel on every side, else only below and to the right.
        flip: the time is embedded as cosines, then sines; else sines first.
        frequency_shift: subtracted from the number of frequencies when they are spread.
        convolution, dtype: see :class:`layers.Network`.

    Source: "Denoising diffusion probabilistic models" (Ho et al., NeurIPS 2020, arXiv 2006.11239), appendix B.
    Differs from the reference in: no dropout, no classes (the converter adds one to the time), no other kinds of block.
    """
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    has_attention: tuple[bool, ...] = (False, True, True, True)
    mid_attention: bool = True
    layers_per_block: int = 2
    head_channels: int = 8
    out_channels: int = 3
    image_size: int = 64
    num_groups: int = 32
    epsilon: float = 1e-5
    symmetric: bool = True
    flip: bool = True
    frequency_shift: float = 0.0

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise, or what else it was trained for.

        Args:
            x: noisy pictures ``[B, H, W, C]``; H and W divisible by ``2 ** (levels - 1)``.
            t: ``[B]`` timesteps, as numbers from 0 to 999 (not divided by anything).

        Returns:
            ``[B, H, W, out_channels]`` float32.

        Errors:
            ValueError for sides that the levels do not divide.
        """
        widths, levels = self.block_out_channels, len(self.block_out_channels)
        layers.check_pictures(x, multiple=2 ** (levels - 1))
        norm = dict(num_groups=self.num_groups, epsilon=self.epsilon)

        features = self._embedding(t).astype(self.dtype)
        features = nn.Dense(4 * widths[0], dtype=self.dtype, name="time_embed_1")(features)
        features = nn.silu(nn.Dense(4 * widths[0], dtype=self.dtype, name="time_embed_2")(nn.silu(features)))

        def block(h, width, name):
            return layers.ResidualBlock(width, name=name, **norm, **self.how)(h, features)

        def attention(h, name):
            return UNet2DAttention(self.head_channels, name=name, **norm, **self.how)(h)

        h = self.conv3x3(x.astype(self.dtype), widths[0], "conv_in")
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.layers_per_block):
                h = block(h, width, f"down_{level}_block_{i}")
                if self.has_attention[level]:
                    h = attention(h, f"down_{level}_attention_{i}")
                skips.append(h)
            if level < levels - 1:
                h = nn.Conv(width, (3, 3), strides=(2, 2), padding=((int(self.symmetric), 1),) * 2, dtype=self.dtype,
                            name=f"down_{level}_downsample")(h)
                skips.append(h)
        h = block(h, widths[-1], "mid_block_0")
        h = block(attention(h, "mid_attention") if self.mid_attention else h, widths[-1], "mid_block_1")
        for place in range(levels):  # numbered in the order of the computation
            level = levels - 1 - place
            for i in range(self.layers_per_block + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), widths[level], f"up_{place}_block_{i}")
                if self.has_attention[level]:
                    h = attention(h, f"up_{place}_attention_{i}")
            if level:
                h = self.conv3x3(layers.upsample_nearest(h), widths[level], f"up_{place}_upsample")
        h = nn.silu(self.group_norm(h, "norm_out"))
        return self.conv3x3(h, self.out_channels, "conv_out").astype(jnp.float32)

    def _embedding(self, t):
        half = self.block_out_channels[0] // 2
        frequencies = jnp.exp(-math.log(1e4) * jnp.arange(half, dtype=jnp.float32) / (half - self.frequency_shift))
        angles = t.astype(jnp.float32)[:, None] * frequencies
        both = [jnp.sin(angles), jnp.cos(angles)]
        return jnp.concatenate(both[::-1] if self.flip else both, axis=-1)


class UNet2DAttention(layers.Network):
    """Self-attention over all pixels: ``x + proj(softmax(q k^T / sqrt(D)) v)`` of ``norm(x)``, D channels a head."""
    head_channels: int
    num_groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        batch, height, width, channels = x.shape
        size = self.head_channels or channels
        if channels % size:
            raise ValueError(f"heads of {size} channels do not divide {channels} channels")
        h = self.group_norm(x, "norm").reshape(batch, height * width, channels)
        q, k, v = (nn.Dense(channels, dtype=self.dtype, name=name)(h).reshape(batch, height * width, -1, size)
                   for name in "qkv")
        scores = jnp.einsum("bihc,bjhc->bhij", q, k, preferred_element_type=jnp.float32) * size**-0.5
        h = jnp.einsum("bhij,bjhc->bihc", jax.nn.softmax(scores).astype(self.dtype), v)
        h = nn.Dense(channels, dtype=self.dtype, name="proj_out")(h.reshape(batch, height * width, channels))
        return x + h.reshape(x.shape)
