"""LatentUNet: its size, and the same numbers as a second implementation in NumPy that works on checkpoints."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import convert, denoisers, models, rng, samplers, schedules
from indigo_jax.models import latent_unet, layers
from tests import latent_unet_reference as reference
from tests.latent_unet_reference import SMALL, STABLE_DIFFUSION_1, STABLE_DIFFUSION_2

DEEPER = dict(block_out_channels=(4, 8, 8), has_attention=(False, True, True), layers_per_block=2, num_heads=(1, 2, 4),
              context_dim=5, in_channels=3, out_channels=6, num_groups=2)
TINY = dict(block_out_channels=(4,), has_attention=(True,), layers_per_block=1, num_heads=(2,), context_dim=6,
            in_channels=4, out_channels=4, num_groups=2)
OURS = dict(block_out_channels=(64, 96, 128), has_attention=(False, True, True), layers_per_block=1, num_heads=4,
            context_dim=0)
HALF = "down_blocks.0.attentions.0"


def shapes(module, sides=(3, 2)):
    inputs = [(1, *sides, module.in_channels), (1,)] + ([(1, 2, module.context_dim)] if module.context_dim else [])
    return jax.eval_shape(module.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in inputs))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def equations(jaxpr):
    """All of a program, with those inside of its calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            yield from equations(value.jaxpr) if hasattr(value, "jaxpr") else ()


def without_context(tree):
    """The same parameters but those of cross-attention."""
    return {name: without_context(branch) if isinstance(branch, dict) else branch for name, branch in tree.items()
            if name not in ("cross_attention", "norm_cross")}


def drawn(arguments, sides, words=3):
    """Two latents of odd sides, their times and contexts."""
    random = np.random.default_rng(1)
    x = random.standard_normal((2, *sides, arguments["in_channels"])).astype(np.float32)
    context = random.standard_normal((2, words, arguments["context_dim"])).astype(np.float32)
    return x, np.array([3.0, 871.0], np.float32), context


@functools.cache
def small():
    """A tiny network, on parameters without zeros: its checkpoint, compiled function, params, input and output."""
    state = reference.random_state(reference.shapes(SMALL))
    params = convert.diffusers_unet(state, reference.config(SMALL))
    apply = jax.jit(models.LatentUNet(**SMALL).apply)
    inputs = drawn(SMALL, (5, 7))
    return state, apply, params, inputs, np.asarray(apply(params, *inputs))


def channels_first(x):
    return np.asarray(x, np.float64).transpose(0, 3, 1, 2)


def channels_last(x):
    return x.transpose(0, 2, 3, 1)


def second(state, arguments, x, t, context):
    return channels_last(reference.forward(state, arguments, channels_first(x), t, context))


def test_default_network_is_that_of_stable_diffusion():
    """The numbers known of both; the network itself is held against these lists in the converter's tests."""
    for arguments, known, linear in ((STABLE_DIFFUSION_1, 859_520_964, False), (STABLE_DIFFUSION_2, 865_910_724, True)):
        assert sum(math.prod(shape) for shape in reference.shapes(arguments, linear).values()) == known
    default = {name: getattr(models.LatentUNet(), name) for name in STABLE_DIFFUSION_1}
    assert default == {**STABLE_DIFFUSION_1, "num_heads": 8}


def test_a_small_prior_without_context():
    tree = shapes(models.LatentUNet(**OURS), (16, 16))
    assert count(tree) == 5_206_084
    assert tree == without_context(tree)


def test_equal_to_a_second_implementation():
    """On sides that no level divides."""
    state, _, _, inputs, ours = small()
    wanted = second(state, SMALL, *inputs)
    assert ours.dtype == np.float32 and ours.shape == (2, 5, 7, 4) and wanted.std() > 0.3
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_equal_to_a_second_implementation_with_matrices_and_more_levels():
    """Three levels, the first without attention; another number of channels out than in."""
    state = reference.random_state(reference.shapes(DEEPER, linear=True), seed=1)
    params = convert.diffusers_unet(state, reference.config(DEEPER, linear=True))
    inputs = drawn(DEEPER, (3, 6), words=1)
    ours, wanted = jax.jit(models.LatentUNet(**DEEPER).apply)(params, *inputs), second(state, DEEPER, *inputs)
    assert ours.shape == (2, 3, 6, 6) and wanted.std() > 0.3
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_without_context_equal_to_a_second_implementation():
    state, _, params, (x, t, _), other = small()
    module = models.LatentUNet(**{**SMALL, "context_dim": 0})
    ours, wanted = jax.jit(module.apply)(without_context(params), x, t), second(state, SMALL, x, t, None)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    assert np.abs(ours - other).mean() > 0.01


