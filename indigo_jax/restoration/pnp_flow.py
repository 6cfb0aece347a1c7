"""PnP-Flow: a step towards the measurement, back onto the flow's path with new noise, and a denoising; in turn."""
import jax
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.arrays import misfit, per_image, square
from indigo_jax.operators import base
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


def pnp_flow(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, *, rate=1.0,
             power: float = 0.5, num_draws: int = 1) -> Kernel:
    """Plug-and-play with a flow (Martin et al. 2025, the algorithm "PnP-Flow") for a known operator, as a kernel.

    At each time t of the flow ``(1 - t) x + t z``, from the noisiest (the paper counts the other way round):

        ``v = x - rate t^power A^T (A x - y)``,  ``x = mean over draws of z of D_t((1 - t) v + t z)``

    An estimate, not a sample: what spread its noise leaves follows no posterior.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``, of a flow (:func:`denoisers.from_flow`) or of any diffusion: with
            ``t = s / (1 + s)``, ``s = sqrt(1 / alpha_bar - 1)``, both are the same; its x0 is used.
        schedule: the levels to visit; the paper takes 100 times, evenly spaced, as :func:`schedules.flow` has them.
        operator: ``A(x) -> y``, differentiable and known; right with ``rate`` 1 where ``|A| <= 1``.
        y: measurements ``[B, ...]``.
        rate: the longest step, for the gradient of ``|A x - y|^2 / 2``; a number or one per image.
        power: of the time, the paper's alpha: 0.01 to 1 by task.
        num_draws: network evaluations of a step; 5 in the paper.

    Returns:
        ``Kernel(init, step, num_steps)``; its ``x_init`` is a first estimate ``[B, H, W, C]``, as ``A^T y``.

    Errors:
        ValueError for a rate or power below 0, or no draw.

    Source: Martin, Gagneux, Hagemann & Steidl, PnP-Flow: Plug-and-Play Image Restoration with Flow Matching, ICLR 2025
    (arXiv 2410.02423).
    """
    rate = base.check_number(rate, "rate", 0.0)
    if power < 0 or num_draws < 1:
        raise ValueError(f"power must be at least 0 and num_draws at least 1, got {power} and {num_draws}")
    num_steps, levels = schedule.timesteps.shape[0], schedules.sigmas(schedule)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t, signal, level = schedule.timesteps[k], jnp.sqrt(schedule.alpha_bar[k]), levels[k]
        downhill = jax.grad(lambda x: 0.5 * jnp.sum(square(misfit(operator(x), y))))(state.x)
        v = state.x - per_image(rate, state.x, "rate") * (level / (1 + level))**power * downhill
        x = sum(denoiser(signal * (v + level * rng.normal(rng.fold(keys, draw), v)), jnp.full(v.shape[:1], t)).x0
                for draw in range(num_draws)) / num_draws
        return State(x), Info(t, x)

    return Kernel(start, step, num_steps)
