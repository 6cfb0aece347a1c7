"""A UNet of latent diffusion that always sees one context: a prior, where the original makes pictures of texts."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from indigo_jax.models.latent_unet import LatentUNet
from indigo_jax.typing import Array


class PromptedUNet(nn.Module):
    """``LatentUNet(x, t, context)`` whose context is one of its parameters, usually the empty text's.

    It comes with the weights of Stable Diffusion: :mod:`convert.latent_prior`. With ``prompt_scale`` w above 1 the
    context is that of a text, the empty one's is a parameter, too, and the result is classifier-free guidance,
    ``f(empty) + w (f(context) - f(empty))``: two calls in one, of twice the batch.

    Attributes:
        prompt_length, prompt_channels: of the context ``[prompt_length, prompt_channels]``.
        prompt_scale: w of the guidance; 1: none.
        block_out_channels, has_attention, layers_per_block, num_heads, in_channels, out_channels, num_groups,
            transformer_depth, convolution, dtype: as of :class:`LatentUNet`.

    Source: Ho and Salimans, Classifier-free diffusion guidance (arXiv 2207.12598), Eq. 6, w there being w - 1 here.
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
    transformer_depth: int | tuple[int, ...] = 1
    prompt_scale: float = 1.0
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """``x`` ``[B, h, w, in_channels]``, ``t`` ``[B]`` -> ``[B, h, w, out_channels]``; see :class:`LatentUNet`."""
        shared = {name: getattr(self, name) for name in (
            "block_out_channels", "has_attention", "layers_per_block", "num_heads", "in_channels", "out_channels",
            "num_groups", "transformer_depth", "convolution", "dtype")}
        unet = LatentUNet(context_dim=self.prompt_channels, name="unet", **shared)
        context = self._context("context", len(x))
        if self.prompt_scale == 1:
            return unet(x, t, context)
        both = jnp.concatenate([self._context("empty_context", len(x)), context])
        without, with_text = jnp.split(unet(jnp.concatenate([x, x]), jnp.concatenate([t, t]), both), 2)
        return without + self.prompt_scale * (with_text - without)

    def _context(self, name, batch):
        shape = (self.prompt_length, self.prompt_channels)
        context = self.param(name, nn.initializers.zeros_init(), shape, jnp.float32)
        return jnp.broadcast_to(context, (batch, *shape))
