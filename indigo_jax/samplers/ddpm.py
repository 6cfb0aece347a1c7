"""DDPM: ancestral sampling, the reverse of the noising process step by step."""
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Denoiser, Kernel

VARIANCES = ("small", "large")


def ddpm(denoiser: Denoiser, schedule: NoiseSchedule, *, variance: str = "small") -> Kernel:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) as a kernel for :func:`samplers.sample`.

    ``x_s = sqrt(a_s) beta / (1 - a_t) x0 + sqrt(1 - beta) (1 - a_s) / (1 - a_t) x_t + sqrt(v) z`` (Eq. 7), a =
    alpha_bar, ``beta = 1 - a_t / a_s``, also for a schedule with fewer levels than in training. The last step adds no
    noise. Where guidance gives a drift it is added to ``x_s``.

    Args:
        denoiser: as for :func:`ddim`. If it predicts a ``share`` of the variance, ``log v`` lies there between the two
            below, of this schedule's steps (Nichol & Dhariwal 2021, Eq. 15); if only ``log_var``, v is that.
        schedule: the levels to visit.
        variance: else: "small" is ``v = beta (1 - a_s) / (1 - a_t)``, right for data of no spread; "large" is
            ``v = beta``, right for standard normal data.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise.

    Errors:
        ValueError for an unknown variance.

    >>> from indigo_jax import denoisers, samplers, schedules
    >>> schedule = schedules.respace(schedules.linear(), 4)
    >>> kernel = ddpm(denoisers.from_x0(lambda x, t: 0.5 + 0.0 * x, schedule), schedule)
    >>> x, _ = samplers.sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> round(float(x[0, 0, 0, 0]), 4)
    0.5
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}; got {variance!r}")
    num_steps = schedule.timesteps.shape[0]
    a_t, a_s = schedule.alpha_bar, schedule.alpha_bar_prev
    beta = 1 - a_t / a_s
    of_x0 = jnp.sqrt(a_s) * beta / (1 - a_t)
    of_x_t = jnp.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
    low, high = schedules.log_variances(schedule)
    fixed = jnp.sqrt(beta if variance == "large" else beta * (1 - a_s) / (1 - a_t))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        prediction = denoiser(state.x, jnp.full(state.x.shape[:1], t))
        std = fixed[k]
        if prediction.share is not None:
            std = jnp.exp(0.25 * ((1 + prediction.share) * high[k] + (1 - prediction.share) * low[k]))
        elif prediction.log_var is not None:
            std = jnp.exp(0.5 * prediction.log_var)
        x_s = of_x0[k] * prediction.x0 + of_x_t[k] * state.x
        x_s = x_s + jnp.where(k > 0, std, 0.0) * rng.normal(keys, x_s)
        return State(x_s + prediction.drift), Info(t, prediction.x0)

    return Kernel(start, step, num_steps)
