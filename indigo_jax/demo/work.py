"""What the page does with a picture, without a page: limits, settings, restorations that wait for a device."""
import collections
import contextlib
import logging
import pathlib
import queue
import re
import tempfile
import threading
import time
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from indigo_jax import images, methods, operators
from indigo_jax.images.picture import FORMATS
from indigo_jax.methods.flags import check_values, flags_of
from indigo_jax.methods.progress import show

MAX_BYTES = 32 * 2**20  # of an upload
MAX_KERNEL_BYTES = 2**20
MAX_PIXELS = 8_000_000  # of a picture and of its restoration
MAX_WAITING = 20  # restorations that have not begun
_VIEW = 1600  # largest side of what the browser shows
_SMALL = 480  # and of pictures on the way
_STEPS = 10  # of these, about
_KEPT = 4  # methods whose networks and programs stay ready, on each device
_WORDS = {"sigma_255": "noise level", "max_pixels": "the limit"}

_log = logging.getLogger(__name__)


class Refused(ValueError):
    """What a person asked for cannot be done: one line that says why."""


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Asked(NamedTuple):
    """What a person wants done.

    Attributes:
        task: of :data:`indigo_jax.methods.TASKS`.
        method: of :data:`indigo_jax.methods.METHODS`, or "auto".
        scale: of sr.
        seed: of all noise.
        given: settings of methods by name, those that were said.
    """

    task: str = "auto"
    method: str = "auto"
    scale: int = 4
    seed: int = 0
    given: dict[str, Any] = {}


def methods_for(task: str) -> list[str]:
    """The methods that do a task."""
    return [name for name, method in methods.METHODS.items() if task in method.tasks]


def choose(asked: Asked) -> methods.Choice:
    """The method to take; :class:`Refused` for what it does not take."""
    able = {name: set(flags_of(methods.METHODS[name].Settings)) for name in methods_for(asked.task)
            if "kernel" in asked.given or not (asked.task == "deblur" and methods.METHODS[name].needs_kernel)}
    if asked.method == "auto":
        try:
            return methods.choose(asked.task, tuple(asked.given), able)
        except ValueError as error:
            raise Refused(f"no method takes {' and '.join(sorted(asked.given))} for this; leave one out") from error
    if asked.method not in able:
        needs = " without the kernel; upload it, or take another" if asked.method in methods_for(asked.task) else ""
        raise Refused(f"the method {asked.method} does not do this{needs or '; take another'}")
    for name in asked.given:
        if name not in able[asked.method]:
            raise Refused(f"the method {asked.method} takes no {_WORDS.get(name, name)}; leave it as it was")
    return methods.Choice(asked.method, "as you said")


# ---------------------------------------------------------------------------------------------------- files

def read_picture(path) -> images.Picture:
    """An uploaded picture, with the limits of the page."""
    path = pathlib.Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.name}: more than {MAX_BYTES >> 20} MB; make it smaller")
    return images.read(path, max_pixels=MAX_PIXELS, name=path.name)


def read_kernel(path) -> np.ndarray:
    """An uploaded blur kernel ``[h, w]``, of sum 1."""
    path = pathlib.Path(path)
    if path.stat().st_size > MAX_KERNEL_BYTES:
        raise Refused(f"{path.name}: more than {MAX_KERNEL_BYTES >> 20} MB, too much for a kernel")
    kernel = np.asarray(operators.load_kernel(path))
    if (kernel < 0).any():
        raise Refused(f"{path.name}: a blur kernel has no negative entries; the smallest is {kernel.min():.3g}")
    return kernel


