"""Samplers of posteriors as lines of the table of calibration: each a kernel for a problem that is known exactly."""
from typing import Callable, NamedTuple

import jax.numpy as jnp

from eval.posteriors import Mixture
from indigo_jax import restoration, samplers, schedules, wavelets
from indigo_jax.denoisers import Prediction
from indigo_jax.typing import Array, Autoencoder, Denoiser, Kernel, Operator

SIGMA = 0.1  # noise of the measurements
WHOLE = schedules.linear()


class Problem(NamedTuple):
    """A measurement of one picture, and what is known of it exactly.

    Attributes:
        prior, posterior: the laws of the picture without and with the measurement.
        operator: linear.
        y: the measurement, once for each draw ``[N, ...]``.
        denoiser: the prior's, exact, for :data:`WHOLE`.
    """

    title: str
    prior: Mixture
    posterior: Mixture
    operator: Operator
    y: Array
    denoiser: Denoiser


class Line(NamedTuple):
    """A sampler: its name, its settings, evaluations of the denoiser, and ``make(problem) -> kernel``.

    Attributes:
        starts_from: "noise", or "estimate" for ``A^T y``.
    """

    title: str
    settings: str
    evaluations: int
    make: Callable[[Problem], Kernel]
    starts_from: str = "noise"


def levels(num_steps: int = 100, spacing: str = "log_snr"):
    """Some of the 1000 levels."""
    return schedules.respace(WHOLE, num_steps, spacing)


def _exact(p, eta):
    return samplers.ddim(p.posterior.denoiser(WHOLE), levels(), eta)


def _pigdm(p, eta):
    return restoration.pigdm(p.denoiser, levels(), p.operator, p.y, SIGMA, prior_std=p.prior.spread, eta=eta)


def _tmpd(p, eta):
    return restoration.tmpd(p.denoiser, levels(), p.operator, p.y, SIGMA, eta=eta)


def _ddrm(p, num_steps):
    svd = getattr(p.operator, "svd", None) or restoration.isometry(p.operator, jnp.zeros((1, *p.prior.shape)))
    return restoration.ddrm(p.denoiser, levels(num_steps), p.operator, p.y, SIGMA, svd=svd)


def _daps(p, **options):
    return restoration.daps(p.denoiser, levels(), p.operator, p.y, SIGMA, **options)


def _encode(x):
    coarse, details = wavelets.split(x, "haar")
    return jnp.concatenate([coarse, *details], axis=-1)


def _decode(z):
    coarse, *details = jnp.split(z, 4, axis=-1)
    return wavelets.merge(coarse, tuple(details), "haar")


HAAR = Autoencoder(_encode, _decode)  # orthonormal on even sides: latents have the laws of pictures, turned


def in_latents(p: Problem, make: Callable[[Denoiser], Kernel]) -> Kernel:
    """A kernel on latents of :data:`HAAR`, whose state is the picture: it starts from noise and ends with a draw."""
    def denoiser(z, t):
        prediction = p.denoiser(_decode(z), t)
        return Prediction(_encode(prediction.x0), _encode(prediction.eps))

    kernel = make(denoiser)

    def init(x_init, keys):
        state = kernel.init(_encode(x_init), keys)
        return state._replace(x=_decode(state.x))

    def step(keys, state, i):
        state, info = kernel.step(keys, state._replace(x=_encode(state.x)), i)
        return state._replace(x=_decode(state.x)), info

    return Kernel(init, step, kernel.num_steps)


def _psld(p, scale):
    return in_latents(p, lambda denoiser: restoration.psld(denoiser, WHOLE, p.operator, p.y, HAAR, scale=scale))


def _resample(p, num_steps):
    return in_latents(p, lambda denoiser: restoration.resample(
        denoiser, levels(num_steps), p.operator, p.y, HAAR, rho=(SIGMA / p.prior.spread)**2))


LINES = (
    Line("exact posterior score", "DDIM, eta 1", 100, lambda p: _exact(p, 1.0)),
    Line("exact posterior score", "DDIM, eta 0", 100, lambda p: _exact(p, 0.0)),
    Line("PiGDM", "p true, eta 1", 100, lambda p: _pigdm(p, 1.0)),
    Line("PiGDM", "p true, eta 0", 100, lambda p: _pigdm(p, 0.0)),
    Line("TMPD", "eta 1", 100, lambda p: _tmpd(p, 1.0)),
    Line("TMPD", "eta 0", 100, lambda p: _tmpd(p, 0.0)),
    Line("DAPS", "p true, mean, exact draws", 100, lambda p: _daps(p, prior_std=p.prior.spread)),
    Line("DAPS", "r = s, 5 steps of the flow, exact draws", 500, lambda p: _daps(p, prior_std=jnp.inf, ode_steps=5)),
    Line("DDRM", "eta 0.85, eta_b 1", 20, lambda p: _ddrm(p, 20)),
    Line("DDRM", "eta 0.85, eta_b 1", 100, lambda p: _ddrm(p, 100)),
    Line("DiffPIR", "p true, zeta 0.7225", 100, lambda p: restoration.diffpir(
        p.denoiser, levels(), p.operator, p.y, SIGMA, prior_std=p.prior.spread)),
    Line("DiffPIR", "p true, zeta 1", 100, lambda p: restoration.diffpir(
        p.denoiser, levels(), p.operator, p.y, SIGMA, prior_std=p.prior.spread, zeta=1.0)),
    Line("DDNM", "eta 0.85", 100, lambda p: restoration.ddnm(p.denoiser, levels(), p.operator, p.y)),
    Line("DPS", "scale 1", 1000, lambda p: restoration.dps(p.denoiser, WHOLE, p.operator, p.y)),
    Line("DPS", "scale 0.3", 1000, lambda p: restoration.dps(p.denoiser, WHOLE, p.operator, p.y, 0.3)),
    Line("PSLD", "scale 1, gluing 0.1", 1000, lambda p: _psld(p, 1.0)),
    Line("PSLD", "scale 0.3, gluing 0.1", 1000, lambda p: _psld(p, 0.3)),
    Line("ReSample", "rho true, every 5", 100, lambda p: _resample(p, 100)),
    Line("ReSample", "rho true, every 5", 500, lambda p: _resample(p, 500)),
    Line("BIRD", "60 iterations of 5 steps", 300, lambda p: restoration.bird(
        p.denoiser, levels(5, "linspace"), p.operator, p.y, restoration.bird_optimizer())),
    Line("RED-diff", "Adam 0.1, weight 0.25", 1000, lambda p: restoration.reddiff(
        p.denoiser, WHOLE, p.operator, p.y), "estimate"),
    Line("PnP-Flow", "rate 1, power 0.5, 1 draw", 100, lambda p: restoration.pnp_flow(
        p.denoiser, levels(), p.operator, p.y), "estimate"),
    Line("half-quadratic splitting", "8 steps", 8, lambda p: restoration.hqs(
        p.denoiser, WHOLE, p.operator, p.y, SIGMA), "estimate"))
