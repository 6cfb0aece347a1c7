"""Second-order degradations: what a picture goes through on its way through cameras, apps and the web, twice."""
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from indigo_jax import rng
from indigo_jax.operators import base, realesrgan_stages as stages
from indigo_jax.operators.blur import Blur
from indigo_jax.operators.compose import Quantize
from indigo_jax.operators.realesrgan_kernels import Kernels, choose, draw_kernels, draw_low_pass
from indigo_jax.operators.resize import SuperResolution
from indigo_jax.typing import Array, Key

_FIRST, _SECOND, _LAST, _INTACT, _GRAY = range(5)  # what an image's key is folded with
_KERNEL, _BLURRED, _RESIZE, _SCALE, _FILTER, _LEVEL, _NOISE, _QUALITY, _ORDER = range(9)


class Round(NamedTuple):
    """One round of degradations, in their order. Ranges are ``(low, high)`` of a uniform draw.

    Attributes:
        kernels: how blur kernels are drawn.
        blur: probability of any blur.
        resize: probabilities of enlarging, shrinking and keeping.
        scale: of the sizes; enlarging draws from 1 up, shrinking below 1.
        gaussian: probability of Gaussian noise; otherwise it is photon noise.
        sigma_255: of Gaussian noise, on the 0..255 scale.
        poisson: factors of photon noise with as many photons as the picture has levels (a power of two).
        gray: probability that all channels get the same noise.
        quality: of JPEG.
    """

    kernels: Kernels
    blur: float
    resize: tuple[float, float, float]
    scale: tuple[float, float]
    gaussian: float
    sigma_255: tuple[float, float]
    poisson: tuple[float, float]
    gray: float
    quality: tuple[float, float]


class SecondOrder(NamedTuple):
    """Numbers of :func:`realesrgan`: two rounds, the share of pictures with a last low-pass filter, that of pictures
    that are only shrunk."""

    first: Round
    second: Round
    final_sinc: float = 0.8
    intact: float = 0.0


SETS = {
    "kdsr": SecondOrder(
        Round(Kernels((7, 21), (0.2, 3.0), (0.5, 4.0), (1.0, 2.0), 0.1), 1.0, (0.2, 0.7, 0.1), (0.15, 1.5),
              0.5, (1.0, 30.0), (0.05, 3.0), 0.4, (30.0, 95.0)),
        Round(Kernels((7, 21), (0.2, 1.5), (0.5, 4.0), (1.0, 2.0), 0.1), 0.8, (0.3, 0.4, 0.3), (0.3, 1.2),
              0.5, (1.0, 25.0), (0.05, 2.5), 0.4, (30.0, 95.0))),
    "stablesr": SecondOrder(
        Round(Kernels((3, 19), (0.2, 1.5), (0.5, 2.0), (1.0, 1.5), 0.1), 1.0, (0.2, 0.7, 0.1), (0.3, 1.5),
              0.5, (1.0, 15.0), (0.05, 2.0), 0.4, (60.0, 95.0)),
        Round(Kernels((3, 9), (0.2, 1.0), (0.5, 2.0), (1.0, 1.5), 0.1), 0.5, (0.3, 0.4, 0.3), (0.6, 1.2),
              0.5, (1.0, 12.0), (0.05, 1.0), 0.4, (60.0, 100.0)), intact=0.01),
}


class Face(NamedTuple):
    """Numbers of :func:`face_degradation`; ``shrink`` is the range of the factor by which sides are divided."""

    sigma: tuple[float, float] = (0.1, 15.0)
    shrink: tuple[float, float] = (0.8, 32.0)
    sigma_255: tuple[float, float] = (0.0, 20.0)
    quality: tuple[float, float] = (30.0, 100.0)
    side: int = 41
    gray: float = 0.01


@base.operator(stochastic=True)
class DrawnDegradation(base.Applied):
    """See :func:`realesrgan` and :func:`face_degradation`."""
    numbers: SecondOrder | Face = base.static()
    factor: int = base.static(default=4)
    enlarge: bool = base.static(default=False)

    shape_preserving = property(lambda self: self.enlarge or self.factor == 1)

    def _apply(self, x: Array, keys: Key) -> Array:
        degrade = _second_order if isinstance(self.numbers, SecondOrder) else _face
        scale = SuperResolution(self.factor)
        y = Quantize()(degrade(x, keys, self.numbers, scale))
        return scale.grow(y, x.shape[1:3]) if self.enlarge else y


