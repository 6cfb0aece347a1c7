"""LatentINDIGO against closed forms: a Gaussian prior, a mean and its repetition as autoencoder, Haar as network."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import guidance, restoration, rng, samplers, schedules, tiles
from indigo_jax.denoisers import Prediction
from indigo_jax.restoration import Autoencoder, InvertibleNetwork, LatentRegularizer, latent_regularizers
from tests.oracles import GaussianDiffusion
from tests.test_indigo import HAAR, SHIFTED
from tests.test_tiles import double, halve

SCHEDULE = schedules.respace(schedules.linear(), 8)
PRIOR = GaussianDiffusion(0.1, 0.3)
KEYS = rng.image_keys(0, [0, 1])
Y = 0.3 * jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
START = jax.random.normal(jax.random.key(2), Y.shape)
POOL = Autoencoder(halve, double)
LOSSY = Autoencoder(lambda x: 0.8 * halve(x), double)
NONE = LatentRegularizer()
VARIANTS = pytest.mark.parametrize("variant", ["pixel", "latent"])


def make(variant, y=Y, inn=HAAR, autoencoder=POOL, regularizer=NONE, denoiser=None, **options):
    return restoration.latent_indigo(denoiser or PRIOR.denoiser(SCHEDULE), SCHEDULE, inn, y, autoencoder, variant,
                                     regularizer=regularizer, **options)


def run(variant, x=START, keys=KEYS, **options):
    return jax.jit(functools.partial(samplers.sample, make(variant, **options)))(keys, x)


def one_step(variant, i=0, **options):
    kernel = make(variant, **options)
    return jax.jit(kernel.step)(KEYS, kernel.init(START, KEYS), jnp.int32(i))


def coarse(variant, z0):
    """What the network's coarse picture and the measurement differ in, in its units."""
    return (z0 - Y) / 2 if variant == "pixel" else halve(z0) - halve(Y)


def norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3)))


def plain(i=0, eta=0.0):
    """A step of DDIM and the estimate that it was made of."""
    state, info = samplers.ddim(PRIOR.denoiser(SCHEDULE), SCHEDULE, eta).step(KEYS, samplers.ddim(
        PRIOR.denoiser(SCHEDULE), SCHEDULE).init(START, KEYS), i)
    return state.x, info.x0


@VARIANTS
def test_without_guidance_it_is_ddim_to_the_bit(variant):
    wanted = jax.jit(functools.partial(samplers.sample, samplers.ddim(PRIOR.denoiser(SCHEDULE), SCHEDULE, 0.5)))
    wanted = wanted(KEYS, START)[0]
    np.testing.assert_array_equal(run(variant, scale=0.0, regularizer=None)[0], wanted)
    np.testing.assert_allclose(run(variant, scale=jnp.zeros(2), guide_every=3)[0], wanted, atol=1e-6)


@VARIANTS
@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_one_step_is_its_formula(variant, gradient):
    """z0 = offset + gain z_t, and |v - u| is twice |y - c|: each coarse pixel is four."""
    scale = jnp.asarray([0.7, 0.2])
    state, info = one_step(variant, scale=scale, weights=(2.0, 0.5), eta=0.0, gradient=gradient)
    free, z0 = plain()
    a = SCHEDULE.alpha_bar[-1]
    gain = PRIOR.std**2 * jnp.sqrt(a) / (a * PRIOR.std**2 + 1 - a) if gradient == "full" else 1 / jnp.sqrt(a)
    residual = coarse(variant, z0)
    slope = residual / norm(residual)[:, None, None, None]
    slope = slope / 2 if variant == "pixel" else double(slope) / 4
    np.testing.assert_allclose(state.x, free - scale[:, None, None, None] * (2.0 + 0.5 * 2) * slope * gain, atol=2e-5)
    np.testing.assert_allclose(info.residual, norm(residual) / residual[0].size**0.5, rtol=1e-4)
    np.testing.assert_allclose(info.x0, z0, atol=1e-6)


