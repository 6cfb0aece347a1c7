"""Half-quadratic splitting: a known operator undone with a few calls of a denoiser that is told the noise level."""
import jax.numpy as jnp

from indigo_jax import operators
from indigo_jax.samplers.base import Info, State, in_float32
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def hqs(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma, *, num_steps: int = 8,
        start: float | Array = 0.384, weight: float = 0.23, num_iterations: int = 12) -> Kernel:
    """``argmin_x |A x - y|^2 / (2 sigma^2) + prior(x)`` by splitting, as a kernel (Zhang et al. 2021, Eq. 6).

        ``z = argmin |A z - y|^2 + rho_i |z - x|^2``,  ``rho_i = weight sigma^2 / sigma_i^2``;  ``x = D(z, sigma_i)``

    with levels ``sigma_i`` in constant ratio from ``start`` down to the noise of y. The denoiser sees the picture and
    its three mirror images in turn (the paper's periodical self-ensemble, without quarter turns). A mean, not a sample:
    few steps give the least error, more do not help.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``, best of :func:`denoisers.from_sigma`.
        schedule: all its levels; for each ``sigma_i`` the first that is not below it.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in [-1, 1] units, a number or one per image; at least the schedule's
            least level is used.
        num_steps: network evaluations.
        start: the first level, in [-1, 1] units (0.384 is 49 of 255). Holes to be filled need more, 1 or so.
        weight: of the prior, lambda of the paper.
        num_iterations: of conjugate gradients per step.

    Returns:
        ``Kernel(init, step, num_steps)``; its ``x_init`` is a first estimate ``[B, H, W, C]``, as y.

    Source: DPIR (Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021,
    arXiv 2008.13751), Eq. 6 and 7, Sec. 4.2; weight and first level are those of its released program.
    """
    levels = jnp.sqrt(1 / schedule.alpha_bar - 1)
    sigma = jnp.maximum(jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1]), levels[0])
    start = jnp.maximum(start, sigma)

    def init(x: Array, keys) -> State:
        del keys
        return State(in_float32(x))

    def step(keys, state: State, i) -> tuple[State, Info]:
        del keys
        sigma_i = start * (sigma / start)**(jnp.asarray(i, jnp.float32) / max(num_steps - 1, 1))
        z = operators.proximal(operator, y, state.x, weight * (sigma / sigma_i)**2, num_iterations=num_iterations)
        index = jnp.clip(jnp.searchsorted(levels, sigma_i), 0, levels.shape[0] - 1)
        signal = jnp.sqrt(schedule.alpha_bar[index])[:, None, None, None]
        z = _mirrored(i, jnp.clip(z, -1.4, 1.4))
        x = _mirrored(i, denoiser(signal * z, schedule.timesteps[index]).x0)
        return State(x), Info(sigma_i, x)

    return Kernel(init, step, num_steps)


def _mirrored(i, x):
    """Left and right exchanged in every second step, top and bottom in every second pair of steps."""
    x = jnp.where(i % 2 == 1, x[:, :, ::-1], x)
    return jnp.where(i // 2 % 2 == 1, x[:, ::-1], x)
