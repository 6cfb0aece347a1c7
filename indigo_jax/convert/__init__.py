"""Foreign checkpoints as our parameters: one file per source, strict both ways (nothing unused, nothing missing)."""
from indigo_jax.convert.ddpm_unet import ddpm_unet, ddpm_unet_arguments
from indigo_jax.convert.diffusers_unet import diffusers_unet, diffusers_unet_arguments
from indigo_jax.convert.diffusers_unet2d import diffusers_unet2d, diffusers_unet2d_arguments
from indigo_jax.convert.diffusers_vae import diffusers_vae, diffusers_vae_arguments
from indigo_jax.convert.drunet import drunet, drunet_arguments
from indigo_jax.convert.guided_diffusion import guided_diffusion, guided_diffusion_arguments
from indigo_jax.convert.inception import inception, inception_arguments
from indigo_jax.convert.indigo_inn import indigo_inn, indigo_inn_arguments
from indigo_jax.convert.kdsr import kdsr, kdsr_arguments
from indigo_jax.convert.keras_ddpm import keras_ddpm, keras_ddpm_layers, load_quantised
from indigo_jax.convert.kinds import Converted, Options, load
from indigo_jax.convert.latent_prior import empty_text, latent_prior, latent_prior_arguments
from indigo_jax.convert.lpips import is_lpips, lpips, read_lpips
from indigo_jax.convert.niqe import read_niqe
from indigo_jax.convert.swinir import swinir, swinir_arguments
from indigo_jax.convert.taef2 import taef2, taef2_arguments

__all__ = ["Converted", "Options", "ddpm_unet", "ddpm_unet_arguments", "diffusers_unet", "diffusers_unet2d",
           "diffusers_unet2d_arguments", "diffusers_unet_arguments", "diffusers_vae",
           "diffusers_vae_arguments", "drunet", "drunet_arguments", "empty_text", "guided_diffusion",
           "guided_diffusion_arguments", "inception", "inception_arguments", "indigo_inn",
           "indigo_inn_arguments", "is_lpips", "kdsr", "kdsr_arguments", "keras_ddpm", "keras_ddpm_layers",
           "latent_prior", "latent_prior_arguments", "load", "load_quantised", "lpips", "read_lpips",
           "read_niqe", "swinir", "swinir_arguments", "taef2", "taef2_arguments"]
