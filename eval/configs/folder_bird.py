"""Degrade any folder of pictures and restore it with BIRD: noise of unknown level, or blur of an unknown kernel.

Paper: Chihaoui et al., Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024 (arXiv 2405.19572).
Command: ``python -m eval.run --config eval/configs/folder_bird.py --weights PRIOR --data FOLDER --output FOLDER``, with
``--tasks deblur motion`` for blur. PRIOR is a diffusion prior from ``train.diffusion`` or ``indigo weights convert``;
without it that of portraits.
Hardware: an accelerator; each picture takes about 100 evaluations of the network for every tile of the prior's side.
"""
import dataclasses

from eval.configs import folder
from eval.run.config import EvalConfig


def get_config() -> EvalConfig:
    config = folder.get_config()
    known = tuple(each for each in config.degradations if each.task in config.method_tasks)
    return dataclasses.replace(config, method="bird", degradations=known)
