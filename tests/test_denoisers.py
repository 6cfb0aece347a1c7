"""Every parametrisation of one exact Gaussian denoiser says the same."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, schedules

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
    restorer = denoisers.restorer(lambda x, t, y: x + y, noise=schedules.constant_noise(0.1), y=X)
    np.testing.assert_array_equal(restorer(X, T), 2 * X)
    assert restorer.noise == schedules.constant_noise(0.1)
