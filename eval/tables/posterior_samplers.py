"""Samplers of posteriors as lines of the table of calibration: each a kernel for a problem that is known exactly."""
from typing import Callable, NamedTuple

import jax.numpy as jnp

from eval.posteriors import Mixture
from indigo_jax import restoration, samplers, schedules
from indigo_jax.typing import Array, Denoiser, Kernel, Operator

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
    Line("BIRD", "60 iterations of 5 steps", 300, lambda p: restoration.bird(
        p.denoiser, levels(5, "linspace"), p.operator, p.y, restoration.bird_optimizer())),
    Line("RED-diff", "Adam 0.1, weight 0.25", 1000, lambda p: restoration.reddiff(
        p.denoiser, WHOLE, p.operator, p.y), "estimate"),
    Line("PnP-Flow", "rate 1, power 0.5, 1 draw", 100, lambda p: restoration.pnp_flow(
        p.denoiser, levels(), p.operator, p.y), "estimate"),
    Line("half-quadratic splitting", "8 steps", 8, lambda p: restoration.hqs(
        p.denoiser, WHOLE, p.operator, p.y, SIGMA), "estimate"))
