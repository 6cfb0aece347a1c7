"""All kinds of foreign checkpoints in one table: how each is recognised, and what becomes of it."""
import dataclasses
import math
from typing import Any, Callable, NamedTuple

import numpy as np

from indigo_jax import models, schedules
from indigo_jax.convert import checkpoint, compvis, sources, strict
from indigo_jax.convert.ddpm_unet import ddpm_unet, ddpm_unet_arguments
from indigo_jax.convert.diffusers_unet2d import diffusers_unet2d, diffusers_unet2d_arguments
from indigo_jax.convert.diffusers_vae import completed, diffusers_vae, diffusers_vae_arguments
from indigo_jax.convert.drunet import drunet, drunet_arguments
from indigo_jax.convert.guided_diffusion import guided_diffusion, guided_diffusion_arguments
from indigo_jax.convert.latent_prior import empty_text, latent_prior, latent_prior_arguments
from indigo_jax.convert.taef2 import taef2, taef2_arguments
from indigo_jax.typing import Params

_SCALING = {4: 0.18215}  # of latents by their channels, where no config tells: that of Stable Diffusion
_LEAST_SIGMA, _MOST_SIGMA = 0.004, 0.4  # of DRUNet's levels; it was trained up to 50 of 255, 0.39 in [-1, 1] units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a checkpoint may not say of itself; None: as it says, or what is usual.

    Attributes:
        image_size: side of the pictures of its training.
        schedule: of the noise, over 1000 steps: linear, scaled_linear or cosine.
        prediction: eps, x0 or v.
        heads, head_channels: of attention: their number on every level, or their width.
        num_groups: of every GroupNorm.
        label: of a network with classes, the one to believe in, from 0; "mean" for the mean of all.
        scaling_factor, shift_factor: of an autoencoder: diffusion works on ``scaling_factor (z - shift_factor)``.
        context: a file ``.npy`` with the embedding of a text ``[L, D]``, for a prior that was made for texts.
        autoencoder: weights, by name or path, of the autoencoder whose latents a prior knows.
    """

    image_size: int | None = None
    schedule: str | None = None
    prediction: str | None = None
    heads: int | None = None
    head_channels: int | None = None
    num_groups: int | None = None
    label: int | str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    context: str | None = None
    autoencoder: str | None = None


class Converted(NamedTuple):
    """A network of ours with foreign parameters.

    Attributes:
        module: the linen module.
        params: its variables.
        info: what :func:`weights.save` needs beside architecture and arguments.
        notes: what a person should know, sentences.
    """

    module: Any
    params: Params
    info: dict
    notes: tuple[str, ...] = ()


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
        ValueError, one line, for what cannot be found, read, recognised or converted.
    """
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
    tensors, rest = checkpoint.cut(held.tensors, prefix)
    part = part._replace(others={name: held.tensors[name] for name in rest})
    damaged = [name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if damaged:
        raise ValueError(f"{found.name}: {prefix}{damaged[0]} holds NaN or infinity: the checkpoint is damaged")
    try:
        converted = row.make(tensors, part, options)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else f"not a whole {kind} ({type(error).__name__}: {error})"
        raise ValueError(f"{found.name}: {reason}; its names begin with {_first(tensors)}") from error
    notes = list(held.notes)
    if rest:
        notes.append(f"{len(rest)} tensors of other networks were left out ({_first(rest)})")
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
                     f"{_first(tensors)} ({len(tensors)} in all), where such as these are expected: {expected}")


def _first(names):
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"


# ---------------------------------------------------------------------------------------------------- the noise

