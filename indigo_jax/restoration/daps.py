"""DAPS: whole pictures drawn from what a level and the measurement tell, then noised anew to the next level."""
import jax
import jax.numpy as jnp

from indigo_jax import operators, rng, schedules
from indigo_jax.arrays import misfit, per_image, square
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator

_STEP = 0.2  # of Langevin, in units of the least variance


def daps(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma, *, prior_std: float = 0.5,
         ode_steps: int = 1, langevin: int = 0, num_iterations: int = 20) -> Kernel:
    """Decoupled annealing posterior sampling (Zhang et al. 2024, Algorithm 1) as a kernel.

    In each step from level s (of ``u = x_t / sqrt(alpha_bar) = x + s n``) to s':

        ``x ~ exp(-|x - m|^2 / (2 r^2) - |A x - y|^2 / (2 sigma^2))``,  ``u' = x + s' z``

    where m is what the probability flow makes of u in ``ode_steps`` of Euler's, and ``r^2 = s^2 p^2 / (s^2 + p^2)``.
    With one step m is the mean of x given x_t: then exact for pictures that are white Gaussian of standard deviation p,
    after any number of steps.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction`` for the schedule's levels; its x0 is used.
        schedule: the levels to visit, best of ``schedules.respace(schedule, N, "karras")``; the paper takes 50 to 200.
        operator: linear and known; with ``langevin`` any that can be differentiated.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in [-1, 1] units; a number or one per image. At least 1e-3 is used.
        prior_std: p; infinity is the paper's ``r = s``.
        ode_steps: 5 in the paper; each is a network evaluation.
        langevin: steps of Langevin's method that draw x (100 in the paper), their length a fifth of
            ``1 / (1 / r^2 + 1 / sigma^2)``, right where ``|A| <= 1``. 0: x is drawn exactly, as the solution of
            ``argmin |A x - (y + sigma z)|^2 / sigma^2 + |x - (m + r z')|^2 / r^2``.
        num_iterations: of conjugate gradients for that.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise; the info's ``x0`` is the drawn x.

    Errors:
        ValueError for numbers out of range.

    Ours: prior_std, one step of the flow by default, and the exact draw. The paper's step lengths of Langevin are
    tuned by task.

    Source: Zhang, Chu, Berner, Meng, Anandkumar & Song, Improving Diffusion Inverse Problem Solving with Decoupled
    Noise Annealing (arXiv 2407.01521).
    """
    if not prior_std > 0 or ode_steps < 1 or langevin < 0:
        raise ValueError(f"prior_std must be above 0, ode_steps at least 1 and langevin at least 0, got {prior_std}, "
                         f"{ode_steps} and {langevin}")
    num_steps, levels = schedule.timesteps.shape[0], schedules.sigmas(schedule)
    below = jnp.sqrt(1 / schedule.alpha_bar_prev - 1)
    noise = jnp.broadcast_to(jnp.maximum(jnp.asarray(sigma, jnp.float32), 1e-3), y.shape[:1])

    def flow(x_t, k):
        """Euler's method from level k along levels that lie evenly among those below it."""
        u, last = x_t / jnp.sqrt(schedule.alpha_bar[k]), jnp.asarray(k, jnp.float32)
        for j in range(ode_steps):
            now, after = (jnp.round(last * (1 - i / ode_steps)).astype(int) for i in (j, j + 1))
            x0 = denoiser(jnp.sqrt(schedule.alpha_bar[now]) * u, jnp.full(u.shape[:1], schedule.timesteps[now])).x0
            u = x0 if j == ode_steps - 1 else x0 + levels[after] / levels[now] * (u - x0)
        return u

    def exact(keys, m, r):
        seen = y + per_image(noise, y.real) * rng.normal(rng.fold(keys, 1), y)
        return operators.proximal(operator, seen, m + r * rng.normal(rng.fold(keys, 2), m), (noise / r)**2,
                                  num_iterations=num_iterations)

    def wandering(keys, m, r):
        weight = per_image(noise, m)**-2
        length = _STEP / (weight + r**-2)

        def energy(x):
            axes = tuple(range(1, y.ndim))
            unlikely = jnp.sum(square(misfit(operator(x), y)), axes) / (2 * noise**2)
            return jnp.sum(unlikely) + jnp.sum((x - m)**2) / (2 * r**2)

        def move(j, x):
            return x - length * jax.grad(energy)(x) + jnp.sqrt(2 * length) * rng.normal(rng.fold(keys, j + 2), x)

        return jax.lax.fori_loop(0, langevin, move, m)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        r = (levels[k]**-2 + prior_std**-2)**-0.5
        x0 = (wandering if langevin else exact)(keys, flow(state.x, k), r)
        u = x0 + below[k] * rng.normal(rng.fold(keys, 0), x0)
        return State(jnp.sqrt(schedule.alpha_bar_prev[k]) * u), Info(schedule.timesteps[k], x0)

    return Kernel(start, step, num_steps)
