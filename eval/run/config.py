"""The experiment of ``eval.run`` as one flat, frozen dataclass."""
import dataclasses
from typing import Any, Literal

import tyro

from indigo_jax import methods


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One evaluation. Degradations are made in the config file by their constructors."""

    degradations: tyro.conf.Suppress[tuple[Any, ...]]
    """Each an :class:`eval.problems.Degradation` that keeps the size; empty for data that comes in pairs."""
    method: str = "indi"
    """A method as indigo methods lists them, which estimates what it must know; a config file may add its own to
    METHODS."""
    method_tasks: tyro.conf.Suppress[dict[str, str]] = dataclasses.field(default_factory=dict)
    """What methods call the tasks of the degradations, where they do not find out by themselves ("auto")."""
    settings: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Of the method's ``Settings``, beside weights, steps and spacing where it has them."""

    data: str = ""
    """Clean pictures: a folder, a pack .npz, tfds:NAME; or pairs as gopro:FOLDER or pairs:SHARP,BLURRED (folders)."""
    output: str = ""
    """A folder for scores.csv and one record per picture; an interrupted run in it is continued. All processes must
    see it."""
    tasks: tuple[str, ...] = ()
    """Only the degradations of these tasks; default: those of the config."""
    weights: str = ""
    """A name or a .safetensors file, of a method with one network; default: the method's own."""
    steps: int = 0
    """Sampling steps; 0 for as many as the method has of itself. InDI: one gives the least mean squared error, more are
    sharper."""
    spacing: Literal["uniform", "dense_near_1", "dense_near_0"] = "uniform"
    """InDI: the grid of times for several steps."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """psnr, ssim, ms-ssim, lpips, niqe, or whole protocols such as psnr-y-bt601-crop4-u8."""
    batch: int = 4
    """Pictures that a device restores at a time; fewer, but at least one, where they are larger than 512 x 512."""
    samples: int = 1
    """Restorations of each picture. With several their mean is scored, and columns say what their spread, which is that
    of the method, has of the error: spread-over-rmse (1 is right), within-1 and within-2 (see eval.coverage)."""
    pictures: bool = False
    """Also write the restored pictures, as PNG files, below the folder restored/ in the output."""
    limit: int = 0
    """Only the first so many pictures, by name; 0 for all."""
    seed: int = 0
    """Of all noise and random kernels, together with the names of the pictures."""
    time_limit: float = 1800.0
    """Seconds without news from another process after which the run gives up."""

    def __post_init__(self):
        for name in ("batch", "time_limit", "samples"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name, meaning in (("limit", "all pictures"), ("steps", "the method's own")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 ({meaning}) or more, got {getattr(self, name)}")

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

    def restoration(self) -> methods.Restoration:
        """The method, its networks loaded.

        Errors:
            ValueError (also :class:`weights.WeightsError`) for weights and settings that do not fit, and for
            degradations that the method knows as different tasks.
        """
        if self.method not in methods.METHODS:
            raise ValueError(f"unknown method {self.method!r}; there are {', '.join(methods.METHODS)}")
        cls, degraded = methods.METHODS[self.method], [degradation.task for degradation in self.chosen()]
        known = {task: its for task, its in self.method_tasks.items() if its in cls.tasks}
        takes_any = "auto" in cls.tasks and set(self.method_tasks.values()) <= set(cls.tasks)
        tasks = ["auto"] if takes_any else sorted({known.get(task, "") for task in degraded})
        if len(tasks) != 1 or tasks[0] not in cls.tasks:
            groups = [" and ".join(task for task in known if known[task] == its)
                      for its in dict.fromkeys(known.values())]
            raise ValueError(f"{self.method} is measured on one of {', or '.join(groups) or 'no task of this config'}; "
                             f"choose with --tasks, not {', '.join(degraded) or 'pairs'}")
        if self.settings.get("estimate") is not None:
            raise ValueError("estimate: eval.run begins with the enlarged picture; leave it out")
        own = {"weights": self.weights or None, "steps": self.steps or None, "spacing": self.spacing}
        own = {name: value for name, value in own.items() if name in cls.Settings.__dataclass_fields__ and value}
        found = methods.load(self.method, task=tasks[0], **{**own, **self.settings})
        if found.scale > 1:
            raise ValueError(f"{self.method} enlarges {found.scale} times, and eval.run keeps the size: give it "
                             "settings={'same_size': True}")
        return found
