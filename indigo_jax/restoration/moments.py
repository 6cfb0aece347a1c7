"""A denoiser that has seen the measurement: Tweedie's formula for the posterior, with a Gaussian about the estimate."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax.arrays import per_image
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser


def explained(denoiser: Denoiser, schedule: NoiseSchedule,
              pull: Callable[[Array, Array, Callable[[Array], Array]], Array]) -> Denoiser:
    """``E[x | x_t, y]`` in place of ``m = E[x | x_t]``, with ``y | x_t ~ N(A m, A C A^T + sigma^2)``.

        ``g = (d m / d x_t)^T A^T (A C A^T + sigma^2)^-1 (y - A m)``
        ``x0 = m + (1 - a) / sqrt(a) g,  eps <- eps - sqrt(1 - a) g``,  a = alpha_bar

    Args:
        denoiser: differentiable, not clipped.
        schedule: the levels that are visited.
        pull: ``pull(m, level, covariance) -> A^T (A C A^T + sigma^2)^-1 (y - A m)``, as m, where level is
            ``(1 - a) / a`` ``[B, 1, ...]`` and ``covariance(v) = (1 - a) / sqrt(a) (d m / d x_t)^T v``, what the
            denoiser itself says of ``Cov[x | x_t] v``; a backward pass of the network for each call.
    """
    def guided(x_t, t):
        a = per_image(schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t.astype(jnp.float32))], x_t)

        def mean(x_t):
            prediction = denoiser(x_t, t)
            return prediction.x0, prediction

        m, pullback, prediction = jax.vjp(mean, x_t, has_aux=True)
        gradient = pullback(pull(m, (1 - a) / a, lambda v: (1 - a) / jnp.sqrt(a) * pullback(v)[0]))[0]
        return prediction._replace(x0=m + (1 - a) / jnp.sqrt(a) * gradient,
                                   eps=prediction.eps - jnp.sqrt(1 - a) * gradient)

    return guided
