"""MRI: against numpy's Fourier transform, zero filling, and the closed form of the proximal step."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, rng

X = jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (2, 12, 9, 3)), jnp.float32)


def _spectrum(x):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, (1, 2)), axes=(1, 2), norm="ortho"), (1, 2))


def test_samples_are_those_of_the_fourier_transform():
    mask, coils = operators.cartesian_mask(jax.random.key(0), 12, 9), operators.coil_sensitivities(12, 9, 3)
    y = np.asarray(operators.mri(mask, coils)(X))
    wanted = np.asarray(mask)[..., None] * _spectrum(np.asarray(coils) * np.asarray(X).mean(axis=3, keepdims=True))
    np.testing.assert_allclose(y[..., :3] + 1j * y[..., 3:], wanted, atol=1e-5)


@pytest.mark.parametrize("num_coils", [None, 4])
def test_with_all_samples_zero_filling_gives_the_picture(num_coils):
    coils = None if num_coils is None else operators.coil_sensitivities(12, 9, num_coils)
    operator = operators.mri(np.ones((12, 9)), coils)
    assert operators.check_adjoint(operator, X.shape) < 1e-6
    grey = np.broadcast_to(np.mean(X, axis=3, keepdims=True), X.shape)
    np.testing.assert_allclose(operator.zero_filled(operator(X)), grey, atol=1e-5)


def test_proximal_is_a_filter_for_a_single_coil():
    """For real pictures a sample at k also tells of -k: ``(w + rho) x = Re A^H y + rho x0``, w the mean of both."""
    mask = np.asarray(operators.cartesian_mask(jax.random.key(1), 12, 9, acceleration=2))
    operator, rho = operators.mri(mask, channels=1), 0.2
    y, x0 = operator(X[..., :1]), X[..., 1:2]
    centred = np.fft.ifftshift(mask)
    weight = 0.5 * (centred + np.roll(centred[::-1, ::-1], (1, 1), (0, 1)))
    right = np.fft.fft2(np.asarray(operator.adjoint(y) + rho * x0)[..., 0])
    wanted = np.fft.ifft2(right / (weight + rho)).real[..., None]
    np.testing.assert_allclose(operators.proximal(operator, y, x0, rho), wanted, atol=2e-5)


@pytest.mark.parametrize("size, channels", [((6, 5), 2), ((5, 8), 1)])
def test_singular_values_of_real_pictures(size, channels):
    """Against numpy's of the matrix, and in a proximal step without any iteration."""
    mask = np.random.default_rng(0).uniform(0, 1, size).astype(np.float32) * (np.arange(size[1]) % 3 > 0)
    operator, shape = operators.mri(mask, channels=channels), (*size, channels)
    each = jnp.eye(np.prod(shape)).reshape(-1, *shape)
    matrix = np.asarray(operator(each)).reshape(len(each), -1).T
    values, to_basis, from_basis = operator.svd
    wanted = np.linalg.svd(matrix)[1][:np.prod(size)]
    np.testing.assert_allclose(np.sort(np.ravel(values))[::-1], wanted, atol=2e-4)
    back = from_basis((values**2).astype(jnp.complex64) * to_basis(each)).reshape(len(each), -1)
    np.testing.assert_allclose(back, matrix.T @ matrix, atol=1e-5)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, *shape)), jnp.float32)
    y, rho = operator(x[0]), jnp.array([0.1, 0.5])
    found = operators.proximal(operator, y, x[1], rho, num_iterations=0)
    np.testing.assert_allclose(found, operators.proximal(lambda x: operator(x), y, x[1], rho, num_iterations=60),
                               atol=1e-4)
    assert found.dtype == jnp.float32


def test_with_coils_there_are_none():
    operator = operators.mri(np.ones((12, 9)), operators.coil_sensitivities(12, 9, 3))
    assert operator.svd is None and operator.closed_form(jnp.float32(0.1)) is None


def test_masks():
    masks = np.asarray(operators.cartesian_mask(rng.image_keys(0, range(5)), 8, 100, acceleration=5,
                                                centre_fraction=0.1))
    assert masks.shape == (5, 8, 100) and (masks == masks[:, :1]).all() and (masks.sum(axis=2) == 20).all()
    assert (masks[:, :, 45:55] == 1).all() and len({mask.tobytes() for mask in masks}) == 5
    with pytest.raises(ValueError, match="acceleration"):
        operators.cartesian_mask(jax.random.key(0), 8, 100, acceleration=50)
    assert np.asarray(operators.cartesian_mask(jax.random.key(0), 4, 10, acceleration=1)).all()
    with pytest.raises(ValueError, match="leaves 20 of 10 columns"):
        operators.cartesian_mask(jax.random.key(0), 4, 10, acceleration=0.5)
    coils = operators.coil_sensitivities(8, 6, 5)
    np.testing.assert_allclose(np.sum(np.abs(coils)**2, axis=2), 1.0, atol=1e-6)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="do not fit"):
        operators.mri(np.ones((5, 5)))(X)
    with pytest.raises(ValueError, match="channels"):
        operators.mri(np.ones((12, 9)))(X[..., :1])
    with pytest.raises(ValueError, match="a mask is"):
        operators.mri(np.ones(5))
