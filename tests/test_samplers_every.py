"""What every kernel must do that has no such test of its own: eight devices as one, neighbours, retracing.

A kernel in ``samplers`` or ``restoration`` is either here or in :data:`ELSEWHERE`, with the file that tests it.
"""
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from indigo_jax import operators, restoration, rng, samplers, schedules
from indigo_jax.typing import Autoencoder, Kernel
from tests.oracles import GaussianDiffusion

PICTURES = GaussianDiffusion(0.2, 0.4)
WHOLE = schedules.karras(200, 0.02, 20.0)
FEW = schedules.respace(WHOLE, 4, "karras")
KEYS = rng.image_keys(0, np.arange(8))
X = rng.normal(rng.init_keys(KEYS), jnp.zeros((8, 4, 4, 1)))
POOL = operators.average_pool(2)
Y = 0.2 + 0.4 * POOL(X[..., ::-1]) + jnp.arange(8.0)[:, None, None, None] / 20
SIGMA = 0.1 + jnp.arange(8.0) / 80
PLAIN = Autoencoder(lambda x: x / 2, lambda z: 2 * z)


class Gain:
    """``y = phi A x``."""

    def init(self, keys):
        return 1 + 0.1 * rng.uniform(keys)

    def __call__(self, x, phi):
        return phi[:, None, None, None] * POOL(x)


def _svd(phi):
    values, to_basis, from_basis = restoration.isometry(POOL, X[:1])
    return values * jnp.abs(phi)[:, None, None, None], to_basis, from_basis


ROWS = {  # name: make(denoiser, y, sigma), and in how many places it calls the denoiser
    "heun": (lambda d, y, sigma: samplers.heun(d, FEW, churn=2.0, levels=WHOLE), 2),
    "dpm_solver": (lambda d, y, sigma: samplers.dpm_solver(d, FEW, 1.0), 1),
    "blind_dps": (lambda d, y, sigma: restoration.blind_dps(
        d, FEW, PICTURES.denoiser(WHOLE), FEW, y, size=3,
        measure=lambda x, k: POOL(x) * (1 + k.mean((1, 2, 3), keepdims=True))), 1),
    "gdp": (lambda d, y, sigma: restoration.gdp(d, FEW, Gain(), y), 1),
    "gibbs_ddrm": (lambda d, y, sigma: restoration.gibbs_ddrm(d, FEW, Gain(), _svd, y, sigma, num_langevin=2), 1),
    "psld": (lambda d, y, sigma: restoration.psld(d, FEW, POOL, y, PLAIN), 1),
    "resample": (lambda d, y, sigma: restoration.resample(d, FEW, POOL, y, PLAIN, every=2), 1),
}
ELSEWHERE = {"ddim": "test_samplers_diffusion", "ddpm": "test_samplers_diffusion",
             "euler_ancestral": "test_samplers_solvers, where it is ddim", "indi": "test_samplers_indi",
             "i2sb": "test_samplers_bridges", "ir_sde": "test_samplers_bridges", "bird": "test_bird",
             "blind_em": "test_blind_em", "indigo": "test_indigo", "latent_indigo": "test_latent_indigo",
             "averaged": "test_bird", "stopped": "test_bird",
             **dict.fromkeys(("dps", "ddnm", "diffpir", "hqs", "pigdm", "tmpd", "ddrm", "daps", "reddiff", "pnp_flow"),
                             "test_methods, each a method")}


def test_every_kernel_is_here_or_elsewhere():
    made = {name for package in (samplers, restoration) for name in package.__all__
            if inspect.isfunction(getattr(package, name))
            and inspect.signature(getattr(package, name)).return_annotation is Kernel}
    assert made == ROWS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", ROWS)
def test_one_image_a_device_as_all_on_one(name):
    """So an image is alone, too; the program is traced once for a shape, and neighbours do not matter."""
    (make, places), exact, traces = ROWS[name], PICTURES.denoiser(WHOLE), []

    def solve(keys, x, y, sigma):
        return samplers.sample(make(lambda x, t: traces.append(1) or exact(x, t), y, sigma), keys, x)[0]

    run, arguments = jax.jit(solve), (KEYS, X, Y, SIGMA)
    wanted = run(*arguments)
    assert wanted.dtype == jnp.float32 and np.isfinite(wanted).all() and len(traces) == places
    order = np.array([3, 1, 2, 0, 7, 5, 6, 4])
    np.testing.assert_allclose(run(*(a[order] for a in arguments)), wanted[order], atol=1e-6)
    keys = jnp.concatenate([KEYS[:1], rng.image_keys(9, np.arange(1, 8))])
    others = run(keys, *(a.at[1:].add(1.0) for a in arguments[1:]))
    np.testing.assert_allclose(others[0], wanted[0], atol=1e-6)
    assert len(traces) == places and ((others[1:] != wanted[1:]).any())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = run(*jax.device_put(arguments, NamedSharding(mesh, PartitionSpec("data"))))
    assert len(split.sharding.device_set) == 8
    np.testing.assert_allclose(split, wanted, atol=2e-5)
    again = run(rng.image_keys(9, np.arange(8)), *arguments[1:])
    assert (again != wanted).any()
