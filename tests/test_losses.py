"""InDI's path, distribution of times and loss, against closed forms."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import losses, rng, schedules

KEYS = rng.image_keys(0, np.arange(4096))


def test_path_ends_and_noise_level():
    x, y = jnp.full((3, 4, 4, 1), -0.5), jnp.full((3, 4, 4, 1), 0.5)
    n = jnp.ones_like(x)
    t = jnp.array([0.0, 0.25, 1.0])
    constant = losses.indi_path(x, y, t, schedules.constant_noise(0.1), n)
    np.testing.assert_allclose(constant[:, 0, 0, 0], [-0.5, -0.25 + 0.025, 0.5 + 0.1], atol=1e-6)
    brownian = losses.indi_path(x, y, t, schedules.brownian_noise(0.1), n)
    np.testing.assert_allclose(brownian[:, 0, 0, 0], [-0.5, -0.25 + 0.05, 0.5 + 0.1], atol=1e-6)
    custom = losses.indi_path(x, y, t, schedules.custom_noise(lambda t: 0.1 / t**0.5), n)
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
    value = losses.indi(lambda x_t, t: x + 0.3, x, x, KEYS[:4], noise=schedules.no_noise(), loss=loss)
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
        return float(losses.indi(restorer, x, y, keys, noise=schedules.constant_noise(eps), loss="l2").mean())

    assert value(1.0) < min(value(0.9), value(1.1))
    t = losses.indi_times(rng.fold(keys, 0), a=1.0)
    expected = float(jnp.mean(s**2 * t**2 * (sigma**2 + eps**2) / (s**2 + t**2 * (sigma**2 + eps**2))))
    assert value(1.0) == pytest.approx(expected, rel=0.03)


def test_refusals():
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match="loss must be one of l1, l2"):
        losses.indi(lambda x_t, t: x_t, x, x, KEYS[:1], noise=schedules.no_noise(), loss="huber")
    with pytest.raises(ValueError, match="a must be at least 0"):
        losses.indi_times(KEYS[:1], a=-1.0)
