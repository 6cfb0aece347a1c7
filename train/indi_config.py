"""The experiment of ``train.indi`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any, Literal

import tyro

from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndiConfig(RunConfig):
    """One training run of InDI. Components (network, degradation) are made in the config file by their constructors."""

    model: tyro.conf.Suppress[Any]
    """A linen module: ``module.apply(params, x_t, t)`` (and y, if its ``condition_on_y`` is set)."""
    degradation: tyro.conf.Suppress[Any] = None
    """An operator that degrades clean pictures on the device, or None for data that comes in pairs."""
    tasks: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the network will have learned, of: denoise, deblur, sr, jpeg."""

    margin: int = 16
    """Pixels around the crop that are degraded with it and cut off afterwards, so that no border is learned."""
    noise: Literal["none", "constant", "brownian"] = "constant"
    """The path's noise mode. It travels with the weights."""
    eps: float = 0.01
    """Its level, in [-1, 1] units."""
    loss: Literal["l1", "l2"] = "l1"
    """Only l2 learns the conditional mean, on which the theory rests; l1 is usual in practice."""
    a: float = 1.0
    """Weight of t = 1 in p_a(t)."""

    def __post_init__(self):
        super().__post_init__()
        if self.noise != "none" and self.eps <= 0:
            raise ValueError(f"noise {self.noise!r} needs eps above 0, got {self.eps}; or say --noise none")
