"""DPS: ancestral sampling that is pulled towards the measurement, through the network's gradient."""
from indigo_jax import guidance, samplers
from indigo_jax.arrays import misfit, norm
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def dps(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, scale=1.0, *,
        sampler: samplers.Sampler = samplers.ddpm) -> Kernel:
    """Diffusion posterior sampling (Chung et al. 2023, Algorithm 1): DDPM with
    ``x_s -= scale d |y - A x0(x_t)| / d x_t``.

    The norm, not its square, as in the released program: the paper's square with its step length
    ``zeta' / |y - A x0|`` is twice as long.

    Args:
        denoiser: differentiable; the paper clips x0: ``denoisers.from_eps(fn, schedule, clip=True)``.
        schedule: the levels to visit; the paper takes all 1000.
        operator: ``A(x) -> y``, differentiable, known.
        y: measurements ``[B, ...]``, real or complex.
        scale: the paper's zeta', 0.3 to 1 for its tasks; a number or one per image.
        sampler: ``(denoiser, schedule) -> Kernel``, any of :mod:`samplers`: all of them add a drift; default: the
            paper's. The pull is one per step, however long, so that fewer steps want a larger ``scale``, and the order
            of a solver is lost.

    Returns:
        ``Kernel(init, step, num_steps)``; state and info are the sampler's.
    """
    return sampler(guidance.energy(lambda x0: norm(misfit(operator(x0), y)), scale)(denoiser), schedule)
