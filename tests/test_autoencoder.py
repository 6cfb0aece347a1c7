"""Both autoencoders: their sizes, and the same numbers as a second implementation in NumPy on their checkpoints."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import convert, models
from indigo_jax.models import ddpm_unet, layers
from tests import autoencoder_reference as reference
from tests.autoencoder_reference import SMALL_KL, SMALL_TINY

NETWORKS = {"tiny": (models.TinyAutoencoder(**SMALL_TINY), (2, 24, 40, 3)),
            "kl": (models.AutoencoderKL(**SMALL_KL), (2, 6, 10, 3))}
SMALLEST = {"tiny": models.TinyAutoencoder(**SMALL_TINY, levels=1, num_blocks=1),
            "kl": models.AutoencoderKL(**{**SMALL_KL, "block_out_channels": (8,)})}
every = pytest.mark.parametrize("name", list(NETWORKS))


def shapes(module, side=8):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def outputs(module):
    """``(params, x) -> (latents or moments, their picture)``."""
    def apply(params, x):
        z = module.apply(params, x, method="encode")
        return z, module.apply(params, z[0] if isinstance(z, tuple) else z, method="decode")
    return apply


@functools.cache
def small(name):
    """A tiny network, on parameters without zeros: its checkpoint, compiled function, params, pictures and outputs."""
    module, shape = NETWORKS[name]
    state = reference.random_state(reference.tiny_shapes(SMALL_TINY) if name == "tiny" else (
        reference.kl_shapes(SMALL_KL)))
    params = convert.taef2(state) if name == "tiny" else convert.diffusers_vae(state, num_groups=4)
    x = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    apply = jax.jit(lambda *a: (*outputs(module)(*a), module.apply(*a)))
    return state, apply, params, x, apply(params, x)


def random_params(module):
    """Parameters without zeros, norms near identity."""
    random = np.random.default_rng(3)

    def draw(path, leaf):
        value = random.standard_normal(leaf.shape) * (np.prod(leaf.shape[:-1])**-0.5 if leaf.ndim > 1 else 0.2)
        return jnp.asarray(value + (path[-1].key == "scale"), jnp.float32)
    return jax.tree_util.tree_map_with_path(draw, shapes(module))


def channels_first(x):
    return np.asarray(x, np.float64).transpose(0, 3, 1, 2)


def channels_last(x):
    return x.transpose(0, 2, 3, 1)


def test_default_networks_have_the_known_numbers_of_parameters():
    """The number known of Stable Diffusion's, and that of the list of names and shapes of a TAEF2 checkpoint."""
    assert count(shapes(models.AutoencoderKL())) == 83_653_863
    assert count(shapes(models.TinyAutoencoder())) == 2_677_027
    assert models.AutoencoderKL().factor == models.TinyAutoencoder().factor == 8
    assert models.AutoencoderKL().scaling_factor == 0.18215


def test_tiny_equals_a_second_implementation():
    """Sides of 3 x 5 latents: even nowhere on the last level."""
    state, _, _, x, (z, y, call) = small("tiny")
    assert z.shape == (2, 3, 5, 5) and y.shape == x.shape and z.dtype == y.dtype == jnp.float32
    wanted = channels_last(reference.tiny_encode(state, (channels_first(x) + 1) / 2))
    assert wanted.std() > 0.2
    np.testing.assert_allclose(z, wanted, atol=1e-4)
    np.testing.assert_allclose(y, channels_last(2 * reference.tiny_decode(state, channels_first(z)) - 1), atol=1e-4)
    np.testing.assert_allclose(call, y, atol=1e-5)


def test_kl_equals_a_second_implementation():
    state, _, _, x, ((mean, log_var), y, call) = small("kl")
    assert mean.shape == log_var.shape == (2, 3, 5, 2) and y.shape == x.shape
    wanted = channels_last(reference.kl_encode(state, SMALL_KL, channels_first(x)))
    assert wanted.std() > 0.2
    np.testing.assert_allclose(jnp.concatenate([mean, log_var], -1), wanted, atol=1e-4)
    np.testing.assert_allclose(y, channels_last(reference.kl_decode(state, SMALL_KL, channels_first(mean))), atol=1e-4)
    np.testing.assert_allclose(call, y, atol=1e-5)