def _second_order(x, keys, numbers, scale):
    shape, (first, second, final_sinc, intact) = x.shape[1:3], numbers
    small = tuple(-(-side // scale.factor) for side in shape)
    whole, low = (jnp.tile(jnp.asarray([sides], jnp.int32), (x.shape[0], 1)) for sides in (shape, small))
    margin = second.kernels.sides[1] // 2  # for the mirror images that the second blur wants
    y, size = _resized(x, whole, shape, rng.fold(keys, _FIRST), first, margin)
    y = stages.jpeg(y, size, rng.fold(rng.fold(keys, _FIRST), _QUALITY), first.quality)
    y, size = _resized(y, size, small, rng.fold(keys, _SECOND), second, 0)

    last = rng.fold(keys, _LAST)
    compress_first = rng.uniform(rng.fold(last, _ORDER)) < 0.5
    y = stages.where(compress_first, stages.jpeg(y, size, rng.fold(last, _QUALITY), second.quality), y)
    y = stages.resize_canvas(y, size, low, small, choose(rng.fold(last, _FILTER), (1, 1, 1)))
    y = Blur(draw_low_pass(rng.fold(last, _KERNEL), second.kernels.sides, final_sinc))(y)
    y = stages.where(compress_first, y, stages.jpeg(y, low, rng.fold(last, _QUALITY), second.quality))
    return stages.where(rng.uniform(rng.fold(keys, _INTACT)) < intact, scale.shrink(x), y)


def _resized(x, size, unit, keys, how, margin):
    """A round without JPEG: pictures of the drawn scale times ``unit`` (height, width), and their sizes."""
    is_blurred = rng.uniform(rng.fold(keys, _BLURRED)) < how.blur
    x = stages.where(is_blurred, stages.blur(x, size, draw_kernels(rng.fold(keys, _KERNEL), how.kernels)), x)
    index, u = choose(rng.fold(keys, _RESIZE), how.resize), rng.uniform(rng.fold(keys, _SCALE))
    low, high = how.scale
    scale = jnp.select([index == 0, index == 1], [1.0 + u * (high - 1.0), low + u * (1.0 - low)], jnp.ones_like(u))
    target = jnp.maximum(jnp.floor(scale[:, None] * jnp.asarray(unit, jnp.float32)), 1.0).astype(jnp.int32)
    canvas = tuple(math.floor(max(high, 1.0) * side) + margin for side in unit)
    x = stages.resize_canvas(x, size, target, canvas, choose(rng.fold(keys, _FILTER), (1, 1, 1)))
    return stages.add_noise(x, target, rng.fold(keys, _NOISE), gaussian=how.gaussian, sigma_255=how.sigma_255,
                            poisson=how.poisson, alike=how.gray), target


def _face(x, keys, how, scale):
    shape, count = x.shape[1:3], x.shape[0]
    whole = jnp.tile(jnp.asarray([shape], jnp.int32), (count, 1))
    bilinear = jnp.full(count, stages.FILTERS.index("bilinear"))
    kernels = Kernels((how.side, how.side), how.sigma, shares=(0.5, 0.5, 0, 0, 0, 0))
    y = Blur(draw_kernels(rng.fold(keys, _KERNEL), kernels))(x)
    factor = rng.uniform(rng.fold(keys, _SCALE), *how.shrink)
    target = jnp.floor(jnp.asarray(shape, jnp.float32) / factor[:, None])
    target = jnp.maximum(target, 1.0).astype(jnp.int32)
    canvas = tuple(math.floor(side / min(how.shrink[0], 1.0)) for side in shape)
    y = stages.resize_canvas(y, whole, target, canvas, bilinear)
    sigma = rng.uniform(rng.fold(keys, _LEVEL), *how.sigma_255) / 127.5
    y = y + sigma[:, None, None, None] * rng.normal(rng.fold(keys, _NOISE), y)
    y = stages.jpeg(y, target, rng.fold(keys, _QUALITY), how.quality)
    y = stages.resize_canvas(y, target, whole, shape, bilinear)
    return scale.shrink(stages.where(rng.uniform(rng.fold(keys, _GRAY)) < how.gray, stages.gray(y), y))


def realesrgan(numbers: str | SecondOrder = "kdsr", *, factor: int = 4, enlarge: bool = False) -> DrawnDegradation:
    """Two rounds of blur, resizing, noise and JPEG, each drawn anew for every image, then 8-bit rounding.

        ``y = (jpeg, sinc, shrink in either order) o noise o resize o blur  o  jpeg o noise o resize o blur (x)``

    Args:
        numbers: a name of :data:`realesrgan.SETS`, "kdsr" (with which INDIGO+'s degradation encoder was trained) or the
            milder "stablesr", or numbers of your own. Which of them LatentINDIGO took is not known to us.
        factor: the result is ``[B, ceil(H / factor), ceil(W / factor), C]``.
        enlarge: enlarge it bicubically to ``[B, H, W, C]``.

    Errors:
        ValueError for an unknown name, numbers out of range or a factor that is not whole.

    Source: Wang et al., Real-ESRGAN (2021), with the numbers of KDSR-GANV2 (2023) and StableSR (2023).
    Differs from the reference in: JPEG at whole qualities; everything is drawn for each image by its own key; no
    sharpening of the clean picture, no crops, no pool of earlier pairs.

    >>> from indigo_jax import rng
    >>> realesrgan()(jnp.zeros((1, 16, 24, 3)), keys=rng.image_keys(0, [0])).shape
    (1, 4, 6, 3)
    """
    if isinstance(numbers, str):
        numbers = SETS[base.check_choice(numbers, "numbers", SETS)]
    for how in (numbers.first, numbers.second):
        _check_ranges(scale=how.scale, sigma=how.kernels.sigma, sigma_255=how.sigma_255, poisson=how.poisson,
                      quality=how.quality, sides=how.kernels.sides)
        if not 0 < how.scale[0] <= 1 <= how.scale[1]:
            raise ValueError(f"scale must hold 1 between its ends, got {how.scale}")
        _check_kernels(how.kernels)
    return DrawnDegradation(numbers, base.check_whole(factor, "factor"), enlarge)


def face_degradation(*, factor: int = 4, enlarge: bool = False, **numbers) -> DrawnDegradation:
    """The degradations of face restoration: blur, shrinking, noise, JPEG, and back to the size of the picture.

    Then, shrinking by ``factor`` and 8-bit rounding.

    Args:
        factor, enlarge: as for :func:`realesrgan`; ``factor=1`` is the published one, INDIGO+ takes 4.
        numbers: in place of the published ones, which are for pictures of 512 x 512: ``sigma=(0.1, 15)`` pixels,
            ``shrink=(0.8, 32)``, ``sigma_255=(0, 20)``, ``quality=(30, 100)``, ``side=41``, ``gray=0.01``.

    Source: DifFace (Yue and Loy 2022), after GFPGAN.

    >>> from indigo_jax import rng
    >>> face_degradation()(jnp.zeros((1, 16, 24, 3)), keys=rng.image_keys(0, [0])).shape
    (1, 4, 6, 3)
    """
    unknown = sorted(set(numbers) - set(Face._fields))
    if unknown:
        raise ValueError(f"unknown numbers {unknown}; there are {', '.join(Face._fields)}")
    face = Face(**numbers)
    _check_ranges(sigma=face.sigma, shrink=face.shrink, sigma_255=face.sigma_255, quality=face.quality)
    if face.shrink[0] <= 0:
        raise ValueError(f"shrink must be above 0, got {face.shrink}")
    _check_kernels(Kernels((face.side, face.side), face.sigma))
    return DrawnDegradation(face, base.check_whole(factor, "factor"), enlarge)


def _check_ranges(**ranges):
    for name, (low, high) in ranges.items():
        if not (np.isfinite(low) and np.isfinite(high) and 0 <= low <= high):
            raise ValueError(f"{name} must be (low, high) with 0 <= low <= high, got {(low, high)}")
        if name == "quality" and not 1 <= low <= high <= 100:
            raise ValueError(f"quality must be in 1..100, got {(low, high)}")


def _check_kernels(kernels):
    if not kernels.sigma[0] > 0 or any(side % 2 == 0 for side in kernels.sides):
        raise ValueError(f"kernels need sigma above 0 and odd sides, got {kernels.sigma} and {kernels.sides}")
