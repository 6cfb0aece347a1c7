"""What the configs of all training scripts have in common."""
import dataclasses
from typing import Any, Literal

import tyro

from indigo_jax import sharding


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
    decay: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after the warm-up."""
    final_learning_rate: float = 1e-6
    """End of the cosine."""
    weight_decay: float = 1e-4
    """AdamW's."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    ema: float = 0.9999
    """Decay of the moving average of the parameters (smaller in the first steps)."""

    fsdp: int = 1
    """Devices that share one copy of parameters, average and optimiser state; 1 keeps a whole copy on each."""
    accumulate: int = 1
    """Microbatches per step: less memory, the same loss and gradient as the whole batch."""
    remat: Literal["none", "convolutions", "blocks"] = "none"
    """What the backward pass computes again: nothing; all but convolutions and matrix products; or whole blocks, in
    networks that have such a switch."""
    precision: Literal["network", "float32", "bfloat16"] = "network"
    """Of the computation: the network's own dtype or another. Parameters stay float32."""
    sharding_rules: tyro.conf.Suppress[tuple[tuple[str, str], ...]] = sharding.RULES
    """With fsdp: pairs of a regular expression for parameter names and "sharded" or "replicated"."""

    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    keep_best: int = 0
    """How many checkpoints with the best evaluation scores to keep as well, in best/."""
    best_by: str = ""
    """Their score: a column of the log, with a minus where less is better, as eval_psnr or -eval_loss."""
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
                    "eval_steps", "eval_samples", "fsdp", "accumulate"}
        for name in sorted(positive & vars(self).keys()):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        for name, switch, value in (("precision", "dtype", "network"), ("remat", "remat", "none")):
            wanted = getattr(self, name)
            if wanted not in (value, "convolutions") and not hasattr(self.model, switch):
                raise ValueError(f"{name} {wanted}: {type(self.model).__name__} has no switch {switch!r} for it")
        if bool(self.keep_best) != bool(self.best_by) or self.keep_best < 0:
            raise ValueError(f"keep_best {self.keep_best} and best_by {self.best_by!r} go together: how many, by which "
                             "score (eval_psnr, or -eval_loss where less is better)")
        if self.keep_best and not self.eval_every:
            raise ValueError("keep_best needs evaluations: eval_every is 0")
