"""Random degradations for training: each draws its own parameters for every image from the image's key.

A range is ``(low, high)`` of a uniform draw, or one number. All keep the size of the image and may be jitted; kernels
have the fixed side ``size``.
"""
from typing import Callable

import jax.numpy as jnp
import numpy as np

from indigo_jax import rng
from indigo_jax.operators import base, kernels
from indigo_jax.operators.blur import Blur
from indigo_jax.operators.compose import Compose, Quantize, compose, mixture
from indigo_jax.operators.jpeg import Jpeg
from indigo_jax.operators.photo_noise import KINDS, photo_noise
from indigo_jax.operators.resize import SuperResolution
from indigo_jax.typing import Array, Key

_PARAMETER, _NOISE_LEVEL, _NOISE, _KIND, _ANGLE, _PATH = range(6)  # what a key is folded with


def _draw(keys: Key, slot: int, limits) -> Array:
    return rng.uniform(rng.fold(keys, slot), *limits)


def _add_noise(x: Array, keys: Key, sigma_255) -> Array:
    sigma = _draw(keys, _NOISE_LEVEL, sigma_255) / 127.5
    return x + sigma[:, None, None, None] * rng.normal(rng.fold(keys, _NOISE), x)


@base.operator(stochastic=True)
class RandomGaussianBlur(base.Applied):
    """See :func:`random_gaussian_blur`."""
    sigma: tuple
    sigma_255: tuple
    size: int = base.static(default=25)

    def _apply(self, x: Array, keys: Key) -> Array:
        kernel = kernels.gaussian_kernel(_draw(keys, _PARAMETER, self.sigma), self.size)
        return _add_noise(Blur(kernel)(x), keys, self.sigma_255)


@base.operator(stochastic=True)
class RandomMotionBlur(base.Applied):
    """See :func:`random_motion_blur`."""
    length: tuple
    straight: Array
    sigma_255: tuple
    size: int = base.static(default=25)

    def kernels(self, keys: Key) -> Array:
        """The kernels ``[B, size, size]`` that images with these keys get."""
        length = _draw(keys, _PARAMETER, self.length)
        line = kernels.linear_motion_kernel(length, _draw(keys, _ANGLE, (0.0, np.pi)), self.size)
        shake = kernels.motion_kernel(rng.fold(keys, _PATH), size=self.size, length=length)
        is_line = rng.uniform(rng.fold(keys, _KIND)) < self.straight
        return jnp.where(is_line[:, None, None], line, shake)

    def _apply(self, x: Array, keys: Key) -> Array:
        return _add_noise(Blur(self.kernels(keys))(x), keys, self.sigma_255)


@base.operator(stochastic=True)
class RandomSuperResolution(base.Applied):
    """See :func:`random_super_resolution`."""
    sigma_255: tuple
    factor: int = base.static(default=4)

    def _apply(self, x: Array, keys: Key) -> Array:
        scale = SuperResolution(self.factor)
        low = Quantize()(_add_noise(scale.shrink(x), keys, self.sigma_255))
        return scale.grow(low, x.shape[1:3])


@base.operator(stochastic=True)
class RandomJpeg(base.Applied):
    """See :func:`random_jpeg`."""
    quality: tuple

    def _apply(self, x: Array, keys: Key) -> Array:
        low, high = self.quality
        return Jpeg(jnp.round(jnp.exp(_draw(keys, _PARAMETER, (jnp.log(low), jnp.log(high))))))(x)


@base.operator(stochastic=True)
class RandomGaussianNoise(base.Applied):
    """See :func:`random_gaussian_noise`."""
    sigma_255: tuple

    def _apply(self, x: Array, keys: Key) -> Array:
        return _add_noise(x, keys, self.sigma_255)


@base.operator(stochastic=True)
class RandomPhotoNoise(base.Applied):
    """See :func:`random_photo_noise`."""
    sigma_255: tuple
    kinds: tuple = base.static(default=())

    def _apply(self, x: Array, keys: Key) -> Array:
        noise, _ = photo_noise(rng.fold(keys, _NOISE), x, dict(self.kinds))
        return x + _draw(keys, _NOISE_LEVEL, self.sigma_255)[:, None, None, None] / 127.5 * noise


def random_gaussian_blur(sigma=(0.5, 3.0), *, sigma_255=(0.0, 1.0), size: int = 25) -> RandomGaussianBlur:
    """Gaussian blur of ``sigma`` pixels, then slight Gaussian noise of ``sigma_255`` (0..255 scale).

    >>> from indigo_jax import rng
    >>> random_gaussian_blur()(jnp.zeros((2, 8, 8, 3)), keys=rng.image_keys(0, [0, 1])).shape
    (2, 8, 8, 3)
    """
    return RandomGaussianBlur(base.check_range(sigma, "sigma", 0.0),
                              base.check_range(sigma_255, "sigma_255", 0.0), int(size))


