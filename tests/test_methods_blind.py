"""Blind deblurring leaves a picture as it is where the kernel that it has found does not explain it."""
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import images, methods
from indigo_jax.methods import base, hqs
from tests import networks

PIXELS = np.random.default_rng(0).uniform(-1, 1, (20, 24, 3)).astype(np.float32)
KERNEL = jnp.zeros((5, 5)).at[2].set(0.2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return networks.write_denoiser(tmp_path_factory.mktemp("weights") / "denoiser.safetensors")


@pytest.mark.parametrize("left, is_kept", [(0.7, False), (1.5, True)])
def test_what_is_not_explained_is_left_as_it_is(monkeypatch, weights, left, is_kept):
    """``left``: the residual, in units of the noise with the error of a kernel, 3 of 255."""
    sigma = np.sqrt(2.0**2 + 3.0**2) / 127.5

    def found(self, params, y, seen, sigma, keys):
        return jnp.broadcast_to(KERNEL, (y.shape[0], 5, 5))

    def solved(self, params, y, keys, *, plan, given):
        return base.Solved(jnp.full_like(y, 0.25), left * given["sigma"][None], given["sigma"][None])

    method = methods.load("blind", task="deblur", weights=weights, kernel_size=5, sigma_255=2.0)
    monkeypatch.setattr(type(method), "find", found)
    monkeypatch.setattr(hqs.Hqs, "solve", solved)
    restored, report = method(images.Picture(PIXELS))
    np.testing.assert_array_equal(restored.pixels, PIXELS if is_kept else np.full_like(PIXELS, 0.25))
    assert ("left as it is" in report.note) == is_kept
    np.testing.assert_array_equal(report.kernel, KERNEL)
    np.testing.assert_allclose(report.sigma, sigma, rtol=1e-5)
