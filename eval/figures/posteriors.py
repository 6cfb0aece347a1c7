"""One portrait, damaged once, and what each method makes of it that draws from a prior or goes down to its mode.

The portrait is the face of scikit-image's astronaut, shrunk to the 64 px that the bundled prior `faces64` has learned;
damage and pictures are those of `python -m eval.tables --method all`. Every method has the settings that it has when
none are said, and draws once: a look at them, not a measurement.
"""
import jax.numpy as jnp
import numpy as np
import skimage.data
from tqdm import tqdm

from eval.figures import drawing
from eval.measure import psnr_of
from eval.tables import every
from indigo_jax import images, methods, operators
from indigo_jax.methods.bird import Bird
from indigo_jax.methods.estimates import Estimated
from indigo_jax.methods.known import Sampled

FIGURES = ("inpaint", "sr")  # tasks
PRIOR, COLUMNS = "faces64", 6
_DRAWN = (Sampled, Estimated, Bird)


def face() -> np.ndarray:
    """The astronaut's, uint8 ``[200, 200, 3]``."""
    return skimage.data.astronaut()[5:205, 125:325]


def methods_of(task: str) -> list[str]:
    """The methods that a figure shows."""
    return [name for name, kind in methods.METHODS.items() if issubclass(kind, _DRAWN) and task in kind.tasks]


def cells(task: str, *, seed: int = 0) -> list[tuple[np.ndarray, str, str]]:
    """The input, every result and the truth: ``(picture in [-1, 1], name, its PSNR)``, for :func:`drawing.strips`."""
    damage = every.damaged(task, face(), seed)
    y = np.asarray(damage.y, np.float32)
    first = np.asarray(operators.upsample(every.FACTOR)(jnp.asarray(y[None])))[0] if task == "sr" else y
    found = {"bicubic" if task == "sr" else "the input": first}
    for name in tqdm(methods_of(task), unit="method"):
        restore = methods.load(name, task=task, weights=PRIOR, **damage.settings)
        found[name] = restore(images.Picture(y), seed=seed)[0].pixels
    scores = (float(psnr_of(np.clip(x, -1, 1)[None], damage.truth[None])[0]) for x in found.values())
    return [*((x, name, f"{score:.1f} dB") for (name, x), score in zip(found.items(), scores)),
            (damage.truth, "truth", "")]


def draw(args, names, folder) -> None:
    """``posteriors_TASK.jpg``; see :data:`eval.figures.DRAW`."""
    for task in names:
        shown = cells(task, seed=args.seed)
        rows = [("", shown[start:start + COLUMNS]) for start in range(0, len(shown), COLUMNS)]
        drawing.save(drawing.strips(rows, side=1.2)[0], folder / f"posteriors_{task}.jpg")
