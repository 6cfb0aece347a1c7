"""Blur kernels ``[h, w]``, non-negative, sum 1, centre at ``[h // 2, w // 2]``.

The parametric ones take a number (kernel ``[size, size]``) or one number per image (``[B, size, size]``), and may be
traced: ``size`` alone is static. Angles are in radians, from the x axis (to the right) towards the y axis (down).
"""
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.typing import Array, Key

_MAX_SIDE = 2048  # pixels; nobody blurs with more, and it keeps a malicious file small
_POINTS = 128  # samples along a trajectory
_FINE = 8  # sub-pixels per pixel of the disk


def _size(size: int | None, parameter, extent, name: str) -> int:
    """``size``, or the smallest odd size that holds ``extent(parameter)`` pixels on both sides of the centre."""
    if size is None:
        value = base.concrete(parameter)
        if value is None:
            raise ValueError(f"{name}: give size= when the parameter is traced, it fixes the shape of the kernel")
        size = 2 * max(0, int(np.ceil(extent(value.max()) - 1e-6))) + 1
    if size < 1:
        raise ValueError(f"{name}: size must be at least 1, got {size}")
    return int(size)


def _offsets(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.float32) - size // 2


def _normalise(kernel: Array) -> Array:
    return kernel / jnp.sum(kernel, axis=(-2, -1), keepdims=True)


def gaussian_kernel(sigma, size: int | None = None) -> Array:
    """Gaussian ``k(r) ~ exp(-|r|^2 / (2 sigma^2))``, sampled at the pixel centres.

    Args:
        sigma: standard deviation in pixels, a number or ``[B]``, at least 0 (0 is no blur).
        size: side of the kernel; default ``2 ceil(3 sigma) + 1``.

    >>> gaussian_kernel(1.6).shape
    (11, 11)
    """
    size = _size(size, sigma, lambda sigma: 3.0 * sigma, "gaussian_kernel")
    sigma = base.check_number(sigma, "sigma", 0.0)
    width = jnp.maximum(sigma, 0.05)[..., None]
    profile = jnp.exp(-0.5 * (_offsets(size) / width) ** 2)
    return _normalise(profile[..., :, None] * profile[..., None, :])


def _render(x: Array, y: Array, size: int) -> Array:
    """Points ``[..., T]`` drawn with triangles one pixel wide (bilinear, so anti-aliased), normalised."""
    offsets = _offsets(size)
    across = jax.nn.relu(1.0 - jnp.abs(x[..., None] - offsets))
    down = jax.nn.relu(1.0 - jnp.abs(y[..., None] - offsets))
    kernel = jnp.einsum("...ti,...tj->...ij", down, across, precision=jax.lax.Precision.HIGHEST)
    return _normalise(kernel)


def linear_motion_kernel(length, angle=0.0, size: int | None = None) -> Array:
    """Straight motion: a line through the centre from pixel centre to pixel centre, ``length`` pixels end to end.

    Args:
        length: pixels covered, a number or ``[B]``, at least 1 (1 is no blur); what falls outside ``size`` is cut off.
        angle: direction in radians, a number or ``[B]``.
        size: side of the kernel; default the odd size that holds the line.

    >>> linear_motion_kernel(5.0).shape
    (5, 5)
    """
    size = _size(size, length, lambda length: (length - 1.0) / 2.0, "linear_motion_kernel")
    length = base.check_number(length, "length", 1.0)
    angle = jnp.asarray(angle, jnp.float32)
    along = jnp.asarray((np.arange(_POINTS) + 0.5) / _POINTS - 0.5, jnp.float32) * (length[..., None] - 1.0)
    return _render(along * jnp.cos(angle)[..., None], along * jnp.sin(angle)[..., None], size)


def motion_kernel(keys: Key, *, size: int, length) -> Array:
    """A random camera shake: a smooth random path with changing direction and speed, its centre of mass at the centre.

    Direction: ``theta_k = theta_0 + sum of a twice-summed white noise``; speed: log-normal, slowly varying. The path is
    scaled so that its farthest point lies ``(length - 1) / 2`` from the centre of mass.

    Args:
        keys: one typed key (kernel ``[size, size]``) or keys ``[B]`` (kernels ``[B, size, size]``).
        size: side of the kernel, static.
        length: extent in pixels, a number or ``[B]``, at least 1.

    >>> motion_kernel(jax.random.key(0), size=9, length=9.0).shape
    (9, 9)
    """
    length = base.check_number(length, "length", 1.0)
    if keys.ndim:
        length = jnp.broadcast_to(length, keys.shape)
        return jax.vmap(lambda key, extent: motion_kernel(key, size=size, length=extent))(keys, length)
    start, bend, turns, speeds = (jax.random.fold_in(keys, slot) for slot in range(4))
    time = 1.0 / _POINTS
    curvature = 4.0 * jax.random.normal(bend) + 8.0 * jnp.sqrt(time) * jnp.cumsum(jax.random.normal(turns, (_POINTS,)))
    theta = jax.random.uniform(start, (), jnp.float32, 0.0, 2.0 * np.pi) + time * jnp.cumsum(curvature)
    speed = jnp.exp(jnp.sqrt(time) * jnp.cumsum(jax.random.normal(speeds, (_POINTS,))))
    path = jnp.cumsum(jnp.stack([speed * jnp.cos(theta), speed * jnp.sin(theta)]), axis=1)
    path = path - jnp.mean(path, axis=1, keepdims=True)
    path = path * (0.5 * (length - 1.0) / jnp.max(jnp.linalg.norm(path, axis=0)))
    return _render(path[0], path[1], size)


