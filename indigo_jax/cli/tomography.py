"""Sinograms as input of ``indigo restore --task ct``: which files there are, and what is in one."""
import pathlib
from typing import Any, NamedTuple

from indigo_jax.cli.messages import UsageError, one_line, show

_MAGIC = b"\x93NUMPY"


class Sinogram(NamedTuple):
    """One file.

    Attributes:
        values: float32 ``[detectors, angles]``.
        angles: degrees ``[angles]``.
        pixels: the filtered back-projection, ``[detectors, detectors, 3]`` in [-1, 1].
        frames: as of a picture.
    """

    values: Any
    angles: Any
    pixels: Any
    frames: int = 1


def find(path, *, exclude=None) -> list[pathlib.Path]:
    """The ``.npy`` files of a folder and of its subfolders, sorted; a file gives itself."""
    from indigo_jax import images
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise images.ImageError(f"{show(path)}: no such file or folder; check the path")
    exclude = None if exclude is None else pathlib.Path(exclude).resolve()
    return sorted(file for file in path.rglob("*.npy")
                  if file.is_file() and not (exclude and exclude in file.resolve().parents))


KIND = {"find": find, "what": "sinograms in this folder, at any depth (looked for .npy)"}


def read(path, angles=None) -> Sinogram:
    """A sinogram from an ``.npy`` file; nothing is ever unpickled.

    Errors:
        ValueError for another kind of file, or what :func:`prior.check_sinogram` refuses.
    """
    import numpy as np

    from indigo_jax import operators, prior
    values, angles = prior.check_sinogram(_load(path), angles)
    slices = operators.filtered_backprojection(values[None, :, :, None], angles)
    grey = np.clip(2 * np.asarray(slices)[0] - 1, -1, 1)
    return Sinogram(values, angles, np.repeat(grey, 3, axis=2))


def read_angles(path):
    """Angles in degrees from an ``.npy`` file or a text of numbers.

    Errors:
        :class:`UsageError` for a file that holds anything else.
    """
    import numpy as np
    try:
        if pathlib.Path(path).suffix.lower() == ".npy":
            return _load(path)
        text = pathlib.Path(path).read_text(encoding="utf-8").replace(",", " ")
        return np.array([float(word) for word in text.split()])
    except (ValueError, OSError) as error:
        raise UsageError(f"--angles {show(path)}: {one_line(error)}; give degrees, one number per angle") from error


def _load(path):
    import numpy as np
    with open(path, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not an .npy file; write it with numpy.save")
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a damaged file fails in many ways; all mean the same to the user
        raise ValueError(f"a damaged .npy file, or one of objects ({one_line(error)})") from error
