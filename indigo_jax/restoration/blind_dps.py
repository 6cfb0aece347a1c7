"""BlindDPS: two diffusions side by side, one of the picture and one of the blur kernel, guided by one residual."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax import operators, rng
from indigo_jax.arrays import norm, per_image
from indigo_jax.operators.kernels import kernel_of
from indigo_jax.samplers.base import Info, State, in_float32
from indigo_jax.samplers.ddim import ddim_move
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel


def blind_dps(denoiser: Denoiser, schedule: NoiseSchedule, kernel_denoiser: Denoiser, kernel_schedule: NoiseSchedule,
              y: Array, *, size: int, channels: int = 1, scale=0.3, kernel_scale=0.3, sparsity: float = 0.0,
              eta: float = 1.0, measure: Callable[[Array, Array], Array] | None = None) -> Kernel:
    """Parallel diffusion of a picture and of its blur kernel (Chung et al. 2023, Algorithm 1) as a kernel.

    Both take a step of DDIM from their own prior; then, with ``x0`` and ``k0`` the denoised ones,

        ``x_s -= scale d/dx_t |y - k0 * x0|``,  ``k_s -= kernel_scale d/dk_t (|y - k0 * x0| + sparsity |k0 + 1|_1)``

    Args:
        denoiser: of pictures, differentiable; the paper clips x0.
        schedule: the levels to visit; the paper takes all 1000, and ancestral steps.
        kernel_denoiser: of kernels as pictures ``[B, size, size, channels]``, black where they are 0; see
            :func:`picture_of`. The bundled weights ``kernels9`` are one, of 3 channels and size 9.
        kernel_schedule: as many levels of it.
        y: measurements ``[B, H, W, C]``.
        size, channels: of the kernel's picture; its channels are averaged.
        scale, kernel_scale: numbers, or one per image; of the norm, not its square, as in :func:`dps`.
        sparsity: of the kernel; for kernels as pictures, black is nothing.
        eta: of DDIM; 1 is the paper's ancestral sampling.
        measure: ``measure(x0, k0) -> y``; default: blur by :func:`kernel_of` k0, continued by reflection.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise of the picture's shape; ``extra`` of
        the state is k_t, after the last step the kernel's picture.

    Errors:
        ValueError for schedules of different lengths, no channels, or a negative sparsity.

    No other sampler: two chains move as one here, each by what both estimates say at the same level.

    Source: Chung, Kim, Kim & Ye, Parallel Diffusion Models of Operator and Image for Blind Inverse Problems, CVPR 2023
    (arXiv 2211.10656).
    """
    num_steps = schedule.timesteps.shape[0]
    if kernel_schedule.timesteps.shape[0] != num_steps:
        raise ValueError(f"both diffusions take the same steps: {num_steps} levels of pictures, but "
                         f"{kernel_schedule.timesteps.shape[0]} of kernels; respace one")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    if sparsity < 0:
        raise ValueError(f"sparsity must be at least 0, got {sparsity}")
    move, kernel_move = ddim_move(schedule, eta), ddim_move(kernel_schedule, eta)
    if measure is None:
        def measure(x0, k0):
            return operators.blur(kernel_of(k0))(x0)

    def init(x: Array, keys) -> State:
        x = in_float32(x)
        picture = jnp.zeros((x.shape[0], size, size, channels), x.dtype)
        return State(x, rng.normal(rng.fold(rng.init_keys(keys), 1), picture))

    def step(keys, state: State, i) -> tuple[State, Info]:
        own, k = rng.fold(keys, i), num_steps - 1 - i
        t, told = schedule.timesteps[k], kernel_schedule.timesteps[k]

        def misfit(x_t, k_t):
            picture = denoiser(x_t, jnp.full(x_t.shape[:1], t))
            kernel = kernel_denoiser(k_t, jnp.full(k_t.shape[:1], told))
            residual = norm(measure(picture.x0, kernel.x0) - y)
            weight_of = jnp.sum(jnp.mean(jnp.abs(kernel.x0 + 1), axis=3), axis=(1, 2))
            return jnp.sum(residual + sparsity * weight_of), (residual, picture, kernel)

        (down_x, down_k), (residual, picture, kernel) = jax.grad(misfit, (0, 1), has_aux=True)(state.x, state.extra)
        picture = picture._replace(drift=picture.drift - per_image(scale, down_x, "scale") * down_x)
        kernel = kernel._replace(drift=kernel.drift - per_image(kernel_scale, down_k, "kernel_scale") * down_k)
        x = move(rng.fold(own, 0), picture, k)
        return State(x, kernel_move(rng.fold(own, 1), kernel, k)), Info(t, picture.x0, residual / y[0].size**0.5)

    return Kernel(init, step, num_steps)
