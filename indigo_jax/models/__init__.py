"""Neural networks: flax.linen modules only. They know nothing of schedules, samplers or files."""
from indigo_jax.models.restoration_unet import RestorationUNet

__all__ = ["RestorationUNet"]
