"""The degradation encoder of INDIGO+: what has been done to a picture, as a vector."""
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.typing import Array


class DegradationEncoder(nn.Module):
    """``F(y)``: 3x3 convolutions, the mean over the picture, dense layers: one embedding per picture of any size.

    4,430,976 parameters at its defaults. Its result is the condition of :class:`models.WaveletINN`.

    Attributes:
        channels: of the residual blocks; the last convolution and the dense layers have four times as many.
        num_blocks: residual blocks ``h + conv(leaky(conv(h)))``.
        embedding: length of the result.
        convolution: ``"plain"``, or ``"flipped"`` for fast input gradients in loops on a CPU.
        dtype: of the computation; parameters, mean and result stay float32.

    Source: the student encoder of KDSR (Xia et al. 2023), as INDIGO+ uses it. Which encoder LatentINDIGO has is not
    known to us: this one is our choice.
    """
    channels: int = 128
    num_blocks: int = 6
    embedding: int = 128
    convolution: str = "plain"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Array, *, with_features: bool = False) -> Array | tuple[Array, Array]:
        """Embed.

        Args:
            y: degraded pictures ``[B, H, W, 3]`` in [0, 1], at their own size.
            with_features: also give the vector before the last layer.

        Returns:
            ``[B, embedding]`` float32; with ``with_features`` a pair, the second ``[B, 4 channels]``.

        Errors:
            ValueError for anything but pictures of three channels and at least one pixel.
        """
        if y.ndim != 4 or y.shape[-1] != 3 or 0 in y.shape[1:3]:
            raise ValueError(f"pictures [B, H, W, 3] are needed, got {y.shape}")

        def leaky(x):
            return nn.leaky_relu(x, 0.1)

        def conv(features, name):
            return layers.conv3x3(features, dtype=self.dtype, convolution=self.convolution, name=name)

        h = leaky(conv(self.channels, "conv_in")(y.astype(self.dtype)))
        for i in range(self.num_blocks):
            h = h + conv(self.channels, f"block_{i}_conv2")(leaky(conv(self.channels, f"block_{i}_conv1")(h)))
        for i, factor in enumerate((2, 2, 4)):
            h = leaky(conv(factor * self.channels, f"conv_{i}")(h))
        features = h.astype(jnp.float32).mean((1, 2))
        for i in range(2):
            features = leaky(nn.Dense(4 * self.channels, name=f"dense_{i}")(features))
        embedding = leaky(nn.Dense(self.embedding, name="dense_out")(features))
        return (embedding, features) if with_features else embedding
