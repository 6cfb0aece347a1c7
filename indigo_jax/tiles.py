"""Large images in tiles: which canvas a picture is put on, and functions of it computed tile by tile and blended.

One plan and one blend, for pixels and for latents. Only a network is cut into tiles, never a chain or its noise: every
step of a sampler sees the whole image.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.typing import Array, Autoencoder


class Plan(NamedTuple):
    """How a result is laid out, in pixels.

    Attributes:
        canvas: height and width, at least those of the result: its bucket, one program serves all in it.
        tile: height and width of what a network sees in one piece.
        overlap: what neighbouring tiles share.
        margin: what of a tile is not used next to a cut; None: a quarter of the overlap.
    """

    canvas: tuple[int, int]
    tile: tuple[int, int]
    overlap: int
    margin: int | None = None

    @property
    def rows(self) -> int:
        """Number of tiles from top to bottom."""
        return len(starts(self.canvas[0], self.tile[0], self.overlap))

    @property
    def columns(self) -> int:
        """Number of tiles from left to right."""
        return len(starts(self.canvas[1], self.tile[1], self.overlap))

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of tiles."""
        return self.rows * self.columns


def plan(height: int, width: int, *, tile: int, overlap: int, learned: int, least: int = 1, multiple: int = 1,
         factor: int = 1) -> Plan:
    """The layout of a result of ``height x width`` pixels.

    A side of the canvas is ``n + k s``, where n is the smaller of ``tile`` and ``learned``, and s is what a tile shares
    with no neighbour (``learned`` where tiles are larger than that). Of the numbers k all up to 16 are used, every
    second one up to 32, every fourth up to 64 and so on: so there are few canvases, and none is more than an eighth
    longer than the one before. Tiles larger than ``learned`` shrink to what covers the canvas with as many of them.

    Args:
        height, width: of the result in pixels.
        tile, overlap: largest side of a tile and what neighbours share, in elements of the network (pixels, latents).
        learned: the side that the network has learned, in its elements; of a network for any size the step between
            canvases.
        least, multiple: every side of a canvas is at least the one, and a multiple of the other, in elements.
        factor: pixels per element.

    >>> plan(100, 300, tile=64, overlap=16, learned=64)
    Plan(canvas=(112, 304), tile=(64, 64), overlap=16, margin=None)
    >>> plan(321, 2000, tile=1024, overlap=96, learned=64)
    Plan(canvas=(384, 2112), tile=(384, 768), overlap=96, margin=None)
    """
    first = _up(max(min(tile, learned), least), multiple)
    step = _up(learned if tile > learned else tile - overlap, multiple)

    def side(length):
        count = max(0, _up(-(-length // factor) - first, step) // step)
        return first + _up(count, 1 << max(0, (count - 1).bit_length() - 4)) * step

    def piece(length):
        if length <= tile:
            return length
        count = len(starts(length, tile, overlap))
        return min(tile, _up(-(-(length - overlap) // count) + overlap, step)) if tile > learned else tile

    sides = side(height), side(width)
    tall, wide = map(piece, sides)
    return Plan((factor * sides[0], factor * sides[1]), (factor * tall, factor * wide), factor * overlap)


def blended(function: Callable, *, tile: int | tuple[int, int], overlap: int, margin: int | None = None) -> Callable:
    """``function(x, ...)`` evaluated on overlapping tiles, one at a time, as one function of the whole image.

        ``out = sum_k w_k function(x_k) / sum_k w_k``

    Tiles are ``tile - overlap`` apart; the last one ends at the border. A side of at most ``tile`` is not cut. Along a
    side the weight w is 0 within ``margin`` of a cut, 1 from ``overlap - margin`` on, and rises linearly between: no
    output nearer than the margin to a cut is used, so that a function whose outputs see no farther than the margin
    gives exactly what it gives of the whole. The gradient goes tile by tile, too: each is computed again for it.

    Args:
        function: ``(x [B, h, w, C], ...) -> [B, r h, r w, D]`` with a fixed ratio r, as 8 or 1/8 for an autoencoder.
            Further arguments that are images of the size of x are cut as it is; others, as timesteps ``[B]``, are
            given to every tile whole.
        tile: side of a tile, or height and width, in elements of x.
        overlap: of neighbours, in ``[0, tile)``.
        margin: at most half of the overlap; default a quarter of it.

    Returns:
        A function of the same arguments.

    Errors:
        ValueError for such an overlap or margin; where r times a position is not whole; for outputs of another shape.

    Differs from the tiles of StableSR and DiffBIR in: weights that are 1 where a tile is alone, not a Gaussian of its
    whole. On photographs the two leave the same seams within 3 % (see CHANGELOG), and only these are exact.

    >>> twice = blended(lambda x: 2 * x, tile=4, overlap=2)
    >>> bool(jnp.allclose(twice(jnp.ones((1, 7, 9, 1))), 2.0))
    True
    """
    tall, wide = (tile, tile) if isinstance(tile, int) else tile
    margin = overlap // 4 if margin is None else margin
    if min(tall, wide) < 1 or not 0 <= overlap < max(tall, wide):
        raise ValueError(f"overlap must be from 0 to less than the tile of {max(tall, wide)}, got {overlap}")
    if not 0 <= 2 * margin <= overlap:
        raise ValueError(f"margin must be from 0 to half of the overlap of {overlap}, got {margin}")

    def whole(x: Array, *others) -> Array:
        batch, *sides, channels = x.shape
        size = min(sides[0], tall), min(sides[1], wide)
        if size == tuple(sides):
            return function(x, *others)
        is_image = [getattr(other, "ndim", 0) == 4 and other.shape[:3] == x.shape[:3] for other in others]
        pieces = [jax.ShapeDtypeStruct((batch, *size, other.shape[3]), other.dtype) if cut else other
                  for other, cut in zip((x, *others), (True, *is_image))]
        out = jax.eval_shape(function, *pieces)
        down, across = (_line(*lengths, overlap, margin) for lengths in zip(sides, size, out.shape[1:3]))

        @jax.checkpoint
        def piece(images, top, left):
            corner = (jnp.zeros_like(top), top, left, jnp.zeros_like(top))
            return function(*(jax.lax.dynamic_slice(image, corner, (batch, *size, image.shape[3])) if cut else image
                              for image, cut in zip(images, (True, *is_image)))).astype(jnp.float32)

        def one(total, place):
            row, column = (jax.tree.map(lambda a: jnp.asarray(a)[index], line)
                           for line, index in zip((down, across), place))
            weight = row.weights[:, None, None] * column.weights[:, None]
            corner = (jnp.zeros_like(row.place), row.place, column.place, jnp.zeros_like(row.place))
            so_far = jax.lax.dynamic_slice(total, corner, out.shape)
            weighted = so_far + weight * piece((x, *others), row.start, column.start)
            return jax.lax.dynamic_update_slice(total, weighted, corner), None

        grid = np.stack(np.meshgrid(*(np.arange(len(line.start)) for line in (down, across)), indexing="ij"), -1)
        canvas = [side * made // part for side, part, made in zip(sides, size, out.shape[1:3])]
        total = jnp.zeros((batch, *canvas, out.shape[3]), jnp.float32)
        return jax.lax.scan(one, total, jnp.asarray(grid.reshape(-1, 2), jnp.int32))[0].astype(out.dtype)

    return whole


def by_plan(function: Callable, layout: Plan, *, factor: int = 1) -> Callable:
    """:func:`blended` with the tiles of a plan; ``factor``: pixels per element of what the function takes."""
    if layout.count == 1:
        return function
    tall, wide = layout.tile
    return blended(function, tile=(tall // factor, wide // factor), overlap=layout.overlap // factor,
                   margin=None if layout.margin is None else layout.margin // factor)


def tiled_autoencoder(autoencoder: Autoencoder, *, factor: int = 8, tile: int = 64, overlap: int = 16) -> Autoencoder:
    """An autoencoder that encodes and decodes tile by tile; see :func:`blended`.

    A network that takes statistics over its whole input, as a GroupNorm, takes them over each tile.

    Args:
        autoencoder: E and D.
        factor: pixels per latent, along a side.
        tile, overlap: in latents.
    """
    return Autoencoder(blended(autoencoder.encode, tile=tile * factor, overlap=overlap * factor),
                       blended(autoencoder.decode, tile=tile, overlap=overlap))


class _Line(NamedTuple):
    """The tiles along a side: where they begin in the input and in the output, and their weights ``[tiles, made]``."""
    start: np.ndarray
    place: np.ndarray
    weights: np.ndarray


def _line(side, size, made, overlap, margin):
    """Tiles of ``size`` elements, of which the function makes ``made``, along a side; at each element of the output
    the weights sum to 1."""
    start = np.array(starts(side, size, overlap), np.int32)
    if side * made % size or (start * made % size).any():
        raise ValueError(f"tiles of {size} elements become {made}, so the side, {side}, and the places of the tiles, "
                         f"{start.tolist()}, must be multiples of {size // np.gcd(size, made)}")
    place = start * made // size
    ramp, gap = (max(overlap - 2 * margin, 0) * made / size, margin * made / size)
    from_cut = np.arange(made) + 0.5 - gap
    rise = np.clip(from_cut / ramp, 0, 1) if ramp else (from_cut > 0).astype(float)
    weights = np.stack([(rise if begin else 1.0) * (rise[::-1] if begin != start[-1] else 1.0) * np.ones(made)
                        for begin in start])
    total = np.zeros(side * made // size)
    for begin, weight in zip(place, weights):
        total[begin:begin + made] += weight
    weights = np.stack([weight / total[begin:begin + made] for begin, weight in zip(place, weights)])
    return _Line(start, place, weights.astype(np.float32))


def starts(side: int, size: int, overlap: int) -> list[int]:
    """Where tiles of ``size`` begin along a side: evenly, the last one ending with the side.

    >>> starts(100, 40, 10)
    [0, 30, 60]
    """
    last = side - size
    return [*range(0, last, size - overlap), last] if last > 0 else [0]


def _up(number, multiple):
    return -(-number // multiple) * multiple