def mask_of(layers, height: int, width: int) -> np.ndarray:
    """1 where the picture is kept, float32 ``[H, W]``, of what was painted.

    Args:
        layers: uint8 ``[h, w, 4]`` each, of one shape; opaque where painted.
        height, width: of the picture, of which the layers may be a smaller view.
    """
    painted = np.zeros((height, width), bool)
    for layer in layers:
        if layer.ndim == 3 and layer.shape[2] == 4:
            painted |= np.asarray(Image.fromarray(layer[..., 3]).resize((width, height), Image.Resampling.NEAREST)) > 0
    if painted.all() or not painted.any():
        raise Refused("all of the picture is painted over, so nothing is left" if painted.all() else
                      "nothing is painted, so there is nothing to fill; paint over the holes first")
    return 1 - painted.astype(np.float32)


def view(picture: images.Picture, times: int = 1, largest: int = _VIEW) -> np.ndarray:
    """What a browser shows, uint8 ``[h, w, 3]``: on white, at most 1600 pixels a side.

    Args:
        picture: any.
        times: every pixel so many times, to lie beside an enlarged one.
        largest: side in pixels.
    """
    pixels = (np.clip(picture.pixels, -1, 1) + 1) * 127.5
    if picture.alpha is not None:
        pixels = 255 + picture.alpha[..., None] * (pixels - 255)
    shown = Image.fromarray(np.rint(pixels).astype(np.uint8))
    height, width = (times * side for side in pixels.shape[:2])
    fit = min(1, largest / max(height, width))
    size = max(1, round(fit * width)), max(1, round(fit * height))
    return np.asarray(shown.resize(size, Image.Resampling.NEAREST if fit == 1 else Image.Resampling.BOX))


def write_result(folder, uploaded, picture: images.Picture) -> str:
    """Write a result in the format of the upload, into a folder of its own below ``folder``; returns its path."""
    uploaded = pathlib.Path(uploaded)
    suffix = uploaded.suffix.lower()
    if FORMATS.get(suffix) != picture.format:
        suffix = next(each for each, name in FORMATS.items() if name == picture.format)
    if picture.alpha is not None and picture.format in ("JPEG", "BMP"):
        suffix = ".png"
    path = pathlib.Path(tempfile.mkdtemp(dir=folder)) / f"{uploaded.stem}-restored{suffix}"
    images.write(path, picture)
    return str(path)


def clean(folder, age: float, kept=()) -> None:
    """Delete the files below a folder that are older than ``age`` seconds, but for those that are ``kept``.

    (gradio's own cleaning leaves some of what it has written.)
    """
    for path in pathlib.Path(folder).rglob("*"):
        with contextlib.suppress(OSError):  # somebody else has deleted it
            if path not in kept and path.is_file() and time.time() - path.stat().st_ctime > age:
                path.unlink()


