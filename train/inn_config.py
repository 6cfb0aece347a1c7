"""The experiment of ``train.inn`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any

import tyro

from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnConfig(RunConfig):
    """One training run of an invertible network, of pictures or latents, with the encoder of its condition."""

    model: tyro.conf.Suppress[Any]
    """A :class:`models.GuidanceINN` for pixels, or with ``offset=0`` for latents."""
    degradation: tyro.conf.Suppress[Any]
    """An operator that makes measurements of the size of the network's coarse pictures, as
    ``operators.realesrgan("kdsr", factor=4)``; for an undecimated network of the same size."""
    single: tyro.conf.Suppress[Any] = None
    """Another such operator, for some of the pictures: plain shrinking, or one degradation alone."""

    autoencoder: str | None = None
    """Weights (a name or a file) of the autoencoder whose latents the network splits: those of a picture, into those of
    its measurement and details. None: pictures. It travels with the weights."""
    margin: int = 16
    """Pixels around the crop that are degraded with it and cut off afterwards; a multiple of the scale."""
    single_share: float = 0.2
    """Share of pictures that get the degradation ``single``."""
    null_share: float = 0.1
    """Share of pictures that are trained with the learned null embedding in place of F(y)."""
    absolute: float = 0.1
    """Weight of the mean absolute error of the coarse picture beside the mean squared one."""
    swapped: float = 0.1
    """Weight of the mean absolute error of the picture made of the measurement and its own details."""
    sparse: float = 0.01
    """Weight of the mean absolute value of the details."""

    @property
    def scale(self) -> int:
        """How many times a coarse picture is smaller than the picture, and so a measurement."""
        return 1 if self.model.undecimated else 2**self.model.levels

    def __post_init__(self):
        super().__post_init__()
        for name in ("single_share", "null_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("crop", "margin"):
            if getattr(self, name) % self.scale or getattr(self, name) < 0:
                raise ValueError(f"{name} must be a multiple of the scale {self.scale}, got {getattr(self, name)}")
        if getattr(self, "precision", "network") not in ("network", "float32"):
            raise ValueError(f"precision {self.precision}: the network is not invertible but in float32")
        if min(self.absolute, self.swapped, self.sparse) < 0:
            raise ValueError("the weights absolute, swapped and sparse must be at least 0")
