"""A small residual autoencoder, by default with 8 pixels per latent: the network of TAESD and TAEF2."""
import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.typing import Array, Image


class TinyAutoencoder(layers.Network):
    """Deterministic autoencoder ``z = E(x)``, ``x = D(z)``: 3 x 3 convolutions, ReLU and residual blocks.

    At its defaults TAEF2: 8 pixels per latent, 32 latent channels, 2,677,027 parameters. Its weights, and those of its
    relatives without ``pool_channels`` (TAESD), come through :func:`convert.taef2`. A call without ``method``
    is ``decode(encode(x))``.

    Only the ``pool`` branches take statistics over the whole picture, so with ``pool_channels=0`` what a latent
    becomes depends on its receptive field alone, and tiles agree with the picture away from their borders.

    One width for all levels spends most of the work on the largest one. For little work, widths that grow as the sides
    shrink and pixels folded at the door: ``TinyAutoencoder(8, (48, 80, 96), levels=2, num_blocks=2, pool_channels=0,
    patch_size=2)`` has 8 pixels per latent, too.

    Attributes:
        latent_channels: of ``z``.
        channels: width of every level, or one width per level, ``levels + 1`` of them, that of the pictures first.
        levels: how often the sides are halved.
        num_blocks: residual blocks of each level but the first, which has one.
        pool_channels: width of the branch with GroupNorm in the blocks of the last level; 0: none.
        pool_groups: of that GroupNorm.
        out_channels: of the pictures.
        patch_size: side of the pixel blocks folded into channels at the door (1: none), and unfolded at the end.
        scaling_factor: for diffusion, which works on ``scaling_factor z``; never applied here.
        convolution, dtype: see :class:`layers.Network`.

    Source: github.com/madebyollin/taesd.
    Differs from the reference in: pictures in ``[-1, 1]`` at the door, ``[0, 1]`` inside as there; widths of their own
    for the levels and folded pixels are additions.
    """
    latent_channels: int = 32
    channels: int | tuple[int, ...] = 64
    levels: int = 3
    num_blocks: int = 3
    pool_channels: int = 256
    pool_groups: int = 4
    out_channels: int = 3
    patch_size: int = 1
    scaling_factor: float = 1.0

    def setup(self):
        widths = (self.channels,) * (self.levels + 1) if isinstance(self.channels, int) else self.channels
        if len(widths) != self.levels + 1:
            raise ValueError(f"{self.levels} levels of halving need {self.levels + 1} channels, that of the pictures "
                             f"first; got {widths}")
        shared = widths, self.num_blocks, self.pool_channels, self.pool_groups
        self.encoder = TinyEncoder(self.latent_channels, *shared, **self.how)
        self.decoder = TinyDecoder(self.out_channels * self.patch_size**2, *shared, **self.how)

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return self.patch_size * 2**self.levels

    def __call__(self, x: Image) -> Image:
        """``decode(encode(x))``."""
        return self.decode(self.encode(x))

    def encode(self, x: Image) -> Array:
        """Latents of pictures.

        Args:
            x: ``[B, H, W, out_channels]`` in ``[-1, 1]``; H and W divisible by ``factor``: the caller pads.

        Returns:
            ``[B, H / factor, W / factor, latent_channels]`` float32; with TAEF2's weights of a standard deviation
            near 0.85.

        Errors:
            ValueError for other sides or channels.
        """
        layers.check_pictures(x, multiple=self.factor, channels=self.out_channels)
        h = layers.space_to_depth((x.astype(self.dtype) + 1) / 2, self.patch_size)
        return self.encoder(h).astype(jnp.float32)

    def decode(self, z: Array) -> Image:
        """Pictures of latents, of any size.

        Args:
            z: ``[B, h, w, latent_channels]``; squeezed into ``(-3, 3)`` first, as ``3 tanh(z / 3)``.

        Returns:
            ``[B, factor h, factor w, out_channels]`` float32, about ``[-1, 1]`` but not clipped.

        Errors:
            ValueError for other channels.
        """
        layers.check_latents(z, channels=self.latent_channels)
        x = layers.depth_to_space(self.decoder(z.astype(self.dtype)), self.patch_size)
        return 2 * x.astype(jnp.float32) - 1


class _TinyHalf(layers.Network):
    """The encoder or the decoder; fields as for :class:`TinyAutoencoder`, ``channels`` of each level."""
    out_channels: int
    channels: tuple[int, ...]
    num_blocks: int
    pool_channels: int
    pool_groups: int

    def blocks(self, h: Array, level: int) -> Array:
        """The residual blocks of a level."""
        pool = self.pool_channels if level == len(self.channels) - 1 else 0
        for i in range(self.num_blocks if level else 1):
            h = TinyBlock(self.channels[level], pool, self.pool_groups, name=f"block_{level}_{i}", **self.how)(h)
        return h


class TinyEncoder(_TinyHalf):
    """Convolution, block, then per level a convolution of stride 2 and blocks, then a convolution."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """``[B, H, W, C]`` in ``[0, 1]`` -> ``[B, H / 2^levels, W / 2^levels, out_channels]``."""
        h = self.conv3x3(h, self.channels[0], "conv_in")
        for level, width in enumerate(self.channels):
            if level:
                h = self.conv3x3(h, width, f"down_{level}", strides=2, use_bias=False)
            h = self.blocks(h, level)
        return self.conv3x3(h, self.out_channels, "conv_out")


class TinyDecoder(_TinyHalf):
    """``3 tanh(z / 3)``, convolution, ReLU, then per level blocks, doubling and a convolution, then block and
    convolution."""

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """``[B, h, w, latent_channels]`` -> ``[B, 2^levels h, 2^levels w, out_channels]``, about ``[0, 1]``."""
        h = nn.relu(self.conv3x3(3 * jnp.tanh(z / 3), self.channels[-1], "conv_in"))
        for level in reversed(range(len(self.channels))):
            h = self.blocks(h, level)
            if level:
                h = layers.upsample_nearest(h)
                h = self.conv3x3(h, self.channels[level - 1], f"up_{level}", use_bias=False)
        return self.conv3x3(h, self.out_channels, "conv_out")


class TinyBlock(layers.Network):
    """``relu(x + conv(relu(conv(relu(conv(x))))))``; with a pool branch, of ``x + W2 relu(norm(W1 x))`` for ``x``."""
    features: int
    pool_channels: int = 0
    num_groups: int = 4

    epsilon = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, features] -> [B, H, W, features]``."""
        if self.pool_channels:
            one = dict(kernel_size=(1, 1), use_bias=False, dtype=self.dtype)
            h = nn.Conv(self.pool_channels, name="pool_in", **one)(x)
            h = nn.relu(self.group_norm(h, "pool_norm"))
            x = x + nn.Conv(self.features, name="pool_out", **one)(h)
        h = nn.relu(self.conv3x3(x, self.features, "conv_0"))
        h = nn.relu(self.conv3x3(h, self.features, "conv_1"))
        return nn.relu(x + self.conv3x3(h, self.features, "conv_2"))
