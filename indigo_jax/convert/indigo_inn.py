"""The torch checkpoints of INDIGO+'s invertible network as parameters of :class:`models.WaveletINN`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_NAME = re.compile(r"transform_net\.inn\.lifts\.(\d+)\.([pu])\.net\.(?:(convin|convout)|"
                   r"blocks\.(\d+)\.(conv1|conv2|fc\.0|fc\.2))\.(weight|bias)")
_PARTS = {"p": "predict", "u": "update"}
_LAYERS = {"convin": "conv_in", "convout": "conv_out", "conv1": "conv1", "conv2": "conv2", "fc.0": "dense1",
           "fc.2": "dense2"}


def indigo_inn(state_dict: dict[str, np.ndarray]) -> Params:
    """Parameters for ``models.WaveletINN(**indigo_inn_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``; a leading ``module.`` (of DataParallel) is dropped.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    arguments = indigo_inn_arguments(state_dict)
    tensors, sources = {}, {}
    for name, value in state_dict.items():
        ours, value = _translate(name.removeprefix("module."), np.asarray(value))
        if ours in tensors:
            raise ValueError(f"the state_dict has the same parameter twice: {sources[ours]} and {name}")
        tensors[ours], sources[ours] = value, name
    module = models.WaveletINN(**arguments)
    inputs = ((1, 8, 8, module.channels), (1, module.cond_dim))
    return strict.check(strict.nest(tensors), module, inputs=inputs, source="the state_dict")


def indigo_inn_arguments(state_dict: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.WaveletINN` that a checkpoint's names and shapes tell.

    Slicing is that of the released network, ``"overlap"``. A checkpoint says nothing of levels and offset.

    Errors:
        ValueError if it is no such checkpoint.
    """
    shapes = {name.removeprefix("module."): np.shape(value) for name, value in state_dict.items()}
    first = "transform_net.inn.lifts.0.p.net."
    matches = [match for name in shapes if (match := _NAME.fullmatch(name))]
    conv, dense = shapes.get(f"{first}convin.weight", ()), shapes.get(f"{first}blocks.0.fc.0.weight", ())
    if len(conv) != 4 or len(dense) != 2:
        raise ValueError(f"not INDIGO's invertible network: no {first}convin.weight and blocks.0.fc.0.weight among its "
                         f"{len(shapes)} names")
    return {"channels": conv[1], "lifting_steps": 1 + max(int(match[1]) for match in matches), "width": conv[0],
            "cond_dim": dense[1], "detail_slicing": "overlap",
            "num_blocks": 1 + max(int(match[4]) for match in matches if match[4]), "cond_width": dense[0]}


def _translate(name, value):
    """Our name and layout of a torch parameter; a name that is none keeps its own, for the check to refuse."""
    match = _NAME.fullmatch(name)
    if not match:
        return name, value
    block = f"block_{match[4]}/" if match[4] else ""
    path = f"lifting/step_{match[1]}/{_PARTS[match[2]]}/{block}{_LAYERS[match[3] or match[5]]}"
    if match[6] == "bias":
        return f"{path}/bias", value
    return f"{path}/kernel", value.transpose(*range(2, value.ndim), 1, 0)
