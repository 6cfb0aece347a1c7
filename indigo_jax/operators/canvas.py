"""Blur with an honest border: the picture goes on beyond the edge of the measurement."""
import jax.numpy as jnp

from indigo_jax.operators import base
from indigo_jax.operators.blur import blur
from indigo_jax.typing import Array


def _pair(margin) -> tuple[int, int]:
    rows, columns = (margin, margin) if isinstance(margin, int) else margin
    if min(rows, columns) < 0:
        raise ValueError(f"a margin is a number of pixels or (rows, columns), at least 0; got {margin}")
    return int(rows), int(columns)


def extend(y: Array, margin) -> Array:
    """A canvas to start from: ``y`` continued by its edge, ``margin`` pixels (a number, or rows and columns) a side.

    >>> extend(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), (0, 1)).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    rows, columns = _pair(margin)
    return jnp.pad(y, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode="edge")


def crop(x: Array, margin) -> Array:
    """The picture ``[B, H, W, C]`` in the middle of a canvas that is ``margin`` pixels larger on each side.

    >>> crop(jnp.ones((1, 9, 8, 3)), (3, 1)).shape
    (1, 3, 6, 3)
    """
    rows, columns = _pair(margin)
    if x.shape[1] <= 2 * rows or x.shape[2] <= 2 * columns:
        raise ValueError(f"a margin of {(rows, columns)} leaves nothing of a canvas of shape {x.shape}")
    return x[:, rows:x.shape[1] - rows, columns:x.shape[2] - columns]


@base.operator(linear=True, shape_preserving=False)
class CanvasBlur(base.Applied):
    """See :func:`canvas_blur`."""
    kernel: Array
    margin: tuple[int, int] = base.static()

    def _filter(self, x: Array, *, conjugate: bool) -> Array:
        """Circular convolution on the canvas, or its transpose."""
        if self.kernel.ndim == 3 and self.kernel.shape[0] != x.shape[0]:
            raise ValueError(f"canvas_blur: {self.kernel.shape[0]} kernels for {x.shape[0]} images; give one, or one "
                             f"per image")
        height, width = self.kernel.shape[-2:]
        size = x.shape[1:3]
        kernel = self.kernel.reshape(-1, height, width)
        kernel = jnp.pad(kernel, ((0, 0), (0, size[0] - height), (0, size[1] - width)))
        kernel = jnp.roll(kernel, (-(height // 2), -(width // 2)), (1, 2))  # the centre to the origin
        transfer = jnp.fft.rfft2(kernel, axes=(1, 2))[..., None]
        transfer = jnp.conj(transfer) if conjugate else transfer
        return jnp.fft.irfft2(transfer * jnp.fft.rfft2(x, axes=(1, 2)), size, axes=(1, 2))

    def _apply(self, x: Array) -> Array:
        crop(x, self.margin)  # refuses what is too small for the FFT below
        return crop(self._filter(x, conjugate=False), self.margin)

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y``: canvases that are the margin larger than ``y`` on each side."""
        del shape
        rows, columns = self.margin
        canvas = jnp.pad(y, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
        return self._filter(canvas, conjugate=True)


def canvas_blur(kernel, margin=None) -> CanvasBlur:
    """Convolution of a canvas that is larger than the measurement: ``y = crop(k * x)``, as a camera blurs.

    What lies beyond the edge of y is unknown, not a mirror image, so it is part of x: canvases
    ``[B, H + 2 m, W + 2 m, C]`` give y ``[B, H, W, C]``. On the canvas the convolution is circular, by FFT; of what
    wraps around nothing is seen. Restore the canvas from ``extend(y, A.margin)``, then :func:`crop`.

    By plain FFT, unlike :func:`blur`: XLA gathers a batch that is sharded over devices on each of them
    (:func:`sharding.per_device` does not).

    Args:
        kernel: ``[h, w]``, or one per image ``[B, h, w]``; sum 1 within 1e-3; a convolution, as for :func:`blur`.
        margin: pixels on each side, a number or (rows, columns), at least half of the kernel; default
            ``(h // 2 + 8, w // 2 + 8)``.

    Errors:
        ValueError for a kernel that :func:`blur` refuses, or a smaller margin.

    >>> A = canvas_blur(jnp.full((3, 3), 1 / 9))
    >>> A.margin, A(jnp.ones((1, 22, 23, 3))).shape
    ((9, 9), (1, 4, 5, 3))
    """
    kernel = blur(kernel).kernel  # checks it
    height, width = kernel.shape[-2:]
    margin = (height // 2 + 8, width // 2 + 8) if margin is None else _pair(margin)
    if margin[0] < height // 2 or margin[1] < width // 2:
        raise ValueError(f"a margin of {margin} is less than half of a kernel of {height} x {width}: what is seen "
                         f"would depend on what lies beyond the canvas")
    return CanvasBlur(kernel, margin)
