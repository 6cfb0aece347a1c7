"""Training objectives: InDI's path, its distribution of times, and its loss."""
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.schedules import NoiseMode
from indigo_jax.typing import Array, Key, Restorer

LOSSES = ("l1", "l2")
_TIME, _NOISE = 0, 1  # what an image's key is folded with


def indi_path(x: Array, y: Array, t: Array, noise: NoiseMode, n: Array) -> Array:
    """``x_t = (1 - t) x + t y + t eps_t n`` (Eq. 7): ``x``, ``y``, ``n`` ``[B, H, W, C]``, ``t`` ``[B]``."""
    t = t[:, None, None, None]
    return (1 - t) * x + t * y + noise.std(t) * n


def indi_times(keys: Key, *, a: float = 1.0, stratified: bool = True) -> Array:
    """Times ``[B]`` in (0, 1] from ``p_a(t) = 1 / (1 + a) U(0, 1] + a / (1 + a) delta(t = 1)``.

    a = 0 is uniform; the larger a, the more the single step from t = 1 is trained (which is the state that every
    sampling run visits).

    Args:
        keys: one per image ``[B]``.
        a: weight of t = 1, at least 0.
        stratified: image i draws from the i-th of B equal slices of the distribution, so that every batch covers it.
            Otherwise the times are independent.

    Source: the mixture is read in a public re-implementation, which attributes it to the paper's Sec. 6.3.
    """
    if a < 0:
        raise ValueError(f"a must be at least 0, got {a}")
    u = rng.uniform(keys)
    if stratified:
        u = (jnp.arange(u.shape[0], dtype=jnp.float32) + u) / u.shape[0]
    return jnp.minimum((1.0 - u) * (1.0 + a), 1.0)


def indi(restorer: Restorer, x: Array, y: Array, keys: Key, *, noise: NoiseMode, loss: str = "l1", a: float = 1.0,
         stratified: bool = True) -> Array:
    """InDI's loss ``|| F(x_t, t) - x ||_p`` for one draw of t and n per image (Eq. 9).

    With p = 2, F tends to ``E[x | x_t]``, on which the sampler's theory rests; with p = 1 to the conditional median
    per pixel, which often looks better.

    Args:
        restorer: ``restorer(x_t, t) -> x0``.
        x: clean pictures ``[B, H, W, C]`` in ``[-1, 1]``.
        y: measurements, as x.
        keys: one per image ``[B]``.
        noise: the mode that sampling will use too.
        loss: "l1" (mean absolute error) or "l2" (mean squared error).
        a, stratified: see :func:`indi_times`.

    Returns:
        Mean error of each image, ``[B]`` float32.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    t = indi_times(rng.fold(keys, _TIME), a=a, stratified=stratified)
    x_t = indi_path(x, y, t, noise, rng.normal(rng.fold(keys, _NOISE), x))
    error = restorer(x_t, t) - x
    return jnp.mean(jnp.abs(error) if loss == "l1" else error**2, axis=(1, 2, 3))
