"""LatentINDIGO with a prior of the size of Stable Diffusion 2.1: for ``train.plan`` alone, nothing is trained.

Networks: the UNet of Stable Diffusion 2.1 with the empty text (865.9 M parameters, v prediction), its autoencoder
(83.7 M), an invertible network of pixels of its published size that shrinks 4x.
Command: ``python -m train.plan --config train/configs/plan_stable_diffusion.py --topology v5e:1x1 --alone``
Pictures of 512 x 512 of measurements of 128 x 128; 100 steps, each guided. No weights are needed.
"""
from indigo_jax import models, schedules
from train.plan_guided import GuidedConfig


def get_config() -> GuidedConfig:
    return GuidedConfig(
        model=models.PromptedUNet(prompt_channels=1024, num_heads=(5, 10, 20, 20)),
        autoencoder=models.AutoencoderKL(),
        inn=models.GuidanceINN(),
        schedule=schedules.to_json("scaled_linear", num_timesteps=1000, beta_start=0.00085, beta_end=0.012),
        prediction="v", crop=512, batch_size=1, steps=100)
