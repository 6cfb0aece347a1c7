"""The denoiser of a set of pictures, against brute force in float64, and what a chain of it ends in."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, rng, samplers, schedules

EXAMPLES = np.random.default_rng(0).uniform(-1, 1, (7, 2, 3, 1)).astype(np.float32)
SCHEDULE = schedules.karras(30, 0.01, 20.0)


def test_it_is_the_posterior_mean():
    x_t, index = np.random.default_rng(1).standard_normal((4, 2, 3, 1)), np.array([0, 10, 20, 29])
    found = denoisers.from_examples(EXAMPLES, SCHEDULE)(jnp.asarray(x_t, jnp.float32), SCHEDULE.timesteps[index])
    for row, k in enumerate(index):
        a = float(SCHEDULE.alpha_bar[k])
        distance = np.sum((x_t[row] - np.sqrt(a) * EXAMPLES.astype(np.float64))**2, axis=(1, 2, 3))
        weight = np.exp(-(distance - distance.min()) / (2 * (1 - a)))
        wanted = np.tensordot(weight / weight.sum(), EXAMPLES, 1)
        np.testing.assert_allclose(found.x0[row], wanted, atol=2e-3 if k == 0 else 1e-4)
    alpha_bar = np.asarray(SCHEDULE.alpha_bar)[index, None, None, None]
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(signal * found.x0 + noise * found.eps, x_t, atol=1e-4)


def test_a_chain_ends_in_an_example():
    keys = rng.image_keys(0, np.arange(16))
    kernel = samplers.ddim(denoisers.from_examples(EXAMPLES, SCHEDULE), SCHEDULE)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(keys, rng.normal(keys, jnp.zeros((16, 2, 3, 1))))
    distance = np.abs(np.asarray(x)[:, None] - EXAMPLES).max(axis=(2, 3, 4))
    assert distance.min(axis=1).max() < 0.01 and len(set(distance.argmin(axis=1))) > 3
