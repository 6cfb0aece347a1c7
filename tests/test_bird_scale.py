"""BIRD and the tasks at scale: memory of a compiled iteration, images that do not couple, devices that do not talk."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, models, operators, restoration, rng, samplers, schedules, sharding
from indigo_jax.methods import bird, known
from tests.oracles import GaussianDiffusion

KEYS = rng.image_keys(0, np.arange(8))
Z = rng.normal(rng.init_keys(KEYS), jnp.zeros((8, 12, 12, 3)))
Y = jnp.clip(0.4 * rng.normal(KEYS, Z), -1, 1)
TALK = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def talk(compiled):
    text = compiled.as_text()
    return [word for word in TALK if word in text]


# ---------------------------------------------------------------------------------------------------- memory

UNET = models.DDPMUNet(channels=8, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(), num_groups=4)


def convolutions(kernels, x, t):
    """A network that compiles in no time: four layers of 64 channels."""
    h = jnp.pad(x, [(0, 0)] * 3 + [(0, 61)])
    for kernel in kernels:
        layer = jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = jnp.tanh(layer)
    return h[..., :3]


@functools.cache
def temporaries(network, task, num_levels):
    """Bytes that a compiled program needs beside its arguments and results, for two pictures of 32 x 32."""
    schedule = schedules.respace(schedules.linear(), num_levels, "linspace")
    picture = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    if network is UNET:
        network, params = UNET.apply, jax.eval_shape(UNET.init, jax.random.key(0), picture, jnp.zeros(2))
    else:
        params = [jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)] * 4

    def program(params, keys, z, y):
        denoiser = denoisers.from_eps(functools.partial(network, params), schedule)
        if task == "rollout":
            return samplers.sample(samplers.ddim(denoiser, schedule), keys, z)[0]
        if task == "stored":
            return jax.grad(lambda z: jnp.sum((restoration.ddim_rollout(denoiser, schedule, z)[0] - y)**2))(z)
        now = restoration.bird_objective(denoiser, schedule, operators.compose(), y, task)(z)
        return now.loss, now.grad_z, now.x0

    lowered = jax.jit(program).lower(params, KEYS[:2], picture, picture)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_stop_needs_the_memory_of_sampling_at_any_number_of_levels():
    assert temporaries(UNET, "stop", 4) < 1.3 * temporaries(UNET, "rollout", 4)
    assert temporaries(UNET, "stop", 16) < 1.1 * temporaries(UNET, "stop", 4)


@pytest.mark.parametrize("network", [convolutions, pytest.param(UNET, marks=pytest.mark.slow)],
                         ids=["convolutions", "DDPMUNet"])
def test_exact_grows_with_the_levels_unless_steps_are_recomputed(network):
    assert temporaries(network, "stored", 16) > 3 * temporaries(network, "stored", 4)
    assert temporaries(network, "exact", 16) < 0.2 * temporaries(network, "stored", 16)


# ---------------------------------------------------------------------------------------------------- devices

SCHEDULE = schedules.respace(schedules.linear(), 5, "linspace")


def bent(x, t):
    exact = GaussianDiffusion(0.1, 0.6).denoiser(SCHEDULE)(x, t)
    return 0.9 * exact.eps + 0.05 * jnp.sin(3.0 * jnp.roll(x, 1, axis=1))


def optimise(shared, batch, wrap, reuse=None):
    """A blind restoration with wrappers; ``shared`` scales the network."""
    keys, z, y = batch
    denoiser = denoisers.from_eps(lambda x, t: shared * bent(x, t), SCHEDULE)
    kernel = restoration.bird(denoiser, SCHEDULE, operators.blind_blur(3), y,
                              restoration.bird_optimizer(num_iterations=8), num_iterations=8, reuse=reuse)
    kernel = wrap(kernel)
    state, info = jax.lax.scan(lambda state, i: kernel.step(keys, state, i), kernel.init(z, keys), jnp.arange(8))
    return {"x": state.x, "loss": state.loss, "evaluations": info.evaluations.T}


@pytest.mark.parametrize("settings", [
    {"reuse": restoration.Reuse(1, check_every=2, guard=1.1),
     "wrap": lambda kernel: restoration.stopped(restoration.averaged(kernel, 0.5), 0.2, patience=1)},
    {"wrap": lambda kernel: restoration.stopped(kernel, 0.2, patience=2)}])
def test_images_that_stop_or_fall_back_neither_couple_nor_make_devices_talk(settings):
    run = functools.partial(optimise, **settings)
    batch, scale = (KEYS, Z, Y * jnp.linspace(0.1, 1.0, 8)[:, None, None, None]), jnp.float32(1)
    whole = jax.jit(run)(scale, batch)
    assert len(np.unique(whole["evaluations"].sum(1))) > 2  # images did go their own ways
    mesh = sharding.data_mesh()
    split = jax.jit(sharding.per_device(run, mesh))
    compiled = split.lower(*(jax.device_put(scale, sharding.replicated(mesh)),
                             jax.device_put(batch, sharding.batch_sharding(mesh)))).compile()
    assert talk(compiled) == []
    found = split(scale, batch)  # one image on each device
    np.testing.assert_array_equal(found["evaluations"], whole["evaluations"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, whole)


FULL = schedules.linear(30)
PRIOR = denoisers.Prior(GaussianDiffusion(0.1, 0.5).denoiser(FULL), FULL)
MASK = (np.arange(144).reshape(12, 12) % 5 > 0).astype(np.float32)


def problem(task, y, keys, **given):
    return known.problem_of(task, y, keys, {"sigma": 0.02, **given}, y.shape[1:])


@pytest.mark.parametrize("task", [
    lambda y, keys: bird.deblur(PRIOR, problem("deblur", y, keys), size=3, num_candidates=2),
    lambda y, keys: bird.inpaint(PRIOR, problem("inpaint", y, keys, mask=MASK), bird.DEFAULT["inpaint"])],
    ids=["deblur", "inpaint"])
def test_whole_tasks_split_over_devices_do_not_talk(task):
    program = jax.jit(task)
    split = sharding.batch_sharding(sharding.data_mesh())
    arguments = [jax.device_put(a, split) for a in (Y, KEYS)]
    compiled = program.lower(*arguments).compile()
    assert talk(compiled) == []
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), compiled(*arguments), program(Y, KEYS))
