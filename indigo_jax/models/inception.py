"""InceptionV3 as the Frechet inception distance uses it: features of pictures, batch normalisation folded in."""
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.typing import Array

_A, _C = ("Mixed_5b", "Mixed_5c", "Mixed_5d"), {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}


class InceptionV3(nn.Module):
    """Features ``[B, 2048]`` of pictures: the mean over the last map of activations.

    Every layer is ``relu(conv(x) + b)``; where it was trained with batch normalisation, that is folded into kernel and
    ``b``. Averages over 3 x 3 count no pixel beyond the edge, and the last block takes the maximum in its place.

    Attributes:
        divisor: of all widths: 1 is the network as released, of 21.8 M parameters without its classes.

    Source: Szegedy et al., "Rethinking the inception architecture for computer vision", CVPR 2016; the variant of the
    2015 weights that Heusel et al. (NeurIPS 2017) measured with.
    """

    divisor: int = 1
    smallest: ClassVar[int] = 75  # pixels of a side

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x`` float ``[B, H, W, 3]``, at least 75 x 75, as :func:`metrics.inception_input` makes it.

        Errors:
            ValueError: of another shape, or smaller.
        """
        if x.ndim != 4 or x.shape[3] != 3 or min(x.shape[1:3]) < self.smallest:
            raise ValueError(f"InceptionV3 takes pictures [B, H, W, 3] of at least {self.smallest} x {self.smallest} "
                             f"pixels, got {tuple(x.shape)}")
        x = x.astype(jnp.float32)
        x = self._chain(x, "", ("Conv2d_1a_3x3", 32, 3, 2, "VALID"), ("Conv2d_2a_3x3", 32, 3, 1, "VALID"),
                        ("Conv2d_2b_3x3", 64, 3))
        x = _shrink(x)
        x = self._chain(x, "", ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3, 1, "VALID"))
        x = _shrink(x)
        for name in _A:
            x = self._block_a(x, f"{name}_", 32 if name == _A[0] else 64)
        x = self._block_b(x, "Mixed_6a_")
        for name, width in _C.items():
            x = self._block_c(x, f"{name}_", width)
        x = self._block_d(x, "Mixed_7a_")
        x = self._block_e(x, "Mixed_7b_", _average)
        x = self._block_e(x, "Mixed_7c_", lambda x: nn.max_pool(x, (3, 3), (1, 1), "SAME"))
        return jnp.mean(x, axis=(1, 2))

    def _chain(self, x, prefix, *layers):
        """One convolution after the other: (name, width, side or sides[, stride[, padding]])."""
        for name, width, side, *rest in layers:
            stride, padding = (*rest, *(1, "SAME")[len(rest):])
            x = nn.relu(nn.Conv(width // self.divisor, (side, side) if isinstance(side, int) else side,
                                (stride, stride), padding, precision=jax.lax.Precision.HIGHEST,
                                name=prefix + name)(x))
        return x

    def _block_a(self, x, name, pool):
        return jnp.concatenate([
            self._chain(x, name, ("branch1x1", 64, 1)),
            self._chain(x, name, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            self._chain(x, name, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
            self._chain(_average(x), name, ("branch_pool", pool, 1))], axis=-1)

    def _block_b(self, x, name):
        return jnp.concatenate([
            self._chain(x, name, ("branch3x3", 384, 3, 2, "VALID")),
            self._chain(x, name, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3),
                        ("branch3x3dbl_3", 96, 3, 2, "VALID")),
            _shrink(x)], axis=-1)

    def _block_c(self, x, name, width):
        return jnp.concatenate([
            self._chain(x, name, ("branch1x1", 192, 1)),
            self._chain(x, name, ("branch7x7_1", width, 1), ("branch7x7_2", width, (1, 7)),
                        ("branch7x7_3", 192, (7, 1))),
            self._chain(x, name, ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, (7, 1)),
                        ("branch7x7dbl_3", width, (1, 7)), ("branch7x7dbl_4", width, (7, 1)),
                        ("branch7x7dbl_5", 192, (1, 7))),
            self._chain(_average(x), name, ("branch_pool", 192, 1))], axis=-1)

    def _block_d(self, x, name):
        return jnp.concatenate([
            self._chain(x, name, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2, "VALID")),
            self._chain(x, name, ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)),
                        ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3, 2, "VALID")),
            _shrink(x)], axis=-1)

    def _block_e(self, x, name, pool):
        three = self._chain(x, name, ("branch3x3_1", 384, 1))
        double = self._chain(x, name, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        return jnp.concatenate([
            self._chain(x, name, ("branch1x1", 320, 1)),
            *(self._chain(three, name, (f"branch3x3_2{side}", 384, sides)) for side, sides in _HALVES),
            *(self._chain(double, name, (f"branch3x3dbl_3{side}", 384, sides)) for side, sides in _HALVES),
            self._chain(pool(x), name, ("branch_pool", 192, 1))], axis=-1)


_HALVES = (("a", (1, 3)), ("b", (3, 1)))


def _shrink(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
