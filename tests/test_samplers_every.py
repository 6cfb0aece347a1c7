"""What every kernel must do: eight devices as one, neighbours, keys, no retracing, any parametrisation of the network.

Every kernel of ``samplers`` and ``restoration`` is here.
"""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules
from indigo_jax.typing import Autoencoder, Kernel
from tests.oracles import GaussianDiffusion, per_image
from tests.test_indigo import HAAR, SHIFTED

PICTURES = GaussianDiffusion(0.2, 0.4)
WHOLE = schedules.flow(60, shift=2.0)
FEW = schedules.respace(WHOLE, 4, "linspace")
KEYS = rng.image_keys(0, np.arange(8))
X = rng.normal(rng.init_keys(KEYS), jnp.zeros((8, 4, 4, 1)))
POOL = operators.average_pool(2)
Y = 0.2 + 0.4 * POOL(X[..., ::-1]) + jnp.arange(8.0)[:, None, None, None] / 20
SIGMA = 0.1 + jnp.arange(8.0) / 80
PLAIN = Autoencoder(lambda x: x / 2, lambda z: 2 * z)
LOSSY = Autoencoder(lambda x: 0.4 * x, lambda z: 2 * z)
SEEN = schedules.truncate(FEW, 0.02)
ALL_RULES = restoration.LatentRegularizer(penalty=0.2, reencode=0.3, resample=1, radius=0.5, every=2, last=1.0)


class Gain:
    """``y = phi A x``."""

    def init(self, keys):
        return 1 + 0.1 * rng.uniform(keys)

    def __call__(self, x, phi):
        return phi[:, None, None, None] * POOL(x)


def _svd(phi):
    values, to_basis, from_basis = restoration.isometry(POOL, X[:1])
    return values * jnp.abs(phi)[:, None, None, None], to_basis, from_basis


def _bird(d, y):
    return restoration.bird(d, SEEN, POOL, y, optax.adam(0.01), num_iterations=2)


def _blurred(y):
    """Pictures as large as X."""
    return y.repeat(2, 1).repeat(2, 2)


def _restorer(d):
    """A restorer made of a denoiser."""
    return lambda x_t, t: d(x_t, WHOLE.timesteps[jnp.round(59 * t).astype(int)]).x0


