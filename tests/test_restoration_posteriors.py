"""DDRM, DAPS, RED-diff and PnP-Flow where the law of their results is known: exact posteriors, affine recursions."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules
from tests.laws import affine_law
from tests.oracles import GaussianDiffusion

GAUSSIAN, SIGMA, COUNT = GaussianDiffusion(0.2, 0.4), 0.15, 4096
KEYS = rng.image_keys(0, np.arange(COUNT))
SHAPE = (2, 4, 1)
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((COUNT, *SHAPE)))
WHOLE = schedules.karras(500, 0.02, 40.0)
FEW = schedules.respace(WHOLE, 6, "karras")
GAIN = np.array([1.0, 0.6, 0.02, 0.6])[:, None].astype(np.float32)  # along rows of four; a frequency hardly seen


def hartley(x):
    spectrum = jnp.fft.fft(x, axis=2, norm="ortho")
    return spectrum.real - spectrum.imag


def filtered(x):
    return hartley(GAIN * hartley(x))


BLUR = operators.linear(filtered, filtered, svd=(GAIN, hartley, hartley))
FOURIER = (GAIN, lambda x: jnp.fft.fft(x, axis=2, norm="ortho"), lambda c: jnp.fft.ifft(c, axis=2, norm="ortho").real)
OPERATORS = {"pool": operators.average_pool(2), "mask": operators.inpaint(jnp.array([[1.0, 0, 1, 1], [0, 1, 1, 0]])),
             "blur": BLUR}
X = 0.2 + 0.4 * np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
MEASURED = {name: operator(jnp.asarray(X)) + 0.1 for name, operator in OPERATORS.items()}


def run(make, name, start=NOISE, keys=KEYS, sigma=SIGMA):
    operator, y = OPERATORS[name], jnp.repeat(MEASURED[name], len(start), axis=0)
    x, _ = jax.jit(lambda keys, z: samplers.sample(make(GAUSSIAN.denoiser(WHOLE), operator, y, sigma), keys, z))(
        keys, start)
    return np.asarray(x, np.float64).reshape(len(start), -1)


def dense(name):
    a = np.asarray(OPERATORS[name](jnp.eye(8).reshape(8, *SHAPE)), np.float64).reshape(8, -1).T
    return a, np.ravel(MEASURED[name]).astype(np.float64)


def posterior(a, y, sigma=SIGMA):
    """Mean and covariance of white Gaussian pictures given ``y = a x + sigma n``."""
    gain = GAUSSIAN.std**2 * a.T @ np.linalg.inv(GAUSSIAN.std**2 * a @ a.T + sigma**2 * np.eye(len(a)))
    return 0.2 + gain @ (y - a @ np.full(a.shape[1], 0.2)), GAUSSIAN.std**2 * (np.eye(a.shape[1]) - gain @ a)


def law(make, name, mean=np.zeros(SHAPE), std=1.0):
    """Of the results, without chance."""
    return affine_law(lambda y: make(GAUSSIAN.denoiser(WHOLE), OPERATORS[name], y, SIGMA), mean, std, MEASURED[name])


def close(found, mean, covariance):
    np.testing.assert_allclose(found.mean, mean, atol=5e-4)
    np.testing.assert_allclose(found.covariance, covariance, atol=2e-4)


# ---------------------------------------------------------------- DAPS: the posterior itself

@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("num_steps", [2, 6])
def test_daps_draws_from_the_posterior_of_white_pictures(name, num_steps):
    """Exactly, however few the steps are."""
    levels = schedules.respace(WHOLE, num_steps, "karras")
    found = law(lambda d, operator, y, sigma: restoration.daps(d, levels, operator, y, sigma, prior_std=GAUSSIAN.std),
                name)
    close(found, *posterior(*dense(name)))


def test_langevin_draws_nearly_the_same():
    exact, wandering = (run(lambda d, operator, y, sigma: restoration.daps(
        d, FEW, operator, y, sigma, prior_std=GAUSSIAN.std, langevin=steps), "pool") for steps in (0, 60))
    np.testing.assert_allclose(wandering.mean(0), exact.mean(0), atol=0.03)
    np.testing.assert_allclose(wandering.std(0), exact.std(0), rtol=0.07)  # the bias of its step length


def test_daps_follows_the_flow():
    """One step of many levels: what is not seen is what Euler's method makes of x_t, and noise of the next level."""
    spread, u = {}, np.asarray(NOISE, np.float64).reshape(COUNT, 8) / float(WHOLE.alpha_bar[-1])**0.5
    sigmas = np.asarray(schedules.sigmas(WHOLE), np.float64)
    for steps in (1, 3):
        x = u
        for j in range(steps):
            now, after = (round(499 * (1 - i / steps)) for i in (j, j + 1))
            x0 = 0.2 + 0.16 / (0.16 + sigmas[now]**2) * (x - 0.2)
            x = x0 if j == steps - 1 else x0 + sigmas[after] / sigmas[now] * (x - x0)
        found = run(lambda d, operator, y, sigma: restoration.daps(
            d, WHOLE, operator, y, sigma, prior_std=1e-3, ode_steps=steps)._replace(num_steps=1), "mask")
        spread[steps] = x.std()
        hidden = np.asarray(OPERATORS["mask"].mask).ravel() == 0
        below = sigmas[498]
        found = found / float(WHOLE.alpha_bar[498])**0.5
        left = (found - x)[:, hidden]
        assert abs(left.mean()) < 5 * below / COUNT**0.5 and abs(left.std() / below - 1) < 0.03
    assert spread[3] > 2 * spread[1]


