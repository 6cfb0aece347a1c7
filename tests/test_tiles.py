"""Tiles against a slow sum by hand, and what they must leave as it is."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax.restoration import Autoencoder, blended_tiles, tiled_autoencoder

X = jax.random.normal(jax.random.key(0), (2, 11, 6, 3))


def double(x):
    return x.repeat(2, 1).repeat(2, 2)


def halve(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def by_hand(function, x, starts, tile, ratio):
    """Starts (rows, columns), output pixel by output pixel."""
    total, weight = 0.0, 0.0
    for top in starts[0]:
        for left in starts[1]:
            out = np.asarray(function(x[:, top:top + tile, left:left + tile]), np.float64)
            bell = np.exp(-((np.arange(out.shape[1]) - (out.shape[1] - 1) / 2) / out.shape[1]) ** 2 / 0.02)
            around = [(0, 0)] + [(start * ratio, (side - tile - start) * ratio)
                                 for start, side in zip((top, left), x.shape[1:3])] + [(0, 0)]
            total += np.pad(out * np.outer(bell, bell)[..., None], around)
            weight += np.pad(np.outer(bell, bell)[None, ..., None], around)
    return total / weight


def test_the_sum_is_the_formula_and_the_last_tile_ends_at_the_border():
    def moved(x):  # differs with the place in the tile
        return double(jnp.cumsum(x, axis=1) + x.mean((1, 2), keepdims=True))

    out = jax.jit(blended_tiles(moved, tile=4, overlap=1))(X)
    np.testing.assert_allclose(out, by_hand(moved, X, ((0, 3, 6, 7), (0, 2)), 4, 2), atol=1e-5)


@pytest.mark.parametrize("sides", [(11, 6), (4, 9), (3, 2), (4, 4)])
def test_a_function_of_single_pixels_is_that_of_the_whole_and_a_constant_stays(sides):
    def pixelwise(x, t):
        return jnp.concatenate([x**2 * t[:, None, None, None], jnp.full_like(x, 0.7)], -1)

    x, t = jax.random.normal(jax.random.key(1), (2, *sides, 3)), jnp.asarray([1.0, 2.0])
    out = jax.jit(blended_tiles(pixelwise, tile=4, overlap=2))(x, t)
    np.testing.assert_allclose(out, pixelwise(x, t), atol=4e-6)


def test_gradients_are_those_of_the_whole():
    def loss(function):
        return lambda x, w: jnp.sum(function(x, w) ** 3)

    def pixelwise(x, w):
        return double(jnp.sin(w * x))

    w = jnp.float32(0.7)
    wanted = jax.jit(jax.grad(loss(pixelwise), (0, 1)))(X, w)
    found = jax.jit(jax.grad(loss(blended_tiles(pixelwise, tile=4, overlap=2)), (0, 1)))(X, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


def test_an_autoencoder_in_tiles():
    encode, decode = map(jax.jit, tiled_autoencoder(Autoencoder(halve, double), factor=2, tile=4, overlap=2))
    pictures = jax.random.normal(jax.random.key(1), (1, 18, 12, 3))
    np.testing.assert_allclose(encode(pictures), halve(pictures), atol=2e-6)
    np.testing.assert_allclose(decode(X), double(X), atol=2e-6)


def test_memory_depends_on_the_tile():
    """The function needs 64 numbers per pixel, also for its gradient."""
    def convolve(x, channels):
        kernel = jnp.ones((3, 3, x.shape[3], channels))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def wide(x):
        return convolve(jnp.tanh(convolve(x, 64)), 1)

    def bytes_of(function, side, grad):
        call = jax.grad(lambda x: function(x).sum()) if grad else function
        picture = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        return jax.jit(call).lower(picture).compile().memory_analysis().temp_size_in_bytes

    for grad in (False, True):
        small, large = (bytes_of(blended_tiles(wide, tile=16, overlap=8), side, grad) for side in (32, 128))
        assert large - small < 4 * 12 * (128**2 - 32**2)  # a few images of one channel
        assert large < bytes_of(wide, 128, grad) / 8


@pytest.mark.parametrize("call, words", [
    (lambda: blended_tiles(double, tile=4, overlap=4), "less than the tile of 4"),
    (lambda: blended_tiles(double, tile=4, overlap=-1), "got -1"),
    (lambda: blended_tiles(halve, tile=4, overlap=1)(jnp.ones((1, 8, 8, 3))), "must be multiples of 2")])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
