"""Pictures packed into one ``.npz`` file.

A pack holds the bytes of many picture files one behind another, so that thousands of small pictures are one file:
``buf`` uint8 (all bytes), ``off`` int64 ``[n + 1]`` (picture ``i`` is ``buf[off[i]:off[i + 1]]``), ``ids`` (``n``
names) and ``val_mask`` bool ``[n]`` (which pictures are kept for validation).
"""
import io
import os
import pathlib
import zipfile
import zlib

import numpy as np

from indigo_jax import images
from indigo_jax.data.source import Pictures

_KEYS = ("buf", "off", "ids", "val_mask")


def packed(path: str | os.PathLike, *, split: str = "train", cache: bool = False) -> Pictures:
    """A source over the pictures of one ``.npz`` pack, in the order of the pack.

    The picture files stay compressed in memory and are decoded when asked for. ``source.names`` are the pack's ``ids``.

    Args:
        path: the pack; for its keys see the module's text.
        split: "train" (the pictures outside ``val_mask``), "val" (those inside) or "all".
        cache: keep every decoded picture (uint8, 3 bytes per pixel), so that each is decoded once.

    Errors:
        FileNotFoundError without the file; ValueError for a file that is not such a pack, and for an unknown or
        empty split; :class:`indigo_jax.images.ImageError` when a picture inside does not decode.
    """
    path = pathlib.Path(path)
    stored = _load(path)
    chosen = {"train": ~stored["val_mask"], "val": stored["val_mask"], "all": np.ones_like(stored["val_mask"])}
    if split not in chosen:
        raise ValueError(f"{path}: unknown split {split!r}; a pack has {sorted(chosen)}")
    numbers = np.flatnonzero(chosen[split])
    if not len(numbers):
        raise ValueError(f"{path}: the split {split!r} is empty; use split='all' or pack more pictures")
    names = [str(stored["ids"][number]) for number in numbers]

    def through(function, index):
        start, stop = stored["off"][numbers[index]:numbers[index] + 2]
        return function(io.BytesIO(stored["buf"][start:stop].tobytes()), name=f"{path}[{names[index]}]")

    return Pictures(names, lambda index: {"image": through(images.read_rgb8, index)}, f"pack {path}", cache=cache,
                    check=lambda index: through(images.check, index))


def _load(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pack; give the path of an .npz file with keys {', '.join(_KEYS)}")
    try:
        with open(path, "rb") as stream:
            stored = np.load(stream, allow_pickle=False)
            found = getattr(stored, "files", [])  # an .npy file has none
            arrays = {key: stored[key] for key in _KEYS if key in found}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error}); copy or download it again") from error
    except ValueError as error:  # numpy would need pickle for it
        raise ValueError(f"{path}: not a readable .npz file (not arrays of numbers and text); make it again") from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path}: not a picture pack, it lacks {', '.join(missing)} "
                         f"(it has {', '.join(found) or 'nothing'})")
    offsets, count = arrays["off"], len(arrays["ids"])
    if (offsets.shape != (count + 1,) or arrays["val_mask"].shape != (count,) or count == 0 or offsets[0] < 0
            or (np.diff(offsets) <= 0).any() or offsets[-1] > len(arrays["buf"])):
        raise ValueError(f"{path}: the pack is damaged: {count} ids, {len(offsets)} offsets, "
                         f"{len(arrays['val_mask'])} mask entries, {len(arrays['buf'])} bytes do not fit together")
    arrays["val_mask"] = arrays["val_mask"].astype(bool)
    return arrays