def schedule_of(config: dict | None, options: Options) -> tuple[dict, list[str]]:
    """``{"schedule", "prediction"}`` of a prior, from the config of a diffusers scheduler or what is usual, and notes.

    Errors:
        ValueError for a schedule that is none of ours.
    """
    notes, usual = [], {"schedule": schedules.to_json("linear", num_timesteps=1000), "prediction": "eps"}
    if config is not None:
        names = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
        name = names.get(config.get("beta_schedule", "linear"))
        if name is None or config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
            what = ("trained_betas" if config.get("trained_betas") is not None else "rescale_betas_zero_snr" if
                    config.get("rescale_betas_zero_snr") else f"beta_schedule {config['beta_schedule']!r}")
            raise ValueError(f"its scheduler has {what}, which no schedule here has; known are {', '.join(names)}")
        betas = {key: float(config[key]) for key in ("beta_start", "beta_end") if key in config and name != "cosine"}
        usual["schedule"] = schedules.to_json(name, num_timesteps=int(config.get("num_train_timesteps", 1000)), **betas)
        kinds = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in kinds:
            raise ValueError(f"its scheduler has prediction_type {prediction!r}; known are {', '.join(kinds)}")
        usual["prediction"] = kinds[prediction]
        usual["steps_offset"] = int(config.get("steps_offset", 0))
    elif options.schedule is None:
        notes.append("nothing says what schedule of noise it was trained with: taken to be linear over 1000 steps, "
                     "predicting eps (--schedule, --prediction)")
    if options.schedule is not None:
        usual["schedule"] = schedules.to_json(options.schedule, num_timesteps=1000)
    if options.prediction is not None:
        usual["prediction"] = options.prediction
    return usual, notes


# ---------------------------------------------------------------------------------------------------- the makers

def _pictures(channels):
    if channels != 3:
        raise ValueError(f"a network for pictures of {channels} channels; here they have 3")


def _ddpm(tensors, part, options):
    arguments = ddpm_unet_arguments(tensors, image_size=options.image_size)
    widths = [arguments["channels"] * multiplier for multiplier in arguments["multipliers"]]
    arguments, groups = _with_groups(arguments, widths, options)
    _pictures(tensors["conv_in.weight"].shape[1])
    info, notes = schedule_of(part.scheduler, options)
    module = models.DDPMUNet(**arguments)
    params = ddpm_unet(tensors, image_size=options.image_size, num_groups=arguments.get("num_groups", 32))
    return Converted(module, params, {**info, "image_size": module.image_size}, (*notes, *groups))


def _adm(tensors, part, options):
    heads = {"num_heads": options.heads or 0, "num_head_channels": options.head_channels or 64}
    arguments = guided_diffusion_arguments(tensors, image_size=options.image_size, **heads)
    _pictures(tensors["input_blocks.0.0.weight"].shape[1])
    info, notes = schedule_of(part.scheduler, options)
    if options.heads is None and options.head_channels is None:
        notes.append("nothing says how many heads its attention has: taken to be of 64 channels each, as in the "
                     "released networks (--heads, --head-channels)")
    module = models.ADMUNet(**arguments)
    params = guided_diffusion(tensors, image_size=options.image_size, label=options.label, **heads)
    learned = {"learned_variance": True} if module.out_channels == 6 else {}
    chosen = {"label": options.label} if options.label is not None else {}
    return Converted(module, params, {**info, "image_size": module.image_size, **learned, **chosen}, tuple(notes))


def _unet2d(tensors, part, options):
    if not part.config:
        raise ValueError("a UNet of diffusers, whose config.json tells what its names do not: give the folder that has "
                         "both")
    tensors = strict.with_class(tensors, "class_embedding.weight", "time_embedding.linear_2.bias", options.label)
    config = {**part.config, **({"sample_size": options.image_size} if options.image_size else {})}
    module = models.UNet2D(**diffusers_unet2d_arguments(config))
    _pictures(config.get("in_channels", 3))
    info, notes = schedule_of(part.scheduler, options)
    learned = {"learned_variance": True} if module.out_channels == 6 else {}
    chosen = {"label": options.label} if options.label is not None else {}
    return Converted(module, diffusers_unet2d(tensors, config), {**info, "image_size": module.image_size, **learned,
                                                                 **chosen}, tuple(notes))


