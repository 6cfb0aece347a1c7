"""What guides INDIGO: the invertible network together with the encoder that makes its condition."""
from typing import Any, Sequence

import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models.degradation_encoder import DegradationEncoder
from indigo_jax.models.wavelet_inn import WaveletINN
from indigo_jax.typing import Array


class GuidanceINN(nn.Module):
    """A :class:`WaveletINN` ``g``, a :class:`DegradationEncoder` ``F`` and the vector that stands for no condition.

    ``module.apply(params, y, method="embed")``, then ``method="forward"`` and ``method="inverse"`` as the network has
    them; calling the module is ``g(x, F(y))``. Trained together, saved together.

    Attributes:
        channels, levels, lifting_steps, width, cond_dim, num_blocks, cond_width, detail_slicing, split, undecimated,
            offset, spectral_bound (0 for none), start, reversible, convolution, dtype: of the network.
        encoder_channels, encoder_blocks: of the encoder; it looks at pixels, also where the network takes latents.

    Source: INDIGO+ (You and Dragotti 2024), whose encoder was trained before and stays as it is. How the papers trained
    their networks is not known to us.
    """
    channels: int = 3
    levels: int = 2
    lifting_steps: int = 4
    width: int = 32
    cond_dim: int = 128
    num_blocks: int = 2
    cond_width: int = 64
    detail_slicing: str = "disjoint"
    split: str = "lazy"
    undecimated: bool = False
    offset: float = 0.5
    spectral_bound: float = 0.0
    start: str = "identity"
    reversible: bool = False
    convolution: str = "plain"
    encoder_channels: int = 128
    encoder_blocks: int = 6
    dtype: Any = jnp.float32

    def setup(self):
        shared = ("channels", "levels", "lifting_steps", "width", "cond_dim", "num_blocks", "cond_width",
                  "detail_slicing", "split", "undecimated", "offset", "start", "reversible", "convolution", "dtype")
        self.inn = WaveletINN(null_embedding=True, spectral_bound=self.spectral_bound or None,
                              **{name: getattr(self, name) for name in shared})
        self.encoder = DegradationEncoder(self.encoder_channels, self.encoder_blocks, self.cond_dim)

    def __call__(self, x: Array, y: Array) -> tuple[Array, list[list[Array]]]:
        """``(coarse, details)`` of pictures ``x`` for the degradation of ``y`` ``[B, h, w, 3]``, both in [0, 1]."""
        return self.inn.forward(x, self.embed(y))

    def embed(self, y: Array, *, null: Array | None = None) -> Array:
        """``F(y)`` ``[B, cond_dim]``; the null embedding for the pictures that ``null`` ``[B]`` names.

        ``y`` ``[B, h, w, 3]`` in [0, 1], at its own size.
        """
        embedding = self.encoder(y)
        return embedding if null is None else jnp.where(null[:, None], self.inn.null_condition, embedding)

    def forward(self, x: Array, cond: Array | None = None) -> tuple[Array, list[list[Array]]]:
        """:meth:`WaveletINN.forward`."""
        return self.inn.forward(x, cond)

    def inverse(self, coarse: Array, details: Sequence[Any], cond: Array | None = None) -> Array:
        """:meth:`WaveletINN.inverse`."""
        return self.inn.inverse(coarse, details, cond)
