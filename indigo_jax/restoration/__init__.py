"""Restoration with a prior and an operator: each method a kernel for :func:`samplers.sample`."""
from indigo_jax.restoration.bird import (
    BirdInfo, BirdState, Objective, bird, bird_objective, bird_optimizer, ddim_rollout, to_sphere)
from indigo_jax.restoration.ddnm import ddnm
from indigo_jax.restoration.diffpir import DiffpirInfo, DiffpirState, diffpir
from indigo_jax.restoration.dps import dps

__all__ = [
    "BirdInfo", "BirdState", "DiffpirInfo", "DiffpirState", "Objective", "bird", "bird_objective", "bird_optimizer",
    "ddim_rollout", "ddnm", "diffpir", "dps", "to_sphere",
]
