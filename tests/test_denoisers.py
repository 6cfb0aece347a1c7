"""Every parametrisation of one exact Gaussian denoiser says the same."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, paths, rng, samplers, schedules
from tests.oracles import GaussianDiffusion

SCHEDULE = schedules.respace(schedules.linear(), 20)
MEAN, STD = 0.2, 0.5


def exact(x_t, t):
    """E[x0 | x_t], eps and v for x0 ~ N(MEAN, STD^2)."""
    alpha_bar = SCHEDULE.alpha_bar[jnp.searchsorted(SCHEDULE.timesteps, t)][:, None, None, None]
    gain = STD**2 * jnp.sqrt(alpha_bar) / (alpha_bar * STD**2 + 1 - alpha_bar)
    x0 = MEAN + gain * (x_t - jnp.sqrt(alpha_bar) * MEAN)
    eps = (x_t - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)
    return x0, eps, jnp.sqrt(alpha_bar) * eps - jnp.sqrt(1 - alpha_bar) * x0


T = SCHEDULE.timesteps[jnp.array([1, 7, 19])]
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))


@pytest.mark.parametrize("make, which", [(denoisers.from_x0, 0), (denoisers.from_eps, 1), (denoisers.from_v, 2)])
@pytest.mark.parametrize("clip", [False, True])
def test_parametrisations_agree(make, which, clip):
    prediction = make(lambda x, t: exact(x, t)[which], SCHEDULE, clip=clip)(X, T)
    x0, eps, _ = exact(X, T)
    x0 = jnp.clip(x0, -1, 1) if clip else x0
    np.testing.assert_allclose(prediction.x0, x0, atol=2e-4)
    alpha_bar = SCHEDULE.alpha_bar[jnp.array([1, 7, 19])][:, None, None, None]
    rebuilt = jnp.sqrt(alpha_bar) * prediction.x0 + jnp.sqrt(1 - alpha_bar) * prediction.eps
    np.testing.assert_allclose(rebuilt, X, atol=1e-5)
    assert prediction.log_var is None and prediction.drift == 0


def test_network_is_told_the_original_timesteps():
    told = []
    denoisers.from_eps(lambda x, t: told.append(np.asarray(t)) or x, SCHEDULE)(X, T)
    assert told[0].tolist() == [50, 350, 950]


def test_learned_variance_lies_between_its_bounds():
    def fn(x, t):
        return jnp.concatenate([x, jnp.broadcast_to(jnp.array([-1.0, 1.0]), x.shape)], axis=-1)

    log_var = denoisers.from_eps(fn, SCHEDULE, learned_variance=True)(X, T).log_var
    beta = 1 - SCHEDULE.alpha_bar / SCHEDULE.alpha_bar_prev
    posterior = beta * (1 - SCHEDULE.alpha_bar_prev) / (1 - SCHEDULE.alpha_bar)
    index = np.array([1, 7, 19])
    np.testing.assert_allclose(log_var[:, 0, 0, 0], np.log(posterior[index]), rtol=1e-5)
    np.testing.assert_allclose(log_var[:, 0, 0, 1], np.log(beta[index]), rtol=1e-5)
    first = denoisers.from_eps(fn, SCHEDULE, learned_variance=True)(X[:1], SCHEDULE.timesteps[:1])
    assert bool(jnp.isfinite(first.log_var).all())


def test_learned_variance_needs_twice_the_channels():
    with pytest.raises(ValueError, match="needs 4 output channels, got 2"):
        denoisers.from_eps(lambda x, t: x, SCHEDULE, learned_variance=True)(X, T)


def test_half_precision_networks_give_float32():
    prediction = denoisers.from_eps(lambda x, t: x.astype(jnp.bfloat16), SCHEDULE)(X, T)
    assert prediction.x0.dtype == prediction.eps.dtype == jnp.float32


def test_restorer_carries_its_noise_mode_and_measurement():
    restorer = denoisers.restorer(lambda x, t, y: x + y, noise=paths.constant_noise(0.1), y=X)
    np.testing.assert_array_equal(restorer(X, T), 2 * X)
    assert restorer.noise == paths.constant_noise(0.1)


# ---------------------------------------------------------------- networks that are told the noise level

def told(x, sigma):
    """``E[x | x + sigma n]`` of a Gaussian."""
    share = (STD**2 / (STD**2 + sigma**2))[:, None, None, None]
    return MEAN + share * (x - MEAN)


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(50), schedules.geometric(40)],
                         ids=["linear", "cosine", "geometric"])
def test_a_network_that_is_told_the_level_is_the_exact_denoiser(schedule):
    last = schedule.timesteps.shape[0] - 1
    t = schedule.timesteps[jnp.array([0, last // 2, last])]
    found, wanted = denoisers.from_sigma(told, schedule)(X, t), GaussianDiffusion(MEAN, STD).denoiser(schedule)(X, t)
    np.testing.assert_allclose(found.x0, wanted.x0, atol=2e-4)
    a = schedule.alpha_bar[jnp.array([0, last // 2, last])][:, None, None, None]
    np.testing.assert_allclose(jnp.sqrt(a) * found.x0 + jnp.sqrt(1 - a) * found.eps, X, atol=1e-5)


def test_it_is_told_the_level_of_each_picture_and_given_a_clean_scale():
    schedule, told_ = schedules.geometric(40, 0.01, 8.0), []
    denoisers.from_sigma(lambda x, sigma: told_.append((np.asarray(x), np.asarray(sigma))) or x, schedule)(
        X, schedule.timesteps[jnp.array([0, 20, 39])])
    (x, sigma), = told_
    np.testing.assert_allclose(sigma, np.geomspace(0.01, 8.0, 40)[[0, 20, 39]], rtol=2e-3)
    np.testing.assert_allclose(x, X * np.sqrt(1 + sigma**2)[:, None, None, None], rtol=1e-4)


def test_the_mean_over_mirror_images():
    """Of a denoiser that looks to the left and up: to all four sides. One that is alike everywhere stays as it is."""
    schedule, x = schedules.geometric(10), jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    t = jnp.full(2, schedule.timesteps[3])

    def leaning(x_t, t):
        return denoisers.Prediction(jnp.roll(x_t, 1, 2) + 10 * jnp.roll(x_t, 1, 1), -x_t)

    left, right, up, down = (jnp.roll(x, shift, axis) for axis in (2, 1) for shift in (1, -1))
    for copies, wanted in ((1, left + 10 * up), (2, (left + right) / 2 + 10 * up),
                           (4, (left + right) / 2 + 10 * (up + down) / 2)):
        found = denoisers.mirrored(leaning, copies)(x, t)
        np.testing.assert_allclose(found.x0, wanted, atol=1e-5)
        np.testing.assert_allclose(found.eps, -x, atol=1e-6)
    with pytest.raises(ValueError, match="1, 2 or 4, got 3"):
        denoisers.mirrored(leaning, 3)


def test_clipping_keeps_x0_in_range_and_eps_consistent():
    schedule = schedules.geometric(40)
    found = denoisers.from_sigma(lambda x, sigma: 3 * x, schedule, clip=True)(X, schedule.timesteps[jnp.array([3] * 3)])
    assert float(jnp.abs(found.x0).max()) == 1
    a = schedule.alpha_bar[3]
    np.testing.assert_allclose(jnp.sqrt(a) * found.x0 + jnp.sqrt(1 - a) * found.eps, X, atol=1e-5)


def test_ddim_through_it_has_the_law_of_the_gaussian():
    schedule = schedules.respace(schedules.geometric(400, 0.004, 20.0), 100, "linspace")
    keys = rng.image_keys(0, np.arange(64))
    z = rng.normal(rng.init_keys(keys), jnp.zeros((64, 8, 8, 3)))
    x, _ = jax.jit(lambda keys, z: samplers.sample(
        samplers.ddim(denoisers.from_sigma(told, schedule), schedule), keys, z))(keys, z)
    mean, std = GaussianDiffusion(MEAN, STD).output_law(schedule, eta=0.0)
    assert abs(float(x.mean()) - mean) < 4 * std / x.size**0.5
    assert abs(float(x.std()) / std - 1) < 4 / (2 * x.size)**0.5
    np.testing.assert_allclose([mean, std], [MEAN, STD], rtol=0.05)


# ---------------------------------------------------------------- the only maker

STORED = schedules.to_json("linear", num_timesteps=10)


@pytest.mark.parametrize("prediction", denoisers.BY_PREDICTION)
def test_of_a_prior(prediction):
    prior = denoisers.of(lambda x, t: 0.5 * x, {"schedule": STORED, "prediction": prediction})
    levels = schedules.from_json(STORED)
    jax.tree.map(np.testing.assert_array_equal, prior.schedule, levels)
    t = levels.timesteps[jnp.array([0, 4, 9])]
    wanted = denoisers.BY_PREDICTION[prediction](lambda x, t: 0.5 * x, levels)(X, t)
    np.testing.assert_array_equal(prior.denoiser(X, t).x0, wanted.x0)
    clipped = denoisers.of(lambda x, t: 5 * x, {"schedule": STORED, "prediction": prediction}, clip=True)
    assert float(jnp.abs(clipped.denoiser(X, t).x0).max()) <= 1


def test_of_a_prior_with_a_learned_variance():
    info = {"schedule": STORED, "prediction": "eps", "learned_variance": True}
    prior = denoisers.of(lambda x, t: jnp.concatenate([x, x], -1), info)
    assert prior.denoiser(X, prior.schedule.timesteps[:3]).log_var.shape == X.shape


def test_of_a_restorer():
    info = {"noise": {"name": "constant", "eps": 0.1}, "tasks": []}
    restorer = denoisers.of(lambda x, t: 2 * x, info)
    np.testing.assert_array_equal(restorer(X, T), 2 * X)
    assert restorer.noise == paths.constant_noise(0.1)
    np.testing.assert_array_equal(denoisers.of(lambda x, t, y: x + y, info, y=X)(X, T), 2 * X)


def test_of_something_else_and_inside_of_a_program():
    with pytest.raises(ValueError, match="inn-pixel: neither a diffusion prior nor a restorer"):
        denoisers.of(lambda x, t: x, {"name": "inn-pixel", "scale": 4})
    found = []

    @jax.jit
    def program(x):
        prior = denoisers.of(lambda x, t: x, {"schedule": STORED, "prediction": "x0"})
        found.append(np.asarray(prior.schedule.alpha_bar))  # numbers, not part of the program
        return prior.denoiser(x, prior.schedule.timesteps[:3]).x0

    np.testing.assert_array_equal(program(X), X)
    np.testing.assert_array_equal(found[0], schedules.from_json(STORED).alpha_bar)
