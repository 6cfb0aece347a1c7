"""Resizing: two small matrices, one for the rows and one for the columns, so linear with an exact transpose."""
import functools
from typing import Callable, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.typing import Array


def _cubic(x):
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    inner = 1.5 * x ** 3 - 2.5 * x ** 2 + 1.0
    outer = -0.5 * x ** 3 + 2.5 * x ** 2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, inner, np.where(x <= 2.0, outer, 0.0))


def _linear(x):
    return np.maximum(1.0 - np.abs(x), 0.0)


_FILTERS = {"bicubic": (_cubic, 4.0), "bilinear": (_linear, 2.0)}  # with their widths
METHODS = (*_FILTERS, "area", "nearest")


def _filter_matrix(size_in: int, size_out: int, scale: float, method: str) -> np.ndarray:
    """MATLAB's ``imresize``: the filter stretched by ``1 / scale`` when shrinking, rows of sum 1, symmetric edges."""
    function, width = _FILTERS[method]
    stretch = min(scale, 1.0)
    width = width / stretch
    centre = (np.arange(size_out) + 0.5) / scale - 0.5
    left = np.floor(centre - width / 2.0).astype(np.int64)
    index = left[:, None] + np.arange(int(np.ceil(width)) + 2)
    weight = function(stretch * (centre[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.mod(index, 2 * size_in)
    index = np.where(index < size_in, index, 2 * size_in - 1 - index)
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], index), weight)
    return matrix


def _area_matrix(size_in: int, size_out: int, scale: float) -> np.ndarray:
    """Each output pixel is the mean of the input over its own footprint, cut at the edge of the image."""
    low = np.minimum(np.arange(size_out) / scale, size_in - 1.0 / max(scale, 1.0))[:, None]
    high = np.minimum((np.arange(size_out)[:, None] + 1) / scale, size_in)
    pixel = np.arange(size_in)
    matrix = np.maximum(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0.0)
    return matrix / matrix.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=64)
def _matrix(size_in: int, size_out: int, scale: float, method: str) -> np.ndarray:
    if method == "nearest":
        source = np.floor((np.arange(size_out) + 0.5) / scale + 1e-9).astype(np.int64)
        matrix = np.eye(size_in)[np.clip(source, 0, size_in - 1)]
    elif method == "area":
        matrix = _area_matrix(size_in, size_out, scale)
    else:
        matrix = _filter_matrix(size_in, size_out, scale, method)
    return matrix.astype(np.float32)


