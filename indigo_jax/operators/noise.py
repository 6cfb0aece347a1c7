"""Noise. Nothing here clips or rounds: compose with :func:`quantize` for what a picture file would hold."""
import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.operators import base
from indigo_jax.typing import Array, Key


@base.operator(stochastic=True)
class GaussianNoise(base.Applied):
    """See :func:`gaussian_noise`."""
    sigma: Array

    def _apply(self, x: Array, keys: Key) -> Array:
        return x + base.per_image(self.sigma, x, "sigma").astype(x.dtype) * rng.normal(keys, x)


@base.operator(stochastic=True)
class PoissonNoise(base.Applied):
    """See :func:`poisson_noise`."""
    peak: Array

    def _apply(self, x: Array, keys: Key) -> Array:
        peak = base.per_image(self.peak, x, "peak").astype(x.dtype)

        def measure(image):
            light = jnp.maximum(image + 1.0, 0.0) * 0.5 * peak
            counts = jax.vmap(jax.random.poisson)(keys, light).astype(x.dtype)
            return 2.0 * counts / peak - 1.0

        return base.straight_through(measure, x)


@base.operator(stochastic=True)
class SpeckleNoise(base.Applied):
    """See :func:`speckle_noise`."""
    sigma: Array

    def _apply(self, x: Array, keys: Key) -> Array:
        sigma = base.per_image(self.sigma, x, "sigma").astype(x.dtype)
        return x + (x + 1.0) * sigma * rng.normal(keys, x)


def gaussian_noise(*, sigma_255=None, sigma=None) -> GaussianNoise:
    """Additive Gaussian noise: ``y = x + sigma n``, ``n ~ N(0, 1)``.

    Args:
        sigma_255: standard deviation on the 0..255 scale of picture files (``sigma = sigma_255 / 127.5``), or
        sigma: standard deviation on the ``[-1, 1]`` scale. Exactly one of the two, a number or one per image ``[B]``.

    >>> from indigo_jax import rng
    >>> gaussian_noise(sigma_255=25)(jnp.zeros((2, 4, 4, 3)), keys=rng.image_keys(0, [0, 1])).shape
    (2, 4, 4, 3)
    """
    if (sigma_255 is None) == (sigma is None):
        raise ValueError("give exactly one of sigma_255= (0..255 scale) and sigma= ([-1, 1] scale)")
    if sigma is None:
        return GaussianNoise(base.check_number(sigma_255, "sigma_255", 0.0) / 127.5)
    return GaussianNoise(base.check_number(sigma, "sigma", 0.0))


def poisson_noise(peak) -> PoissonNoise:
    """Photon noise: ``v = (x + 1) / 2``, counts ``~ Poisson(peak v)``, ``y = 2 counts / peak - 1``.

    Args:
        peak: photons that white stands for, a number or ``[B]``, above 0; fewer is noisier.

    Values below -1 count as black. The gradient is that of the mean, ``y = x`` (straight through).
    """
    return PoissonNoise(base.check_number(peak, "peak", 1e-6))


def speckle_noise(*, sigma) -> SpeckleNoise:
    """Multiplicative noise on the intensity: ``v = (x + 1) / 2``, ``y = 2 v (1 + sigma n) - 1``, ``n ~ N(0, 1)``.

    Args:
        sigma: relative standard deviation (no unit), a number or ``[B]``.
    """
    return SpeckleNoise(base.check_number(sigma, "sigma", 0.0))
