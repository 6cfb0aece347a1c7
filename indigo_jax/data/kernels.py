"""Random blur kernels as pictures, drawn when asked for: to train the prior of kernels that BlindDPS needs."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import operators, rng
from indigo_jax.data.drawn import Drawn, of_split
from indigo_jax.operators.kernels import picture_of

MIN_SIZE = 5
_TOGETHER = 1000  # kernels that are drawn as one


class BlurKernels(Drawn):
    """A source of random blur kernels: every other one a camera shake, the others Gaussians.

    Pictures are uint8 ``[size, size, 3]``, grey, black where a kernel is 0, its largest weight white
    (:func:`indigo_jax.restoration.picture_of`). Picture i depends on (seed, start + i) alone. Shakes are those of
    :func:`indigo_jax.operators.motion_kernel`, their extent evenly distributed from 3 pixels to ``size``; Gaussians are
    round, of standard deviations from 0.5 pixels to ``size / 3``.

    Args:
        count: how many pictures.
        size: their side in pixels, odd, at least 5.
        seed: 0 ... 2**32 - 1.
        start: number of the first one.

    Errors:
        ValueError for numbers out of range; IndexError for a picture that it does not have.

    >>> BlurKernels(2, 9, 0)[1]["image"].shape
    (9, 9, 3)
    """

    def __init__(self, count: int, size: int, seed: int, *, start: int = 0):
        super().__init__("kernels", count, size, seed, start, least=MIN_SIZE, draw=_draw)
        if size % 2 == 0:
            raise ValueError(f"kernels: size is {size}; it must be odd: {size + 1}")


def open_kernels(size: str, split: str) -> BlurKernels:
    """``kernels:SIZE``: 20,000 pictures to train on and 200 others for validation, all of seed 0."""
    if not (size.isascii() and size.isdigit() and int(size) >= MIN_SIZE and int(size) % 2):
        raise ValueError(f"kernels:{size}: give the side of the kernels, an odd number of at least {MIN_SIZE}, as "
                         "kernels:9")
    return BlurKernels(size=int(size), **of_split(split))


def _draw(seed, number, size):
    block, slot = divmod(number, _TOGETHER)
    return _block(seed, block, size)[slot]


@functools.lru_cache(maxsize=64)
def _block(seed, block, size):
    """uint8 ``[_TOGETHER, size, size, 3]``."""
    numbers = np.arange(block * _TOGETHER, (block + 1) * _TOGETHER)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # threads that read data leave accelerators alone
        return np.asarray(_drawn(rng.image_keys(seed, numbers), numbers % 2, size))


@functools.partial(jax.jit, static_argnums=2)
def _drawn(keys, gaussian, size):
    shakes = operators.motion_kernel(rng.fold(keys, 0), size=size, length=rng.uniform(rng.fold(keys, 1), 3.0, size))
    widths = rng.uniform(rng.fold(keys, 2), 0.5, size / 3)
    rounds = operators.gaussian_kernel(widths, size)
    pictures = picture_of(jnp.where(gaussian[:, None, None] == 1, rounds, shakes))
    return jnp.repeat(jnp.round(127.5 * (pictures + 1)).astype(jnp.uint8), 3, axis=3)
