"""Names of latent diffusion's own checkpoints (CompVis, and files of one network made of them) as those of diffusers.

The networks are the same: only names and the order in which levels are numbered differ.
"""
import math
import re

import numpy as np

_VAE = (  # after a half's name
    (r"(down|up)\.(\d+)\.block\.(\d+)\.", r"\1_blocks.\2.resnets.\3."),
    (r"mid\.block_(\d)\.", r"mid_block.resnets.\1."),
    (r"(down|up)\.(\d+)\.(down|up)sample\.conv", r"\1_blocks.\2.\1samplers.0.conv"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"), (r"mid\.attn_1\.q\.", "mid_block.attentions.0.to_q."),
    (r"mid\.attn_1\.k\.", "mid_block.attentions.0.to_k."), (r"mid\.attn_1\.v\.", "mid_block.attentions.0.to_v."),
    (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."), (r"norm_out\.", "conv_norm_out."),
    (r"(.*)\.nin_shortcut\.", r"\1.conv_shortcut."),
)
_RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
           "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
_ALONE = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
          "out.0": "conv_norm_out", "out.2": "conv_out", "input_blocks.0.0": "conv_in",
          "label_emb.0.0": "add_embedding.linear_1",
          "label_emb.0.2": "add_embedding.linear_2"}


def autoencoder(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of an autoencoder, ``encoder.down.0.block.0...``, as for :func:`convert.diffusers_vae`.

    A name that no rule knows keeps its own, for the converter to refuse.
    """
    levels = 1 + max((int(match[1]) for name in state_dict if (match := re.match(r"decoder\.up\.(\d+)\.", name))),
                     default=0)
    found = {}
    for name, value in state_dict.items():
        half, _, rest = name.partition(".")
        if half in ("encoder", "decoder"):
            for pattern, theirs in _VAE:
                rest = re.sub(f"^{pattern}", theirs, rest)
            rest = re.sub(r"^(mid_block\.resnets)\.(\d)", lambda m: f"{m[1]}.{int(m[2]) - 1}", rest)
            rest = re.sub(r"^up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", rest)
            name = f"{half}.{rest}"
        found[name] = value
    return found


def unet(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of a conditional UNet, ``input_blocks.1.0...``, as for :func:`convert.diffusers_unet`.

    A name that no rule knows keeps its own, for the converter to refuse.

    Errors:
        ValueError where the blocks cannot be told apart into levels.
    """
    places = _places(state_dict)
    found = {}
    for name, value in state_dict.items():
        scope, _, leaf = name.rpartition(".")
        match = re.match(r"((?:input|output)_blocks\.\d+|middle_block)\.(\d+)\.?(.*)", scope)
        if scope in _ALONE:
            name = f"{_ALONE[scope]}.{leaf}"
        elif match and (match[1], int(match[2])) in places:
            rest = _RESNET.get(match[3], match[3]) if match[3] not in ("op", "conv") else "conv"
            name = f"{places[match[1], int(match[2])]}.{rest}.{leaf}"
        found[name] = value
    return found


def unet_config(state_dict: dict[str, np.ndarray], *, heads: int | None = None) -> dict:
    """What names and shapes of such a UNet tell of the config of diffusers' ``UNet2DConditionModel``.

    Args:
        state_dict: as for :func:`unet`.
        heads: of attention on every level; default: those of Stable Diffusion 1 (8 on every level) or, with a context
            of 1,024, 2, or of XL (64 channels each).
    """
    theirs = {name: np.shape(value) for name, value in unet(state_dict).items()}
    levels = 1 + max(int(match[1]) for name in theirs if (match := re.match(r"down_blocks\.(\d+)\.", name)))
    widths = [theirs[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in theirs for level in range(levels)]
    context = theirs["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1]
    blocks = len({name.split(".")[3] for name in theirs if name.startswith("down_blocks.0.resnets.")})
    kinds = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends]
    added = theirs.get("add_embedding.linear_1.weight")
    heads = heads or (8 if context != 1024 and added is None else [max(width // 64, 1) for width in widths])
    places = [*(rf"down_blocks\.{level}" for level in range(levels - 1)), "mid_block"]  # the last has the middle's
    depths = [1 + max((int(match[1]) for name in theirs if (match := re.match(
        rf"{place}\.attentions\.0\.transformer_blocks\.(\d+)\.", name))), default=0) for place in places]
    more = {} if added is None else {"addition_embed_type": "text_time"}
    if max(depths) > 1:
        more["transformer_layers_per_block"] = depths
    return {**more, "block_out_channels": widths, "layers_per_block": blocks, "cross_attention_dim": context,
            "attention_head_dim": heads, "norm_num_groups": math.gcd(32, *widths),
            "in_channels": theirs["conv_in.weight"][1], "out_channels": theirs["conv_out.weight"][0],
            "down_block_types": kinds, "up_block_types": [kind.replace("Down", "Up") for kind in kinds[::-1]]}


def _places(state_dict):
    """``{(block, entry): the module's name in diffusers}``."""
    kinds = {}  # of every entry of every block
    for name in state_dict:
        if match := re.match(r"((?:input|output)_blocks\.\d+|middle_block)\.(\d+)\.(.*)", name):
            rest = match[3]
            kind = ("resnet" if rest.startswith(("in_layers", "out_layers", "emb_layers", "skip")) else
                    "sample" if rest.startswith(("op.", "conv.")) else "attention")
            kinds.setdefault((match[1], int(match[2])), kind)
    places = {("middle_block", 0): "mid_block.resnets.0", ("middle_block", 1): "mid_block.attentions.0",
              ("middle_block", 2): "mid_block.resnets.1"}
    for stage, ours, resample in (("input", "down", "down"), ("output", "up", "up")):
        count = 1 + max((int(block.split(".")[1]) for block, _ in kinds if block.startswith(stage)), default=-1)
        level = inside = 0
        for number in range(count):
            block = f"{stage}_blocks.{number}"
            entries = {entry: kind for (name, entry), kind in kinds.items() if name == block}
            for entry, kind in entries.items():
                place = {"resnet": f"resnets.{inside}", "attention": f"attentions.{inside}",
                         "sample": f"{resample}samplers.0"}[kind]
                if (stage, number) != ("input", 0):
                    places[block, entry] = f"{ours}_blocks.{level}.{place}"
            inside += "resnet" in entries.values()
            if "sample" in entries.values() and number:
                level, inside = level + 1, 0
    return places
