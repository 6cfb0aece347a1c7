"""Blur: convolution with a kernel, at the size of the image."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base, kernels
from indigo_jax.typing import Array

_NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "symmetric": "symmetric", "edge": "edge", "periodic": "wrap"}
BOUNDARIES = (*_NUMPY_MODES, "zero")
_DIRECT = 49  # taps; above this a transform is faster
_STRIPED = 64  # rows of a kernel; above this the two-dimensional FFT


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
    total: Any = 0.0
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            weight = base.per_image(flipped[..., i, j], padded, "kernel")
            total = total + weight * padded[:, i:i + rows, j:j + columns]
    return total


def _waves(length: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The real Fourier transform of ``length`` samples as a matrix ``[length, 2F]`` (cosines, then minus sines), and
    its inverse ``[2F, length - first]`` for the samples from ``first`` on."""
    frequency = np.arange(length // 2 + 1)
    phase = 2.0 * np.pi * (np.outer(np.arange(length), frequency) % length) / length
    twice = np.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0) / length
    forward = np.concatenate([np.cos(phase), -np.sin(phase)], axis=1)
    inverse = np.concatenate([twice * np.cos(phase), -twice * np.sin(phase)], axis=1)[first:].T
    return forward.astype(np.float32), inverse.astype(np.float32)


def _striped(padded: Array, kernel: Array) -> Array:
    """Valid convolution with ``[h, w]`` or ``[B, h, w]``: a sum over the kernel's rows, along them by Fourier.

    The picture is cut into strips of up to ``length`` columns that overlap by ``w - 1``: a circular convolution wraps
    into its first ``w - 1`` columns only. The transforms are small matrix products: a batch sharded over devices needs
    no communication for these, while for an FFT XLA gathers the whole batch on every device.
    """
    dtype, highest = padded.dtype, jax.lax.Precision.HIGHEST
    height, width = kernel.shape[-2:]
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    length = min(padded.shape[2], max(128, 4 * width))
    step = length - width + 1
    start = step * np.arange(-(-columns // step))
    forward, inverse = _waves(length, width - 1)
    planes = jnp.moveaxis(padded, -1, 1)
    index = np.minimum(start[:, None] + np.arange(length), padded.shape[2] - 1)
    strips = jnp.take(planes, index, axis=3, mode="clip")
    strips = jnp.matmul(strips, forward.astype(dtype), precision=highest)  # [B, C, rows + h - 1, strips, 2F]
    weights = jnp.matmul(kernel, forward[:width].astype(dtype), precision=highest)  # [B or none, h, 2F]
    weights = weights.reshape(-1, 1, height, 1, 1, 2 * (length // 2 + 1))
    real, imaginary = jnp.split(strips, 2, axis=-1)
    weight_real, weight_imaginary = jnp.split(weights, 2, axis=-1)
    total_real = total_imaginary = 0.0
    for i in range(height):
        a, b = (part[:, :, height - 1 - i:height - 1 - i + rows] for part in (real, imaginary))
        c, d = weight_real[:, :, i], weight_imaginary[:, :, i]
        total_real += a * c - b * d
        total_imaginary += a * d + b * c
    total = jnp.concatenate([total_real, total_imaginary], axis=-1)
    out = jnp.matmul(total, inverse.astype(dtype), precision=highest)
    out = out.reshape(*out.shape[:3], start.size * step)[..., :columns]
    return jnp.moveaxis(out, 1, -1)


def _spectral(padded: Array, kernel: Array) -> Array:
    """Valid convolution with very large kernels ``[h, w]`` or ``[B, h, w]``, by FFT.

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


@base.operator(linear=True)
class Blur(base.Applied):
    """See :func:`blur`."""
    kernel: Array
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

    def _apply(self, x: Array) -> Array:
        kernel = self.kernel.astype(x.dtype)
        if kernel.ndim == 3 and kernel.shape[0] != x.shape[0]:
            raise ValueError(f"blur: {kernel.shape[0]} kernels for {x.shape[0]} images; give one, or one per image")
        for axis, size in ((1, kernel.shape[-2]), (2, kernel.shape[-1])):
            after = (size - 1) // 2 if self.correlate else size // 2
            x = _pad(x, axis, size - 1 - after, after, self.boundary)
        if self.correlate:
            kernel = kernel[..., ::-1, ::-1]
        height, width = kernel.shape[-2:]
        convolve = _direct if height * width <= _DIRECT else _striped if height <= _STRIPED else _spectral
        return convolve(x, kernel)


def blur(kernel, *, boundary: str = "reflect", correlate: bool = False) -> Blur:
    """Convolution: ``y[i, j] = sum_mn k[m, n] x[i - m + h // 2, j - n + w // 2]``, the same for every channel.

    This is a true convolution (the kernel is flipped), as ``scipy.ndimage.convolve``, odd and even sizes alike;
    ``correlate=True`` gives ``scipy.ndimage.correlate``. So a point of light is spread into the kernel as it stands; a
    kernel made for a correlation (weights of the neighbours, as deep-learning "convolutions" and some data sets have
    it) takes ``correlate=True`` or :func:`flip_kernel`. Up to 7 x 7 taps are applied directly, more by Fourier.
    A kernel may be larger than the image: the boundary is continued as often as needed.

    Args:
        kernel: ``[h, w]``, or one per image ``[B, h, w]``; sum 1 within 1e-3. May be traced (then it is not checked).
        boundary: what lies outside, in ``numpy.pad``'s words: "reflect" (mirror without repeating the edge pixel),
            "symmetric" (mirror, edge pixel repeated), "edge", "periodic" ("wrap") or "zero".

    Errors:
        ``ValueError`` for a kernel of another shape, not finite or not normalised, or an unknown boundary.

    >>> blur(jnp.full((3, 3), 1 / 9))(jnp.ones((1, 4, 5, 3))).shape
    (1, 4, 5, 3)
    """
    base.check_choice(boundary, "boundary", BOUNDARIES)
    kernel = jnp.asarray(kernel, jnp.float32)
    if kernel.ndim not in (2, 3) or 0 in kernel.shape:
        raise ValueError(f"a kernel is [h, w], or [B, h, w] for one per image; got shape {kernel.shape}")
    base.check_sums(kernel, "kernel", (-2, -1))
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
