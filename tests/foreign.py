"""Tiny checkpoints of other programs, made by their names and shapes: ``{name: array}``, nothing of torch."""
import json
import math
import re

import numpy as np
from safetensors.numpy import save_file

from tests import adm_reference, autoencoder_reference, latent_unet_reference

DRUNET = dict(widths=(4, 6, 8), num_blocks=2, out_channels=3)


def random_arrays(shapes, seed=0):
    """Arrays of size near one for activations near one."""
    random = np.random.default_rng(seed)
    return {name: (random.standard_normal(shape) / math.sqrt(max(1, np.prod(shape[1:]))) + (
        len(shape) == 1 and name.endswith("weight"))).astype(np.float32) for name, shape in shapes.items()}


def drunet(arguments=None):
    """KAIR's DRUNet."""
    arguments = {**DRUNET, **(arguments or {})}
    widths, blocks, channels = (arguments[name] for name in ("widths", "num_blocks", "out_channels"))
    found = {"m_head.weight": (widths[0], channels + 1, 3, 3), "m_tail.weight": (channels, widths[0], 3, 3)}

    def add(prefix, width, first=0):
        for i in range(blocks):
            for half in (0, 2):
                found[f"{prefix}.{first + i}.res.{half}.weight"] = (width, width, 3, 3)

    for level in range(1, len(widths)):
        wide, deep = widths[level - 1], widths[level]
        add(f"m_down{level}", wide)
        found[f"m_down{level}.{blocks}.weight"] = (deep, wide, 2, 2)
        found[f"m_up{level}.0.weight"] = (deep, wide, 2, 2)
        add(f"m_up{level}", wide, 1)
    add("m_body", widths[-1])
    return random_arrays(found)


def drunet_forward(state, x, sigma):
    """What it computes, ``[B, C, H, W]`` in [0, 1], in float64."""
    conv, relu = autoencoder_reference.conv, autoencoder_reference.relu
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    levels = 1 + max(int(match[1]) for name in state if (match := re.match(r"m_down(\d)", name)))

    def blocks(h, prefix):
        for i in sorted({int(name.split(".")[1]) for name in state if re.match(rf"{prefix}\.\d+\.res", name)}):
            h = h + conv(state, relu(conv(state, h, f"{prefix}.{i}.res.0")), f"{prefix}.{i}.res.2")
        return h

    def halve(h, kernel):
        return sum(np.einsum("bihw,oi->bohw", h[:, :, y::2, x::2], kernel[:, :, y, x]) for y in (0, 1) for x in (0, 1))

    def double(h, kernel):
        out = np.zeros((len(h), kernel.shape[1], 2 * h.shape[2], 2 * h.shape[3]))
        for y in (0, 1):
            for x in (0, 1):
                out[:, :, y::2, x::2] = np.einsum("bihw,io->bohw", h, kernel[:, :, y, x])
        return out

    level = np.broadcast_to(np.asarray(sigma)[:, None, None, None], (len(x), 1, *x.shape[2:]))
    skips = [conv(state, np.concatenate([x, level], axis=1), "m_head")]
    for number in range(1, levels):
        down = next(value for name, value in state.items() if re.fullmatch(rf"m_down{number}\.\d+\.weight", name))
        skips.append(halve(blocks(skips[-1], f"m_down{number}"), down))
    h = blocks(skips[-1], "m_body")
    for number in range(levels - 1, 0, -1):
        h = blocks(double(h + skips.pop(), state[f"m_up{number}.0.weight"]), f"m_up{number}")
    return conv(state, h + skips.pop(), "m_tail")


def adm(**changes):
    """Guided diffusion's."""
    return adm_reference.random_state({**adm_reference.SMALL, **changes})