def _vae(tensors, part, options):
    if any(name.startswith("decoder.up.") for name in tensors):
        tensors = compvis.autoencoder({name: value for name, value in tensors.items() if not name.startswith("loss.")})
    config, notes = part.config, []
    for name, wanted in (("act_fn", "silu"), ("latents_mean", None), ("latents_std", None)):
        if config.get(name, wanted) != wanted:
            raise ValueError(f"an autoencoder with {name} = {config[name]!r} in its config cannot be converted")
    shift = options.shift_factor if options.shift_factor is not None else config.get("shift_factor") or 0.0
    tensors = completed(tensors, shift_factor=shift)
    widths = [value.shape[0] for name, value in tensors.items() if name.endswith(".conv1.weight")]
    arguments = diffusers_vae_arguments(tensors, num_groups=config.get("norm_num_groups", 32))
    if "norm_num_groups" not in config:
        arguments, notes = _with_groups({**arguments, "num_groups": 32}, widths, options)
    factor = options.scaling_factor or config.get("scaling_factor") or _SCALING.get(arguments["latent_channels"])
    if factor is None:
        factor = 1.0
        notes = [*notes, f"nothing says the scaling_factor of its {arguments['latent_channels']} channels: taken to be "
                         "1 (--scaling-factor, --shift-factor)"]
    module = models.AutoencoderKL(**arguments, scaling_factor=float(factor))
    about = {"shift_factor": float(shift)} if shift else {}
    return Converted(module, diffusers_vae(tensors, num_groups=arguments["num_groups"]), about, tuple(notes))


def _taesd(tensors, part, options):
    for name, wanted in (("act_fn", "relu"), ("latent_magnitude", 3), ("upsampling_scaling_factor", 2)):
        if part.config.get(name, wanted) != wanted:
            raise ValueError(f"an autoencoder with {name} = {part.config[name]!r} in its config cannot be converted")
    if part.config.get("shift_factor") or options.shift_factor:
        raise ValueError("a small autoencoder with a shift_factor cannot be converted")
    factor = options.scaling_factor or part.config.get("scaling_factor") or 1.0
    tensors = {name.removeprefix("taesd_"): value for name, value in tensors.items()}
    module = models.TinyAutoencoder(**taef2_arguments(tensors), scaling_factor=float(factor))
    return Converted(module, taef2(tensors), {})


def _drunet(tensors, part, options):
    del part, options
    module = models.DRUNet(**drunet_arguments(tensors))
    if module.out_channels not in (1, 3):
        _pictures(module.out_channels)
    schedule = schedules.to_json("geometric", num_timesteps=1000, sigma_min=_LEAST_SIGMA, sigma_max=_MOST_SIGMA)
    notes = ("trained for noise of up to 50 of 255: fine where little is missing, not to fill large holes",)
    return Converted(module, drunet(tensors), {"kind": "prior", "schedule": schedule, "prediction": "sigma"}, notes)


def _latent_unet(tensors, part, options):
    config, notes = part.config, []
    if any(name.startswith("input_blocks.") for name in tensors):
        config, tensors = compvis.unet_config(tensors, heads=options.heads), compvis.unet(tensors)
        if options.heads is None:
            heads = "8 on every level" if config["attention_head_dim"] == 8 else "of 64 channels each"
            notes.append(f"nothing says how many heads its attention has: taken to be {heads}, as in Stable Diffusion "
                         "(--heads)")
    elif not config:
        raise ValueError("a UNet of diffusers, whose config.json tells what its names do not: give the folder that has "
                         "both")
    context = _context(part, options, config.get("cross_attention_dim", 1280))
    module = models.PromptedUNet(**latent_prior_arguments(config, context))
    params = latent_prior(tensors, config, context)
    if part.scheduler is None and options.schedule is None:
        options = dataclasses.replace(options, schedule="scaled_linear")
        notes.append("nothing says what schedule of noise it was trained with: taken to be that of Stable Diffusion, "
                     f"predicting {options.prediction or 'eps'} (--schedule, --prediction)")
    info, more = schedule_of(part.scheduler, options)
    side = options.image_size or 8 * (config.get("sample_size") or 64)
    about = {"image_size": side}
    if options.autoencoder is not None:
        from indigo_jax.weights import latents
        about["autoencoder"] = latents.identity(latents.load(options.autoencoder))
    return Converted(module, params, {**info, **about}, (*notes, *more))


