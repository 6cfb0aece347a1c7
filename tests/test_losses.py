"""InDI's path, distribution of times and loss, against closed forms."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from indigo_jax import losses, paths, rng, schedules

KEYS = rng.image_keys(0, np.arange(4096))


def test_path_ends_and_noise_level():
    x, y = jnp.full((3, 4, 4, 1), -0.5), jnp.full((3, 4, 4, 1), 0.5)
    n = jnp.ones_like(x)
    t = jnp.array([0.0, 0.25, 1.0])
    constant = losses.indi_path(x, y, t, paths.constant_noise(0.1), n)
    np.testing.assert_allclose(constant[:, 0, 0, 0], [-0.5, -0.25 + 0.025, 0.5 + 0.1], atol=1e-6)
    brownian = losses.indi_path(x, y, t, paths.brownian_noise(0.1), n)
    np.testing.assert_allclose(brownian[:, 0, 0, 0], [-0.5, -0.25 + 0.05, 0.5 + 0.1], atol=1e-6)
    custom = losses.indi_path(x, y, t, paths.custom_noise(lambda t: 0.1 / t**0.5), n)
    np.testing.assert_allclose(custom, brownian, atol=1e-6)


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("stratified", [True, False])
def test_times_follow_the_mixture(a, stratified):
    t = np.asarray(losses.indi_times(KEYS, a=a, stratified=stratified))
    assert t.min() > 0 and t.max() <= 1
    share = (t == 1).mean()
    tolerance = 1 / len(t) if stratified else 0.03
    assert abs(share - a / (1 + a)) <= tolerance + 1e-6
    inner = np.sort(t[t < 1])
    uniform = (np.arange(len(inner)) + 0.5) / len(inner)
    assert np.abs(inner - uniform).max() < (0.002 if stratified else 0.05)


def test_stratified_times_cover_a_small_batch():
    t = np.sort(np.asarray(losses.indi_times(KEYS[:8], a=0.0)))
    assert all(i / 8 <= value <= (i + 1) / 8 for i, value in enumerate(t))


def test_times_belong_to_keys_when_independent():
    both = losses.indi_times(KEYS[:4], stratified=False)
    np.testing.assert_array_equal(losses.indi_times(KEYS[2:4], stratified=False), both[2:])


@pytest.mark.parametrize("loss, power", [("l1", 1), ("l2", 2)])
def test_loss_of_a_constant_error(loss, power):
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    value = losses.indi(lambda x_t, t: x + 0.3, x, x, KEYS[:4], noise=paths.no_noise(), loss=loss)
    np.testing.assert_allclose(value, np.full(4, 0.3**power), rtol=1e-5)


def test_l2_is_least_at_the_conditional_mean():
    """Scalar Gaussian: x ~ N(0, s^2), y = x + sigma n; E[x | x_t] = s^2 / (s^2 + t^2 (sigma^2 + eps^2)) x_t."""
    s, sigma, eps = 0.5, 1.0, 0.3
    keys = rng.image_keys(1, np.arange(20_000))
    x = s * rng.normal(rng.fold(keys, 10), jnp.zeros((20_000, 1, 1, 1)))
    y = x + sigma * rng.normal(rng.fold(keys, 11), x)

    def value(factor):
        def restorer(x_t, t):
            gain = s**2 / (s**2 + t**2 * (sigma**2 + eps**2))
            return factor * gain[:, None, None, None] * x_t
        return float(losses.indi(restorer, x, y, keys, noise=paths.constant_noise(eps), loss="l2").mean())

    assert value(1.0) < min(value(0.9), value(1.1))
    t = losses.indi_times(rng.fold(keys, 0), a=1.0)
    expected = float(jnp.mean(s**2 * t**2 * (sigma**2 + eps**2) / (s**2 + t**2 * (sigma**2 + eps**2))))
    assert value(1.0) == pytest.approx(expected, rel=0.03)


def test_points_in_the_plane_are_pictures_too():
    """``[B, 2]`` has the loss of the same numbers as pictures; it has been broadcast to ``[B, 1, B, 2]``."""
    x, y = (jax.random.normal(jax.random.key(k), (4, 2)) for k in (1, 2))
    keys, noise, schedule = KEYS[:4], paths.brownian_noise(0.3), schedules.linear(10)

    def both(loss):
        return loss(x, y), loss(x[:, None, None], y[:, None, None])

    for flat, pictures in (
            both(lambda x, y: losses.indi(lambda x_t, t: 0.5 * x_t, x, y, keys, noise=noise, loss="l2")),
            both(lambda x, y: losses.diffusion(lambda x_t, t: 0.5 * x_t, x, keys, schedule, weighting="min_snr"))):
        assert flat.shape == (4,)
        np.testing.assert_allclose(flat, pictures, rtol=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    x = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match="must have one shape"):
        losses.indi(lambda x_t, t: x_t, x, x[..., :1], KEYS[:2], noise=paths.no_noise())
    with pytest.raises(ValueError, match="the restorer gives"):
        losses.indi(lambda x_t, t: x_t[..., :1], x, x, KEYS[:2], noise=paths.no_noise())


def test_refusals():
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match="loss must be one of l1, l2"):
        losses.indi(lambda x_t, t: x_t, x, x, KEYS[:1], noise=paths.no_noise(), loss="huber")
    with pytest.raises(ValueError, match="a must be at least 0"):
        losses.indi_times(KEYS[:1], a=-1.0)


# ---------------------------------------------------------------- diffusion

@pytest.mark.parametrize("prediction", losses.PREDICTIONS)
@pytest.mark.parametrize("level", [0, 40, 99])
def test_the_optimal_predictor_of_a_gaussian_attains_the_closed_form_loss(prediction, level):
    """x ~ N(0, s^2): each target is jointly Gaussian with x_t, so the best predictor is linear and its error is
    ``a (1 - a) s^2 / var(x_t)`` times the square of what divides x in the target's noise."""
    s, schedule = 0.5, schedules.linear(100)
    a = float(schedule.alpha_bar[level])
    var = a * s**2 + 1 - a
    gain = {"x0": a**0.5 * s**2 / var, "eps": (1 - a) ** 0.5 / var,
            "v": (a * (1 - a)) ** 0.5 * (1 - s**2) / var}[prediction]
    least = {"x0": s**2 * (1 - a), "eps": a * s**2, "v": s**2}[prediction] / var
    keys = rng.image_keys(2, np.arange(2000))
    x = s * rng.normal(rng.fold(keys, 10), jnp.zeros((2000, 4, 4, 1)))
    value = losses.diffusion(lambda x_t, t: gain * x_t, x, keys, schedule, prediction=prediction,
                             index=jnp.full(2000, level))
    np.testing.assert_allclose(value.mean(), least, rtol=0.04)
    worse = losses.diffusion(lambda x_t, t: 0.8 * gain * x_t, x, keys, schedule, prediction=prediction,
                             index=jnp.full(2000, level))
    assert worse.mean() > value.mean()


