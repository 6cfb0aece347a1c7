"""The experiment of ``train.diffusion`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any, Literal

import tyro

from indigo_jax import schedules
from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(RunConfig):
    """One training run of an unconditional diffusion prior, of pictures or of the latents of an autoencoder.

    The network is made in the config file by its constructor.
    """

    model: tyro.conf.Suppress[Any]
    """A linen module: ``module.apply(params, x_t, timestep)``."""
    schedule: tyro.conf.Suppress[dict]
    """Of the noise: ``schedules.to_json(NAME, argument=value, ...)``. It travels with the weights."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts. It travels with the weights."""
    learned_variance: bool = False
    """The network has twice the channels and learns the variance of the reverse steps too (prediction eps only)."""
    weighting: Literal["simple", "min_snr"] = "simple"
    """Of the levels: "simple" is 1 for all."""

    autoencoder: str | None = None
    """Weights (a name or a file) of the autoencoder whose latents are learned; None: pictures. It travels with the
    weights."""
    cache_latents: bool = False
    """Encode the central crops of all pictures, and their mirror images, once and keep them in memory."""
    crop: int = 256
    """Side of the training pictures in pixels."""
    resize: int = 0
    """Pixels to which the shorter side of each picture is first brought by averaging areas; 0 leaves it."""
    flip: bool = True
    """Mirror half of the pictures."""

    decay: Literal["cosine", "constant"] = "constant"
    """Of the learning rate after the warm-up."""
    weight_decay: float = 0.0
    """AdamW's."""
    eval_steps: int = 50
    """DDIM steps of the samples."""
    eval_samples: int = 16
    """Samples in a picture; also the number of held-out pictures whose loss is taken at each level."""

    def __post_init__(self):
        super().__post_init__()
        schedule = schedules.from_json(self.schedule)
        if self.resize and self.resize < self.crop:
            raise ValueError(f"resize {self.resize} is below crop {self.crop}: no crop fits into the resized pictures")
        if self.learned_variance and self.prediction != "eps":
            raise ValueError(f"learned_variance goes with prediction eps, not {self.prediction}")
        if not 0 < self.eval_steps <= schedule.timesteps.shape[0]:
            raise ValueError(f"eval_steps must be 1 to {schedule.timesteps.shape[0]}, the levels of the schedule; got "
                             f"{self.eval_steps}")
        if self.cache_latents and not self.autoencoder:
            raise ValueError("cache_latents keeps the latents of an autoencoder: say which, --autoencoder NAME")
        if not self.eval_samples > 0:
            raise ValueError(f"eval_samples must be above 0, got {self.eval_samples}")
