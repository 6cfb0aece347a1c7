"""CelebA-HQ at 256 x 256 (Karras et al. 2018) with DDPM's own network and schedule: the prior of BIRD's experiments.

Data: a folder of the 30,000 pictures of CelebA-HQ, of any size from 256 (with train/ and val/ folders, or no held-out
ones); aligned faces, for non-commercial research.
Command: ``python -m train.diffusion --config train/configs/diffusion_celebahq.py --data CELEBAHQ --workdir RUN``
Hardware: a TPU v5e-16 or eight data-centre GPUs, about three days (estimated from the operation count, not run).
Expect: Ho et al. 2020 show samples of this set after 500,000 steps at batch 64, without a number for it.
As there: AdamW as Adam, learning rate 2e-5 without decay, moving average 0.9999. The network has 113,673,219
parameters; it computes in bfloat16.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.DDPMUNet(dtype="bfloat16"), schedule=schedules.to_json("linear"), prediction="eps",
        num_steps=500_000, batch_size=64, crop=256, resize=256, learning_rate=2e-5, warmup_steps=5000,
        decay="constant", ema=0.9999, checkpoint_every=5000, log_every=100, eval_every=10_000)
