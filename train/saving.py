"""Checkpoints of a run: where it goes on, what is announced as saved, the best ones, and the stop on SIGTERM."""
import math
import signal
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from indigo_jax import checkpoints


class Stop:
    """Whether the run was asked to end (SIGTERM to any of its processes). A context manager.

    With several processes JAX's preemption service listens, and all of them learn of the same step.
    """

    def __init__(self):
        self._asked = False

    def __call__(self, step: int) -> bool:
        """Called after every step, with its number, by all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self):
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def _ask(self, number, frame):
        self._asked = True

    def __exit__(self, *exception):
        if self._listens:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)


class Saver:
    """The checkpoints of one run; all processes call the same methods in the same order. A context manager.

    Args:
        workdir: of the run.
        keep_best, best_by: see ``RunConfig``.

    ``step`` is the newest step that is whole on the disk, or None; ``say`` prints a line and may be replaced.
    """

    def __init__(self, workdir, *, keep_best: int = 0, best_by: str = ""):
        self.step = checkpoints.newest_whole_step(workdir)
        self._last = checkpoints.manager(workdir)
        self._best = checkpoints.manager(workdir, max_to_keep=keep_best, best_by=best_by) if keep_best else None
        self._score, self._pending = best_by.removeprefix("-"), None
        self.say = lambda line: print(line, file=sys.stderr, flush=True)

    def restore(self, state: dict) -> tuple[dict, dict]:
        """The newest whole step with the placement of ``state``, and its position in the data."""
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
        return checkpoints.restore(self._last, self.step, target)

    def save(self, step: int, state: dict, position: dict) -> None:
        """Begin to save; :meth:`announce` says when it is done."""
        self.announce(wait=True)
        if checkpoints.save(self._last, step, state, position=position):
            self._pending = step

    def announce(self, *, wait: bool = False) -> None:
        """Say that the last save is whole on the disk, if it is (or wait for that)."""
        if self._pending is None:
            return
        if wait:
            self._last.wait_until_finished()
        elif self._last.is_saving_in_progress():
            return
        self.step, self._pending = self._pending, None
        if jax.process_index() == 0:
            self.say(f"step {self.step}: saved")

    def save_best(self, step: int, state: dict, scores: dict) -> None:
        """Keep parameters and average if their score is among the best; ``scores`` count on the first process."""
        if self._best is None:
            return
        if jax.process_index() == 0 and self._score not in scores:
            raise ValueError(f"best_by names {self._score!r}, the scores are {', '.join(scores)}")
        score = float(multihost_utils.broadcast_one_to_all(np.float32(scores.get(self._score, 0.0))))
        if math.isfinite(score):
            checkpoints.save(self._best, step, {name: state[name] for name in ("params", "ema")},
                             scores={self._score: score})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for manager in filter(None, (self._last, self._best)):
            manager.close()
