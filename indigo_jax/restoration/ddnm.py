"""DDNM: a diffusion whose estimate of the picture is made to agree with the measurement in every step."""
from indigo_jax import guidance, operators, samplers
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def ddnm(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, *, eta: float = 0.85,
         num_iterations: int = 20, sampler: samplers.Sampler | None = None) -> Kernel:
    """Null-space diffusion (Wang, Yu & Zhang 2023, Algorithm 1): DDIM with ``x0 <- x0 + A^+ (y - A x0)``.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``, its x0 clipped, as by ``guidance.clip_x0()(denoiser)``: where the
            schedule begins in nearly pure noise, the picture else leaves its range for good.
        schedule: the levels to visit.
        operator: linear, known, its measurement without noise: all of y is believed.
        y: measurements ``[B, ...]``.
        eta: of DDIM, where no other sampler is given; 0.85 as in the paper.
        num_iterations: of the conjugate gradients that stand for ``A^+``: exact after two for masks and average
            pooling; for blurs, few of them regularise.
        sampler: as for :func:`pigdm`; those that go by x0 alone take the eps that belongs to the corrected one.

    Returns:
        ``Kernel(init, step, num_steps)``; state and info are the sampler's.

    Differs from the reference in: the pseudo-inverse is iterative, so that any linear operator will do; as in its
    code, eps is the network's own.
    """
    def correct(x0):
        return operators.proximal(operator, y, x0, 0.0, num_iterations=num_iterations)

    guided = guidance.project(correct)(denoiser)
    return samplers.ddim(guided, schedule, eta) if sampler is None else sampler(guided, schedule)
