"""PiGDM and TMPD against the exact posterior of a linear-Gaussian problem, in DDIM and in other solvers."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from indigo_jax.restoration.moments import explained
from tests.laws import affine_law
from tests.oracles import GaussianDiffusion

GAUSSIAN, SIGMA, COUNT = GaussianDiffusion(0.2, 0.4), 0.15, 4096
KEYS = rng.image_keys(0, np.arange(COUNT))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((COUNT, 2, 4, 1)))
OPERATOR = operators.compose(operators.average_pool(2), operators.inpaint(jnp.array([[1.0, 0.0]])))  # one mean of two
Y = jnp.broadcast_to(jnp.array([0.7, 0.0])[None, None, :, None], (COUNT, 1, 2, 1))
WHOLE = schedules.karras(2000, 0.005, 40.0)
SCHEDULE = schedules.respace(WHOLE, 200, "karras")
METHODS = {
    "pigdm": lambda d, s, y, **options: restoration.pigdm(d, s, OPERATOR, y, SIGMA, prior_std=0.4, **options),
    "tmpd": lambda d, s, y, **options: restoration.tmpd(d, s, OPERATOR, y, SIGMA, **options),
}


def posterior():
    """Mean and covariance of ``x | y``, ``[8]`` and ``[8, 8]``, dense in float64."""
    a = np.asarray(OPERATOR(jnp.eye(8).reshape(8, 2, 4, 1)), np.float64).reshape(8, 2).T
    gain = GAUSSIAN.std**2 * a.T @ np.linalg.inv(GAUSSIAN.std**2 * a @ a.T + SIGMA**2 * np.eye(2))
    prior = np.full(8, GAUSSIAN.mean)
    mean = prior + gain @ (np.ravel(Y[0]) - a @ prior)
    return mean, GAUSSIAN.std**2 * (np.eye(8) - gain @ a)


@functools.cache
def solved(name, sampler, num_steps, spacing, eta=None):
    """Largest errors of the mean and of the covariance, without chance."""
    levels, options = schedules.respace(WHOLE, num_steps, spacing), {} if eta is None else {"eta": eta}
    found = affine_law(lambda y: METHODS[name](GAUSSIAN.denoiser(WHOLE), levels, y, sampler=sampler, **options),
                       np.zeros((2, 4, 1)), 1.0, Y[:1])
    mean, covariance = posterior()
    return abs(found.mean - mean).max(), abs(found.covariance - covariance).max()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_law_is_the_posterior_to_first_order(name, eta):
    """Twice as many steps halve the error of the covariance. The mean is right at once; what is left is the start's."""
    few, many = (solved(name, None, num_steps, "log_snr", eta) for num_steps in (30, 60))
    mean, covariance = posterior()
    assert abs(mean[0] - GAUSSIAN.mean) > 0.2 and covariance[0, 1] < -0.02  # the measurement tells something
    assert max(few[0], many[0]) < 0.01 and many[1] < 0.05 and abs(np.log2(few[1] / many[1]) - 1) < 0.15, (few, many)


@pytest.mark.parametrize("name, sampler, num_steps, spacing", [
    ("pigdm", samplers.heun, 13, "asinh"), ("pigdm", samplers.dpm_solver, 20, "log_snr"),
    ("tmpd", samplers.dpm_solver, 20, "log_snr")])
def test_a_second_order_solver_reaches_the_posterior_in_a_quarter_of_ddims_evaluations(name, sampler, num_steps,
                                                                                       spacing):
    slow = solved("pigdm", None, 100, spacing, 0.0)
    fast = solved(name, sampler, num_steps, spacing)
    assert max(fast[0], slow[0]) < 0.006 and fast[1] < 0.7 * slow[1], (fast, slow)


@pytest.mark.parametrize("name", METHODS)
def test_the_default_is_ddim(name):
    levels = schedules.respace(WHOLE, 4, "karras")
    for eta in (0.0, 0.6):
        plain, given = (METHODS[name](GAUSSIAN.denoiser(WHOLE), levels, Y[:3], **options) for options in (
            {"eta": eta}, {"sampler": functools.partial(samplers.ddim, eta=eta)}))
        np.testing.assert_array_equal(*(jax.jit(lambda keys, z, kernel=kernel: samplers.sample(kernel, keys, z)[0])(
            KEYS[:3], NOISE[:3]) for kernel in (plain, given)))


