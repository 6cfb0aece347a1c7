"""The autoencoders of diffusers (``AutoencoderKL``) as parameters of :class:`models.AutoencoderKL`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

_SCOPES = (  # the torch module's name -> ours
    (r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2_\3_block_\4."),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv$", r"encoder.down_\1_downsample"),
    (r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv$", r"decoder.up_\1_upsample"),
    (r"(encoder|decoder)\.mid_block\.resnets\.(\d+)\.", r"\1.mid_block_\2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid_attention."),
    (r"(encoder|decoder)\.conv_norm_out$", r"\1.norm_out"),
    (r"(.+block_\d+)\.conv_shortcut$", r"\1.shortcut"),
    (r"(.+mid_attention)\.group_norm$", r"\1.norm"),
    (r"(.+mid_attention)\.(?:query|to_q)$", r"\1.q"),
    (r"(.+mid_attention)\.(?:key|to_k)$", r"\1.k"),
    (r"(.+mid_attention)\.(?:value|to_v)$", r"\1.v"),
    (r"(.+mid_attention)\.(?:proj_attn|to_out\.0)$", r"\1.proj_out"),
)


def diffusers_vae(state_dict: dict[str, np.ndarray], *, num_groups: int = 32) -> Params:
    """Parameters for ``models.AutoencoderKL(**diffusers_vae_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``, in any precision. The attention may have its old names
            (``query``, ``key``, ``value``, ``proj_attn``) or its new ones (``to_q``, ``to_k``, ``to_v``,
            ``to_out.0``), as matrices or as 1 x 1 convolutions.
        num_groups: as for :func:`diffusers_vae_arguments`.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    module = models.AutoencoderKL(**diffusers_vae_arguments(state_dict, num_groups=num_groups))
    params = strict.from_torch(state_dict, _SCOPES, _weight)
    inputs = ((1, module.factor, module.factor, module.out_channels),)
    return strict.check(params, module, inputs=inputs, source="the state_dict")


def diffusers_vae_arguments(state_dict: dict[str, np.ndarray], *, num_groups: int = 32) -> dict:
    """The constructor arguments of :class:`models.AutoencoderKL` that a checkpoint's names and shapes tell.

    Args:
        state_dict: as for :func:`diffusers_vae`.
        num_groups: of every GroupNorm, of which a checkpoint says nothing; default: that of all released networks.
            Of ``scaling_factor`` it says nothing either.

    Errors:
        ValueError if it is no such checkpoint.
    """
    shapes = {name: np.shape(value) for name, value in state_dict.items() if np.ndim(value) == 4}
    first = ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight")
    if not shapes.keys() >= set(first):
        raise ValueError(f"not an AutoencoderKL of diffusers: not all of {', '.join(first)} (of 4 axes) are among its "
                         f"{len(state_dict)} names")
    blocks = {}
    for name in shapes:
        if match := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv[12]\.weight", name):
            blocks[int(match[1]), int(match[2])] = shapes[name][0]
    widths = {level: width for (level, _), width in sorted(blocks.items(), reverse=True)}
    return {"block_out_channels": tuple(widths[level] for level in sorted(widths)),
            "layers_per_block": sum(level == 0 for level, _ in blocks),
            "latent_channels": shapes["decoder.conv_in.weight"][1],
            "out_channels": shapes["encoder.conv_in.weight"][1], "num_groups": num_groups}


def completed(state_dict: dict[str, np.ndarray], *, shift_factor: float = 0.0) -> dict[str, np.ndarray]:
    """A state_dict with all that :class:`models.AutoencoderKL` has, where the network lacks a part: the same function.

    Quantising convolutions that are not there become the identity, an attention that is not there adds nothing. A
    ``shift_factor`` (of diffusion on ``scaling_factor (z - shift_factor)``) goes into these convolutions, so that the
    latents come shifted and are taken shifted.

    Errors:
        ValueError for a state_dict without the last convolution of the encoder.
    """
    last = state_dict.get("encoder.conv_out.weight")
    if np.ndim(last) != 4:
        raise ValueError("not an autoencoder of latent diffusion: no encoder.conv_out.weight of 4 axes")
    found, moments = dict(state_dict), last.shape[0]
    for name, count in (("quant_conv", moments), ("post_quant_conv", moments // 2)):
        found.setdefault(f"{name}.weight", np.eye(count, dtype=np.float32)[..., None, None])
        found.setdefault(f"{name}.bias", np.zeros(count, np.float32))
    if shift_factor:
        half = np.where(np.arange(moments) < moments // 2, np.float32(shift_factor), np.float32(0))
        found["quant_conv.bias"] = np.asarray(found["quant_conv.bias"], np.float32) - half
        weight = np.asarray(found["post_quant_conv.weight"], np.float32)
        found["post_quant_conv.bias"] = (np.asarray(found["post_quant_conv.bias"], np.float32)
                                         + np.float32(shift_factor) * weight.reshape(len(weight), -1).sum(axis=1))
    for half in ("encoder", "decoder"):
        place = f"{half}.mid_block.attentions.0"
        width = np.shape(state_dict.get(f"{half}.mid_block.resnets.0.norm1.bias"))
        if width and not any(name.startswith(place) for name in state_dict):
            found.update({f"{place}.group_norm.weight": np.ones(width, np.float32),
                          f"{place}.group_norm.bias": np.zeros(width, np.float32)})
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                found[f"{place}.{part}.weight"] = np.zeros(width * 2, np.float32)
                found[f"{place}.{part}.bias"] = np.zeros(width, np.float32)
    return found


def _weight(scope, value):
    """All matrices are 1 x 1 convolutions."""
    del scope
    return value[..., None, None] if value.ndim == 2 else value
