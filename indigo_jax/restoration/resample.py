"""ReSample: latents made to explain the measurement outright in some steps, then drawn between that and the chain."""
import math

import jax
import jax.numpy as jnp

from indigo_jax import operators, rng
from indigo_jax.arrays import misfit, square
from indigo_jax.samplers.base import Info, State, own_keys, start
from indigo_jax.samplers.ddim import ddim_move
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Autoencoder, Denoiser, Kernel, Operator


def resample(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, autoencoder: Autoencoder, *,
             every: int = 5, begin: float = 0.75, switch: float = 0.25, gamma: float = 40.0, rho=1e-2,
             num_iterations: int = 20, rate: float = 0.1, num_descents: int = 20, eta: float = 0.0) -> Kernel:
    """Latent diffusion with hard data consistency (Song et al. 2024, Algorithm 1) as a kernel on latents.

    DDIM; in one of ``every`` steps, with z0 the denoised latent and E and D the autoencoder,

        early:  ``z = E(argmin_x |A x - y|^2 + rho |x - D(z0)|^2)``;  late: ``z = argmin |A D(z) - y|^2 / 2`` from z0
        ``v = gamma (1 - a_s) / a_t (1 - a_t / a_s)``
        ``z_s ~ N((v sqrt(a_s) z + (1 - a_s) z_s) / (v + 1 - a_s), v (1 - a_s) / (v + 1 - a_s))``

    where ``z_s`` on the right is DDIM's and a = alpha_bar. The last step ends with z itself.

    Args:
        denoiser: of latents; not differentiated.
        schedule: the levels to visit.
        operator: linear and known, of pictures.
        y: measurements ``[B, ...]``.
        autoencoder: its decoder differentiable, in the units of the diffusion.
        every: steps; the last one is always among them.
        begin: share of the steps that are left when consistency begins; before, latents are hardly more than noise.
        switch: share of the steps that are left when descent in latents takes the place of pixels.
        gamma: how much the consistent latent is believed; 40 in the paper.
        rho: ``sigma^2 / variance`` of the pixels about D(z0), a number or one per image.
        num_iterations: of conjugate gradients in pixels.
        rate, num_descents: length and number of the steps of descent in latents; below ``2 / |A D|^2``.
        eta: of DDIM.

    Returns:
        ``Kernel(init, step, num_steps)`` on latents: ``x_init`` is standard normal noise, the result is for
        ``autoencoder.decode``; the info's ``x0`` is the consistent latent where there is one.

    Errors:
        ValueError for numbers out of range.

    Differs from the reference in: pixels by a proximal step and a fixed number of descents, where the paper runs
    optimisers until the residual is that of the noise.

    No other sampler: the step draws anew about DDIM's ``z_s``, which a solver's memory of steps before does not know.

    Source: Song, Kwon, Zhang, Hu, Qu & Shen, Solving Inverse Problems with Latent Diffusion Models via Hard Data
    Consistency, ICLR 2024 (arXiv 2307.08123).
    """
    if every < 1 or not 0 <= switch <= begin <= 1 or gamma < 0:
        raise ValueError(f"every must be at least 1, 0 <= switch <= begin <= 1 and gamma at least 0; got {every}, "
                         f"{switch}, {begin} and {gamma}")
    num_steps, move = schedule.timesteps.shape[0], ddim_move(schedule, eta)
    a_t, a_s = schedule.alpha_bar, schedule.alpha_bar_prev
    trust = gamma * (1 - a_s) / a_t * (1 - a_t / a_s)
    early, late = (math.ceil(share * num_steps) for share in (begin, switch))

    def in_pixels(z0):
        x = autoencoder.decode(z0)
        return autoencoder.encode(operators.proximal(operator, y, x, rho, num_iterations=num_iterations))

    def in_latents(z0):
        slope = jax.grad(lambda z: 0.5 * jnp.sum(square(misfit(operator(autoencoder.decode(z)), y))))
        return jax.lax.fori_loop(0, num_descents, lambda _, z: z - rate * slope(z), z0)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        prediction = denoiser(state.x, jnp.full(state.x.shape[:1], t))
        plain = move(rng.fold(keys, 0), prediction, k)

        def consistent():
            z = jax.lax.cond(k < late, in_latents, in_pixels, prediction.x0)
            left, v = 1 - a_s[k], trust[k]
            total = jnp.where(left > 0, v + left, 1.0)
            drawn = (v * jnp.sqrt(a_s[k]) * z + left * plain) / total
            drawn = drawn + jnp.sqrt(v * left / total) * rng.normal(rng.fold(keys, 1), plain)
            return jnp.where(left > 0, drawn, z), z

        now = (k == 0) | ((k < early) & (k % every == 0))
        x, z = jax.lax.cond(now, consistent, lambda: (plain, prediction.x0))
        return State(x), Info(t, z)

    return Kernel(start, step, num_steps)
