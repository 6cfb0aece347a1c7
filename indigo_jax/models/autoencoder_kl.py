"""The autoencoder of latent diffusion (Rombach et al. 2022), as Stable Diffusion uses it."""
import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import Attention
from indigo_jax.typing import Array, Image

_LOG_VAR = (-30.0, 20.0)


class AutoencoderKL(layers.Network):
    """Variational autoencoder ``q(z | x) = N(mean, exp(log_var))``, ``x = D(z)``.

    At its defaults that of Stable Diffusion 1 and 2: 8 pixels per latent, 4 latent channels, 83,653,863 parameters.
    Its weights come through :func:`convert.diffusers_vae`. A call without ``method`` is ``decode(mean)``.

    GroupNorm and attention look at the whole picture. The attention of the last level takes memory that grows with
    the square of the number of latents: large pictures go through in tiles.

    Attributes:
        block_out_channels: width of each level; each but the last halves the sides.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        latent_channels: of ``z``.
        out_channels: of the pictures.
        num_groups: of every GroupNorm.
        scaling_factor: for diffusion, which works on ``scaling_factor z``; never applied here. 0.18215 is that of
            Stable Diffusion.
        convolution, dtype: see :class:`layers.Network`.

    Source: "High-resolution image synthesis with latent diffusion models", section 3.1.
    """
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    out_channels: int = 3
    num_groups: int = 32
    scaling_factor: float = 0.18215

    def setup(self):
        shared = self.block_out_channels, self.layers_per_block, self.num_groups
        self.encoder = KLEncoder(2 * self.latent_channels, *shared, **self.how)
        self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1), dtype=self.dtype)
        self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype)
        self.decoder = KLDecoder(self.out_channels, *shared, **self.how)

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def __call__(self, x: Image) -> Image:
        """``decode(mean)`` with ``mean, log_var = encode(x)``."""
        return self.decode(self.encode(x)[0])

    def encode(self, x: Image) -> tuple[Array, Array]:
        """Mean and log-variance of the latents of pictures.

        Args:
            x: ``[B, H, W, out_channels]`` in ``[-1, 1]``; H and W divisible by ``factor``: the caller pads.

        Returns:
            ``(mean, log_var)``, each ``[B, H / factor, W / factor, latent_channels]`` float32, not multiplied by
            ``scaling_factor``; ``log_var`` clipped to ``[-30, 20]``.

        Errors:
            ValueError for other sides or channels.
        """
        layers.check_pictures(x, multiple=self.factor, channels=self.out_channels)
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        mean, log_var = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_var, *_LOG_VAR)

    def decode(self, z: Array) -> Image:
        """Pictures of latents, of any size.

        Args:
            z: ``[B, h, w, latent_channels]``, already divided by ``scaling_factor``.

        Returns:
            ``[B, factor h, factor w, out_channels]`` float32, about ``[-1, 1]`` but not clipped.

        Errors:
            ValueError for other channels.
        """
        layers.check_latents(z, channels=self.latent_channels)
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)


class _KLHalf(layers.Network):
    """The encoder or the decoder; fields as for :class:`AutoencoderKL`."""
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    num_groups: int

    def block(self, h: Array, width: int, name: str) -> Array:
        """A residual block of ``width`` channels."""
        return layers.ResidualBlock(width, self.num_groups, name=name, **self.how)(h)

    def middle(self, h: Array) -> Array:
        """Block, attention, block."""
        h = self.block(h, h.shape[-1], "mid_block_0")
        h = Attention(self.num_groups, name="mid_attention", **self.how)(h)
        return self.block(h, h.shape[-1], "mid_block_1")

    def out(self, h: Array) -> Array:
        """Norm and convolution."""
        return self.conv3x3(nn.silu(self.group_norm(h, "norm_out")), self.out_channels, "conv_out")


class KLEncoder(_KLHalf):
    """Convolution, levels of residual blocks and a halving, block, attention, block, norm, convolution."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """``[B, H, W, C]`` -> ``[B, H / factor, W / factor, out_channels]``."""
        h = self.conv3x3(h, self.block_out_channels[0], "conv_in")
        for level, width in enumerate(self.block_out_channels):
            for i in range(self.layers_per_block):
                h = self.block(h, width, f"down_{level}_block_{i}")
            if level < len(self.block_out_channels) - 1:
                h = nn.Conv(width, (3, 3), strides=(2, 2), padding=((0, 1), (0, 1)), dtype=self.dtype,
                            name=f"down_{level}_downsample")(h)
        return self.out(self.middle(h))


class KLDecoder(_KLHalf):
    """Convolution, block, attention, block, levels of residual blocks and a doubling, norm, convolution.

    The levels are numbered in the order of the computation: ``up_0`` is that of the latents.
    """

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """``[B, h, w, latent_channels]`` -> ``[B, factor h, factor w, out_channels]``."""
        h = self.middle(self.conv3x3(h, self.block_out_channels[-1], "conv_in"))
        for place, width in enumerate(reversed(self.block_out_channels)):
            for i in range(self.layers_per_block + 1):
                h = self.block(h, width, f"up_{place}_block_{i}")
            if place < len(self.block_out_channels) - 1:
                h = self.conv3x3(layers.upsample_nearest(h), width, f"up_{place}_upsample")
        return self.out(h)
