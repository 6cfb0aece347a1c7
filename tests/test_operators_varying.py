"""Blur that changes across the picture, against a dense matrix and against ordinary blur where it does not change."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators

NUMPY_MODES = {"reflect": "reflect", "symmetric": "symmetric", "edge": "edge", "periodic": "wrap", "zero": "constant"}


def _random(seed, *shape):
    return np.random.default_rng(seed).random(shape)


def _kernels(*shape):
    kernels = _random(1, *shape)
    return kernels / kernels.sum((-2, -1), keepdims=True)


def _pixel_by_pixel(x, kernels, weights, boundary, correlate):
    """Every output pixel on its own with its own kernel, ``[H, W, C]``, float64."""
    h, w = kernels.shape[-2:]
    after = ((h - 1) // 2, (w - 1) // 2) if correlate else (h // 2, w // 2)
    padded = np.pad(x, ((h - 1 - after[0], after[0]), (w - 1 - after[1], after[1]), (0, 0)), NUMPY_MODES[boundary])
    out = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            kernel = np.tensordot(weights[:, i, j], kernels, 1)
            kernel = kernel if correlate else kernel[::-1, ::-1]
            out[i, j] = np.tensordot(kernel, padded[i:i + h, j:j + w], 2)
    return out


@pytest.mark.parametrize("boundary, correlate, size", [
    ("reflect", False, (3, 5)), ("symmetric", True, (4, 3)), ("edge", False, (9, 8)), ("periodic", False, (3, 3)),
    ("zero", True, (9, 9))])
def test_every_pixel_has_its_own_blend_of_the_kernels(boundary, correlate, size):
    x, kernels = _random(0, 1, 9, 12, 2) - 0.5, _kernels(4, *size)
    weights = _random(2, 4, 9, 12)
    weights /= weights.sum(0)
    got = operators.varying_blur(kernels, weights, boundary=boundary, correlate=correlate)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got[0], _pixel_by_pixel(x[0], kernels, weights, boundary, correlate), atol=2e-6)


def test_two_halves_with_two_kernels_are_two_blurs():
    x, kernels = jnp.asarray(_random(3, 1, 6, 8, 3), jnp.float32), _kernels(2, 3, 3)
    left = np.zeros((6, 8))
    left[:, :4] = 1
    got = operators.varying_blur(kernels, np.stack([left, 1 - left]))(x)
    np.testing.assert_allclose(got[:, :, :4], operators.blur(kernels[0])(x)[:, :, :4], atol=1e-6)
    np.testing.assert_allclose(got[:, :, 4:], operators.blur(kernels[1])(x)[:, :, 4:], atol=1e-6)


@pytest.mark.parametrize("size", [5, 9])
def test_constant_weights_are_the_ordinary_blur_with_the_mean_kernel(size):
    x, kernels = jnp.asarray(_random(4, 2, 10, 7, 3), jnp.float32), _kernels(2, 3, size, size)  # a set per image
    share = np.array([0.2, 0.3, 0.5])
    weights = np.broadcast_to(share[:, None, None], (3, 10, 7))
    want = operators.blur(np.einsum("r,brij->bij", share, kernels))(x)
    np.testing.assert_allclose(operators.varying_blur(kernels, weights)(x), want, atol=2e-6)
    same = np.broadcast_to(kernels[:, :1], kernels.shape)
    np.testing.assert_allclose(operators.varying_blur(same, operators.patch_weights(10, 7, 3, 1))(x),
                               operators.blur(kernels[:, 0])(x), atol=2e-6)


def test_weights_before_the_convolution_are_the_adjoint_of_the_mirrored_kernels():
    """What efficient filter flow computes, as the docstring says; a periodic boundary has no border."""
    x, kernels = jnp.asarray(_random(5, 1, 8, 9, 1), jnp.float32), _kernels(3, 3, 5)
    weights = operators.patch_weights(8, 9, 1, 3)
    scattered = sum(operators.blur(kernels[r], boundary="periodic")(weights[r][None, :, :, None] * x) for r in range(3))
    mirrored = operators.varying_blur(kernels, weights, boundary="periodic", correlate=True)
    np.testing.assert_allclose(mirrored.adjoint(x), scattered, atol=1e-6)


def test_adjoint_is_the_transposed_matrix():
    operator = operators.varying_blur(_kernels(4, 3, 3), operators.patch_weights(4, 5, 2, 2))
    basis = jnp.eye(20, dtype=jnp.float32).reshape(20, 4, 5, 1)
    forward, backward = operator(basis).reshape(20, 20), operator.adjoint(basis).reshape(20, 20)
    np.testing.assert_allclose(backward, forward.T, atol=1e-6)
    assert float(jnp.abs(forward - forward.T).max()) > 0.05


def test_flat_pictures_stay_flat():
    x = jnp.full((1, 8, 8, 1), -0.7)
    np.testing.assert_allclose(operators.varying_blur(_kernels(6, 3, 4), operators.patch_weights(8, 8, 2, 3))(x), x,
                               atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6, 2, 3), (1, 1, 2, 2), (5, 7, 5, 7), (4, 9, 1, 1), (3, 20, 7, 4)], ids=str)
def test_patch_weights_are_a_partition_of_unity(shape):
    height, width, rows, columns = shape
    weights = np.asarray(operators.patch_weights(*shape))
    assert weights.shape == (rows * columns, height, width) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(0), 1.0, atol=1e-6)


def test_patch_weights_peak_in_their_patch_and_reproduce_a_ramp():
    weights = np.asarray(operators.patch_weights(9, 12, 3, 4))
    for r in range(12):
        assert np.unravel_index(weights[r].argmax(), (9, 12))[0] // 3 == r // 4
        assert np.unravel_index(weights[r].argmax(), (9, 12))[1] // 3 == r % 4
        assert weights[r, 3 * (r // 4) + 1, 3 * (r % 4) + 1] == 1
    ramp = np.einsum("r,rhw->hw", 3.0 * (np.arange(12) % 4) + 1, weights)  # values at the centres: their column
    np.testing.assert_allclose(ramp[:, 1:-1], np.broadcast_to(np.arange(1, 11), (9, 10)), atol=1e-5)


def test_gradient_reaches_kernels_and_weights_inside_jit():
    x = jnp.asarray(_random(6, 1, 6, 6, 1), jnp.float32)

    @jax.jit
    def slopes(kernels, weights):
        return jax.grad(lambda k, w: jnp.sum(operators.varying_blur(k, w)(x)**2), (0, 1))(kernels, weights)

    for slope in slopes(jnp.asarray(_kernels(2, 3, 3), jnp.float32), operators.patch_weights(6, 6, 1, 2)):
        assert np.isfinite(slope).all() and (np.abs(slope).reshape(2, -1).max(1) > 0).all()


@pytest.mark.parametrize("make, words", [
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.ones((2, 4, 4))), "sums to between 2 and 2"),
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.full((2, 4, 4), np.nan)), "weights holds nan"),
    (lambda: operators.varying_blur(2 * _kernels(2, 3, 3), np.full((2, 4, 4), 0.5)), "kernel sums to"),
    (lambda: operators.varying_blur(_kernels(3, 3, 3), np.full((2, 4, 4), 0.5)), "got 2 and 3"),
    (lambda: operators.varying_blur(_kernels(3, 3), np.full((2, 4, 4), 0.5)), r"kernels are \[R"),
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.ones((4, 4))), r"weights are \[R"),
    (lambda: operators.varying_blur(_kernels(3, 2, 3, 3), np.full((2, 2, 4, 4), 0.5)), "kernels for 3 images"),
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.full((2, 4, 4), 0.5), boundary="wrap"), "boundary"),
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.full((2, 4, 4), 0.5))(jnp.zeros((1, 5, 4, 3))), "do not fit"),
    (lambda: operators.varying_blur(_kernels(2, 3, 3), np.full((3, 2, 4, 4), 0.5))(jnp.zeros((1, 4, 4, 3))),
     "do not fit"),
    (lambda: operators.varying_blur(_kernels(3, 2, 3, 3), np.full((2, 4, 4), 0.5))(jnp.zeros((1, 4, 4, 3))),
     "3 kernels for 1 images"),
    (lambda: operators.patch_weights(4, 4, 0, 2), "at least 1"),
])
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
