"""One function for each kind of foreign checkpoint: ``(tensors, part, options) -> Converted``; kinds has the table."""
import math

import numpy as np

from indigo_jax import models, paths, schedules
from indigo_jax.convert import checkpoint, compvis, strict
from indigo_jax.convert.ddpm_unet import ddpm_unet, ddpm_unet_arguments
from indigo_jax.convert.diffusers_unet2d import diffusers_unet2d, diffusers_unet2d_arguments
from indigo_jax.convert.diffusers_vae import completed, diffusers_vae, diffusers_vae_arguments
from indigo_jax.convert.drunet import drunet, drunet_arguments
from indigo_jax.convert.guided_diffusion import guided_diffusion, guided_diffusion_arguments, legacy_order
from indigo_jax.convert.inception import inception, inception_arguments
from indigo_jax.convert.indigo_inn import indigo_inn, indigo_inn_arguments
from indigo_jax.convert.kdsr import SIGNATURE, kdsr, kdsr_arguments
from indigo_jax.convert.options import Converted, first_of
from indigo_jax.convert.scheduler import schedule_of
from indigo_jax.convert.swinir import swinir, swinir_arguments
from indigo_jax.convert.taef2 import taef2, taef2_arguments

_SCALING = {4: 0.18215}  # of latents by their channels, where no config tells: that of Stable Diffusion
_LEAST_SIGMA, _MOST_SIGMA = 0.004, 0.4  # of DRUNet's levels; it was trained up to 50 of 255, 0.39 in [-1, 1] units


def _pictures(channels):
    if channels != 3:
        raise ValueError(f"a network for pictures of {channels} channels; here they have 3")


def make_ddpm(tensors, part, options):
    """DDPM's torch port."""
    arguments = ddpm_unet_arguments(tensors, image_size=options.image_size)
    widths = [arguments["channels"] * multiplier for multiplier in arguments["multipliers"]]
    arguments, groups = _with_groups(arguments, widths, options)
    _pictures(tensors["conv_in.weight"].shape[1])
    info, notes = schedule_of(part.scheduler, options)
    module = models.DDPMUNet(**arguments)
    params = ddpm_unet(tensors, image_size=options.image_size, num_groups=arguments.get("num_groups", 32))
    return Converted(module, params, {**info, "image_size": module.image_size}, (*notes, *groups))


def make_adm(tensors, part, options):
    """Guided diffusion."""
    heads = {"num_heads": options.heads or 0, "num_head_channels": options.head_channels or 64}
    arguments = guided_diffusion_arguments(tensors, image_size=options.image_size, **heads)
    _pictures(tensors["input_blocks.0.0.weight"].shape[1])
    info, notes = schedule_of(part.scheduler, options)
    if options.heads is None and options.head_channels is None:
        notes.append("nothing says how many heads its attention has: taken to be of 64 channels each, as in most "
                     "released networks (--heads, --head-channels)")
    if options.attention_order is None:
        notes.append("nothing says in which order its attention has q, k and v: taken to be by head; say "
                     "--attention-order new where it was trained with use_new_attention_order, as the released one of "
                     "64 px was")
    elif options.attention_order == "new":
        tensors = legacy_order(tensors, **heads)
    module = models.ADMUNet(**arguments)
    if options.image_size is None:
        notes.append(f"its pictures are taken to be of {module.image_size} px, so that its last level is 8 x 8 "
                     "(--image-size)")
    params = guided_diffusion(tensors, image_size=options.image_size, label=options.label, **heads)
    learned = {"learned_variance": True} if module.out_channels == 6 else {}
    chosen = {"label": options.label} if options.label is not None else {}
    return Converted(module, params, {**info, "image_size": module.image_size, **learned, **chosen}, tuple(notes))


def make_unet2d(tensors, part, options):
    """diffusers' unconditional UNet."""
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


def make_vae(tensors, part, options):
    """The autoencoder of latent diffusion."""
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


