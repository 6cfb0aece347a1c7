"""The weights of LPIPS (AlexNet, version 0.1) in torch's files as the arrays that :func:`metrics.load_lpips` reads."""
import pathlib
import re

import numpy as np

from indigo_jax.convert import checkpoint

_CONVOLUTIONS = {0: "conv1", 3: "conv2", 6: "conv3", 8: "conv4", 10: "conv5"}  # by their place in AlexNet's list
_NAMES = re.compile(r"(?:net\.slice\d|features)\.(\d+)\.(weight|bias)")
_HEADS = re.compile(r"lin(\d)\.model\.1\.weight")


def lpips(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for :func:`metrics.lpips`.

    Args:
        state_dict: ``{torch parameter name: numpy array}`` of the whole network (``net.slice1.0.weight``,
            ``lin0.model.1.weight``), or of its heads and torchvision's AlexNet (``features.0.weight``) together.

    Returns:
        ``conv1/kernel`` (HWIO), ``conv1/bias`` to ``conv5/...``, and the heads ``lin0`` to ``lin4``, float32.

    Errors:
        ValueError where one is missing.
    """
    found = {}
    for name, value in state_dict.items():
        if (match := _NAMES.fullmatch(name)) and int(match[1]) in _CONVOLUTIONS:
            kernel = match[2] == "weight"
            value = np.asarray(value, np.float32)
            found[f"{_CONVOLUTIONS[int(match[1])]}/{'kernel' if kernel else 'bias'}"] = (
                value.transpose(2, 3, 1, 0) if kernel and value.ndim == 4 else value)
        elif match := _HEADS.fullmatch(name):
            found[f"lin{match[1]}"] = np.asarray(value, np.float32).reshape(-1)
    wanted = [f"{name}/{leaf}" for name in _CONVOLUTIONS.values() for leaf in ("kernel", "bias")]
    missing = [name for name in (*wanted, *(f"lin{i}" for i in range(5))) if name not in found]
    if missing:
        kind = "heads" if missing[0].startswith("lin") else "AlexNet's convolutions"
        raise ValueError(f"not all of LPIPS: its {kind} are missing ({missing[0]} of {len(missing)}); give the whole "
                         "network's state_dict, or a folder with the files of its heads and of torchvision's AlexNet")
    return found


def read_lpips(source) -> dict[str, np.ndarray]:
    """:func:`lpips` of a file, or of all checkpoints in a folder together.

    Errors:
        ValueError for a source that is not there, or not LPIPS.
    """
    path = pathlib.Path(source)
    files = [file for file in sorted(path.iterdir()) if file.suffix in checkpoint.SUFFIXES] if path.is_dir() else [path]
    tensors = {name: checkpoint.array(value) for file in files for name, value in checkpoint.read(file).tensors.items()}
    try:
        return lpips(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