def random_motion_blur(length=(7.0, 17.0), *, straight: float = 0.5, sigma_255=(0.0, 1.0),
                       size: int = 25) -> RandomMotionBlur:
    """Motion of ``length`` pixels, straight with probability ``straight``, else a camera shake; then slight noise."""
    limits = base.check_range(length, "length", 1.0)
    longest = base.concrete(length)
    if longest is not None and longest.max() > size:
        raise ValueError(f"motion of {longest.max()} pixels does not fit into a kernel of {size}; give a larger size=")
    return RandomMotionBlur(limits, base.check_number(straight, "straight", 0.0, 1.0),
                            base.check_range(sigma_255, "sigma_255", 0.0), int(size))


def random_blur(*, sigma=(0.5, 3.0), length=(7.0, 17.0), sigma_255=(0.0, 1.0), size: int = 25):
    """Gaussian or motion blur, evenly."""
    return mixture([random_gaussian_blur(sigma, sigma_255=sigma_255, size=size),
                    random_motion_blur(length, sigma_255=sigma_255, size=size)], [0.5, 0.5])


def random_super_resolution(factor: int = 4, *, sigma_255=(0.0, 1.0)) -> RandomSuperResolution:
    """Bicubic shrinking by ``factor``, slight noise, 8-bit rounding of the small picture, bicubic enlarging."""
    return RandomSuperResolution(base.check_range(sigma_255, "sigma_255", 0.0), base.check_whole(factor, "factor"))


def random_jpeg(quality=(5, 60)) -> RandomJpeg:
    """JPEG at a whole ``quality`` from the range, evenly on a logarithmic scale.

    Below 50 the quantisation steps grow as 1 / quality, so this spreads the damage evenly; drawn evenly on the plain
    scale, strong artefacts would be rare.
    """
    return RandomJpeg(base.check_range(quality, "quality", 1.0, 100.0))


def random_gaussian_noise(sigma_255=(5.0, 50.0)) -> RandomGaussianNoise:
    """Gaussian noise of ``sigma_255`` on the 0..255 scale."""
    return RandomGaussianNoise(base.check_range(sigma_255, "sigma_255", 0.0))


def random_photo_noise(sigma_255=(5.0, 50.0), kinds: dict[str, float] | None = None) -> RandomPhotoNoise:
    """Noise of ``sigma_255`` on the 0..255 scale, of one of the ``kinds`` of :func:`photo_noise`: kind -> probability.

    Default: half of it white, the other half shared evenly by the others.

    >>> from indigo_jax import rng
    >>> random_photo_noise((5, 50), {"equal": 1})(jnp.zeros((2, 8, 8, 3)), keys=rng.image_keys(0, [0, 1])).shape
    (2, 8, 8, 3)
    """
    kinds = {kind: 0.5 if kind == "white" else 0.125 for kind in KINDS} if kinds is None else kinds
    photo_noise(rng.image_keys(0, [0]), jnp.zeros((1, 1, 1, 3)), kinds)  # refuses what it does not know
    return RandomPhotoNoise(base.check_range(sigma_255, "sigma_255", 0.0), tuple(sorted(kinds.items())))


_FAMILIES: dict[str, Callable] = {
    "gaussian_blur": random_gaussian_blur, "motion_blur": random_motion_blur,
    "super_resolution": random_super_resolution, "jpeg": random_jpeg, "gaussian_noise": random_gaussian_noise,
}
_PHOTO = {"gaussian_blur": 0.2, "motion_blur": 0.25, "super_resolution": 0.2, "jpeg": 0.15, "gaussian_noise": 0.2}


def photo_mixture(probabilities: dict | None = None, **families) -> Compose:
    """The training mixture: one family of degradation per image, then clipping and rounding to 8 bits.

    Args:
        probabilities: family -> probability (divided by their sum; a family left out is not used). Families:
            ``gaussian_blur``, ``motion_blur``, ``super_resolution``, ``jpeg``, ``gaussian_noise``.
            Default 0.2, 0.25, 0.2, 0.15, 0.2.
        families: an operator to use in place of a family's default, as ``jpeg=random_jpeg((10, 90))``.

    >>> from indigo_jax import rng
    >>> photo_mixture({"jpeg": 1, "gaussian_noise": 1})(jnp.zeros((2, 8, 8, 3)), keys=rng.image_keys(0, [0, 1])).shape
    (2, 8, 8, 3)
    """
    probabilities = dict(_PHOTO if probabilities is None else probabilities)
    unknown = sorted((set(probabilities) | set(families)) - set(_FAMILIES))
    if unknown:
        raise ValueError(f"unknown families {unknown}; there are {sorted(_FAMILIES)}")
    unused = sorted(set(families) - {name for name, weight in probabilities.items() if weight})
    if unused:
        raise ValueError(f"operators given for families of probability 0: {unused}")
    used = [name for name in _FAMILIES if probabilities.get(name)]
    if not used:
        raise ValueError("at least one probability must be above 0")
    chosen = [families[name] if name in families else _FAMILIES[name]() for name in used]
    return compose(mixture(chosen, [float(probabilities[name]) for name in used]), Quantize())
