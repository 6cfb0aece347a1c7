"""The torch checkpoints of DDPM's UNet (DDIM, SDEdit, BIRD) as parameters of :class:`models.DDPMUNet`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_SCOPES = (  # the torch module's name -> ours
    (r"temb\.dense\.(\d)", r"temb_dense_\1"),
    (r"(down|up)\.(\d+)\.(block|attn)\.(\d+)", r"\1_\2_\3_\4"),
    (r"(down|up)\.(\d+)\.(downsample|upsample)\.conv", r"\1_\2_\3"),
    (r"mid\.(block|attn)_(\d)", r"mid_\1_\2"),
)


def ddpm_unet(state_dict: dict[str, np.ndarray], *, image_size: int | None = None, num_groups: int = 32) -> Params:
    """Parameters for ``models.DDPMUNet(**ddpm_unet_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``; a leading ``module.`` (of DataParallel) is dropped.
        image_size: side of the pictures of its training; default: such that its attention lies at 16 x 16.
        num_groups: of every GroupNorm, of which a checkpoint says nothing.

    Returns:
        The linen variables dict.

    Errors:
        ValueError unless every array is used and every parameter is found, with its shape.
    """
    module = models.DDPMUNet(**ddpm_unet_arguments(state_dict, image_size=image_size), num_groups=num_groups)
    tensors = {}
    for name, value in _without_prefix(state_dict).items():
        *scope, leaf = name.split(".")
        scope = ".".join(scope)
        for pattern, ours in _SCOPES:
            scope = re.sub(f"^{pattern}", ours, scope)
        value = np.asarray(value)
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        tensors[f"{scope}/{leaf}".replace(".", "/")] = value
    size = 2 ** (len(module.multipliers) - 1)
    return strict.check(strict.nest(tensors), module, size=size, source="the state_dict")


def ddpm_unet_arguments(state_dict: dict[str, np.ndarray], *, image_size: int | None = None) -> dict:
    """The constructor arguments of :class:`models.DDPMUNet` that a checkpoint's names and shapes tell.

    Errors:
        ValueError if it is no such checkpoint.
    """
    state = _without_prefix(state_dict)
    levels = [int(match[1]) for name in state if (match := re.match(r"down\.(\d+)\.block\.0\.conv1\.weight$", name))]
    if "conv_in.weight" not in state or not levels:
        raise ValueError("not a DDPM UNet: no conv_in.weight and down.0.block.0.conv1.weight among its "
                         f"{len(state)} names")
    channels = state["conv_in.weight"].shape[0]
    widths = [state[f"down.{level}.block.0.conv1.weight"].shape[0] for level in sorted(levels)]
    attends = [level for level in sorted(levels) if f"down.{level}.attn.0.q.weight" in state]
    image_size = image_size or 16 * 2 ** (attends[0] if attends else len(levels) - 1)
    return {"channels": channels, "multipliers": tuple(width // channels for width in widths),
            "num_res_blocks": sum(re.match(r"down\.0\.block\.\d+\.conv1\.weight$", name) is not None for name in state),
            "attention_resolutions": tuple(image_size // 2**level for level in attends), "image_size": image_size,
            "out_channels": state["conv_out.weight"].shape[0]}


def _without_prefix(state_dict):
    return {name.removeprefix("module."): value for name, value in state_dict.items()}
