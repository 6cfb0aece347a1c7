"""A denoiser that is told the noise level and takes a picture of any size: the network of the prior of photographs."""
import functools

import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.models.restoration_unet import pad_to_multiple
from indigo_jax.typing import Array


class DenoisingUNet(layers.Network):
    """``D(x + sigma n, sigma) ~ E[x | x + sigma n]``: residual UNet of convolutions and rectifiers, nothing else.

    No bias and no normalisation: ``D(a x, a sigma) = a D(x, sigma)`` for a > 0, so one network serves all levels, and
    what a pixel becomes depends on its neighbourhood alone. A tile with a margin of :attr:`reach` pixels therefore
    gives what the whole picture gives. The last convolution starts at zero: untrained, the network returns its input.

    Pictures of any size: padded by reflection below and to the right, up to a multiple of :attr:`multiple`, and cut.

    Attributes:
        width: channels of the first level.
        multipliers: channels of each level, in units of ``width``.
        num_res_blocks: residual blocks per level, on the way down and again on the way up (twice as many below).
        out_channels: channels of the picture.
        patch_size: side of the pixel blocks that are folded into channels at the door (1: none).
        convolution, dtype: see :class:`layers.Network`.

    Source: DRUNet (Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021,
    arXiv 2008.13751) for the bias-free residual UNet with a map of the noise level, at a tenth of its size;
    FFDNet (Zhang et al., TIP 2018, arXiv 1710.04026) for the folded pixels. The sizes are ours.
    """
    width: int = 64
    multipliers: tuple[float, ...] = (1, 2, 3)
    num_res_blocks: int = 2
    out_channels: int = 3
    patch_size: int = 2

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this many pixels, and tiles must begin at one."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)

    @property
    def reach(self) -> int:
        """How far, in pixels, an input pixel can change the output; a multiple of :attr:`multiple`."""
        scales = [self.patch_size * 2**level for level in range(len(self.multipliers))]
        convolutions = 4 * self.num_res_blocks  # down and up, two in each block; below, twice the blocks
        pixels = sum(convolutions * scale for scale in scales) + 2 * self.patch_size + sum(2 * s for s in scales[1:])
        return -(-pixels // self.multiple) * self.multiple

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
        level = layers.level_map(sigma, x)
        inputs = pad_to_multiple(jnp.concatenate([x, level], axis=-1), self.multiple)
        residual = self.backbone(inputs)[:, :x.shape[1], :x.shape[2]]
        return x + residual.astype(jnp.float32)

    @nn.compact
    def backbone(self, x: Array) -> Array:
        """Minus the noise: picture and level ``[B, H, W, C + 1]`` -> ``[B, H, W, C]``."""
        channels = [int(round(self.width * m)) for m in self.multipliers]

        conv3x3 = functools.partial(self.conv3x3, use_bias=False)

        def blocks(h, name, repeats):
            for i in range(repeats):
                inner = nn.relu(conv3x3(h, h.shape[-1], f"{name}_block{i}_in"))
                h = h + conv3x3(inner, h.shape[-1], f"{name}_block{i}_out", zero_init=True)
            return h

        h = conv3x3(layers.space_to_depth(x, self.patch_size).astype(self.dtype), channels[0], "conv_in")
        first, skips = h, []
        for level, count in enumerate(channels[:-1]):
            h = blocks(h, f"down{level}", self.num_res_blocks)
            skips.append(h)
            h = layers.space_to_depth(h, 2)  # a 2 x 2 convolution of stride 2
            h = nn.Dense(channels[level + 1], use_bias=False, dtype=self.dtype, name=f"down{level}")(h)
        h = blocks(h, "middle", 2 * self.num_res_blocks)
        for level, count in reversed(list(enumerate(channels[:-1]))):
            h = nn.Dense(4 * count, use_bias=False, dtype=self.dtype, name=f"up{level}")(h)
            h = layers.depth_to_space(h, 2) + skips.pop()
            h = blocks(h, f"up{level}", self.num_res_blocks)
        h = conv3x3(h + first, self.out_channels * self.patch_size**2, "conv_out", zero_init=True)
        return layers.depth_to_space(h, self.patch_size)