@pytest.mark.parametrize("level", [3, 20, 36])
def test_flow_and_edm_at_the_optimal_predictor_of_a_gaussian(level):
    """x ~ N(0, s^2): target and input are linear in (x, n), so the best gain and its error are a regression's."""
    s, sigma_data, count = 0.5, 0.8, 4000
    keys = rng.image_keys(2, np.arange(count))
    x = s * rng.normal(rng.fold(keys, 10), jnp.zeros((count, 4, 4, 1)))

    def regression(target, seen):
        """Both as (factor of x, factor of n)."""
        (a, b), (c, d) = target, seen
        gain = (a * c * s**2 + b * d) / (c**2 * s**2 + d**2)
        return gain, (a - gain * c) ** 2 * s**2 + (b - gain * d) ** 2

    def check(loss, gain, least):
        value = loss(lambda x_t, t: gain * x_t).mean()
        np.testing.assert_allclose(value, least, rtol=0.03)
        assert loss(lambda x_t, t: gain * x_t + 0.1).mean() > value

    schedule, index = schedules.flow(40), jnp.full(count, level)
    t, told = (level + 0.5) / 40, []
    check(lambda f: losses.flow(lambda x_t, t: told.append(t) or f(x_t, t), x, keys, schedule, index=index),
          *regression((-1, 1), (1 - t, t)))
    np.testing.assert_allclose(told[0], 1000 * t, rtol=1e-6)
    schedule, told = schedules.karras(40, 0.05, 20.0), []
    sigma = float(schedules.sigmas(schedule)[level])
    total = sigma**2 + sigma_data**2
    skip, out = sigma_data**2 / total, sigma * sigma_data / total**0.5
    check(lambda f: losses.edm(lambda x_t, t: told.append(t) or f(x_t, t), x, keys, schedule, sigma_data=sigma_data,
                               index=index),
          *regression(((1 - skip) / out, -skip * sigma / out), (1 / total**0.5, sigma / total**0.5)))
    np.testing.assert_allclose(told[0], np.log(sigma) / 4, rtol=1e-5)


