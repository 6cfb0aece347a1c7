"""The torch checkpoints of DRUNet (KAIR, DPIR) as parameters of :class:`models.DRUNet`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_BLOCK = re.compile(r"m_(down|body|up)(\d?)\.(\d+)\.res\.([02])\.weight")
_BETWEEN = re.compile(r"m_(down|up)(\d)\.(\d+)\.weight")


def drunet(state_dict: dict[str, np.ndarray]) -> Params:
    """Parameters for ``models.DRUNet(**drunet_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``, in any precision: ``m_head``, ``m_down1`` to ``m_down3``,
            ``m_body``, ``m_up3`` to ``m_up1``, ``m_tail``.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used and every parameter is found, with its shape.
    """
    arguments = drunet_arguments(state_dict)
    tensors = dict(_translate(name, np.asarray(value), arguments["num_blocks"]) for name, value in state_dict.items())
    module = models.DRUNet(**arguments)
    inputs = ((1, module.multiple, module.multiple, module.out_channels), (1,))
    return strict.check(strict.nest(tensors), module, inputs=inputs, source="the state_dict")


def drunet_arguments(state_dict: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.DRUNet` that a checkpoint's names and shapes tell.

    Errors:
        ValueError if it is no such checkpoint, or one that is not told the level of the noise.
    """
    shapes = {name: np.shape(value) for name, value in state_dict.items()}
    head, tail = shapes.get("m_head.weight", ()), shapes.get("m_tail.weight", ())
    blocks = [match for name in shapes if (match := _BLOCK.fullmatch(name))]
    body = {int(match[3]) for match in blocks if match[1] == "body"}
    if len(head) != 4 or len(tail) != 4 or not body:
        raise ValueError(f"not a DRUNet: no m_head.weight, m_tail.weight and m_body.0.res.0.weight among its "
                         f"{len(shapes)} names")
    if head[1] != tail[0] + 1:
        raise ValueError(f"a network of {head[1]} channels in and {tail[0]} out: a DRUNet is also given a map of the "
                         "noise level, one more than the picture's; others cannot be a prior")
    downs = sorted({int(match[2]) for match in blocks if match[1] == "down"})
    widths = [shapes.get(f"m_down{level}.0.res.0.weight", head)[0] for level in downs]
    return {"widths": (*widths, shapes["m_body.0.res.0.weight"][0]), "num_blocks": 1 + max(body),
            "out_channels": tail[0]}


def _translate(name, value, num_blocks):
    """Our name and layout; a name that is none keeps its own, for the check to refuse."""
    if match := _BLOCK.fullmatch(name):
        part, level, place, half = match.groups()
        number = int(place) - (part == "up")
        scope = f"{part}_{int(level) - 1}" if level else part
        return f"{scope}_block_{number}_{'in' if half == '0' else 'out'}/kernel", value.transpose(2, 3, 1, 0)
    if (match := _BETWEEN.fullmatch(name)) and value.ndim == 4 and int(match[3]) == (
            num_blocks if match[1] == "down" else 0):
        part, level = match[1], int(match[2]) - 1
        if part == "down":  # [out, in, 2, 2], over blocks of pixels
            kernel = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
        else:  # transposed, [in, out, 2, 2], to blocks of pixels
            kernel = value.transpose(0, 2, 3, 1).reshape(value.shape[0], -1)
        return f"{part}_{level}/kernel", kernel
    if name in ("m_head.weight", "m_tail.weight"):
        return f"{name[2:6]}/kernel", value.transpose(2, 3, 1, 0)
    return name, value
