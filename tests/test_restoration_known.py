"""Proximal steps, DPS, DDNM and DiffPIR where the answer is known in closed form."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from tests.oracles import GaussianDiffusion

KEYS = rng.image_keys(0, np.arange(256))
MASK = (jnp.arange(16).reshape(4, 4) % 3 > 0).astype(jnp.float32)
SCHEDULE = schedules.respace(schedules.linear(), 50, "linspace")
GAUSSIAN = GaussianDiffusion(0.2, 0.4)
X = 0.2 + 0.4 * rng.normal(KEYS, jnp.zeros((256, 4, 4, 3)))
NOISE = rng.normal(rng.init_keys(KEYS), X)


def dense(operator, shape):
    """The operator as a float64 matrix."""
    eye = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.asarray(operator(eye), np.float64).reshape(len(eye), -1).T


@pytest.mark.parametrize("make", [lambda: operators.inpaint(MASK), lambda: operators.average_pool(2),
                                  lambda: operators.gaussian_blur(0.8)], ids=["inpaint", "average_pool", "blur"])
@pytest.mark.parametrize("rho", [0.3, jnp.array([0.05, 0.3, 2.0])], ids=["one", "per image"])
def test_proximal_is_the_dense_solution(make, rho):
    operator, shape = make(), (4, 4, 3)
    x0, y = X[:3], operator(X[3:6])
    a = dense(operator, shape)
    for i, r in enumerate(np.broadcast_to(rho, 3)):
        wanted = np.linalg.solve(a.T @ a + r * np.eye(48), a.T @ np.ravel(y[i]) + r * np.ravel(x0[i]))
        got = operators.proximal(operator, y, x0, rho, num_iterations=60)[i]
        np.testing.assert_allclose(np.ravel(got), wanted, atol=2e-5)


@pytest.mark.parametrize("make", [lambda: operators.inpaint(MASK), lambda: operators.average_pool(2)],
                         ids=["inpaint", "average_pool"])
def test_proximal_without_rho_is_the_pseudo_inverse(make):
    operator = make()
    x0, y = X[:3], operator(X[3:6])
    got = operators.proximal(operator, y, x0, 0.0)
    inverse = np.linalg.pinv(dense(operator, (4, 4, 3)))
    wanted = x0 + (inverse @ np.asarray(y - operator(x0), np.float64).reshape(3, -1).T).T.reshape(x0.shape)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    np.testing.assert_allclose(operator(got), y, atol=1e-5)


def test_proximal_refuses_a_measurement_of_another_shape():
    with pytest.raises(ValueError, match="give measurements"):
        operators.proximal(operators.average_pool(2), X[:1], X[:1], 0.1)
    with pytest.raises(ValueError, match="rho must be"):
        operators.proximal(operators.inpaint(MASK), X[:1], X[:1], -0.1)


def test_ddnm_keeps_what_was_seen_and_draws_the_rest_from_the_prior():
    """Pixels of this prior are independent: the posterior of those not seen is the prior itself."""
    operator = operators.inpaint(MASK)
    kernel = restoration.ddnm(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, operator, operator(X), eta=1.0)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    np.testing.assert_allclose(operator(x), operator(X), atol=1e-5)
    free = np.asarray(x)[:, np.asarray(MASK) == 0]
    mean, std = GAUSSIAN.output_law(SCHEDULE, eta=1.0)
    assert abs(free.mean() - mean) < 4 * std / free.size**0.5
    assert abs(free.std() / std - 1) < 4 / (2 * free.size)**0.5


def test_ddnm_in_another_solver():
    """What was seen is kept, the rest is what 2M alone makes of the prior; the default is DDIM of eta 0.85."""
    operator, few = operators.inpaint(MASK), schedules.respace(SCHEDULE, 10, "log_snr")
    start, keys = NOISE[:8], KEYS[:8]

    def run(kernel):
        return jax.jit(lambda keys, z: samplers.sample(kernel, keys, z)[0])(keys, start)

    def ddnm(**options):
        return run(restoration.ddnm(GAUSSIAN.denoiser(SCHEDULE), few, operator, operator(X[:8]), **options))

    x, free = ddnm(sampler=samplers.dpm_solver), run(samplers.dpm_solver(GAUSSIAN.denoiser(SCHEDULE), few))
    seen = MASK[None, :, :, None] > 0
    np.testing.assert_allclose(x, jnp.where(seen, X[:8], free), atol=1e-5)
    np.testing.assert_array_equal(ddnm(), ddnm(sampler=lambda d, s: samplers.ddim(d, s, 0.85)))


def test_dps_follows_the_exact_law_of_its_chain():
    """One pixel per image: |y - x0| has slope +-1, so each step moves by scale times the gain of the denoiser, towards
    y; with y far away the sign never changes and the chain is affine."""
    y, scale, far = jnp.full((256, 1, 1, 1), 30.0), 0.02, 30.0
    kernel = restoration.dps(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, lambda x: x, y, scale)
    z = rng.normal(rng.init_keys(KEYS), y)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, z)
    a_t, a_s = (np.asarray(a, np.float64)[::-1] for a in (SCHEDULE.alpha_bar, SCHEDULE.alpha_bar_prev))
    m, v = 0.0, 1.0
    for t, s in zip(a_t, a_s):
        gain = 0.4**2 * np.sqrt(t) / (t * 0.4**2 + 1 - t)
        beta = 1 - t / s
        of_x0, of_x = np.sqrt(s) * beta / (1 - t), np.sqrt(1 - beta) * (1 - s) / (1 - t)
        factor = of_x0 * gain + of_x
        m, v = factor * m + of_x0 * 0.2 * (1 - gain * np.sqrt(t)) + scale * gain, factor**2 * v
        v = v + beta * (1 - s) / (1 - t)
    assert m > 0.3 and m < far
    assert abs(float(x.mean()) - m) < 4 * np.sqrt(v / 256)
    assert abs(float(x.std()) / np.sqrt(v) - 1) < 4 / np.sqrt(512)


def test_dps_comes_nearer_to_the_measurement():
    operator = operators.gaussian_blur(1.0)
    y = operator(X)
    distance = {}
    for scale in (0.0, 0.3):
        kernel = restoration.dps(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, operator, y, scale)
        x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
        distance[scale] = float(jnp.mean((operator(x) - y)**2))
    assert distance[0.3] < 0.2 * distance[0.0]


def test_diffpir_reaches_the_posterior_mean_of_a_gaussian():
    """Independent pixels seen with noise: over many images the result has the mean of the posterior,
    ``mu + s^2 / (s^2 + sigma^2) (y - mu)``, and is no further from it than a draw from the posterior."""
    sigma, seen = 0.3, X + 0.3 * rng.normal(rng.fold(KEYS, 9), X)
    kernel = restoration.diffpir(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, lambda x: x, seen, sigma, prior_std=0.4)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    posterior = 0.2 + 0.4**2 / (0.4**2 + sigma**2) * (seen - 0.2)
    inside = (jnp.abs(posterior) < 0.6).astype(jnp.float32)  # where clipping plays no part
    error = inside * (x - posterior)
    spread = (1 / (1 / 0.4**2 + 1 / sigma**2))**0.5
    assert abs(float(jnp.sum(error) / jnp.sum(inside))) < 0.02
    assert float(jnp.sqrt(jnp.sum(error**2) / jnp.sum(inside))) < 1.1 * spread
    with pytest.raises(ValueError, match="zeta"):
        restoration.diffpir(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, lambda x: x, seen, sigma, zeta=2.0)
