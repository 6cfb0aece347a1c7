"""Motion deblurring on GoPro (Nah et al. 2017): 2,103 pairs of 1280 x 720.

Data: the folder ``GOPRO_Large/train`` with ``SCENE/sharp/*.png`` and ``SCENE/blur/*.png`` (download it from the data
set's page; CC BY 4.0).
Command: ``python -m train.indi --config train/configs/indi_gopro.py --data gopro:GOPRO_Large/train --workdir RUN``
Hardware: meant for a TPU v5e-16 or eight data-centre GPUs, about a day (estimated from the operation count, not run).
Expect: the paper's table is not known to us; published neighbours reach 31.5 to 33 dB PSNR (RGB, whole frames).
The data set, the crop, the 26 M network and the noise level 0.01 follow what is known; the rest is our choice.
"""
from indigo_jax import models
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=64, dtype="bfloat16"), tasks=("deblur",),
        num_steps=500_000, batch_size=256, crop=128, noise="constant", eps=0.01, a=1.0, learning_rate=2e-4,
        warmup_steps=5000)
