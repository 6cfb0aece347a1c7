"""The denoiser that is told the noise level: homogeneous, local, for pictures of any size."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import tiles
from indigo_jax.models import DenoisingUNet
from tests import networks

SIGMA = jnp.array([0.1, 0.7])


def make(shape=(2, 16, 16, 3), **changes):
    module = networks.denoiser(**changes)
    return module, networks.denoiser_params(module), jax.random.normal(jax.random.key(1), shape)


def test_parameter_count_of_the_documented_size():
    shapes = jax.eval_shape(DenoisingUNet().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),
                            jax.ShapeDtypeStruct((1,), jnp.float32))
    assert round(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == 4.4
    assert not [path for path, _ in jax.tree.leaves_with_path(shapes) if "bias" in str(path)]


def test_untrained_it_returns_its_input():
    module, _, x = make()
    params = module.init(jax.random.key(0), x, SIGMA)
    np.testing.assert_array_equal(module.apply(params, x, SIGMA), x)


@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_homogeneous(factor):
    module, params, x = make()
    apply = jax.jit(module.apply)
    once = apply(params, x, SIGMA)
    assert float(jnp.abs(once - x).mean()) > 0.01  # the network does something
    np.testing.assert_allclose(apply(params, factor * x, factor * SIGMA), factor * once, rtol=1e-4, atol=1e-5 * factor)


@pytest.mark.parametrize("height, width", [(1, 1), (7, 5), (1, 9), (33, 18)])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_any_picture_size_comes_back_at_its_own_size(height, width, patch_size):
    module, params, x = make((2, height, width, 3), patch_size=patch_size)
    out = jax.jit(module.apply)(params, x, SIGMA)
    assert out.shape == x.shape and bool(jnp.isfinite(out).all()) and out.dtype == jnp.float32


def test_a_map_of_one_level_is_that_level():
    module, params, x = make()
    apply = jax.jit(module.apply)
    flat = jnp.broadcast_to(SIGMA[:, None, None, None], (2, 16, 16, 1))
    np.testing.assert_array_equal(apply(params, x, flat), apply(params, x, SIGMA))
    uneven = flat.at[:, :, 8:].multiply(3.0)
    assert float(jnp.abs(apply(params, x, uneven) - apply(params, x, SIGMA)).max()) > 1e-3


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 8, 16, 1), (2, 16, 16, 3)])
def test_levels_of_another_shape(shape):
    module, params, x = make()
    with pytest.raises(ValueError, match=r"give \[B\] or \[B, H, W, 1\]"):
        module.apply(params, x, jnp.ones(shape))


@pytest.mark.parametrize("changes", [
    dict(multipliers=(1,), patch_size=1), dict(multipliers=(1, 2), patch_size=1), dict(multipliers=(1, 2)),
    dict(multipliers=(1,), num_res_blocks=2)])
def test_what_a_pixel_sees_ends_at_the_reach(changes):
    module, params, _ = make(**changes)
    reach, middle = module.reach, 2 * module.reach // module.multiple * module.multiple
    x = jnp.zeros((1, 2 * middle, 2 * module.multiple, 3)).at[:, middle].set(1.0)
    apply, sigma = jax.jit(module.apply), jnp.zeros(1)
    seen = np.flatnonzero(np.abs(np.asarray(apply(params, x, sigma))).max((0, 2, 3)))
    block = middle + module.multiple - 1  # the end of the block that the pixel is folded into
    assert reach % module.multiple == 0
    assert 0.4 * reach < max(middle - seen[0], seen[-1] - block) <= reach


def test_tiles_with_a_margin_of_the_reach_are_the_whole():
    module, params, x = make((1, 96, 40, 3), multipliers=(1, 2), patch_size=1)
    reach, sigma = module.reach, jnp.full(1, 0.3)
    assert reach == 18 and (64 - 2 * reach) % module.multiple == 0

    def apply(x, sigma):
        return module.apply(params, x, sigma)

    whole = jax.jit(apply)(x, sigma)
    tiled = jax.jit(tiles.blended(apply, tile=64, overlap=2 * reach, margin=reach))(x, sigma)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    short = jax.jit(tiles.blended(apply, tile=64, overlap=8, margin=2))(x, sigma)
    assert float(jnp.abs(short - whole).max()) > 1e-4


def test_bfloat16_inside_and_float32_outside():
    module, params, x = make()
    low = module.clone(dtype=jnp.bfloat16)
    out = jax.jit(low.apply)(params, x, SIGMA)
    assert out.dtype == jnp.float32 and 0 < float(jnp.abs(out - module.apply(params, x, SIGMA)).max()) < 0.3


def test_the_fast_convolution_gives_the_same_gradient():
    module, params, x = make()
    plain, fast = (jax.jit(jax.grad(lambda x, m=m: jnp.sum(m.apply(params, x, SIGMA)**2)))(x)
                   for m in (module, module.clone(convolution="flipped")))
    np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-4)
