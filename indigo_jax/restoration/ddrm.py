"""DDRM: a diffusion in the basis of the operator's singular vectors, where each coefficient has a noise of its own."""
from typing import Any, Callable

import jax
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.arrays import per_image
from indigo_jax.operators import base
from indigo_jax.operators.linear import is_measured
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator

Svd = tuple[Any, Callable[[Array], Array], Callable[[Array], Array]]


def ddrm(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, sigma, *, svd: Svd | None = None,
         eta: float = 0.85, eta_b: float = 1.0) -> Kernel:
    """Denoising diffusion restoration (Kawar et al. 2022, Eq. 7 and 8) for ``A = U S V*``, as a kernel.

    In ``u = x_t / sqrt(alpha_bar) = x + s n``, from level s to s', coefficients ``c = V* x0``, ``b = S^+ U* y`` with
    noise of standard deviation ``l = sigma / S``:

        not measured:  ``c + sqrt(1 - eta^2) s' / s (V* u - c) + eta s' z``
        ``s' < l``:    ``c + sqrt(1 - eta^2) s' / l (b - c) + eta s' z``
        ``s' >= l``:   ``(1 - eta_b) c + eta_b b + sqrt(s'^2 - eta_b^2 l^2) z``

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``; its x0 is used.
        schedule: the levels to visit; the paper takes 20.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        sigma: standard deviation of their noise in [-1, 1] units; a number or one per image.
        svd: ``(S, V*, V)`` as for :func:`operators.linear`, whole or without the null space; default: the operator's
            own. :func:`isometry` has that of masks, of average pooling and of denoising.
        eta: share of new noise.
        eta_b: how much a measured coefficient is believed where its own noise is the smaller.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise, whose measured part is then moved
        about the measurement; the info's ``x0`` is the denoiser's.

    Errors:
        ValueError for an eta or eta_b outside ``[0, 1]``, and for an operator without a decomposition.

    Source: Kawar, Elad, Ermon & Song, Denoising Diffusion Restoration Models, NeurIPS 2022 (arXiv 2201.11793). The
    variance that the denoiser leaves is nowhere counted: for white Gaussian pictures it is exact (to first order) only
    without noise and with eta 0. With noise, many levels bring what was measured to the measurement itself, with no
    spread, however weakly it was seen: in that, twenty are nearer to the posterior than a hundred.
    """
    if not (0 <= eta <= 1 and 0 <= eta_b <= 1):
        raise ValueError(f"eta and eta_b must be in [0, 1], got {eta} and {eta_b}")
    svd = getattr(operator, "svd", None) if svd is None else svd
    if svd is None:
        raise ValueError("ddrm needs the operator's singular values: operators.linear(..., svd=...), or svd=, as "
                         "restoration.isometry(operator, x) for masks and average pooling")
    num_steps, levels, a_s = schedule.timesteps.shape[0], schedules.sigmas(schedule), schedule.alpha_bar_prev
    below = jnp.sqrt(1 / schedule.alpha_bar_prev - 1)
    values, to_basis, from_basis = _in_reals(svd)

    def measured(x):
        """``b`` and ``l``."""
        b = to_basis(base.adjoint_of(operator, x)(y))
        safe = jnp.where(is_measured(values, b), values, 1.0)
        return b / safe**2, per_image(sigma, b, "sigma") / safe

    def merged(free, c):
        """Pictures with the coefficients c where these are measured."""
        return free + from_basis(jnp.where(is_measured(values, c), c - to_basis(free), 0.0))

    def init(x, keys) -> State:
        del keys
        z = in_float32(x)
        b, noise = measured(z)
        start = b + jnp.sqrt(jnp.maximum(levels[-1]**2 - noise**2, 0.0)) * to_basis(z)
        return State(jnp.sqrt(schedule.alpha_bar[-1]) * merged(z / jnp.sqrt(schedule.alpha_bar[-1]), start))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t, level = schedule.timesteps[k], below[k]
        u = state.x / jnp.sqrt(schedule.alpha_bar[k])
        x0 = denoiser(state.x, jnp.full(u.shape[:1], t)).x0
        z, old = rng.normal(keys, u), (1 - eta**2)**0.5
        b, noise = measured(u)
        c, new = to_basis(x0), to_basis(z)
        loud = c + old * level * (b - c) / jnp.where(level < noise, noise, 1.0) + eta * level * new
        quiet = (1 - eta_b) * c + eta_b * b + jnp.sqrt(jnp.maximum(level**2 - (eta_b * noise)**2, 0.0)) * new
        free = x0 + old * level / levels[k] * (u - x0) + eta * level * z
        return State(jnp.sqrt(a_s[k]) * merged(free, jnp.where(level < noise, loud, quiet))), Info(t, x0)

    return Kernel(init, step, num_steps)


def _in_reals(svd):
    """The same with coefficients along a last axis: one for a real basis, real and imaginary part for a complex one."""
    values, to_basis, from_basis = svd

    def split(x):
        c = to_basis(x)
        return jnp.stack([c.real, c.imag] if jnp.iscomplexobj(c) else [c], axis=-1)

    def join(c):
        return from_basis(c[..., 0] if c.shape[-1] == 1 else jax.lax.complex(c[..., 0], c[..., 1])).real

    return jnp.asarray(values, jnp.float32)[..., None], split, join


def isometry(operator: Operator, x: Array) -> Svd:
    """The decomposition, without the null space, of an operator with ``A A* A = s^2 A``: masks of 0 and 1, average
    pooling, nothing at all.

    Args:
        operator: linear.
        x: pictures ``[B, H, W, C]``, of which only the shape is used.

    Errors:
        ValueError, where the numbers are known, for an operator that is not of this kind.

    >>> from indigo_jax.operators import average_pool
    >>> float(isometry(average_pool(4), jnp.zeros((1, 8, 8, 3)))[0][0, 0, 0, 0])
    0.25
    """
    adjoint = base.adjoint_of(operator, x)
    probe = jnp.broadcast_to(jnp.cos(jnp.arange(x[0].size, dtype=jnp.float32)).reshape(1, *x.shape[1:]), x.shape)
    inside = adjoint(operator(probe))
    again = adjoint(operator(inside))
    axes = tuple(range(1, x.ndim))
    size = jnp.sum(inside**2, axes)
    square = jnp.where(size > 0, jnp.sum(inside * again, axes) / jnp.where(size > 0, size, 1.0), 1.0)
    wrong = base.concrete(jnp.max(jnp.abs(again - per_image(square, x) * inside)))
    if wrong is not None and wrong > 1e-4 * float(jnp.max(jnp.abs(inside))):
        raise ValueError("this operator has singular values of several sizes: give its svd")
    s = per_image(jnp.sqrt(square), x)
    return s, lambda x: operator(x) / s, lambda c: adjoint(c) / s
