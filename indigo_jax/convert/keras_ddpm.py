"""Weights of the Keras DDPM example as parameters of :class:`models.KerasUNet`."""
from collections.abc import Iterator

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_CONV, _DENSE, _NORM = "conv2d", "dense", "group_normalization"


def keras_ddpm(arrays: dict[str, np.ndarray], module: models.KerasUNet | None = None) -> Params:
    """Parameters for a :class:`models.KerasUNet`, from arrays named by kind and order of creation.

    Args:
        arrays: ``{"conv2d/000/kernel": array, ...}``; kinds ``conv2d``, ``dense``, ``group_normalization``, each
            counted in the order in which Keras made its layers.
        module: the network; default: ``models.KerasUNet()``.

    Returns:
        The linen variables dict.

    Errors:
        ValueError unless every array is used and every parameter is found, with its shape.
    """
    module = models.KerasUNet() if module is None else module
    counts, tensors, used = {_CONV: 0, _DENSE: 0, _NORM: 0}, {}, set()
    for kind, path in keras_ddpm_layers(module):
        parts = {"gamma": "scale", "beta": "bias"} if kind == _NORM else {"kernel": "kernel", "bias": "bias"}
        for theirs, ours in parts.items():
            name = f"{kind}/{counts[kind]:03d}/{theirs}"
            if name not in arrays:
                raise ValueError(f"the file lacks {name} (our {path}) for KerasUNet")
            used.add(name)
            tensors[f"{path}/{ours}"] = arrays[name]
        counts[kind] += 1
    unused = sorted(arrays.keys() - used)
    if unused:
        raise ValueError(f"the file has {len(unused)} arrays that KerasUNet has no place for: {', '.join(unused[:4])}")
    return strict.check(strict.nest(tensors), module, size=2 ** (len(module.widths) - 1), source="the file")


def load_quantised(path) -> dict[str, np.ndarray]:
    """Read an ``.npz`` with ``NAME.q`` (whole numbers) and ``NAME.scale_min`` (two numbers): ``q * scale + min``.

    Errors:
        ValueError for a file that is no such archive, holds other things, or would have to be unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if name.endswith(".q")]
            if not names or any(name + suffix not in archive for name in (n[:-2] for n in names)
                                for suffix in (".scale_min",)):
                raise ValueError("it does not hold pairs NAME.q and NAME.scale_min")
            arrays = {}
            for name in names:
                scale, low = archive[f"{name[:-2]}.scale_min"]
                arrays[name[:-2]] = archive[name].astype(np.float32) * np.float32(scale) + np.float32(low)
            return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken archive fails in many ways; all mean the same to the user
        raise ValueError(f"{path}: not an archive of quantised weights ({error})") from error


def keras_ddpm_layers(module: models.KerasUNet) -> Iterator[tuple[str, str]]:
    """(kind, our path) of every layer in the order in which the Keras example makes them."""
    width_in = module.first_channels

    def block(name, width, attention):
        nonlocal width_in
        if width_in != width:
            yield _CONV, f"{name}_block/shortcut"
        yield _DENSE, f"{name}_block/time"
        for norm, conv in (("norm_in", "conv_in"), ("norm_out", "conv_out")):
            yield _NORM, f"{name}_block/{norm}"
            yield _CONV, f"{name}_block/{conv}"
        width_in = width
        if attention:
            yield _NORM, f"{name}_attention/norm"
            yield from ((_DENSE, f"{name}_attention/{part}") for part in ("query", "key", "value", "proj"))

    yield _CONV, "conv_in"
    yield _DENSE, "time_in"
    yield _DENSE, "time_out"
    skips, last = [width_in], len(module.widths) - 1
    for level, width in enumerate(module.widths):
        for i in range(module.num_res_blocks):
            yield from block(f"down_{level}_{i}", width, module.has_attention[level])
            skips.append(width)
        if level < last:
            yield _CONV, f"down_{level}_downsample"
            skips.append(width)
    yield from block("mid_0", module.widths[-1], True)
    yield from block("mid_1", module.widths[-1], False)
    for level, width in reversed(list(enumerate(module.widths))):
        for i in range(module.num_res_blocks + 1):
            width_in += skips.pop()
            yield from block(f"up_{level}_{i}", width, module.has_attention[level])
        if level:
            yield _CONV, f"up_{level}_upsample"
    yield _NORM, "norm_out"
    yield _CONV, "conv_out"