def test_edm_weighs_every_level_alike():
    """A network that says 0 has loss 1 at each of them, where sigma_data is that of the pictures."""
    x = 0.5 * rng.normal(rng.fold(KEYS, 10), jnp.zeros((len(KEYS), 4, 4, 3)))
    schedule = schedules.karras(200)
    index = losses.edm_levels(KEYS, schedule)
    value = losses.edm(lambda x_t, t: 0.0 * x_t, x, KEYS, schedule, index=index)
    for part in np.array_split(np.asarray(value)[np.argsort(index)], 4):
        np.testing.assert_allclose(part.mean(), 1, rtol=0.03)


def test_edm_levels_are_those_of_the_paper_and_cover_a_batch():
    schedule = schedules.karras(1000)
    level = np.log(np.asarray(schedules.sigmas(schedule))[losses.edm_levels(KEYS, schedule)])
    assert abs(level.mean() + 1.2) < 0.01 and abs(level.std() - 1.2) < 0.01
    few = np.log(np.asarray(schedules.sigmas(schedule))[losses.edm_levels(KEYS[:8], schedule)])
    assert (np.diff(few) > 0).all() and few[3] < -1.2 + 0.02 and few[4] > -1.2 - 0.02


@pytest.mark.parametrize("loss", [losses.flow, losses.edm])
def test_flow_and_edm_refuse_another_shape(loss):
    with pytest.raises(ValueError, match="the network gives"):
        loss(lambda x_t, t: x_t[..., :1], jnp.zeros((2, 4, 4, 3)), KEYS[:2], schedules.flow(10))


def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction():
    schedule, keys = schedules.cosine(50), KEYS[:64]
    x = jax.random.uniform(jax.random.key(0), (64, 4, 4, 3), minval=-1.0)
    index = losses.diffusion_levels(keys, 50)
    a = schedule.alpha_bar[index][:, None, None, None]
    wrong = x + 0.3  # this estimate of x, said in the three ways

    def says(prediction):
        def network(x_t, t):
            eps = (x_t - jnp.sqrt(a) * wrong) / jnp.sqrt(1 - a)
            return {"x0": wrong, "eps": eps, "v": jnp.sqrt(a) * eps - jnp.sqrt(1 - a) * wrong}[prediction]
        return losses.diffusion(network, x, keys, schedule, prediction=prediction, weighting="min_snr", index=index)

    snr = (a / (1 - a))[:, 0, 0, 0]
    for prediction in losses.PREDICTIONS:
        np.testing.assert_allclose(says(prediction), 0.09 * jnp.minimum(snr, 5.0), rtol=2e-3)


def test_levels_are_uniform_and_cover_a_batch():
    index = np.asarray(losses.diffusion_levels(KEYS, 10))
    assert (np.bincount(index, minlength=10) >= 408).all() and index.dtype == np.int32
    assert sorted(losses.diffusion_levels(KEYS[:8], 8)) == list(range(8))
    assert len(set(np.asarray(losses.diffusion_levels(KEYS, 10, stratified=False)))) == 10


