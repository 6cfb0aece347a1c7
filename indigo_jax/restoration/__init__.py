"""Restoration with a prior and an operator: each method a kernel for :func:`samplers.sample`."""
from indigo_jax.restoration.bird import (
    BirdInfo, BirdState, Objective, bird, bird_objective, bird_optimizer, ddim_rollout, to_sphere)
from indigo_jax.restoration.blind_em import BlindState, Walks, blind_em
from indigo_jax.restoration.ddnm import ddnm
from indigo_jax.restoration.diffpir import diffpir
from indigo_jax.restoration.dps import dps
from indigo_jax.restoration.hqs import hqs
from indigo_jax.restoration.indigo import (
    IndigoState, View, fix_color, indigo, indigo_preset, indigo_schedule, indigo_start)
from indigo_jax.restoration.kernel_estimate import estimate_kernel, noise_level
from indigo_jax.restoration.latent_indigo import latent_indigo
from indigo_jax.restoration.latent_regularizers import LatentRegularizer, manifold_drift
from indigo_jax.restoration.noise_estimate import flat_noise_level
from indigo_jax.restoration.pigdm import pigdm
from indigo_jax.restoration.reuse import Reuse
from indigo_jax.restoration.tmpd import tmpd
from indigo_jax.restoration.wrappers import averaged, stopped
from indigo_jax.typing import Autoencoder, InvertibleNetwork

__all__ = [
    "Autoencoder", "BirdInfo", "BirdState", "BlindState", "IndigoState", "InvertibleNetwork", "LatentRegularizer",
    "Objective", "Reuse", "View", "Walks", "averaged", "bird", "bird_objective", "bird_optimizer", "blind_em",
    "ddim_rollout", "ddnm", "diffpir", "dps", "estimate_kernel", "fix_color", "flat_noise_level", "hqs", "indigo",
    "indigo_preset", "indigo_schedule", "indigo_start", "latent_indigo", "manifold_drift", "noise_level", "pigdm",
    "stopped", "tmpd", "to_sphere",
]
