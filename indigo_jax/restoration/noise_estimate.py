"""How noisy a photograph is, also where its noise is correlated from pixel to pixel, as that of cameras and films."""
import math

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.restoration.kernel_estimate import noise_level
from indigo_jax.typing import Array

_SIDE = 12  # pixels of a block
_QUANTILES = (0.03, 0.1)  # of the blocks, from the flattest
_BIAS = 1.04  # the flattest of many blocks look less noisy than they are; measured on white noise
_FLOOR = 1.3  # ratio of the quantiles up to which the flattest blocks are alike, so that what they show is noise
_FEWEST = 24  # blocks
_CLIPPED = 0.05  # share of a block's pixels that may be black or white
_LEFT = 0.1  # share of the frequencies, those of which a blur has left least
_PATCH = 5  # pixels of a patch
_PATCHES = 60_000  # that are looked at, about
_ENOUGH = 4  # patches for each number in one
_WHITE = 0.7  # least eigenvalue of white noise, of their mean; 0.46 where it is blurred by half a pixel


@jax.jit
def flat_noise_level(y: Array) -> Array:
    """Standard deviation of the noise in pictures ``[B, H, W, C]`` -> ``[B]``, in the units of y (clipped to [-1, 1]).

    What the flattest blocks of 12 x 12 pixels show beside a plane (blocks that are black or white in more than 5 % of
    their pixels left out). Where the flattest 3 and 10 per cent are not alike, what they show is texture, and the
    finest wavelets (:func:`noise_level`) are believed where they say less; so are they in pictures of fewer than 24
    blocks.

    Wavelets alone see 0.55 of noise that is blurred by 0.6 pixels, this 0.9, measured on twelve photographs.

    Source: ours; blocks as in Pyatykh et al., TIP 2013, without its principal components.

    >>> flat_noise_level(jnp.zeros((2, 8, 8, 3))).tolist()
    [0.0, 0.0]
    """
    fine = noise_level(y)
    rows, columns = y.shape[1] // _SIDE, y.shape[2] // _SIDE
    if rows * columns < _FEWEST:
        return fine
    blocks = y[:, :rows * _SIDE, :columns * _SIDE].reshape(y.shape[0], rows, _SIDE, columns, _SIDE, y.shape[3])
    blocks = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(y.shape[0], -1, _SIDE**2)
    plane = jnp.asarray(_plane(), y.dtype)
    rough = blocks - (blocks @ plane) @ plane.T
    spread = jnp.sqrt(jnp.sum(rough**2, axis=-1) / (_SIDE**2 - 3))
    inside = jnp.mean(jnp.abs(blocks) > 0.999, axis=-1) <= _CLIPPED
    enough = jnp.sum(inside, axis=1, keepdims=True) >= _FEWEST
    spread = jnp.sort(jnp.where(inside | ~enough, spread, jnp.inf), axis=1)
    count = jnp.where(enough[:, 0], jnp.sum(inside, axis=1), spread.shape[1])
    last = jnp.asarray(count - 1, jnp.float32)
    low, high = (jnp.take_along_axis(spread, (share * last).astype(jnp.int32)[:, None], axis=1)[:, 0]
                 for share in _QUANTILES)
    return jnp.where((low < fine) | (high < _FLOOR * low), _BIAS * low, fine)


def blurred_noise_level(y: Array, kernel: Array) -> Array:
    """Standard deviation of white noise in pictures ``[B, H, W, C]`` that a known kernel has blurred -> ``[B]``.

    Of the tenth of all frequencies of which the blur has left least, what is there is noise: their median power under a
    Hann window. Texture that other estimates take for noise is blurred, so it is not there. Too large for a kernel that
    leaves something of all frequencies; too small where compression has taken the noise out of just these.

    Args:
        y: blurred pictures, in any units.
        kernel: ``[h, w]``, not larger than they are.

    Errors:
        ValueError for a larger kernel.

    Source: ours. The power of a frequency of white noise has an exponential distribution, of median ``ln 2``.

    >>> float(blurred_noise_level(jnp.zeros((1, 16, 16, 3)), jnp.full((3, 3), 1 / 9))[0])
    0.0
    """
    height, width = y.shape[1:3]
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise ValueError(f"a kernel of {kernel.shape} does not fit into pictures of {(height, width)}")
    rows, columns = (jnp.hanning(side + 2)[1:-1] for side in (height, width))
    window = jnp.outer(rows, columns).astype(y.dtype)
    centred = (y - jnp.mean(y, axis=(1, 2), keepdims=True)) * window[..., None]
    power = jnp.abs(jnp.fft.rfft2(centred, axes=(1, 2)))**2 / jnp.sum(window**2)
    left = jnp.abs(jnp.fft.rfft2(kernel, (height, width)))
    counted = (left <= jnp.quantile(left, _LEFT))[None, ..., None]
    return jnp.sqrt(jnp.nanmedian(jnp.where(counted, power, jnp.nan), axis=(1, 2, 3)) / math.log(2.0))


