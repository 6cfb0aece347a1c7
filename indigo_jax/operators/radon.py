"""Computed tomography: sums along parallel rays through the picture, and filtered back-projection."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.typing import Array

FILTERS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


def sparse_view_angles(num_views: int) -> np.ndarray:
    """``num_views`` angles in degrees, equally spaced over ``[0, 180)``: float64 ``[num_views]``.

    >>> sparse_view_angles(4).tolist()
    [0.0, 45.0, 90.0, 135.0]
    """
    num_views = base.check_whole(num_views, "num_views")
    return np.arange(num_views) * (180.0 / num_views)


def _directions(angles_degrees):
    """Cosine and sine of each angle ``[A, 2]``: float64 by numpy where the angles are known, else traced float32."""
    angles = base.concrete(angles_degrees)
    if angles is None:
        angles, library = jnp.asarray(angles_degrees, jnp.float32), jnp
    else:
        try:
            angles, library = angles.astype(np.float64), np
        except (TypeError, ValueError):
            raise ValueError(f"angles_degrees must be numbers, got {angles_degrees!r}") from None
        if not np.isfinite(angles).all():
            raise ValueError(f"angles_degrees must be finite, got {angles_degrees}")
    if angles.ndim != 1 or not angles.shape[0]:
        raise ValueError(f"angles_degrees must be a list of at least one angle, got shape {angles.shape}")
    radians = library.deg2rad(angles)
    return library.stack([library.cos(radians), library.sin(radians)], axis=1)


def _fraction_bits(size: int, num_detectors: int) -> int:
    """Binary places of a coordinate in int32, such that none overflows (24 for 64 pixels, 21 for 512)."""
    length = max(size, num_detectors)
    return 31 - (3 * length // 4 + size // 2 + 3).bit_length()  # sqrt(1/2) * length about the centre


def _check_sinogram(y: Array, num_detectors: int | None, num_angles: int, name: str) -> None:
    detectors = "detectors" if num_detectors is None else num_detectors
    if y.ndim != 4 or y.shape[2] != num_angles or num_detectors not in (None, y.shape[1]):
        raise ValueError(f"{name} takes sinograms [B, {detectors}, {num_angles} angles, C], got shape {y.shape}")


@base.operator(linear=True, shape_preserving=False)
class Radon(base.Applied):
    """See :func:`radon`."""
    directions: Array  # int32 [A, 2]: cosine and sine in units of 2^-bits
    size: int = base.static()
    num_detectors: int = base.static()

    def _apply(self, x: Array) -> Array:
        if x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"radon: made for pictures of {self.size} x {self.size} pixels, got shape {x.shape}")
        size, stride = self.size, self.size + 2
        # planes with a border of zeros: interpolation fades to 0 within one pixel outside the picture
        planes = jnp.pad(jnp.moveaxis(x, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1)))
        planes = planes.reshape(*planes.shape[:2], stride**2)
        length, bits = max(size, self.num_detectors), _fraction_bits(size, self.num_detectors)
        detector = np.arange(self.num_detectors, dtype=np.int32) - self.num_detectors // 2
        along = (np.arange(length, dtype=np.int32) - length // 2)[:, None]

        def split(place):  # fixed point: whichever program this is part of, and for whichever batch, it rounds alike
            place = jnp.clip(place + ((size // 2 + 1) << bits), 0, (size + 1) << bits)
            whole = jnp.minimum(place >> bits, size)
            return whole, (place - (whole << bits)).astype(x.dtype) * 2.0**-bits

        @jax.checkpoint  # so that the transpose keeps nothing per angle
        def project(planes, direction):
            cosine, sine = direction[0], direction[1]
            left, right_part = split(cosine * detector + sine * along)
            top, lower_part = split(cosine * along - sine * detector)
            corner = top * stride + left

            def pixels(offset):
                return jnp.take(planes, corner + offset, axis=2, mode="clip")

            upper = (1 - right_part) * pixels(0) + right_part * pixels(1)
            lower = (1 - right_part) * pixels(stride) + right_part * pixels(stride + 1)
            return jnp.sum((1 - lower_part) * upper + lower_part * lower, axis=2)

        _, rays = jax.lax.scan(lambda _, direction: (None, project(planes, direction)), None, self.directions)
        return jnp.transpose(rays, (1, 3, 0, 2))  # [A, B, C, D] -> [B, D, A, C]

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y``, the unfiltered back-projection ``[B, size, size, C]``: the exact transpose."""
        _check_sinogram(y, self.num_detectors, self.directions.shape[0], "radon: adjoint")
        return base.transpose(self, y, (y.shape[0], *(shape or (self.size, self.size)), y.shape[3]))


def radon(angles_degrees, size: int, *, num_detectors: int | None = None) -> Radon:
    """Parallel-beam tomography: ``y[j, a] = sum_i x(R_a (i, j))``, pictures ``[B, size, size, C]`` -> sinograms
    ``[B, num_detectors, A, C]``.

    The picture is turned by each angle about pixel ``(size // 2, size // 2)``, with bilinear interpolation and zeros
    outside, and its columns are summed: ``skimage.transform.radon(x, angles, circle=True)``, in its layout and units
    (detectors are one pixel apart; a value is the sum of the pixels along a ray). Nothing is masked: whatever lies
    outside the inscribed circle counts where a ray meets it.

    Linear in ``x``, with no offset. For pictures in ``[-1, 1]`` in which -1 is air, the sinogram of the densities
    ``(x + 1) / 2``, which scanners measure and :func:`filtered_backprojection` inverts, is ``(A(x) + A(1)) / 2``.

    Args:
        angles_degrees: one or more; see :func:`sparse_view_angles`.
        size: side of the pictures, at least 2.
        num_detectors: size where None. Fewer keep the rays nearest to the centre; ``ceil(sqrt(2) * size)`` see the
            corners too, as scikit-image with ``circle=False``.

    Errors:
        ValueError for no angles, angles that are not finite, a size below 2, pictures of another size.

    >>> A = radon([0.0, 90.0], 3)
    >>> A(jnp.arange(9.0).reshape(1, 3, 3, 1))[0, :, :, 0].round().tolist()
    [[9.0, 21.0], [12.0, 12.0], [15.0, 3.0]]
    """
    size = base.check_whole(size, "size", 2)
    num_detectors = size if num_detectors is None else base.check_whole(num_detectors, "num_detectors")
    steps = _directions(angles_degrees) * 2.0 ** _fraction_bits(size, num_detectors)
    return Radon(jnp.asarray(steps.round(), jnp.int32), size, num_detectors)


