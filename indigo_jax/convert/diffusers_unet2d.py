"""The unconditional UNets of diffusers (``UNet2DModel``) as parameters of :class:`models.UNet2D`."""
import re
from typing import Any

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_SCOPES = (  # the torch module's name -> ours
    (r"time_embedding\.linear_([12])$", r"time_embed_\1"),
    (r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1_\2_block_\3."),
    (r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1_\2_attention_\3."),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.(?:conv|op)$", r"\1_\2_\3sample"),
    (r"mid_block\.resnets\.(\d+)\.", r"mid_block_\1."),
    (r"mid_block\.attentions\.0\.", r"mid_attention."),
    (r"conv_norm_out$", r"norm_out"),
    (r"(.+block_\d+)\.conv_shortcut$", r"\1.shortcut"),
    (r"(.+block_\d+)\.time_emb_proj$", r"\1.time"),
    (r"(.*attention\w*)\.group_norm$", r"\1.norm"),
    (r"(.*attention\w*)\.(?:query|to_q)$", r"\1.q"),
    (r"(.*attention\w*)\.(?:key|to_k)$", r"\1.k"),
    (r"(.*attention\w*)\.(?:value|to_v)$", r"\1.v"),
    (r"(.*attention\w*)\.(?:proj_attn|to_out\.0)$", r"\1.proj_out"),
)
_DEFAULTS = {  # of diffusers, for what a config leaves out
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "in_channels": 3, "out_channels": 3,
    "norm_num_groups": 32, "norm_eps": 1e-5, "attention_head_dim": 8, "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0, "sample_size": None, "add_attention": True,
    "down_block_types": ("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
}
_FIXED = {  # what the network always does
    "_class_name": "UNet2DModel", "act_fn": "silu", "center_input_sample": False, "time_embedding_type": "positional",
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2D", "resnet_time_scale_shift": "default",
    "class_embed_type": None, "downsample_type": "conv", "upsample_type": "conv", "attn_norm_num_groups": None,
    "time_embedding_dim": None,
}
_WITHOUT_EFFECT = ("_diffusers_version", "_name_or_path", "dropout", "num_train_timesteps", "num_class_embeds",
                   "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step",
                   "use_ema_warmup")


def diffusers_unet2d(state_dict: dict[str, np.ndarray], config: dict[str, Any]) -> Params:
    """Parameters for ``models.UNet2D(**diffusers_unet2d_arguments(config))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``, in any precision. The attention may have its old names
            (``query``, ``key``, ``value``, ``proj_attn``) or its new ones.
        config: as for :func:`diffusers_unet2d_arguments`.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    module = models.UNet2D(**diffusers_unet2d_arguments(config))
    if "conv_in.weight" not in state_dict:
        raise ValueError(f"not a UNet of diffusers: no conv_in.weight among its {len(state_dict)} names")
    params = strict.from_torch(state_dict, _SCOPES, _weight)
    side, channels = 2 ** (len(module.block_out_channels) - 1), config.get("in_channels", 3)
    return strict.check(params, module, inputs=((1, side, side, channels), (1,)), source="the state_dict")


def diffusers_unet2d_arguments(config: dict[str, Any]) -> dict:
    """The constructor arguments of :class:`models.UNet2D` that a config tells.

    Args:
        config: the ``config.json`` beside the weights. What it leaves out is as in diffusers.

    Errors:
        ValueError that names the entry, for any that asks for a network of another kind.
    """
    values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in config.items():
        if name not in _DEFAULTS and name not in _WITHOUT_EFFECT and (name not in _FIXED or value != _FIXED[name]):
            raise ValueError(f"a UNet with {name} = {value!r} in its config cannot be converted, only one with "
                             f"{_FIXED.get(name, 'nothing of this name')!r}")
    down, up = ([str(kind) for kind in values[f"{name}_block_types"]] for name in ("down", "up"))
    kinds = {"DownBlock2D": "UpBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}
    widths = values["block_out_channels"]
    if [kinds.get(kind) for kind in down] != up[::-1] or len(widths) != len(down):
        raise ValueError(f"the blocks {', '.join(down)} and {', '.join(up)} are not (Attn)DownBlock2D, and the same on "
                         f"the way up, for {len(widths)} widths")
    size = values["sample_size"]
    size = size[0] if isinstance(size, (list, tuple)) else size
    return {"block_out_channels": tuple(widths), "has_attention": tuple(kind.startswith("Attn") for kind in down),
            "mid_attention": bool(values["add_attention"]), "layers_per_block": values["layers_per_block"],
            "head_channels": values["attention_head_dim"] or 0, "out_channels": values["out_channels"],
            "image_size": size or 64, "num_groups": values["norm_num_groups"], "epsilon": values["norm_eps"],
            "symmetric": values["downsample_padding"] == 1, "flip": bool(values["flip_sin_to_cos"]),
            "frequency_shift": float(values["freq_shift"])}


def _weight(scope, value):
    """The attention's matrices may be 1 x 1 convolutions."""
    around = re.fullmatch(r"\w*attention\w*\.(q|k|v|proj_out)", scope)
    return value[..., 0, 0] if around and value.shape[2:] == (1, 1) else value
