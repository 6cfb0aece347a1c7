"""The small functions that every layer shares."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import arrays

X = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))


@pytest.mark.parametrize("value", [2, 0.5, np.float32(0.5), jnp.array([1.0, 2.0]), np.array([1, 2])])
@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 4, 4, 3)])
def test_numbers_per_image_multiply_arrays_of_any_rank(value, shape):
    x = jnp.ones(shape)
    wanted = np.broadcast_to(np.asarray(value, np.float32), 2)
    np.testing.assert_array_equal(arrays.per_image(value, x) * x,
                                  np.ones(shape) * wanted.reshape(2, *[1] * (x.ndim - 1)))


def test_as_many_numbers_as_images():
    with pytest.raises(ValueError, match=r"zeta must be a number or one per image \[2\], got shape \(3,\)"):
        arrays.per_image(jnp.ones(3), X, "zeta")


def test_norms_are_per_image_and_have_a_gradient_at_zero():
    np.testing.assert_allclose(arrays.norm(X), np.linalg.norm(X.reshape(2, -1), axis=1), rtol=1e-6)
    np.testing.assert_allclose(arrays.rms(X) * 48**0.5, arrays.norm(X), rtol=1e-6)
    np.testing.assert_allclose(arrays.mean_square(X), arrays.rms(X)**2, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: arrays.norm(x).sum())(0 * X), 0 * X)
