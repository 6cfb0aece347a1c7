"""A picture for each line of "Which method?": what a person has, what ``--method auto`` makes of it, and the truth.

The photographs are those that scikit-image carries, shrunk to a shorter side of 256 pixels; the damage is that of the
table (``python -m eval.tables --method people``).
"""
import functools
import io

import numpy as np
import skimage.data
from PIL import Image
from tqdm import tqdm

from eval import command
from eval.problems import open_pictures
from eval.tables import people
from indigo_jax import methods, operators
from indigo_jax.methods.sinograms import sinogram

SHORTER_SIDE, GAP = 256, 4  # pixels: of a photograph, between its three states
_ANGLES = 20


def shrunk(image: np.ndarray) -> np.ndarray:
    """A photograph, uint8, with a shorter side of 256 px, by the means of areas."""
    height, width = (round(side * SHORTER_SIDE / min(image.shape[:2])) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def states(title: str, photograph: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Before, after and truth, uint8 ``[h, w, 3]``, of a line of :data:`eval.tables.people.TASKS`.

    Args:
        title: of the line.
        photograph: the name of a file of scikit-image's.
        seed: of the damage.
    """
    task = next(task for task in people.TASKS if task.title == title)
    [image] = open_pictures(names=(photograph,)).images
    damage = task.make(shrunk(image), np.random.default_rng(seed))
    _, (found,), _ = people.restored(task, damage)
    return tuple(np.clip(np.round(each), 0, 255).astype(np.uint8) for each in (damage.y, found, damage.truth))


def slices(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Shepp-Logan phantom: its sums along rays from 20 sides, what is made of them, and the slice itself."""
    del seed  # there is no chance in it
    truth = np.asarray(Image.fromarray(skimage.data.shepp_logan_phantom().astype(np.float32)).resize(
        (64, 64), Image.Resampling.BOX))
    angles = operators.sparse_view_angles(_ANGLES)
    sums = np.asarray(operators.radon(angles, 64)(truth[None, :, :, None]))[0, ..., 0]
    restored, _ = methods.load(methods.choose("ct").method, task="ct")(sinogram(sums, angles))
    return tuple(np.repeat(np.clip(np.round(255 * grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
                 for grey in (sums / sums.max(), restored.pixels[..., 0] / 2 + 0.5, truth))


def beside(pictures, side: int = people.SIDE) -> np.ndarray:
    """Pictures in a row, uint8, each enlarged to ``side`` with its pixels seen, white between them."""
    squares = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.NEAREST)) for each in pictures]
    gap = np.full((side, GAP, 3), 255, np.uint8)
    return np.concatenate([part for square in squares for part in (square, gap)][:-1], axis=1)


FIGURES = {  # name of the file: function of the seed
    "nothing_said": functools.partial(states, "JPEG, quality 30, nothing said", "rocket.jpg"),
    "noise": functools.partial(states, "noise, sigma 25", "coffee.png"),
    "known_blur": functools.partial(states, "known blur, 11 to 19 px, 1 % noise", "chelsea.png"),
    "unknown_blur": functools.partial(states, "unknown blur, 11 to 19 px, 1 % noise", "astronaut.png"),
    "sr": functools.partial(states, "4x smaller, bicubic", "astronaut.png"),
    "jpeg": functools.partial(states, "JPEG, quality 10", "coffee.png"),
    "holes": functools.partial(states, "scribbles over 5 %", "chelsea.png"),
    "ct": slices}


def draw(args, names, folder) -> None:
    """``people_NAME.jpg``; see :data:`eval.figures.DRAW`."""
    for name in tqdm(names, unit="picture"):
        content = io.BytesIO()
        Image.fromarray(beside(FIGURES[name](args.seed))).save(content, format="JPEG", quality=90, subsampling=0)
        command.write(folder / f"people_{name}.jpg", content.getvalue())
        print(folder / f"people_{name}.jpg")
