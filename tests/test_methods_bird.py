"""BIRD's method: the numbers that were measured once, seen in what they do."""
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, operators, restoration, rng, schedules
from indigo_jax.methods import bird
from indigo_jax.methods.known import Problem

RANDOM = np.random.default_rng(0)
SIGMA = 0.2
KNOBS = bird.DEFAULT["sr"]._replace(num_iterations=2)


def prior_that_says(value):
    schedule = schedules.linear()
    return denoisers.Prior(denoisers.from_x0(lambda x_t, t: jnp.full_like(x_t, value), schedule), schedule)


def problem():
    y = jnp.asarray(RANDOM.uniform(-0.5, 0.5, (2, 4, 4, 3)), jnp.float32)
    return Problem(operators.compose(), y, rng.image_keys(0, [0, 1]), jnp.full(2, SIGMA), y.shape[1:])


def nearest(y, x0, variance):
    """``argmin |x - y|^2 / sigma^2 + |x - x0|^2 / variance``"""
    return (variance * np.asarray(y) + SIGMA**2 * np.asarray(x0)) / (variance + SIGMA**2)


def test_the_gradient_pulls_towards_what_explains_the_measurement(monkeypatch):
    """With a variance of 0.1 of the picture about the rollout."""
    told, of = {}, restoration.bird
    monkeypatch.setattr(restoration, "bird", lambda denoiser, levels, operator, y, optimizer, gradient, **options: (
        told.update(gradient=gradient), of(denoiser, levels, operator, y, optimizer, gradient, **options))[1])
    given = problem()
    bird.begun(prior_that_says(0.1), given, KNOBS)
    x0 = jnp.full_like(given.y, 0.3)
    np.testing.assert_allclose(told["gradient"](x0), nearest(given.y, x0, 0.1), atol=1e-5)


@pytest.mark.parametrize("solve", [bird.optimise, bird.inpaint])
def test_the_last_step_leaves_to_the_noise_what_it_may_explain(solve):
    """A prior that always says 0.1: the result is nearest to it, with a variance of 0.02; twice for a hole."""
    given = problem()
    found = solve(prior_that_says(0.1), given, KNOBS)
    wanted = nearest(given.y, 0.1, 0.02)
    np.testing.assert_allclose(found.x, wanted if solve is bird.optimise else nearest(given.y, wanted, 0.02), atol=1e-4)


@pytest.mark.parametrize("grid, wanted", [((1, 1), SIGMA), ((2, 2), (SIGMA**2 + 0.08**2)**0.5)])
def test_a_grid_of_kernels_comes_only_near(monkeypatch, grid, wanted):
    """What a few kernels cannot explain counts as noise of 0.08."""
    told, of = {}, restoration.blind_em
    monkeypatch.setattr(restoration, "blind_em", lambda *args, **options: (
        told.update(options), of(*args, **{**options, "walks": restoration.Walks(rounds=1, steps=1, final=0)}))[1])
    y = jnp.asarray(RANDOM.uniform(-0.5, 0.5, (1, 16, 16, 3)), jnp.float32)
    bird.deblur(prior_that_says(0.1), Problem(None, y, rng.image_keys(0, [0]), jnp.full(1, SIGMA), y.shape[1:]),
                size=3, grid=grid)
    np.testing.assert_allclose(told["sigma"], [wanted], rtol=1e-6)
