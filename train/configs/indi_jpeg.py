"""JPEG artefact removal: clean pictures compressed on the device at qualities 5 to 50 (4:2:0).

Data: any folder of clean pictures (DIV2K_train_HR and Flickr2K are usual), or a ``tfds:`` name.
Command: ``python -m train.indi --config train/configs/indi_jpeg.py --data DIV2K_train_HR --workdir RUN``
Hardware: a TPU v5e-16 or eight data-centre GPUs, about a day (estimated, not run); ``--batch-size 8 --crop 64`` runs
anywhere.
Expect: the paper's table is not known to us; blind networks of this size gain about 1.5 to 2 dB RGB PSNR at quality 10.
"""
from indigo_jax import models, operators
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=32, dtype="bfloat16"), degradation=operators.random_jpeg((5, 50)),
        tasks=("jpeg",), num_steps=300_000, batch_size=128, crop=128, margin=16, noise="constant", eps=0.01, a=1.0,
        learning_rate=2e-4, warmup_steps=5000)