def test_block_and_attention_of_kl_alone():
    """So that a fault of the whole is found in its parts: a block that changes the width, and the attention."""
    state, _, params, *_ = small("kl")
    params = params["params"]["encoder"]
    x = np.random.default_rng(2).standard_normal((2, 4, 3, 8)).astype(np.float32)

    @jax.jit
    def parts(x):
        h = layers.ResidualBlock(12, 4).apply({"params": params["down_1_block_0"]}, x)
        return h, ddpm_unet.Attention(4).apply({"params": params["mid_attention"]}, h)

    h, out = parts(x)
    wanted = reference.kl_block(state, channels_first(x), "encoder.down_blocks.1.resnets.0", 4)
    np.testing.assert_allclose(h, channels_last(wanted), atol=1e-5)
    wanted = reference.kl_attention(state, wanted, "encoder.mid_block.attentions.0", 4)
    assert np.abs(out - h).mean() > 0.1
    np.testing.assert_allclose(out, channels_last(wanted), atol=1e-5)


def test_one_width_per_level_and_folded_pixels():
    """The same widths one by one are one width; folded pixels are a network of more channels on them."""
    one = models.TinyAutoencoder(latent_channels=2, channels=6, levels=1, num_blocks=1, pool_channels=0)
    params, x = random_params(one), jax.random.uniform(jax.random.key(0), (2, 4, 6, 3), minval=-1)
    same = jax.jit(lambda *a: (one.clone(channels=(6, 6)).apply(*a), one.apply(*a)))
    np.testing.assert_array_equal(*same(params, x))

    folded, wide = one.clone(channels=(4, 6), patch_size=2), one.clone(channels=(4, 6), out_channels=12)
    params, x = random_params(folded), jax.random.uniform(jax.random.key(0), (2, 8, 4, 3), minval=-1)
    assert folded.factor == 4 and params["params"]["decoder"]["up_1"]["kernel"].shape == (3, 3, 6, 4)

    @jax.jit
    def both(params, x):
        wanted = outputs(wide)(params, layers.space_to_depth(x, 2))
        return outputs(folded)(params, x), (wanted[0], layers.depth_to_space(wanted[1], 2))

    (z, y), wanted = both(params, x)
    assert z.shape == (2, 2, 1, 2) and y.shape == x.shape
    np.testing.assert_allclose(z, wanted[0], atol=1e-6)
    np.testing.assert_allclose(y, wanted[1], atol=1e-6)
    with pytest.raises(ValueError, match="sides divisible by 4"):
        folded.apply(params, x[:, :6], method="encode")
    with pytest.raises(ValueError, match="1 levels of halving need 2 channels"):
        one.clone(channels=(6, 6, 6)).apply(params, x)


def test_log_variance_is_clipped():
    _, apply, params, x, ((wanted, _), *_) = small("kl")
    shift = np.array([0.0, 0.0, 1e3, -1e3], np.float32)
    quant_conv = {**params["params"]["quant_conv"], "bias": params["params"]["quant_conv"]["bias"] + shift}
    (mean, log_var), *_ = apply({"params": {**params["params"], "quant_conv": quant_conv}}, x)
    np.testing.assert_array_equal(log_var, np.broadcast_to(np.float32([20, -30]), log_var.shape))
    np.testing.assert_array_equal(mean, wanted)


@every
def test_bfloat16_computes_in_bfloat16_but_keeps_float32_outside(name):
    module = SMALLEST[name]
    half = module.clone(dtype=jnp.bfloat16)
    params, x = random_params(module), np.random.default_rng(4).uniform(-1, 1, (1, 6, 10, 3)).astype(np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half))} == {jnp.dtype(jnp.float32)}
    results = jax.jit(lambda *a: (outputs(half)(*a), outputs(module)(*a)))(params, x)
    for ours, wanted in zip(*map(jax.tree.leaves, results), strict=True):
        assert ours.dtype == jnp.float32
        assert 1e-4 < np.abs(ours - wanted).mean() < 0.1 * np.std(wanted)


