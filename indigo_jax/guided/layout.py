"""Which canvas a picture is put on, and how the prior sees it in tiles."""
from typing import NamedTuple


class Layout(NamedTuple):
    """How a result is laid out.

    Attributes:
        canvas: height and width in pixels, at least those of the result: its bucket.
        rows, columns: of tiles that the prior sees.
        tile, overlap: side of a tile and what neighbours share, in pixels.
    """

    canvas: tuple[int, int]
    rows: int
    columns: int
    tile: int
    overlap: int


def lay_out(height: int, width: int, *, tile: int, overlap: int, learned: int, least: int = 1, multiple: int = 1,
            factor: int = 1) -> Layout:
    """The layout of a result of ``height x width`` pixels.

    A side of the canvas is ``n + k s``, where n is the smaller of ``tile`` and ``learned``, and s is what a tile shares
    with no neighbour (``learned`` where tiles are larger than that). Of the numbers k all up to 16 are used, every
    second one up to 32, every fourth up to 64 and so on: so there are few canvases, and none is more than an eighth
    longer than the one before.

    Args:
        tile, overlap: of the prior, in elements of it (pixels or latents).
        learned: the side that it has learned.
        least, multiple: every side of a canvas is at least the one, and a multiple of the other.
        factor: pixels per element.

    >>> lay_out(100, 300, tile=64, overlap=16, learned=64)
    Layout(canvas=(112, 304), rows=2, columns=6, tile=64, overlap=16)
    """
    first = _up(max(min(tile, learned), least), multiple)
    step = _up(learned if tile > learned else tile - overlap, multiple)

    def side(length):
        count = max(0, _up(-(-length // factor) - first, step) // step)
        return first + _up(count, 1 << max(0, (count - 1).bit_length() - 4)) * step

    sides = side(height), side(width)
    rows, columns = (1 if length <= tile else 1 + -(-(length - tile) // (tile - overlap)) for length in sides)
    return Layout((factor * sides[0], factor * sides[1]), rows, columns, factor * tile, factor * overlap)


def _up(number, multiple):
    return -(-number // multiple) * multiple