def autoencoder_kl(names="diffusers", **changes):
    """The autoencoder of latent diffusion, in the names of diffusers or of its own program ("compvis")."""
    arguments = {**autoencoder_reference.SMALL_KL, **changes}
    state = autoencoder_reference.random_state(autoencoder_reference.kl_shapes(arguments))
    if names == "diffusers":
        return state
    last = len(arguments["block_out_channels"]) - 1
    rules = [(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
             (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}"),
             (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
             (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample"),
             (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
             (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
             (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
             (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"), ("conv_shortcut", "nin_shortcut"),
             ("conv_norm_out", "norm_out")]
    for pattern, theirs in rules:
        state = {re.sub(pattern, theirs, name): value for name, value in state.items()}
    return {name: value[..., None, None] if value.ndim == 2 else value for name, value in state.items()}


def taesd(names="original", **changes):
    """TAESD or TAEF2, in its original names or those of diffusers."""
    arguments = {**autoencoder_reference.SMALL_TINY, **changes}
    state = autoencoder_reference.random_state(autoencoder_reference.tiny_shapes(arguments))
    if names == "original":
        return state
    return {re.sub(r"^(\w+)\.(\d+)", lambda m: f"{m[1]}.layers.{int(m[2]) - (m[1] == 'decoder')}", name): value
            for name, value in state.items()}


UNET2D = {"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [32, 64], "layers_per_block": 1,
          "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
          "attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0, "freq_shift": 1,
          "flip_sin_to_cos": False}  # as google/ddpm-*


def unet2d(ddpm_state, levels=2, old=False):
    """diffusers' UNet2DModel with the numbers of a state_dict of DDPM's torch port."""
    parts = {"q": "query" if old else "to_q", "k": "key" if old else "to_k", "v": "value" if old else "to_v",
             "proj_out": "proj_attn" if old else "to_out.0", "norm": "group_norm"}
    rules = [(r"^temb\.dense\.(\d)", lambda m: f"time_embedding.linear_{int(m[1]) + 1}"),
             (r"^down\.(\d)\.block\.(\d)", r"down_blocks.\1.resnets.\2"),
             (r"^up\.(\d)\.block\.(\d)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets.{m[2]}"),
             (r"^down\.(\d)\.attn\.(\d)\.(\w+)", lambda m: f"down_blocks.{m[1]}.attentions.{m[2]}.{parts[m[3]]}"),
             (r"^up\.(\d)\.attn\.(\d)\.(\w+)",
              lambda m: f"up_blocks.{levels - 1 - int(m[1])}.attentions.{m[2]}.{parts[m[3]]}"),
             (r"^down\.(\d)\.downsample", r"down_blocks.\1.downsamplers.0"),
             (r"^up\.(\d)\.upsample", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0"),
             (r"^mid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
             (r"^mid\.attn_1\.(\w+)", lambda m: f"mid_block.attentions.0.{parts[m[1]]}"),
             (r"^norm_out", "conv_norm_out"), (r"nin_shortcut", "conv_shortcut"), (r"temb_proj", "time_emb_proj")]
    for pattern, theirs in rules:
        ddpm_state = {re.sub(pattern, theirs, name): value for name, value in ddpm_state.items()}
    return {name: value[..., 0, 0] if "attentions" in name and value.ndim == 4 else value
            for name, value in ddpm_state.items()}


def latent_unet(names="diffusers", **changes):
    """Stable Diffusion's UNet, in the names of diffusers or of its own program ("compvis")."""
    arguments = {**latent_unet_reference.SMALL, **changes}
    state = latent_unet_reference.random_state(latent_unet_reference.shapes(arguments))
    if names == "diffusers":
        return state
    blocks, levels = arguments["layers_per_block"], len(arguments["block_out_channels"])
    attends, places = arguments["has_attention"], {}  # theirs: the numbered lists of guided diffusion
    number = 1
    for level in range(levels):
        for i in range(blocks):
            places[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += 1
    for place in range(levels):
        for i in range(blocks + 1):
            number = place * (blocks + 1) + i
            places[f"up_blocks.{place}.resnets.{i}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{place}.attentions.{i}"] = f"output_blocks.{number}.1"
        last = 1 + attends[levels - 1 - place]
        places[f"up_blocks.{place}.upsamplers.0.conv"] = f"output_blocks.{number}.{last}.conv"
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
               "mid_block.resnets.1": "middle_block.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
               "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
               "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
               "add_embedding.linear_2": "label_emb.0.2"}
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    found = {}
    for name, value in state.items():
        place = max((each for each in places if name.startswith(f"{each}.")), key=len)
        rest = name.removeprefix(f"{place}.")
        if "resnets" in place:
            part, _, leaf = rest.rpartition(".")
            rest = f"{inside[part]}.{leaf}"
        found[f"{places[place]}.{rest}"] = value
    return found


def text_encoder(words=20, length=9, channels=6, layers=2):
    """CLIPTextModel."""
    found = {"embeddings.token_embedding.weight": (words, channels),
             "embeddings.position_embedding.weight": (length, channels),
             "final_layer_norm.weight": (channels,), "final_layer_norm.bias": (channels,)}
    for layer in range(layers):
        prefix = f"encoder.layers.{layer}"
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{prefix}.{name}.weight": (channels,), f"{prefix}.{name}.bias": (channels,)}
        for name, out, into in (*((f"self_attn.{part}_proj", channels, channels) for part in ("q", "k", "v", "out")),
                                ("mlp.fc1", 4 * channels, channels), ("mlp.fc2", channels, 4 * channels)):
            found |= {f"{prefix}.{name}.weight": (out, into), f"{prefix}.{name}.bias": (out,)}
    return {f"text_model.{name}": value for name, value in random_arrays(found).items()}


def stable_diffusion(folder, **unet):
    """A folder as StableDiffusionPipeline.save_pretrained makes it; ``unet``: more of its UNet's config."""
    configs = {"unet": {**latent_unet_reference.config(latent_unet_reference.SMALL), **unet},
               "vae": {"_class_name": "AutoencoderKL", "norm_num_groups": 4, "scaling_factor": 0.2},
               "text_encoder": {"num_attention_heads": 2, "hidden_act": "gelu"},
               "scheduler/scheduler_config": {"beta_schedule": "scaled_linear", "beta_start": 0.00085,
                                              "beta_end": 0.012, "steps_offset": 1},
               "tokenizer/special_tokens_map": {"pad_token": "!"},
               "model_index": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
                               "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
                               "safety_checker": [None, None]}}
    states = {"unet/diffusion_pytorch_model": latent_unet(),
              "vae/diffusion_pytorch_model": autoencoder_kl(latent_channels=4), "text_encoder/model": text_encoder()}
    for name, config in configs.items():
        path = folder / (f"{name}/config.json" if name in ("unet", "vae", "text_encoder") else f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    for name, state in states.items():
        save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, folder / f"{name}.safetensors")
    return folder
