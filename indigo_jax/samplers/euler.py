"""Euler's method for the probability flow, and ancestral Euler: both are DDIM in other words."""
from indigo_jax.samplers.ddim import ddim
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Denoiser, Kernel


def euler_ancestral(denoiser: Denoiser, schedule: NoiseSchedule, eta: float = 1.0) -> Kernel:
    """Euler's steps down to less than the next level, and noise up to it, as a kernel for :func:`samplers.sample`.

    In ``u = x_t / sqrt(alpha_bar) = x + sigma n``, from sigma down to the next level sigma':

        ``up = eta sigma' sqrt(sigma^2 - sigma'^2) / sigma,  down = sqrt(sigma'^2 - up^2)``
        ``u' = u + (down - sigma) (u - x0) / sigma + up z``

    As ``sigma^2 = 1 / alpha_bar - 1``, this is :func:`samplers.ddim` to the letter: eta = 0 is Euler's method (Song et
    al. 2021, DDIM, Sec. 4.3), 1 the ancestral sampler that many programs call Euler a.

    Args:
        denoiser, schedule, eta: as for :func:`samplers.ddim`.

    Errors:
        ValueError for eta outside ``[0, 1]``.

    >>> from indigo_jax import denoisers, schedules
    >>> schedule = schedules.karras(4)
    >>> euler_ancestral(denoisers.from_x0(lambda x, t: 0.5 * x, schedule), schedule).num_steps
    4
    """
    return ddim(denoiser, schedule, eta)
