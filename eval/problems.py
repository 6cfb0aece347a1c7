"""What the evaluation scripts share: pictures, a model that restores, fixed degradations, files, the command line."""
import argparse
import functools
import hashlib
import os
import pathlib
import secrets
import sys
from typing import Any, Callable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from indigo_jax import data, denoisers, images, operators, rng, samplers, schedules, weights

RESULTS = pathlib.Path(__file__).parent / "results"
BUILT_IN = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # public domain or CC0
_DEGRADE, _SAMPLE = 0, 1  # what a picture's key is folded with


# ---------------------------------------------------------------------------------------------------- pictures

class Pictures(NamedTuple):
    """Clean pictures: ``label`` says where they come from, ``images`` are uint8 ``[H, W, 3]``."""

    label: str
    names: list[str]
    images: list[np.ndarray]

    @property
    def digest(self) -> str:
        """First twelve digits of the SHA-256 of all names and pixels."""
        state = hashlib.sha256()
        for name, image in zip(self.names, self.images):
            state.update(f"{name} {image.shape}".encode())
            state.update(np.ascontiguousarray(image).tobytes())
        return state.hexdigest()[:12]


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


def _centre(image, crop):
    if crop is None:
        return image
    top, left = (max(size - crop, 0) // 2 for size in image.shape[:2])
    return image[top:top + crop, left:left + crop]


# ---------------------------------------------------------------------------------------------------- degradations

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


@functools.partial(jax.jit, static_argnums=0)
def degrade(degradations: tuple[Degradation, ...], image, key) -> jax.Array:
    """A uint8 picture ``[H, W, 3]`` under each degradation, rounded to 8 bits: uint8 ``[D, H, W, 3]``.

    What a degradation draws depends on the picture's ``key`` (a single one) and on its own name, not on the others.
    """
    x = image[None].astype(jnp.float32) / 127.5 - 1
    out = []
    for degradation in degradations:
        keys = rng.fold(_own_key(degradation, key)[None], _DEGRADE)
        out.append(_to_uint8(degradation.make(keys)(x, keys=keys))[0])
    return jnp.stack(out)


def _own_key(degradation, key):
    return jax.random.fold_in(key, np.uint32(rng.name_id(f"{degradation.task}/{degradation.variant}")))


def _to_uint8(x):
    return jnp.round((operators.quantize()(x) + 1) * 127.5).astype(jnp.uint8)


# ---------------------------------------------------------------------------------------------------- restoration

class Model(NamedTuple):
    """A network with its weights and what is known about them; see :func:`indigo_jax.weights.load`."""

    module: Any
    params: Any
    info: dict


def load_model(name_or_path: str, *, method: str = "indi") -> Model:
    """Weights by name or path, of a network for ``method``: "indi", or "bird" for a diffusion prior.

    Errors:
        :class:`weights.WeightsError` for weights that cannot be used, or belong to the other method.
    """
    model = Model(*weights.load(name_or_path))
    if ("schedule" in model.info) != (method == "bird"):
        kind, other = (("a diffusion prior", "bird") if "schedule" in model.info
                       else ("a network that restores directly", "indi"))
        raise weights.WeightsError(f"{name_or_path}: {kind}, for --method {other}; give that, or other --weights")
    return model


def restorer(model: Model, num_steps: int, spacing: str = "uniform") -> Callable:
    """``restore(y, keys) -> uint8`` for uint8 ``y`` ``[B, H, W, 3]``: InDI with the noise mode of the weights."""
    noise = schedules.noise_from_json(model.info["noise"])
    times = schedules.indi_times(num_steps, spacing)
    conditioned = getattr(model.module, "condition_on_y", False)

    @jax.jit
    def restore(params, y, keys):
        y = y.astype(jnp.float32) / 127.5 - 1
        network = denoisers.restorer(functools.partial(model.module.apply, params), noise=noise,
                                     y=y if conditioned else None)
        return _to_uint8(samplers.sample(samplers.indi(network, times, noise=noise), keys, y)[0])

    return functools.partial(restore, model.params)


class Result(NamedTuple):
    """One picture: ``num_steps`` is 0 for the degraded input; ``image`` and ``truth`` are uint8 ``[H, W, 3]``."""

    name: str
    degradation: Degradation
    num_steps: int
    image: np.ndarray
    truth: np.ndarray


def restorations(model: Model, pictures: Pictures, degradations: tuple[Degradation, ...], steps, *, batch_size: int = 4,
                 seed: int = 0, spacing: str = "uniform") -> Iterator[Result]:
    """Every picture under every degradation: the input, then its restoration with each number of steps.

    The key of a picture comes from ``seed`` and its name, so the results do not depend on the other pictures.
    """
    restore = {num_steps: restorer(model, num_steps, spacing) for num_steps in steps}
    degradations = tuple(degradations)
    batch_size = -(-len(degradations) // -(-len(degradations) // batch_size))  # as few chunks, evenly filled
    chunks = [slice(i, i + batch_size) for i in range(0, len(degradations), batch_size)]
    with tqdm(total=len(pictures.names) * len(chunks) * sum(steps), unit="step", desc="restoring",
              mininterval=1.0) as bar:
        for name, truth in zip(pictures.names, pictures.images):
            key = rng.image_keys(seed, [rng.name_id(name)])[0]
            inputs = np.asarray(degrade(degradations, truth, key))
            yield from (Result(name, *rest, truth) for rest in zip(degradations, [0] * len(inputs), inputs))
            for chunk in chunks:
                rows = degradations[chunk]
                keys = rng.fold(jnp.stack([_own_key(row, key) for row in _filled(rows, batch_size)]), _SAMPLE)
                y = np.stack(_filled(list(inputs[chunk]), batch_size))
                for num_steps in steps:
                    outputs = np.asarray(restore[num_steps](y, keys))
                    bar.update(num_steps)
                    yield from (Result(name, row, num_steps, image, truth) for row, image in zip(rows, outputs))


def _filled(rows, size):
    """``rows`` with the last one repeated up to ``size``: one shape, one compilation."""
    return [*rows, *[rows[-1]] * (size - len(rows))]


# -------------------------------------------------------------------------------------------- files, command line

def write_text(path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    """Wrong usage ends with exit code 2 and one line."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see python -m {self.prog} --help\n")


def whole(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def run(parser: Parser, work: Callable[[], None]) -> int:
    """Exit code 0, or 2 and one line for what the user can put right."""
    try:
        work()
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def add_model_arguments(parser: Parser) -> None:
    """The flags about pictures and weights that tables and figures share."""
    parser.add_argument("--data", metavar="FOLDER", help="clean pictures; default: four photographs of scikit-image")
    parser.add_argument("--weights", default="indi-photo", metavar="NAME|FILE", help="default: indi-photo")
    parser.add_argument("--lpips", default=os.environ.get("INDIGO_LPIPS") or None, metavar="FILE",
                        help="LPIPS weights (npz, not bundled); default: $INDIGO_LPIPS, else LPIPS is left out")
    parser.add_argument("--spacing", choices=schedules.SPACINGS, default="uniform",
                        help="the grid of times for several steps; default: uniform")
    parser.add_argument("--limit", type=whole, metavar="N", help="only the first N pictures, for a quick look")
    parser.add_argument("--batch", type=whole, default=4, metavar="B", help="pictures restored at a time; default: 4")
    parser.add_argument("--seed", type=int, default=0, help="of all noise and random kernels; default: 0")


def add_guided_arguments(parser: Parser) -> None:
    """The flags about INDIGO's networks and chains that tables and figures share."""
    parser.add_argument("--prior", metavar="NAME|FILE", help="indigo: a diffusion prior; default: faces64, or for "
                        "latent-indigo latent-faces")
    parser.add_argument("--inn", metavar="NAME|FILE", help="indigo: an invertible network; default: inn-pixel, or "
                        "inn-latent")
    parser.add_argument("--autoencoder", metavar="NAME|FILE",
                        help="latent-indigo: default: the one that the prior names")
    parser.add_argument("--chain-steps", type=whole, metavar="N", help="indigo: of the sampler; default: 100")
    parser.add_argument("--guidance", type=float, metavar="ZETA", help="indigo: default: of the preset syn")
    parser.add_argument("--start", type=float, metavar="ALPHA_BAR",
                        help="indigo: of the first level; default: 0.199, for latents 0.5")
