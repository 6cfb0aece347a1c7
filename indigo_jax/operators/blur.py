"""Blur: convolution with a kernel, at the size of the image."""
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base, kernels
from indigo_jax.typing import Array, Key

_NUMPY_MODES = {"reflect": "reflect", "symmetric": "symmetric", "edge": "edge", "periodic": "wrap"}
BOUNDARIES = (*_NUMPY_MODES, "zero")
_DIRECT = 49  # taps; above this the FFT is faster


def _pad(x: Array, axis: int, before: int, after: int, boundary: str) -> Array:
    """Extend one axis; a pad longer than the image reflects (or wraps) again and again, as ``numpy.pad`` does."""
    if boundary == "zero":
        return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])
    index = np.pad(np.arange(x.shape[axis]), (before, after), _NUMPY_MODES[boundary])
    return jnp.take(x, index, axis=axis, mode="clip")


def _fast_length(length: int) -> int:
    """The smallest ``2^a 3^b 5^c`` that is at least ``length``: FFTs of such lengths are fast."""
    best = 1 << (length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            best = min(best, three << max(0, (-(-length // three) - 1).bit_length()))
            three *= 3
        five *= 5
    return best


def _direct(padded: Array, kernel: Array) -> Array:
    """Valid convolution with small kernels ``[h, w]`` or ``[B, h, w]``, as a sum of shifted images.

    One fused loop on every backend; the CPU's convolution of single channels is some ten times slower.
    """
    rows = padded.shape[1] - kernel.shape[-2] + 1
    columns = padded.shape[2] - kernel.shape[-1] + 1
    flipped = kernel[..., ::-1, ::-1]
    total = 0.0
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            weight = base.per_image(flipped[..., i, j], padded, "kernel")
            total = total + weight * padded[:, i:i + rows, j:j + columns]
    return total


def _spectral(padded: Array, kernel: Array) -> Array:
    """The same by FFT, for kernels ``[h, w]`` or ``[B, h, w]``.

    A circular convolution at least as long as the padded image wraps into its first ``h - 1`` rows only, and those
    are cut off.
    """
    rows, columns = padded.shape[1:3]
    height, width = kernel.shape[-2:]
    lengths = (_fast_length(rows), _fast_length(columns))
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel[:, None]
    spectrum = jnp.fft.rfft2(jnp.moveaxis(padded, -1, 1), lengths) * jnp.fft.rfft2(kernel, lengths)
    out = jnp.fft.irfft2(spectrum, lengths)
    return jnp.moveaxis(out[:, :, height - 1:rows, width - 1:columns], 1, -1)


@base.operator
class Blur:
    """See :func:`blur`."""

    kernel: Array
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

    linear = True
    stochastic = False
    shape_preserving = True

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        base.check_image(x, "blur")
        kernel = self.kernel.astype(x.dtype)
        if kernel.ndim == 3 and kernel.shape[0] != x.shape[0]:
            raise ValueError(f"blur: {kernel.shape[0]} kernels for {x.shape[0]} images; give one, or one per image")
        for axis, size in ((1, kernel.shape[-2]), (2, kernel.shape[-1])):
            after = (size - 1) // 2 if self.correlate else size // 2
            x = _pad(x, axis, size - 1 - after, after, self.boundary)
        if self.correlate:
            kernel = kernel[..., ::-1, ::-1]
        small = kernel.shape[-2] * kernel.shape[-1] <= _DIRECT
        return _direct(x, kernel) if small else _spectral(x, kernel)

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y``: images of the same shape as ``y``."""
        del shape
        return base.transpose(self, y, y.shape)


def blur(kernel, *, boundary: str = "reflect", correlate: bool = False) -> Blur:
    """Convolution: ``y[i, j] = sum_mn k[m, n] x[i - m + h // 2, j - n + w // 2]``, the same for every channel.

    This is a true convolution (the kernel is flipped), as ``scipy.ndimage.convolve``, odd and even sizes alike;
    ``correlate=True`` gives ``scipy.ndimage.correlate``. Up to 7 x 7 taps are applied directly, more by FFT. A kernel
    may be larger than the image: the boundary is continued as often as needed.

    Args:
        kernel: ``[h, w]``, or one per image ``[B, h, w]``; sum 1 within 1e-3. May be traced (then it is not checked).
        boundary: what lies outside, in ``numpy.pad``'s words: "reflect" (mirror without repeating the edge pixel),
            "symmetric" (mirror, edge pixel repeated), "edge", "periodic" ("wrap") or "zero".

    Errors:
        ``ValueError`` for a kernel of another shape, not finite or not normalised, or an unknown boundary.

    >>> blur(jnp.full((3, 3), 1 / 9))(jnp.ones((1, 4, 5, 3))).shape
    (1, 4, 5, 3)
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {BOUNDARIES}, got {boundary!r}")
    kernel = jnp.asarray(kernel, jnp.float32)
    if kernel.ndim not in (2, 3) or 0 in kernel.shape:
        raise ValueError(f"a kernel is [h, w], or [B, h, w] for one per image; got shape {kernel.shape}")
    numbers = base.concrete(kernel)
    if numbers is not None:
        if not np.isfinite(numbers).all():
            raise ValueError("the kernel holds nan or infinity")
        total = numbers.sum(axis=(-2, -1), dtype=np.float64)
        if np.abs(total - 1.0).max() > 1e-3:
            raise ValueError(f"the kernel sums to {total}, not to 1; divide it by its sum")
    return Blur(kernel, boundary, correlate)


def gaussian_blur(sigma, *, size: int | None = None, boundary: str = "reflect") -> Blur:
    """Blur with :func:`gaussian_kernel` of ``sigma`` pixels, a number or one per image."""
    return blur(kernels.gaussian_kernel(sigma, size), boundary=boundary)


def motion_blur(length, angle=0.0, *, size: int | None = None, boundary: str = "reflect") -> Blur:
    """Blur by a straight motion of ``length`` pixels in direction ``angle`` (radians): :func:`linear_motion_kernel`."""
    return blur(kernels.linear_motion_kernel(length, angle, size), boundary=boundary)


def defocus_blur(radius, *, size: int | None = None, boundary: str = "reflect") -> Blur:
    """Blur with :func:`disk_kernel` of ``radius`` pixels."""
    return blur(kernels.disk_kernel(radius, size), boundary=boundary)