ROWS = {  # name: make(denoiser, y, sigma); in how many places it calls the denoiser; whether its steps or init draw
    "ddim": (lambda d, y, sigma: samplers.ddim(d, FEW, 0.5), 1, True),
    "ddpm": (lambda d, y, sigma: samplers.ddpm(d, FEW), 1, True),
    "euler_ancestral": (lambda d, y, sigma: samplers.euler_ancestral(d, FEW), 1, True),
    "heun": (lambda d, y, sigma: samplers.heun(d, FEW, churn=2.0, levels=WHOLE), 2, True),
    "dpm_solver": (lambda d, y, sigma: samplers.dpm_solver(d, FEW, 1.0), 1, True),
    "indi": (lambda d, y, sigma: samplers.indi(_restorer(d), 3, noise=samplers.brownian_noise(0.2)), 1, True),
    "i2sb": (lambda d, y, sigma: samplers.i2sb(_restorer(d), 3, eps=0.2), 1, True),
    "ir_sde": (lambda d, y, sigma: samplers.ir_sde(_restorer(d), 3), 1, True),
    "dps": (lambda d, y, sigma: restoration.dps(d, FEW, POOL, y), 1, True),
    "ddnm": (lambda d, y, sigma: restoration.ddnm(d, FEW, POOL, y, num_iterations=2), 1, True),
    "diffpir": (lambda d, y, sigma: restoration.diffpir(d, FEW, POOL, y, sigma), 1, True),
    "hqs": (lambda d, y, sigma: restoration.hqs(d, WHOLE, POOL, y, sigma, num_steps=3), 1, False),
    "bird": (lambda d, y, sigma: _bird(d, y), 1, False),
    "averaged": (lambda d, y, sigma: restoration.averaged(_bird(d, y), 0.6), 1, False),
    "stopped, all": (lambda d, y, sigma: restoration.stopped(_bird(d, y), 0.05 / sigma**2, patience=1), 2, False),
    "stopped, none": (lambda d, y, sigma: restoration.stopped(_bird(d, y), sigma**3, patience=1), 2, False),
    "pigdm": (lambda d, y, sigma: restoration.pigdm(d, FEW, POOL, y, sigma), 1, True),
    "tmpd": (lambda d, y, sigma: restoration.tmpd(d, FEW, POOL, y, sigma), 1, True),
    "ddrm": (lambda d, y, sigma: restoration.ddrm(
        d, FEW, POOL, y, sigma, svd=restoration.isometry(POOL, X[:1])), 1, True),
    "daps": (lambda d, y, sigma: restoration.daps(d, FEW, POOL, y, sigma), 1, True),
    "daps, langevin": (lambda d, y, sigma: restoration.daps(d, FEW, POOL, y, sigma, ode_steps=2, langevin=3), 2, True),
    "reddiff": (lambda d, y, sigma: restoration.reddiff(d, FEW, POOL, y, weight=sigma), 1, True),
    "pnp_flow": (lambda d, y, sigma: restoration.pnp_flow(d, FEW, POOL, y, rate=sigma, num_draws=2), 2, True),
    "blind_dps": (lambda d, y, sigma: restoration.blind_dps(
        d, FEW, PICTURES.denoiser(WHOLE), FEW, y, size=3,
        measure=lambda x, k: POOL(x) * (1 + k.mean((1, 2, 3), keepdims=True))), 1, True),
    "gdp": (lambda d, y, sigma: restoration.gdp(d, FEW, Gain(), y), 1, True),
    "gibbs_ddrm": (lambda d, y, sigma: restoration.gibbs_ddrm(d, FEW, Gain(), _svd, y, sigma, num_langevin=2), 1, True),
    "psld": (lambda d, y, sigma: restoration.psld(d, FEW, POOL, y, PLAIN), 1, True),
    "resample": (lambda d, y, sigma: restoration.resample(d, FEW, POOL, y, PLAIN, every=2), 1, True),
    # Told that pictures of noise are blurred pictures with hardly any noise (sigma 0.01), the chain enlarges rounding:
    # one alone and in a batch end up to 3e-2 apart, and 1e-2 when only the last bit of y is another; in float64 3e-5
    # and 8e-6. With these sigmas both are below 1e-6.
    "blind_em": (lambda d, y, sigma: restoration.blind_em(
        d, WHOLE, _blurred(y), size=3, sigma=sigma, walks=restoration.Walks(2, 2, 3)), 1, True),
    "indigo": (lambda d, y, sigma: restoration.indigo(d, FEW, HAAR, y, cond=sigma[:, None], scale=sigma), 1, True),
    "indigo, refined": (lambda d, y, sigma: restoration.indigo(
        d, SEEN, SHIFTED, y, scale=sigma, gradient="truncated", refine=optax.sgd(0.3), guide_every=2), 2, True),
    "latent_indigo": (lambda d, y, sigma: restoration.latent_indigo(
        d, FEW, HAAR, y, LOSSY, scale=sigma, regularizer=ALL_RULES), 2, True),
    "latent_indigo, latent": (lambda d, y, sigma: restoration.latent_indigo(
        d, FEW, HAAR, y, LOSSY, "latent", scale=sigma, eta=0.0), 1, False),
}


def test_every_kernel_is_here():
    made = {name for package in (samplers, restoration) for name in package.__all__
            if inspect.isfunction(getattr(package, name))
            and inspect.signature(getattr(package, name)).return_annotation is Kernel}
    assert made == {name.split(",")[0] for name in ROWS}


def velocity(f, told):
    """``E[z - x | (1 - t) x + t z = f]`` of the Gaussian: ``z - x`` and f are jointly normal."""
    t, m, s = per_image(told / 1000, f), PICTURES.mean, PICTURES.std
    return -m + (t - (1 - t) * s**2) / ((1 - t)**2 * s**2 + t**2) * (f - (1 - t) * m)


