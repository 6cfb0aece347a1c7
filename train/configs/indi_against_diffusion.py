"""InDI beside the diffusion of ``diffusion_conditional.py``: small enough to train both to their end on a CPU.

Data: a pack of photographs; the mixture of ``indi_photo_small.py``.
Command: ``python -m train.indi --config train/configs/indi_against_diffusion.py --data imagenet256.npz --workdir RUN``
Hardware: two CPU cores; about 0.2 s a step.
Expect: the lines of InDI in ``eval/results/given_y_conditional.md``.
"""
import dataclasses

from indigo_jax import models
from train.configs import indi_photo_small
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return dataclasses.replace(
        indi_photo_small.get_config(), num_steps=6_000,
        model=models.RestorationUNet(width=24, multipliers=(1, 2, 3), num_res_blocks=1, patch_size=2))
