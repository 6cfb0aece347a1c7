"""DDIM and DDPM against a Gaussian, for which the law of every step is known exactly."""
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from indigo_jax import denoisers, guidance, rng, samplers, schedules, sharding
from tests.oracles import GaussianDiffusion

GAUSSIAN = GaussianDiffusion(mean=0.3, std=0.5)
NUM, SIZE = 4096, 8
KEYS = rng.image_keys(0, np.arange(NUM))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((NUM, SIZE)))


def make(name, denoiser, schedule):
    """The kernel of one row of the table below."""
    kind, *value = name.split()
    if kind == "ddim":
        return samplers.ddim(denoiser, schedule, eta=float(value[0]))
    return samplers.ddpm(denoiser, schedule, variance=value[0])


def law(name, schedule, **pull):
    kind, value = name.split()
    settings = {"eta": float(value)} if kind == "ddim" else {"variance": value}
    return GAUSSIAN.output_law(schedule, **settings, **pull)


KERNELS = ("ddim 0", "ddim 0.5", "ddim 1", "ddpm small", "ddpm large")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("num_steps, spacing", [(7, "trailing"), (100, "linspace")])
def test_output_has_the_law_of_the_discrete_chain(name, num_steps, spacing):
    schedule = schedules.respace(schedules.linear(), num_steps, spacing)
    kernel = make(name, GAUSSIAN.denoiser(schedule), schedule)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    mean, std = law(name, schedule)
    assert abs(float(x.mean()) - mean) < 4 * std / np.sqrt(NUM * SIZE) + 1e-4
    assert abs(float(x.std()) / std - 1) < 4 / np.sqrt(2 * NUM * SIZE)


@pytest.mark.parametrize("name", KERNELS)
def test_many_steps_reach_the_data(name):
    mean, std = law(name, schedules.linear())
    assert abs(mean - GAUSSIAN.mean) < 0.01 and abs(std - GAUSSIAN.std) < 0.01


@pytest.mark.parametrize("name", KERNELS)
def test_drift_of_guidance_is_added_to_each_step(name):
    schedule = schedules.respace(schedules.linear(), 20, "linspace")
    guide = guidance.energy(lambda x0: jnp.sum((x0 - 0.9)**2, axis=1), 0.1)
    kernel = make(name, guide(GAUSSIAN.denoiser(schedule)), schedule)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    mean, std = law(name, schedule, pull=0.1, towards=0.9)
    assert abs(mean - GAUSSIAN.mean) > 0.1  # it does something
    assert abs(float(x.mean()) - mean) < 4 * std / np.sqrt(NUM * SIZE) + 1e-4
    assert abs(float(x.std()) / std - 1) < 4 / np.sqrt(2 * NUM * SIZE)


def test_ddpm_uses_the_learned_variance():
    """A network that says its variance is the smaller or the larger bound samples as with that fixed one."""
    schedule = schedules.respace(schedules.linear(), 10, "linspace")
    exact = GAUSSIAN.denoiser(schedule)
    for v, variance in ((-1.0, "small"), (1.0, "large")):
        learned = denoisers.from_eps(lambda x, t: jnp.concatenate([exact(x, t).eps, jnp.full_like(x, v)], -1), schedule,
                                     learned_variance=True)
        kernels = [samplers.ddpm(denoiser, schedule, variance=variance) for denoiser in (learned, exact)]
        a, b = (samplers.sample(kernel, KEYS[:64], NOISE[:64, None, None])[0] for kernel in kernels)
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["ddim 1", "ddpm small"])
def test_one_image_alone_in_a_batch_and_on_eight_devices(name):
    schedule = schedules.respace(schedules.linear(), 6)
    kernel = make(name, GAUSSIAN.denoiser(schedule), schedule)
    run = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z)[0])
    batch = run(KEYS[:8], NOISE[:8])
    np.testing.assert_allclose(run(KEYS[5:6], NOISE[5:6]), batch[5:6], atol=1e-6)
    split = NamedSharding(sharding.data_mesh(), PartitionSpec("data"))
    arguments = jax.device_put(KEYS[:8], split), jax.device_put(NOISE[:8], split)
    np.testing.assert_allclose(run(*arguments), batch, atol=1e-6)
    program = run.lower(*arguments).compile().as_text()
    assert not any(word in program for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"))


def test_trace_info_and_one_trace_of_the_denoiser():
    schedule = schedules.respace(schedules.linear(), 5)
    exact = GAUSSIAN.denoiser(schedule)
    counted = chex.assert_max_traces(n=1)(lambda x, t: exact(x, t))
    run = jax.jit(lambda keys, z: samplers.sample(samplers.ddim(counted, schedule), keys, z, trace="x0"))
    x, info = run(KEYS[:2], NOISE[:2])
    assert info.trace.shape == (5, 2, SIZE) and info.steps.t.tolist() == schedule.timesteps[::-1].tolist()
    np.testing.assert_array_equal(info.trace[-1], x)


@pytest.mark.parametrize("call, words", [
    (lambda d, s: samplers.ddim(d, s, eta=1.5), "eta must be in"),
    (lambda d, s: samplers.ddpm(d, s, variance="medium"), "small, large"),
])
def test_refusals(call, words):
    schedule = schedules.linear(10)
    with pytest.raises(ValueError, match=words):
        call(GAUSSIAN.denoiser(schedule), schedule)
