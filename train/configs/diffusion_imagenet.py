"""ImageNet at 256 x 256 without classes, with the network of guided diffusion (Dhariwal & Nichol 2021).

Data: the folder of training pictures of ILSVRC 2012 in one level (or ``tfds:imagenet2012`` prepared as array_record),
for non-commercial research; the shorter side is brought to 256 and a square cut out at random.
Command: ``python -m train.diffusion --config train/configs/diffusion_imagenet.py --data IMAGENET --workdir RUN``
Hardware: a TPU v5e-256 or 64 data-centre GPUs, one to two weeks (estimated from the operation count, not run).
Expect: the published unconditional network has the same 552,814,086 parameters, 1.98 M steps at batch 256; its paper
reports FID 26.21 without guidance.
The network gives the noise and where the log-variance of each reverse step lies between its bounds. The loss is the
hybrid one of Nichol & Dhariwal 2021: the squared error of the noise plus 0.001 L_vlb, through which only the variance
learns.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.ADMUNet(dtype="bfloat16"), schedule=schedules.to_json("linear"), prediction="eps",
        learned_variance=True, num_steps=2_000_000, batch_size=256, crop=256, resize=256, learning_rate=1e-4,
        warmup_steps=5000, decay="constant", ema=0.9999, checkpoint_every=5000, log_every=100, eval_every=20_000)