def raw(x, c_noise, sigma_data=0.8):
    """EDM's F for ``D(u, sigma) = E[x | u]``, from its definition ``(D - c_skip u) / c_out``."""
    sigma = per_image(jnp.exp(4 * c_noise), x)
    total = sigma**2 + sigma_data**2
    u = x * jnp.sqrt(total)
    clean = PICTURES.mean + PICTURES.std**2 / (PICTURES.std**2 + sigma**2) * (u - PICTURES.mean)
    return (clean - sigma_data**2 / total * u) * jnp.sqrt(total) / (sigma * sigma_data)


PRIORS = {"diffusion": PICTURES.denoiser(WHOLE), "flow": denoisers.from_flow(velocity, WHOLE),
          "edm": denoisers.from_edm(raw, WHOLE, sigma_data=0.8)}


@functools.cache
def program(name):
    """``run(keys, x, y, sigma, which)``, which of :data:`PRIORS`, and the list that its traces are counted in."""
    traces = []

    def solve(keys, x, y, sigma, which):
        def denoiser(x_t, t):
            traces.append(name)
            return jax.lax.switch(which, list(PRIORS.values()), x_t, t)

        return samplers.sample(ROWS[name][0](denoiser, y, sigma), keys, x)[0]

    return jax.jit(solve), traces


@pytest.mark.parametrize("name", ROWS)
def test_one_image_a_device_as_all_on_one(name):
    """So an image is alone, too; the program is traced once for a shape, and neighbours do not matter."""
    (_, places, noisy), (run, traces), which = ROWS[name], program(name), jnp.int32(0)
    arguments = (KEYS, X, Y, SIGMA)
    wanted = run(*arguments, which)
    assert wanted.dtype == jnp.float32 and np.isfinite(wanted).all() and len(traces) == places
    order = np.array([3, 1, 2, 0, 7, 5, 6, 4])
    np.testing.assert_allclose(run(*(a[order] for a in arguments), which), wanted[order], atol=1e-6)
    keys = jnp.concatenate([KEYS[:1], rng.image_keys(9, np.arange(1, 8))])
    others = run(keys, *(a.at[1:].set(1.5 * a[1:] + 1) for a in arguments[1:]), which)
    np.testing.assert_allclose(others[0], wanted[0], atol=1e-6)
    assert len(traces) == places and ((others[1:] != wanted[1:]).any())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = run(*jax.device_put(arguments, NamedSharding(mesh, PartitionSpec("data"))), which)
    assert len(split.sharding.device_set) == 8
    np.testing.assert_allclose(split, wanted, atol=2e-5)
    np.testing.assert_array_equal(run(*arguments, which), wanted)
    again = run(rng.image_keys(9, np.arange(8)), *arguments[1:], which)
    assert bool((again != wanted).any()) is noisy


@pytest.mark.parametrize("name", ROWS)
def test_every_parametrisation_gives_the_same_result(name):
    """A prior is a prior: of noise, of a flow's velocity, of EDM's raw network."""
    run, _ = program(name)
    wanted, *found = (run(KEYS, X, Y, SIGMA, jnp.int32(which)) for which in range(len(PRIORS)))
    for other in found:
        # the noise of the first levels, 1 - alpha_bar in float32, is right to 1e-4; hqs, which ends there, shows it
        np.testing.assert_allclose(other, wanted, atol=2e-3 if name == "hqs" else 5e-4)


@pytest.mark.parametrize("name", ["flow", "edm"])
@pytest.mark.parametrize("clip", [False, True])
def test_prediction_is_exact_at_every_level_and_consistent(name, clip):
    make = {"flow": denoisers.from_flow(velocity, WHOLE, clip=clip),
            "edm": denoisers.from_edm(raw, WHOLE, clip=clip, sigma_data=0.8)}[name]
    x_t = jax.random.normal(jax.random.key(0), (60, 4, 4, 3))
    found, wanted = (denoiser(x_t, WHOLE.timesteps) for denoiser in (make, PICTURES.denoiser(WHOLE)))
    np.testing.assert_allclose(found.x0, jnp.clip(wanted.x0, -1, 1) if clip else wanted.x0, atol=2e-4)
    signal, noise = (jnp.sqrt(a)[:, None, None, None] for a in (WHOLE.alpha_bar, 1 - WHOLE.alpha_bar))
    np.testing.assert_allclose(signal * found.x0 + noise * found.eps, x_t, atol=2e-4)