@VARIANTS
def test_more_guidance_leaves_a_smaller_residual(variant):
    run_at = jax.jit(lambda scale: samplers.sample(make(variant, scale=scale, eta=0.0), KEYS, START)[0])
    residuals = [norm(coarse(variant, run_at(jnp.float32(scale)))) for scale in (0.0, 0.1, 0.2, 0.4)]
    assert all((after < before).all() for before, after in zip(residuals, residuals[1:]))


@VARIANTS
def test_its_own_coarse_picture_changes_nothing(variant):
    free, z0 = plain()
    y = z0 if variant == "pixel" else double(halve(z0))
    state, info = one_step(variant, y=y, scale=100.0, weights=(0.0, 1.0), eta=0.0,
                           distance=lambda v, u: jnp.sum((v - u) ** 2, axis=(1, 2, 3)))
    assert float(info.residual.max()) < 1e-6
    np.testing.assert_allclose(state.x, free, atol=1e-4)


def test_latents_are_never_decoded_and_the_measurement_is_encoded_once():
    calls = []

    def encode(x):
        calls.append(x.shape)
        return halve(x)

    def never(z):
        raise AssertionError("decoded")

    z, info = run("latent", autoencoder=Autoencoder(encode, never), regularizer=None, refine=optax.adam(1e-2),
                  inn=SHIFTED)
    assert calls == [Y.shape] and np.isfinite(z).all() and np.isfinite(info.steps.residual).all()
    with pytest.raises(AssertionError, match="decoded"):
        run("pixel", autoencoder=Autoencoder(encode, never))


@VARIANTS
def test_the_steps_between_are_plain_and_call_no_network(variant):
    calls = []

    def counted(params, x, cond):
        jax.debug.callback(lambda: calls.append(1))
        return HAAR.forward(params, x, cond)

    inn = InvertibleNetwork(counted, HAAR.inverse)
    info = run(variant, inn=inn, guide_every=3, eta=0.0)[1]
    jax.effects_barrier()
    assert len(calls) == 3  # levels 6, 3 and 0
    np.testing.assert_array_equal(np.isfinite(info.steps.residual).all(1), [False, True, False, False, True, False,
                                                                            False, True])
    np.testing.assert_allclose(one_step(variant, guide_every=3, eta=0.0)[0].x, plain()[0], atol=1e-6)


@VARIANTS
def test_refinement_lowers_the_residual_and_starts_anew_for_every_image(variant):
    options = dict(inn=SHIFTED, scale=0.0, eta=0.0, refine=optax.adam(2e-2))
    before, after = run(variant, **{**options, "refine": None})[1].steps, run(variant, **options)[1].steps
    np.testing.assert_allclose(after.residual[0], before.residual[0], rtol=1e-5)
    assert (after.residual[1:] < before.residual[1:] - 1e-3).all()
    kernel = make(variant, inn=SHIFTED, refine=optax.adam(2e-2), refine_until=7)
    state = kernel.init(START, KEYS)
    assert state.params.shape == (2, 1, 1, 1, 1)
    np.testing.assert_array_equal(kernel.step(KEYS, state, 0)[0].params, state.params)


@VARIANTS
@pytest.mark.parametrize("refine", [None, optax.adam(1e-2)])
def test_an_image_alone_and_in_any_order_is_the_same(variant, refine):
    options = dict(inn=SHIFTED, scale=0.5, refine=refine, gradient="truncated", autoencoder=LOSSY,
                   regularizer=LatentRegularizer(0.2, 0.3, 1, 0.5, every=2, last=1.0), guide_every=2)
    both = run(variant, **options)[0]
    turned = run(variant, **options, x=START[::-1], y=Y[::-1], keys=KEYS[::-1])[0]
    np.testing.assert_allclose(turned[::-1], both, atol=1e-5)
    np.testing.assert_allclose(run(variant, **options, x=START[1:], y=Y[1:], keys=KEYS[1:])[0][0], both[1], atol=1e-5)


