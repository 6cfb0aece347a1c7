"""All kinds of foreign checkpoints in one table: how each is recognised, and what becomes of it."""
import dataclasses
from typing import Callable, NamedTuple

import numpy as np

from indigo_jax.convert import checkpoint, makers, sources
from indigo_jax.convert.make_latent import make_latent_unet
from indigo_jax.convert.options import Converted, Options, first_of
from indigo_jax.convert.scheduler import schedule_of
from indigo_jax.spelling import near

__all__ = ["Converted", "KINDS", "Kind", "Options", "load", "recognise", "schedule_of"]


class Kind(NamedTuple):
    """A row of :data:`KINDS`.

    Attributes:
        summary: what it is, for help.
        signatures: names that tell it, of which one tuple is found under some prefix.
        options: fields of :class:`Options` that it takes.
        make: ``(tensors, part, options) -> Converted``.
        words: parts of names that it must have (or, with a ``!`` before them, must not).
    """

    summary: str
    signatures: tuple[tuple[str, ...], ...]
    options: tuple[str, ...]
    make: Callable
    words: tuple[str, ...] = ()


def load(source: str, kind: str = "auto", *, raw: bool = False, revision: str | None = None, offline: bool = False,
         options: Options = Options()) -> Converted:
    """A foreign checkpoint as a network of ours.

    Args:
        source: a file, a folder of ``save_pretrained`` or a pipeline, or ``hf:OWNER/NAME``.
        kind: of :data:`KINDS`; "auto" recognises it.
        raw: of two sets of parameters the one that is not averaged.
        revision, offline: as for :func:`sources.resolve`.
        options: what the checkpoint does not say of itself.

    Returns:
        :class:`Converted`; its info has the entry "source": name, revision of a repository, sha256 of the files.

    Errors:
        ValueError, one line, for a kind that there is not, and for what cannot be found, read, recognised or converted.
    """
    if kind not in ("auto", *KINDS):
        raise ValueError(f"unknown kind {kind!r}{near(kind, KINDS)}; there are auto, {', '.join(KINDS)}")
    found = sources.resolve(source, revision=revision, offline=offline)
    part, kind = _choose(found, sources.parts(found), kind)
    held = part.read(raw=raw)
    prefixes = recognise(held.tensors, kind)
    kind = _one(found, kind, prefixes, held.tensors)
    row, prefix = KINDS[kind], prefixes.get(kind, [""])[0]
    strange = [name for name, value in dataclasses.asdict(options).items()
               if value is not None and name not in row.options]
    if strange:
        users = [name for name, each in KINDS.items() if strange[0] in each.options]
        raise ValueError(f"--{strange[0].replace('_', '-')} is for --from {' and '.join(users)}, and this is {kind}; "
                         "leave it out")
    try:
        tensors, rest = checkpoint.cut(held.tensors, prefix)
    except ValueError as error:
        raise ValueError(f"{found.name}: {error}") from error
    part = part._replace(others={name: held.tensors[name] for name in rest})
    damaged = [name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if damaged:
        raise ValueError(f"{found.name}: {prefix}{damaged[0]} holds NaN or infinity: the checkpoint is damaged")
    try:
        converted = row.make(tensors, part, options)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else f"not a whole {kind} ({type(error).__name__}: {error})"
        raise ValueError(f"{found.name}: {reason}; its names begin with {first_of(tensors)}") from error
    notes = list(held.notes)
    if rest:
        notes.append(f"{len(rest)} tensors of other networks were left out ({first_of(rest)})")
    about = {"name": found.name, "sha256": part.sha256(), **({"revision": found.revision} if found.revision else {})}
    return converted._replace(info={**converted.info, "source": {**about, "kind": kind}},
                              notes=(*notes, *converted.notes))


def recognise(names, kind: str = "auto") -> dict[str, list[str]]:
    """The kinds whose names are found, each with the prefixes under which they are.

    >>> recognise(["net.m_head.weight", "net.m_tail.weight", "net.m_body.0.res.0.weight"])
    {'drunet': ['net.']}
    """
    names, found = dict.fromkeys(names), {}
    for name, row in KINDS.items():
        if kind not in ("auto", name):
            continue
        for signature in row.signatures:
            prefixes = [prefix for prefix in checkpoint.under(names, signature) if all(
                any(each.startswith(prefix) and word.lstrip("!") in each for each in names) != word.startswith("!")
                for word in row.words)]
            if prefixes:
                found[name] = prefixes
                break
    return found


def _choose(found, parts, kind):
    """The part that a kind means, and its kind."""
    if kind == "auto":
        if len(parts) > 1:
            raise ValueError(f"{found.name}: a pipeline of several networks; say which with "
                             f"{' or '.join(f'--from {part.kind} ({part.name})' for part in parts)}")
        return parts[0], parts[0].kind or "auto"
    fitting = [part for part in parts if part.kind in (None, kind)]
    if not fitting:
        raise ValueError(f"{found.name}: holds {' and '.join(str(part.kind) for part in parts)}, not {kind}")
    return fitting[0], kind


def _one(found, kind, prefixes, tensors):
    if kind != "auto":
        return kind
    if len(prefixes) == 1:
        return next(iter(prefixes))
    if prefixes:
        raise ValueError(f"{found.name}: holds several networks; say which with --from {' or '.join(prefixes)}")
    expected = ", ".join(f"{row.signatures[0][0]} ({name})" for name, row in KINDS.items())
    raise ValueError(f"{found.name}: none of the networks that can be converted: its names begin with "
                     f"{first_of(tensors)} ({len(tensors)} in all), where such as these are expected: {expected}")


_PRIOR = ("image_size", "schedule", "prediction")
KINDS: dict[str, Kind] = {
    "ddpm-unet": Kind("the UNet of DDPM's torch port (DDIM, SDEdit, BIRD)", (
        ("temb.dense.0.weight", "conv_in.weight", "down.0.block.0.conv1.weight"),), (
            *_PRIOR, "num_groups"), makers.make_ddpm),
    "adm": Kind("the UNet of guided diffusion, with classes or without", (
        ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"),), (
            *_PRIOR, "heads", "head_channels", "attention_order", "label"), makers.make_adm, (
                "!.transformer_blocks.",)),
    "diffusers-unet": Kind("UNet2DModel of diffusers, or a DDPMPipeline with one", (
        ("time_embedding.linear_1.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),), (
            *_PRIOR, "label"), makers.make_unet2d, ("!.transformer_blocks.",)),
    "latent-unet": Kind("the UNet of Stable Diffusion 1, 2 and XL: UNet2DConditionModel, or a file of its own names", (
        ("time_embedding.linear_1.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight")), (
            *_PRIOR, "heads", "context", "prompt", "prompt_scale", "autoencoder"), make_latent_unet,
                        (".transformer_blocks.",)),
    "vae": Kind("the autoencoder of latent diffusion: AutoencoderKL, or a file of its own names", (
        ("decoder.conv_in.weight", "encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"),
        ("decoder.conv_in.weight", "encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight")), (
            "num_groups", "scaling_factor", "shift_factor"), makers.make_vae),
    "taesd": Kind("a small autoencoder, TAESD or TAEF2: AutoencoderTiny, one file, or a folder of its two halves", (
        ("decoder.1.weight", "encoder.0.weight"), ("decoder.layers.0.weight", "encoder.layers.0.weight")), (
            "scaling_factor", "shift_factor"), makers.make_taesd),
    "drunet": Kind("DRUNet, the denoiser of DPIR", (
        ("m_head.weight", "m_tail.weight", "m_body.0.res.0.weight"),), (), makers.make_drunet),
    "indigo-inn": Kind("the invertible network of INDIGO+, with its encoder (--encoder)", (
        ("transform_net.inn.lifts.0.p.net.convin.weight", "transform_net.inn.lifts.0.u.net.convin.weight"),), (
            "encoder",), makers.make_indigo_inn),
    "swinir": Kind("SwinIR that keeps the size: the first estimate of INDIGO+, DifFace and DiffBIR", (
        ("conv_after_body.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"),), (),
                   makers.make_swinir),
    "inception": Kind("InceptionV3 of FID and KID (pt_inception-2015-12-05)", (
        ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.running_var"),), (), makers.make_inception),
}
