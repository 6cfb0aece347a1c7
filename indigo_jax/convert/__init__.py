"""Foreign checkpoints as our parameters: one file per source, strict both ways (nothing unused, nothing missing)."""
from indigo_jax.convert.adm_unet import adm_unet, adm_unet_arguments
from indigo_jax.convert.ddpm_unet import ddpm_unet, ddpm_unet_arguments
from indigo_jax.convert.keras_ddpm import keras_ddpm, keras_ddpm_layers, load_quantised

__all__ = ["adm_unet", "adm_unet_arguments", "ddpm_unet", "ddpm_unet_arguments", "keras_ddpm", "keras_ddpm_layers",
           "load_quantised"]
