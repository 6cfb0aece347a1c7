"""What INDIGO must do whatever its networks are, with a small invertible network in place of a plain wavelet.

Where the rest is tested: round trips, parameter counts and slicings in test_wavelet_inn; DDIM at scale 0, levels of the
released program, refinement along a chain, monotonous residuals, images alone and in any order in test_indigo and
test_latent_indigo; tiles in test_tiles; chains that never decode in test_latent_indigo.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import restoration, rng, samplers, schedules
from indigo_jax.models import WaveletINN
from indigo_jax.restoration.inn_energy import inn_energy
from indigo_jax.typing import InvertibleNetwork
from tests.oracles import GaussianDiffusion

X = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
COND = jax.random.normal(jax.random.key(2), (2, 3))
Y = jax.random.uniform(jax.random.key(3), (2, 8, 8, 3))


def network(**options):
    """An invertible network of scale 2 as functions, with random weights."""
    module = WaveletINN(levels=1, lifting_steps=1, width=4, cond_dim=3, cond_width=4, num_blocks=1, **options)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(0.2 * random.standard_normal(leaf.shape)),
                          jax.eval_shape(module.init, jax.random.key(0), X, COND))

    def call(method, params, *arguments):
        return module.apply(params, *arguments, method=method)

    return InvertibleNetwork(functools.partial(call, "forward"), functools.partial(call, "inverse"), params)


@pytest.mark.parametrize("slicing", ["disjoint", pytest.param("overlap", marks=pytest.mark.slow)])
def test_its_own_coarse_part_gives_the_picture_back_and_no_energy(slicing):
    inn = network(detail_slicing=slicing)

    @jax.jit
    def run(x):
        coarse = jax.lax.optimization_barrier(inn.forward(inn.params, x, COND)[0])
        own, other = (inn_energy(inn, measured, cond=COND, weights=(2.5, 1.0)) for measured in (coarse, Y))
        return own.swapped(inn.params, x), own.energy(inn.params, x), other.energy(inn.params, x)

    swapped, (energies, residuals), (others, _) = run(X)
    np.testing.assert_allclose(swapped, X, atol=1e-5)
    assert float(energies.max()) < 1e-3 and float(residuals.max()) < 1e-5
    assert float(others.min()) > 1.0


def test_one_small_step_of_refinement_lowers_the_residual_of_each_image():
    inn = network()
    energy = inn_energy(inn, Y, cond=COND, optimizer=optax.adam(5e-5))

    @jax.jit
    def once(active):
        params, opt_state = energy.start(2)
        before = energy.residual(params, X)
        return before, energy.residual(energy.refine(params, opt_state, X, active)[0], X)

    before, after = once(True)
    assert (after < before).all() and (after > 0.98 * before).all()
    np.testing.assert_array_equal(*once(False))


def test_guidance_goes_from_the_prior_towards_the_posterior():
    """A Gaussian prior and means of 2 x 2: the posterior's means of 2 x 2 lie between the prior's and the measured
    ones, and small scales lead there monotonously."""
    prior, schedule = GaussianDiffusion(0.1, 0.3), schedules.respace(schedules.linear(), 8)

    def mean(x):
        return x.reshape(-1, 8, 2, 8, 2, 3).mean((2, 4))

    def blocks(coarse):
        return coarse.repeat(2, 1).repeat(2, 2)

    inn = InvertibleNetwork(lambda p, x, cond: (mean(x), [[x - blocks(mean(x))]]),
                            lambda p, coarse, details, cond: blocks(coarse) + details[0][0])
    keys, start = rng.image_keys(0, [0, 1]), jax.random.normal(jax.random.key(4), X.shape)

    @jax.jit
    def run(scale):
        kernel = restoration.indigo(prior.denoiser(schedule), schedule, inn, 2 * Y - 1, scale=scale, eta=0.0,
                                    clip="straight_through")
        return samplers.sample(kernel, keys, start)[0]

    found = [mean(run(jnp.float32(scale))) for scale in (0.0, 0.2, 0.4, 0.8)]
    sigma = 0.1  # of the measurement: the posterior mean moves from the prior's sample towards it by this share
    share = prior.std**2 / 4 / (prior.std**2 / 4 + sigma**2)
    posterior = found[0] + share * (2 * Y - 1 - found[0])
    distances = [float(jnp.linalg.norm(each - posterior)) for each in found]
    residuals = [float(jnp.linalg.norm(each - (2 * Y - 1))) for each in found]
    assert distances == sorted(distances, reverse=True) and residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.95 * residuals[0]
