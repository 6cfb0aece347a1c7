import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import rng


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_key_belongs_to_the_image_and_not_to_its_place():
    keys = rng.image_keys(7, [3, 8, 5])
    assert keys.shape == (3,)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(data(keys)[[1, 0, 2]], data(rng.image_keys(7, np.array([8, 3, 5]))))
    np.testing.assert_array_equal(data(keys)[1:2], data(rng.image_keys(7, [8])))


def test_seeds_and_ids_give_different_keys():
    keys = np.concatenate([data(rng.image_keys(seed, range(64))) for seed in range(4)])
    assert len(np.unique(keys, axis=0)) == 4 * 64


def test_ids_use_all_32_bits():
    keys = data(rng.image_keys(0, np.array([0, 2**31, 2**32 - 1], np.uint32)))
    assert len(np.unique(keys, axis=0)) == 3


@pytest.mark.parametrize("name", ["a.png", "holiday/beach.png", "\u00e9t\u00e9.png", "", "bad\udce9name.png"])
def test_name_id_is_stable_32_bit_and_takes_any_file_name(name):
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    assert rng.name_id(name) == int(digest[:8], 16) < 2**32
    assert rng.image_keys(0, [rng.name_id(name)]).shape == (1,)


def test_fold_is_per_image_and_steps_do_not_collide():
    keys = rng.image_keys(0, range(5))
    folded = [data(rng.fold(keys, step)) for step in range(200)] + [data(rng.init_keys(keys)), data(keys)]
    assert len(np.unique(np.concatenate(folded), axis=0)) == 5 * 202
    np.testing.assert_array_equal(folded[3][4:], data(rng.fold(rng.image_keys(0, [4]), 3)))


def test_fold_takes_a_traced_step():
    keys = rng.image_keys(0, [1, 2])
    np.testing.assert_array_equal(data(jax.jit(rng.fold)(keys, jnp.int32(9))), data(rng.fold(keys, 9)))


@pytest.mark.parametrize("shape", [(6, 2), (6, 5, 3, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normal_is_per_image_with_shape_and_dtype_of_x(shape, dtype):
    keys, x = rng.image_keys(0, range(shape[0])), jnp.zeros(shape, dtype)
    noise = rng.normal(keys, x)
    assert noise.shape == shape and noise.dtype == dtype
    np.testing.assert_array_equal(np.asarray(noise[2:3]), np.asarray(rng.normal(keys[2:3], x[2:3])))
    assert not np.array_equal(np.asarray(noise[0]), np.asarray(noise[1]))


def test_normal_has_the_moments_of_a_standard_normal():
    noise = np.asarray(rng.normal(rng.image_keys(0, range(4000)), jnp.zeros((4000, 8), jnp.float32)))
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    assert np.abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 4 / np.sqrt(noise.size)


def test_uniform_is_per_image_within_its_range():
    keys = rng.image_keys(0, range(4000))
    draws = rng.uniform(keys, low=-2.0, high=3.0)
    assert draws.shape == (4000,) and draws.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(draws[9:10]), np.asarray(rng.uniform(keys[9:10], -2.0, 3.0)))
    assert -2 <= draws.min() < -1.99 and 2.99 < draws.max() <= 3
    assert abs(float(draws.mean()) - 0.5) < 4 * 5 / np.sqrt(12 * 4000)
