"""What the configs of all training scripts have in common."""
import dataclasses
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Components (the network and the like) are made in the config file by their constructors."""

    model: tyro.conf.Suppress[Any]
    """A linen module."""

    data: str = ""
    """Pictures: a folder, a pack .npz, tfds:NAME, or pairs as gopro:FOLDER or pairs:SHARP_FOLDER,BLURRED_FOLDER."""
    workdir: str = ""
    """Where checkpoints, logs and pictures go; an interrupted run in it is continued."""
    start_from: str = ""
    """Weights (a name or a .safetensors file) of the same network to start from instead of random ones."""
    num_steps: int = 300_000
    """Optimiser steps in all."""
    batch_size: int = 32
    """Pictures per step over all devices and processes."""
    crop: int = 128
    """Side of the training crops in pixels."""
    seed: int = 0
    """Of the parameters, the order of the data and all noise."""

    learning_rate: float = 2e-4
    """Peak of AdamW's learning rate."""
    warmup_steps: int = 1000
    """Linear warm-up."""
    final_learning_rate: float = 1e-6
    """End of the cosine."""
    weight_decay: float = 1e-4
    """AdamW's."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    ema: float = 0.9999
    """Decay of the moving average of the parameters (smaller in the first steps)."""

    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    log_every: int = 100
    """Steps between lines of the log."""
    eval_every: int = 5000
    """Steps between evaluation pictures; 0 for none."""
    eval_steps: int = 1
    """Sampling steps of the evaluation pictures."""
    data_threads: int = 4
    """Threads that read and crop pictures; 0 reads when asked."""
    cache: bool = False
    """Keep decoded pictures in memory."""

    def __post_init__(self):
        positive = {"num_steps", "batch_size", "crop", "log_every", "checkpoint_every", "learning_rate", "clip_norm",
                    "eval_steps"}
        for name in sorted(positive):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
