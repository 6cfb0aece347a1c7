"""PiGDM: a diffusion guided by the pseudo-inverse, of one variance about every estimate."""
import jax.numpy as jnp

from indigo_jax import guidance, operators, samplers
from indigo_jax.restoration.moments import explained
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def pigdm(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma, *, prior_std: float = 1.0,
          eta: float = 1.0, num_iterations: int = 20, clip: bool = False,
          sampler: samplers.Sampler | None = None) -> Kernel:
    """Pseudo-inverse guided diffusion (Song et al. 2023, Eq. 7) for a known linear operator, as a kernel.

    ``g = (d x0 / d x_t)^T A^T (r^2 A A^T + sigma^2)^-1 (y - A x0)``, ``r^2 = s^2 p^2 / (s^2 + p^2)``,
    ``s^2 = (1 - alpha_bar) / alpha_bar``; a sampler then goes on with the mean of x given x_t and y, see
    :func:`moments.explained`. Exact for pictures that are white Gaussian of standard deviation p.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``, differentiable, not clipped.
        schedule: the levels to visit.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in [-1, 1] units; a number or one per image. At least 1e-3 is used.
        prior_std: p; 1 is the paper's ``r^2 = s^2 / (1 + s^2)``.
        eta: of DDIM, where no other sampler is given; 1 as in the paper.
        num_iterations: of conjugate gradients per step; no network is called in them.
        clip: keep the guided x0 in [-1, 1], for networks: what is wrong in their Jacobian is multiplied by
            ``1 / sqrt(alpha_bar)``, which has no limit where a schedule begins in nearly pure noise.
        sampler: ``(denoiser, schedule) -> Kernel``, what goes on with the guided denoiser: any of :mod:`samplers`, as
            :func:`samplers.heun` or :func:`samplers.dpm_solver`, which need fewer levels; default: DDIM of eta. For
            one that goes between the visited levels (churn), ``schedule`` is all of them, and it visits its own.

    Returns:
        ``Kernel(init, step, num_steps)``, a forward and a backward pass of the network per evaluation; state and info
        are the sampler's, the info's ``x0`` that of x given x_t and y.

    Errors:
        ValueError for a prior_std that is not above 0, and as for :func:`samplers.ddim`.

    Differs from the reference in: the guided estimate goes through the sampler itself, so that x0 and eps agree; the
    released program adds ``sqrt(alpha_bar) r^2 g`` to the next state.

    Source: Song, Vahdat, Mardani & Kautz, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023.
    """
    if not prior_std > 0:
        raise ValueError(f"prior_std must be above 0, got {prior_std}")
    variance = jnp.broadcast_to(jnp.maximum(jnp.asarray(sigma, jnp.float32), 1e-3)**2, y.shape[:1])

    def pull(m, level, covariance):
        del covariance
        r2 = 1 / (1 / level + 1 / prior_std**2)
        rho = variance / r2.reshape(-1)
        return (operators.proximal(operator, y, m, rho, num_iterations=num_iterations) - m) / r2

    guided = explained(denoiser, schedule, pull)
    guided = guidance.clip_x0(schedule=schedule)(guided) if clip else guided
    return samplers.ddim(guided, schedule, eta) if sampler is None else sampler(guided, schedule)
