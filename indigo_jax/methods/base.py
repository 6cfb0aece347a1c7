"""What every method of restoration shares: a picture goes onto a canvas, is solved there, and comes back a picture.

A method is a class with a ``Settings``, whose fields are its flags, and a pure ``solve``. Everything that does not
depend on the method (sizes, tiles, keys, grey pictures, transparency, limits, devices) is here, once.
"""
import copy
import dataclasses
import functools
import hashlib
import threading
import time
from typing import Any, Callable, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, images, rng, tiles, weights
from indigo_jax.methods import memory, pieces
from indigo_jax.methods.flags import check_values, flags_of
from indigo_jax.methods.progress import Listeners
from indigo_jax.typing import Array, Key, Params

TASKS = ("auto", "denoise", "deblur", "nonuniform", "sr", "jpeg", "inpaint", "ct")
GIVEN = ("mask", "kernel", "sigma_255")  # settings that programs are given with every picture
_LARGEST = 1024  # side of a tile of a network that takes any size; about 1.5 GB with the bundled ones
_STEP = 64  # between the canvases of such networks


class Network(NamedTuple):
    """A network with its weights, as :func:`weights.load` gives them."""

    module: Any
    params: Params
    info: dict

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.info.get("name", self.info.get("architecture", "unnamed"))


def open_network(name_or_path, kind: str) -> Network:
    """:func:`weights.load` for weights of one ``kind``."""
    return Network(*weights.load(name_or_path, kind=kind))


def open_restorer(name_or_path, task: str) -> Network:
    """A network that restores directly, which is to have learned the task: ValueError."""
    network = open_network(name_or_path, "restorer")
    if task not in network.info["tasks"]:
        raise ValueError(f"the restorer {name_or_path} was not trained for {task}; leave --restorer out")
    return network


class Solved(NamedTuple):
    """What a method finds; every array begins with the batch ``[B]``.

    Attributes:
        x: pictures that fill their canvas ``[B, H, W, 3]`` in [-1, 1].
        residual: root mean square of ``A(x) - y``, in the units of the measurement; None where there is no operator.
        sigma: noise level that was assumed, in [-1, 1] units.
        kernel: the blur kernel that was found ``[B, (cells,) size, size]``.
        drift: :func:`restoration.manifold_drift` of the last latents.
    """

    x: Array
    residual: Array | None = None
    sigma: Array | None = None
    kernel: Array | None = None
    drift: Array | None = None


class Report(NamedTuple):
    """What is known about a restoration beside its picture.

    Attributes:
        evaluations: of the network, tiles counted.
        plan: canvas and tiles.
        residual, sigma, kernel, drift: as of :class:`Solved`, of the one picture; None where there is none.
        note: what a person should know, a sentence; "" for nothing.
    """

    evaluations: int
    plan: tiles.Plan
    residual: float | None = None
    sigma: float | None = None
    kernel: np.ndarray | None = None
    drift: float | None = None
    note: str = ""


