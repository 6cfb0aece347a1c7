"""Blind Gaussian denoising, sigma 5 to 50 on the 0..255 scale.

Data: any folder of clean pictures (DIV2K_train_HR, BSD400, Waterloo are usual), or a ``tfds:`` name.
Command: ``python -m train.indi --config train/configs/indi_denoise.py --data DIV2K_train_HR --workdir RUN``
Hardware: a TPU v5e-16 or eight data-centre GPUs, about a day (estimated, not run); ``--batch-size 8 --crop 64`` runs
anywhere.
Expect: good blind colour denoisers reach about 31.2 dB on CBSD68 at sigma 25 in one step.
The measurement is noisy itself, so the path needs no noise of its own (eps = 0 is well defined here).
"""
from indigo_jax import models, operators
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=32, dtype="bfloat16"),
        degradation=operators.random_gaussian_noise((5.0, 50.0)), tasks=("denoise",),
        num_steps=300_000, batch_size=128, crop=128, margin=0, noise="none", eps=0.0, a=1.0, learning_rate=2e-4,
        warmup_steps=5000)
