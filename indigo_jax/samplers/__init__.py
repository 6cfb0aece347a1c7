"""Samplers: one file, one algorithm. They see callables, never networks, files or configs."""
from indigo_jax.samplers.base import SampleInfo, Trace, sample
from indigo_jax.samplers.ddim import DdimInfo, DdimState, ddim
from indigo_jax.samplers.ddpm import DdpmInfo, DdpmState, ddpm
from indigo_jax.samplers.indi import IndiInfo, IndiState, indi
from indigo_jax.schedules import NoiseMode, brownian_noise, constant_noise, custom_noise, no_noise
from indigo_jax.typing import Kernel

__all__ = [
    "DdimInfo", "DdimState", "DdpmInfo", "DdpmState", "IndiInfo", "IndiState", "Kernel", "NoiseMode", "SampleInfo",
    "Trace", "brownian_noise", "constant_noise", "custom_noise", "ddim", "ddpm", "indi", "no_noise", "sample",
]
