"""A small prior of blur kernels of 9 x 9 pixels, for BlindDPS on an ordinary computer.

Data: random camera shakes and Gaussians, drawn when asked for (``kernels:9``); three equal channels; mirrored at
random.
Command: ``python -m train.diffusion --config train/configs/diffusion_kernels9.py --data kernels:9 --workdir RUN``
Hardware: two CPU cores.
Expect: kernels in the sample grids after about 1,000 steps. The kernels are small, so the network has one level. The
prediction is v because the schedule ends in pure noise.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.DDPMUNet(channels=32, multipliers=(2,), num_res_blocks=1, attention_resolutions=(9,),
                              image_size=9, num_groups=16),
        schedule=schedules.to_json("cosine", num_timesteps=1000), prediction="v",
        num_steps=6_000, batch_size=32, crop=9,
        learning_rate=1e-3, warmup_steps=150, decay="cosine", final_learning_rate=1e-6, ema=0.998,
        checkpoint_every=500, log_every=50, eval_every=1000, data_threads=1)
