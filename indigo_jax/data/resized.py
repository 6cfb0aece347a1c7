"""A source whose pictures are resized when they are read."""
import numpy as np
from PIL import Image


class ResizedPictures:
    """See :func:`resized`."""

    def __init__(self, source, side, cache):
        if side < 1:
            raise ValueError(f"side is {side}; it must be at least 1")
        self._source, self._side = source, side
        self._cache = [None] * len(source) if cache else None
        self.names = getattr(source, "names", None)

    def __len__(self):
        return len(self._source)

    def __repr__(self):
        return f"ResizedPictures({self._source!r}, shorter side {self._side})"

    def __getitem__(self, index):
        element = None if self._cache is None else self._cache[index]
        if element is None:
            element = self._source[index]
            if "measurement" in element:
                raise ValueError(f"picture {element['id']} comes with a measurement: pairs are not resized")
            element = {**element, "image": _resize(element["image"], self._side)}
            if self._cache is not None:
                self._cache[index] = element
        return element


def resized(source, side: int, *, cache: bool = False) -> ResizedPictures:
    """A source with the shorter side of every picture brought to ``side`` pixels, its shape kept.

    Shrinking averages over areas (each pixel is the mean of those it covers), enlarging is bicubic.

    Args:
        source: ``len(source)`` and ``source[i] -> {"image": uint8 [h, w, 3], "id": int}``, without measurements.
        side: of the result, in pixels.
        cache: keep the resized pictures in memory.

    >>> source = [{"image": np.array([[[0], [8]], [[8], [16]]], np.uint8).repeat(3, -1), "id": 0}]
    >>> resized(source, 1)[0]["image"].tolist()
    [[[8, 8, 8]]]
    """
    return ResizedPictures(source, side, cache)


def _resize(image, side):
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale == 1:
        return image
    size = (max(round(width * scale), side), max(round(height * scale), side))
    filter_ = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, filter_))
