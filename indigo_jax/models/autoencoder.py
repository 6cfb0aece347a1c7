"""A small residual autoencoder, by default with 8 pixels per latent: the network of TAESD and TAEF2."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import group_norm
from indigo_jax.typing import Array, Image


class TinyAutoencoder(nn.Module):
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
        convolution: ``"plain"``, or ``"flipped"`` for fast input gradients in loops on a CPU.
        dtype: of the computation; parameters, normalisation and results stay float32.

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
    convolution: str = "plain"
    dtype: Any = jnp.float32

    def setup(self):
        widths = (self.channels,) * (self.levels + 1) if isinstance(self.channels, int) else self.channels
        if len(widths) != self.levels + 1:
            raise ValueError(f"{self.levels} levels of halving need {self.levels + 1} channels, that of the pictures "
                             f"first; got {widths}")
        shared = {name: getattr(self, name) for name in ("num_blocks", "pool_channels", "pool_groups", "convolution",
                                                         "dtype")}
        self.encoder = TinyEncoder(out_channels=self.latent_channels, channels=widths, **shared)
        self.decoder = TinyDecoder(out_channels=self.out_channels * self.patch_size**2, channels=widths, **shared)

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
        check_pictures(x, multiple=self.factor, channels=self.out_channels)
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
        check_latents(z, channels=self.latent_channels)
        x = layers.depth_to_space(self.decoder(z.astype(self.dtype)), self.patch_size)
        return 2 * x.astype(jnp.float32) - 1


class TinyEncoder(nn.Module):
    """Convolution, block, then per level a convolution of stride 2 and blocks, then a convolution."""
    out_channels: int
    channels: tuple[int, ...]
    num_blocks: int
    pool_channels: int
    pool_groups: int
    convolution: str
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """``[B, H, W, C]`` in ``[0, 1]`` -> ``[B, H / 2^levels, W / 2^levels, out_channels]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        h = layers.conv3x3(self.channels[0], name="conv_in", **conv)(h)
        for level, width in enumerate(self.channels):
            if level:
                h = _conv_without_bias(width, strides=2, name=f"down_{level}", **conv)(h)
            pool = self.pool_channels if level == len(self.channels) - 1 else 0
            for i in range(self.num_blocks if level else 1):
                h = TinyBlock(width, pool, self.pool_groups, name=f"block_{level}_{i}", **conv)(h)
        return layers.conv3x3(self.out_channels, name="conv_out", **conv)(h)


class TinyDecoder(nn.Module):
    """``3 tanh(z / 3)``, convolution, ReLU, then per level blocks, doubling and a convolution, then block and
    convolution."""
    out_channels: int
    channels: tuple[int, ...]
    num_blocks: int
    pool_channels: int
    pool_groups: int
    convolution: str
    dtype: Any

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """``[B, h, w, latent_channels]`` -> ``[B, 2^levels h, 2^levels w, out_channels]``, about ``[0, 1]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        last = len(self.channels) - 1
        h = nn.relu(layers.conv3x3(self.channels[last], name="conv_in", **conv)(3 * jnp.tanh(z / 3)))
        for level in range(last, -1, -1):
            pool = self.pool_channels if level == last else 0
            for i in range(self.num_blocks if level else 1):
                h = TinyBlock(self.channels[level], pool, self.pool_groups, name=f"block_{level}_{i}", **conv)(h)
            if level:
                h = layers.upsample_nearest(h)
                h = _conv_without_bias(self.channels[level - 1], name=f"up_{level}", **conv)(h)
        return layers.conv3x3(self.out_channels, name="conv_out", **conv)(h)


class TinyBlock(nn.Module):
    """``relu(x + conv(relu(conv(relu(conv(x))))))``; with a pool branch, of ``x + W2 relu(norm(W1 x))`` for ``x``."""
    features: int
    pool_channels: int = 0
    pool_groups: int = 4
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, features] -> [B, H, W, features]``."""
        conv = dict(dtype=self.dtype, convolution=self.convolution)
        if self.pool_channels:
            one = dict(kernel_size=(1, 1), use_bias=False, dtype=self.dtype)
            h = nn.Conv(self.pool_channels, name="pool_in", **one)(x)
            h = nn.relu(group_norm(self.pool_groups, self.dtype, "pool_norm", epsilon=1e-5)(h))
            x = x + nn.Conv(self.features, name="pool_out", **one)(h)
        h = nn.relu(layers.conv3x3(self.features, name="conv_0", **conv)(x))
        h = nn.relu(layers.conv3x3(self.features, name="conv_1", **conv)(h))
        return nn.relu(x + layers.conv3x3(self.features, name="conv_2", **conv)(h))


def check_pictures(x: Array, *, multiple: int, channels: int) -> None:
    """ValueError unless ``x`` is ``[B, H, W, channels]`` with H and W divisible by ``multiple`` and not 0."""
    if x.ndim != 4 or x.shape[-1] != channels or any(side % multiple or not side for side in x.shape[1:3]):
        raise ValueError(f"pictures [B, H, W, {channels}] with sides divisible by {multiple} are needed "
                         f"(pad them first), got {x.shape}")


def check_latents(z: Array, *, channels: int) -> None:
    """ValueError unless ``z`` is ``[B, h, w, channels]`` and not empty."""
    if z.ndim != 4 or z.shape[-1] != channels or 0 in z.shape[1:3]:
        raise ValueError(f"latents [B, h, w, {channels}] are needed, got {z.shape}")


def _conv_without_bias(features, *, dtype, convolution, name, strides=1):
    return nn.Conv(features, (3, 3), strides=(strides, strides), padding=((1, 1), (1, 1)), use_bias=False,
                   dtype=dtype, conv_general_dilated=layers.CONVOLUTIONS[convolution], name=name)
