"""Blind deblurring takes a network that restores directly where the kernel that it has found does not explain the
picture, or cannot be."""
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, images, methods, operators
from indigo_jax.methods import base, hqs
from tests import networks

PIXELS = np.random.default_rng(0).uniform(-0.9, 0.9, (60, 24, 3)).astype(np.float32)
KERNEL = jnp.zeros((5, 5)).at[2].set(0.2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return networks.write_denoiser(tmp_path_factory.mktemp("weights") / "denoiser.safetensors")


@pytest.mark.parametrize("left, rows, is_direct", [(0.7, 0, False), (1.5, 0, True), (0.7, 12, True), (0.7, 1, False)])
def test_what_cannot_be_is_not_believed(monkeypatch, weights, tmp_path, left, rows, is_direct):
    """``left``: the residual, in units of the noise with the error of a kernel, 3 of 255; so many rows become white,
    of a canvas of which the picture is a part."""
    sigma = np.sqrt(2.0**2 + 3.0**2) / 127.5

    def found(self, params, y, seen, sigma, keys):
        return jnp.broadcast_to(KERNEL, (y.shape[0], 5, 5))

    def solved(self, params, y, keys, *, plan, given):
        x = jnp.full_like(y, 0.25)
        x = x.at[:, method.margin():method.margin() + rows].set(1.0).at[:, 0].set(1.0)  # beyond the picture none counts
        return base.Solved(x, left * given["sigma"][None], given["sigma"][None])

    restorer = networks.write_weights(tmp_path / "restorer.safetensors")
    method = methods.load("blind", task="deblur", weights=weights, restorer=restorer, kernel_size=5, sigma_255=2.0)
    monkeypatch.setattr(type(method), "find", found)
    monkeypatch.setattr(hqs.Hqs, "solve", solved)
    restored, report = method(images.Picture(PIXELS))
    wanted = np.full_like(PIXELS, 0.25)
    wanted[:rows] = 1.0
    if is_direct:  # the restorer sees the canvas
        room = [(method.margin(), side - length - method.margin())
                for side, length in zip(report.plan.canvas, PIXELS.shape)]
        canvas = jnp.asarray(np.pad(PIXELS, [*room, (0, 0)], "symmetric")[None])
        module, params, info = base.open_network(restorer, "restorer")
        network = denoisers.of(functools.partial(module.apply, params), info)
        direct = np.clip(network(canvas, jnp.ones(1))[0], -1, 1)
        wanted = direct[method.margin():, method.margin():][:60, :24]
    np.testing.assert_allclose(restored.pixels, wanted, atol=1e-5)
    assert ("no kernel was found" in report.note) == is_direct
    np.testing.assert_array_equal(report.kernel, operators.gaussian_kernel(0.01, 5) if is_direct else KERNEL)
    np.testing.assert_allclose(report.sigma, sigma, rtol=1e-5)


def test_a_restorer_that_knows_no_blur_is_refused(weights, tmp_path):
    other = networks.write_weights(tmp_path / "other.safetensors", tasks=["jpeg"])
    with pytest.raises(ValueError, match="was not trained for deblur; leave --restorer out"):
        methods.load("blind", task="deblur", weights=weights, restorer=other)
