"""A small prior of faces at 64 x 64 pixels, for BIRD and its like on an ordinary computer.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, of which the held-out
ones only measure; brought to 64 x 64 by averaging, mirrored at random.
Command: ``python -m train.diffusion --config train/configs/diffusion_faces64.py --data faces128.npz --workdir RUN``
Hardware: two CPU cores; 0.1 TFLOP and about 1.5 s a step, three to four hours.
Expect: faces in the sample grids after about 2,000 steps; a network of 5.9 M parameters, 12 MB as float16.
Pixels are folded 2 x 2 into channels at the door, so that the widest level is 32 x 32: four times as many steps in the
same time. The prediction is v because the schedule ends in pure noise, where eps says nothing about the picture.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.DDPMUNet(channels=32, multipliers=(2, 4, 5), num_res_blocks=1, attention_resolutions=(16, 8),
                              image_size=64, patch_size=2),
        schedule=schedules.to_json("cosine", num_timesteps=1000), prediction="v",
        num_steps=8_000, batch_size=16, crop=64, resize=64,
        learning_rate=8e-4, warmup_steps=300, decay="cosine", final_learning_rate=1e-6, ema=0.999,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
