"""Pictures to train and evaluate on.

A *source* has ``len(source)`` and ``source[i] -> {"image": uint8 [h, w, 3], "id": int}``, for pairs also
``"measurement"``: uint8, and ``source.names``. :func:`open_source` makes one from a string; :func:`pipeline` turns any
source into training batches, :func:`evaluation_batches` into evaluation batches; :func:`damaged` names beforehand what
cannot be read.
"""
import os
import pathlib

from indigo_jax.data.derived import joined, resized
from indigo_jax.data.ellipses import EllipsePhantoms, open_ellipses
from indigo_jax.data.folder import arrays, folder, gopro, paired_folders
from indigo_jax.data.kernels import BlurKernels, open_kernels
from indigo_jax.data.packed import packed
from indigo_jax.data.preprocess import evaluation_batches, pipeline
from indigo_jax.data.source import damaged
from indigo_jax.data.tfds import tfds

__all__ = ["BlurKernels", "EllipsePhantoms", "arrays", "damaged", "evaluation_batches", "folder", "gopro", "joined",
           "open_source", "packed", "paired_folders", "pipeline", "resized", "tfds"]

_FOLDER_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}


def open_source(spec: str | os.PathLike, *, split: str = "train", data_dir=None, cache: bool = False):
    """The source that a string names.

    ====================== =============================================================================
    ``FOLDER``             all pictures in it; with subfolders train/ and val/ (or test/), those of the split
    ``FILE.npz``           a pack, see :func:`packed`
    ``tfds:NAME``          a prepared tensorflow-datasets data set; "val" is its "validation" (else "test")
    ``gopro:FOLDER``       pairs in folders sharp/ and blur/; with subfolders train/ and test/, those of the split
    ``pairs:SHARP,BLURRED``  pairs from two folders, by name
    ``2*SPEC+SPEC``        several of the above as one, a whole number in front repeats one
    ``ellipses:SIZE``      random phantoms for tomography, see :class:`EllipsePhantoms`: 20,000, and 200 for "val"
    ``kernels:SIZE``       random blur kernels as pictures, see :class:`BlurKernels`: as many
    ====================== =============================================================================

    Args:
        spec: one of these.
        split: "train", "val" or "all"; for tfds also any of its split expressions.
        data_dir: where tfds data sets are prepared.
        cache: keep decoded pictures in memory.

    Errors:
        FileNotFoundError when nothing is there; ValueError for a string of no such kind, or a split that it lacks.
        Those of :func:`tfds`.
    """
    spec = os.fspath(spec)
    if "+" in spec and not os.path.exists(spec):
        counts, specs = zip(*(_repeats(part) for part in spec.split("+")))
        return joined([open_source(part, split=split, data_dir=data_dir, cache=cache) for part in specs],
                      [1] * len(specs) if split == "val" else counts)
    kind, _, rest = spec.partition(":")
    if kind == "tfds":
        return _open_tfds(rest, split, data_dir, cache)
    if kind not in ("gopro", "pairs", "ellipses", "kernels") and spec.lower().endswith(".npz"):
        return packed(spec, split=split, cache=cache)
    if split not in ("train", "val", "all"):
        raise ValueError(f"{spec}: unknown split {split!r}; use 'train', 'val' or 'all'")
    if kind == "ellipses":
        return open_ellipses(rest, split, cache)
    if kind == "kernels":
        return open_kernels(rest, split)
    if kind == "gopro":
        return gopro(_split_folder(rest, split), cache=cache)
    if kind == "pairs":
        sharp, comma, blurred = rest.partition(",")
        if not comma:
            raise ValueError(f"{spec!r}: give two folders, pairs:SHARP,BLURRED")
        return paired_folders(_split_folder(sharp, split), _split_folder(blurred, split), cache=cache)
    path = pathlib.Path(spec)
    if path.is_dir():
        return folder(_split_folder(path, split), cache=cache)
    instead = ("give a folder of pictures, FILE.npz, tfds:NAME, gopro:FOLDER, pairs:SHARP,BLURRED, ellipses:SIZE or "
               "kernels:SIZE")
    if path.exists():
        raise ValueError(f"{spec}: a file, but not an .npz pack; {instead}")
    raise FileNotFoundError(f"{spec}: no such folder or file; {instead}")


def _repeats(part):
    """``"3*SPEC"`` as (3, SPEC)."""
    count, star, spec = part.partition("*")
    return (int(count), spec) if star and count.isdigit() else (1, part)


def _split_folder(path, split):
    """``path/train`` and the like where it exists; a folder without them is one whole, for "train" and "all"."""
    path = pathlib.Path(path)
    if split == "all" or not path.is_dir():
        return path
    for name in _FOLDER_SPLITS[split]:
        if (path / name).is_dir():
            return path / name
    if split == "val":
        raise ValueError(f"{path}: no validation pictures; put some into {path / 'val'}, or name another folder")
    if any((path / name).is_dir() for name in _FOLDER_SPLITS["val"]):
        raise ValueError(f"{path}: it has validation pictures but no folder {path / 'train'} to train on")
    return path


def _open_tfds(name, split, data_dir, cache):
    for candidate in ("validation", "val", "valid") if split == "val" else ():
        try:
            return tfds(name, split=candidate, data_dir=data_dir, cache=cache)
        except ValueError as error:
            if "no split" not in str(error):
                raise
    return tfds(name, split="test" if split == "val" else split, data_dir=data_dir, cache=cache)
