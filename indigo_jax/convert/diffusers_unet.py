"""The conditional UNets of diffusers (``UNet2DConditionModel``) as parameters of :class:`models.LatentUNet`."""
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
    (r"down_blocks\.(\d+)\.downsamplers\.0\.conv$", r"down_\1_downsample"),
    (r"up_blocks\.(\d+)\.upsamplers\.0\.conv$", r"up_\1_upsample"),
    (r"mid_block\.resnets\.(\d+)\.", r"mid_block_\1."),
    (r"mid_block\.attentions\.0\.", r"mid_attention."),
    (r"conv_norm_out$", r"norm_out"),
    (r"(.+block_\d+)\.conv_shortcut$", r"\1.shortcut"),
    (r"(.+block_\d+)\.time_emb_proj$", r"\1.time"),
    (r"(.*attention\w*)\.transformer_blocks\.0\.", r"\1.block."),
    (r"(.*attention\w*)\.transformer_blocks\.(\d+)\.", r"\1.block_\2."),
    (r"(.+attention\w*\.block\w*)\.norm1$", r"\1.norm_self"),
    (r"(.+attention\w*\.block\w*)\.norm2$", r"\1.norm_cross"),
    (r"(.+attention\w*\.block\w*)\.norm3$", r"\1.norm_feed_forward"),
    (r"(.+attention\w*\.block\w*)\.attn1\.", r"\1.self_attention."),
    (r"(.+attention\w*\.block\w*)\.attn2\.", r"\1.cross_attention."),
    (r"(.+attention\w*\.block\w*\.\w+)\.to_([qkv])$", r"\1.\2"),
    (r"(.+attention\w*\.block\w*\.\w+)\.to_out\.0$", r"\1.proj_out"),
    (r"(.+attention\w*\.block\w*)\.ff\.net\.0\.proj$", r"\1.feed_forward_in"),
    (r"(.+attention\w*\.block\w*)\.ff\.net\.2$", r"\1.feed_forward_out"),
)
_DEFAULTS = {  # of diffusers, for what a config leaves out
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "in_channels": 4, "out_channels": 4,
    "norm_num_groups": 32, "cross_attention_dim": 1280, "attention_head_dim": 8, "num_attention_heads": None,
    "transformer_layers_per_block": 1, "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_FIXED = {  # what the network always does
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "freq_shift": 0, "flip_sin_to_cos": True, "norm_eps": 1e-5,
    "downsample_padding": 1, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default", "resnet_out_scale_factor": 1, "time_embedding_type": "positional",
    "conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default",
}
_WITHOUT_EFFECT = ("_diffusers_version", "_name_or_path", "sample_size", "dropout", "upcast_attention",
                   "use_linear_projection", "addition_embed_type_num_heads")


