"""TMPD: a diffusion guided with the variance about each pixel's estimate that the denoiser itself tells."""
import jax.numpy as jnp

from indigo_jax import guidance, operators, samplers
from indigo_jax.arrays import misfit
from indigo_jax.restoration.moments import explained
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def tmpd(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma, *, eta: float = 1.0,
         num_iterations: int = 20, clip: bool = False, sampler: samplers.Sampler | None = None) -> Kernel:
    """Tweedie moment projected diffusion (Boys et al. 2023, Algorithm 1) for a known linear operator, as a kernel.

    ``g = (d x0 / d x_t)^T A^T (A C A^T + sigma^2)^-1 (y - A x0)`` with ``C = diag(C_t 1)``, the row sums of
    ``C_t = (1 - alpha_bar) / sqrt(alpha_bar) d x0 / d x_t = Cov[x | x_t]``; a sampler then goes on with the mean of x
    given x_t and y, see :func:`moments.explained`. Exact for pictures that are Gaussian and white, of any variance.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``, differentiable, not clipped.
        schedule: the levels to visit.
        operator: linear, known and differentiable.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in [-1, 1] units; a number or one per image. At least 1e-3 is used.
        eta: of DDIM, where no other sampler is given.
        num_iterations: of conjugate gradients per step; no network is called in them.
        clip: keep the guided x0 in [-1, 1], for networks: what is wrong in their Jacobian is multiplied by
            ``1 / sqrt(alpha_bar)``, which has no limit where a schedule begins in nearly pure noise.
        sampler: as for :func:`pigdm`.

    Returns:
        ``Kernel(init, step, num_steps)``, a forward and two backward passes of the network per evaluation; state and
        info are the sampler's, the info's ``x0`` that of x given x_t and y.

    Differs from the reference in: row sums of C_t, where the paper's fast form takes those of ``A C_t A^T``; at least a
    thousandth of ``(1 - alpha_bar) / alpha_bar`` is used for each, since a network may say less than nothing.

    Source: Boys, Girolami, Pidstrigach, Reich, Mosca & Akyildiz, Tweedie Moment Projected Diffusions for Inverse
    Problems (arXiv 2310.06721).
    """
    variance = jnp.broadcast_to(jnp.maximum(jnp.asarray(sigma, jnp.float32), 1e-3)**2, y.shape[:1])

    def pull(m, level, covariance):
        root = jnp.sqrt(jnp.maximum(covariance(jnp.ones_like(m)), 1e-3 * level))  # C = root^2
        left = -misfit(operator(m), y)
        return operators.proximal(lambda u: operator(root * u), left, jnp.zeros_like(m), variance,
                                  num_iterations=num_iterations) / root

    guided = explained(denoiser, schedule, pull)
    guided = guidance.clip_x0(schedule=schedule)(guided) if clip else guided
    return samplers.ddim(guided, schedule, eta) if sampler is None else sampler(guided, schedule)
