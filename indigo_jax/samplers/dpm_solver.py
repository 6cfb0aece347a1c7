"""DPM-Solver++ (2M): second order with one evaluation per step, since it remembers the step before."""
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Denoiser, Kernel


def dpm_solver(denoiser: Denoiser, schedule: NoiseSchedule, eta: float = 0.0) -> Kernel:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), or with noise SDE-DPM-Solver++(2M), as a kernel.

    In ``u = x_t / sqrt(alpha_bar) = x + sigma n``, from sigma down to the next level sigma', with
    ``q = sigma' / sigma = exp(-h)`` and h_prev the h of the step before:

        ``D = x0 + h / (2 h_prev) (x0 - x0_prev)``
        ``u' = q^(1 + eta) u + (1 - q^(1 + eta)) D + sigma' sqrt(1 - q^(2 eta)) z``

    The first step and the last, to sigma' = 0, take ``D = x0``. Where guidance gives a drift it is added to ``x_s``. Of
    second order; with noise, too, in the law of the results: for Gaussian pictures twice the steps quarter its error.

    Args:
        denoiser: ``denoiser(x_t [B, H, W, C], t [B]) -> Prediction``; only its x0 is used.
        schedule: the levels to visit, best of ``schedules.respace(schedule, N, "karras")`` or "log_snr".
        eta: 0 is 2M, deterministic (keys are not used); 1 is SDE-2M.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise; ``extra`` of the state is the last
        step's x0.

    Errors:
        ValueError for eta outside ``[0, 1]``.

    Source: DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095).

    >>> from indigo_jax import denoisers, samplers
    >>> schedule = schedules.karras(4)
    >>> kernel = dpm_solver(denoisers.from_x0(lambda x, t: 0.5 + 0.0 * x, schedule), schedule)
    >>> x, _ = samplers.sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> float(x[0, 0, 0, 0])
    0.5
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], from 2M (0) to SDE-2M (1); got {eta}")
    num_steps = schedule.timesteps.shape[0]
    sigma, a_t, a_s = schedules.sigmas(schedule), schedule.alpha_bar, schedule.alpha_bar_prev
    below = jnp.sqrt((1 - a_s) / a_s)  # sigma of the next level, 0 at the picture
    q = below / sigma
    h = jnp.log(sigma[1:] / sigma[:-1])  # of the steps that start at levels 1, 2, ...
    ends = jnp.zeros(1)
    extrapolate = jnp.concatenate([ends, h[:-1] / (2 * h[1:]), ends])[:num_steps]
    added = below * jnp.sqrt(1 - q ** (2 * eta))

    def init(x, keys) -> State:
        del keys
        x = in_float32(x)
        return State(x, jnp.zeros_like(x))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        prediction = denoiser(state.x, jnp.full(state.x.shape[:1], t))
        x0 = prediction.x0
        estimate = x0 + extrapolate[k] * (x0 - state.extra)
        kept = q[k] ** (1 + eta)
        u = kept * state.x / jnp.sqrt(a_t[k]) + (1 - kept) * estimate
        if eta > 0:
            u = u + added[k] * rng.normal(keys, u)
        return State(jnp.sqrt(a_s[k]) * u + prediction.drift, x0), Info(t, x0)

    return Kernel(init, step, num_steps)
