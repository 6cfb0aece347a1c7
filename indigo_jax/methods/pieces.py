"""Pictures that are too large to be held several times: restored piece by piece, by methods that look no farther than
some pixels.

Beside the picture, its result and the program of one tile nothing is held, whatever the size of the picture.
"""
import jax.numpy as jnp
import numpy as np

from indigo_jax import tiles

LARGE = 16_000_000  # pixels of a picture from which on it is done so
_TILE, _ALIGNED = 1024, 16  # networks that halve a picture several times want tiles to begin at such multiples
_BLOCK, _BLOCKS = 256, 4  # side of the parts from which the noise is known; so many a side of the picture


def least(reach: int) -> int:
    """The smallest side of tiles that give what the whole gives: a multiple of 64.

    >>> least(144)
    384
    """
    return -(-(2 * reach + 64) // 64) * 64


def layout(height: int, width: int, *, reach: int, tile: int | None = None) -> tiles.Plan:
    """Tiles that share twice what an output sees, so that each pixel is taken from a tile that holds all it depends on.

    Args:
        height, width: of the picture.
        reach: pixels that an output sees in each direction.
        tile: largest side; never less than :func:`least`.
    """
    side = max(_TILE if tile is None else tile, least(reach))
    return tiles.Plan((height, width), (min(side, height), min(side, width)), 2 * reach, reach)


def starts(plan: tiles.Plan) -> tuple[list[int], list[int]]:
    """Where its tiles begin, from the top and from the left; the last ones, at multiples of 16, may be shorter."""
    def along(side, tile):
        *others, last = tiles.starts(side, tile, plan.overlap)
        last = -(-last // _ALIGNED) * _ALIGNED
        return [*others, min(last, others[-1] + tile - plan.overlap) if others else 0]

    return along(plan.canvas[0], plan.tile[0]), along(plan.canvas[1], plan.tile[1])


def sample(pixels: np.ndarray) -> np.ndarray:
    """Sixteen parts of a picture, evenly spread, beside one another: at most ``[1024, 1024, 3]``."""
    rows, columns = (np.concatenate([np.arange(start, start + size) for start in np.linspace(
        0, side - size, _BLOCKS).astype(int)]) for side, size in (
            (side, min(_BLOCK, side // _BLOCKS)) for side in pixels.shape[:2]))
    return pixels[np.ix_(rows, columns)]


def restored(run, pixels: np.ndarray, plan: tiles.Plan) -> tuple[np.ndarray, float]:
    """A picture restored piece by piece.

    Args:
        run: ``run(piece [h, w, 3]) -> [h, w, 3]``, float32 in [-1, 1].
        pixels: float32 ``[H, W, 3]``.
        plan: see :func:`layout`.

    Returns:
        float32 ``[H, W, 3]``, and the root mean square of what was changed.
    """
    result, changed = np.empty(pixels.shape, np.float32), 0.0
    (height, width), (tall, wide) = plan.canvas, plan.tile
    (rows, columns), margin = starts(plan), plan.margin or 0
    for top in rows:
        for left in columns:
            piece = np.asarray(run(jnp.asarray(pixels[top:top + tall, left:left + wide])))
            inner = tuple(slice(margin if start else 0, size if start + size >= side else size - margin)
                          for start, size, side in ((top, len(piece), height), (left, piece.shape[1], width)))
            place = tuple(slice(start + cut.start, start + cut.stop) for start, cut in zip((top, left), inner))
            result[place] = piece[inner]
    for top in range(0, height, 256):
        changed += float(np.sum(np.square(result[top:top + 256] - pixels[top:top + 256]), dtype=np.float64))
    return result, (changed / result.size)**0.5
