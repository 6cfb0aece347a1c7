"""PSLD and ReSample on a linear autoencoder of Gaussian latents: the papers' equations in float64, by matrices."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from indigo_jax.typing import Autoencoder
from tests.oracles import GaussianDiffusion

GAUSSIAN, COUNT = GaussianDiffusion(0.2, 0.6), 4096
KEYS = rng.image_keys(0, np.arange(COUNT))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((COUNT, 1, 2, 1)))
WHOLE = schedules.karras(300, 0.02, 20.0)
FEW = schedules.respace(WHOLE, 6, "karras")
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0]  # pictures of four pixels, latents of two
MASK = np.array([1.0, 0.0, 1.0, 1.0])
AUTOENCODER = Autoencoder(
    encode=lambda x: jnp.einsum("bhwc,wl->bhlc", x, jnp.asarray(BASIS, jnp.float32)),
    decode=lambda z: jnp.einsum("bhlc,wl->bhwc", z, jnp.asarray(BASIS, jnp.float32)))
OPERATOR = operators.inpaint(jnp.asarray(MASK[None], jnp.float32))
TRUTH = np.array([0.5, -0.7, 0.3, 0.9])
Y = jnp.asarray((MASK * TRUTH)[None, None, :, None], jnp.float32)
A = np.asarray(FEW.alpha_bar, np.float64)


def run(make, start=NOISE, keys=KEYS, denoiser=None):
    y = jnp.repeat(Y, len(start), axis=0)
    kernel = make(denoiser or GAUSSIAN.denoiser(WHOLE), FEW, OPERATOR, y, AUTOENCODER)
    return jax.jit(lambda keys, z: samplers.sample(kernel, keys, z)[0])(keys, start)


def share(k):
    """``z0 = mean + share (z_t - sqrt(a) mean)``."""
    return GAUSSIAN.std**2 * A[k]**0.5 / (A[k] * GAUSSIAN.std**2 + 1 - A[k])


@pytest.mark.parametrize("scale, gluing", [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_psld_is_its_algorithm(scale, gluing):
    """The measured part of ``z0 - E(x)`` is ``E(M (D(z0) - y))``, so both gradients are those of norms."""
    found = run(lambda *given: restoration.psld(*given, scale=scale, gluing=gluing, eta=0.0), NOISE[:5], KEYS[:5])
    measured = MASK[:, None] * BASIS
    for row, z_t in zip(np.asarray(found), np.asarray(NOISE[:5], np.float64).reshape(5, 2)):
        for k in range(5, -1, -1):
            below = A[k - 1] if k else 1.0
            z0 = GAUSSIAN.mean + share(k) * (z_t - A[k]**0.5 * GAUSSIAN.mean)
            left = measured @ z0 - MASK * TRUTH
            glue = measured.T @ left
            slope = scale * measured.T @ left / np.linalg.norm(left)
            slope += gluing * measured.T @ (measured @ glue) / np.linalg.norm(glue)
            eps = (z_t - A[k]**0.5 * z0) / (1 - A[k])**0.5
            z_t = below**0.5 * z0 + (1 - below)**0.5 * eps - share(k) * slope
        np.testing.assert_allclose(np.ravel(row), z_t, atol=2e-4)


@pytest.mark.parametrize("sampler", [None, samplers.heun, samplers.dpm_solver], ids=["default", "heun", "2M"])
def test_psld_without_an_autoencoder_is_dps(sampler):
    """DDIM of eta 1 is DDPM; in another solver both are that solver with the same pull."""
    plain, options = Autoencoder(lambda x: x, lambda z: z), {} if sampler is None else {"sampler": sampler}
    y, start = jnp.repeat(Y, 4, axis=0), rng.normal(KEYS[:4], jnp.zeros((4, 1, 4, 1)))
    kernels = (restoration.psld(GAUSSIAN.denoiser(WHOLE), FEW, OPERATOR, y, plain, scale=0.4, gluing=0.0, **options),
               restoration.dps(GAUSSIAN.denoiser(WHOLE), FEW, OPERATOR, y, 0.4, **options))
    np.testing.assert_allclose(*(jax.jit(lambda keys, z, kernel=kernel: samplers.sample(kernel, keys, z)[0])(
        KEYS[:4], start) for kernel in kernels), atol=1e-5)


@pytest.mark.parametrize("switch, every", [(0.0, 1), (0.4, 1), (0.0, 2), (0.7, 2)])
def test_resample_has_the_law_of_its_algorithm(switch, every):
    """Every step is affine: mean and covariance of the latents in float64."""
    begin, gamma, rho, rate, descents = 0.7, 3.0, 0.2, 0.3, 4
    measured = MASK[:, None] * BASIS
    inner = np.linalg.inv(np.diag(MASK) + rho * np.eye(4))
    pixels = BASIS.T @ inner @ (rho * BASIS), BASIS.T @ inner @ (MASK * TRUTH)
    once = np.eye(2) - rate * measured.T @ measured, rate * measured.T @ (MASK * TRUTH)
    latents = np.eye(2), np.zeros(2)
    for _ in range(descents):
        latents = once[0] @ latents[0], once[0] @ latents[1] + once[1]
    mean, covariance = np.zeros(2), np.eye(2)
    for k in range(5, -1, -1):
        below = A[k - 1] if k else 1.0
        gain, offset = share(k), GAUSSIAN.mean * (1 - share(k) * A[k]**0.5)  # of z0
        of_eps = ((1 - below) / (1 - A[k]))**0.5
        plain = (below**0.5 - of_eps * A[k]**0.5) * gain + of_eps, (below**0.5 - of_eps * A[k]**0.5) * offset
        move, rest, added = plain[0] * np.eye(2), plain[1] * np.ones(2), 0.0
        if k == 0 or (k < begin * 6 and k % every == 0):
            by, to = latents if k < switch * 6 else pixels
            v = gamma * (1 - below) / A[k] * (1 - A[k] / below)
            w = v / (v + 1 - below) if k else 1.0
            move = w * below**0.5 * gain * by + (1 - w) * move
            rest = w * below**0.5 * (by @ (offset * np.ones(2)) + to) + (1 - w) * rest
            added = w * (1 - below)
        mean, covariance = move @ mean + rest, move @ covariance @ move.T + added * np.eye(2)
    found = np.asarray(run(lambda *given: restoration.resample(
        *given, every=every, begin=begin, switch=switch, gamma=gamma, rho=rho, rate=rate, num_descents=descents)),
        np.float64).reshape(COUNT, 2)
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(abs(found.mean(0) - mean), 4 * std / COUNT**0.5 + 1e-4)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=6 * std.max()**2 / COUNT**0.5 + 1e-5)


def test_resample_ends_where_the_measurement_is_explained():
    z = run(lambda *given: restoration.resample(*given, switch=1.0, begin=1.0, rate=1.0, num_descents=200), NOISE[:4],
            KEYS[:4])
    wanted = np.linalg.lstsq(MASK[:, None] * BASIS, MASK * TRUTH, rcond=None)[0]
    np.testing.assert_allclose(np.asarray(z).reshape(4, 2), np.tile(wanted, (4, 1)), atol=1e-3)


@pytest.mark.parametrize("known", [{"every": 0}, {"begin": 0.2, "switch": 0.5}, {"gamma": -1.0}])
def test_refusals(known):
    with pytest.raises(ValueError, match="every must be at least 1"):
        restoration.resample(None, FEW, OPERATOR, Y, AUTOENCODER, **known)
