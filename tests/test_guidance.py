"""Guidance: each decorator by its formula, and what they do to the gradient."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import guidance, schedules
from indigo_jax.denoisers import Prediction

SCHEDULE = schedules.respace(schedules.linear(), 10)
T = jnp.full(2, SCHEDULE.timesteps[4])
A = SCHEDULE.alpha_bar[4]
X = 3.0 * jax.random.normal(jax.random.key(0), (2, 4, 4, 3))


def twice(x_t, t):
    return Prediction(2.0 * x_t, 0.5 * x_t, log_var=0.0 * x_t)


@pytest.mark.parametrize("mode", ["hard", "straight_through"])
def test_clip_keeps_the_range_and_its_gradient_is_that_of_its_mode(mode):
    clipped = guidance.clip_x0(mode)(twice)
    prediction = clipped(X, T)
    np.testing.assert_allclose(prediction.x0, np.clip(2.0 * X, -1, 1), atol=1e-6)
    np.testing.assert_array_equal(prediction.eps, 0.5 * X)
    gradient = jax.grad(lambda x: clipped(x, T).x0.sum())(X)
    expected = np.full(X.shape, 2.0) if mode == "straight_through" else 2.0 * (np.abs(2.0 * X) < 1)
    np.testing.assert_allclose(gradient, expected)


def test_dynamic_clip_divides_by_the_quantile_of_each_image():
    x = jnp.stack([4.0 * jnp.ones((4, 4, 3)), 0.25 * jnp.ones((4, 4, 3))])
    x0 = guidance.clip_x0("dynamic")(twice)(x, T).x0
    np.testing.assert_allclose(x0[0], 1.0)
    np.testing.assert_allclose(x0[1], 0.5)


@pytest.mark.parametrize("decorator", [
    guidance.clip_x0(schedule=SCHEDULE), guidance.project(lambda x0: 0.1 * x0, schedule=SCHEDULE)])
def test_with_a_schedule_eps_is_derived_anew(decorator):
    prediction = decorator(twice)(X, T)
    np.testing.assert_allclose(jnp.sqrt(A) * prediction.x0 + jnp.sqrt(1 - A) * prediction.eps, X, atol=1e-5)


def test_energy_differentiates_through_the_denoiser_image_by_image():
    guided = guidance.energy(lambda x0: jnp.sum(x0**2, (1, 2, 3)), jnp.array([0.5, 0.0]))(twice)
    prediction = guided(X, T)
    np.testing.assert_allclose(prediction.drift[0], -0.5 * 8.0 * X[0], rtol=1e-6)
    assert not prediction.drift[1].any()
    np.testing.assert_array_equal(prediction.x0, 2.0 * X)


def test_energies_add_up():
    once = guidance.energy(lambda x0: jnp.sum(x0**2, (1, 2, 3)), 0.5)
    np.testing.assert_allclose(guidance.compose(once, once)(twice)(X, T).drift, 2 * once(twice)(X, T).drift, rtol=1e-6)


def test_energy_must_be_one_number_per_image():
    with pytest.raises(ValueError, match=r"one number per image \[2\]"):
        guidance.energy(jnp.sum, 1.0)(twice)(X, T)


def test_compose_applies_the_first_decorator_first():
    halved, clipped = guidance.project(lambda x0: 0.1 * x0), guidance.clip_x0()
    shrunk_first, clipped_first = guidance.compose(halved, clipped)(twice), guidance.compose(clipped, halved)(twice)
    np.testing.assert_allclose(shrunk_first(X, T).x0, np.clip(0.2 * X, -1, 1), rtol=1e-6)
    np.testing.assert_allclose(clipped_first(X, T).x0, 0.1 * np.clip(2 * X, -1, 1), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_classifier_free(scale):
    def zero(x_t, t):
        return Prediction(0.0 * x_t, x_t)

    prediction = guidance.classifier_free(zero, scale)(twice)(X, T)
    np.testing.assert_allclose(prediction.x0, 2.0 * scale * X, rtol=1e-6)
    np.testing.assert_allclose(prediction.eps, X + scale * (0.5 * X - X), rtol=1e-6)


@pytest.mark.parametrize("settings, words", [({"mode": "soft"}, "hard, straight_through, dynamic"),
                                             ({"quantile": 0.0}, "quantile")])
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        guidance.clip_x0(**settings)


def test_truncated_takes_eps_as_a_constant():
    guided = guidance.energy(lambda x0: jnp.sum(x0**2, (1, 2, 3)), 0.5)(guidance.truncated(SCHEDULE)(twice))
    prediction = guided(X, T)
    np.testing.assert_array_equal(prediction.x0, 2.0 * X)
    np.testing.assert_allclose(prediction.drift, -0.5 * 4.0 * X / np.sqrt(A), rtol=1e-6)


def test_downhill_keeps_the_prediction_and_hands_on_what_the_energy_saw():
    descend = guidance.downhill(twice, lambda x0: (jnp.sum(x0**2, (1, 2, 3)), x0 + 1.0), 0.5)
    prediction, drift, seen = descend(X, T)
    jax.tree.map(np.testing.assert_array_equal, prediction, twice(X, T))
    np.testing.assert_array_equal(drift, guidance.energy(lambda x0: jnp.sum(x0**2, (1, 2, 3)), 0.5)(twice)(X, T).drift)
    np.testing.assert_array_equal(seen, 2.0 * X + 1.0)
