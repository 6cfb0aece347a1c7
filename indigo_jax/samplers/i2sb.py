"""I2SB: from the measurement to the picture along a Brownian bridge. InDI's loop, pinned at both ends."""
import numpy as np

from indigo_jax import arrays, paths
from indigo_jax.samplers.indi import indi
from indigo_jax.typing import Kernel, Restorer


def i2sb(restorer: Restorer, times, *, eps: float) -> Kernel:
    """Image-to-image Schroedinger bridge (Liu et al. 2023, Algorithm 2) as a kernel, whose ``x_init`` is y.

    The paper has variances ``sigma_t^2`` and ``S - sigma_t^2`` of the noise before and after its time. With
    ``t = sigma_t^2 / S`` and ``eps^2 = S``, its path (Eq. 11) is InDI's with bridge noise,

        ``x_t = (1 - t) x + t y + eps sqrt(t (1 - t)) n``,

    and its step (Eq. 4) is InDI's to the letter: ``x_s = (1 - s/t) F + (s/t) x_t + eps sqrt(s (t - s) / t) z``, the
    same as in Brownian mode. So this is :func:`samplers.indi` with :func:`paths.bridge_noise`. What differs from the
    Brownian mode is the start alone: at t = 1 stands y itself, where InDI adds ``eps n``. The paper's schedule of betas
    is a grid of times, :func:`i2sb_times`.

    Args:
        restorer: ``restorer(x_t, t) -> x0`` for ``[B, H, W, C]`` and ``[B]``, trained on that path
            (``train.indi --noise bridge``).
        times: as for :func:`samplers.indi`. On Gaussian pictures ``paths.indi_times(N, "dense_near_0")`` errs a third
            less than even steps, whose error falls a little more slowly than 1 / N.
        eps: root of the paper's whole variance S, in [-1, 1] units.

    Returns:
        ``Kernel(init, step, num_steps)``; state and info are those of :func:`samplers.indi`.

    Errors:
        ValueError as for :func:`samplers.indi`, and for an eps below 0.

    Differs from the reference in: x0 is predicted; the released network predicts ``(x_t - x) / sigma_t``.

    Source: Liu, Vahdat, Huang, Theodorou, Nie & Anandkumar, I2SB: Image-to-Image Schroedinger Bridge, ICML 2023
    (arXiv 2302.05872).

    >>> import jax.numpy as jnp
    >>> from indigo_jax import rng, samplers
    >>> kernel = i2sb(lambda x_t, t: 0.5 + 0.0 * x_t, i2sb_times(4), eps=0.5)
    >>> x, _ = samplers.sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> float(x[0, 0, 0, 0])
    0.5
    """
    return indi(restorer, times, noise=paths.bridge_noise(eps))


def i2sb_times(num_steps: int, *, beta_min: float = 1e-4, beta_max: float = 2e-2) -> np.ndarray:
    """The paper's schedule as times of :func:`samplers.indi`: ``sigma_t^2 / S``, dense at both ends; float32
    ``[num_steps + 1]`` from 1 to 0.

    ``sqrt(beta)`` rises linearly from the root of ``beta_min`` to that of ``beta_max`` in the middle, and falls again
    (Sec. 5, symmetric scheduling).

    Errors:
        ValueError for numbers that are not above 0, or not in this order.

    >>> [round(float(t), 3) for t in i2sb_times(4)]
    [1.0, 0.923, 0.5, 0.077, 0.0]
    """
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"beta_min and beta_max must be above 0 and in this order, got {beta_min} and {beta_max}")
    low, high = beta_min**0.5, beta_max**0.5
    u = np.linspace(0.0, 1.0, arrays.whole(num_steps, "num_steps") + 1)
    first = np.minimum(u, 1 - u)  # of the rising half: the integral of (low + 2 u (high - low))^2
    half = low**2 * first + 2 * low * (high - low) * first**2 + 4 / 3 * (high - low)**2 * first**3
    whole = 2 * (low**2 / 2 + low * (high - low) / 2 + (high - low)**2 / 6)
    return np.where(u <= 0.5, half / whole, 1 - half / whole)[::-1].astype(np.float32)