def make_taesd(tensors, part, options):
    """A small autoencoder."""
    for name, wanted in (("act_fn", "relu"), ("latent_magnitude", 3), ("upsampling_scaling_factor", 2)):
        if part.config.get(name, wanted) != wanted:
            raise ValueError(f"an autoencoder with {name} = {part.config[name]!r} in its config cannot be converted")
    if part.config.get("shift_factor") or options.shift_factor:
        raise ValueError("a small autoencoder with a shift_factor cannot be converted")
    factor = options.scaling_factor or part.config.get("scaling_factor") or 1.0
    tensors = {name.removeprefix("taesd_"): value for name, value in tensors.items()}
    module = models.TinyAutoencoder(**taef2_arguments(tensors), scaling_factor=float(factor))
    return Converted(module, taef2(tensors), {})


def make_drunet(tensors, part, options):
    """DRUNet."""
    del part, options
    module = models.DRUNet(**drunet_arguments(tensors))
    if module.out_channels not in (1, 3):
        _pictures(module.out_channels)
    schedule = schedules.to_json("geometric", num_timesteps=1000, sigma_min=_LEAST_SIGMA, sigma_max=_MOST_SIGMA)
    notes = ("trained for noise of up to 50 of 255: fine where little is missing, not to fill large holes",)
    return Converted(module, drunet(tensors), {"kind": "prior", "schedule": schedule, "prediction": "sigma"}, notes)


def make_inception(tensors, part, options):
    """InceptionV3."""
    del part, options
    return Converted(models.InceptionV3(**inception_arguments(tensors)), inception(tensors), {})


def make_indigo_inn(tensors, part, options):
    """The invertible network; its condition comes from an encoder that lies in a checkpoint of its own."""
    del part
    if options.encoder is None:
        raise ValueError("INDIGO's invertible network, whose condition another network makes: give that one's "
                         "checkpoint (KDSR's, with names such as E_st.E.0.weight) with --encoder FILE")
    held = checkpoint.read(options.encoder)
    prefixes = checkpoint.under(held.tensors, SIGNATURE)
    if not prefixes:
        raise ValueError(f"{options.encoder}: no encoder of KDSR in it: its names begin with {first_of(held.tensors)}")
    encoder = checkpoint.cut(held.tensors, prefixes[0])[0]
    arguments, about = indigo_inn_arguments(tensors), kdsr_arguments(encoder)
    if about["embedding"] != arguments["cond_dim"]:
        raise ValueError(f"{options.encoder}: conditions of {about['embedding']} numbers, the invertible network takes "
                         f"{arguments['cond_dim']}")
    module = models.GuidanceINN(**arguments, encoder_channels=about["channels"], encoder_blocks=about["num_blocks"])
    inn = indigo_inn(tensors)["params"]
    params = {"inn": {**inn, "null_condition": np.zeros(module.cond_dim, np.float32)},
              "encoder": kdsr(encoder)["params"]}
    notes = (*held.notes, "trained with a condition always: not for --unconditional")
    return Converted(module, {"params": params}, {"scale": 2**module.levels}, notes)


def make_swinir(tensors, part, options):
    """SwinIR."""
    del part, options
    module = models.SwinIR(**swinir_arguments(tensors))
    info = {"noise": paths.noise_to_json(paths.no_noise()), "tasks": ["denoise", "deblur", "sr", "jpeg"]}
    notes = ("nothing says what damage it has learned: any task takes it", "it restores in one step: leave --steps out")
    return Converted(module, swinir(tensors), info, notes)


def _with_groups(arguments, widths, options):
    """The groups of every GroupNorm, of which names and shapes say nothing: 32, or the most that divide all widths."""
    usual = math.gcd(32, *widths)
    groups = options.num_groups or usual
    notes = [] if options.num_groups or usual == 32 else [
        f"nothing says into how many groups its GroupNorms part the channels: taken to be {usual} (--num-groups)"]
    return {**arguments, **({"num_groups": groups} if groups != 32 or "num_groups" in arguments else {})}, notes
