"""The experiment of ``train.autoencoder`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any, Literal

import tyro

from indigo_jax import models
from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(RunConfig):
    """One training run of a small autoencoder for latent diffusion."""

    model: tyro.conf.Suppress[Any]
    """A :class:`models.TinyAutoencoder`. Without pool branches tiles of large pictures agree with the whole."""
    perceptual: tyro.conf.Suppress[Any] = None
    """A distance ``(a, b) -> [B]`` of pictures, as LPIPS with its weights; none by default."""

    loss: Literal["l1", "l2"] = "l1"
    """Error of the pixels: mean absolute or mean squared."""
    gradient: float = 0.5
    """Weight of the mean absolute error of differences between neighbours."""
    gradient_scales: int = 2
    """At so many sizes, each half of the one before."""
    perceptual_weight: float = 0.1
    """Of ``perceptual``."""
    noise: float = 0.1
    """Standard deviation of noise on the latents before they are decoded, so that near latents mean near pictures."""
    pull: float = 0.1
    """Weight of the pull of each latent channel to zero mean and unit mean square."""
    flip: bool = True
    """Mirror half of the pictures."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after the warm-up."""

    eval_size: int = 128
    """Side of the held-out pictures in pixels."""
    eval_samples: int = 64
    """Number of held-out pictures; the first 8 are shown."""

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.model, models.TinyAutoencoder):
            raise ValueError(f"this script trains a TinyAutoencoder, not a {type(self.model).__name__}")
        for name in ("crop", "eval_size"):
            if getattr(self, name) % self.model.factor or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a multiple of the {self.model.factor} pixels per latent, got "
                                 f"{getattr(self, name)}")
        if self.gradient and (self.gradient_scales < 1 or self.crop % 2 ** (self.gradient_scales - 1)
                              or self.crop >> (self.gradient_scales - 1) < 2):
            raise ValueError(f"gradient_scales {self.gradient_scales}: crop {self.crop} cannot be halved so often")
        if min(self.gradient, self.perceptual_weight, self.noise, self.pull) < 0:
            raise ValueError("gradient, perceptual_weight, noise and pull must be at least 0")
        if not self.eval_samples > 0:
            raise ValueError(f"eval_samples must be above 0, got {self.eval_samples}")
