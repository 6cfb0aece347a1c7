"""ADMUNet: its size, and the same numbers as a second implementation in NumPy that works on checkpoints."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import convert, denoisers, models, rng, samplers, schedules
from tests import adm_reference
from tests.adm_reference import DEFAULT, SMALL


def shapes(module, size):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
                          jax.ShapeDtypeStruct((1,), jnp.float32))


@functools.cache
def small():
    """A tiny network in bfloat16, compiled, on parameters without zeros, and pictures that are not square."""
    random, state = np.random.default_rng(1), adm_reference.random_state(SMALL)
    params = convert.guided_diffusion(state, num_head_channels=16, image_size=16)
    apply = jax.jit(functools.partial(models.ADMUNet(**SMALL, dtype=jnp.bfloat16).apply, params))
    x, t = random.standard_normal((2, 16, 20, 3)).astype(np.float32), np.array([3.0, 871.0], np.float32)
    return apply, state, params, x, t


def reference(state, arguments, x, t):
    return adm_reference.forward(state, arguments, x.transpose(0, 3, 1, 2), t).transpose(0, 2, 3, 1)


def test_the_default_network_is_that_of_imagenet_256():
    """The number known of 256x256_diffusion_uncond.pt, here and in the list of a checkpoint's names and shapes."""
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(models.ADMUNet(), 32))) == 552_814_086
    assert sum(math.prod(shape) for shape in adm_reference.shapes(DEFAULT).values()) == 552_814_086
    assert {name: getattr(models.ADMUNet(), name) for name in DEFAULT} == DEFAULT


@pytest.mark.parametrize("changes", [
    {"multipliers": (1, 1, 2), "attention_resolutions": (16, 4), "num_res_blocks": 2, "num_head_channels": 32},
    {"resblock_updown": False, "use_scale_shift_norm": False, "out_channels": 3},
])
def test_equal_to_a_second_implementation(changes):
    arguments = {**SMALL, **changes}
    state = adm_reference.random_state(arguments)
    params = convert.guided_diffusion(state, image_size=16, num_head_channels=arguments["num_head_channels"])
    *_, x, t = small()
    ours, wanted = jax.jit(models.ADMUNet(**arguments).apply)(params, x, t), reference(state, arguments, x, t)
    assert ours.dtype == jnp.float32 and wanted.std() > 0.3
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_last_layers_start_at_zero():
    module = models.ADMUNet(**{**SMALL, "multipliers": (1,), "attention_resolutions": ()})
    params = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 2, 2, 3)), jnp.ones(1))
    zero = {"/".join(key.key for key in path[1:-1]) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if path[-1].key == "kernel" and not leaf.any()}
    blocks = ("input_1_0", "middle_0", "middle_2", "output_0_0", "output_1_0")
    assert zero == {"conv_out", "middle_1/proj_out", *(f"{name}/conv_out" for name in blocks)}


def test_bfloat16_computes_in_bfloat16_but_keeps_float32_outside():
    apply, state, params, x, t = small()
    out = apply(x, t)
    half = models.ADMUNet(**SMALL, dtype=jnp.bfloat16)
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half, 16))} == {jnp.dtype(jnp.float32)}
    assert 1e-4 < np.abs(out - reference(state, SMALL, x, t)).mean() < 0.05


@pytest.mark.parametrize("resblock_updown, not_switched", [(True, 0), (False, 1)])
def test_convolution_switch_reaches_every_convolution_it_applies_to(resblock_updown, not_switched):
    """All of 3 x 3 but the strided one; :func:`layers.conv_flipped_gradient` has tests of its own."""
    arguments = {**SMALL, "resblock_updown": resblock_updown}
    switched = {}
    for convolution in ("plain", "flipped"):
        module = models.ADMUNet(**arguments, convolution=convolution)
        tree = shapes(module, 16)
        jaxpr = jax.make_jaxpr(module.apply)(tree, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), jnp.ones(1))
        switched[convolution] = sum(eqn.primitive.name.startswith("custom_vjp_call") for eqn in jaxpr.eqns)
    wanted = sum(leaf.shape[:2] == (3, 3) for leaf in jax.tree.leaves(tree)) - not_switched
    assert switched == {"plain": 0, "flipped": wanted}


@pytest.mark.parametrize("changes, size, words", [
    ({}, 48, "divisible by 32 are needed"),
    (SMALL, 5, "divisible by 2 are needed"),
    ({**SMALL, "num_head_channels": 48}, 16, "heads of 48 channels do not divide 64"),
])
def test_bad_sizes_are_refused(changes, size, words):
    with pytest.raises(ValueError, match=words):
        shapes(models.ADMUNet(**changes), size)


def test_its_learned_variance_reaches_the_sampler():
    """The second half of the channels is v, the first eps; the log-variance lies where v says, and ddpm uses it."""
    apply, _, _, x, _ = small()
    schedule = schedules.respace(schedules.linear(), 4)
    t = schedule.timesteps[jnp.array([1, 3])]
    prediction = denoisers.from_eps(apply, schedule, learned_variance=True)(x, t)
    out = apply(x, t)
    np.testing.assert_array_equal(prediction.eps, out[..., :3])
    beta = np.asarray(1 - schedule.alpha_bar / schedule.alpha_bar_prev)
    low = np.asarray(beta * (1 - schedule.alpha_bar_prev) / (1 - schedule.alpha_bar))
    high, low = (np.log(bound[[1, 3]])[:, None, None, None] for bound in (beta, low))
    np.testing.assert_allclose(prediction.log_var, low + (out[..., 3:] + 1) / 2 * (high - low), rtol=1e-3, atol=1e-4)

    def last_step_but_one(v):
        """One step of ddpm to the level before the cleanest, of a network that says v everywhere."""
        def fn(x, t):
            return jnp.concatenate([jnp.zeros_like(x), jnp.full_like(x, v)], axis=-1)
        two = schedules.respace(schedules.linear(), 2)
        kernel = samplers.ddpm(denoisers.from_eps(fn, two, learned_variance=True), two)
        keys = rng.image_keys(0, [0, 1])
        return kernel.step(keys, kernel.init(jnp.asarray(x), keys), 0)[0].x, two

    (wide, two), (narrow, _) = last_step_but_one(1.0), last_step_but_one(-1.0)
    beta = 1 - two.alpha_bar[1] / two.alpha_bar[0]
    noise = rng.normal(rng.fold(rng.image_keys(0, [0, 1]), 0), jnp.asarray(x))
    small_std = jnp.sqrt(beta * (1 - two.alpha_bar[0]) / (1 - two.alpha_bar[1]))
    np.testing.assert_allclose(wide - narrow, (jnp.sqrt(beta) - small_std) * noise, rtol=1e-4, atol=1e-4)