def test_an_image_has_the_loss_it_has_alone():
    schedule, x = schedules.linear(100), jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
    index = jnp.arange(4) * 20
    together = losses.diffusion(lambda x_t, t: 0.5 * x_t, x, KEYS[:4], schedule, index=index)
    alone = losses.diffusion(lambda x_t, t: 0.5 * x_t, x[2:3], KEYS[2:3], schedule, index=index[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-6)


def _learned(v, x, index, gain=0.0):
    schedule = schedules.linear(100)
    return losses.diffusion(lambda x_t, t: jnp.concatenate([gain * x_t, v + 0.0 * x_t], -1), x, KEYS[:len(x)], schedule,
                            learned_variance=True, index=jnp.full(len(x), index))


def test_the_learned_variance_minimises_the_bound_at_the_posterior_for_a_perfect_mean():
    """With x = 0 the noise is a known multiple of x_t: the KL is 0 at v = -1 and rises with v."""
    x, index, schedule = jnp.zeros((8, 4, 4, 1)), 5, schedules.linear(100)
    gain = float(1 / jnp.sqrt(1 - schedule.alpha_bar[index]))
    np.testing.assert_allclose(_learned(-1.0, x, index, gain), 0.0, atol=1e-5)
    low, high = (a[index] for a in schedules.log_variances(schedule))
    gap = float(high - low)
    expected = 0.001 * 100 * 0.5 * (gap - 1 + np.exp(-gap)) / np.log(2)
    np.testing.assert_allclose(_learned(1.0, x, index, gain), expected, rtol=2e-2, atol=1e-6)


def test_only_the_variance_learns_through_the_bound():
    """The gradient of the noise half is that of the plain loss; at level 0 the likelihood of the grey values counts."""
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 3), minval=-1.0)
    for index in (0, 60):
        hybrid = jax.grad(lambda gain: _learned(0.3, x, index, gain).mean())(0.5)
        plain = jax.grad(lambda gain: losses.diffusion(lambda x_t, t: gain * x_t, x, KEYS[:4], schedules.linear(100),
                                                       index=jnp.full(4, index)).mean())(0.5)
        np.testing.assert_allclose(hybrid, plain, rtol=1e-5)
        assert jax.grad(lambda v: _learned(v, x, index, 0.5).mean())(0.3) != 0
    assert np.isfinite(_learned(0.0, x, 0)).all()


@pytest.mark.parametrize("index", [0, 1, 40])
def test_the_bound_is_that_of_the_papers(index):
    """In bits per number, by scipy: a KL of Gaussians, and at level 0 the likelihood of 256 grey values, of which the
    outermost reach to infinity."""
    schedule, v = schedules.linear(100, 0.001, 0.05), 0.3
    x = jnp.array([-1.0, -0.998, 0.2, 0.998, 1.0]).reshape(1, 1, 5, 1)
    x_t, x0 = x + 0.07, 0.9 * x + 0.01
    found = losses._variational_bound(schedule, jnp.array([index]), x, x0, v * jnp.ones_like(x))
    a, before = (np.asarray(values, np.float64)[index] for values in (schedule.alpha_bar, schedule.alpha_bar_prev))
    first = [np.asarray(values, np.float64)[1] for values in (schedule.alpha_bar, schedule.alpha_bar_prev)]
    beta = 1 - a / before
    low = beta * (1 - before) / (1 - a) if index else (1 - first[0] / first[1]) * (1 - first[1]) / (1 - first[0])
    variance = np.exp(0.5 * (1 + v) * np.log(beta) + 0.5 * (1 - v) * np.log(low))
    x, x_t, x0 = (np.asarray(array, np.float64).ravel() for array in (x, x_t, x0))
    mean, right = (np.sqrt(before) * beta / (1 - a) * clean + np.sqrt(1 - beta) * (1 - before) / (1 - a) * x_t
                   for clean in (x0, x))
    if index:
        wanted = 0.5 * (np.log(variance / low) - 1 + low / variance + (right - mean)**2 / variance)
    else:
        law = stats.norm(mean, variance**0.5)
        above, below = (np.where(x > 0.999, 1, law.cdf(x + 1 / 255)), np.where(x < -0.999, 0, law.cdf(x - 1 / 255)))
        wanted = -np.log(np.maximum(above - below, 1e-12))
    np.testing.assert_allclose(found, [wanted.mean() / np.log(2)], rtol=2e-3)


