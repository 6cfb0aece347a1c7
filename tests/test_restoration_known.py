"""Proximal steps, DPS, DDNM and DiffPIR where the answer is known in closed form.

The three are affine for a Gaussian prior (DPS while its residual keeps its direction, DiffPIR while nothing is
clipped), so that the law of their results is a recursion of matrices, written here in float64 from the papers, and is
read from the kernel by :func:`tests.laws.affine_law` without chance.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from tests.laws import affine_law
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


WHOLE = schedules.karras(1000, 0.02, 40.0)
MEAN, EYE = np.full(8, GAUSSIAN.mean), np.eye(8)
HALF = operators.compose(operators.average_pool(2), operators.inpaint(jnp.array([[1.0, 0.0]])))  # one mean of two
SEEN = dense(HALF, (2, 4, 1))


def law(make, y, num_steps, stop=None):
    """Of what ``make(denoiser, schedule, operator, y)`` gives of pictures 2 x 4; of x_t after ``stop`` steps."""
    def kernel(y):
        levels = schedules.respace(WHOLE, num_steps, "log_snr")
        made = make(GAUSSIAN.denoiser(WHOLE), levels, HALF, y)
        return made if stop is None else made._replace(num_steps=stop)

    return affine_law(kernel, np.zeros((2, 4, 1)), 1.0, jnp.array([[[[y], [0.0]]]]))


def recursion(move, num_steps, stop=None):
    """Mean and covariance after steps ``x_s = M x_t + c + sqrt(v) n``, ``M, c, v = move(a_t, a_s, D, d)`` where the
    denoiser's x0 is ``D x_t + d``."""
    levels = schedules.respace(WHOLE, num_steps, "log_snr")
    a_t, a_s = (np.asarray(a, np.float64)[::-1] for a in (levels.alpha_bar, levels.alpha_bar_prev))
    mean, covariance = np.zeros(8), np.eye(8)
    for t, s in list(zip(a_t, a_s))[:stop]:
        gain = GAUSSIAN.std**2 * t**0.5 / (t * GAUSSIAN.std**2 + 1 - t)
        by, to, added = move(t, s, gain * EYE, (1 - gain * t**0.5) * MEAN)
        mean, covariance = by @ mean + to, by @ covariance @ by.T + added * EYE
    return mean, covariance


def posterior(y, sigma):
    gain = GAUSSIAN.std**2 * SEEN.T @ np.linalg.pinv(GAUSSIAN.std**2 * SEEN @ SEEN.T + sigma**2 * np.diag([1.0, 0.0]))
    return MEAN + gain @ (np.array([y, 0.0]) - SEEN @ MEAN), GAUSSIAN.std**2 * (EYE - gain @ SEEN)


def eps_of(t, by, to):
    """The noise that belongs to an x0 ``by x_t + to``."""
    return (EYE - t**0.5 * by) / (1 - t)**0.5, -t**0.5 * to / (1 - t)**0.5


def close(found, mean, covariance, atol=2e-4):
    np.testing.assert_allclose(found.mean, mean, atol=atol)
    np.testing.assert_allclose(found.covariance, covariance, atol=atol)


def spread_of(covariance):
    """Of the mean of the four pixels that are seen, and of one that is not."""
    return (covariance[np.ix_([0, 1, 4, 5], [0, 1, 4, 5])].mean()**0.5, covariance[2, 2]**0.5)


@pytest.mark.parametrize("eta, stop", [(0.0, 5), (0.85, 5), (0.85, None)])
def test_ddnm_has_the_law_of_its_algorithm(eta, stop):
    """x0 agrees with y, eps is the network's own. Stopped before its end, or the last step would hide the others."""
    inverse = np.linalg.pinv(SEEN)

    def move(t, s, by, to):
        eps = eps_of(t, by, to)
        x0 = (EYE - inverse @ SEEN) @ by, (EYE - inverse @ SEEN) @ to + inverse @ np.array([0.7, 0.0])
        sigma2 = eta**2 * (1 - s) / (1 - t) * (1 - t / s)
        return *(s**0.5 * x + (1 - s - sigma2)**0.5 * e for x, e in zip(x0, eps)), sigma2

    close(law(lambda *given: restoration.ddnm(*given, eta=eta), 0.7, 8, stop), *recursion(move, 8, stop))


def test_ddnm_nears_the_posterior_of_a_measurement_without_noise():
    """Twice as many steps halve the error of the spread of what is not seen; y is kept, and the mean is right."""
    mean, covariance = posterior(0.7, 0.0)
    errors = []
    for num_steps in (30, 60):
        found = law(lambda *given: restoration.ddnm(*given, eta=1.0), 0.7, num_steps)
        seen, unseen = spread_of(found.covariance)
        assert seen < 1e-3
        np.testing.assert_allclose(found.mean, mean, atol=5e-3)
        errors.append(unseen / spread_of(covariance)[1] - 1)
    assert abs(errors[1]) < 0.07 and abs(np.log2(errors[0] / errors[1]) - 1) < 0.15, errors


