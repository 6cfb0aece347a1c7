"""The torch checkpoints of SwinIR as parameters of :class:`models.SwinIR`."""
import math
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_SCOPES = (  # the torch module's name -> ours
    (r"conv_first(\.1)?$", "conv_first"), (r"patch_embed\.norm$", "norm_in"), (r"norm$", "norm_out"),
    (r"conv_before_upsample\.0$", "conv_before_up"), (r"conv_up(\d)$", lambda m: f"conv_up_{int(m[1]) - 1}"),
    (r"layers\.(\d+)\.conv$", r"group_\1_conv"),
    (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.", r"group_\1_block_\2."),
    (r"(group_\d+_block_\d+)\.norm1$", r"\1.norm_attention"), (r"(group_\d+_block_\d+)\.norm2$", r"\1.norm_dense"),
    (r"(group_\d+_block_\d+)\.attn\.qkv$", r"\1.qkv"), (r"(group_\d+_block_\d+)\.attn\.proj$", r"\1.proj"),
    (r"(group_\d+_block_\d+)\.mlp\.fc1$", r"\1.dense_in"), (r"(group_\d+_block_\d+)\.mlp\.fc2$", r"\1.dense_out"),
    (r"(group_\d+_block_\d+)\.attn$", r"\1"))
_COMPUTED = re.compile(r"layers\.\d+\.residual_group\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)")


def swinir(state_dict: dict[str, np.ndarray]) -> Params:
    """Parameters for ``models.SwinIR(**swinir_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``. Masks and indices of the windows are left out.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    module = models.SwinIR(**swinir_arguments(state_dict))
    state = {name.replace("relative_position_bias_table", "position_bias"): np.asarray(value)
             for name, value in state_dict.items() if not _COMPUTED.fullmatch(name)}
    side = module.unshuffle
    if side > 1:  # torch folds pixels with the colour first, here it is last
        kernel = state["conv_first.1.weight"]
        kernel = kernel.reshape(len(kernel), 3, side * side, 3, 3).swapaxes(1, 2).reshape(kernel.shape)
        state["conv_first.1.weight"] = kernel
    params = strict.from_torch(state, _SCOPES)
    return strict.check(params, module, size=side * module.window, source="the state_dict")


def swinir_arguments(state_dict: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.SwinIR` that names and shapes tell.

    Errors:
        ValueError if it is no such checkpoint, or one that enlarges.
    """
    shapes = {name: np.shape(value) for name, value in state_dict.items()}
    first = shapes.get("conv_first.1.weight", shapes.get("conv_first.weight", ()))
    table = shapes.get("layers.0.residual_group.blocks.0.attn.relative_position_bias_table", ())
    if len(first) != 4 or len(table) != 2:
        raise ValueError("not a SwinIR: no conv_first.weight and layers.0.residual_group.blocks.0.attn."
                         f"relative_position_bias_table among its {len(shapes)} names")
    unshuffle = math.isqrt(first[1] // 3)
    doubled = sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in shapes)
    if first[1] != 3 * unshuffle**2 or 2**doubled != unshuffle or any(name.startswith("upsample.") for name in shapes):
        raise ValueError(f"a SwinIR that folds pixels by {unshuffle} and enlarges by "
                         f"{'shuffling' if any(name.startswith('upsample.') for name in shapes) else 2**doubled}: only "
                         "one that keeps the size of colour pictures can be converted")
    groups = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"layers\.(\d+)\.", name)))
    depths = [len({name.split(".")[4] for name in shapes if name.startswith(f"layers.{group}.residual_group.")})
              for group in range(groups)]
    hidden = shapes.get("layers.0.residual_group.blocks.0.mlp.fc1.weight", (0,))[0]
    up = shapes.get("conv_before_upsample.0.weight")
    return {"width": first[0], "depths": tuple(depths), "num_heads": table[1],
            "window": (math.isqrt(table[0]) + 1) // 2, "mlp_ratio": hidden / first[0], "unshuffle": unshuffle,
            **({"features": up[0]} if up else {})}
