"""Resizing: two small matrices, one for the rows and one for the columns, so linear with an exact transpose."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.typing import Array, Key


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


def _apply(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """``y = R x C^T``, the smaller intermediate first."""
    highest = jax.lax.Precision.HIGHEST
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    if rows.shape[0] * columns.shape[1] <= rows.shape[1] * columns.shape[0]:
        return jnp.einsum("wj,bhjc->bhwc", columns, jnp.einsum("hi,bijc->bhjc", rows, x, precision=highest),
                          precision=highest)
    return jnp.einsum("hi,biwc->bhwc", rows, jnp.einsum("wj,bijc->biwc", columns, x, precision=highest),
                      precision=highest)


def _shrunk(size: int, factor: int) -> int:
    return -(-size // factor)


@base.operator
class Resize:
    """See :func:`resize`."""

    height: int = base.static()
    width: int = base.static()
    method: str = base.static(default="bicubic")

    linear = True
    stochastic = False
    shape_preserving = False

    def _matrices(self, height: int, width: int):
        return (_matrix(height, self.height, self.height / height, self.method),
                _matrix(width, self.width, self.width / width, self.method))

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        return _apply(base.check_image(x, "resize"), *self._matrices(*x.shape[1:3]))

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y`` for images of ``shape`` (height, width), which ``y`` alone does not tell."""
        if shape is None:
            raise ValueError("resize: adjoint needs shape=(height, width) of the images that were resized")
        rows, columns = self._matrices(*shape)
        return _apply(y, rows.T, columns.T)


@base.operator
class Rescale:
    """See :func:`downsample` and :func:`upsample`."""

    factor: int = base.static()
    down: bool = base.static()
    method: str = base.static(default="bicubic")

    linear = True
    stochastic = False
    shape_preserving = False

    def _matrices(self, *sizes: int):
        scale = 1.0 / self.factor if self.down else float(self.factor)
        out = [_shrunk(size, self.factor) if self.down else size * self.factor for size in sizes]
        return [_matrix(size, new, scale, self.method) for size, new in zip(sizes, out)]

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        return _apply(base.check_image(x, "resize"), *self._matrices(*x.shape[1:3]))

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y`` for images of ``shape`` (height, width); default: the factor times (or into) the size of ``y``."""
        if shape is None:
            shape = [size * self.factor if self.down else size // self.factor for size in y.shape[1:3]]
        rows, columns = self._matrices(*shape)
        if (rows.shape[0], columns.shape[0]) != y.shape[1:3]:
            raise ValueError(f"adjoint: images of shape {tuple(shape)} give {(rows.shape[0], columns.shape[0])}, "
                             f"got a measurement of {y.shape[1:3]}")
        return _apply(y, rows.T, columns.T)


@base.operator
class SuperResolution:
    """See :func:`super_resolution`."""

    factor: int = base.static()
    method: str = base.static(default="bicubic")

    linear = True
    stochastic = False
    shape_preserving = True

    def shrink(self, x: Array) -> Array:
        """The low-resolution image ``[B, ceil(H / factor), ceil(W / factor), C]``."""
        return Rescale(self.factor, True, self.method)(x)

    def _growers(self, *sizes: int):
        return [_matrix(_shrunk(size, self.factor), size, float(self.factor), "bicubic") for size in sizes]

    def grow(self, low: Array, shape: tuple[int, int]) -> Array:
        """The low-resolution image brought back to ``shape`` (height, width)."""
        return _apply(low, *self._growers(*shape))

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        return self.grow(self.shrink(base.check_image(x, "super_resolution")), x.shape[1:3])

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y``: images of the same shape as ``y``."""
        del shape
        rows, columns = self._growers(*y.shape[1:3])
        return Rescale(self.factor, True, self.method).adjoint(_apply(y, rows.T, columns.T), shape=y.shape[1:3])


def _check(method: str, **sizes: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    for name, size in sizes.items():
        if int(size) != size or size < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; got {size}")


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
    _check(method, height=height, width=width)
    return Resize(int(height), int(width), method)


def downsample(factor: int, *, method: str = "bicubic") -> Rescale:
    """Shrink by a whole factor, ``H -> ceil(H / factor)``, as MATLAB's ``imresize(x, 1 / factor)``: :func:`resize`."""
    _check(method, factor=factor)
    return Rescale(int(factor), True, method)


def average_pool(factor: int) -> Rescale:
    """Mean over blocks of ``factor x factor`` pixels, the super-resolution operator of BIRD and DDNM:
    :func:`downsample` by area. Where the factor divides the sides, its pseudo-inverse repeats pixels.

    >>> average_pool(2)(jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
    [1.5]
    """
    return downsample(factor, method="area")


def upsample(factor: int, *, method: str = "bicubic") -> Rescale:
    """Enlarge by a whole factor, ``H -> H factor``; see :func:`resize`."""
    _check(method, factor=factor)
    return Rescale(int(factor), False, method)


def super_resolution(factor: int, *, method: str = "bicubic") -> SuperResolution:
    """Shrink by ``factor`` with ``method`` and enlarge bicubically to the original size: what InDI starts from.

    Sizes that the factor does not divide are rounded up in the middle; the enlarged image then is the first H rows and
    W columns of ``upsample(factor)``, so that pixels stay where they were.

    >>> super_resolution(4)(jnp.ones((1, 9, 8, 3))).shape
    (1, 9, 8, 3)
    """
    _check(method, factor=factor)
    return SuperResolution(int(factor), method)
