"""The weights of LPIPS (version 0.1) in torch's files as the arrays that :func:`metrics.load_lpips` reads."""
import pathlib
import re

import numpy as np

from indigo_jax.convert import checkpoint

# of torchvision's lists: the places of convolutions, or of SqueezeNet's blocks
_PLACES = {
    "alex": {0: "conv1", 3: "conv2", 6: "conv3", 8: "conv4", 10: "conv5"},
    "squeeze": {0: "conv1", 3: "fire2", 4: "fire3", 6: "fire4", 7: "fire5", 9: "fire6", 10: "fire7", 11: "fire8",
                12: "fire9"},
    "vgg": {0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3",
            17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"}}
_WORDS = {"alex": "AlexNet", "squeeze": "SqueezeNet", "vgg": "VGG-16"}
_HEADS = {"alex": 5, "squeeze": 7, "vgg": 5}
_PARTS = {"squeeze": "/squeeze", "expand1x1": "/expand1", "expand3x3": "/expand3", None: ""}
_NAMES = re.compile(r"(?:net\.slice\d|features)\.(\d+)\.(?:(squeeze|expand1x1|expand3x3)\.)?(weight|bias)")
_HEAD = re.compile(r"lin(\d)\.model\.1\.weight")


def lpips(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for :func:`metrics.lpips`.

    Args:
        state_dict: ``{torch parameter name: numpy array}`` of the whole network (``net.slice1.0.weight``,
            ``lin0.model.1.weight``), or of its heads and torchvision's AlexNet, SqueezeNet 1.1 or VGG-16
            (``features.0.weight``) together.

    Returns:
        Kernels (HWIO), biases and heads under the names of :func:`metrics.load_lpips`, float32.

    Errors:
        ValueError where one is missing.
    """
    names = [match for name in state_dict if (match := _NAMES.fullmatch(name))]
    network = "squeeze" if any(match[2] for match in names) else (
        "vgg" if any(match[1] == "28" for match in names) else "alex")
    found, places = {}, _PLACES[network]
    for name, value in state_dict.items():
        value = np.asarray(value)
        if (match := _NAMES.fullmatch(name)) and int(match[1]) in places:
            kernel, value = match[3] == "weight", value.astype(np.float32)
            found[f"{places[int(match[1])]}{_PARTS[match[2]]}/{'kernel' if kernel else 'bias'}"] = (
                value.transpose(2, 3, 1, 0) if kernel and value.ndim == 4 else value)
        elif match := _HEAD.fullmatch(name):
            found[f"lin{match[1]}"] = value.astype(np.float32).reshape(-1)
    missing = [name for name in _wanted(network) if name not in found]
    if missing:
        kind = "heads" if missing[0].startswith("lin") else f"{_WORDS[network]}'s convolutions"
        raise ValueError(f"not all of LPIPS: its {kind} are missing ({missing[0]} of {len(missing)}); give the whole "
                         "network's state_dict, or a folder with the files of its heads and of torchvision's "
                         f"{_WORDS[network]}")
    return found


def _wanted(network):
    parts = [f"{place}{part}" for place in _PLACES[network].values()
             for part in (("/squeeze", "/expand1", "/expand3") if place.startswith("fire") else ("",))]
    return [*(f"{part}/{leaf}" for part in parts for leaf in ("kernel", "bias")),
            *(f"lin{i}" for i in range(_HEADS[network]))]


def read_lpips(source) -> dict[str, np.ndarray]:
    """:func:`lpips` of a file, or of all checkpoints in a folder together.

    Errors:
        ValueError for a source that is not there, or not LPIPS.
    """
    path = pathlib.Path(source)
    tensors = _tensors(path)
    try:
        tensors = checkpoint.cut(tensors, "")[0]
        damaged = [name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
        if damaged:
            raise ValueError(f"{damaged[0]} holds NaN or infinity: the checkpoint is damaged")
        return lpips(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_lpips(source) -> bool:
    """Whether a file, or a folder without a config, has heads of LPIPS: whole, or to be missed with a clear error."""
    path = pathlib.Path(source)
    try:
        return not (path.is_dir() and any(path.glob("*.json"))) and any(map(_HEAD.fullmatch, _tensors(path)))
    except (ValueError, OSError):
        return False


def _tensors(path):
    """Of a file, or of all checkpoints in a folder, not read yet where the file allows it."""
    files = [file for file in sorted(path.iterdir()) if file.suffix in checkpoint.SUFFIXES] if path.is_dir() else [path]
    return {name: value for file in files for name, value in checkpoint.read(file).tensors.items()}
