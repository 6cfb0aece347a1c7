"""Several restorations of one picture together: their mean, and how far they lie apart."""
from typing import Any, NamedTuple, Sequence

import numpy as np

from indigo_jax import images

LEVEL = 8  # grey values of a map for each grey value of spread: white is 31.9 and more
NAME = "spread of this method"  # what may have been is another matter: no network is an exact denoiser


class Spread(NamedTuple):
    """Of K samples of one picture.

    Attributes:
        mean: a picture.
        map: standard deviation of each pixel over the samples, root mean square over its channels, in grey values of
            255: float32 ``[H, W]``.
    """

    mean: images.Picture
    map: np.ndarray

    @property
    def rms(self) -> float:
        """Of the map, in grey values of 255."""
        return float(np.sqrt(np.mean(np.square(self.map, dtype=np.float64))))

    @property
    def shown(self) -> images.Picture:
        """The map as a grey picture: a grey value of 8 is a standard deviation of one grey value of 255."""
        grey = np.clip(self.map * (LEVEL / 127.5) - 1, -1, 1)
        return images.Picture(np.repeat(grey[..., None], 3, axis=2).astype(np.float32), grey=True, mode="L")


def spread_of(samples: Sequence[images.Picture]) -> Spread:
    """Mean and spread of at least two samples, with K - 1 in the denominator.

        ``mean = sum_k x_k / K``   ``spread^2 = sum_k (x_k - mean)^2 / (K - 1)``

    Errors:
        ValueError for fewer than two.

    >>> black, white = (images.Picture(np.full((2, 2, 3), value, np.float32)) for value in (-1.0, 1.0))
    >>> found = spread_of([black, white])
    >>> float(found.mean.pixels[0, 0, 0]), round(found.rms, 1)  # 255 / sqrt(2)
    (0.0, 180.3)
    """
    if len(samples) < 2:
        raise ValueError(f"a spread needs at least two samples, got {len(samples)}")
    mean: Any = sum(one.pixels for one in samples) / np.float32(len(samples))
    variance = sum(np.square(one.pixels - mean) for one in samples) / np.float32(len(samples) - 1)
    return Spread(samples[0]._replace(pixels=mean), 127.5 * np.sqrt(variance.mean(axis=-1)))