def _multiply(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """``y = R x C^T``, the smaller intermediate first."""
    highest = jax.lax.Precision.HIGHEST
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    steps = [("hi,biwc->bhwc", rows), ("wj,bhjc->bhwc", columns)]
    rows_first = rows.shape[0] * columns.shape[1] <= rows.shape[1] * columns.shape[0]
    for product, matrix in steps if rows_first else reversed(steps):
        x = jnp.einsum(product, matrix, x, precision=highest)
    return x


class _Separable(base.Applied):
    """``y = R x C^T``; a class says by ``_matrices(height, width)`` what R and C are."""

    _matrices: ClassVar[Callable]
    _shape_before: ClassVar[Callable]

    def _apply(self, x: Array) -> Array:
        return _multiply(x, *self._matrices(*x.shape[1:3]))

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y`` for images of ``shape`` (height, width); default: the factor times (or into) the size of ``y``."""
        shape = shape or self._shape_before(*y.shape[1:3])
        rows, columns = self._matrices(*shape)
        if (rows.shape[0], columns.shape[0]) != y.shape[1:3]:
            raise ValueError(f"adjoint: images of shape {tuple(shape)} give {(rows.shape[0], columns.shape[0])}, "
                             f"got a measurement of {y.shape[1:3]}")
        return _multiply(y, rows.T, columns.T)


@base.operator(linear=True, shape_preserving=False)
class Resize(_Separable):
    """See :func:`resize`."""
    height: int = base.static()
    width: int = base.static()
    method: str = base.static(default="bicubic")

    def _matrices(self, height: int, width: int):
        return (_matrix(height, self.height, self.height / height, self.method),
                _matrix(width, self.width, self.width / width, self.method))

    def _shape_before(self, *_):
        raise ValueError("resize: adjoint needs shape=(height, width) of the images that were resized")


@base.operator(linear=True, shape_preserving=False)
class Rescale(_Separable):
    """See :func:`downsample` and :func:`upsample`."""
    factor: int = base.static()
    down: bool = base.static()
    method: str = base.static(default="bicubic")

    def _matrices(self, *sizes: int):
        scale = 1.0 / self.factor if self.down else float(self.factor)
        out = [-(-size // self.factor) if self.down else size * self.factor for size in sizes]
        return [_matrix(size, new, scale, self.method) for size, new in zip(sizes, out)]

    def _shape_before(self, *sizes: int):
        return [size * self.factor if self.down else size // self.factor for size in sizes]


@base.operator(linear=True)
class SuperResolution(base.Applied):
    """See :func:`super_resolution`."""
    factor: int = base.static()
    method: str = base.static(default="bicubic")

    def shrink(self, x: Array) -> Array:
        """The low-resolution image ``[B, ceil(H / factor), ceil(W / factor), C]``."""
        return Rescale(self.factor, True, self.method)(x)

    def _growers(self, *sizes: int):
        return [_matrix(-(-size // self.factor), size, float(self.factor), "bicubic") for size in sizes]

    def grow(self, low: Array, shape: tuple[int, ...]) -> Array:
        """The low-resolution image brought back to ``shape`` (height, width)."""
        return _multiply(low, *self._growers(*shape))

    def _apply(self, x: Array) -> Array:
        return self.grow(self.shrink(x), x.shape[1:3])

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y``: images of the same shape as ``y``."""
        del shape
        rows, columns = self._growers(*y.shape[1:3])
        return Rescale(self.factor, True, self.method).adjoint(_multiply(y, rows.T, columns.T), shape=y.shape[1:3])


def resize(height: int, width: int, *, method: str = "bicubic") -> Resize:
    """Resize to ``[B, height, width, C]``: ``y = R x C^T``.

    Args:
        method: "bicubic" equals MATLAB's ``imresize`` (a = -0.5, widened against aliasing when shrinking, symmetric
            edges), "bilinear" the same with a triangle; "area" is the mean over each output pixel's footprint;
            "nearest" the input pixel under the output pixel's centre.

    Nothing is clipped: bicubic may leave ``[-1, 1]``.

    >>> resize(3, 4)(jnp.ones((1, 9, 8, 3))).shape
    (1, 3, 4, 3)
    """
    return Resize(base.check_whole(height, "height"), base.check_whole(width, "width"),
                  base.check_choice(method, "method", METHODS))


def downsample(factor: int, *, method: str = "bicubic") -> Rescale:
    """Shrink by a whole factor, ``H -> ceil(H / factor)``, as MATLAB's ``imresize(x, 1 / factor)``: :func:`resize`."""
    return Rescale(base.check_whole(factor, "factor"), True, base.check_choice(method, "method", METHODS))


def average_pool(factor: int) -> Rescale:
    """Mean over blocks of ``factor x factor`` pixels, the super-resolution operator of BIRD and DDNM:
    :func:`downsample` by area. Where the factor divides the sides, its pseudo-inverse repeats pixels.

    >>> average_pool(2)(jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
    [1.5]
    """
    return downsample(factor, method="area")


def upsample(factor: int, *, method: str = "bicubic") -> Rescale:
    """Enlarge by a whole factor, ``H -> H factor``; see :func:`resize`."""
    return Rescale(base.check_whole(factor, "factor"), False, base.check_choice(method, "method", METHODS))


def super_resolution(factor: int, *, method: str = "bicubic") -> SuperResolution:
    """Shrink by ``factor`` with ``method`` and enlarge bicubically to the original size: what InDI starts from.

    Sizes that the factor does not divide are rounded up in the middle; the enlarged image then is the first H rows and
    W columns of ``upsample(factor)``, so that pixels stay where they were.

    >>> super_resolution(4)(jnp.ones((1, 9, 8, 3))).shape
    (1, 9, 8, 3)
    """
    return SuperResolution(base.check_whole(factor, "factor"), base.check_choice(method, "method", METHODS))