# ---------------------------------------------------------------- DDRM: a law for each coefficient

def ddrm_law(gain, b, mean, eta, eta_b, sigma):
    """Mean and variance of a coefficient, by Eq. 7 and 8 in float64."""
    a = np.asarray(FEW.alpha_bar, np.float64)[::-1]
    levels = np.append(np.sqrt(1 / a - 1), 0.0)
    noise = sigma / gain if gain > 0 else np.inf
    m, v = (b, max(levels[0]**2 - noise**2, 0)) if gain > 0 else (0.0, 1 / a[0])
    for now, after in zip(levels[:-1], levels[1:]):
        share = GAUSSIAN.std**2 / (GAUSSIAN.std**2 + now**2)
        x0, slope = mean + share * (m - mean), share  # of the denoiser
        if gain == 0:
            old = (1 - eta**2)**0.5 * after / now
            m, v = x0 + old * (m - x0), (slope + old * (1 - slope))**2 * v + (eta * after)**2
        elif after < noise:
            old = (1 - eta**2)**0.5 * after / noise
            m, v = x0 + old * (b - x0), (slope * (1 - old))**2 * v + (eta * after)**2
        else:
            m = (1 - eta_b) * x0 + eta_b * b
            v = ((1 - eta_b) * slope)**2 * v + after**2 - (eta_b * noise)**2
    return m, v


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("eta, eta_b", [(0.85, 1.0), (0.4, 0.7)])
def test_ddrm_has_the_law_of_its_equations(name, eta, eta_b):
    """White pictures: the coefficients of any orthonormal basis are independent."""
    a, y = dense(name)
    left, gains, right = np.linalg.svd(a)
    gains = np.append(gains, np.zeros(8 - len(gains)))
    gains[gains < 1e-5] = 0
    seen = left.T @ y
    laws = [ddrm_law(gain, seen[i] / gain if gain > 0 else 0.0, (right @ np.full(8, 0.2))[i], eta, eta_b, SIGMA)
            for i, gain in enumerate(gains)]
    mean, variance = np.array(laws).T

    def make(d, operator, y, sigma):
        of_blur = None if eta_b == 1 else FOURIER  # its own, and one of complex numbers
        svd = of_blur if name == "blur" else restoration.isometry(operator, NOISE[:1])
        return restoration.ddrm(d, FEW, operator, y, sigma, svd=svd, eta=eta, eta_b=eta_b)

    close(law(make, name), right.T @ mean, right.T * variance @ right)


def test_ddrm_keeps_what_was_measured_without_noise():
    x = run(lambda d, operator, y, sigma: restoration.ddrm(
        d, FEW, operator, y, 0.0, svd=restoration.isometry(operator, NOISE[:1])), "pool", NOISE[:4], KEYS[:4])
    np.testing.assert_allclose(OPERATORS["pool"](jnp.asarray(x, jnp.float32).reshape(4, *SHAPE)),
                               jnp.repeat(MEASURED["pool"], 4, axis=0), atol=1e-5)


KERNEL, COLUMNS = operators.gaussian_kernel(0.8, 3), jnp.array([0.0, 1, 1, 1, 0])
MASK = jnp.broadcast_to(COLUMNS, (4, 5)).at[0, 3].set(0.0)  # of k-space; one frequency is seen, its opposite is not
SCENE = jnp.asarray(0.2 + 0.4 * np.random.default_rng(1).standard_normal((1, 4, 5, 1)), jnp.float32)
SCANS = {"blur": (operators.blur(KERNEL, boundary="periodic"), restoration.fourier_svd(KERNEL, 4, 5)),
         "mri": (operators.mri(MASK, channels=1), None)}  # that one has its own singular values