def _filter_matrix(num_in: int, num_out: int, name: str) -> np.ndarray:
    """Filtering of a projection of ``num_in`` values, extended to ``num_out`` about the same centre, as a matrix.

    The ramp is ``h(0) = 1/4, h(n) = -1 / (pi n)^2`` for odd n, 0 for even n: cut off in space, not in frequency, so
    that the mean comes out right (Kak & Slaney, eq. 3.61).
    """
    length = max(64, 1 << (2 * num_out - 1).bit_length())  # no projection wraps into another
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.where(n % 2 == 1, -1.0 / (np.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    if name != "ramp":
        frequency = np.fft.fftfreq(length)
        window = {"shepp-logan": np.sinc(frequency), "cosine": np.cos(np.pi * frequency),
                  "hamming": 0.54 + 0.46 * np.cos(2.0 * np.pi * frequency),
                  "hann": 0.5 + 0.5 * np.cos(2.0 * np.pi * frequency)}[name]
        kernel = np.fft.ifft(np.fft.fft(kernel) * window).real
    before = num_out // 2 - num_in // 2
    return kernel[(np.arange(num_out)[:, None] - (np.arange(num_in) + before)) % length].astype(np.float32)


@functools.partial(jax.jit, static_argnames=("name", "size"))
def _backproject(sinogram, directions, *, name, size):
    num_detectors = sinogram.shape[1]
    extended = max(num_detectors, int(np.ceil(np.sqrt(2.0) * num_detectors)))
    matrix = jnp.asarray(_filter_matrix(num_detectors, extended, name), sinogram.dtype)
    filtered = jnp.einsum("ed,bdac->abce", matrix, sinogram, precision=jax.lax.Precision.HIGHEST)
    place = jnp.arange(size, dtype=jnp.float32) - size // 2
    row, column = place[:, None], place[None, :]

    def add(total, projection_and_direction):
        projection, direction = projection_and_direction
        detector = column * direction[0] - row * direction[1] + extended // 2
        left = jnp.clip(jnp.floor(detector), 0, extended - 2)
        part = (detector - left).astype(projection.dtype)
        index = left.astype(jnp.int32)
        value = ((1 - part) * jnp.take(projection, index, axis=2, mode="clip")
                 + part * jnp.take(projection, index + 1, axis=2, mode="clip"))
        return total + jnp.where((detector >= 0) & (detector <= extended - 1), value, 0), None

    start = jnp.zeros((*filtered.shape[1:3], size, size), filtered.dtype)
    total, _ = jax.lax.scan(add, start, (filtered, directions))
    inside = row**2 + column**2 <= (size // 2) ** 2
    return jnp.moveaxis(jnp.where(inside, total * (np.pi / directions.shape[0]), 0), 1, 3)


def filtered_backprojection(sinogram: Array, angles_degrees, *, filter: str = "ramp", size: int | None = None) -> Array:
    """The classical reconstruction: ``x = pi / A * sum_a (h * y_a)`` at each pixel's detector, linearly interpolated.

    Args:
        sinogram: ``[B, D, A, C]``, as :func:`radon` makes them of pictures that are 0 outside the inscribed circle.
        angles_degrees: ``[A]``, meant to be equally spaced over 180 degrees.
        filter: "ramp" (Ram-Lak, from its samples in space: Kak & Slaney, "Principles of Computerized Tomographic
            Imaging", 1988, section 3.3), or that with a window: "shepp-logan", "cosine", "hamming", "hann".
        size: side of the pictures; D where None.

    Returns:
        ``[B, size, size, C]``, 0 outside the inscribed circle, in the units of the pictures.

    As ``skimage.transform.iradon(..., circle=True)``, except that the hamming and hann windows are symmetric in
    frequency.

    Errors:
        ValueError for a sinogram of other dimensions, no or infinite angles, an unknown filter.

    >>> angles = sparse_view_angles(60)
    >>> disk = jnp.zeros((1, 32, 32, 1)).at[:, 10:22, 10:22].set(1.0)
    >>> x = filtered_backprojection(radon(angles, 32)(disk), angles)
    >>> round(float(x[0, 16, 16, 0]), 1), round(abs(float(x[0, 4, 16, 0])), 1)
    (1.0, 0.0)
    """
    directions = jnp.asarray(_directions(angles_degrees), jnp.float32)
    sinogram = jnp.asarray(sinogram)
    if not jnp.issubdtype(sinogram.dtype, jnp.floating):
        raise ValueError(f"sinogram must be floating point, got {sinogram.dtype}")
    _check_sinogram(sinogram, None, directions.shape[0], "filtered_backprojection")
    base.check_choice(filter, "filter", FILTERS)
    size = base.check_whole(sinogram.shape[1] if size is None else size, "size", 2)
    return _backproject(sinogram, directions, name=filter, size=size)