def test_a_solver_may_go_between_the_visited_levels():
    """Churn: the guided denoiser knows all levels, the sampler visits its own; noise reaches the posterior, too."""
    few = schedules.respace(WHOLE, 40, "asinh")
    kernel = METHODS["pigdm"](GAUSSIAN.denoiser(WHOLE), WHOLE, Y, sampler=lambda denoiser, levels: samplers.heun(
        denoiser, few, churn=10.0, levels=levels))
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    mean, covariance = posterior()
    np.testing.assert_allclose(x.reshape(COUNT, 8).mean(0), mean, atol=4 * GAUSSIAN.std / COUNT**0.5)
    np.testing.assert_allclose(np.cov(np.asarray(x).reshape(COUNT, 8).T), covariance, atol=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_the_guided_estimate_is_the_exact_one(name):
    """``E[x | x_t, y]``: x_t and y are two measurements of x."""
    seen, found = [], None
    schedule = schedules.respace(WHOLE, 3, "karras")
    kernel = METHODS[name](GAUSSIAN.denoiser(WHOLE), schedule, Y[:2])
    found = kernel.step(KEYS[:2], kernel.init(NOISE[:2], KEYS[:2]), 1)[1].x0
    level = float(schedules.sigmas(schedule)[1])
    a = np.asarray(OPERATOR(jnp.eye(8).reshape(8, 2, 4, 1)), np.float64).reshape(8, 2).T
    precision = np.eye(8) * (1 / GAUSSIAN.std**2 + 1 / level**2) + a.T @ a / SIGMA**2
    for i in range(2):
        u = np.ravel(NOISE[i]).astype(np.float64) / float(schedule.alpha_bar[1])**0.5
        right = GAUSSIAN.mean / GAUSSIAN.std**2 + u / level**2 + a.T @ np.ravel(Y[i]) / SIGMA**2
        seen.append(np.linalg.solve(precision, right))
    np.testing.assert_allclose(np.asarray(found).reshape(2, 8), seen, atol=2e-4)


def test_estimate_and_noise_agree():
    guided = explained(GAUSSIAN.denoiser(WHOLE), WHOLE, lambda m, level, covariance: covariance(jnp.ones_like(m)))
    x_t, k = NOISE[:3], jnp.array([200, 900, 1700])
    prediction, a = guided(x_t, WHOLE.timesteps[k]), WHOLE.alpha_bar[k][:, None, None, None]
    np.testing.assert_allclose(jnp.sqrt(a) * prediction.x0 + jnp.sqrt(1 - a) * prediction.eps, x_t, atol=1e-4)


def test_refusals():
    with pytest.raises(ValueError, match="prior_std must be above 0"):
        restoration.pigdm(None, SCHEDULE, OPERATOR, Y, SIGMA, prior_std=0.0)
    with pytest.raises(ValueError, match="eta must be in"):
        restoration.tmpd(None, SCHEDULE, OPERATOR, Y, SIGMA, eta=2.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_clipped_estimate_takes_its_noise_along(name):
    """A measurement far outside of [-1, 1]: x0 stays inside, and eps is what then is left of x_t (eta = 0)."""
    levels, index = schedules.respace(schedules.linear(), 10), 6
    x_t, keys = rng.normal(KEYS[:2], jnp.zeros((2, 2, 4, 1))), KEYS[:2]
    kernel = METHODS[name](GAUSSIAN.denoiser(levels), levels, 20 * Y[:2], eta=0.0, clip=True)
    state, info = kernel.step(keys, kernel.init(x_t, keys), 9 - index)
    assert float(jnp.abs(info.x0).max()) == 1.0
    a, a_s = levels.alpha_bar[index], levels.alpha_bar_prev[index]
    eps = (x_t - jnp.sqrt(a) * info.x0) / jnp.sqrt(1 - a)
    np.testing.assert_allclose(state.x, jnp.sqrt(a_s) * info.x0 + jnp.sqrt(1 - a_s) * eps, atol=1e-5)
