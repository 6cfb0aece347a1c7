"""Stages of second-order degradations for pictures whose sizes are drawn while their shapes are fixed.

A picture of ``size`` ``[B, 2]`` (height, width) lies in the upper left corner of a canvas ``[B, H, W, C]``, its last
row and column repeated to the right and below.
"""
import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.operators.blur import Blur
from indigo_jax.operators.jpeg import Jpeg
from indigo_jax.operators.noise import PoissonNoise
from indigo_jax.typing import Array, Key

FILTERS = ("area", "bilinear", "bicubic")
_GAUSSIAN, _LEVEL, _IS_GRAY, _NOISE = range(4)  # what an image's key is folded with


def _indices(size: Array, length: int, mirror: bool) -> Array:
    """For each of ``length`` places the one of ``size`` samples that stands there: ``[B, length]``."""
    place, size = jnp.arange(length), size[:, None]
    if not mirror:
        return jnp.minimum(place, size - 1)
    period = jnp.maximum(2 * (size - 1), 1)
    place = place % period
    return jnp.minimum(jnp.where(place < size, place, period - place), size - 1)


def extend(x: Array, size: Array, *, mirror: bool = False) -> Array:
    """The canvas ``[B, H, W, C]`` beyond the picture of ``size`` ``[B, 2]``: its border, or its mirror image."""
    rows, columns = (_indices(size[:, axis], x.shape[1 + axis], mirror) for axis in (0, 1))
    x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)


def _weights(source: Array, target: Array, columns: int, rows: int, kind: Array) -> Array:
    """The matrix ``[rows, columns]`` that resizes ``source`` samples to ``target`` with one of :data:`FILTERS`.

    Row i beyond the target repeats its last one. As torch has them: without a filter against aliasing but for "area".
    """
    i, j = jnp.minimum(jnp.arange(rows), target - 1)[:, None], jnp.arange(columns)[None, :]
    low, high = i * source // target, -(-(i + 1) * source // target)
    area = ((j >= low) & (j < high)).astype(jnp.float32) / (high - low).astype(jnp.float32)
    centre = (i.astype(jnp.float32) + 0.5) * (source.astype(jnp.float32) / target.astype(jnp.float32)) - 0.5
    last = (source - 1).astype(jnp.float32)
    linear = jnp.maximum(1.0 - jnp.abs(jnp.clip(centre, 0.0, last) - j.astype(jnp.float32)), 0.0)
    before, cubic = jnp.floor(centre), 0.0
    for tap in (-1.0, 0.0, 1.0, 2.0):
        place = jnp.clip(before + tap, 0.0, last).astype(jnp.int32)
        cubic = cubic + _cubic(jnp.abs(centre - before - tap)) * (place == j).astype(jnp.float32)
    return jnp.stack([area, linear, cubic])[kind]


def _cubic(x, a=-0.75):
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return jnp.where(x <= 1.0, inner, ((x - 5.0) * x + 8.0) * (x * a) - 4.0 * a)


def resize_canvas(x: Array, source: Array, target: Array, canvas: tuple[int, int], kind: Array) -> Array:
    """Pictures of ``source`` ``[B, 2]`` as pictures of ``target`` ``[B, 2]`` on another canvas, filter by filter."""
    weights = jax.vmap(_weights, (0, 0, None, None, 0))
    rows = weights(source[:, 0], target[:, 0], x.shape[1], canvas[0], kind)
    columns = weights(source[:, 1], target[:, 1], x.shape[2], canvas[1], kind)
    x = jnp.einsum("bhi,biwc->bhwc", rows, x, precision="highest")
    return jnp.einsum("bwj,bhjc->bhwc", columns, x, precision="highest")


def blur(x: Array, size: Array, kernel: Array) -> Array:
    """Convolution with a kernel for each picture ``[B, h, w]``, mirrored at its borders.

    The canvas must be half a kernel larger than the picture, or as large.
    """
    return Blur(kernel)(extend(x, size, mirror=True))


def jpeg(x: Array, size: Array, keys: Key, quality: tuple[float, float]) -> Array:
    """JPEG at a whole quality of that range; colours of the last row and column may see the canvas a little."""
    level = jnp.round(rng.uniform(keys, *quality))
    return Jpeg(level)(extend(jnp.clip(x, -1.0, 1.0), size))


def where(chosen: Array, a: Array, b: Array) -> Array:
    """``a`` for the chosen images ``[B]``, ``b`` for the others."""
    return jnp.where(chosen[:, None, None, None], a, b)


def gray(x: Array) -> Array:
    """The luminance in all three channels."""
    weights = jnp.asarray([0.299, 0.587, 0.114], x.dtype)
    return jnp.broadcast_to(jnp.sum(x * weights, axis=-1, keepdims=True), x.shape)


def count_levels(x: Array, size: Array) -> Array:
    """The number of different 8-bit levels in each picture, rounded up to a power of two: ``[B]`` float32."""
    inside = (jnp.arange(x.shape[1])[:, None] < size[:, :1, None]) & (jnp.arange(x.shape[2]) < size[:, 1:, None])
    level = jnp.round(jnp.clip((x + 1.0) * 127.5, 0.0, 255.0)).astype(jnp.int32)
    level = jnp.where(inside[..., None], level, 256).reshape(x.shape[0], -1)
    seen = jax.vmap(lambda values: jnp.zeros(257).at[values].set(1.0))(level)[:, :256]
    return 2.0 ** jnp.ceil(jnp.log2(jnp.sum(seen, axis=1)) - 1e-4)


def add_noise(x: Array, size: Array, keys: Key, *, gaussian: float, sigma_255: tuple[float, float],
              poisson: tuple[float, float], alike: float) -> Array:
    """Gaussian or photon noise, clipped to ``[-1, 1]``.

    Args:
        x, size: the pictures.
        keys: one per image.
        gaussian: probability of Gaussian noise.
        sigma_255: of Gaussian noise, on the 0..255 scale.
        poisson: factors of photon noise with as many photons as :func:`count_levels` says.
        alike: probability that all channels get the same noise.
    """
    is_alike = rng.uniform(rng.fold(keys, _IS_GRAY)) < alike
    is_gaussian = rng.uniform(rng.fold(keys, _GAUSSIAN)) < gaussian
    share, draw = rng.uniform(rng.fold(keys, _LEVEL)), rng.fold(keys, _NOISE)

    def level(limits):
        return (limits[0] + (limits[1] - limits[0]) * share)[:, None, None, None]

    light = jnp.round(jnp.clip((x + 1.0) * 127.5, 0.0, 255.0)) / 127.5 - 1.0
    light = where(is_alike, gray(light), light)
    photons = PoissonNoise(count_levels(light, size))(light, keys=draw) - light
    noise = where(is_gaussian, level(sigma_255) / 127.5 * rng.normal(draw, x), level(poisson) * photons)
    return jnp.clip(x + where(is_alike, noise[..., :1], noise), -1.0, 1.0)
