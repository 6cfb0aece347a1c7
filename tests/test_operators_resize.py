"""Resizing against MATLAB's convention, Pillow and hand-made answers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import operators
from tests.paths import SHARED, needs_shared


def _image(*shape):
    return np.random.default_rng(sum(shape)).random(shape).astype(np.float32)


@needs_shared
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_equals_matlab_imresize(factor):
    reference = np.load(SHARED / "fixtures" / "matlab_imresize.npz")
    x = jnp.asarray(reference["input"], jnp.float32)[None]
    np.testing.assert_allclose(operators.downsample(factor)(x)[0], reference[f"down{factor}"], atol=1e-5)
    np.testing.assert_allclose(operators.upsample(factor)(x)[0], reference[f"up{factor}"], atol=1e-5)


def test_bicubic_weights_by_hand():
    # shrinking by 2: Keys' cubic (a = -1/2) at offsets +-1/4, +-3/4, +-5/4, +-7/4, halved
    half = np.array([0.43359375, 0.11328125, -0.03515625, -0.01171875])
    taps = np.concatenate([half[::-1], half])
    impulse = jnp.asarray(np.eye(32)[None, :, :, None], jnp.float32)  # each column is an impulse in another row
    got = np.asarray(operators.resize(16, 32)(impulse))[0, 8, :, 0]
    np.testing.assert_allclose(got[13:21], taps, atol=1e-6)
    np.testing.assert_allclose(np.delete(got, range(13, 21)), 0.0, atol=1e-7)


@pytest.mark.parametrize("size, filter_name, method", [
    ((12, 9), Image.Resampling.BICUBIC, "bicubic"), ((12, 9), Image.Resampling.BILINEAR, "bilinear"),
    ((12, 8), Image.Resampling.BOX, "area"), ((80, 70), Image.Resampling.BICUBIC, "bicubic"),
    ((12, 8), Image.Resampling.NEAREST, "nearest"), ((37, 48), Image.Resampling.NEAREST, "nearest"),
])
def test_equals_pillow_away_from_the_edge(size, filter_name, method):
    x = _image(36, 40)
    want = np.asarray(Image.fromarray(x).resize(size[::-1], filter_name))
    got = np.asarray(operators.resize(*size, method=method)(jnp.asarray(x)[None, :, :, None])[0, :, :, 0])
    margin = 0 if method in ("nearest", "area") else 5 if size[0] > 36 else 2
    inside = (slice(margin, size[0] - margin), slice(margin, size[1] - margin))
    np.testing.assert_allclose(got[inside], want[inside], atol=1e-5)


def test_area_is_the_block_mean():
    x = _image(2, 12, 8, 3)
    want = x.reshape(2, 4, 3, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(operators.resize(4, 4, method="area")(jnp.asarray(x)), want, atol=1e-6)
    # 5 -> 2: each output covers 2.5 pixels
    row = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(operators.resize(2, 1, method="area")(row).ravel(), [1.8, 4.2], atol=1e-6)
    # by the factor 2, the last output covers one pixel
    np.testing.assert_allclose(operators.downsample(2, method="area")(row).ravel(), [1.5, 3.5, 5.0], atol=1e-6)


def test_nearest_takes_the_pixel_under_the_centre():
    row = jnp.arange(8.0).reshape(1, 8, 1, 1)
    np.testing.assert_array_equal(operators.resize(2, 1, method="nearest")(row).ravel(), [2.0, 6.0])
    np.testing.assert_array_equal(operators.upsample(2, method="nearest")(row)[:, :, 0].ravel(), np.repeat(range(8), 2))


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "area", "nearest"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_constants_sizes_and_identity(method, factor):
    x = jnp.full((1, 10, 7, 2), -0.4)
    small = operators.downsample(factor, method=method)(x)
    assert small.shape == (1, -(-10 // factor), -(-7 // factor), 2)
    large = operators.upsample(factor, method=method)(small)
    assert large.shape == (1, small.shape[1] * factor, small.shape[2] * factor, 2)
    for y in (small, large, operators.super_resolution(factor, method=method)(x)):
        np.testing.assert_allclose(y, -0.4, atol=1e-6)
    if factor == 1:
        noise = jnp.asarray(_image(1, 10, 7, 2))
        np.testing.assert_allclose(operators.downsample(1, method=method)(noise), noise, atol=1e-6)


def test_super_resolution_keeps_size_and_place():
    x = jnp.asarray(_image(1, 33, 30, 3))
    blurred = operators.super_resolution(4)(x)
    assert blurred.shape == x.shape
    want = operators.upsample(4)(operators.downsample(4)(x))[:, :33, :30]
    np.testing.assert_allclose(blurred, want, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(64.0)[:, None, None], (1, 64, 8, 1)) / 64.0
    np.testing.assert_allclose(operators.super_resolution(4)(ramp)[:, 16:48], ramp[:, 16:48], atol=1e-5)


def test_large_steps_match_the_dense_matrix():
    """The adjoint of a resize is the transpose of its matrix, entry by entry."""
    operator = operators.resize(3, 2)
    basis = jnp.eye(7 * 5).reshape(35, 7, 5, 1)
    matrix = np.asarray(operator(basis)).reshape(35, 6).T
    dual = jnp.eye(6).reshape(6, 3, 2, 1)
    transposed = np.asarray(operator.adjoint(dual, shape=(7, 5))).reshape(6, 35)
    np.testing.assert_allclose(transposed, matrix, atol=1e-7)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)


def test_adjoint_says_which_size_it_needs():
    with pytest.raises(ValueError, match="shape="):
        operators.resize(3, 2).adjoint(jnp.ones((1, 3, 2, 1)))
    with pytest.raises(ValueError, match="adjoint"):
        operators.downsample(2).adjoint(jnp.ones((1, 3, 2, 1)), shape=(9, 4))
    assert operators.downsample(2).adjoint(jnp.ones((1, 3, 2, 1)), shape=(5, 3)).shape == (1, 5, 3, 1)


@pytest.mark.parametrize("make", [
    lambda: operators.resize(0, 4), lambda: operators.resize(4, 2.5), lambda: operators.downsample(0),
    lambda: operators.upsample(1.5), lambda: operators.super_resolution(-2),
    lambda: operators.resize(4, 4, method="lanczos"), lambda: operators.downsample(2)(jnp.zeros((4, 4, 3))),
])
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="at least 1|method must be|batch axis"):
        make()


def test_bicubic_is_differentiable_everywhere():
    x = jnp.asarray(_image(1, 9, 9, 1))
    gradient = jax.grad(lambda image: jnp.sum(operators.downsample(3)(image) ** 2))(x)
    y = operators.downsample(3)(x)
    np.testing.assert_allclose(gradient, 2.0 * operators.downsample(3).adjoint(y), atol=1e-6)
