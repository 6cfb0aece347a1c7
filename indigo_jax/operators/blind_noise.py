"""Noise of unknown level: the picture is measured as it is, and the noise is part of what is fitted."""
import jax.numpy as jnp

from indigo_jax.operators import base
from indigo_jax.typing import Array, Key, Params

_ROUNDING = (2.0 / 255.0)**2 / 12.0  # variance of rounding to 8 bits: no picture file is better than this


@base.operator()
class BlindNoise(base.Applied):
    """See :func:`blind_noise`."""
    start_sigma: Array
    start_speckle: Array

    def init(self, keys: Key) -> Params:
        """Unknowns to start from, one set per key: ``{"log_sigma": [B], "log_speckle": [B]}``."""
        return {"log_sigma": jnp.broadcast_to(jnp.log(self.start_sigma), keys.shape),
                "log_speckle": jnp.broadcast_to(jnp.log(self.start_speckle), keys.shape)}

    def sigma(self, params: Params) -> Array:
        """Standard deviation of the noise of black, rounding to 8 bits included, ``[-1, 1]`` units: ``[B]``."""
        return jnp.sqrt(jnp.exp(2.0 * params["log_sigma"]) + _ROUNDING)

    def speckle(self, params: Params) -> Array:
        """Relative standard deviation of the noise on the intensity, as ``speckle_noise(sigma=...)``: ``[B]``."""
        return jnp.exp(params["log_speckle"])

    def variance(self, x: Array, params: Params) -> Array:
        """Variance of the noise of each value of the pictures x: ``sigma^2 + speckle^2 (x + 1)^2``."""
        sigma, speckle = (base.per_image(level, x, "level") for level in (self.sigma(params), self.speckle(params)))
        return sigma**2 + (speckle * (x + 1.0))**2

    def loss(self, x: Array, y: Array, params: Params) -> Array:
        """Mean negative log-likelihood of the measurements, without the constant: ``[B]``; see :func:`blind_noise`."""
        variance = self.variance(x, params)
        return 0.5 * jnp.mean((y - x)**2 / variance + jnp.log(variance), axis=(1, 2, 3))

    def _apply(self, x: Array, params: Params) -> Array:
        return x


def blind_noise(*, start_sigma=0.1, start_speckle=0.1) -> BlindNoise:
    """Denoising with unknown levels of Gaussian and speckle noise: ``y = x + sigma n1 + speckle (x + 1) n2``.

    ``A(x, params) = x``; its loss is the heteroscedastic Gaussian likelihood,
    ``mean((y - x)^2 / v + log v) / 2`` with ``v = sigma^2 + speckle^2 (x + 1)^2``, minimised over x and the levels
    together. So the residual of dark places counts for more than that of bright ones, and the levels are the answer
    to "how noisy was it": where they have settled, further iterations fit noise. With Gaussian noise alone the
    gradient for x is that of the squared residual, scaled.

    The likelihood is not bounded by itself: a picture that fits y exactly has no noise. The variance includes that of
    rounding to 8 bits; for the rest the prior and the number of iterations have to keep x from following the noise.

    Args:
        start_sigma: standard deviation to start from, ``[-1, 1]`` units, above 0; a number or one per image, as
            ``restoration.noise_level(y)``.
        start_speckle: relative standard deviation to start from, above 0; a number or one per image.

    The unknowns are logarithms: an optimiser's rate is the relative change per iteration.

    Errors:
        ValueError for levels below 1e-4.

    Differs from the reference in: BIRD's released code takes ``A x = x`` and the plain mean of ``(x - y)^2`` for its
    mixture of speckle and Gaussian noise (``0.8 u (1 + 0.4 n1) + 0.2 (u + 0.15 n2)`` on the intensity u in [0, 1];
    here speckle 0.32 and sigma 0.06), knows nothing of its level and relies on a fixed number of iterations.

    >>> from indigo_jax import rng
    >>> A = blind_noise()
    >>> params = A.init(rng.image_keys(0, [0, 1]))
    >>> A.loss(jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 3)), params).shape
    (2,)
    """
    return BlindNoise(base.check_number(start_sigma, "start_sigma", 1e-4),
                      base.check_number(start_speckle, "start_speckle", 1e-4))
