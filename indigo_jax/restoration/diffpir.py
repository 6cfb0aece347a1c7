"""DiffPIR: half-quadratic splitting with a diffusion model as denoiser."""
import jax.numpy as jnp

from indigo_jax import operators, rng
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def diffpir(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma: float | Array, *,
            prior_std: float = 0.5, zeta: float = 0.7225, num_iterations: int = 20) -> Kernel:
    """Restoration with a known linear operator (Zhu et al. 2023, Algorithm 1) as a kernel.

    In each step from level t to s (a = alpha_bar): ``x0 = argmin |A x - y|^2 + rho_t |x - denoised|^2``, clipped to
    ``[-1, 1]``, ``e = (x_t - sqrt(a_t) x0) / sqrt(1 - a_t)``,
    ``x_s = sqrt(a_s) x0 + sqrt(1 - a_s) (sqrt(1 - zeta) e + sqrt(zeta) z)``.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``.
        schedule: the levels to visit.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in ``[-1, 1]`` units; a number or one per image. At least 1e-3 is used.
        prior_std: ``rho_t = sigma^2 / v_t`` with ``v_t = s^2 p^2 / (s^2 + p^2)``, ``s^2 = (1 - a_t) / a_t``,
            ``p = prior_std``: the variance that is left of a Gaussian picture of this spread. Infinity is the paper's
            ``sigma^2 / s^2`` (its lambda = 1).
        zeta: share of new noise; the default makes ``sqrt(zeta)`` 0.85. Of a Gaussian posterior the draws then keep,
            however many the steps, ``sqrt((1 + sqrt(1 - zeta)) / 2)`` of the spread: 87 %; all with 0, 71 % with 1.
        num_iterations: of conjugate gradients per step.

    Returns:
        ``Kernel(init, step, num_steps)``; the info's ``x0`` is that after the data term.

    Errors:
        ValueError for zeta outside ``[0, 1]``.
    """
    if not 0 <= zeta <= 1:
        raise ValueError(f"zeta must be in [0, 1], got {zeta}")
    num_steps = schedule.timesteps.shape[0]
    a_t, a_s = schedule.alpha_bar, schedule.alpha_bar_prev
    variance = (1 - a_t) / a_t
    variance = 1 / (1 / variance + 1 / prior_std**2)
    sigma = jnp.maximum(jnp.asarray(sigma, jnp.float32), 1e-3)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        denoised = jnp.clip(denoiser(state.x, jnp.full(state.x.shape[:1], t)).x0, -1.0, 1.0)
        x0 = operators.proximal(operator, y, denoised, sigma**2 / variance[k], num_iterations=num_iterations)
        x0 = jnp.clip(x0, -1.0, 1.0)
        e = (state.x - jnp.sqrt(a_t[k]) * x0) / jnp.sqrt(1 - a_t[k])
        noise = (1 - zeta)**0.5 * e + zeta**0.5 * rng.normal(keys, e)
        return State(jnp.sqrt(a_s[k]) * x0 + jnp.sqrt(1 - a_s[k]) * noise), Info(t, x0)

    return Kernel(start, step, num_steps)