def _context(part, options, channels):
    """The embedding of the empty text: of a file, of the pipeline's text encoder, or of one in the same file."""
    if options.context is not None:
        try:
            return np.load(options.context, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{options.context}: not an .npy of numbers ({error})") from error
    text = part.text_encoder
    if text is not None:
        config = text.config
        state = {name: checkpoint.array(value) for name, value in text.read().tensors.items()}
        return empty_text(state, num_heads=config.get("num_attention_heads"), pad=config.get("pad"),
                          activation=config.get("hidden_act", "quick_gelu"))
    prefixes = checkpoint.under(part.others, ("text_model.embeddings.token_embedding.weight",))
    if prefixes:
        return empty_text(checkpoint.cut(part.others, prefixes[0])[0])
    raise ValueError("a prior that was made for texts, and no text encoder of CLIP (CLIPTextModel) beside it: give the "
                     f"whole pipeline, or the embedding of the empty text [77, {channels}] with --context FILE.npy")


def _with_groups(arguments, widths, options):
    """The groups of every GroupNorm, of which names and shapes say nothing: 32, or the most that divide all widths."""
    usual = math.gcd(32, *widths)
    groups = options.num_groups or usual
    notes = [] if options.num_groups or usual == 32 else [
        f"nothing says into how many groups its GroupNorms part the channels: taken to be {usual} (--num-groups)"]
    return {**arguments, **({"num_groups": groups} if groups != 32 or "num_groups" in arguments else {})}, notes


_PRIOR = ("image_size", "schedule", "prediction")
KINDS: dict[str, Kind] = {
    "ddpm-unet": Kind("the UNet of DDPM's torch port (DDIM, SDEdit, BIRD)", (
        ("temb.dense.0.weight", "conv_in.weight", "down.0.block.0.conv1.weight"),), (*_PRIOR, "num_groups"), _ddpm),
    "adm": Kind("the UNet of guided diffusion, with classes or without", (
        ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"),), (
            *_PRIOR, "heads", "head_channels", "label"), _adm, ("!.transformer_blocks.",)),
    "diffusers-unet": Kind("UNet2DModel of diffusers, or a DDPMPipeline with one", (
        ("time_embedding.linear_1.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),), (
            *_PRIOR, "label"), _unet2d, ("!.transformer_blocks.",)),
    "latent-unet": Kind("the UNet of Stable Diffusion 1 and 2: UNet2DConditionModel, or a file of its own names", (
        ("time_embedding.linear_1.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight")), (
            *_PRIOR, "heads", "context", "autoencoder"), _latent_unet, (".transformer_blocks.",)),
    "vae": Kind("the autoencoder of latent diffusion: AutoencoderKL, or a file of its own names", (
        ("decoder.conv_in.weight", "encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"),
        ("decoder.conv_in.weight", "encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight")), (
            "num_groups", "scaling_factor", "shift_factor"), _vae),
    "taesd": Kind("a small autoencoder, TAESD or TAEF2: AutoencoderTiny, one file, or a folder of its two halves", (
        ("decoder.1.weight", "encoder.0.weight"), ("decoder.layers.0.weight", "encoder.layers.0.weight")), (
            "scaling_factor", "shift_factor"), _taesd),
    "drunet": Kind("DRUNet, the denoiser of DPIR", (
        ("m_head.weight", "m_tail.weight", "m_body.0.res.0.weight"),), (), _drunet),
}
