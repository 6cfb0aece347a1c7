"""GibbsDDRM: DDRM of the picture and Langevin's method of the operator's unknowns, in turn."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.arrays import per_image, square
from indigo_jax.restoration.ddrm import Svd, ddrm
from indigo_jax.samplers.base import State, in_float32
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, BlindOperator, Denoiser, Kernel, Params


def gibbs_ddrm(denoiser: Denoiser, schedule: NoiseSchedule, operator: BlindOperator, svd: Callable[[Params], Svd],
               y: Array, sigma, *, rate: float = 0.3, num_langevin: int = 20, cold: bool = False,
               log_prior: Callable[[Params], Array] | None = None, eta: float = 0.85, eta_b: float = 1.0) -> Kernel:
    """Partially collapsed Gibbs sampling of picture and operator (Murata et al. 2023, Algorithm 1) as a kernel.

    Each step is one of :func:`ddrm` with the operator as it is; then, with the x0 that it used, the unknowns take

        ``phi += h / 2 d/dphi (log p(phi) - |A(x0, phi) - y|^2 / (2 sigma^2)) + sqrt(h) z``,  ``h = rate sigma^2``

    ``num_langevin`` times.

    Args:
        denoiser, schedule, sigma, eta, eta_b: as for :func:`ddrm`; sigma at least 1e-3.
        operator: ``A(x, phi)``, linear in x; ``init(keys)`` makes the first unknowns.
        svd: ``svd(phi) -> (S, V*, V)``, of the operator with these; see :func:`fourier_svd`.
        y: measurements ``[B, ...]``.
        rate: below ``4 / |dA/dphi|^2``, the square of the norm over all of a picture, where Langevin's method would
            diverge.
        num_langevin: no network is called in these.
        cold: without z: descent, to the likeliest unknowns.
        log_prior: of the unknowns of each image, ``[B]``; default: flat. The paper's is Laplace, for blur kernels.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise; ``extra`` of the state are the
        unknowns; the info is that of :func:`ddrm`.

    Errors:
        ValueError for a rate that is not above 0, fewer than 0 steps of Langevin, and as for :func:`ddrm`.

    Differs from the reference in: one sweep a level; x0 is the denoiser's, as in its code.

    Source: Murata, Saito, Lai, Takida, Uesaka, Mitsufuji & Ermon, GibbsDDRM: A Partially Collapsed Gibbs Sampler for
    Solving Blind Inverse Problems with Denoising Diffusion Restoration, ICML 2023 (arXiv 2301.12686).
    """
    if not rate > 0 or num_langevin < 0:
        raise ValueError(f"rate must be above 0 and num_langevin at least 0, got {rate} and {num_langevin}")
    noise = jnp.maximum(jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1]), 1e-3)

    def picture_step(params):
        return ddrm(denoiser, schedule, lambda x: operator(x, params), y, noise, svd=svd(params), eta=eta, eta_b=eta_b)

    def init(x: Array, keys) -> State:
        x, params = in_float32(x), operator.init(rng.fold(rng.init_keys(keys), 1))
        return State(picture_step(params).init(x, keys).x, params)

    def step(keys, state: State, i):
        inner, info = picture_step(state.extra).step(keys, State(state.x), i)
        own = rng.fold(rng.fold(keys, i), 1)  # DDRM draws with rng.fold(keys, i) itself

        def scaled_log_posterior(params):  # times sigma^2, so that steps are of one size for any noise
            likely = -0.5 * jnp.sum(square(operator(info.x0, params) - y), axis=tuple(range(1, y.ndim)))
            return jnp.sum(likely if log_prior is None else likely + noise**2 * log_prior(params))

        def wander(j, params):
            slopes, at = jax.grad(scaled_log_posterior)(params), rng.fold(own, j)

            def moved(number, phi, slope):
                phi = phi + rate / 2 * slope
                z = 0.0 if cold else rng.normal(rng.fold(at, number), phi)
                return phi + rate**0.5 * per_image(noise, phi) * z

            leaves, tree = jax.tree.flatten(params)
            return tree.unflatten([moved(*each) for each in zip(range(len(leaves)), leaves, jax.tree.leaves(slopes))])

        return State(inner.x, jax.lax.fori_loop(0, num_langevin, wander, state.extra)), info

    return Kernel(init, step, schedule.timesteps.shape[0])


def fourier_svd(blur_kernel: Array, height: int, width: int) -> Svd:
    """Of a periodic blur (``operators.blur(kernel, boundary="periodic")``), in Fourier's basis.

    Args:
        blur_kernel: ``[h, w]`` or ``[B, h, w]``, no larger than the pictures.
        height, width: of the pictures.

    >>> values, _, _ = fourier_svd(jnp.full((3, 3), 1 / 9), 6, 6)
    >>> values.shape, round(float(values.max()), 4)
    ((1, 6, 6, 1), 1.0)
    """
    kernel = jnp.asarray(blur_kernel)
    kernel = kernel[None] if kernel.ndim == 2 else kernel
    values = jnp.abs(jnp.fft.fft2(kernel, (height, width)))[..., None]  # where the kernel lies does not matter

    def to_basis(x):
        return jnp.fft.fft2(x, axes=(1, 2), norm="ortho")

    return values, to_basis, lambda c: jnp.fft.ifft2(c, axes=(1, 2), norm="ortho").real
