"""Tiny networks with made-up weights, for tests that need a weights file but no trained one.

A restorer and a denoiser of pictures of any size; those of one side, and of latents, are in :mod:`guided_networks`.
"""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import models, schedules, weights

ARGUMENTS = {"width": 8, "multipliers": [1, 2], "num_res_blocks": 1, "patch_size": 2, "norm": "layer"}
INFO = {"architecture": "RestorationUNet", "arguments": ARGUMENTS, "noise": {"name": "constant", "eps": 0.01},
        "range": [-1, 1], "loss": "l1", "tasks": ["denoise", "deblur", "sr", "jpeg"], "steps": 1, "num_steps": 7,
        "name": "tiny"}


def module(**changes):
    """The network of :data:`INFO`."""
    arguments = {**ARGUMENTS, **changes}
    return models.RestorationUNet(**{**arguments, "multipliers": tuple(arguments["multipliers"])})


def params(seed=0, **changes):
    """Random parameters for :func:`module`, nothing compiled."""
    shapes = jax.eval_shape(lambda x, t: module(**changes).init(jax.random.key(0), x, t),
                            jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32))
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.1 * random.standard_normal(leaf.shape)).astype(np.float32), shapes)


def write_weights(path, **info):
    """A weights file of this network; returns its path."""
    weights.save(path, params(), {**INFO, **info})
    return path


# ---------------------------------------------------------------- a denoiser that is told the noise level

DENOISER = {"width": 4, "multipliers": [1, 2], "num_res_blocks": 1}


def denoiser(**changes):
    """A network that is told the noise level."""
    arguments = {**DENOISER, **changes}
    return models.DenoisingUNet(**{**arguments, "multipliers": tuple(arguments["multipliers"])})


def denoiser_params(module=None, seed=0, size=0.15):
    """Random parameters for :func:`denoiser`, none of them zero, nothing compiled."""
    shapes = jax.eval_shape(lambda x, sigma: (module or denoiser()).init(jax.random.key(0), x, sigma),
                            jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32))
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (size * random.standard_normal(leaf.shape)).astype(np.float32), shapes)


def write_denoiser(path, **info):
    """A weights file of it; returns its path."""
    schedule = schedules.to_json("geometric", num_timesteps=60)
    weights.save(path, denoiser_params(), {"architecture": "DenoisingUNet", "arguments": DENOISER, "name": path.stem,
                                           "schedule": schedule, "prediction": "sigma", "range": [-1, 1], **info})
    return path