def ddrm_beside_the_posterior(name, num_steps, **options):
    """Without noise: the law of its results, and mean and covariance of the exact posterior."""
    operator, svd = SCANS[name]
    y, levels = operator(SCENE), schedules.respace(WHOLE, num_steps, "log_snr")
    a = np.asarray(operator(jnp.eye(20).reshape(20, 4, 5, 1)), np.float64).reshape(20, -1).T
    found = affine_law(lambda y: restoration.ddrm(GAUSSIAN.denoiser(WHOLE), levels, operator, y, 0.0, svd=svd,
                                                  **options), np.zeros((4, 5, 1)), 1.0, y)
    return found, *posterior(a, np.ravel(y).astype(np.float64), 1e-5)


@pytest.mark.parametrize("name", SCANS)
def test_ddrm_of_eta_0_without_noise_is_the_posterior_to_first_order(name):
    """What was measured is kept; of the rest, twice as many levels halve the error of the spread."""
    errors = []
    for num_steps in (10, 20):
        found, mean, covariance = ddrm_beside_the_posterior(name, num_steps, eta=0.0)
        np.testing.assert_allclose(found.mean, mean, atol=5e-3)
        errors.append((np.trace(covariance)**0.5 - np.trace(found.covariance)**0.5) / 20**0.5)
    assert abs(errors[1]) < 0.05
    assert name == "blur" or abs(np.log2(errors[0] / errors[1]) - 1) < 0.15, errors  # a blur leaves nothing unseen


def test_values_that_all_pictures_share_have_one_largest():
    """A row of gains that leave next to nothing is unseen, though each is the largest of its row."""
    gains, keys = jnp.array([[1.0, 1e-9], [1e-9, 1e-9]])[..., None], rng.image_keys(0, [0, 1])
    y, levels = gains * jnp.ones((2, 2, 2, 1)), schedules.respace(schedules.linear(), 3, "log_snr")
    prior = denoisers.from_x0(lambda x_t, t: 0.5 * x_t, schedules.linear())

    def restored(values):
        operator = operators.linear(lambda x: gains * x, lambda y: gains * y, svd=(values, lambda x: x, lambda c: c))
        kernel = restoration.ddrm(prior, levels, operator, y, 1e-4)
        return samplers.sample(kernel, keys, rng.normal(rng.init_keys(keys), y))[0]

    shared, own = restored(gains), restored(jnp.broadcast_to(gains, y.shape))
    np.testing.assert_allclose(shared, own, atol=1e-6)
    assert float(jnp.abs(shared).max()) < 10


@pytest.mark.parametrize("make", [restoration.daps, restoration.ddrm])
def test_a_schedule_that_ends_above_the_picture_keeps_its_noise(make):
    """``set_alpha_to_one=False``: the last state is ``sqrt(a) x + sqrt(1 - a) n``, not a darker picture."""
    whole = schedules.linear(1000, 0.01, 0.03)
    levels = schedules.respace(whole, 5, "leading", set_alpha_to_one=False)
    a, y = float(levels.alpha_bar_prev[0]), jnp.full((64, 8, 8, 1), 1.0)
    identity = operators.linear(lambda x: x, lambda x: x, svd=(jnp.ones((1, 1, 1, 1)), lambda x: x, lambda c: c))
    kernel = make(denoisers.from_x0(lambda x, t: jnp.ones_like(x), whole), levels, identity, y, 1e-3)
    keys = rng.image_keys(0, np.arange(64))
    x = jax.jit(lambda: samplers.sample(kernel, keys, rng.normal(rng.init_keys(keys), y))[0])()
    assert 0.9 < a < 0.995 and abs(float(x.mean()) - a**0.5) < 0.01
    np.testing.assert_allclose(float(x.std()), (1 - a)**0.5, rtol=0.05)


def test_what_ddrm_takes_for_unseen_depends_on_the_picture_alone():
    """Gains of 1e-3 are weak beside one of 2e3, but belong to another picture of the batch."""
    gains = jnp.array([1e-3, 2e3]).reshape(2, 1, 1, 1)
    keys, x = rng.image_keys(0, [0, 1]), np.random.default_rng(0).normal(size=(2, 2, 2, 1)).astype(np.float32)

    def restored(gain, keys, x):
        def dot(u):
            return gain * u

        operator = operators.linear(dot, dot, svd=(jnp.broadcast_to(gain, x.shape), lambda u: u, lambda c: c))
        levels = schedules.respace(schedules.linear(), 5, "log_snr")
        prior = denoisers.from_x0(lambda x_t, t: 0.5 * x_t, schedules.linear())
        kernel = restoration.ddrm(prior, levels, operator, gain * x, 1e-4)
        return samplers.sample(kernel, keys, x)[0]

    both = restored(gains, keys, x)
    for i in range(2):
        np.testing.assert_allclose(restored(gains[i:i + 1], keys[i:i + 1], x[i:i + 1]), both[i:i + 1], atol=1e-5)


