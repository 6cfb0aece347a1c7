"""Our networks as folders of ``save_pretrained``: the inverse of the converters, and checked by them."""
import json
import pathlib
import re
import secrets
import shutil
from typing import Any

import jax
import numpy as np

from indigo_jax import models, schedules
from indigo_jax.convert.diffusers_unet import diffusers_unet
from indigo_jax.convert.diffusers_unet2d import diffusers_unet2d
from indigo_jax.convert.diffusers_vae import diffusers_vae
from indigo_jax.typing import Params

_FIRST = (  # our scopes -> those of diffusers, one after the other
    (r"(^|\.)(down|up)_(\d+)_block_(\d+)\.", r"\1\2_blocks.\3.resnets.\4."),
    (r"(^|\.)(down|up)_(\d+)_attention_(\d+)\.", r"\1\2_blocks.\3.attentions.\4."),
    (r"(^|\.)(down|up)_(\d+)_(down|up)sample$", r"\1\2_blocks.\3.\4samplers.0.conv"),
    (r"(^|\.)mid_block_(\d+)\.", r"\1mid_block.resnets.\2."), (r"(^|\.)mid_attention\.", r"\1mid_block.attentions.0."),
    (r"(^|\.)norm_out$", r"\1conv_norm_out"), (r"\.shortcut$", ".conv_shortcut"), (r"\.time$", ".time_emb_proj"),
    (r"^time_embed_(\d)$", r"time_embedding.linear_\1"))
_SINGLE = ((r"(attentions\.\d+)\.norm$", r"\1.group_norm"), (r"(attentions\.\d+)\.([qkv])$", r"\1.to_\2"),
           (r"(attentions\.\d+)\.proj_out$", r"\1.to_out.0"))
_TRANSFORMER = ((r"\.block\.", ".transformer_blocks.0."), (r"\.block_(\d+)\.", r".transformer_blocks.\1."),
                (r"\.norm_self$", ".norm1"), (r"\.norm_cross$", ".norm2"), (r"\.norm_feed_forward$", ".norm3"),
                (r"\.self_attention\.", ".attn1."), (r"\.cross_attention\.", ".attn2."),
                (r"(\.attn\d)\.([qkv])$", r"\1.to_\2"), (r"(\.attn\d)\.proj_out$", r"\1.to_out.0"),
                (r"\.feed_forward_in$", ".ff.net.0.proj"), (r"\.feed_forward_out$", ".ff.net.2"))
_DDPM = ((r"^temb_dense_0", "time_embed_1"), (r"^temb_dense_1", "time_embed_2"), (r"^mid_block_1", "mid_block_0"),
         (r"^mid_block_2", "mid_block_1"), (r"^mid_attn_1", "mid_attention"), (r"_attn_(\d+)\.", r"_attention_\1."),
         (r"\.temb_proj$", ".time"), (r"\.nin_shortcut$", ".shortcut"))


def to_diffusers(module, params: Params, info: dict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """``(state_dict, config)`` of a network that diffusers has, too.

    Args:
        module: a :class:`models.DDPMUNet` (without folded pixels), :class:`models.UNet2D`, :class:`models.LatentUNet`,
            :class:`models.PromptedUNet` (without its context) or :class:`models.AutoencoderKL`.
        params: its variables.
        info: of its weights.

    Errors:
        ValueError for any other network, and one that its own converter would not read back with the same numbers.
    """
    name, tree = type(module).__name__, params["params"]
    if name == "PromptedUNet":
        module, tree = _without_prompt(module), tree["unet"]
    if isinstance(module, models.DDPMUNet):
        module, tree = _as_unet2d(module, tree)
    if isinstance(module, models.UNet2D):
        config = _unet2d_config(module)
        state = _state(tree, (*_FIRST, *_SINGLE))
        back = diffusers_unet2d(state, config)
    elif isinstance(module, models.LatentUNet) and module.context_dim:
        config = _unet_config(module, info)
        state = _state(tree, (*_FIRST, *_TRANSFORMER))
        back = diffusers_unet(state, config)
    elif isinstance(module, models.AutoencoderKL):
        config = _vae_config(module)
        state = _state(tree, (*_FIRST, *_SINGLE))
        back = diffusers_vae(state, num_groups=module.num_groups)
    else:
        raise ValueError(f"a {name} is no network of diffusers; these are: DDPMUNet, UNet2D, LatentUNet with a "
                         "context, PromptedUNet, AutoencoderKL")
    if not jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, np.asarray(b, np.float32)), back["params"],
                                     _plain(tree))):
        raise ValueError(f"the {name} would be read back with other numbers")
    return state, config