def test_classifier_free_guidance_by_composition():
    other, scale = GaussianDiffusion(-0.2, 0.3), 2.0
    denoiser = guidance.classifier_free(other.denoiser(SCHEDULE), scale)(PRIOR.denoiser(SCHEDULE))

    def by_hand(z_t, t):
        (x0, eps, *_), (x0_u, eps_u, *_) = (prior.denoiser(SCHEDULE)(z_t, t) for prior in (PRIOR, other))
        return Prediction((1 - scale) * x0_u + scale * x0, (1 - scale) * eps_u + scale * eps)

    found, wanted = (run("latent", denoiser=function)[0] for function in (denoiser, by_hand))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert float(jnp.abs(found - run("latent")[0]).max()) > 0.05


# ------------------------------------------------------------------------------------------------ regularisers


def test_the_regularizers_are_their_formulas():
    z, other, a = START, Y, SCHEDULE.alpha_bar[3]
    np.testing.assert_allclose(latent_regularizers.autoencoder_penalty(z, other, weight=0.3), 0.3 * norm(z - other),
                               rtol=1e-6)
    np.testing.assert_allclose(latent_regularizers.reencode(z, Y, 0.8 * Y, a, share=0.5),
                               z - 0.5 * 0.2 * jnp.sqrt(a) * Y, atol=1e-6)
    np.testing.assert_allclose(restoration.manifold_drift(z, LOSSY), 0.2, rtol=1e-4)
    limit = 0.1 * (192 * (1 - a)) ** 0.5
    near, far = z + 1e-3, z + 1.0
    np.testing.assert_array_equal(latent_regularizers.trust_region(z, z, a, radius=0.1), z)
    np.testing.assert_allclose(latent_regularizers.trust_region(near, z, a, radius=0.1), near, atol=1e-6)
    np.testing.assert_allclose(latent_regularizers.trust_region(far, z, a, radius=0.1) - z, limit / 192**0.5, atol=1e-6)
    np.testing.assert_array_equal(latent_regularizers.trust_region(far, z, 1.0, radius=0.1), z)


@pytest.mark.parametrize("repeats", [1, 2])
def test_resampling_goes_up_one_level_and_comes_down(repeats):
    level, denoiser = 5, PRIOR.denoiser(SCHEDULE)
    found = latent_regularizers.resample(KEYS, Y, jnp.int32(level), denoiser, SCHEDULE, repeats=repeats)
    a, a_s, wanted = SCHEDULE.alpha_bar[level], SCHEDULE.alpha_bar_prev[level], Y
    for j in range(repeats):
        noise = rng.normal(rng.fold(KEYS, 2 * j), Y)
        z_t = jnp.sqrt(a / a_s) * wanted + jnp.sqrt(1 - a / a_s) * noise
        x0, eps, *_ = denoiser(z_t, jnp.full(2, SCHEDULE.timesteps[level]))
        wanted = jnp.sqrt(a_s) * x0 + jnp.sqrt(1 - a_s) * eps
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@VARIANTS
def test_the_penalty_pulls_the_estimate(variant):
    """E(D(z)) = 0.8 z, so the penalty is 0.2 |z0|."""
    weights = dict(weights=(0.0, 0.0), scale=0.5, gradient="truncated", autoencoder=LOSSY, eta=0.0)
    z_s = one_step(variant, regularizer=LatentRegularizer(penalty=0.4), **weights)[0].x
    free, z0 = plain()
    pull = 0.5 * 0.4 * 0.2 * z0 / norm(z0)[:, None, None, None] / jnp.sqrt(SCHEDULE.alpha_bar[-1])
    np.testing.assert_allclose(z_s, free - pull, atol=1e-5)