# ---------------------------------------------------------------- RED-diff and PnP-Flow: affine recursions

@pytest.mark.parametrize("name", OPERATORS)
def test_red_diff_with_plain_descent_has_the_law_of_its_recursion(name):
    a, y = dense(name)
    mean, covariance, rate, weight = np.ravel(X).astype(np.float64), np.zeros((8, 8)), 0.2, 0.3
    for alpha_bar in np.asarray(FEW.alpha_bar, np.float64)[::-1]:
        total = alpha_bar * GAUSSIAN.std**2 + 1 - alpha_bar  # eps = sqrt(1 - a) (x_t - sqrt(a) mean) / total
        level = np.sqrt(1 / alpha_bar - 1)
        slope, drawn = level * np.sqrt(alpha_bar * (1 - alpha_bar)) / total, level * ((1 - alpha_bar) / total - 1)
        move = np.eye(8) - rate * (a.T @ a + weight * slope * np.eye(8))
        mean = move @ mean + rate * (a.T @ y + weight * slope * 0.2)
        covariance = move @ covariance @ move.T + (rate * weight * drawn)**2 * np.eye(8)
    close(law(lambda d, operator, y, sigma: restoration.reddiff(d, FEW, operator, y, optax.sgd(rate), weight=weight),
              name, X[0], 0.0), mean, covariance)


def test_red_diff_is_a_point_near_the_posterior_mean():
    """With the weight of Bayes' rule; Adam's default makes noise of its own."""
    wanted, _ = posterior(*dense("blur"))
    noisy = schedules.respace(schedules.karras(500, 2.0, 40.0), 400, "log_snr")
    start, y = jnp.zeros((64, *SHAPE)), jnp.repeat(MEASURED["blur"], 64, axis=0)
    denoiser = GAUSSIAN.denoiser(schedules.karras(500, 2.0, 40.0))
    kernel = restoration.reddiff(denoiser, noisy, BLUR, y, optax.adam(0.02), weight=(SIGMA / GAUSSIAN.std)**2)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS[:64], start)
    np.testing.assert_allclose(np.asarray(x).reshape(64, 8).mean(0), wanted, atol=0.05)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("draws", [1, 3])
def test_pnp_flow_has_the_law_of_its_recursion(name, draws):
    a, y = dense(name)
    mean, covariance = np.ravel(X).astype(np.float64), np.zeros((8, 8))
    for level in np.sqrt(1 / np.asarray(FEW.alpha_bar, np.float64)[::-1] - 1):
        share = GAUSSIAN.std**2 / (GAUSSIAN.std**2 + level**2)
        move = np.eye(8) - 0.9 * (level / (1 + level))**0.8 * a.T @ a
        mean = 0.2 + share * (move @ mean + 0.9 * (level / (1 + level))**0.8 * a.T @ y - 0.2)
        covariance = share**2 * (move @ covariance @ move.T + level**2 / draws * np.eye(8))
    close(law(lambda d, operator, y, sigma: restoration.pnp_flow(
        d, FEW, operator, y, rate=0.9, power=0.8, num_draws=draws), name, X[0], 0.0), mean, covariance)


@pytest.mark.parametrize("call, words", [
    (lambda: restoration.daps(None, FEW, BLUR, NOISE, 0.1, prior_std=0.0), "prior_std must be above 0"),
    (lambda: restoration.daps(None, FEW, BLUR, NOISE, 0.1, ode_steps=0), "ode_steps at least 1"),
    (lambda: restoration.ddrm(None, FEW, BLUR, NOISE, 0.1, eta=2.0), "eta and eta_b must be in"),
    (lambda: restoration.ddrm(None, FEW, operators.gaussian_blur(1.0), NOISE, 0.1), "needs the operator's singular"),
    (lambda: restoration.isometry(operators.gaussian_blur(1.0), NOISE[:1]), "singular values of several sizes"),
    (lambda: restoration.reddiff(None, FEW, BLUR, NOISE, weight=-1.0), "weight must be finite and in"),
    (lambda: restoration.pnp_flow(None, FEW, BLUR, NOISE, num_draws=0), "num_draws at least 1"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
