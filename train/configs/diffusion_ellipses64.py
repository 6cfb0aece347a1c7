"""A small prior of phantoms at 64 x 64 pixels, for tomography from few views on an ordinary computer.

Data: random grey ellipses in a body, drawn when asked for (``ellipses:64``); three equal channels; mirrored at random.
Command: ``python -m train.diffusion --config train/configs/diffusion_ellipses64.py --data ellipses:64 --workdir RUN``
Hardware: two CPU cores; about 0.8 s a step, half an hour.
Expect: bodies with inner ellipses in the sample grids after about 1,000 steps; a network of 2.1 M parameters, 4 MB as
float16. Pixels are folded 2 x 2 into channels at the door. The prediction is v because the schedule ends in pure noise.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.DDPMUNet(channels=32, multipliers=(2, 2, 3), num_res_blocks=1, attention_resolutions=(8,),
                              image_size=64, patch_size=2, num_groups=16),
        schedule=schedules.to_json("cosine", num_timesteps=1000), prediction="v",
        num_steps=2_500, batch_size=16, crop=64,
        learning_rate=1e-3, warmup_steps=150, decay="cosine", final_learning_rate=1e-6, ema=0.998,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