@pytest.mark.parametrize("options, message", [
    (dict(prediction="score"), "prediction must be one of eps, x0, v; got 'score'"),
    (dict(weighting="p2"), "weighting must be one of simple, min_snr; got 'p2'"),
    (dict(prediction="v", learned_variance=True), "goes with prediction 'eps', not 'v'"),
    (dict(learned_variance=True), "6 channels are needed"),
])
def test_diffusion_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        losses.diffusion(lambda x_t, t: x_t, jnp.zeros((2, 4, 4, 3)), KEYS[:2], schedules.linear(10), **options)


# ---------------------------------------------------------------- denoisers that are told the level

def test_noise_levels_are_log_uniform_on_both_sides_of_the_middle():
    sigma = np.asarray(losses.noise_levels(KEYS, 0.004, 0.6, 10.0, share=0.75))
    assert sigma.min() >= 0.004 and sigma.max() <= 10.0 * (1 + 1e-5)
    assert (sigma < 0.6).mean() == pytest.approx(0.75, abs=1e-3)
    for part, low, high in ((sigma[sigma < 0.6], 0.004, 0.6), (sigma[sigma >= 0.6], 0.6, 10.0)):
        place = np.sort(np.log(part / low) / np.log(high / low))
        assert np.abs(place - (np.arange(len(place)) + 0.5) / len(place)).max() < 0.01


def test_noise_levels_cover_a_small_batch():
    sigma = np.asarray(losses.noise_levels(KEYS[:8], 0.01, 0.1, 1.0, share=0.5))
    assert (sigma < 0.1).sum() == 4 and (np.diff(np.sort(sigma)) > 0).all()


def test_denoising_is_the_error_over_the_root_of_the_level():
    x, sigma = jnp.zeros((3, 4, 4, 3)), jnp.array([0.01, 0.25, 4.0])
    level = sigma[:, None, None, None] * jnp.ones((3, 4, 4, 1))
    told = []
    loss = losses.denoising(lambda noisy, level: told.append(level) or noisy, x, x + 0.2, sigma, level)
    np.testing.assert_allclose(loss, 0.2 / np.sqrt([0.01, 0.25, 4.0]), rtol=1e-4)
    assert told[0] is level
    right = losses.denoising(lambda noisy, level: noisy - 0.2, x, x + 0.2, sigma, level)
    assert bool((right < 1e-4).all())
    gradient = jax.grad(lambda a: losses.denoising(lambda n, level: a * n, x, x, sigma, level).sum())(1.0)
    assert bool(jnp.isfinite(gradient))  # also where the error is nothing


# ---------------------------------------------------------------- embeddings

def test_contrast_of_made_up_embeddings():
    a, b = np.array([[2.0, 0.0], [0.0, -0.5]]), np.array([[3.0, 0.0], [-5.0, 0.5]])  # their mean is 0
    cosines = np.array([[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in b] for u in a]) / 0.2
    a, b = (jnp.asarray(each + [7.0, -3.0], jnp.float32) for each in (a, b))
    want = np.log(np.exp(cosines).sum(1)) - np.diagonal(cosines)
    np.testing.assert_allclose(losses.contrastive(a, b, temperature=0.2), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.contrastive(jnp.ones((8, 3)), jnp.ones((8, 3))), np.log(8), rtol=1e-6)


def test_contrast_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        losses.contrastive(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="temperature"):
        losses.contrastive(jnp.ones((2, 3)), jnp.ones((2, 3)), temperature=0.0)
