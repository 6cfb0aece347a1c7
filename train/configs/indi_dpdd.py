"""Defocus deblurring on DPDD (Abuolaim & Brown 2020): 350 training pairs of 1680 x 1120.

Data: ``train_c/target`` (sharp) and ``train_c/source`` (blurred) of the data set, 8-bit PNG.
Command: ``python -m train.indi --config train/configs/indi_dpdd.py --data pairs:train_c/target,train_c/source
--workdir RUN``
Hardware: a TPU v5e-16 or eight data-centre GPUs, about half a day (estimated, not run).
Expect: the paper's table is not known to us; networks of this kind reach about 25.5 to 26 dB PSNR from single pictures.
Weight decay is higher than elsewhere because 350 pictures are few.
"""
from indigo_jax import models
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=64, dtype="bfloat16"), tasks=("deblur",),
        num_steps=300_000, batch_size=128, crop=192, noise="constant", eps=0.01, a=1.0, learning_rate=2e-4,
        warmup_steps=5000, weight_decay=1e-3)