class Restoration:
    """A method with its networks, ready to restore pictures of any size. Subclasses say how.

    Attributes:
        task: of :data:`TASKS`.
        settings: of the method.
        scale: how many times larger a result is than its picture.
        networks: by role; their parameters, in this order, are the first argument of :meth:`solve`.
        devices: where it runs; calls name one of them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # one line of help
    when: ClassVar[str]  # to take it
    needs: ClassVar[str]
    cost: ClassVar[str]  # network evaluations of a tile
    tasks: ClassVar[tuple[str, ...]]
    kind_of_weights: ClassVar[str | None] = None  # that its setting "weights" takes
    needs_kernel: ClassVar[bool] = False  # for deblur
    one_answer: ClassVar[bool] = False  # there is no chance in it: samples would be equal
    demonstration: ClassVar[bool] = False  # loses to simpler methods with the bundled weights: auto never takes it
    border: ClassVar[str] = "symmetric"  # how a picture is continued to fill its canvas; a mode of numpy.pad
    before: ClassVar[str] = "before"  # caption of the input
    largest: int | None = None  # side of a tile, where memory is short; see :meth:`smaller`
    effort: ClassVar[float] = 1.0  # of a network evaluation, in calls of the network: more where it is differentiated

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        """None at all."""

    settings: Any  # of the method's own ``Settings``

    def __init__(self, settings=None, *, task: str = "auto", scale: int | None = None, devices=None):
        self.settings = self.Settings() if settings is None else settings
        if task == "auto" and task not in self.tasks:
            raise ValueError(f"{self.name} needs a task; there is {', '.join(self.tasks)}")
        if task not in self.tasks:
            raise ValueError(f"{self.name} does {', '.join(self.tasks)}; not {task!r}")
        check_values(self.settings, task)
        self.scale_is_given = scale is not None
        self.task, self.scale = task, (4 if scale is None else scale) if task == "sr" else 1
        self.devices = list(jax.local_devices() if devices is None else devices)
        self.networks: dict[str, Network] = {}
        self.load()
        self._placed: dict[Any, Params] = {}
        self._lock, self._listeners = threading.Lock(), Listeners()
        self._compile()

    def _compile(self):
        self._solve = jax.jit(self.solve, static_argnames="plan")
        self._solve_telling = jax.jit(self._told_of, static_argnames="plan")

    # ------------------------------------------------------------------------------- what a method says

    @classmethod
    def named_weights(cls, settings, task: str) -> dict[str, str]:
        """Names or paths of all networks by what they are for; nothing is loaded but, at most, a file's head."""
        del task
        names = {name: getattr(settings, name) for name, (_, known) in flags_of(settings).items()
                 if known.file == "weights"}
        return {name: value for name, value in names.items() if value is not None}

    def load(self) -> None:
        """Fill :attr:`networks` by the settings; ValueError (:class:`weights.WeightsError`) for what does not fit."""
        raise NotImplementedError

    def plan(self, height: int, width: int) -> tiles.Plan:
        """The layout of a result of ``height x width`` pixels."""
        raise NotImplementedError

    def solve(self, params: tuple, y: Array, keys: Key, *, plan: tiles.Plan, given: dict) -> Solved:
        """Restore pictures that fill their canvas: a pure function, image by image.

        Args:
            params: of the networks.
            y: measurements ``[B, h, w, 3]`` in [-1, 1]; the canvas of the plan divided by :attr:`scale`.
            keys: one per image ``[B]``.
            plan: the layout of the result.
            given: what else is known of each picture, from :meth:`given`.
        """
        raise NotImplementedError

    def evaluations(self, solved: Solved) -> int:
        """Network evaluations of a picture, of one tile."""
        raise NotImplementedError

    def all_evaluations(self, solved: Solved, plan: tiles.Plan) -> int:
        """The same, tiles counted."""
        return self.evaluations(solved) * plan.count

    def piece(self, plan: tiles.Plan) -> tuple[int, ...]:
        """The shape of what the first network takes at once."""
        return (1, *plan.tile, 3)

    def given(self, pixels: np.ndarray, fill: Callable) -> dict[str, Any]:
        """Arrays for :meth:`solve` beside the picture itself; ``fill`` puts one of its size on the canvas."""
        del pixels, fill
        return {}

    def margin(self) -> int:
        """Pixels of canvas on every side of a picture; only without a scale."""
        return 0

    def estimated(self, y: Array) -> dict[str, Array]:
        """What of :meth:`given` can be estimated from pictures ``[B, H, W, 3]`` alone, in a compiled program."""
        del y
        return {}

    def enlarged(self, y: Array | np.ndarray) -> Array | np.ndarray:
        """Pictures ``[B, h, w, 3]`` as :meth:`solve` takes them: a method that restores larger ones enlarges first."""
        return y

    @property
    def takes_any_size(self) -> bool:
        """Whether a picture of any size needs no canvas."""
        return all(side_of(network) is None for network in self.networks.values())

    def told(self, **settings) -> "Restoration":
        """The same method and networks, told something else of the next picture, as its ``mask``.

        Programs are shared where that is an array or a number that they are given (:data:`GIVEN`), else they are new.
        """
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, **settings)
        before = {name: getattr(self.settings, name) for name in settings}
        if any((before[name] is None) != (value is None) if name in GIVEN else not np.array_equal(before[name], value)
               for name, value in settings.items()):
            other._compile()
        return other

    # ------------------------------------------------------------------------------- the way of a picture

    @property
    def params(self) -> tuple:
        """Of all networks."""
        return tuple(network.params for network in self.networks.values())

    @property
    def info(self) -> dict:
        """What travels with the weights of the first network."""
        return next(iter(self.networks.values())).info

    def __call__(self, picture: images.Picture, *, seed: int = 0, sample: int = 0, device=None,
                 progress: Callable[[], None] | None = None) -> tuple[images.Picture, Report]:
        """Restore a picture with all that its file held.

        A grey picture, also one stored in RGB, stays grey (the mean of the restored channels), transparency is kept,
        and so are the colours under fully transparent pixels; the network sees their surroundings instead. The bytes
        of a result depend on the picture, the weights, the settings and these numbers alone.

        Args:
            picture: from :func:`images.read`.
            seed: of all noise, together with the picture's pixels.
            sample: 0, 1, 2, ...: independent draws.
            device: default the first one.
            progress: called, from another thread, about as often as :meth:`expected` says while the picture is
                restored. Programs that call it are not kept between processes, so compile anew.

        Errors:
            ValueError for an empty picture, one that is not of numbers, a result of more than
            :data:`images.MAX_PIXELS`, or what is given for it and does not fit.
        """
        pixels, alpha = np.asarray(picture.pixels, np.float32), picture.alpha
        check_picture(pixels, self.scale)
        keys = rng.fold(rng.image_keys(seed, [content_id(pixels)]), sample)
        if alpha is not None:
            pixels = images.fill_hidden(pixels, alpha)
        restored, report = self.restored(pixels, keys, device, progress)
        if picture.is_neutral:
            restored = np.broadcast_to(restored.mean(axis=-1, keepdims=True), restored.shape)
        if alpha is not None and restored.shape == picture.pixels.shape:
            restored = np.where(alpha[..., None] > 0, restored, picture.pixels)
        elif alpha is not None:
            alpha = images.resize_alpha(alpha, *restored.shape[:2])
        return picture._replace(pixels=restored, alpha=alpha), report

    def restored(self, pixels: np.ndarray, keys: Key, device=None, progress=None) -> tuple[np.ndarray, Report]:
        """The pixels of a picture ``[h, w, 3]`` restored, whatever else its file held; see :meth:`__call__`."""
        height, width = (self.scale * side for side in pixels.shape[:2])
        margin = self.margin()
        with jax.default_device(self.devices[0] if device is None else device):
            pixels = np.asarray(self.enlarged(pixels[None]))[0]
        plan = self.plan(height + 2 * margin, width + 2 * margin)

        def fill(array, *, times=height // pixels.shape[0], mode=self.border):
            room = [(margin, side // times - length - margin) for side, length in zip(plan.canvas, array.shape)]
            padded = np.pad(array, [*room, *[(0, 0)] * (array.ndim - 2)], mode)
            return jnp.asarray(padded[None], jnp.float32)

        solved = self.run(fill(pixels), keys, plan, self.given(pixels, fill), device, progress)
        return (np.asarray(solved.x)[0, margin:margin + height, margin:margin + width],
                self.report(solved, plan))

    def warning(self, picture) -> str | None:
        """What is to be said before work on a picture begins: that the prior has not learned such pictures."""
        network = next(iter(self.networks.values()))
        height, width = (self.scale * side for side in picture.pixels.shape[:2])
        side, plan = side_of(network), self.plan(height, width)
        learned = weights.learned(network.name)
        if side is None or plan.count == 1:
            known = side is not None and learned
            return f"{network.name} has learned {learned}; it makes such of any other picture" if known else None
        learned = learned or f"pictures of {side} px"
        return (f"{network.name} has learned {learned}; this one of {width} x {height} pixels is restored in "
                f"{plan.count} pieces, each as if it were such a picture")

    def smaller(self, picture) -> "Restoration | None":
        """The same method with tiles of half the side, which needs less memory; None where there are none."""
        plan, other = self.expected(picture)[1], copy.copy(self)
        other.largest = max(plan.tile) // 2 // _STEP * _STEP
        if other.largest < _STEP:
            return None
        tile = other.expected(picture)[1].tile
        return other if tile[0] * tile[1] < plan.tile[0] * plan.tile[1] else None

    def expected(self, picture) -> tuple[int, tiles.Plan]:
        """Network evaluations of a picture, tiles counted, and its layout; nothing is computed."""
        height, width = (self.scale * side + 2 * self.margin() for side in picture.pixels.shape[:2])
        plan = self.plan(height, width)
        shape: Any = jax.ShapeDtypeStruct((1, *plan.canvas, 3), np.float32)
        solved = Solved(shape)
        return self.all_evaluations(solved, plan), plan

    def seconds(self, plan: tiles.Plan) -> float | None:
        """How long a network evaluation of one tile takes, measured; None for a network that needs more than x and t.
        """
        network = next(iter(self.networks.values()))
        arguments = (self._on(self.devices[0])[0], np.zeros(self.piece(plan), np.float32), np.ones(1, np.float32))
        try:
            with jax.default_device(self.devices[0]):
                program = jax.jit(network.module.apply).lower(*arguments).compile()
                since = time.perf_counter()
                jax.block_until_ready(program(*arguments))
        except (ValueError, TypeError):
            return None
        return self.effort * (time.perf_counter() - since)

    def run(self, y, keys, plan, given, device=None, progress=None) -> Solved:
        """:meth:`solve`, compiled, on one device."""
        device = self.devices[0] if device is None else device
        params = self._on(device)
        with jax.default_device(device):
            if progress is None:
                memory.check(self._solve, device, params, y, keys, plan=plan, given=given)
                return self._solve(params, y, keys, plan=plan, given=given)
            number = self._listeners.add(progress)
            try:
                memory.check(self._solve_telling, device, params, y, keys, number, plan=plan, given=given)
                return jax.block_until_ready(self._solve_telling(params, y, keys, number, plan=plan, given=given))
            finally:
                self._listeners.remove(number)

    def _told_of(self, params, y, keys, number, *, plan, given):
        """:meth:`solve` with a first network that tells of its calls."""
        other, (role, network) = copy.copy(self), next(iter(self.networks.items()))
        telling = self._listeners.telling(network.module, number)
        other.networks = {**self.networks, role: network._replace(module=telling)}
        return other.solve(params, y, keys, plan=plan, given=given)

    def report(self, solved: Solved, plan: tiles.Plan) -> Report:
        """Of a batch of one."""
        def one(value):
            return None if value is None else float(value[0])

        return Report(self.all_evaluations(solved, plan), plan, one(solved.residual), one(solved.sigma),
                      None if solved.kernel is None else np.asarray(solved.kernel[0]), one(solved.drift))

    def _on(self, device):
        with self._lock:
            if device not in self._placed:
                self._placed[device] = jax.device_put(self.params, device)
            return self._placed[device]

    # ------------------------------------------------------------------------------- what is said

    def facts(self, reports: list[Report]) -> dict:
        """What goes into the report file of one picture, of whose samples these are."""
        facts: dict[str, Any] = {"network_evaluations": sum(report.evaluations for report in reports),
                                 "tiles": reports[0].plan.count}
        for name in ("residual", "sigma"):
            if getattr(reports[0], name) is not None:
                facts[f"{name}_255"] = [round(getattr(report, name) * 127.5, 3) for report in reports]
        return {**facts, "note": reports[0].note} if reports[0].note else facts

    def line(self, reports: list[Report]) -> str:
        """What is said about one picture."""
        plan = reports[0].plan
        pieces = f" in {plan.count} tiles of {plan.tile[0]} x {plan.tile[1]}" if plan.count > 1 else ""
        said = f"{count(sum(report.evaluations for report in reports), 'network evaluation')}{pieces}"
        residuals = [report.residual for report in reports if report.residual is not None]
        levels = [report.sigma for report in reports if report.sigma is not None]
        if residuals:
            said += f", residual {max(residuals) * 127.5:.1f} of 255"
            said += f" (noise {max(levels) * 127.5:.1f})" if levels else ""
        return f"{said}; {reports[0].note}" if reports[0].note else said


# ---------------------------------------------------------------------------------------------------- shared pieces

def prior(network: Network, params: Params, plan: tiles.Plan, **options) -> denoisers.Prior:
    """A diffusion prior that sees a canvas in the plan's tiles; ``params``, which may be traced, are its weights."""
    return denoisers.of(tiles.by_plan(functools.partial(network.module.apply, params), plan), network.info, **options)


def side_of(network: Network) -> int | None:
    """Side of the pictures that a network has learned; None for one that takes any size."""
    if network.info.get("kind") == "restorer" or hasattr(network.module, "reach"):
        return None
    side: Any = network.info.get("image_size") or getattr(network.module, "image_size", 64)
    return int(side)


def plan_of(network: Network, height: int, width: int, *, tile: int | None = None, multiple: int = 1) -> tiles.Plan:
    """The layout for a network: of one that has learned pictures of one side, tiles of that side that share a quarter
    of it; of one that takes any size, tiles of at most ``tile`` that share 96 pixels. Of one that looks no farther than
    its ``reach`` they share twice that, and are as large as that needs: what they give is what the whole gives.

    Args:
        network: a prior or a restorer.
        height, width: of the result in pixels.
        tile: the largest side of a tile, at least 64; multiples of 64 are used. Default: 1024.
        multiple: divides the sides of the canvas.

    Errors:
        ValueError for a smaller tile, or a multiple that does not divide the tiles.
    """
    side = side_of(network)
    if side is not None:
        if side % multiple or side // 4 % multiple:
            raise ValueError(f"scale {multiple} does not divide a quarter of the prior's side of {side} pixels; use 2, "
                             "4 or another power of two")
        return tiles.plan(height, width, tile=side, overlap=side // 4, learned=side)
    tile = _LARGEST if tile is None else tile
    if tile != int(tile) or tile < _STEP:
        raise ValueError(f"tile must be a whole number of at least {_STEP} pixels, got {tile}")
    tile = int(tile) // _STEP * _STEP
    reach = getattr(network.module, "reach", None)
    if reach is not None:
        tile = max(tile, pieces.least(reach))
    overlap = min(96, tile // 4) if reach is None else 2 * reach
    layout = tiles.plan(height, width, tile=tile, overlap=overlap, learned=_STEP, multiple=multiple)
    return layout if reach is None else layout._replace(margin=overlap // 2)


def check_picture(pixels: np.ndarray, times: int = 1) -> None:
    """Refuse what is no picture ``[H, W, 3]`` of numbers, or too large when enlarged by ``times``: ValueError."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"a picture is [H, W, 3] with at least one pixel, not {list(pixels.shape)}")
    height, width = (times * side for side in pixels.shape[:2])
    if height * width > images.MAX_PIXELS:
        what = f"{times} times larger it" if times > 1 else "the picture"
        raise ValueError(f"{what} has {width} x {height} pixels, more than the limit of {images.MAX_PIXELS:,}; use "
                         f"{'a smaller scale' if times > 1 else 'pieces of it'}")
    if not np.isfinite(pixels).all():
        raise ValueError("the picture holds NaN or infinity")


def content_id(pixels: np.ndarray) -> int:
    """A picture's id for :func:`rng.image_keys`: a hash of its size and pixels, whatever it is called.

    >>> content_id(np.zeros((2, 3, 3))) == content_id(np.zeros((3, 2, 3)))
    False
    """
    pixels = np.ascontiguousarray(pixels, "<f4")
    return rng.name_id(f"{pixels.shape} {hashlib.sha256(pixels.data).hexdigest()}")


def count(number: int, noun: str) -> str:
    """``"1 step"``, ``"2 steps"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
