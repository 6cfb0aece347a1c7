"""Conjugate gradients that stop where they have arrived: values, gradients, jit and vmap for every linear operator."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import guidance, operators, restoration, rng, samplers, schedules
from tests.oracles import GaussianDiffusion
from tests.test_operators import CASES, LINEAR, PER_IMAGE, SQUARE, fast_compile
from tests.test_operators import _normal as normal

COUNTS = (10, 20, 40, 100)
SIZE = (12, 12)


def _problem(name):
    operator = CASES[name](*SIZE)
    x0, x = normal(name, 3, *SIZE, 3), normal(name + "x", 3, *SIZE, 3)
    return operator, operator(x), x0


@fast_compile
def _solve(operator, y, x0, rho, num_iterations):
    return operators.proximal(operator, y, x0, rho, num_iterations=num_iterations)


@fast_compile
def _loss(operator, y, x0, rho):
    """A number whose derivatives by y, x0 and rho are all of order 1, and those derivatives."""
    def loss(y, x0, rho):
        x = operators.proximal(operator, y, x0, rho, num_iterations=40)
        return jnp.sum(x * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape))

    return jax.value_and_grad(loss, (0, 1, 2))(y, x0, rho)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_more_iterations_than_needed_change_nothing(name, rho):
    operator, y, x0 = _problem(name)
    found = {count: np.asarray(_solve(operator, y, x0, rho, count)) for count in COUNTS}
    for x in found.values():
        assert np.isfinite(x).all() and np.abs(x).max() < 30.0
    if rho or not _ill_posed(name):
        np.testing.assert_allclose(found[40], found[100], atol=3e-4 if "radon" in name else 2e-5)
    if rho and "radon" not in name or _few_levels(name):
        np.testing.assert_allclose(found[20], found[100], atol=5e-4)


def _ill_posed(name):
    """Without rho these take hundreds of iterations: some frequencies are nearly lost."""
    return any(word in name for word in ("blur", "compose", "radon", "product", "sum"))


def _few_levels(name):
    return name in ("average_pool", "downsample", "downsample_area", "downsample_nearest", "inpaint", "upsample")


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(name, rho):
    operator, y, x0 = _problem(name)
    gradients = _loss(operator, y, x0, rho)[1]
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if rho == 0.0 and _ill_posed(name):
        return  # not converged: a steep function of y, to no one's use
    for i, step in ((0, 0.5), (1, 0.5), (2, 0.02)):
        arguments = [y, x0, jnp.float32(rho)]
        towards = normal(name + str(i), *arguments[i].shape) if i < 2 else jnp.float32(1.0)

        def at(length):
            return float(_loss(operator, *(a + length * towards if j == i else a
                                           for j, a in enumerate(arguments)))[0])

        wanted = (at(step) - at(-step)) / (2 * step) if i < 2 or rho else (
            -3 * at(0.0) + 4 * at(0.005) - at(0.01)) / 0.01
        got = float(jnp.sum(gradients[i] * towards))
        assert abs(got - wanted) < 0.03 * abs(wanted) + 0.03, (i, got, wanted)


@pytest.mark.parametrize("name", ["average_pool", "downsample", "inpaint", "blur"])
def test_per_image_and_under_vmap(name):
    """Every image stops by itself: alone, and beside another that needs more iterations, it comes out the same."""
    operator, y, x0 = _problem(name)
    rho = jnp.array([0.0, 0.1, 3.0])
    batch = _solve(operator, y, x0, rho, 20)
    alone = jax.jit(jax.vmap(
        lambda y, x0, rho: operators.proximal(operator, y[None], x0[None], rho, num_iterations=20)[0]))(y, x0, rho)
    np.testing.assert_allclose(alone, batch, atol=2e-3 if name == "blur" else 1e-5)
    assert name not in PER_IMAGE and name not in SQUARE


def test_a_picture_that_already_agrees_stays():
    for name in ("average_pool", "downsample", "inpaint"):
        operator, _, x0 = _problem(name)
        y = operator(x0)
        once = _solve(operator, y, x0, 0.0, 100)
        np.testing.assert_allclose(once, x0, atol=1e-5)
        gradient = jax.grad(lambda x: jnp.sum(operators.proximal(operator, y, x, 0.0)))(once)
        assert np.isfinite(gradient).all()


def test_complex_measurements_have_the_conjugate_adjoint():
    """A real picture seen by a unitary transform: ``x = (Re A^H y + rho x0) / (1 + rho)``."""
    def fourier(x):
        return jnp.fft.fft2(x, axes=(1, 2), norm="ortho")

    x, x0 = normal("complex", 2, 6, 5, 1), normal("start", 2, 6, 5, 1)
    y = fourier(x) + 0.1j * fourier(x0**2)
    wanted = (np.fft.ifft2(y, axes=(1, 2), norm="ortho").real + 0.5 * x0) / 1.5
    got = operators.proximal(fourier, y, x0, 0.5)
    assert got.dtype == x0.dtype
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    turned = operators.proximal(lambda x: 1j * x, 1j * x.astype(jnp.complex64), x0.astype(jnp.complex64), 0.0)
    np.testing.assert_allclose(turned, x, atol=1e-5)


def ddnm_error(num_iterations):
    schedule = schedules.respace(schedules.linear(), 50, "linspace")
    operator = operators.downsample(4)
    denoiser = guidance.clip_x0()(GaussianDiffusion(0.2, 0.4).denoiser(schedule))
    keys = rng.image_keys(0, range(2))
    x = jnp.clip(0.2 + 0.4 * rng.normal(keys, jnp.zeros((2, 32, 32, 3))), -1.0, 1.0)
    kernel = restoration.ddnm(denoiser, schedule, operator, operator(x), num_iterations=num_iterations)
    z = rng.normal(rng.init_keys(keys), x)
    found, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(keys, z)
    return float(jnp.sqrt(jnp.mean((found - x)**2))), float(jnp.sqrt(jnp.mean((operator(found) - operator(x))**2)))


def test_ddnm_does_not_depend_on_how_many_iterations_are_allowed():
    errors, residuals = zip(*(ddnm_error(count) for count in (20, 40, 100)))
    np.testing.assert_allclose(errors, errors[0], rtol=1e-3)
    assert errors[0] < 1.0 and max(residuals) < 1e-4
