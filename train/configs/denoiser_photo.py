"""The shipped prior of photographs, ``photo``: a denoiser of 4.4 M parameters that is told the noise level.

Data: 400 photographs of 481 x 321 (BSDS500 train and test) four times and 844 of 256 x 384 (ImageNet) once, in packs.
Command: ``python -m train.denoiser --config train/configs/denoiser_photo.py
--data 4*bsds400.npz+imagenet256.npz --workdir RUN``
Hardware: one CPU core, about 0.6 s a step; two hours and a half.
Expect: see ``indigo_jax/weights/photo.md``.
"""
from indigo_jax import models
from train.denoiser import DenoiserConfig


def get_config() -> DenoiserConfig:
    return DenoiserConfig(
        model=models.DenoisingUNet(width=64, multipliers=(1, 2, 3), num_res_blocks=2, patch_size=2),
        noises=(("white", 0.72), ("equal", 0.06), ("mixed", 0.06), ("correlated", 0.1), ("signal", 0.06)),
        grey=0.08, rounded=0.3, holes=0.15,
        num_steps=9_300, batch_size=12, crop=64, learning_rate=8e-4, warmup_steps=200, final_learning_rate=1e-6,
        weight_decay=1e-5, ema=0.999, checkpoint_every=500, log_every=50, eval_every=1000, data_threads=1, cache=True)
