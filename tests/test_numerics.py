"""Numerical faults that were found once: each test failed on the code before its repair."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import checkpoints, data, denoisers, operators, paths, restoration, rng, samplers, schedules
from indigo_jax.models import layers
from indigo_jax.models.ddpm_unet import attend
from tests.oracles import GaussianDiffusion
from train import indi, loop

WHOLE = schedules.linear()
GAUSSIAN = GaussianDiffusion(0.0, 0.5)


def with_learned_variance(schedule):
    """The Gaussian's eps, and the right variance of the reverse step: that of the sampler's own steps lies at a share
    of -1 to 1 which the network learned; here the larger bound, right for wide data."""
    exact = GAUSSIAN.denoiser(schedule)

    def fn(x, t):
        eps = exact(x, t).eps
        return jnp.concatenate([eps, jnp.ones_like(eps)], axis=-1)

    return denoisers.from_eps(fn, schedule, learned_variance=True)


@pytest.mark.parametrize("num_steps", [50, 250])
def test_a_learned_variance_belongs_to_the_steps_of_the_sampler(num_steps):
    """The denoiser knows the whole schedule, the sampler takes few of its levels: the variance is of those steps."""
    keys, noise = rng.image_keys(0, np.arange(4)), jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    levels = schedules.respace(WHOLE, num_steps)

    def std(denoiser):
        return float(samplers.sample(samplers.ddpm(denoiser, levels), keys, noise)[0].std())

    assert std(with_learned_variance(WHOLE)) == pytest.approx(std(with_learned_variance(levels)), rel=1e-3)


def test_a_timestep_that_is_not_in_the_schedule_is_refused():
    levels = schedules.respace(WHOLE, 50)
    denoiser = denoisers.from_eps(lambda x, t: x, levels)
    with pytest.raises(ValueError, match="timestep 7 is not in the denoiser's schedule of 50 levels"):
        denoiser(jnp.ones((1, 2, 2, 3)), jnp.full(1, 7.0))
    other = schedules.respace(WHOLE, 30)
    x, _ = samplers.sample(samplers.ddim(denoiser, other), rng.image_keys(0, [0]), jnp.ones((1, 2, 2, 3)))
    assert bool(jnp.isnan(x).all())  # not a neighbour's answer


def test_one_image_of_a_batch_does_not_change_the_optimiser_of_another():
    levels = schedules.respace(schedules.linear(100), 3, "linspace")
    optimizer = optax.chain(optax.clip_by_global_norm(0.01), optax.adam(0.1))
    y = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)) * jnp.array([1.0, 9.0])[:, None, None, None]
    z = jax.random.normal(jax.random.key(1), y.shape)

    def last(rows):
        kernel = restoration.bird(GAUSSIAN.denoiser(schedules.linear(100)), levels, operators.compose(), y[rows],
                                  optimizer, num_iterations=4)
        return samplers.sample(kernel, rng.image_keys(0, np.arange(2)[rows]), z[rows])[0]

    np.testing.assert_allclose(last(slice(0, 1))[0], last(slice(0, 2))[0], atol=1e-5)


def test_attention_in_half_precision_does_not_overflow():
    q = jnp.full((1, 2, 2, 64), 40.0, jnp.float16)  # the products sum to 102,400
    assert bool(jnp.isfinite(attend(q, q, jnp.ones_like(q))).all())


def test_group_norm_far_from_zero():
    module = layers.GroupNorm(1)
    x = 60.0 + 0.05 * jax.random.normal(jax.random.key(0), (1, 64, 64, 4))
    out = np.asarray(module.apply(module.init(jax.random.key(0), x), x), np.float64)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-6)
    np.testing.assert_allclose(out, exact, atol=0.01)


def test_one_step_begins_at_the_noisiest_level():
    from indigo_jax.methods.known import levels_of
    prior = denoisers.Prior(None, WHOLE)
    assert levels_of(prior, 1).timesteps.tolist() == [999.0] and levels_of(prior, 2).timesteps.tolist() == [0.0, 999.0]


def test_a_gradient_that_is_not_finite_is_a_bad_step_though_the_loss_is_finite():
    """``sqrt(0 w)`` is 0, its derivative is not a number."""
    config = types.SimpleNamespace(accumulate=1, ema=0.5, remat="none", sharding_rules=None)
    optimizer, w = optax.sgd(0.1), {"w": jnp.ones(())}
    state = loop.TrainState(jnp.int32(4), w, w, optimizer.init(w), jnp.int32(-1))
    state, numbers = loop.update(config, optimizer, state,
                                 lambda params, x: jnp.mean(jnp.sqrt(0 * params["w"] * x)), jnp.ones(2))
    assert numbers["loss"] == 0 and not jnp.isfinite(numbers["grad_norm"])
    assert state.bad_step == 4  # at which the run stops, and before which the newest good checkpoint lies


def test_a_checkpoint_that_holds_nan_is_passed_over(tmp_path, capsys):
    with checkpoints.manager(tmp_path) as manager:
        for step, value in ((1, 0.5), (2, np.nan)):
            tree = {name: {"kernel": np.full((8, 4), value, np.float32)} for name in ("params", "ema")}
            checkpoints.save(manager, step, tree, position={"next_index": step})
    assert checkpoints.restore_params(tmp_path)["kernel"][0, 0] == 0.5
    assert checkpoints.newest_whole_step(tmp_path) == 1
    assert "holds NaN or infinity" in capsys.readouterr().err


def test_evaluation_draws_other_noise_than_the_degradation(monkeypatch):
    """The keys of a sampler's chain have begun with those of the damage."""
    told = []

    class Model:
        def apply(self, params, x, t):
            return x

    class Damage:
        def __call__(self, x, keys):
            told.append(jax.random.key_data(keys))
            return 0.5 * x

    monkeypatch.setattr(data, "evaluation_batches", lambda *args, **options: iter([
        {"image": np.zeros((2, 96, 96, 3), np.uint8), "id": np.arange(2)}]))
    monkeypatch.setattr(jax, "jit", lambda function: function)
    monkeypatch.setattr(samplers, "sample", lambda kernel, keys, y: told.append(jax.random.key_data(keys)) or (y, None))
    monkeypatch.setattr(indi, "config_to_json", lambda config: {"noise": {"name": "none", "eps": 0.0}})
    monkeypatch.setattr(indi, "noise_mode", lambda config: paths.no_noise())
    monkeypatch.setattr(indi.dataclasses, "replace", lambda config, crop: config)
    config = types.SimpleNamespace(crop=96, margin=0, seed=0, degradation=Damage(), model=Model(), eval_steps=1,
                                   grey=0.0)
    indi.evaluation(config, [0, 1])({})
    of_damage, of_chain = told
    draws = [jax.random.key_data(rng.fold(jax.random.wrap_key_data(of_chain), i)) for i in range(3)] + [of_chain]
    assert all((of_damage != each).any() for each in draws)
