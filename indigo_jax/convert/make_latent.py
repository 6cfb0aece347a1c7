"""Stable Diffusion's UNets of any kind of file, with the embedding of the text that they see."""
import dataclasses

import numpy as np

from indigo_jax import models
from indigo_jax.convert import checkpoint, compvis
from indigo_jax.convert.diffusers_unet import with_added
from indigo_jax.convert.latent_prior import empty_text, empty_text_of_xl, latent_prior, latent_prior_arguments
from indigo_jax.convert.options import Converted
from indigo_jax.convert.scheduler import schedule_of


def make_latent_unet(tensors, part, options):
    """The UNet of Stable Diffusion with the embedding of a text."""
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
    ins, outs = (config.get(name, 4) for name in ("in_channels", "out_channels"))
    if ins > outs:
        raise ValueError(f"a UNet that is told more than its latents ({ins} channels go in, {outs} come out), as for "
                         "inpainting or enlarging; the one of texts alone can be a prior")
    usual = 128 if "add_embedding.linear_1.weight" in tensors else 64
    side, channels = options.image_size or 8 * (config.get("sample_size") or usual), config.get(
        "cross_attention_dim", 1280)
    if config.get("addition_embed_type") is not None:
        context, pooled = _context_of_xl(part, options, channels)
        if options.prompt is not None:
            raise ValueError("a UNet of Stable Diffusion XL takes one text, with nothing to guide away from: give it "
                             "with --context FILE.npz, and leave --prompt out")
        tensors, config = with_added(tensors, config, pooled, side)
    else:
        context = _context(part, options, channels)
    empty, scale = None, {}
    if options.prompt is not None:
        empty, context = context, _embedding(options.prompt)[0]
        scale = {"prompt_scale": 5.0 if options.prompt_scale is None else options.prompt_scale}
    elif options.prompt_scale is not None:
        raise ValueError("--prompt-scale guides towards a text: give its embedding with --prompt FILE.npy")
    module = models.PromptedUNet(**latent_prior_arguments(config, context), **scale)
    params = latent_prior(tensors, config, context, empty if module.prompt_scale != 1 else None)
    if part.scheduler is None and options.schedule is None:
        options = dataclasses.replace(options, schedule="scaled_linear")
        notes.append("nothing says what schedule of noise it was trained with: taken to be that of Stable Diffusion, "
                     f"predicting {options.prediction or 'eps'} (--schedule, --prediction)")
    info, more = schedule_of(part.scheduler, options)
    about = {"image_size": side}
    if options.autoencoder is not None:
        from indigo_jax.weights import latents
        about["autoencoder"] = latents.identity(latents.load(options.autoencoder))
    return Converted(module, params, {**info, **about}, (*notes, *more))


def _context(part, options, channels):
    """The embedding of the empty text: of a file, of the pipeline's text encoder, or of one in the same file."""
    if options.context is not None:
        return _embedding(options.context)[0]
    text = part.text_encoder
    if text is not None:
        return empty_text(_tensors(text), **_about(text))
    prefixes = checkpoint.under(part.others, ("text_model.embeddings.token_embedding.weight",))
    if prefixes:
        return empty_text(checkpoint.cut(part.others, prefixes[0])[0])
    raise ValueError("a prior that was made for texts, and no text encoder of CLIP (CLIPTextModel) beside it: give the "
                     f"whole pipeline, or the embedding of the empty text [77, {channels}] with --context FILE.npy")


def _context_of_xl(part, options, channels):
    """``(context, pooled)`` of the empty text of XL: zeros and None, unless its pipeline says that they are not."""
    if part.pipeline.get("requires_aesthetics_score"):
        raise ValueError("a refiner of Stable Diffusion XL (its pipeline says requires_aesthetics_score): it is told a "
                         "score beside the size, which is not read here; convert the base model")
    if options.context:
        return _embedding(options.context)
    if part.pipeline.get("force_zeros_for_empty_prompt", True):
        return np.zeros((77, channels)), None
    texts = part.text_encoder, part.text_encoder_2
    missing = [name for name, text in zip(("text_encoder", "text_encoder_2"), texts) if text is None]
    if missing:
        raise ValueError("its pipeline says that the empty text is not zeros (force_zeros_for_empty_prompt), and has "
                         f"no {' and no '.join(missing)} of CLIP: give its embedding with --context FILE.npz")
    return empty_text_of_xl(*map(_tensors, texts), *map(_about, texts))


def _tensors(text):
    return {name: checkpoint.array(value) for name, value in text.read().tensors.items()}


def _about(text):
    """What :func:`empty_text` must know of an encoder."""
    return {"num_heads": text.config.get("num_attention_heads"), "pad": text.config.get("pad"),
            "activation": text.config.get("hidden_act", "quick_gelu")}


def _embedding(path):
    """``(context [L, D], pooled [D] or None)`` of a file ``.npy``, or ``.npz`` with these names."""
    try:
        with open(path, "rb") as stream:
            held = np.load(stream, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return held.astype(np.float32), None
            pooled = held["pooled"].astype(np.float32) if "pooled" in held else None
            return held["context"].astype(np.float32), pooled
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not an .npy of numbers, nor an .npz with \"context\" ({error})") from error
