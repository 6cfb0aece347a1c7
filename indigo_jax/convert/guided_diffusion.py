"""The torch checkpoints of guided diffusion as parameters of :class:`models.ADMUNet`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_BLOCK = {"in_layers.0": "norm_in", "in_layers.2": "conv_in", "emb_layers.1": "time", "out_layers.0": "norm_out",
          "out_layers.3": "conv_out", "skip_connection": "shortcut", "norm": "norm", "qkv": "qkv",
          "proj_out": "proj_out"}
_ALONE = {"time_embed.0": "time_embed_0", "time_embed.2": "time_embed_2", "out.0": "norm_out", "out.2": "conv_out"}
_STAGE = re.compile(r"(?:(input|output)_blocks\.(\d+)|(middle)_block)\.(\d+)(?:\.(.+))?")


def guided_diffusion(state_dict: dict[str, np.ndarray], *, image_size: int | None = None,
                     num_head_channels: int = 64, num_heads: int = 0, label: int | str | None = None) -> Params:
    """Parameters for ``models.ADMUNet(**guided_diffusion_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``, in any precision; a leading ``module.`` (of
            DataParallel) is dropped.
        image_size: as for :func:`guided_diffusion_arguments`.
        num_head_channels, num_heads: as for :func:`guided_diffusion_arguments`.
        label: of a network with classes: the one that it is to believe in; "mean" adds the mean of all classes to the
            time, which no training has seen.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    state_dict = strict.with_class({name.removeprefix("module."): value for name, value in state_dict.items()}
                                   if any(name.startswith("module.label_emb") for name in state_dict) else state_dict,
                                   "label_emb.weight", "time_embed.2.bias", label)
    arguments = guided_diffusion_arguments(state_dict, image_size=image_size, num_head_channels=num_head_channels,
                                           num_heads=num_heads)
    tensors, sources = {}, {}
    for name, value in state_dict.items():
        ours, value = _translate(name.removeprefix("module."), np.asarray(value))
        if ours in tensors:
            raise ValueError(f"the state_dict has the same parameter twice: {sources[ours]} and {name}")
        tensors[ours], sources[ours] = value, name
    module = models.ADMUNet(**arguments)
    size = 2 ** (len(module.multipliers) - 1)
    return strict.check(strict.nest(tensors), module, size=size, source="the state_dict")


def legacy_order(state_dict: dict[str, np.ndarray], *, num_heads: int = 0, num_head_channels: int = 64
                 ) -> dict[str, np.ndarray]:
    """The parameters of a network with ``use_new_attention_order`` for one without, which computes the same.

    The rows of ``qkv`` of the new order are q, k, v, each by head; here they are by head, each q, k, v. Names and
    shapes are the same, so a checkpoint does not say which it has.

    Args:
        state_dict: as for :func:`guided_diffusion`.
        num_heads, num_head_channels: as for :func:`guided_diffusion_arguments`.
    """
    def by_head(value):
        heads = num_heads or value.shape[0] // 3 // num_head_channels
        return np.reshape(np.moveaxis(np.reshape(value, (3, heads, -1, *value.shape[1:])), 0, 1), value.shape)

    return {name: by_head(np.asarray(value)) if re.search(r"\.qkv\.(weight|bias)$", name) else value
            for name, value in state_dict.items()}


def guided_diffusion_arguments(state_dict: dict[str, np.ndarray], *, image_size: int | None = None,
                               num_head_channels: int = 64, num_heads: int = 0) -> dict:
    """The constructor arguments of :class:`models.ADMUNet` that a checkpoint's names and shapes tell.

    Args:
        state_dict: as for :func:`guided_diffusion`.
        image_size: side of the pictures of its training; default: such that its last level is 8 x 8, as in all
            released networks.
        num_head_channels: width of one head of attention, of which a checkpoint says nothing; default: that of most
            released networks.
        num_heads: heads on every level, in the place of their width; 0 where the width counts.

    Errors:
        ValueError if it is no such checkpoint, for a number of heads that does not fit, and for one that makes texts.
    """
    shapes = {name.removeprefix("module."): np.shape(value) for name, value in state_dict.items()}

    def shape(name, ndim):
        if len(shapes.get(name, ())) != ndim:
            raise ValueError(f"not a guided-diffusion UNet: no {name} of {ndim} axes among its {len(shapes)} names")
        return shapes[name]

    channels = shape("time_embed.0.weight", 2)[1]
    out_channels = shape("out.2.weight", 4)[0]
    if any(".transformer_blocks." in name for name in shapes):
        raise ValueError("a UNet with cross-attention, of latent diffusion; give --from latent-unet")
    ups = _ups(shapes)
    per_level = [last - first for first, last in zip([-1, *ups], ups)]
    if not ups or min(per_level) < 2:
        raise ValueError(f"not a guided-diffusion UNet: {ups[-1] + 1 if ups else 0} output_blocks on "
                         f"{len(per_level)} levels")
    levels, first = len(per_level), [last + 1 - count for last, count in zip(ups, per_level)][::-1]
    widths = [shape(f"output_blocks.{i}.0.out_layers.3.weight", 4)[0] for i in first]
    attends = [level for level, i in enumerate(first) if f"output_blocks.{i}.1.qkv.weight" in shapes]
    image_size = image_size or 8 * 2 ** (levels - 1)
    blocks = tuple(count - 1 for count in per_level[::-1])
    wrong = [widths[level] for level in {*attends, levels - 1} if widths[level] % (num_heads or num_head_channels)]
    if wrong:
        said = f"{num_heads} heads do" if num_heads else f"heads of {num_head_channels} channels do"
        raise ValueError(f"{said} not divide attention of {wrong[0]} channels; how many there are stands in the "
                         "program that trained it (num_heads, num_head_channels)")
    return {"channels": channels,
            "multipliers": tuple(width // channels if width % channels == 0 else width / channels for width in widths),
            "num_res_blocks": blocks[0] if len(set(blocks)) == 1 else blocks,
            "attention_resolutions": tuple(image_size // 2**i for i in attends),
            "image_size": image_size, "num_head_channels": num_head_channels,
            **({"num_heads": num_heads} if num_heads else {}),
            "resblock_updown": not any(re.fullmatch(r"output_blocks\.\d+\.[12]\.conv\.weight", name)
                                       for name in shapes),
            "use_scale_shift_norm": shape("middle_block.0.emb_layers.1.weight", 2)[0] == 2 * widths[-1],
            "out_channels": out_channels}


def _ups(shapes):
    """The last output block of each level, the deepest level first: where it enlarges, and the very last."""
    blocks = [int(match[1]) for name in shapes if (match := re.match(r"output_blocks\.(\d+)\.", name))]
    enlarge = {int(match[1]) for name in shapes if (
        match := re.fullmatch(r"output_blocks\.(\d+)\.[12]\.(in_layers\.2|conv)\.weight", name))}
    return sorted(enlarge | ({max(blocks)} if blocks else set()))


def _translate(name, value):
    """Our name and layout of a torch parameter; a name that is none keeps its own, for the check to refuse."""
    scope, _, leaf = name.rpartition(".")
    match = _STAGE.fullmatch(scope)
    if scope in _ALONE:
        path = _ALONE[scope]
    elif match and match[5] in _BLOCK:
        path = f"{match[1] or match[3]}_{f'{match[2]}_' if match[2] else ''}{match[4]}/{_BLOCK[match[5]]}"
    elif match and match[1] and match[5] in (None, {"input": "op", "output": "conv"}[match[1]]):
        path = f"{match[1]}_{match[2]}_{match[4]}"
    else:
        return name, value
    if leaf == "weight":
        leaf = "scale" if value.ndim == 1 else "kernel"
        if value.shape[2:] == (1,):  # a convolution over a list of pixels
            value = value[..., 0]
        value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
    return f"{path}/{leaf}", value
