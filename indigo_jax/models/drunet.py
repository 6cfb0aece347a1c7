"""DRUNet, the denoiser of DPIR (Zhang et al. 2021): its published weights are a prior of pictures of any size."""
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.models.restoration_unet import pad_to_multiple
from indigo_jax.typing import Array


class DRUNet(layers.Network):
    """``D(x + sigma n, sigma) ~ E[x | x + sigma n]``: residual blocks, 2 x 2 convolutions between the levels, no bias.

    At its defaults the published network for colour, 32,640,960 parameters; with ``out_channels=1`` that for grey
    pictures, which here sees the channels of a colour picture one by one. Weights come through
    :func:`convert.drunet`. It was trained for a sigma of up to 50 of 255.

    Attributes:
        widths: channels of each level; each but the last halves the sides.
        num_blocks: residual blocks per level, on the way down, at the bottom and on the way up.
        out_channels: channels of the picture.
        convolution, dtype: see :class:`layers.Network`.

    Source: Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021 (arXiv 2008.13751), section 3.
    Differs from the reference in: pictures in ``[-1, 1]`` and sigma in the same unit at the door, ``[0, 1]`` inside as
    there; sides are padded by reflection to a multiple of 8, there by repeating the last row and column.
    """
    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_blocks: int = 4
    out_channels: int = 3

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this many pixels, and tiles must begin at one."""
        return 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> int:
        """How far, in pixels, an input pixel can change the output; a multiple of :attr:`multiple`."""
        scales = [2**level for level in range(len(self.widths))]
        pixels = 2 + sum(4 * self.num_blocks * scale for scale in scales[:-1]) + 2 * self.num_blocks * scales[-1]
        return -(-(pixels + sum(2 * scale for scale in scales[1:])) // self.multiple) * self.multiple

    def __call__(self, x: Array, sigma: Array) -> Array:
        """Take the noise out.

        Args:
            x: noisy pictures ``[B, H, W, C]``, clean ones being in ``[-1, 1]``.
            sigma: standard deviation of the noise in the same unit: one for each picture ``[B]``, or a map
                ``[B, H, W, 1]``.

        Returns:
            The estimate of the clean pictures, ``[B, H, W, C]`` float32.

        Errors:
            ValueError for a sigma of another shape.
        """
        batch, height, width, channels = x.shape
        level = layers.level_map(sigma, x) / 2
        pictures = (x + 1) / 2
        if self.out_channels == 1 and channels > 1:  # each channel is a grey picture
            pictures = jnp.moveaxis(pictures, -1, 1).reshape(-1, height, width, 1)
            level = jnp.repeat(level, channels, axis=0)
        inputs = pad_to_multiple(jnp.concatenate([pictures, level], axis=-1), self.multiple)
        clean = self.backbone(inputs)[:, :height, :width]
        if self.out_channels == 1 and channels > 1:
            clean = jnp.moveaxis(clean.reshape(batch, channels, height, width), 1, -1)
        return 2 * clean.astype(jnp.float32) - 1

    @nn.compact
    def backbone(self, x: Array) -> Array:
        """Picture in ``[0, 1]`` and level ``[B, H, W, C + 1]`` -> ``[B, H, W, C]``."""
        def conv(h, count, name):
            return self.conv3x3(h, count, name, use_bias=False)

        def blocks(h, name):
            for i in range(self.num_blocks):
                inner = nn.relu(conv(h, h.shape[-1], f"{name}_block_{i}_in"))
                h = h + conv(inner, h.shape[-1], f"{name}_block_{i}_out")
            return h

        h = conv(x.astype(self.dtype), self.widths[0], "head")
        skips = [h]
        for level, width in enumerate(self.widths[1:]):
            h = layers.space_to_depth(blocks(h, f"down_{level}"), 2)  # a 2 x 2 convolution of stride 2
            h = nn.Dense(width, use_bias=False, dtype=self.dtype, name=f"down_{level}")(h)
            skips.append(h)
        h = blocks(h, "body")
        for level, width in reversed(list(enumerate(self.widths[:-1]))):
            h = nn.Dense(4 * width, use_bias=False, dtype=self.dtype, name=f"up_{level}")(h + skips.pop())
            h = blocks(layers.depth_to_space(h, 2), f"up_{level}")
        return conv(h + skips.pop(), self.out_channels, "tail")
