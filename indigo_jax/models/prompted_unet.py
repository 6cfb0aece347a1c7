"""A UNet of latent diffusion that always sees one context: a prior, where the original makes pictures of texts."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models.latent_unet import LatentUNet
from indigo_jax.typing import Array


class PromptedUNet(nn.Module):
    """``LatentUNet(x, t, context)`` whose context is one of its parameters, usually the empty text's.

    It comes with the weights of Stable Diffusion: :mod:`convert.latent_prior`.

    Attributes:
        prompt_length, prompt_channels: of the context ``[prompt_length, prompt_channels]``.
        block_out_channels, has_attention, layers_per_block, num_heads, in_channels, out_channels, num_groups,
            convolution, dtype: as of :class:`LatentUNet`.
    """
    prompt_length: int = 77
    prompt_channels: int = 768
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    has_attention: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    num_heads: int | tuple[int, ...] = 8
    in_channels: int = 4
    out_channels: int = 4
    num_groups: int = 32
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """``x`` ``[B, h, w, in_channels]``, ``t`` ``[B]`` -> ``[B, h, w, out_channels]``; see :class:`LatentUNet`."""
        shared = {name: getattr(self, name) for name in (
            "block_out_channels", "has_attention", "layers_per_block", "num_heads", "in_channels", "out_channels",
            "num_groups", "convolution", "dtype")}
        shape = (self.prompt_length, self.prompt_channels)
        context = self.param("context", nn.initializers.zeros_init(), shape, jnp.float32)
        unet = LatentUNet(context_dim=self.prompt_channels, name="unet", **shared)
        return unet(x, t, jnp.broadcast_to(context, (x.shape[0], *shape)))
