"""The paths of InDI: time grids and noise modes.

``x_t = (1 - t) x + t y + t eps_t n`` leads from t = 1 (the measurement) to t = 0 (the clean picture). A grid says where
the walk stops on the way; a noise mode is the function ``eps_t``, which must not increase with t.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import arrays
from indigo_jax.typing import Array

SPACINGS = ("uniform", "dense_near_1", "dense_near_0")


def indi_times(num_steps: int, spacing: str = "uniform") -> np.ndarray:
    """A grid of ``num_steps`` steps from 1 to 0, as float32 ``[num_steps + 1]``, descending.

    With ``u_k = k / N``: uniform is ``t = u_k``; dense near 1 is ``1 - (1 - u_k)^2`` (blur, super-resolution: the lost
    detail is decided early); dense near 0 is ``u_k^2`` (pure denoising at a high noise level). The powers are our
    choice; the paper's grid is uniform. Any other list may be given to :func:`samplers.indi`.

    Errors:
        ValueError for ``num_steps < 1`` or an unknown spacing.

    >>> indi_times(4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> indi_times(2, "dense_near_1").tolist()
    [1.0, 0.75, 0.0]
    """
    u = np.linspace(1.0, 0.0, arrays.whole(num_steps, "num_steps") + 1)
    grids = {"uniform": u, "dense_near_1": 1 - (1 - u) ** 2, "dense_near_0": u**2}
    if spacing not in grids:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}; got {spacing!r}")
    return grids[spacing].astype(np.float32)


def check_times(times) -> Array | np.ndarray:
    """Any list of times as a descending float32 grid ``[N + 1]``; whole numbers N mean the uniform grid of N steps.

    The list must run strictly from 1 to 0 (either way round). A traced array is taken as it is.

    Errors:
        ValueError naming the first thing that is wrong.

    >>> check_times([0, 0.9, 1]).tolist() == [1.0, np.float32(0.9), 0.0]
    True
    """
    if isinstance(times, (int, np.integer)) and not isinstance(times, bool):
        return indi_times(int(times))
    try:
        grid = np.asarray(times, np.float32)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(times, jnp.float32)
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"times must be a list of at least two, from 1 to 0; got shape {grid.shape}")
    grid = grid[::-1] if grid[0] < grid[-1] else grid
    if grid[0] != 1 or grid[-1] != 0:
        raise ValueError(f"times must run from 1 (the measurement) to 0; got {grid[0]:g} to {grid[-1]:g}")
    wrong = np.flatnonzero(~(np.diff(grid) < 0))
    if wrong.size:
        raise ValueError(f"times must be strictly decreasing in float32; entry {wrong[0] + 1} is "
                         f"{grid[wrong[0] + 1]:g} after {grid[wrong[0]]:g}")
    return grid


class _Unit(NamedTuple):
    """A named mode whose eps is 1: ``eps_t(t)``, ``std(t)`` and ``step_std(t, s)`` of :class:`NoiseMode`."""

    eps_t: Callable
    std: Callable
    step_std: Callable


_CONSTANT = _Unit(lambda t: 1 + 0.0 * t, lambda t: t, lambda t, s: 0.0 * t)
_UNITS = {"none": _CONSTANT, "constant": _CONSTANT,
          "brownian": _Unit(lambda t: t**-0.5, lambda t: t**0.5, lambda t, s: (s * (t - s) / t)**0.5),
          "bridge": _Unit(lambda t: ((1 - t) / t)**0.5, lambda t: (t * (1 - t))**0.5,
                          lambda t, s: (s * (t - s) / t)**0.5),
          "reverting": _Unit(lambda t: ((2 - t) / t)**0.5, lambda t: (t * (2 - t))**0.5,
                             lambda t, s: (2 * s * (t - s) / t)**0.5)}


class NoiseMode(NamedTuple):
    """How much noise the path carries: the noise in ``x_t`` has standard deviation ``t eps_t`` (Eq. 7).

    Attributes:
        name: "none", "constant", "brownian", "bridge", "reverting" or "custom".
        eps: the level, in ``[-1, 1]`` units; 0 for "none", ``fn(1)`` for "custom".
        fn: ``fn(t) -> eps_t`` for "custom", else None.
    """

    name: str
    eps: float
    fn: Callable | None = None

    def eps_t(self, t):
        """``eps_t`` at times t > 0 (numpy or jax)."""
        return self.fn(t) if self.fn else self.eps * _UNITS[self.name].eps_t(t)

    def std(self, t):
        """Standard deviation ``t eps_t`` of the noise in ``x_t``; 0 at t = 0."""
        if self.fn:
            xp = _arrays_of(t)
            return xp.where(t > 0, t * self.fn(xp.where(t > 0, t, 1.0)), 0.0)
        return self.eps * _UNITS[self.name].std(t)

    def step_std(self, t, s):
        """Noise added by a step from t down to s: ``s sqrt(eps_s^2 - eps_t^2)``; exactly 0 in constant mode and at
        s = 0."""
        if self.fn:
            xp = _arrays_of(t)
            eps_s = self.fn(xp.where(s > 0, s, t))
            return xp.where(s > 0, s * xp.maximum(eps_s**2 - self.fn(t)**2, 0.0)**0.5, 0.0)
        return self.eps * _UNITS[self.name].step_std(t, s)


def _arrays_of(t):
    """numpy for numbers and its arrays, else jax.numpy."""
    return np if isinstance(t, (float, np.ndarray, np.floating)) else jnp


def no_noise() -> NoiseMode:
    """eps = 0: the plain straight path. Only for measurements that are noisy themselves (or a single step)."""
    return NoiseMode("none", 0.0)


def constant_noise(eps: float = 0.01) -> NoiseMode:
    """``eps_t = eps``: noise only in the start ``x_1``; the walk itself is deterministic (the paper's default)."""
    return _checked("constant", eps)


def brownian_noise(eps: float = 0.01) -> NoiseMode:
    """``eps_t = eps / sqrt(t)``: noise of variance ``eps^2 s (t - s) / t`` is added by each step."""
    return _checked("brownian", eps)


def bridge_noise(eps: float = 0.01) -> NoiseMode:
    """``eps_t = eps sqrt((1 - t) / t)``: the Brownian bridge of I2SB, no noise at either end; its steps are those of
    :func:`brownian_noise`."""
    return _checked("bridge", eps)


def reverting_noise(eps: float = 10 / 127.5) -> NoiseMode:
    """``eps_t = eps sqrt((2 - t) / t)``: the path of :func:`samplers.ir_sde`, which returns to y as to its mean; eps is
    its spread."""
    return _checked("reverting", eps)


def custom_noise(fn: Callable) -> NoiseMode:
    """Any function ``fn(t) -> eps_t`` of times t in (0, 1], not increasing with t, written for arrays.

    Errors:
        ValueError where it increases, is negative or is not finite on a grid of 257 times.
    """
    t = np.linspace(1 / 256, 1.0, 256)
    eps = np.broadcast_to(np.asarray(fn(t), np.float64), t.shape)
    if not (np.isfinite(eps).all() and (eps >= 0).all()):
        raise ValueError("custom noise: eps_t must be finite and at least 0 for all t in (0, 1]")
    rising = np.flatnonzero(np.diff(eps) > 1e-6 * eps[:-1])
    if rising.size:
        raise ValueError(f"custom noise: eps_t must not increase with t (a step towards the picture can add noise, not "
                         f"remove it), but it rises at t = {t[rising[0]]:.3f}")
    return NoiseMode("custom", float(eps[-1]), fn)


def noise_to_json(noise: NoiseMode) -> dict:
    """``{"name": ..., "eps": ...}``, for files. A custom mode is a function and cannot be stored."""
    if noise.name == "custom":
        raise ValueError("a custom noise mode cannot be written into a file: train with one that has a name")
    return {"name": noise.name, "eps": noise.eps}


def noise_from_json(stored: dict) -> NoiseMode:
    """Inverse of :func:`noise_to_json`.

    >>> noise_from_json({"name": "constant", "eps": 0.01}) == constant_noise(0.01)
    True
    """
    makers = {"none": lambda eps: no_noise(), "constant": constant_noise, "brownian": brownian_noise,
              "bridge": bridge_noise, "reverting": reverting_noise}
    if stored.get("name") not in makers:
        raise ValueError(f"unknown noise mode {stored.get('name')!r}; known: {', '.join(makers)}")
    return makers[stored["name"]](stored.get("eps", 0.0))


def _checked(name, eps):
    eps = float(eps)
    if not np.isfinite(eps) or eps < 0:
        raise ValueError(f"{name} noise: eps must be finite and at least 0 ([-1, 1] units); got {eps}")
    return NoiseMode(name, eps)
