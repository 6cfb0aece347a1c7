"""Blind deblurring: the kernel from an exact pair, the noise level, the plan, the alternation on a real prior."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import convert, denoisers, metrics, models, operators, restoration, rng, samplers, schedules
from indigo_jax.restoration import kernel_estimate
from tests.oracles import GaussianDiffusion
from tests.paths import SHARED, needs_shared

X = jnp.clip(operators.gaussian_blur(0.7)(jax.random.normal(jax.random.key(0), (2, 40, 36, 3))), -1, 1)
TRUE = operators.motion_kernel(rng.image_keys(3, [0, 1]), size=9, length=jnp.array([7.0, 9.0]))
FLAT = jnp.full((2, 9, 9), 1 / 81)


def test_the_kernel_of_an_exact_pair_is_found():
    true = jax.vmap(kernel_estimate.centred)(TRUE)
    found = restoration.estimate_kernel(X, operators.blur(true)(X), FLAT, strength=1e-6, threshold=0.0,
                                        num_iterations=3000)
    assert float(jnp.abs(found - true).sum((1, 2)).max()) < 0.1  # 2 is the largest that it can be
    np.testing.assert_allclose(found.sum((1, 2)), 1.0, rtol=1e-5)
    assert bool((found >= 0).all())


def test_a_strong_prior_keeps_the_previous_kernel():
    found = restoration.estimate_kernel(X, X, FLAT, strength=1e6, threshold=0.0)
    np.testing.assert_allclose(found, FLAT, atol=1e-4)


def test_simplex_projection_is_the_nearest_point():
    random = np.random.default_rng(0)
    for v in random.normal(size=(5, 7)).astype(np.float32):
        p = np.asarray(kernel_estimate.to_simplex(jnp.asarray(v)))
        assert (p >= 0).all() and abs(p.sum() - 1) < 1e-6
        others = random.dirichlet(np.ones(7), 2000)
        assert np.sum((p - v)**2) <= np.sum((others - v)**2, axis=1).min() + 1e-6


def test_centring_moves_by_whole_pixels_and_loses_what_leaves():
    kernel = jnp.zeros((5, 5)).at[0, 1].set(0.75).at[0, 2].set(0.25)
    expected = np.zeros((5, 5))
    expected[2, 2], expected[2, 3] = 0.75, 0.25
    np.testing.assert_allclose(kernel_estimate.centred(kernel), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_noise_level_of_a_blurred_picture(sigma):
    y = jnp.broadcast_to(jnp.sin(jnp.linspace(0.0, 6.0, 128))[:, None, None], (2, 128, 128, 3))
    noisy = y + sigma * jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(restoration.noise_level(noisy), sigma, rtol=0.1)


def test_plan_counts_evaluations_and_ends_at_the_picture():
    schedule = schedules.linear(100)
    kernel = restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X, rounds=2,
                                  steps_per_round=3, final_steps=4)
    assert kernel.num_steps == 10
    x, info = jax.jit(lambda keys: samplers.sample(kernel, keys, X))(rng.image_keys(0, [0, 1]))
    assert x.shape == X.shape and info.steps.residual.shape == (10, 2) and float(jnp.abs(x).max()) <= 1


def test_refusals():
    schedule = schedules.linear()
    for size in (4, 41):
        with pytest.raises(ValueError, match="size must be odd and at most"):
            restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X, size=size)


@pytest.mark.slow
@needs_shared
def test_blind_deblurring_beats_its_input_on_a_real_prior():
    """Three pictures, their own curved kernels of 9 x 9, only the picture and the weights given; 98 evaluations."""
    params = convert.keras_ddpm(convert.load_quantised(SHARED / "data" / "weights" / "anime64_ddpm_uint8.npz"))
    schedule = schedules.cosine(300, max_beta=0.9999, min_beta=1e-4)
    module = models.KerasUNet()
    denoiser = denoisers.from_eps(lambda x, t: module.apply(params, x, t), schedule)
    paths = sorted((SHARED / "data" / "eval_open" / "anime64").glob("*.png"))[:3]
    x = jnp.asarray(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / 127.5 - 1, jnp.float32)
    keys = rng.image_keys(0, [0, 1, 2])
    true = jax.vmap(kernel_estimate.centred)(operators.motion_kernel(keys, size=9, length=9.0))
    y = operators.blur(true)(x) + 0.02 * rng.normal(rng.fold(keys, 7), x)
    kernel = restoration.blind_em(denoiser, schedule, y)
    out, _ = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y))(keys, y)
    gain = metrics.psnr(out, x) - metrics.psnr(y, x)
    assert float(gain.mean()) > 3 and float(gain.min()) > 1
