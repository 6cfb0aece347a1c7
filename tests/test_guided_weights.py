"""INDIGO and LatentINDIGO with the weights that ship, on a portrait: guidance must earn its keep."""
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data, transform

from indigo_jax import guided, metrics, operators, rng

NETWORKS = {"indigo": dict(prior="faces64", inn="inn-pixel"),
            "latent-indigo": dict(prior="latent-faces", inn="inn-latent")}


@functools.cache
def portrait(side):
    """The astronaut's face, ``[1, side, side, 3]`` in [-1, 1]."""
    face = data.astronaut()[5:205, 125:325]
    return jnp.asarray(2 * transform.resize(face, (side, side), anti_aliasing=True)[None] - 1, jnp.float32)


@pytest.mark.parametrize("method, steps, gain", [
    ("latent-indigo", 20, 0.2), pytest.param("indigo", 50, 0.5, marks=pytest.mark.slow)])
def test_guidance_beats_the_prior_alone(method, steps, gain):
    """By decibels, and with less than half of the residual."""
    network = guided.load(method, **NETWORKS[method])
    x = portrait(network.tile)
    y = operators.compose(operators.downsample(network.scale), operators.quantize())(x)

    def restore(**settings):
        found = network.batch(y, rng.image_keys(0, [0]), steps=steps, fix_color=False, **settings)
        assert np.isfinite(found.x).all()
        return float(metrics.psnr(np.asarray(found.x), np.asarray(x))[0]), float(found.residual[0])

    (free, far), (pulled, near) = restore(guidance=0.0), restore()
    assert pulled > free + gain and near < far / 2, (free, pulled, far, near)