def said(error: BaseException) -> str:
    """What a person is told of an error: one line, no folder in it. What nobody foresaw goes to the log."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or "ut of memory" in text or isinstance(error, MemoryError):
        return "not enough memory; take a smaller picture"
    if not isinstance(error, ValueError) or isinstance(error, jax.errors.JaxRuntimeError) or not text:
        _log.error("a restoration failed", exc_info=error)
        return "something went wrong here, and whoever runs this page finds it in the log"
    text = re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+", "", text).partition(", or raise max_pixels")[0]
    for name, word in _WORDS.items():
        text = text.replace(name, word)
    return text[:300]


# ---------------------------------------------------------------------------------------------------- restorations

class Job:
    """A restoration that was asked for: its ``future``, how far it is, and some of the ``way``: (view, caption)."""

    def __init__(self, picture: images.Picture, asked: Asked):
        self.picture, self.asked, self.choice = picture, asked, choose(asked)
        self.future: futures.Future = futures.Future()
        self.began, self.done, self.total = None, 0, None
        self.way: list[tuple[np.ndarray, str]] = []
        self._canvas, self._window = None, ()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop at the next call of the network."""
        self._cancelled.set()
        self.future.cancel()

    def check(self) -> None:
        """Raise :class:`Cancelled` where it is."""
        if self._cancelled.is_set():
            raise Cancelled

    def begin(self, method: methods.Restoration) -> None:
        """The method is ready; its calls are counted, and what of them is the whole picture is looked at."""
        self.total, plan = method.expected(self.picture)
        margin = method.margin()
        self._canvas = (1, *plan.canvas, 3)
        self._window = tuple(slice(margin, margin + method.scale * side) for side in self.picture.pixels.shape[:2])

    def tick(self, x=None) -> None:
        """A call of the network begins, of which ``x [b, h, w, c]`` is what it is given."""
        self.check()
        self.done += 1
        if x is not None and x.shape == self._canvas and (self.done - 1) % max(self.total // _STEPS, 1) == 0:
            shown = view(images.Picture(np.asarray(x[0][self._window], np.float32)), largest=_SMALL)
            self.way.append((shown, f"call {self.done} of {self.total}"))

    def progress(self) -> tuple[float | None, str]:
        """The share that is done, None where nobody knows, and a line."""
        if self.began is None:
            return None, "waiting for the restoration before this one"
        seconds = f"{time.monotonic() - self.began:.0f} s"
        if self.done == 0:
            return None, f"getting ready, {seconds}; the first time takes longest"
        total = max(self.total, self.done)
        return (self.done - 0.5) / total, f"call {self.done} of {total} of the network, {seconds}"


class Desk:
    """Restorations in the order in which they are asked for, one at a time on each device."""

    def __init__(self, devices=None):
        devices = jax.local_devices() if devices is None else devices
        self._free, self._ready = queue.SimpleQueue(), {device: collections.OrderedDict() for device in devices}
        self._jobs: list[Job] = []
        for device in devices:
            self._free.put(device)
        self._pool = futures.ThreadPoolExecutor(len(devices), "restoration")
        logging.getLogger("jax._src.debugging").setLevel(logging.CRITICAL)  # it logs every job that is cancelled

    def submit(self, picture: images.Picture, asked: Asked) -> Job:
        """Ask for a restoration; the result of the job's future is ``(picture, line about it)``."""
        job = Job(picture, asked)
        height, width = (side * (asked.scale if asked.task == "sr" else 1) for side in picture.pixels.shape[:2])
        if height * width > MAX_PIXELS:
            raise Refused(f"the result would have {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}; "
                          "take a smaller picture or scale")
        self._jobs = [*(other for other in self._jobs if not other.future.done()), job]
        if sum(other.began is None for other in self._jobs) > MAX_WAITING:
            self._jobs.pop()
            raise Refused("too many restorations are waiting; try again in a minute")
        job.future = self._pool.submit(self._restore, job)
        return job

    def _restore(self, job):
        device = self._free.get()
        try:
            job.began = time.monotonic()
            job.check()
            method = self._method(device, job.choice[0], job.asked)
            job.begin(method)
            restored, report = method(job.picture, seed=job.asked.seed, device=device, progress=job.tick)
            notes = [f"{method.name}: {method.line([report])}, {time.monotonic() - job.began:.1f} s",
                     method.warning(job.picture)]
            return restored, ". ".join(filter(None, notes))
        except Exception as error:
            job.check()  # a call of the network that was stopped comes back as an error of the device
            raise error
        finally:
            self._free.put(device)

    def _method(self, device, name, asked):
        """A method, ready. Programs do not depend on what a mask, a kernel or a level of noise holds: one that is there
        is used again."""
        ready = self._ready[device]
        shapes = {key: np.shape(value) if key in ("mask", "kernel", "sigma_255") else value
                  for key, value in asked.given.items()}
        key = (name, asked.task, asked.scale, *sorted(shapes.items()))
        if key not in ready:
            ready[key] = show(methods.load(name, task=asked.task, devices=[device], **asked.given,
                                           scale=asked.scale if asked.task == "sr" else None))
        ready.move_to_end(key)
        while len(ready) > _KEPT:
            ready.popitem(last=False)
        method = ready[key].told(**asked.given)
        check_values(method.settings, asked.task)
        return method
