"""The experiment of ``eval.run`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any, Callable, Literal

import tyro

from eval import run_methods


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One evaluation. Components (degradations, method) are made in the config file by their constructors."""

    degradations: tyro.conf.Suppress[tuple[Any, ...]]
    """Each an :class:`eval.common.Degradation` that keeps the size; empty for data that comes in pairs."""
    method: tyro.conf.Suppress[Callable] = run_methods.indi
    """``method(config) -> run_methods.Method``: what restores."""

    data: str = ""
    """Clean pictures: a folder, a pack .npz, tfds:NAME; or pairs as gopro:FOLDER or pairs:SHARP,BLURRED (folders)."""
    output: str = ""
    """A folder for scores.csv and one record per picture; an interrupted run in it is continued. All processes must
    see it."""
    tasks: tuple[str, ...] = ()
    """Only the degradations of these tasks; default: those of the config."""
    weights: str = "indi-photo"
    """A name or a .safetensors file."""
    steps: int = 1
    """Sampling steps: one gives the least mean squared error, more are sharper."""
    spacing: Literal["uniform", "dense_near_1", "dense_near_0"] = "uniform"
    """The grid of times for several steps."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """psnr, ssim, lpips, or whole protocols such as psnr-y-bt601-crop4-u8."""
    batch: int = 4
    """Pictures that a device restores at a time; fewer, but at least one, where they are larger than 512 x 512."""
    pictures: bool = False
    """Also write the restored pictures, as PNG files, below the folder restored/ in the output."""
    limit: int = 0
    """Only the first so many pictures, by name; 0 for all."""
    seed: int = 0
    """Of all noise and random kernels, together with the names of the pictures."""
    time_limit: float = 1800.0
    """Seconds without news from another process after which the run gives up."""

    def __post_init__(self):
        for name in ("steps", "batch", "time_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.limit < 0:
            raise ValueError(f"limit must be 0 (all pictures) or more, got {self.limit}")

    def chosen(self) -> tuple:
        """The degradations of ``tasks``.

        Errors:
            ValueError for a task that the config lacks; it names those that there are.
        """
        known = list(dict.fromkeys(degradation.task for degradation in self.degradations))
        unknown = [task for task in self.tasks if task not in known]
        if unknown:
            raise ValueError(f"--tasks {unknown[0]}: not in this config; there are: {', '.join(known) or 'none'}")
        return tuple(d for d in self.degradations if not self.tasks or d.task in self.tasks)
