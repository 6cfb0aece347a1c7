"""Sinograms as input: what one is, and what is refused."""
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from indigo_jax import images, operators
from indigo_jax.typing import Array


class Sinogram(NamedTuple):
    """Sums along parallel rays, in place of a picture.

    Attributes:
        values: float32 ``[detectors, angles]``, as :func:`skimage.transform.radon` makes them of densities in [0, 1].
        angles: degrees ``[angles]``.
        pixels: the filtered back-projection, ``[detectors, detectors, 3]`` in [-1, 1].
        frames: as of a picture.
    """

    values: Any
    angles: Any
    pixels: Any
    frames: int = 1


def sinogram(values, angles=None) -> Sinogram:
    """A checked sinogram with its filtered back-projection.

    Args:
        values: ``[detectors, angles]``.
        angles: in degrees; default: evenly spaced over 180.

    Errors:
        ValueError for another number of axes, values that are no finite numbers or larger than densities in ``[0, 1]``
        can give, angles that do not fit, and what looks transposed: all projections of one slice have the same sum.
    """
    values, angles = _checked(values, angles)
    slices = operators.filtered_backprojection(values[None, :, :, None], angles)
    grey = np.clip(2 * np.asarray(slices)[0] - 1, -1, 1)
    return Sinogram(values, angles, np.repeat(grey, 3, axis=2))


def _checked(values, angles):
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or min(values.shape) < 1 or values.shape[0] < 2:
        raise ValueError(f"a sinogram is a 2-D array of numbers, [detectors, angles], this is {values.dtype} "
                         f"{list(values.shape)}")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the sinogram holds NaN or infinity")
    detectors, count = values.shape
    if detectors**2 > images.MAX_PIXELS:
        raise ValueError(f"{detectors} detectors make a picture of more than {images.MAX_PIXELS:,} pixels; is the "
                         "sinogram [detectors, angles]?")
    transpose = "it must be [detectors, angles], as scikit-image's; save sinogram.T instead"
    angles = np.asarray(operators.sparse_view_angles(count) if angles is None else angles)
    if angles.dtype.kind not in "biuf" or angles.ndim != 1 or not np.isfinite(angles).all():
        raise ValueError(f"angles are a list of finite numbers, in degrees; got {angles.dtype} {list(angles.shape)}")
    if len(angles) != count:
        raise ValueError(f"the sinogram has {count} columns for {len(angles)} angles"
                         + (f": {transpose}" if len(angles) == detectors else ""))
    sums = values.sum(axis=0), values.sum(axis=1)
    spread, other = (np.std(each) / (np.abs(np.mean(each)) + 1e-6) for each in sums)
    if spread > 0.2 and spread > 5 * other:
        raise ValueError(f"the projections of a slice have the same sum at every angle; this sinogram's rows do, its "
                         f"columns do not: {transpose}")
    if values.max() > 1.1 * detectors:
        raise ValueError(f"densities from 0 to 1 sum to at most {detectors} along a ray through {detectors} pixels, "
                         f"this one goes to {values.max():.4g}; divide it by the density that white stands for")
    return values, angles.astype(np.float64)


def sinogram_noise(values: Array) -> Array:
    """Standard deviation of white noise in sinograms ``[B, detectors, angles, C]`` -> ``[B]``, in their units.

    The median absolute third difference along the detectors over ``0.6745 sqrt(20)``: projections are smooth.

    >>> sinogram_noise(jnp.zeros((2, 8, 3, 1))).tolist()
    [0.0, 0.0]
    """
    if values.shape[1] < 4:
        return jnp.zeros(values.shape[0], values.dtype)
    rough = jnp.abs(jnp.diff(values, n=3, axis=1)).reshape(values.shape[0], -1)
    return jnp.median(rough, axis=1) / (0.6745 * 20**0.5)