def diffusers_unet(state_dict: dict[str, np.ndarray], config: dict[str, Any]) -> Params:
    """Parameters for ``models.LatentUNet(**diffusers_unet_arguments(config))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``, in any precision. The projections around the transformers
            may be 1 x 1 convolutions (Stable Diffusion 1) or matrices (2).
        config: as for :func:`diffusers_unet_arguments`.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    module = models.LatentUNet(**diffusers_unet_arguments(config))
    if "conv_in.weight" not in state_dict:
        raise ValueError(f"not a UNet of diffusers: no conv_in.weight among its {len(state_dict)} names")
    params = strict.from_torch(state_dict, _SCOPES, _weight)
    inputs = ((1, 1, 1, module.in_channels), (1,), (1, 1, module.context_dim))
    return strict.check(params, module, inputs=inputs, source="the state_dict")


def diffusers_unet_arguments(config: dict[str, Any]) -> dict:
    """The constructor arguments of :class:`models.LatentUNet` that a config tells.

    Args:
        config: the ``config.json`` beside the weights. What it leaves out is as in diffusers. Its
            ``attention_head_dim`` is, in spite of its name, the number of heads.

    Errors:
        ValueError that names the entry, for any that asks for a network of another kind.
    """
    values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in config.items():
        wanted = _FIXED.get(name)
        if name in _DEFAULTS or name in _WITHOUT_EFFECT or value == wanted or (wanted is None and value is False):
            continue
        raise ValueError(f"a UNet with {name} = {value!r} in its config cannot be converted, only one with {wanted!r}")
    down, up = ([str(kind) for kind in values[f"{name}_block_types"]] for name in ("down", "up"))
    kinds = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
    if [kinds.get(kind) for kind in down] != up[::-1]:
        raise ValueError(f"the blocks {', '.join(down)} and {', '.join(up)} are not (CrossAttn)DownBlock2D, and the "
                         "same on the way up")
    heads = values["num_attention_heads"] or values["attention_head_dim"]
    many = {"block_out_channels": values["block_out_channels"],
            "num_heads": heads if isinstance(heads, (list, tuple)) else [heads] * len(down)}
    depths = values["transformer_layers_per_block"]
    if depths != 1:
        many["transformer_depth"] = depths if isinstance(depths, (list, tuple)) else [depths] * len(down)
    single = {"layers_per_block": values["layers_per_block"], "context_dim": values["cross_attention_dim"],
              "in_channels": values["in_channels"], "out_channels": values["out_channels"],
              "num_groups": values["norm_num_groups"]}
    for name, value in single.items():
        if not _is_count(value):
            raise ValueError(f"{name} should be a number above 0, the config says {value!r}")
    for name, value in many.items():
        if not isinstance(value, (list, tuple)) or len(value) != len(down) or not all(map(_is_count, value)):
            raise ValueError(f"{name} should be {len(down)} numbers above 0, the config says {value!r}")
    return {**{name: tuple(value) for name, value in many.items()}, **single,
            "has_attention": tuple(kind.startswith("CrossAttn") for kind in down)}


def with_added(state_dict: dict[str, np.ndarray], config: dict[str, Any], pooled: np.ndarray | None = None,
               image_size: int = 1024) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The UNet of Stable Diffusion XL without what it is told beside time and context, which becomes part of its time.

    It embeds a text as a whole, the size of the original picture, the corner of a crop and the size of the result, and
    adds that to the embedding of the time. For one text and size it is a constant, here added to the last bias.

    Args:
        state_dict, config: as for :func:`diffusers_unet`; of another network they are given back as they are.
        pooled: the text as a whole ``[D]``; default: zeros, which stand for no text.
        image_size: side of the picture, uncropped.

    Errors:
        ValueError for a text of another length, or a UNet that is told anything else.

    Source: Podell et al., SDXL, 2023 (arXiv 2307.01952), section 2.2.
    """
    if config.get("addition_embed_type") is None:
        return state_dict, config
    first = state_dict.get("add_embedding.linear_1.weight")
    features = config.get("addition_time_embed_dim") or 256
    if config["addition_embed_type"] != "text_time" or first is None or first.shape[1] < 6 * features:
        raise ValueError(f"a UNet with addition_embed_type = {config['addition_embed_type']!r} in its config cannot be "
                         "converted, only one with 'text_time' and its add_embedding, or None")
    if first.shape[1] - 5 * features == config.get("cross_attention_dim", 1280):  # one encoder gives text and whole
        raise ValueError("the UNet of a refiner of Stable Diffusion XL, which is told a score beside the size: that is "
                         "not read here; convert the base model")
    pooled = np.zeros(first.shape[1] - 6 * features) if pooled is None else np.asarray(pooled, np.float64)
    if pooled.shape != (first.shape[1] - 6 * features,):
        raise ValueError(f"the text as a whole is {list(pooled.shape)}, the network takes "
                         f"[{first.shape[1] - 6 * features}]")
    sizes = np.array([image_size, image_size, 0, 0, image_size, image_size], np.float64)
    angles = sizes[:, None] * 10_000.0 ** (-np.arange(features // 2) / (features // 2))
    told = np.concatenate([pooled, np.concatenate([np.cos(angles), np.sin(angles)], axis=1).ravel()])
    for layer in (1, 2):
        weight, bias = (np.asarray(state_dict[f"add_embedding.linear_{layer}.{leaf}"], np.float64)
                        for leaf in ("weight", "bias"))
        told = weight @ (told / (1 + np.exp(-told)) if layer == 2 else told) + bias
    rest = {name: value for name, value in state_dict.items() if not name.startswith("add_embedding.")}
    last = "time_embedding.linear_2.bias"
    rest[last] = np.asarray(rest[last], np.float32) + told.astype(np.float32)
    other = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")
    return rest, {name: value for name, value in config.items() if name not in other}


def _is_count(value):
    return isinstance(value, int) and value > 0


def _weight(scope, value):
    """The projections around a transformer are matrices, also where they were 1 x 1 convolutions."""
    around = re.fullmatch(r"\w+_attention\w*\.proj_(in|out)", scope)
    return value[..., 0, 0] if around and value.shape[2:] == (1, 1) else value