def scheduler_config(info: dict) -> dict | None:
    """The ``scheduler_config.json`` of a prior; None where diffusers has no such schedule, or it is no prior."""
    stored = info.get("schedule") or {}
    predictions = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
    if stored.get("name") not in ("linear", "scaled_linear", "cosine", "own") or info["prediction"] not in predictions:
        return None
    config = {"_class_name": "DDIMScheduler", "prediction_type": predictions[info["prediction"]],
              "clip_sample": info.get("kind") != "latent prior" and "autoencoder" not in info,
              "steps_offset": int(info.get("steps_offset", 0)), "set_alpha_to_one": info.get("set_alpha_to_one", True),
              "timestep_spacing": info.get("timestep_spacing", "leading")}
    if stored["name"] in ("linear", "scaled_linear"):
        return {**config, "beta_schedule": stored["name"], "num_train_timesteps": stored["num_timesteps"],
                "beta_start": stored["beta_start"], "beta_end": stored["beta_end"]}
    levels = schedules.from_json(stored)
    betas = 1 - np.asarray(levels.alpha_bar, np.float64) / np.asarray(levels.alpha_bar_prev, np.float64)
    return {**config, "num_train_timesteps": len(betas), "trained_betas": betas.tolist()}


def save(folder, module, params: Params, info: dict) -> list[str]:
    """Write ``config.json``, ``diffusion_pytorch_model.safetensors`` and what belongs to it; whole, or not at all.

    Args:
        folder: a new folder, of ``from_pretrained``.
        module, params, info: as :func:`weights.load` gives them.

    Returns:
        Names of the files: of a prior its scheduler's config, of one that sees a text its embedding, too.

    Errors:
        ValueError as for :func:`to_diffusers`, and for a folder that is there already or cannot be written.
    """
    from safetensors.numpy import save_file
    folder = pathlib.Path(folder)
    if folder.exists():
        raise ValueError(f"{folder}: is there already; give a new folder")
    state, config = to_diffusers(module, params, info)
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        save_file({name: np.ascontiguousarray(value) for name, value in state.items()},
                  temporary / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        jsons = {"config.json": config, "scheduler_config.json": scheduler_config(info)}
        for name, value in jsons.items():
            if value is not None:
                (temporary / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        for name in ("context", "empty_context"):
            if name in params["params"]:
                np.save(temporary / f"{name}.npy", np.asarray(params["params"][name], np.float32))
        temporary.rename(folder)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(path.name for path in folder.iterdir())


def _state(tree, rules):
    """Names and layouts of torch: ``[O, I, H, W]`` for convolutions, ``[O, I]`` for matrices."""
    found = {}
    for name, value in _leaves(tree):
        scope, _, leaf = name.rpartition(".")
        for pattern, theirs in rules:
            scope = re.sub(pattern, theirs, scope)
        value = np.asarray(value, np.float32)
        if leaf == "kernel":
            value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
            if re.search(r"attentions\.\d+\.to_", scope) and value.ndim == 4:  # a matrix in diffusers
                value = value[..., 0, 0]
        found[f"{scope}.{'bias' if leaf == 'bias' else 'weight'}"] = value
    return found


def _leaves(tree, prefix=""):
    for name, value in tree.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(tree):
    return {name: _plain(value) if hasattr(value, "items") else value for name, value in tree.items()}


def _without_prompt(module):
    shared = {name: getattr(module, name) for name in (
        "block_out_channels", "has_attention", "layers_per_block", "num_heads", "in_channels", "out_channels",
        "num_groups", "transformer_depth")}
    return models.LatentUNet(context_dim=module.prompt_channels, **shared)


def _as_unet2d(module, tree):
    """The network of the torch port as diffusers' own, which computes the same."""
    if module.patch_size != 1:
        raise ValueError("a DDPMUNet with folded pixels, as the bundled ones, is no network of diffusers")
    last = len(module.multipliers) - 1
    sides = [module.image_size // 2**level for level in range(last + 1)]
    found = {}
    for name, value in _leaves(tree):
        scope, _, leaf = name.rpartition(".")
        for pattern, ours in (*_DDPM, (r"^up_(\d+)_", lambda match: f"up_{last - int(match[1])}_")):
            scope = re.sub(pattern, ours, scope)
        value = np.asarray(value)
        if re.search(r"attention\w*\.(q|k|v|proj_out)$", scope) and leaf == "kernel":
            value = value[0, 0]
        *folders, end = f"{scope}.{leaf}".split(".")
        branch = found
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[end] = value
    unet = models.UNet2D(
        tuple(int(module.channels * multiplier) for multiplier in module.multipliers),
        tuple(side in module.attention_resolutions for side in sides), True, module.num_res_blocks, 0,
        module.out_channels, module.image_size, module.num_groups, epsilon=1e-6, symmetric=False, flip=False,
        frequency_shift=1.0)
    return unet, found


def _blocks(module, kind, prefix):
    names = [f"{prefix * has}{kind}" for has in module.has_attention]
    return names if kind.startswith("Down") else names[::-1]


def _unet2d_config(module):
    return {"_class_name": "UNet2DModel", "sample_size": module.image_size, "in_channels": 3,
            "out_channels": module.out_channels, "block_out_channels": list(module.block_out_channels),
            "layers_per_block": module.layers_per_block, "down_block_types": _blocks(module, "DownBlock2D", "Attn"),
            "up_block_types": _blocks(module, "UpBlock2D", "Attn"), "add_attention": module.mid_attention,
            "attention_head_dim": module.head_channels or None, "norm_num_groups": module.num_groups,
            "norm_eps": module.epsilon, "downsample_padding": int(module.symmetric),
            "flip_sin_to_cos": module.flip, "freq_shift": int(module.frequency_shift)}


def _unet_config(module, info):
    heads, depth = module.num_heads, module.transformer_depth
    return {"_class_name": "UNet2DConditionModel", "sample_size": max(int(info.get("image_size", 512)) // 8, 1),
            "in_channels": module.in_channels, "out_channels": module.out_channels,
            "block_out_channels": list(module.block_out_channels), "layers_per_block": module.layers_per_block,
            "down_block_types": _blocks(module, "DownBlock2D", "CrossAttn"),
            "up_block_types": _blocks(module, "UpBlock2D", "CrossAttn"), "cross_attention_dim": module.context_dim,
            "attention_head_dim": heads if isinstance(heads, int) else list(heads),
            "norm_num_groups": module.num_groups,
            "transformer_layers_per_block": depth if isinstance(depth, int) else list(depth),
            "use_linear_projection": True}


def _vae_config(module):
    levels = len(module.block_out_channels)
    return {"_class_name": "AutoencoderKL", "block_out_channels": list(module.block_out_channels),
            "layers_per_block": module.layers_per_block, "latent_channels": module.latent_channels,
            "in_channels": module.out_channels, "out_channels": module.out_channels,
            "norm_num_groups": module.num_groups, "scaling_factor": module.scaling_factor,
            "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
