"""Neural networks: flax.linen modules only. They know nothing of schedules, samplers or files."""
from indigo_jax.models.adm_unet import ADMUNet
from indigo_jax.models.autoencoder import TinyAutoencoder
from indigo_jax.models.autoencoder_kl import AutoencoderKL
from indigo_jax.models.ddpm_unet import DDPMUNet
from indigo_jax.models.keras_unet import KerasUNet
from indigo_jax.models.restoration_unet import RestorationUNet

__all__ = ["ADMUNet", "AutoencoderKL", "DDPMUNet", "KerasUNet", "RestorationUNet", "TinyAutoencoder"]
