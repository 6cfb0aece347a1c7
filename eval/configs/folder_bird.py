"""Degrade any folder of pictures and restore it with BIRD: noise of unknown level, or blur of an unknown kernel.

Paper: Chihaoui et al., Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024 (arXiv 2405.19572).
Command: ``python -m eval.run --config eval/configs/folder_bird.py --weights PRIOR --data FOLDER --output FOLDER``, with
``--tasks deblur motion`` for blur. PRIOR is a diffusion prior from ``train.diffusion`` or ``indigo weights convert``.
Hardware: an accelerator; each picture takes about 100 evaluations of the network for every tile of the prior's side.
"""
import dataclasses

from eval import run_methods
from eval.configs import folder
from eval.run_config import EvalConfig


def get_config() -> EvalConfig:
    config = folder.get_config()
    known = tuple(each for each in config.degradations if each.task in ("denoise", "deblur", "motion"))
    return dataclasses.replace(config, method=run_methods.bird, degradations=known, weights="")