@VARIANTS
@pytest.mark.parametrize("through_network", [False, True])
def test_the_estimate_is_encoded_again_late_in_the_chain(variant, through_network):
    """At levels 1 of 8; what the network makes of z0 and y is z0 less its residual."""
    regularizer = LatentRegularizer(reencode=0.5, every=2, last=0.5, through_network=through_network)
    options = dict(scale=jnp.float32(0.0), eta=0.0, autoencoder=LOSSY, regularizer=regularizer)
    free, z0 = plain(6)
    other = 0.8 * z0
    if through_network:
        residual = Y - z0 if variant == "pixel" else double(0.8 * halve(Y) - halve(z0))
        other = 0.8 * (z0 + residual) if variant == "pixel" else z0 + residual
    wanted = free + 0.5 * jnp.sqrt(SCHEDULE.alpha_bar_prev[1]) * (other - z0)
    np.testing.assert_allclose(one_step(variant, 6, **options)[0].x, wanted, atol=1e-5)
    for i in (7, 0):  # level 0 is between, level 7 early
        np.testing.assert_allclose(one_step(variant, i, **options)[0].x, plain(i)[0], atol=1e-6)


def test_resampling_and_the_trust_region_in_the_chain():
    kernel_options = dict(scale=1e3, eta=0.0, regularizer=LatentRegularizer(resample=1, radius=0.1, every=3))
    free, z0 = plain(0)
    limit = 0.1 * (192 * (1 - SCHEDULE.alpha_bar_prev[-1])) ** 0.5
    np.testing.assert_allclose(norm(one_step("latent", 0, **kernel_options)[0].x - free), limit, rtol=1e-3)
    moved = one_step("latent", 2, scale=jnp.float32(0.0), eta=0.0, regularizer=LatentRegularizer(resample=1, every=3))
    assert float(jnp.abs(moved[0].x - plain(2)[0]).max()) > 1e-2  # level 5


def test_resampling_keeps_the_law():
    """eta = 1 and the least noise: from z_s drawn by the chain itself, going up and down keeps mean and spread."""
    schedule = schedules.respace(schedules.linear(), 50)
    keys, start = rng.image_keys(1, [0]), jax.random.normal(jax.random.key(5), (1, 64, 64, 1))
    denoiser = PRIOR.denoiser(schedule)
    y = jnp.zeros((1, 64, 64, 1))
    kernel = restoration.latent_indigo(denoiser, schedule, HAAR, y, POOL, "latent", scale=jnp.float32(0.0), eta=1.0,
                                       regularizer=LatentRegularizer(resample=2, every=2))
    z = jax.jit(functools.partial(samplers.sample, kernel))(keys, start)[0]
    mean, std = PRIOR.output_law(schedule, eta=1.0)
    assert abs(float(z.mean()) - mean) < 0.02 and abs(float(z.std()) - std) < 0.03


def test_everything_in_tiles_is_the_whole():
    tiled = tiles.tiled_autoencoder(POOL, factor=2, tile=4, overlap=2)
    apply = tiles.blended(lambda z, t: PRIOR.denoiser(SCHEDULE)(z, t).x0, tile=4, overlap=2)

    def denoiser(z_t, t):
        a = SCHEDULE.alpha_bar[jnp.searchsorted(SCHEDULE.timesteps, t)].reshape(-1, 1, 1, 1)
        x0 = apply(z_t, t)
        return Prediction(x0, (z_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a))

    options = dict(regularizer=None, scale=0.5)
    found = run("pixel", denoiser=denoiser, autoencoder=tiled, **options)[0]
    np.testing.assert_allclose(found, run("pixel", **options)[0], atol=2e-5)


@pytest.mark.parametrize("options, words", [
    ({"variant": "both"}, "pixel, latent"), ({"gradient": "none"}, "full, truncated"),
    ({"guide_every": 0}, "at least 1"), ({"y": Y[:, :4]}, "another scale"),
    ({"regularizer": LatentRegularizer(reencode=2.0)}, "shares"),
    ({"regularizer": LatentRegularizer(every=0)}, "every at least 1"),
    ({"distance": lambda v, u: jnp.sum(v - u)}, "one number per image")])
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        run(**{"variant": "latent", **options})