def test_parts_alone():
    """So that a fault of the whole is found in its part: block, attention to itself and to a context, feed-forward."""
    state, _, params, (x, t, context), _ = small()
    random, params = np.random.default_rng(2), params["params"]
    h, temb = random.standard_normal((2, 4, 3, 8)), random.standard_normal((2, 32))
    sequence = h.reshape(2, 12, 8)
    inner, transformer = params["down_0_attention_0"]["block"], f"{HALF}.transformer_blocks.0"

    @jax.jit
    def parts(h, temb, sequence, context):
        def apply(module, params, *args):
            return module.apply({"params": params}, *args)
        attention = latent_unet.HeadAttention(2)
        return (apply(layers.ResidualBlock(12, 4, 1e-5), params["down_1_block_0"], h, jax.nn.silu(temb)),
                apply(attention, inner["self_attention"], sequence, sequence),
                apply(attention, inner["cross_attention"], sequence, context),
                apply(latent_unet.TransformerBlock(2), inner, sequence, context),
                apply(latent_unet.SpatialTransformer(2, 4), params["down_0_attention_0"], h, context))

    ours = parts(*(a.astype(np.float32) for a in (h, temb, sequence, context)))
    wanted = (channels_last(reference.resnet(state, channels_first(h), "down_blocks.1.resnets.0", temb, 4)),
              reference.attend(state, sequence, sequence, f"{transformer}.attn1", 2),
              reference.attend(state, sequence, context, f"{transformer}.attn2", 2),
              reference.transformer_block(state, sequence, context, transformer, 2),
              channels_last(reference.spatial_transformer(state, channels_first(h), context, HALF, 4, 2)))
    for our, want in zip(ours, wanted, strict=True):
        assert want.std() > 0.2
        np.testing.assert_allclose(our, want, atol=1e-5)


def test_feed_forward_is_exact_geglu():
    """Attention silenced; the approximate gelu would be off by 4e-4."""
    state, _, params, *_ = small()
    inner = params["params"]["down_0_attention_0"]["block"]
    silent = {name: {**branch, "proj_out": jax.tree.map(np.zeros_like, branch["proj_out"])}
              for name, branch in inner.items() if name.endswith("attention")}
    h = 3 * np.random.default_rng(3).standard_normal((1, 40, 8)).astype(np.float32)
    ours = latent_unet.TransformerBlock(2).apply({"params": {**inner, **silent}}, h, np.ones((1, 1, 6), np.float32))
    prefix = f"{HALF}.transformer_blocks.0"
    wanted = reference.feed_forward(state, reference.layer_norm(state, h.astype(np.float64), f"{prefix}.norm3"),
                                    f"{prefix}.ff")
    np.testing.assert_allclose(ours - h, wanted, atol=5e-6)


def test_an_image_is_the_same_alone_and_in_a_batch():
    _, apply, params, (x, t, context), together = small()
    for i in range(2):
        np.testing.assert_allclose(apply(params, x[i:i + 1], t[i:i + 1], context[i:i + 1])[0], together[i], atol=1e-5)
    for changed in ((x[::-1], t, context), (x, t[::-1], context), (x, t, context[::-1])):
        assert np.abs(apply(params, *changed) - together).mean(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("sides", [(1, 1), (2, 9), (13, 8)])
def test_any_size(sides):
    """The same parameters, and an output of the same size."""
    module, tree = models.LatentUNet(**SMALL), small()[2]
    x = jax.ShapeDtypeStruct((2, *sides, 4), jnp.float32)
    out = jax.eval_shape(module.apply, tree, x, *small()[3][1:])
    assert out.shape == x.shape and out.dtype == jnp.float32


def test_the_context_has_no_order():
    _, apply, params, (x, t, context), out = small()
    np.testing.assert_allclose(apply(params, x, t, context[:, ::-1]), out, atol=1e-5)


def test_last_layers_start_at_zero():
    module, inputs = models.LatentUNet(**TINY), (jnp.ones((1, 2, 2, 4)), jnp.ones(1), jnp.ones((1, 1, 6)))
    params = jax.jit(module.init)(jax.random.key(0), *inputs)
    zero = {"/".join(key.key for key in path[1:-1]) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if path[-1].key == "kernel" and not leaf.any()}
    blocks, attentions = ("down_0_block_0", "mid_block_0", "mid_block_1", "up_0_block_0", "up_0_block_1"), (
        "down_0_attention_0", "mid_attention", "up_0_attention_0", "up_0_attention_1")
    assert zero == {"conv_out", *(f"{name}/conv2" for name in blocks), *(f"{name}/proj_out" for name in attentions)}


def test_bfloat16_computes_in_bfloat16_but_keeps_float32_outside():
    """In the whole program norms (inverse roots) and softmaxes (exponentials) are float32, matrices bfloat16."""
    state = reference.random_state(reference.shapes(TINY))
    params, inputs = convert.diffusers_unet(state, reference.config(TINY)), drawn(TINY, (3, 4))
    half = models.LatentUNet(**TINY, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half))} == {jnp.dtype(jnp.float32)}
    out, wanted = jax.jit(half.apply)(params, *inputs), second(state, TINY, *inputs)
    assert out.dtype == jnp.float32
    assert 1e-4 < np.abs(out - wanted).mean() < 0.1 * wanted.std()

    found = list(equations(jax.make_jaxpr(half.apply)(params, *inputs).jaxpr))
    for names, dtype in ((("rsqrt",), jnp.float32), (("exp",), jnp.float32),
                         (("dot_general", "conv_general_dilated"), jnp.bfloat16)):
        taken = [eqn.invars[0].aval.dtype for eqn in found if eqn.primitive.name in names]
        assert len(taken) > 4 and set(taken) == {jnp.dtype(dtype)}


