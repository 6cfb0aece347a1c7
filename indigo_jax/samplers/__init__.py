"""Samplers: one file, one algorithm. They see callables, never networks, files or configs."""
from indigo_jax.samplers.base import Info, SampleInfo, Sampler, State, Trace, own_keys, sample
from indigo_jax.samplers.ddim import ddim
from indigo_jax.samplers.ddpm import ddpm
from indigo_jax.samplers.dpm_solver import dpm_solver
from indigo_jax.samplers.euler import euler_ancestral
from indigo_jax.samplers.heun import heun
from indigo_jax.samplers.i2sb import i2sb, i2sb_times
from indigo_jax.samplers.indi import indi
from indigo_jax.samplers.ir_sde import ir_sde
from indigo_jax.paths import (
    NoiseMode, bridge_noise, brownian_noise, constant_noise, custom_noise, no_noise, reverting_noise)
from indigo_jax.typing import Kernel

__all__ = [
    "Info", "Kernel", "NoiseMode", "SampleInfo", "Sampler", "State", "Trace", "bridge_noise", "brownian_noise",
    "constant_noise", "custom_noise", "ddim", "ddpm", "dpm_solver", "euler_ancestral", "heun", "i2sb", "i2sb_times",
    "indi", "ir_sde", "no_noise", "own_keys", "reverting_noise", "sample",
]
