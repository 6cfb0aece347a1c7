"""The restoration network: sizes, any picture size, identity at t = 0, precision and the convolution switch."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax.models import RestorationUNet, layers
from indigo_jax.models.restoration_unet import pad_to_multiple, reflected_indices

TINY = dict(width=8, multipliers=(1, 2), num_res_blocks=1, patch_size=2)


def make(shape=(2, 16, 16, 3), seed=0, **kwargs):
    """A tiny network with random (not zero) last layers, its parameters and a batch."""
    module = RestorationUNet(**{**TINY, **kwargs})
    x = jax.random.uniform(jax.random.key(1), shape, minval=-1.0, maxval=1.0)
    t = jnp.linspace(0.3, 1.0, shape[0])
    inputs = (x, t, x) if module.condition_on_y else (x, t)
    params = jax.jit(module.init)(jax.random.key(seed), *inputs)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    return module, jax.tree.unflatten(tree, leaves), x, t


@pytest.mark.parametrize("width, count", [(64, 25_701_379), (32, 6_437_379)])
def test_parameter_counts_of_the_documented_sizes(width, count):
    shapes = jax.eval_shape(RestorationUNet(width=width).init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_untrained_network_returns_its_input():
    module = RestorationUNet(**TINY)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = module.init(jax.random.key(1), x, jnp.ones(2))
    np.testing.assert_array_equal(module.apply(params, x, jnp.ones(2)), x)


def test_identity_at_time_zero_and_form_x_plus_t_g():
    module, params, x, _ = make()
    apply = jax.jit(module.apply)
    np.testing.assert_array_equal(apply(params, x, jnp.zeros(2)), x)
    # t also enters the embedding, so only the factor outside can be checked: the backbone times t
    t = jnp.array([0.25, 0.75])
    residual = module.apply(params, x, t, method="backbone")
    np.testing.assert_allclose(apply(params, x, t), x + t[:, None, None, None] * residual, atol=1e-5)


@pytest.mark.parametrize("height, width", [(1, 1), (7, 5), (1, 9), (33, 18)])
def test_any_picture_size_comes_back_at_its_own_size(height, width):
    module, params, *_ = make()
    x = jax.random.uniform(jax.random.key(2), (1, height, width, 3))
    out = module.apply(params, x, jnp.ones(1))
    assert out.shape == x.shape and bool(jnp.isfinite(out).all())


def test_padding_mirrors_like_numpy():
    x = np.arange(2 * 5 * 3, dtype=np.float32).reshape(1, 2, 5, 3)
    expected = np.pad(x, ((0, 0), (0, 6), (0, 3), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pad_to_multiple(jnp.asarray(x), 8), expected)
    assert reflected_indices(1, 3).tolist() == [0, 0, 0, 0]


def test_without_statistics_far_pixels_do_not_matter():
    module, params, *_ = make(norm="layer")
    x = jax.random.uniform(jax.random.key(3), (1, 64, 96, 3))
    changed = x.at[:, :, 90:].set(0.5)
    a, b = module.apply(params, x, jnp.ones(1)), module.apply(params, changed, jnp.ones(1))
    np.testing.assert_array_equal(a[:, :, :8], b[:, :, :8])
    assert float(jnp.abs(a - b).max()) > 0


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="'group' or 'layer'"):
        make(norm="batch")


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_but_keeps_float32_outside():
    module, params, x, t = make()
    half = RestorationUNet(**TINY, dtype=jnp.bfloat16)
    out = half.apply(params, x, t)
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(half.init(jax.random.key(0), x, t))} == {jnp.dtype(jnp.float32)}
    difference = float(jnp.abs(out - module.apply(params, x, t)).max())
    assert 0 < difference < 0.1


def test_conditioning_on_the_measurement():
    module, params, x, t = make(condition_on_y=True)
    assert float(jnp.abs(module.apply(params, x, t, x) - module.apply(params, x, t, -x)).max()) > 1e-4
    with pytest.raises(ValueError, match=r"call it as \(x_t, t, y\)"):
        module.apply(params, x, t)
    plain, plain_params, *_ = make()
    with pytest.raises(ValueError, match=r"call it as \(x_t, t\)"):
        plain.apply(plain_params, x, t, x)


def test_convolution_switch_has_the_same_values_and_gradients():
    module, params, x, t = make(norm="group")
    flipped = RestorationUNet(**TINY, norm="group", convolution="flipped")

    def loss(net):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(net.apply(p, x, t) ** 2), argnums=(0, 1)))

    (value_a, grads_a), (value_b, grads_b) = loss(module)(params, x), loss(flipped)(params, x)
    np.testing.assert_allclose(value_a, value_b, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads_a), jax.tree.leaves(grads_b)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kernel_shape, strides, padding, groups, is_own", [
    ((3, 3, 4, 6), (1, 1), "SAME", 1, True),
    ((5, 1, 4, 6), (1, 1), ((2, 2), (0, 0)), 1, True),
    ((3, 3, 4, 6), (2, 2), "SAME", 1, False),
    ((3, 3, 4, 6), (1, 1), "VALID", 1, False),
    ((2, 2, 4, 6), (1, 1), "SAME", 1, False),
    ((3, 3, 1, 4), (1, 1), "SAME", 4, False),
])
def test_flipped_convolution_alone(kernel_shape, strides, padding, groups, is_own):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), kernel_shape)

    def gradients(convolve):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                            feature_group_count=groups)))
        return jax.grad(loss, argnums=(0, 1)), loss

    (plain, _), (own, own_loss) = gradients(jax.lax.conv_general_dilated), gradients(layers.conv_flipped_gradient)
    for a, b in zip(plain(x, kernel), own(x, kernel)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    if is_own:  # the price of the switch: no forward mode
        with pytest.raises(TypeError, match="custom_vjp"):
            jax.jvp(own_loss, (x, kernel), (x, kernel))


def test_space_to_depth_round_trip_and_order():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    packed = layers.space_to_depth(x, 2)
    assert packed.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(packed[0, 0, 0, 3:6], x[0, 0, 1])
    np.testing.assert_array_equal(layers.depth_to_space(packed, 2), x)


def test_time_embedding_tells_times_apart():
    """On [0, 1] a sinusoid of raw times is almost linear; on 1000 t nearby times are far apart."""
    def distance(scale):
        a, b = layers.timestep_embedding(scale * jnp.array([0.50, 0.55]), 32)
        return float(jnp.linalg.norm(a - b))
    assert distance(1000.0) > 20 * distance(1.0)
