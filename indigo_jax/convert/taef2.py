"""The torch checkpoints of TAEF2 and TAESD as parameters of :class:`models.TinyAutoencoder`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_BLOCK = {"conv.0": "conv_0", "conv.2": "conv_1", "conv.4": "conv_2", "pool.0": "pool_in", "pool.1": "pool_norm",
          "pool.3": "pool_out"}
_NAME = re.compile(r"((?:encoder|decoder)\.\d+)(?:\.(.+))?\.(weight|bias)")


def taef2(arrays: dict[str, np.ndarray]) -> Params:
    """Parameters for ``models.TinyAutoencoder(**taef2_arguments(arrays))``.

    Args:
        arrays: ``{torch parameter name: numpy array}`` of both halves, in any precision: ``encoder.`` or ``decoder.``
            before the names of the two files, ``encoder.0.weight`` and so on. Or those of diffusers
            (``AutoencoderTiny``), ``encoder.layers.0.weight``.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used and every parameter is found, with its shape.
    """
    arrays = _original(arrays)
    module = models.TinyAutoencoder(**taef2_arguments(arrays))
    places, tensors = _places(module), {}
    for name, value in arrays.items():
        match, value = _NAME.fullmatch(name), np.asarray(value)
        path = places.get(match[1]) if match else None
        if path and match[2]:
            path = f"{path}/{_BLOCK[match[2]]}" if match[2] in _BLOCK else None
        if path and match[3] == "weight":
            name = f"{path}/{'scale' if value.ndim == 1 else 'kernel'}"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        elif path:
            name = f"{path}/bias"
        tensors[name] = value  # a name that is none keeps its own, for the check to refuse
    inputs = ((1, module.factor, module.factor, module.out_channels),)
    return strict.check(strict.nest(tensors), module, inputs=inputs, source="the checkpoint")


def taef2_arguments(arrays: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.TinyAutoencoder` that a checkpoint's names and shapes tell.

    Errors:
        ValueError if it is no such checkpoint.
    """
    arrays = _original(arrays)
    shape = np.shape(arrays.get("decoder.1.weight", ()))
    if len(shape) != 4 or "encoder.0.weight" not in arrays:
        raise ValueError("not a TAEF2 or TAESD: no encoder.0.weight and decoder.1.weight of 4 axes among its "
                         f"{len(arrays)} names")
    pool = np.shape(arrays.get("decoder.3.pool.0.weight", ()))
    return {"latent_channels": shape[1], "channels": shape[0], "pool_channels": pool[0] if pool else 0}


def _original(arrays):
    """The names of diffusers as the original ones: there the decoder's first entry, which only computes, is none."""
    def name_of(name):
        name = re.sub(r"^encoder\.layers\.", "encoder.", name)
        return re.sub(r"^decoder\.layers\.(\d+)", lambda match: f"decoder.{int(match[1]) + 1}", name)

    return {name_of(name): value for name, value in arrays.items()}


def _places(module):
    """Our name of every numbered entry of the reference's two lists that has parameters."""
    def blocks(level):
        return [f"block_{level}_{i}" for i in range(module.num_blocks if level else 1)]

    encoder, decoder = ["conv_in"], [None, "conv_in", None]  # None: an entry that only computes
    for level in range(module.levels + 1):
        encoder += ([f"down_{level}"] if level else []) + blocks(level)
    for level in range(module.levels, -1, -1):
        decoder += blocks(level) + ([None, f"up_{level}"] if level else [])
    return {f"{half}.{number}": f"{half}/{name}"
            for half, names in (("encoder", encoder), ("decoder", decoder))
            for number, name in enumerate([*names, "conv_out"]) if name}
