"""How noisy a photograph is, also where its noise is correlated from pixel to pixel, as that of cameras and films."""
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


def _plane():
    """Orthonormal ``[144, 3]``: the planes over a block."""
    down, across = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    return np.linalg.qr(np.stack([np.ones(_SIDE**2), down.ravel(), across.ravel()], axis=1))[0]
