"""Neural networks: flax.linen modules only. They know nothing of schedules, samplers or files."""
from indigo_jax.models.adm_unet import ADMUNet
from indigo_jax.models.autoencoder import TinyAutoencoder
from indigo_jax.models.autoencoder_kl import AutoencoderKL
from indigo_jax.models.ddpm_unet import DDPMUNet
from indigo_jax.models.degradation_encoder import DegradationEncoder
from indigo_jax.models.denoising_unet import DenoisingUNet
from indigo_jax.models.drunet import DRUNet
from indigo_jax.models.guidance_inn import GuidanceINN
from indigo_jax.models.inception import InceptionV3
from indigo_jax.models.keras_unet import KerasUNet
from indigo_jax.models.latent_unet import LatentUNet
from indigo_jax.models.prompted_unet import PromptedUNet
from indigo_jax.models.pytrees import adapted
from indigo_jax.models.restoration_unet import RestorationUNet
from indigo_jax.models.swinir import SwinIR
from indigo_jax.models.unet2d import UNet2D
from indigo_jax.models.wavelet_inn import RoundTrip, WaveletINN, check_inverse

__all__ = ["ADMUNet", "AutoencoderKL", "DDPMUNet", "DRUNet", "DegradationEncoder", "DenoisingUNet", "GuidanceINN",
           "InceptionV3", "KerasUNet", "LatentUNet", "PromptedUNet", "RestorationUNet", "RoundTrip", "SwinIR",
           "TinyAutoencoder", "UNet2D", "WaveletINN", "adapted",
           "check_inverse"]
