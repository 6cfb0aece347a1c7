"""Sources made of other sources: several as one, or one with its pictures resized as they are read."""
import numpy as np
from PIL import Image

from indigo_jax.data.source import Pictures


def joined(sources, repeats) -> Pictures:
    """One source that has every picture of each of the ``sources``, ``repeats[i]`` times those of the i-th.

    >>> class Two(list):
    ...     names = ["a", "b"]
    >>> source = joined([Two([{"id": 1}, {"id": 2}]), Two([{"id": 3}])], [1, 2])
    >>> len(source), source[3]["id"]
    (4, 3)
    """
    if any(repeat < 1 for repeat in repeats):
        raise ValueError(f"repeats are {list(repeats)}; each must be at least 1")
    sources = list(sources)
    order = np.asarray([(which, row, time) for which, repeat in enumerate(repeats) for time in range(repeat)
                        for row in range(len(sources[which]))], np.int32)

    def read(index):
        which, row, _ = order[index]
        return sources[which][int(row)]

    def check(index):
        which, row, time = order[index]
        look = getattr(sources[which], "check", None)
        if look is not None and time == 0:  # each once
            look(int(row))

    return Pictures([str(sources[which].names[row]) for which, row, _ in order], read, ", ".join(map(repr, sources)),
                    check=check)


def resized(source, side: int, *, cache: bool = False) -> Pictures:
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
    if side < 1:
        raise ValueError(f"side is {side}; it must be at least 1")

    def read(index):
        element = source[index]
        if "measurement" in element:
            raise ValueError(f"picture {element['id']} comes with a measurement: pairs are not resized")
        return {**element, "image": _resize(element["image"], side)}

    names = getattr(source, "names", None) or [str(index) for index in range(len(source))]
    return Pictures(names, read, f"{source!r}, shorter side {side}", cache=cache, check=getattr(source, "check", None))


def _resize(image, side):
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale == 1:
        return image
    size = (max(round(width * scale), side), max(round(height * scale), side))
    filter_ = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, filter_))
