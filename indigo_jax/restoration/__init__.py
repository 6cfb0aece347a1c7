"""Restoration with a prior and an operator: each method a kernel for :func:`samplers.sample`."""
from indigo_jax.restoration.bird import (
    BirdInfo, BirdState, Objective, bird, bird_objective, bird_optimizer, ddim_rollout, to_sphere)
from indigo_jax.restoration.blind_em import BlindInfo, BlindState, blind_em
from indigo_jax.restoration.ddnm import ddnm
from indigo_jax.restoration.diffpir import DiffpirInfo, DiffpirState, diffpir
from indigo_jax.restoration.dps import dps
from indigo_jax.restoration.kernel_estimate import estimate_kernel, noise_level

__all__ = [
    "BirdInfo", "BirdState", "BlindInfo", "BlindState", "DiffpirInfo", "DiffpirState", "Objective", "bird",
    "bird_objective", "bird_optimizer", "blind_em", "ddim_rollout", "ddnm", "diffpir", "dps", "estimate_kernel",
    "noise_level", "to_sphere",
]
