"""What flags name beside pictures: masks, blur kernels, angles, grids; and sinograms as input."""
import math
import pathlib
import re

from indigo_jax.cli.messages import UsageError, one_line, show

_MAGIC = b"\x93NUMPY"


def read_mask(path):
    """1 where the picture is kept, float32 ``[H, W]``; white is the area to fill."""
    import numpy as np

    from indigo_jax import images
    try:
        pixels = images.read(path).pixels
    except (images.ImageError, OSError) as error:
        raise UsageError(f"--mask {one_line(error)}") from error
    mask = (pixels.mean(axis=-1) < 0).astype(np.float32)
    if mask.all() or not mask.any():
        what = "no white pixel, so there is nothing to fill" if mask.all() else "only white pixels, so nothing is left"
        raise UsageError(f"--mask {path}: {what}; paint the area to fill white on black")
    return mask


def read_kernel(path):
    """A blur kernel ``[h, w]`` without negative entries, of sum 1."""
    import numpy as np

    from indigo_jax import operators
    try:
        kernel = np.asarray(operators.load_kernel(path))
    except (ValueError, OSError) as error:
        raise UsageError(f"--kernel: {one_line(error)}") from error
    if (kernel < 0).any() or not math.isclose(kernel.sum(), 1.0, rel_tol=1e-3):
        raise UsageError(f"--kernel {path}: a blur kernel has no negative entries; the smallest is {kernel.min():.3g}")
    return kernel


def read_grid(text):
    """``"2x3"`` as (2, 3)."""
    found = re.fullmatch(r"([1-8])x([1-8])", text)
    if not found:
        raise UsageError(f"argument --grid: give ROWSxCOLUMNS, 1 to 8 of each, as 2x3, not {text!r}")
    return int(found[1]), int(found[2])


def read_angles(path):
    """Angles in degrees from an ``.npy`` file or a text of numbers."""
    import numpy as np
    try:
        if pathlib.Path(path).suffix.lower() == ".npy":
            return _load(path)
        text = pathlib.Path(path).read_text(encoding="utf-8").replace(",", " ")
        return np.array([float(word) for word in text.split()])
    except (ValueError, OSError) as error:
        raise UsageError(f"--angles {show(path)}: {one_line(error)}; give degrees, one number per angle") from error


READERS = {"mask": read_mask, "kernel": read_kernel, "grid": read_grid}  # by what a flag's value is read from


def sinogram_reader(angles):
    """``read(path) -> Sinogram`` from ``.npy`` files; nothing is ever unpickled. ``angles``: a file, or None."""
    from indigo_jax.methods.sinograms import sinogram
    angles = None if angles is None else read_angles(angles)
    return lambda path: sinogram(_load(path), angles)


def _load(path):
    import numpy as np
    with open(path, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not an .npy file; write it with numpy.save")
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a damaged file fails in many ways; all mean the same to the user
        raise ValueError(f"a damaged .npy file, or one of objects ({one_line(error)})") from error
