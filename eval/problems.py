"""What is restored: clean pictures, ways to spoil them, and measurements beside their truth.

All noise levels are in ``[-1, 1]`` units, twice those of pictures in ``[0, 1]``.
"""
import functools
import hashlib
import pathlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import data, images, operators, rng
from indigo_jax.methods import known
from indigo_jax.typing import Array, Key

BUILT_IN = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # public domain or CC0
TASKS = {"inpaint": "inpainting, hole of 20/64 of the side", "denoise": "denoising, sigma 0.15",
         "sr": "4x super-resolution, mean of 4x4", "deblur": "deblurring, known 9x9 motion",
         "blind": "blind deblurring, 9x9 motion", "ct": "tomography, 20 views"}
PICTURE_TASKS = tuple(task for task in TASKS if task != "ct")  # ct is for a prior of slices
LEARNED = {"plain": "shrunk", "second-order": "degraded twice, shrunk", "unseen": "strong blur, shrunk, noise"}
FACTOR, KERNEL_SIZE, NUM_VIEWS = 4, 9, 20
_SIGMA = {"denoise": 0.3, "ct": 0.002}  # else 0.02
_MEASURE, _KERNEL, _RESTORE = 0, 1, 2  # what a picture's key is folded with
_DEGRADE, SAMPLE = 0, 1  # the same, of a :class:`Degradation`


def digest(*parts) -> str:
    """First twelve digits of the SHA-256 of texts, bytes and arrays, one after the other."""
    state = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        state.update(part if isinstance(part, bytes) else np.asarray(part).tobytes())
    return state.hexdigest()[:12]


class Pictures(NamedTuple):
    """Clean pictures: ``label`` says where they come from, ``images`` are uint8 ``[H, W, 3]``."""

    label: str
    names: list[str]
    images: list[np.ndarray]

    @property
    def digest(self) -> str:
        """Of all names and pixels."""
        return digest(*(part for name, image in zip(self.names, self.images)
                        for part in (f"{name} {image.shape}", image)))

    def at(self, side: int, seed: int) -> tuple[Array, Key]:
        """All pictures as :func:`to_side` has them ``[B, side, side, 3]``, and a key for each by its name."""
        x = jnp.stack([jnp.asarray(to_side(image, side)) for image in self.images])
        return x, rng.image_keys(seed, [rng.name_id(name) for name in self.names])

    def singles(self) -> list["Pictures"]:
        """Each alone."""
        return [Pictures(self.label, [name], [image]) for name, image in zip(self.names, self.images)]


def open_pictures(folder: str | None = None, *, limit: int | None = None, crop: int | None = None,
                  names: tuple[str, ...] | None = None) -> Pictures:
    """The pictures of a folder; without one, four photographs that scikit-image carries.

    Args:
        folder: a folder of picture files.
        limit: only the first so many, by name.
        crop: only the central square of at most this side.
        names: which of scikit-image's pictures, without a folder; default :data:`BUILT_IN`.

    Errors:
        FileNotFoundError, ValueError and ImageError for a folder without readable pictures.
    """
    if folder is None:
        import skimage
        root = pathlib.Path(skimage.__file__).parent / "data"
        names = list(names or BUILT_IN)[:limit]
        pixels = [images.read_rgb8(root / name) for name in names]
        label = "scikit-image"
    else:
        source = data.folder(folder)
        names = source.names[:limit]
        pixels = [source[i]["image"] for i in range(len(names))]
        label = pathlib.Path(folder).resolve().name
    return Pictures(label, names, [_centre(image, crop) for image in pixels])


def phantoms(side: int, count: int) -> Pictures:
    """Shepp and Logan's phantom and ``count`` random ones of the kind that ``ellipses64`` learned, none of its own."""
    first, others = open_pictures(names=("phantom.png",)), data.EllipsePhantoms(count, side, 0)
    return Pictures("phantoms", [*first.names, *others.names],
                    [*first.images, *(others[i]["image"] for i in range(count))])