def test_convolution_switch_reaches_every_convolution_it_applies_to():
    """All of 3 x 3 but the strided one; :func:`layers.conv_flipped_gradient` has tests of its own."""
    _, _, params, inputs, _ = small()
    switched = {}
    for convolution in ("plain", "flipped"):
        program = jax.make_jaxpr(models.LatentUNet(**SMALL, convolution=convolution).apply)(params, *inputs)
        switched[convolution] = str(program).count("custom_vjp_call[")
    wanted = sum(np.ndim(leaf) == 4 and leaf.shape[:2] == (3, 3) for leaf in jax.tree.leaves(params)) - 1
    assert switched["flipped"] - switched["plain"] == wanted > 10


@pytest.mark.parametrize("changes, x, t, context, words", [
    ({}, (2, 4, 4, 3), (2,), (2, 1, 6), r"latents \[B, h, w, 4\] are needed, got \(2, 4, 4, 3\)"),
    ({}, (2, 0, 4, 4), (2,), (2, 1, 6), r"latents \[B, h, w, 4\] are needed, got \(2, 0, 4, 4\)"),
    ({}, (2, 4, 4, 4), (1,), (2, 1, 6), r"times \[2\], one per latent, are needed, got \(1,\)"),
    ({}, (2, 4, 4, 4), (2,), None, r"a context \[2, L, 6\] is needed, got None"),
    ({}, (2, 4, 4, 4), (2,), (1, 1, 6), r"a context \[2, L, 6\] is needed, got \(1, 1, 6\)"),
    ({}, (2, 4, 4, 4), (2,), (2, 1, 7), r"a context \[2, L, 6\] is needed, got \(2, 1, 7\)"),
    ({}, (2, 4, 4, 4), (2,), (2, 0, 6), r"a context \[2, L, 6\] is needed, got \(2, 0, 6\)"),
    ({"context_dim": 0}, (2, 4, 4, 4), (2,), (2, 1, 6), r"with context_dim=0 takes no context, got \(2, 1, 6\)"),
    ({"num_heads": 8}, (2, 4, 4, 4), (2,), (2, 1, 6), "8 heads of attention do not divide the 12 channels of level 1"),
    ({"num_heads": (2,)}, (2, 4, 4, 4), (2,), (2, 1, 6), "2 levels of block_out_channels, 2 of has_attention"),
])
def test_bad_input_is_refused(changes, x, t, context, words):
    arrays = [None if shape is None else jnp.zeros(shape) for shape in (x, t, context)]
    with pytest.raises(ValueError, match=words) as error:
        models.LatentUNet(**{**SMALL, **changes}).apply({}, *arrays)
    assert "\n" not in str(error.value)


def test_it_goes_into_a_denoiser_and_a_sampler():
    """In bfloat16, predicting v; the sampler's latents are float32, and depend on the context."""
    module = models.LatentUNet(**TINY, dtype=jnp.bfloat16)
    params = convert.diffusers_unet(reference.random_state(reference.shapes(TINY)), reference.config(TINY))
    schedule, (x, _, context) = schedules.respace(schedules.linear(), 2), drawn(TINY, (3, 4))

    @jax.jit
    def step(x, context):
        denoiser = denoisers.from_v(lambda x, t: module.apply(params, x, t, context), schedule)
        kernel, keys = samplers.ddim(denoiser, schedule), rng.image_keys(0, [0, 1])
        return kernel.step(keys, kernel.init(x, keys), 0)[0].x

    one, other = step(x, context), step(x, context[::-1])
    assert one.dtype == jnp.float32 and one.shape == x.shape and np.isfinite(one).all()
    assert np.abs(one - other).mean() > 1e-3