@every
def test_norm_statistics_are_float32_in_bfloat16(name):
    """Every inverse root of a variance, in the whole program, is of float32."""
    module, tree = NETWORKS[name][0].clone(dtype=jnp.bfloat16), shapes(NETWORKS[name][0])
    program = str(jax.make_jaxpr(module.apply)(tree, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)))
    roots = [line.split("=")[0] for line in program.splitlines() if "= rsqrt" in line]
    assert len(roots) == sum(path[-1].key == "scale" for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    assert all(":f32[" in root for root in roots)
    assert "bf16[" in program


@every
def test_gradients_reach_pictures_and_every_parameter(name):
    """Against a difference quotient along the gradient."""
    module = SMALLEST[name].clone(convolution="flipped")
    params, x = random_params(module), np.random.default_rng(4).uniform(-1, 1, (1, 6, 10, 3)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params, x):
        z, y = outputs(module)(params, x)
        log_var = z[1] if isinstance(z, tuple) else 0.0
        return jnp.mean(jnp.square(y - jnp.roll(x, 1, 1))) + jnp.mean(jnp.square(log_var))

    _, (tree, gradient) = loss(params, x)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    slope, step = np.linalg.norm(gradient), 3e-3
    ahead, behind = (loss(params, x + sign * step * gradient / slope)[0] for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=0.03)


@every
def test_convolution_switch_reaches_every_convolution_it_applies_to(name):
    """All of 3 x 3 but the strided ones; :func:`layers.conv_flipped_gradient` has tests of its own."""
    module, tree = NETWORKS[name][0], shapes(NETWORKS[name][0])
    switched = {}
    for convolution in ("plain", "flipped"):
        program = jax.make_jaxpr(module.clone(convolution=convolution).apply)(
            tree, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
        switched[convolution] = str(program).count("custom_vjp_call[")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    wanted = sum(leaf.shape[:2] == (3, 3) and "'down_1'" not in (words := jax.tree_util.keystr(path))
                 and "'down_2'" not in words and "'down_3'" not in words and "downsample" not in words
                 for path, leaf in leaves)
    assert switched["flipped"] - switched["plain"] == wanted > 10


@every
@pytest.mark.parametrize("sides", [(9, 8), (8, 9), (0, 8)])
def test_sides_that_the_levels_do_not_divide_are_refused(name, sides):
    module = NETWORKS[name][0]
    with pytest.raises(ValueError, match=rf"divisible by {module.factor} are needed \(pad them first\), got \(1, "):
        module.apply({}, jnp.zeros((1, *sides, 3)), method="encode")


@every
def test_other_channels_are_refused(name):
    module = NETWORKS[name][0]
    with pytest.raises(ValueError, match=r"pictures \[B, H, W, 3\] .*got \(1, 8, 8, 4\)"):
        module.apply({}, jnp.zeros((1, 8, 8, 4)), method="encode")
    with pytest.raises(ValueError, match=rf"latents \[B, h, w, {module.latent_channels}\] are needed, got"):
        module.apply({}, jnp.zeros((1, 2, 2, 9)), method="decode")


def test_without_pool_branches_tiles_agree_with_the_picture():
    """Latents far enough from a cut do not know of it; with pool branches every latent does."""
    x = jax.random.uniform(jax.random.key(0), (1, 8, 40, 3), minval=-1.0)
    modules = [models.TinyAutoencoder(latent_channels=2, channels=4, levels=1, num_blocks=1, pool_channels=pool)
               for pool in (0, 16)]
    trees = [random_params(module) for module in modules]

    @jax.jit
    def encode(trees, x):
        return [module.apply(tree, x, method="encode")[:, :, :4] for module, tree in zip(modules, trees)]

    difference = [np.abs(whole - tile).max() for whole, tile in zip(encode(trees, x), encode(trees, x[:, :, :32]))]
    assert difference[0] < 1e-6 and difference[1] > 1e-3