def _centre(image, crop):
    if crop is None:
        return image
    top, left = (max(size - crop, 0) // 2 for size in image.shape[:2])
    return image[top:top + crop, left:left + crop]


def to_side(image: np.ndarray, side: int) -> np.ndarray:
    """The central square of a uint8 picture ``[H, W, 3]`` at the prior's side: float32 ``[side, side, 3]``.

    Larger squares are shrunk by area, smaller ones enlarged bicubically; one of the right size stays as it is.
    """
    square = min(image.shape[:2])
    x = _centre(image, square).astype(np.float32) / np.float32(127.5) - 1
    if square != side:
        resize = operators.resize(side, side, method="area" if square > side else "bicubic")
        x = np.clip(np.asarray(resize(jnp.asarray(x[None])))[0], -1, 1)
    return x


class Degradation(NamedTuple):
    """One way to spoil a picture.

    Attributes:
        task: the row of the table that it belongs to.
        variant: tells degradations of one task apart; "" for an only one.
        make: ``make(keys) -> operator``, all whose randomness comes from the keys ``[B]``.
    """

    task: str
    variant: str
    make: Callable

    def keys(self, keys: Key) -> Key:
        """Of pictures ``[B]`` for this degradation, whatever the others are."""
        return rng.fold(keys, np.uint32(rng.name_id(f"{self.task}/{self.variant}")))


@functools.partial(jax.jit, static_argnums=0)
def degrade(degradations: tuple[Degradation, ...], image, key) -> Array:
    """A uint8 picture ``[H, W, 3]`` under each degradation, rounded to 8 bits: uint8 ``[D, H, W, 3]``.

    What a degradation draws depends on the picture's ``key`` (a single one) and on its own name, not on the others.
    """
    def under(degradation):
        keys = rng.fold(degradation.keys(key[None]), _DEGRADE)
        return to_uint8(degradation.make(keys)(from_uint8(image[None]), keys=keys))[0]

    return jnp.stack([under(degradation) for degradation in degradations])


def to_uint8(x: Array) -> Array:
    """Pictures in [-1, 1] as bytes."""
    return jnp.round((operators.quantize()(x) + 1) * 127.5).astype(jnp.uint8)


def from_uint8(pixels) -> Array:
    """Bytes as pictures in [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1


class Case(NamedTuple):
    """A batch of pictures to restore, with the truth; every leaf begins with ``[B]``.

    Attributes:
        x: the truth ``[B, S, S, 3]``; None where a method sees the case.
        y: the measurement ``[B, ...]``; for ct sums of densities in [0, 1].
        keys: for whatever a method draws ``[B]``.
        given: what :meth:`methods.Restoration.solve` may know, too: "sigma" ``[B]`` and by task "mask" ``[B, S, S]``
            (1 = observed) or "kernel" ``[B, 9, 9]``; empty where nothing is known.
    """

    x: Array | None
    y: Array
    keys: Key
    given: dict

    @property
    def unseen(self) -> "Case":
        """Without the truth."""
        return self._replace(x=None)


@functools.partial(jax.jit, static_argnums=0)
def make(task: str, x: Array, keys: Key) -> Case:
    """The case of ``task`` (of :data:`TASKS`) for pictures ``x`` ``[B, S, S, 3]`` with keys ``[B]``.

    What is drawn depends on the picture's key and the task; known and blind deblurring share their measurement.
    """
    count, side = x.shape[:2]
    own = rng.fold(keys, np.uint32(rng.name_id(task_of_methods(task))))
    sigma = _SIGMA.get(task, 0.02)
    y, given = x, {"sigma": jnp.full(count, sigma, jnp.float32)}
    if task == "inpaint":
        hole = 20 * side // 64
        top = (side - hole) // 2
        mask = operators.box_mask(side, side, top=top, left=top, box_height=hole, box_width=hole)
        given["mask"] = jnp.broadcast_to(mask, x.shape[:3])
    elif task == "sr":
        y = x[:, ::FACTOR, ::FACTOR]  # of this size
    elif task == "ct":
        rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
        inside = (rows**2 + columns**2 <= (side / 2 - 0.75)**2)[..., None]  # what every ray sees the whole of
        x = jnp.where(inside, jnp.broadcast_to(jnp.mean(x, axis=-1, keepdims=True), x.shape), -1.0)
        y = jnp.zeros((count, side, NUM_VIEWS, 1))
    elif task != "denoise":
        given["kernel"] = operators.motion_kernel(rng.fold(own, _KERNEL), size=KERNEL_SIZE, length=float(KERNEL_SIZE))
    operator = problem_of(task, Case(x, y, keys, given)).operator
    seen = operator(x)
    y = seen + sigma * rng.normal(rng.fold(own, _MEASURE), seen)
    if task == "inpaint":
        y = operator(y)
    elif task == "ct":
        y, given["sigma"] = ray_sums(operator, y, side), given["sigma"] * (side / 2)
    return Case(x, y, rng.fold(own, _RESTORE), given)


def task_of_methods(task: str) -> str:
    """What the methods call one of :data:`TASKS`."""
    return "deblur" if task == "blind" else task


def all_given(task: str, case: Case) -> dict:
    """What is given of a case, with what is the same for all of a task: the angles."""
    return {**case.given, "angles": operators.sparse_view_angles(NUM_VIEWS)} if task == "ct" else case.given


def problem_of(task: str, case: Case) -> known.Problem:
    """A case with its true operator."""
    side, channels = case.y.shape[1] * (FACTOR if task == "sr" else 1), 3 if task == "ct" else case.y.shape[3]
    return known.problem_of(task_of_methods(task), case.y, case.keys, all_given(task, case), (side, side, channels),
                            FACTOR)


def ray_sums(operator, y: Array, side: int) -> Array:
    """Sums of densities in [0, 1] along rays, of means along them in [-1, 1], as tomography's operator gives them."""
    return (y + operator(jnp.ones((1, side, side, 1)))) * side / 2


def learned(name: str, scale: int):
    """An operator of :data:`LEARNED`; with ``scale`` 1 pictures are enlarged again."""
    factor, again = (scale, ()) if scale > 1 else (FACTOR, (operators.upsample(FACTOR), operators.clip()))
    if name == "second-order":
        return operators.realesrgan("kdsr", factor=factor, enlarge=scale == 1)
    blur, noise = operators.gaussian_blur(0.75 * factor), operators.gaussian_noise(sigma_255=20)
    before, after = ((blur,), (noise,)) if name == "unseen" else ((), ())
    return operators.compose(*before, operators.downsample(factor), *after, operators.quantize(), *again)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_learned(name: str, scale: int, x: Array, keys: Key) -> Case:
    """The case of a damage of :data:`LEARNED`, of which nothing is given: what is drawn depends on a picture's key and
    that name."""
    own = rng.fold(keys, np.uint32(rng.name_id(name)))
    return Case(x, learned(name, scale)(x, keys=rng.fold(own, 0)), rng.fold(own, 1), {})
