"""The law of every sampler's output for Gaussian pictures, exactly, and how fast more steps bring it to the right one.

A chain of affine steps has a Gaussian law, which :func:`tests.laws.affine_law` reads from the kernel itself. It starts
here from the exact law of its first level; the exact law of its end is that of the denoised last one.
"""
import functools
import inspect

import numpy as np
import pytest

from indigo_jax import paths, samplers, schedules
from indigo_jax.typing import Kernel
from tests.laws import affine_law, draws
from tests.oracles import GaussianDiffusion, GaussianScalar, Noise, per_image

GAUSSIAN = GaussianDiffusion(0.3, 0.5)
WHOLE = schedules.karras(4000, 0.02, 20.0)
DENOISER = GAUSSIAN.denoiser(WHOLE)
STEPS = (40, 80)
SCALAR = {name: GaussianScalar(0.2, 0.5, 0.8, 0.1, 0.6, Noise(name, 0.3)) for name in ("constant", "brownian")}
M, P, Y, SPREAD = 0.2, 0.35, -0.5, 0.3  # given y, x is N(M, P^2): of the bridges


def diffusion(make):
    """``(kernel of N steps, start, exact end)``."""
    first, last = float(WHOLE.alpha_bar[-1]), float(WHOLE.alpha_bar[0])
    start = first**0.5 * GAUSSIAN.mean, (first * GAUSSIAN.std**2 + 1 - first)**0.5
    end = GAUSSIAN.mean, GAUSSIAN.std**2 / (GAUSSIAN.std**2 + 1 / last - 1)**0.5
    return lambda num_steps: make(DENOISER, schedules.respace(WHOLE, num_steps, "log_snr")), start, end


def times(num_steps):
    """Where steps add noise of variance about t, even steps would be worse by a logarithm of their number."""
    return paths.indi_times(num_steps, "dense_near_0")


def indi(name, noise, **options):
    prior = SCALAR[name]
    start = prior.transfer * prior.mean + prior.offset, np.hypot(prior.transfer * prior.std, prior.sigma)
    end = prior.std if name == "brownian" else prior.transport() * prior.law(1.0)[1]
    return lambda num_steps: samplers.indi(prior.restorer(), times(num_steps), noise=noise, **options), start, (
        prior.mean, end)


def bridge(make, std):
    """From y itself: its restorer knows y."""
    def restorer(x_t, t):
        t = per_image(t, x_t)
        gain = (1 - t) * P**2 / ((1 - t)**2 * P**2 + std(t)**2 + 1e-12)
        return M + gain * (x_t - (1 - t) * M - t * Y)

    return lambda num_steps: make(restorer, times(num_steps)), (Y, 0.0), (M, P)


WAYS = {  # name: (order, draws numbers in its steps, (kernel of N steps, start, exact end))
    "ddim": (1, False, diffusion(samplers.ddim)),
    "ddim, eta 0.5": (1, True, diffusion(functools.partial(samplers.ddim, eta=0.5))),
    "ddim, eta 1": (1, True, diffusion(functools.partial(samplers.ddim, eta=1.0))),
    "ddpm": (1, True, diffusion(samplers.ddpm)),
    "ddpm, large": (1, True, diffusion(functools.partial(samplers.ddpm, variance="large"))),
    "euler_ancestral": (1, True, diffusion(samplers.euler_ancestral)),
    "euler_ancestral, eta 0": (1, False, diffusion(functools.partial(samplers.euler_ancestral, eta=0.0))),
    "heun": (2, False, diffusion(samplers.heun)),
    "heun, churn": (2, True, diffusion(functools.partial(samplers.heun, churn=5.0, levels=WHOLE))),
    "heun, churn in a range": (2, True, diffusion(functools.partial(
        samplers.heun, churn=5.0, churn_range=(0.05, 10.0), levels=WHOLE))),
    "dpm_solver": (2, False, diffusion(samplers.dpm_solver)),
    "dpm_solver, eta 0.5": (2, True, diffusion(functools.partial(samplers.dpm_solver, eta=0.5))),
    "dpm_solver, eta 1": (2, True, diffusion(functools.partial(samplers.dpm_solver, eta=1.0))),
    "indi": (1, False, indi("constant", samplers.constant_noise(0.3))),
    "indi, heun": (2, False, indi("constant", samplers.constant_noise(0.3), solver="heun")),
    "indi, brownian": (1, True, indi("brownian", samplers.brownian_noise(0.3))),
    "i2sb": (1, True, bridge(functools.partial(samplers.i2sb, eps=0.4), lambda t: 0.4 * (t * (1 - t))**0.5)),
    "ir_sde": (1, True, bridge(functools.partial(samplers.ir_sde, spread=SPREAD),
                               lambda t: SPREAD * (t * (2 - t))**0.5)),
}


def test_every_sampler_is_here():
    made = {name for name in samplers.__all__ if inspect.isfunction(getattr(samplers, name))
            and inspect.signature(getattr(samplers, name)).return_annotation is Kernel}
    assert made == {name.split(",")[0] for name in WAYS}


@pytest.mark.parametrize("name", WAYS)
def test_the_law_is_exact_to_its_order(name):
    """Twice as many steps halve or quarter the error of the standard deviation; the mean is right at once."""
    order, _, (make, start, end) = WAYS[name]
    laws = [affine_law(lambda y, kernel=make(num_steps): kernel, np.full(1, start[0]), start[1])
            for num_steps in STEPS]
    errors = np.array([float(law.std[0]) / end[1] - 1 for law in laws])
    np.testing.assert_allclose([law.mean[0] for law in laws], end[0], atol=1e-4)
    rates = np.log2(np.abs(errors[:-1] / errors[1:]))
    assert (np.abs(rates - order) < 0.1).all(), (errors, rates)
    assert abs(errors[-1]) < (0.08 if order == 1 else 0.004), errors


@pytest.mark.parametrize("name", WAYS)
def test_a_step_draws_noise_where_it_should_and_else_none(name):
    """So without noise the keys cannot matter."""
    _, noisy, (make, *_) = WAYS[name]
    assert draws(make(4), np.zeros(3))[1] == ([3] if noisy else [])