def patch_noise_level(y: Array) -> tuple[Array, Array]:
    """Standard deviation of white noise in pictures ``[B, H, W, C]``, in the units of y, and whether it is white.

    Patches of a photograph vary in a few directions, white noise in all: the eigenvalues of the covariance of patches
    of 5 x 5 pixels and all channels end in a flat tail, which begins where the mean of what is left is no longer above
    its median. Texture hardly matters: twelve photographs of true level 5 (of 255) show 5.2 in the median and 5.9 at
    the worst, where :func:`flat_noise_level` says 6.5 and 14. Where the tail is not flat the noise is correlated, or
    there is none. Patches of which more than 5 % are black or white are left out.

    Returns:
        The level ``[B]`` and whether it is to be believed, bool ``[B]``; not in pictures of fewer than 300 patches.

    Source: Chen, Zhu & Heng, An Efficient Statistical Method for Image Noise Level Estimation, ICCV 2015, Alg. 1; size
    and number of patches and the test for whiteness are ours.

    >>> level, believed = patch_noise_level(0.1 * jax.random.normal(jax.random.key(0), (1, 64, 64, 3)))
    >>> round(float(level[0]), 2), bool(believed[0])
    (0.1, True)
    """
    step = max(1, round((y.shape[1] * y.shape[2] / _PATCHES)**0.5)) | 1  # odd: not in step with blocks of JPEG
    rows, columns = ((side - _PATCH) // step + 1 for side in y.shape[1:3])
    size = _PATCH**2 * y.shape[3]
    if min(y.shape[1:3]) < _PATCH or rows * columns < _ENOUGH * size:
        return jnp.zeros(y.shape[0], y.dtype), jnp.zeros(y.shape[0], bool)
    parts = [y[:, i:i + (rows - 1) * step + 1:step, j:j + (columns - 1) * step + 1:step]
             for i in range(_PATCH) for j in range(_PATCH)]
    patches = jnp.stack(parts, axis=3).reshape(y.shape[0], rows * columns, size)
    inside = jnp.mean(jnp.abs(patches) > 0.999, axis=2) <= _CLIPPED
    inside = jnp.where(jnp.sum(inside, axis=1, keepdims=True) >= _ENOUGH * size, inside, True).astype(y.dtype)
    return jax.vmap(_flat_tail)(patches, inside)


def _flat_tail(patches, weights):
    """Level and whiteness of patches ``[N, size]`` of which some have weight 0."""
    count = jnp.sum(weights)
    centred = (patches - weights @ patches / count) * weights[:, None]
    values = jnp.linalg.eigvalsh(jnp.matmul(centred.T, centred, precision="highest") / count)  # ascending
    size = values.shape[0]
    means = jnp.cumsum(values) / jnp.arange(1, size + 1, dtype=values.dtype)  # of the tail of 1, 2, ... values
    medians = (values[jnp.arange(size) // 2] + values[(jnp.arange(size) + 1) // 2]) / 2
    longest = size - 1 - jnp.argmax((means <= medians)[::-1])
    level = jnp.maximum(means[longest], 0)
    return jnp.sqrt(level), values[0] > _WHITE * level


def _plane():
    """Orthonormal ``[144, 3]``: the planes over a block."""
    down, across = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    return np.linalg.qr(np.stack([np.ones(_SIDE**2), down.ravel(), across.ravel()], axis=1))[0]