def disk_kernel(radius, size: int | None = None) -> Array:
    """Defocus: a uniform disk, each pixel weighted by the part of it that the disk covers.

    Args:
        radius: pixels, a number or ``[B]``; 0.5 or less is no blur.
        size: side of the kernel; default the odd size that holds the disk.

    >>> disk_kernel(2.0).shape
    (5, 5)
    """
    size = _size(size, radius, lambda radius: radius - 0.5, "disk_kernel")
    radius = base.check_number(radius, "radius", 0.0)
    fine = jnp.asarray((np.arange(size * _FINE) + 0.5) / _FINE - 0.5 - size // 2, jnp.float32)
    distance = jnp.sqrt(fine[:, None] ** 2 + fine[None, :] ** 2)
    inside = jnp.clip((jnp.maximum(radius, 0.5)[..., None, None] - distance) * _FINE + 0.5, 0.0, 1.0)
    pixels = inside.reshape(*inside.shape[:-2], size, _FINE, size, _FINE)
    return _normalise(jnp.sum(pixels, axis=(-3, -1)))


def flip_kernel(kernel: Array) -> Array:
    """The kernel turned by 180 degrees about its centre: correlation with one is convolution with the other.

    Args:
        kernel: ``[h, w]`` or ``[B, h, w]``, centre at ``[h // 2, w // 2]``.

    Returns:
        the same with odd sides: where a side is even, a row or column of zeros first completes it.

    >>> flip_kernel(jnp.array([[0.25, 0.5, 0.25, 0.0]])).tolist()
    [[0.0, 0.0, 0.25, 0.5, 0.25]]
    """
    kernel = jnp.asarray(kernel)
    sides = [(0, 1 - side % 2) for side in kernel.shape[-2:]]
    return jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 2) + sides)[..., ::-1, ::-1]


def _read_npz(path: pathlib.Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > 16 * _MAX_SIDE ** 2:
            raise ValueError("it unpacks to more than a kernel can need")
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if "kernel" not in names and len(names) != 1:
            raise ValueError(f"it holds {names}; name one of them 'kernel'")
        return arrays["kernel" if "kernel" in names else names[0]]


def _read_png(path: pathlib.Path) -> np.ndarray:
    from PIL import Image
    with Image.open(path, formats=["PNG"]) as picture:
        if max(picture.size) > _MAX_SIDE:
            raise ValueError(f"it is {picture.size} pixels, more than {_MAX_SIDE} a side")
        if picture.mode not in ("1", "L", "I;16", "I", "F"):
            picture = picture.convert("RGB").convert("L")
        return np.asarray(picture)


_READERS = {".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False), ".npz": _read_npz, ".png": _read_png}


def load_kernel(path) -> Array:
    """Read a kernel file and normalise it to sum 1.

    It is taken as the kernel of a convolution (:func:`blur`): the picture of a point of light, as it stands. If it was
    stored for a correlation, turn it with :func:`flip_kernel`; files do not say, and a wrong one shifts and doubles
    edges.

    Args:
        path: ``.npy`` (a 2-D array), ``.npz`` (one array, or one named ``kernel``) or ``.png`` (brightness = weight).
            Nothing is ever unpickled.

    Returns:
        ``[h, w]`` float32.

    Errors:
        ``ValueError`` with the file's name and what is wrong with it; ``FileNotFoundError``.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"kernel file {path}: unknown type {path.suffix!r}, use one of {sorted(_READERS)}")
    if not path.is_file():
        raise FileNotFoundError(f"kernel file {path}: there is no such file")
    try:
        kernel = np.asarray(_READERS[path.suffix.lower()](path))
        if kernel.ndim != 2 or kernel.dtype.kind not in "biuf":
            raise ValueError(f"a kernel is a 2-D array of numbers, this is {kernel.dtype} {list(kernel.shape)}")
        if not 1 <= min(kernel.shape) or max(kernel.shape) > _MAX_SIDE:
            raise ValueError(f"sides must be 1 to {_MAX_SIDE} pixels, got {list(kernel.shape)}")
        kernel = kernel.astype(np.float64)
        if not np.isfinite(kernel).all() or kernel.sum() <= 0:
            raise ValueError("the numbers must be finite with a positive sum")
    except Exception as error:  # a broken file fails in many ways; all mean the same to the user
        raise ValueError(f"kernel file {path}: {error}") from error
    return jnp.asarray(kernel / kernel.sum(), jnp.float32)


def kernel_of(picture: Array) -> Array:
    """The blur kernels ``[B, s, s]`` that pictures ``[B, s, s, C]`` in [-1, 1] show: black is 0, and each sums to 1.

    >>> kernel_of(jnp.array([[[[-1.0], [1.0]], [[-1.0], [1.0]]]])).tolist()
    [[[0.0, 0.5], [0.0, 0.5]]]
    """
    weights = jnp.maximum(jnp.mean(picture, axis=3) + 1, 0.0)
    return weights / (jnp.sum(weights, axis=(1, 2), keepdims=True) + 1e-8)


def picture_of(kernel: Array) -> Array:
    """Kernels ``[B, s, s]`` as pictures ``[B, s, s, 1]`` in [-1, 1], their largest weight white: for training a prior.

    >>> picture_of(jnp.array([[[0.0, 0.25], [0.5, 0.25]]]))[0, ..., 0].tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    return (2 * kernel / jnp.max(kernel, axis=(1, 2), keepdims=True) - 1)[..., None]
