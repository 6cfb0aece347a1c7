"""The law of a kernel whose steps are affine, exactly: no draws, hence no chance."""
from typing import Any, Callable, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import rng
from indigo_jax.typing import Kernel


class Law(NamedTuple):
    """Of results ``[D]``: ``mean + columns . n`` for standard normal n."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def std(self):
        """Of each element ``[D]``."""
        return np.sqrt(np.diag(self.covariance))


def draws(kernel: Kernel, x) -> tuple[list[int], list[int]]:
    """How many normal numbers ``init`` draws for an image, and how many a step: one entry for each call."""
    def sizes(function, *arguments):
        found = []

        def normal(keys, x):
            found.append(x[0].size)
            return jnp.zeros_like(x)

        with mock.patch.object(rng, "normal", normal):
            return found, jax.eval_shape(function, *arguments)

    key = rng.image_keys(0, [0])
    begin, state = sizes(kernel.init, jnp.asarray(x, jnp.float32)[None], key)
    return begin, sizes(kernel.step, key, state, 0)[0]


def affine_law(make: Callable[[Any], Kernel], mean, std=0.0, y=None) -> Law:
    """The law of an affine kernel's result, in one run of the kernel itself.

    A normal number that is drawn, for the start or by a step, is 1 for an image of its own and 0 for all others: what
    that image ends with, less what the image without any ends with, is a column of the law. Draws of a loop inside of a
    step are not told apart.

    Args:
        make: ``make(y) -> kernel`` for measurements ``[B, ...]``, or None.
        mean, std: of ``x_init``, whose elements are independent; mean as one image ``[H, W, C]``, std a number.
        y: one measurement ``[1, ...]``, or None.
    """
    mean = jnp.asarray(mean, jnp.float32)
    one, size = make(y), mean.size
    begin, each = draws(one, mean)
    count = 1 + size + sum(begin) + one.num_steps * sum(each)
    keys, row = jnp.repeat(rng.image_keys(0, [0]), count), jnp.arange(count)[:, None]

    def own(first, x):
        """1 where an image's number is that of the element, counted from ``first``."""
        return (row == first + jnp.arange(x[0].size)).astype(x.dtype).reshape(x.shape)

    def drawn_from(first):
        def normal(keys, x):
            nonlocal first
            ones, first = own(first, x), first + x[0].size
            return ones

        return mock.patch.object(rng, "normal", normal)

    def run(x, y):
        kernel = make(y)

        def step(i, state):
            with drawn_from(1 + size + sum(begin) + i * sum(each)):
                return kernel.step(keys, state, i)[0]

        with drawn_from(1 + size):
            state = kernel.init(x + std * own(1, x), keys)
        return jax.lax.fori_loop(0, kernel.num_steps, step, state).x

    repeated = [None if array is None else jnp.repeat(array, count, axis=0) for array in (mean[None], y)]
    x = np.asarray(jax.jit(run)(*repeated), np.float64).reshape(count, -1)
    columns = x[1:] - x[0]
    return Law(x[0], columns.T @ columns)