@pytest.mark.parametrize("zeta", [0.0, 0.36])
def test_of_the_noise_diffpir_renews_a_share(zeta):
    """What it takes for noise at level t, beside its x0, stands in x_s but for that share."""
    operator = operators.gaussian_blur(0.8)
    kernel = restoration.diffpir(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, operator, operator(X), 0.1, zeta=zeta)
    state, info = kernel.step(KEYS, samplers.State(NOISE), 20)
    before, after = ((x_t - jnp.sqrt(a) * info.x0) / jnp.sqrt(1 - a) for x_t, a in (
        (NOISE, SCHEDULE.alpha_bar[29]), (state.x, SCHEDULE.alpha_bar[28])))
    new = np.asarray(after - (1 - zeta)**0.5 * before)
    assert abs(new.std() - zeta**0.5) < 0.02 and abs(np.mean(new * np.asarray(before))) < 0.03


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


@pytest.mark.parametrize("eta", [None, 0.5])
def test_dps_has_the_law_of_its_chain_and_the_spread_of_the_prior(eta):
    """One number is measured, far away: |y - A x0| has the slope of a constant sign, each step moves by scale times
    what the denoiser and A hand back of it. The pull is the same for every draw, so that it narrows nothing: after y
    the seen pixels are as wide as before, where those of the posterior are not."""
    scale, options = 0.2, {} if eta is None else {"sampler": lambda d, s: samplers.ddim(d, s, eta)}

    def move(t, s, by, to):
        beta = 1 - t / s
        pull = scale * by.T @ SEEN[0]
        if eta is None:
            of_x0, of_x = s**0.5 * beta / (1 - t), (1 - beta)**0.5 * (1 - s) / (1 - t)
            return of_x0 * by + of_x * EYE, of_x0 * to + pull, beta * (1 - s) / (1 - t)
        sigma2 = eta**2 * (1 - s) / (1 - t) * beta
        by, to = (s**0.5 * x + (1 - s - sigma2)**0.5 * e for x, e in zip((by, to), eps_of(t, by, to)))
        return by, to + pull, sigma2

    found = law(lambda *given: restoration.dps(*given, scale, **options), 30.0, 20)
    mean, covariance = recursion(move, 20)
    close(found, mean, covariance)
    levels = schedules.respace(WHOLE, 20, "log_snr")
    prior_mean, prior_std = GAUSSIAN.output_law(levels, eta=eta)
    np.testing.assert_allclose(covariance, prior_std**2 * EYE, atol=1e-9)
    assert mean[0] > prior_mean + 0.1 and abs(mean[2] - prior_mean) < 1e-6


def test_dps_comes_nearer_to_the_measurement():
    operator = operators.gaussian_blur(1.0)
    y = operator(X)
    distance = {}
    for scale in (0.0, 0.3):
        kernel = restoration.dps(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, operator, y, scale)
        x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
        distance[scale] = float(jnp.mean((operator(x) - y)**2))
    assert distance[0.3] < 0.2 * distance[0.0]


@pytest.mark.parametrize("zeta, prior_std", [(0.0, 0.7), (0.7225, 0.4), (1.0, np.inf)])
def test_diffpir_has_the_law_of_its_algorithm(zeta, prior_std):
    """Both x0 and eps agree with y; columns of the law are small enough that nothing is clipped."""
    sigma, num_steps = 0.15, 8

    def move(t, s, by, to):
        rho = sigma**2 * (t / (1 - t) + 1 / prior_std**2)
        inverse = np.linalg.inv(SEEN.T @ SEEN + rho * EYE)
        x0 = rho * inverse @ by, inverse @ (SEEN.T @ np.array([0.5, 0.0]) + rho * to)
        return *(s**0.5 * x + ((1 - s) * (1 - zeta))**0.5 * e for x, e in zip(x0, eps_of(t, *x0))), zeta * (1 - s)

    close(law(lambda *given: restoration.diffpir(*given, sigma, prior_std=prior_std, zeta=zeta), 0.5, num_steps),
          *recursion(move, num_steps))


@pytest.mark.parametrize("zeta", [0.0, 0.7225])
def test_diffpir_has_the_mean_of_the_posterior_and_by_its_new_noise_less_than_its_spread(zeta):
    """Told the spread of the pictures. Of a deviation from the mean ever smaller steps at level s leave
    ``1 - (1 - sqrt(1 - zeta)) s^2 / P``, P the posterior's variance, and add ``zeta s^2``: variance
    ``P (1 + sqrt(1 - zeta)) / 2`` as s goes to 0, to first order in the steps."""
    mean, covariance = posterior(0.5, 0.15)
    assert abs(mean[0] - GAUSSIAN.mean) > 0.1
    errors = []
    for num_steps in (30, 60):
        found = law(lambda *given: restoration.diffpir(*given, 0.15, prior_std=GAUSSIAN.std, zeta=zeta), 0.5, num_steps)
        np.testing.assert_allclose(found.mean, mean, atol=5e-3)
        share = np.divide(spread_of(found.covariance), spread_of(covariance))
        errors.append(share - ((1 + (1 - zeta)**0.5) / 2)**0.5)
    assert abs(errors[1]).max() < 0.05 and (abs(np.log2(errors[0] / errors[1]) - 1) < 0.2).all(), errors


def test_diffpir_refuses_a_share_of_noise_above_one():
    with pytest.raises(ValueError, match="zeta"):
        restoration.diffpir(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, lambda x: x, X, 0.3, zeta=2.0)
