"""InDI: restore by small direct steps along ``x_t = (1 - t) x + t y``.

Source: Delbracio & Milanfar, Inversion by Direct Iteration: An Alternative to Denoising Diffusion for Image
Restoration, TMLR 2023 (arXiv 2303.11435), Algorithm 1. Equation numbers are those cited in a public re-implementation.
"""
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import paths, rng
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.paths import NoiseMode, constant_noise
from indigo_jax.typing import Array, Kernel, Restorer

_NOISY = ("brownian", "bridge", "reverting", "custom")  # modes whose steps add noise


def indi(restorer: Restorer, times, *, noise: NoiseMode = constant_noise(0.01), solver: str = "euler",
         start: Callable[[Array], Array] | None = None, measurement_noise: float | None = None) -> Kernel:
    """InDI's sampler (Algorithm 1) as a kernel for :func:`samplers.sample`, whose ``x_init`` is the measurement y.

    ``x_1 = y + eps_1 n``, then for each step from t down to s
    ``x_s = (1 - s/t) F(x_t, t) + (s/t) x_t + s sqrt(eps_s^2 - eps_t^2) z``.

    One step, ``times=1``, is the plain regressor ``F(y + eps_1 n, 1)``. More steps walk from the best mean squared
    error towards sharper pictures. With constant noise the walk after the start is deterministic: the Euler method
    for ``dx/dt = (x_t - F(x_t, t)) / t``.

    Args:
        restorer: ``restorer(x_t, t) -> x0`` for ``[B, H, W, C]`` and ``[B]``; see :func:`denoisers.restorer`.
        times: number of uniform steps, or any strictly monotone list from 1 to 0 (:func:`paths.indi_times`).
        noise: the mode the restorer was trained with.
        solver: "euler", or "heun" (second order, two evaluations per step except the last; needs a walk without noise).
        start: where the chain starts: ``x_1 = start(y) + eps_1 n``. With a posterior-mean estimator this is the start
            of PMRF (Ohayon et al. 2024), for a restorer trained on pairs (x, start(y)). Default: the identity.
        measurement_noise: standard deviation of the noise that y itself carries, if known, in ``[-1, 1]`` units.

    Returns:
        ``Kernel(init, step, num_steps)``; the info's ``x0`` is ``F(x_t, t)``.

    Errors:
        ValueError for a bad grid, for a noise mode other than the restorer's own (``restorer.noise``), for Heun with
        noisy steps, and for several steps from a measurement without any noise (``measurement_noise=0`` and eps = 0):
        then x_1 has no density and F is not defined off the measurements, so that one-step and many-step results
        agree at best.

    Differs from the reference in: arbitrary grids, Heun, the start, and one key per image.

    >>> import jax.numpy as jnp
    >>> from indigo_jax import rng, samplers
    >>> half = lambda x_t, t: 0.5 * x_t
    >>> x, _ = samplers.sample(indi(half, 2, noise=samplers.no_noise()), rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> float(x[0, 0, 0, 0])
    0.375
    """
    times = paths.check_times(times)
    num_steps = len(times) - 1
    _check(restorer, num_steps, noise, solver, measurement_noise)
    std = jnp.asarray(_step_std(noise, times), jnp.float32)
    noisy = noise.name in _NOISY
    times = jnp.asarray(times, jnp.float32)

    def init(y: Array, keys) -> State:
        y = in_float32(y)
        x = y if start is None else start(y)
        if noise.name in ("none", "bridge"):
            return State(x)
        eps_1 = noise.eps_t(1.0)
        return State(x + jnp.asarray(eps_1, x.dtype) * rng.normal(rng.init_keys(keys), x))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        t, s = times[i], times[i + 1]
        x_t = state.x
        x0 = restorer(x_t, jnp.full(x_t.shape[:1], t))
        x_s = (1 - s / t) * x0 + (s / t) * x_t
        if solver == "heun":
            x_s = _heun(restorer, x_t, x0, x_s, t, s)
        if noisy:
            x_s = x_s + std[i] * rng.normal(keys, x_s)
        return State(x_s), Info(t, x0)

    return Kernel(init, step, num_steps)


def _heun(restorer, x_t, x0, x_s, t, s):
    """Average the velocity ``v = (x - F) / t`` at both ends; the last step (s = 0) stays Euler's: ``x_0 = F``."""
    def corrected():
        v_t = (x_t - x0) / t
        v_s = (x_s - restorer(x_s, jnp.full(x_s.shape[:1], s))) / s
        return x_t + (s - t) * 0.5 * (v_t + v_s)

    return jax.lax.cond(s > 0, corrected, lambda: x_s)


def _step_std(noise, times):
    t, s = times[:-1], times[1:]
    return noise.step_std(np.float64(t), np.float64(s)) if isinstance(times, np.ndarray) else noise.step_std(t, s)


def _check(restorer, num_steps, noise, solver, measurement_noise):
    if solver not in ("euler", "heun"):
        raise ValueError(f"solver must be 'euler' or 'heun', got {solver!r}")
    if solver == "heun" and noise.name in _NOISY:
        raise ValueError(f"heun integrates a walk without noise, but {noise.name} noise adds some in each step: use "
                         "solver='euler', or constant noise")
    trained = getattr(restorer, "noise", None)
    if trained is not None and trained != noise:
        raise ValueError(f"the restorer was trained with {trained.name} noise of eps = {trained.eps:g}, but sampling "
                         f"asks for {noise.name} noise of eps = {noise.eps:g}: pass noise=restorer.noise")
    noiseless = noise.name != "custom" and noise.eps == 0
    if noiseless and measurement_noise == 0 and num_steps > 1:
        raise ValueError("degenerate: neither the measurement nor the path has noise, so that several steps follow "
                         "lines on which F is not defined: use constant_noise(0.01) or more, or one step")
