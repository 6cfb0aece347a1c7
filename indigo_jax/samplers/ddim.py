"""DDIM: a diffusion run backwards with as much new noise per step as one likes, down to none."""
from typing import Callable

import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.denoisers import Prediction
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Key


def ddim(denoiser: Denoiser, schedule: NoiseSchedule, eta: float = 0.0) -> Kernel:
    """DDIM (Song, Meng & Ermon 2021, Eq. 12) as a kernel for :func:`samplers.sample`.

    ``x_s = sqrt(a_s) x0 + sqrt(1 - a_s - sigma^2) eps + sigma z`` with
    ``sigma = eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)`` (Eq. 16), a = alpha_bar, from the schedule's
    noisiest level to the picture (a_s = 1). Where guidance gives a drift it is added to ``x_s``.

    Args:
        denoiser: ``denoiser(x_t [B, H, W, C], t [B]) -> Prediction``; see :func:`denoisers.from_eps`.
        schedule: the levels to visit (:func:`schedules.respace` for fewer steps than in training).
        eta: 0 is deterministic (keys are not used), 1 is as noisy as DDPM with the smaller variance.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is ``x_t`` at the noisiest level: standard normal noise.

    Errors:
        ValueError for eta outside ``[0, 1]``.

    >>> from indigo_jax import denoisers, samplers, schedules
    >>> schedule = schedules.respace(schedules.linear(), 4)
    >>> kernel = ddim(denoisers.from_x0(lambda x, t: 0.5 + 0.0 * x, schedule), schedule)
    >>> x, _ = samplers.sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> float(x[0, 0, 0, 0])
    0.5
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], from no noise (0) to that of DDPM (1); got {eta}")
    num_steps, move = schedule.timesteps.shape[0], ddim_move(schedule, eta)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        prediction = denoiser(state.x, jnp.full(state.x.shape[:1], t))
        return State(move(keys, prediction, k)), Info(t, prediction.x0)

    return Kernel(start, step, num_steps)


def ddim_move(schedule: NoiseSchedule, eta: float = 0.0) -> Callable[[Key, Prediction, Array], Array]:
    """What :func:`ddim` does with a prediction: ``move(keys, prediction, k) -> x_s``, from level k of the schedule down
    to the next one. The keys, one per image, are those of this step alone."""
    a_t, a_s = schedule.alpha_bar, schedule.alpha_bar_prev
    sigma = eta * jnp.sqrt((1 - a_s) / (1 - a_t)) * jnp.sqrt(1 - a_t / a_s)
    direction = jnp.sqrt(jnp.maximum(1 - a_s - sigma**2, 0.0))

    def move(keys, prediction, k):
        x_s = jnp.sqrt(a_s[k]) * prediction.x0 + direction[k] * prediction.eps
        if eta > 0:
            x_s = x_s + sigma[k] * rng.normal(keys, x_s)
        return x_s + prediction.drift

    return move
