"""From networks to the callables that samplers take."""
import dataclasses
from typing import Callable, NamedTuple

from indigo_jax.schedules import NoiseMode
from indigo_jax.typing import Array


class Prediction(NamedTuple):
    """What a denoiser says about a noisy image.

    Attributes:
        x0: estimate of the clean image ``[B, H, W, C]``.
        eps: estimate of the noise, consistent with ``x0`` through the schedule.
        log_var: log-variance of the reverse step where the network learned it.
        drift: what guidance adds to the sampler's next state.
    """

    x0: Array
    eps: Array | None
    log_var: Array | None = None
    drift: Array | float = 0.0


@dataclasses.dataclass(frozen=True)
class DirectRestorer:
    """See :func:`restorer`."""

    apply_fn: Callable
    noise: NoiseMode | None = None
    y: Array | None = None

    def __call__(self, x_t: Array, t: Array) -> Array:
        return self.apply_fn(x_t, t) if self.y is None else self.apply_fn(x_t, t, self.y)


def restorer(apply_fn: Callable, *, noise: NoiseMode | None = None, y: Array | None = None) -> DirectRestorer:
    """A network as InDI's restorer ``(x_t, t) -> x0``.

    Args:
        apply_fn: ``apply_fn(x_t, t)`` or, with ``y``, ``apply_fn(x_t, t, y)``: for instance
            ``functools.partial(module.apply, params)``.
        noise: the noise mode of its training. :func:`samplers.indi` refuses to sample with another one: a network
            trained on one path gives blurred or noisy pictures on another.
        y: the measurement, for networks that also look at it.

    >>> restorer(lambda x, t: 0.5 * x)(2.0, 1.0)
    1.0
    """
    return DirectRestorer(apply_fn, noise, y)
