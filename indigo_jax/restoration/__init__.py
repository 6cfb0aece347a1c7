"""Restoration with a prior and an operator: each method a kernel for :func:`samplers.sample`."""
from indigo_jax.operators.kernels import kernel_of, picture_of
from indigo_jax.restoration.bird import (
    BirdInfo, BirdState, Objective, bird, bird_objective, bird_optimizer, ddim_rollout, to_sphere)
from indigo_jax.restoration.blind_dps import blind_dps
from indigo_jax.restoration.blind_em import BlindState, Walks, blind_em
from indigo_jax.restoration.daps import daps
from indigo_jax.restoration.ddnm import ddnm
from indigo_jax.restoration.ddrm import ddrm, isometry
from indigo_jax.restoration.diffpir import diffpir
from indigo_jax.restoration.dps import dps
from indigo_jax.restoration.gdp import gdp
from indigo_jax.restoration.gibbs_ddrm import fourier_svd, gibbs_ddrm
from indigo_jax.restoration.hqs import hqs
from indigo_jax.restoration.indigo import (
    IndigoState, View, fix_color, indigo, indigo_preset, indigo_schedule, indigo_start)
from indigo_jax.restoration.jpeg_trace import JpegTrace, find_jpeg, jpeg_error, nearest_jpeg
from indigo_jax.restoration.kernel_estimate import estimate_kernel, noise_level
from indigo_jax.restoration.latent_indigo import latent_indigo
from indigo_jax.restoration.latent_regularizers import LatentRegularizer, manifold_drift
from indigo_jax.restoration.noise_estimate import blurred_noise_level, flat_noise_level, patch_noise_level
from indigo_jax.restoration.operator_inn import operator_inn
from indigo_jax.restoration.pigdm import pigdm
from indigo_jax.restoration.pnp_flow import pnp_flow
from indigo_jax.restoration.psld import psld
from indigo_jax.restoration.reddiff import reddiff
from indigo_jax.restoration.resample import resample
from indigo_jax.restoration.reuse import Reuse
from indigo_jax.restoration.sparse_kernel import sparse_kernel
from indigo_jax.restoration.tmpd import tmpd
from indigo_jax.restoration.wrappers import averaged, stopped
from indigo_jax.typing import Autoencoder, InvertibleNetwork

__all__ = [
    "Autoencoder", "BirdInfo", "BirdState", "BlindState", "IndigoState", "InvertibleNetwork", "JpegTrace",
    "LatentRegularizer", "Objective", "Reuse", "View", "Walks", "averaged", "bird", "bird_objective",
    "bird_optimizer", "blind_dps", "blind_em", "blurred_noise_level", "daps", "ddim_rollout", "ddnm", "ddrm", "diffpir",
    "dps", "estimate_kernel", "find_jpeg", "fix_color", "flat_noise_level", "fourier_svd", "gdp", "gibbs_ddrm", "hqs",
    "indigo", "indigo_preset", "indigo_schedule", "indigo_start", "isometry", "jpeg_error", "kernel_of",
    "latent_indigo", "manifold_drift", "nearest_jpeg", "noise_level", "operator_inn", "patch_noise_level",
    "picture_of", "pigdm", "pnp_flow", "psld", "reddiff", "resample", "sparse_kernel", "stopped", "tmpd", "to_sphere",
]
