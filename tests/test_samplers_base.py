"""The loop: one's own is as good as ``sample``, whatever the kernel; dtypes, progress, explicit meshes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules
from tests.oracles import GaussianDiffusion

GAUSSIAN = GaussianDiffusion(mean=0.1, std=0.3)
SCHEDULE = schedules.respace(schedules.linear(), 6, "linspace")
KEYS = rng.image_keys(3, np.arange(8))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((8, 8, 8, 3)))
Y = 0.1 + 0.2 * NOISE[..., ::-1]
BLUR = operators.blur(operators.gaussian_kernel(1.0, 5))


def bird(y, **options):
    return restoration.bird(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, BLUR, y,
                            restoration.bird_optimizer(num_iterations=4), num_iterations=4, **options)


MAKERS = {
    "ddim": lambda y: samplers.ddim(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, 0.7),
    "ddpm": lambda y: samplers.ddpm(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE),
    "indi": lambda y: samplers.indi(lambda x_t, t: 0.5 * x_t, 5, noise=samplers.brownian_noise(0.2)),
    "dps": lambda y: restoration.dps(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, BLUR, y),
    "ddnm": lambda y: restoration.ddnm(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, BLUR, y, num_iterations=2),
    "diffpir": lambda y: restoration.diffpir(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, BLUR, y, 0.1),
    "hqs": lambda y: restoration.hqs(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, BLUR, y, 0.1, num_steps=3),
    "bird": bird,
    "bird, wrapped": lambda y: restoration.stopped(restoration.averaged(bird(
        y, reuse=restoration.Reuse(2, check_every=2)), 0.5), 0.05),
    "bird, exact": lambda y: bird(y, gradient="exact"),
    "bird, prox": lambda y: bird(y, gradient="prox"),
    "blind_em": lambda y: restoration.blind_em(GAUSSIAN.denoiser(SCHEDULE), SCHEDULE, y, size=3, sigma=0.1,
                                               walks=restoration.Walks(1, 2, 2)),
}
FEW = ("ddim", "ddpm", "indi", "diffpir", "hqs", "bird", "blind_em")


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("ddnm", "bird, exact", "bird, prox")])
def test_a_loop_of_ones_own_gives_the_same_numbers(name):
    kernel = MAKERS[name](Y[:2])

    def loop(keys, x):
        return jax.lax.fori_loop(0, kernel.num_steps, lambda i, state: kernel.step(keys, state, i)[0],
                                 kernel.init(x, keys)).x

    wanted = jax.jit(lambda keys, x: samplers.sample(kernel, keys, x)[0])(KEYS[:2], NOISE[:2])
    np.testing.assert_array_equal(jax.jit(loop)(KEYS[:2], NOISE[:2]), wanted)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "indi", "diffpir", "hqs"])
def test_so_does_a_loop_in_python_and_its_infos(name):
    kernel = MAKERS[name](Y[:2])
    wanted = jax.jit(lambda keys, x: samplers.sample(kernel, keys, x))(KEYS[:2], NOISE[:2])
    state, step, infos = jax.jit(kernel.init)(NOISE[:2], KEYS[:2]), jax.jit(kernel.step), []
    for i in range(kernel.num_steps):
        state, info = step(KEYS[:2], state, i)
        infos.append(info._replace(x0=None))
    np.testing.assert_array_equal(state.x, wanted[0])
    jax.tree.map(lambda a, *each: np.testing.assert_array_equal(a, jnp.stack(each)), wanted[1].steps, *infos)


def test_a_fori_loop_over_ddpm_has_the_law_of_the_data():
    """Noise that is the same in every step adds up: it has made 6.0 of this."""
    keys = rng.image_keys(0, np.arange(512))
    z = rng.normal(rng.init_keys(keys), jnp.zeros((512, 4, 4, 3)))
    schedule = schedules.linear(200, 5e-4, 0.1)
    kernel = samplers.ddpm(GAUSSIAN.denoiser(schedule), schedule)
    state = jax.lax.fori_loop(0, kernel.num_steps, lambda i, state: kernel.step(keys, state, i)[0],
                              kernel.init(z, keys))
    mean, std = GAUSSIAN.output_law(schedule)
    assert abs(float(state.x.mean()) - mean) < 4 * std / z.size**0.5
    assert abs(float(state.x.std()) / std - 1) < 4 / (2 * z.size)**0.5 and abs(std - 0.3) < 0.02


def test_own_keys_folds_the_number_of_the_step():
    step = samplers.own_keys(lambda keys, state, i: (keys, i))
    keys, i = step(KEYS, None, 5)
    assert i == 5
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(rng.fold(KEYS, 5)))


@pytest.mark.parametrize("name", FEW)
def test_halves_are_sampled_in_float32(name):
    kernel = MAKERS[name](Y[:2])
    run = jax.jit(lambda keys, x: samplers.sample(kernel, keys, x)[0])
    start = NOISE[:2].astype(jnp.bfloat16)
    found = run(KEYS[:2], start)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, run(KEYS[:2], start.astype(jnp.float32)))


@pytest.mark.parametrize("name", FEW)
def test_whole_numbers_are_refused(name):
    with pytest.raises(ValueError, match=r"floating point in \[-1, 1\], not uint8"):
        samplers.sample(MAKERS[name](Y[:2]), KEYS[:2], jnp.zeros((2, 8, 8, 3), jnp.uint8))


@pytest.mark.parametrize("devices", [1, 8])
def test_the_callback_sees_every_step_in_order_and_changes_nothing(devices):
    kernel, seen = MAKERS["ddim"](Y), []

    def note(i, info):
        seen.append((int(i), float(info.t), np.asarray(info.x0)))

    split = NamedSharding(jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
    keys, z = jax.device_put((KEYS, NOISE), split)
    found, info = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z, "x0", callback=note))(keys, z)
    jax.effects_barrier()
    assert [i for i, *_ in seen] == list(range(6))
    assert [t for _, t, _ in seen] == info.steps.t.tolist()
    np.testing.assert_array_equal(np.stack([x0 for *_, x0 in seen]), info.trace)
    without = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z)[0])
    np.testing.assert_allclose(without(keys, z), found, atol=1e-6)
    assert "callback" not in without.lower(keys, z).as_text()


def test_a_callback_does_not_hinder_the_gradient():
    kernel = MAKERS["ddim"](Y[:1])

    def total(z, callback):
        return jnp.sum(samplers.sample(kernel, KEYS[:1], z, remat=True, callback=callback)[0])

    found = jax.jit(jax.grad(lambda z: total(z, lambda i, info: None)))(NOISE[:1])
    np.testing.assert_allclose(found, jax.jit(jax.grad(lambda z: total(z, None)))(NOISE[:1]), rtol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "ddnm", "diffpir", "bird", "bird, wrapped", "bird, exact"])
def test_a_mesh_of_explicit_axes(name):
    """The default of ``jax.make_mesh``: every array says how it is split."""
    run = jax.jit(lambda keys, z, y: samplers.sample(MAKERS[name](y), keys, z, trace="x")[1].trace)
    wanted = run(KEYS, NOISE, Y)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        found = run(*jax.device_put((KEYS, NOISE, Y), NamedSharding(mesh, PartitionSpec("data"))))
    assert found.sharding.spec == PartitionSpec(None, "data", None, None, None)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("wrong, words", [
    (lambda: samplers.sample(samplers.ddim(lambda x, t: x, SCHEDULE), KEYS, NOISE),
     "returns a denoisers.Prediction, and this one an array, .* give denoisers.from_eps"),
    (lambda: samplers.sample(samplers.ddpm(lambda x, t: x, SCHEDULE), KEYS, NOISE), "give denoisers.from_eps"),
    (lambda: samplers.sample(MAKERS["ddim"](Y), 0, NOISE), r"8 images but keys that are 0; .* numpy.arange\(8\)"),
    (lambda: samplers.sample(MAKERS["ddim"](Y), jax.random.PRNGKey(0), NOISE[:2]), r"keys of shape \(2,\) and uint32"),
    (lambda: rng.image_keys(0, 4), "one number per image, as numpy.arange"),
    (lambda: denoisers.of(nn.Dense(3), {"prediction": "x0", "schedule": schedules.to_json("linear")}), "module.apply"),
    (lambda: denoisers.of(lambda x, t: x, SCHEDULE), "takes the info of weights.load, a dict, not a NoiseSchedule")])
def test_what_is_handed_over_by_mistake_is_told_what_to_give(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_an_attribute_that_a_strangers_denoiser_lacks_is_told_as_it_is():
    with pytest.raises(AttributeError, match="forwards"):
        samplers.sample(samplers.ddim(lambda x, t: x.forwards, SCHEDULE), KEYS, NOISE)


def test_a_prior_is_a_denoiser():
    prior = denoisers.of(lambda x, t: 0.5 * x, {"prediction": "x0", "schedule": schedules.to_json("linear")})
    for one, other in zip(*(jax.tree.leaves(make(NOISE, jnp.full(8, 3.0))) for make in (prior, prior.denoiser))):
        np.testing.assert_array_equal(one, other)
