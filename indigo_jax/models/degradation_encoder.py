"""The degradation encoder of INDIGO+: what has been done to a picture, as a vector."""
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.typing import Array


class DegradationEncoder(layers.Network):
    """``F(y)``: 3x3 convolutions, the mean over the picture, dense layers: one embedding per picture of any size.

    4,430,976 parameters at its defaults. Its result is the condition of :class:`models.WaveletINN`.

    Attributes:
        channels: of the residual blocks; the last convolution and the dense layers have four times as many.
        num_blocks: residual blocks ``h + conv(leaky(conv(h)))``.
        embedding: length of the result.
        convolution, dtype: see :class:`layers.Network`; the mean is float32.

    Source: the student encoder of KDSR (Xia et al. 2023), as INDIGO+ uses it. Which encoder LatentINDIGO has is not
    known to us: this one is our choice.
    """
    channels: int = 128
    num_blocks: int = 6
    embedding: int = 128

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

        h = leaky(self.conv3x3(y.astype(self.dtype), self.channels, "conv_in"))
        for i in range(self.num_blocks):
            inner = leaky(self.conv3x3(h, self.channels, f"block_{i}_conv1"))
            h = h + self.conv3x3(inner, self.channels, f"block_{i}_conv2")
        for i, factor in enumerate((2, 2, 4)):
            h = leaky(self.conv3x3(h, factor * self.channels, f"conv_{i}"))
        features = h.astype(jnp.float32).mean((1, 2))
        for i in range(2):
            features = leaky(nn.Dense(4 * self.channels, name=f"dense_{i}")(features))
        embedding = leaky(nn.Dense(self.embedding, name="dense_out")(features))
        return (embedding, features) if with_features else embedding
