"""The blur kernels of Real-ESRGAN: six shapes of bivariate bells and the circular low-pass filter, one per image."""
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from indigo_jax import rng
from indigo_jax.typing import Array, Key

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # of the kinds, in all published sets
_NODES = 64  # of the integral of a Bessel function; enough for arguments up to 60
_SIDE, _KIND, _SIGMA, _OTHER, _ANGLE, _HALF, _SHAPE, _IS_SINC, _CUTOFF = range(9)  # what a key is folded with


class Kernels(NamedTuple):
    """How kernels are drawn. Ranges are ``(low, high)`` of a uniform draw.

    Attributes:
        sides: smallest and largest side in pixels, both odd; the odd ones between them are equally likely.
        sigma: standard deviation along each axis in pixels.
        generalized: exponent of generalised bells: with even chances from the part below 1 or above it.
        plateau: exponent of plateaus, likewise.
        sinc: share of low-pass filters.
        shares: probabilities of :data:`KINDS` among the others.
    """

    sides: tuple[int, int]
    sigma: tuple[float, float]
    generalized: tuple[float, float] = (1.0, 1.0)
    plateau: tuple[float, float] = (1.0, 1.0)
    sinc: float = 0.0
    shares: tuple[float, ...] = SHARES


def draw_kernels(keys: Key, how: Kernels) -> Array:
    """Kernels ``[B, side, side]``, each of sum 1, in an array of the largest side; smaller ones have zeros around."""
    side, index = draw_sides(keys, how.sides), choose(rng.fold(keys, _KIND), how.shares)
    low, high = how.sigma
    first, second = (rng.uniform(rng.fold(keys, slot), low, high) for slot in (_SIGMA, _OTHER))
    second = jnp.where(index % 2 == 0, first, second)
    angle = rng.uniform(rng.fold(keys, _ANGLE), -np.pi, np.pi)
    shape = jnp.where(index < 4, _exponent(keys, how.generalized), _exponent(keys, how.plateau))
    bells = bell(first, second, angle, jnp.where(index < 2, 1.0, shape), index >= 4, how.sides[1])
    lowest = jnp.where(side < 13, np.pi / 3, np.pi / 5)
    cutoff = lowest + (np.pi - lowest) * rng.uniform(rng.fold(keys, _CUTOFF))
    is_sinc = rng.uniform(rng.fold(keys, _IS_SINC)) < how.sinc
    return cut(jnp.where(is_sinc[:, None, None], low_pass(cutoff, how.sides[1]), bells), side)


def draw_low_pass(keys: Key, sides: tuple[int, int], share: float) -> Array:
    """Low-pass filters with cutoffs of pi/3 to pi for a share of the images, no filter for the others."""
    cutoff = rng.uniform(rng.fold(keys, _CUTOFF), np.pi / 3, np.pi)
    is_sinc = rng.uniform(rng.fold(keys, _IS_SINC)) < share
    side = jnp.where(is_sinc, draw_sides(keys, sides), 1)
    return cut(low_pass(cutoff, sides[1]), side)


def draw_sides(keys: Key, sides: tuple[int, int]) -> Array:
    """Odd sides ``[B]`` int32, evenly from the smallest to the largest."""
    count = (sides[1] - sides[0]) // 2 + 1
    step = jnp.minimum((rng.uniform(rng.fold(keys, _SIDE)) * count).astype(jnp.int32), count - 1)
    return sides[0] + 2 * step


def cut(kernel: Array, side: Array) -> Array:
    """The inner ``side`` x ``side`` of kernels ``[B, S, S]``, zero outside, brought to sum 1."""
    offset = jnp.abs(jnp.arange(kernel.shape[-1]) - kernel.shape[-1] // 2)
    inside = offset <= (side[:, None] - 1) // 2
    kernel = jnp.where(inside[:, :, None] & inside[:, None, :], kernel, 0.0)
    return kernel / jnp.sum(kernel, axis=(1, 2), keepdims=True)


def bell(first: Array, second: Array, angle: Array, exponent: Array, is_plateau: Array, size: int) -> Array:
    """``exp(-q^b / 2)``, or plateaus ``1 / (1 + q^b)``; ``q = r' S^-1 r``, S of two deviations and an angle.

    All ``[B]`` -> ``[B, size, size]``, not normalised.
    """
    offset = jnp.arange(size, dtype=jnp.float32) - size // 2
    first, second, angle, exponent, is_plateau = (
        value[:, None, None] for value in (first, second, angle, exponent, is_plateau))
    along = jnp.cos(angle) * offset[None, None, :] + jnp.sin(angle) * offset[None, :, None]
    across = jnp.cos(angle) * offset[None, :, None] - jnp.sin(angle) * offset[None, None, :]
    q = (along / first) ** 2 + (across / second) ** 2
    power = jnp.where(q > 0, jnp.maximum(q, 1e-12) ** exponent, 0.0)
    return jnp.where(is_plateau, 1.0 / (1.0 + power), jnp.exp(-0.5 * power))


def low_pass(cutoff: Array, size: int) -> Array:
    """The ideal circular low-pass filter ``c J_1(c r) / (2 pi r)``, ``c^2 / (4 pi)`` at r = 0: ``[B, size, size]``.

    Not normalised: its sum tends to 1 with the size.
    """
    offset = np.arange(size) - size // 2
    radius = np.hypot(offset[:, None], offset[None, :]).astype(np.float32)
    cutoff = cutoff[:, None, None]
    bessel = _bessel_1(cutoff * radius)
    ring = cutoff * bessel / (2.0 * np.pi * np.maximum(radius, 0.5))
    return jnp.where(radius == 0, cutoff**2 / (4.0 * np.pi), ring)


def _bessel_1(x):
    """``J_1(x) = 1 / pi  int_0^pi cos(s - x sin s) ds``: equal steps are exact for such integrals."""
    angle = ((np.arange(_NODES) + 0.5) * np.pi / _NODES).astype(np.float32)
    return jnp.mean(jnp.cos(angle - x[..., None] * np.sin(angle)), axis=-1)


def choose(keys: Key, probabilities: tuple[float, ...]) -> Array:
    """An index for each image ``[B]``, with these probabilities (divided by their sum)."""
    edges = np.cumsum(probabilities)[:-1] / np.sum(probabilities)
    return jnp.sum(rng.uniform(keys)[:, None] >= jnp.asarray(edges, jnp.float32), axis=1)


def _exponent(keys, limits):
    above = rng.uniform(rng.fold(keys, _HALF)) >= 0.5
    share = rng.uniform(rng.fold(keys, _SHAPE))
    return jnp.where(above, 1.0 + share * (limits[1] - 1.0), limits[0] + share * (1.0 - limits[0]))
