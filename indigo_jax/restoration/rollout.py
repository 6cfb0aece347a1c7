"""The fast sampler that BIRD inverts: deterministic DDIM with its derivative for constant noise predictions."""
import jax
import jax.numpy as jnp

from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser


def ddim_rollout(denoiser: Denoiser, schedule: NoiseSchedule, z: Array, *, clip: str = "straight_through",
                 eps: Array | None = None, fresh: Array | None = None, remat: bool = False):
    """DDIM (eta = 0) from z, with x0 clipped to ``[-1, 1]`` and eps derived anew from it in every step.

    ``x0 = clip((x_t - sqrt(1 - a_t) eps) / sqrt(a_t))``, ``x_s = sqrt(a_s) x0 + sqrt(1 - a_s) (x_t - sqrt(a_t) x0) /
    sqrt(1 - a_t)``. With eps as a constant the derivative of a step is diagonal: ``sqrt(a_s / a_t)`` where nothing was
    clipped (everywhere, for "straight_through"), else ``sqrt((1 - a_s) / (1 - a_t))``.

    Args:
        denoiser, schedule, clip: as for :func:`bird`.
        z: the noise ``[B, H, W, C]``.
        eps: noise predictions of an earlier rollout ``[S, B, H, W, C]``, to be reused where not fresh.
        fresh: which are to be made anew, ``[S]`` or, for each image, ``[S, B]`` (booleans). A level that no image
            needs costs no network evaluation.
        remat: recompute each step in the backward pass instead of storing it.

    Returns:
        ``(x0, jacobian, eps)``: the picture, the product of these derivatives (both as z), and the noise predictions
        ``[S, B, H, W, C]``, noisiest first.
    """
    levels = (schedule.timesteps, schedule.alpha_bar, schedule.alpha_bar_prev)
    t, a_t, a_s = (level[::-1] for level in levels)

    def step(carry, level):
        x, jacobian = carry
        t, a_t, a_s, old, is_fresh = level
        signal, noise, signal_s, noise_s = jnp.sqrt(a_t), jnp.sqrt(1 - a_t), jnp.sqrt(a_s), jnp.sqrt(1 - a_s)

        def predict():
            return denoiser(x, jnp.full(x.shape[:1], t)).eps

        def mixed():
            return jnp.where(is_fresh[:, None, None, None], predict(), old)

        if old is None:
            new = predict()
        elif is_fresh.ndim:
            new = jax.lax.cond(jnp.any(is_fresh), mixed, lambda: old)
        else:
            new = jax.lax.cond(is_fresh, predict, lambda: old)
        raw = (x - noise * new) / signal
        x0 = jnp.clip(raw, -1.0, 1.0)
        x0 = raw + jax.lax.stop_gradient(x0 - raw) if clip == "straight_through" else x0
        free = True if clip == "straight_through" else jnp.abs(raw) <= 1.0
        x_s = signal_s * x0 + noise_s * (x - signal * x0) / noise
        return (x_s, jacobian * jnp.where(free, signal_s / signal, noise_s / noise)), new

    step = jax.checkpoint(step) if remat else step
    (x0, jacobian), eps = jax.lax.scan(step, (z, jnp.ones_like(z)), (t, a_t, a_s, eps, fresh))
    return x0, jacobian, eps
