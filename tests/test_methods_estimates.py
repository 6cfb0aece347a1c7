"""Methods that improve on a first estimate: what they start from, the operator's norm, and Bayes' rule at the end."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, methods, operators, rng, schedules
from indigo_jax.methods.estimates import first_estimate, squared_norm
from indigo_jax.methods.known import Problem
from tests import guided_networks
from tests.oracles import GaussianDiffusion

KERNEL = np.ones((3, 3), np.float32) / 9


def problem(operator, sigma=0.05):
    """Of white pictures of spread 1/2."""
    keys = rng.image_keys(0, jnp.arange(2))
    x = 0.5 * rng.normal(keys, jnp.zeros((2, 8, 8, 3)))
    seen = operator(x)
    y = seen + sigma * rng.normal(rng.fold(keys, 1), seen)
    return Problem(operator, y, rng.fold(keys, 2), jnp.full(2, sigma), x.shape[1:]), x


@pytest.mark.parametrize("operator, wanted", [
    (operators.average_pool(2), 0.25), (operators.blur(KERNEL, boundary="periodic"), 1.0), (operators.compose(), 1.0),
    (lambda x: 3 * x[:, ::2], 9.0)])
def test_the_norm_of_an_operator(operator, wanted):
    np.testing.assert_allclose(squared_norm(problem(operator)[0]), wanted, rtol=0.03)


def test_the_first_estimate_is_the_mean_of_white_pictures():
    given, _ = problem(operators.average_pool(2))
    gain = 0.25 * 0.25 / (0.25 * 0.25 + 0.05**2)  # of a mean of four: 4 pixels of it
    np.testing.assert_allclose(first_estimate(given), gain * jnp.repeat(jnp.repeat(given.y, 2, 1), 2, 2), atol=1e-4)


@pytest.mark.parametrize("name", ["reddiff", "pnp-flow"])
def test_it_explains_the_measurement_of_pictures_of_its_prior(name, tmp_path):
    """Under a mean of four pixels, where ``|A| = 1/2`` and a step of length 1 would do nearly nothing."""
    weights = guided_networks.write_prior(tmp_path / "tiny.safetensors")
    schedule = schedules.linear(200)
    prior = denoisers.Prior(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule)
    given, x = problem(operators.average_pool(2))
    method = methods.load(name, task="sr", scale=2, weights=weights, steps=100)
    found = jax.jit(lambda: method.restore(prior, given))()
    wanted = first_estimate(given)  # the posterior's mean, as the prior is white
    assert method.evaluations(found) == 100 and (found.residual < 3 * given.sigma).all()
    assert float(jnp.sqrt(jnp.mean((operators.average_pool(2)(found.x - jnp.clip(wanted, -1, 1)))**2))) < 0.1
