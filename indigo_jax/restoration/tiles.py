"""Functions of large images, computed tile by tile and blended: memory that grows with the tile, not with the image."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.typing import Array, Autoencoder

_VARIANCE = 0.01  # of the Gaussian weights, in units of the squared tile


def blended_tiles(function: Callable, *, tile: int = 64, overlap: int = 32) -> Callable:
    """``function(x, ...)`` evaluated on overlapping tiles, one at a time, as one function of the whole image.

        ``out = sum_k w_k function(x_k) / sum_k w_k``,  ``w(p) = exp(-(p - m)^2 / (2 0.01 n^2))`` along each side

    with m the middle and n the side of a tile. Tiles are ``tile - overlap`` apart; the last one ends at the border.
    A side of at most ``tile`` is not cut. The gradient goes tile by tile, too: each is computed again for it.

    For a diffusion network in latents: ``denoisers.from_eps(blended_tiles(fn), schedule)``.

    Args:
        function: ``(x [B, h, w, C], ...) -> [B, r h, r w, D]`` with a fixed ratio r, as 8 or 1/8 for an autoencoder.
            Further arguments, as timesteps ``[B]``, are given to every tile whole.
        tile: side of a tile, in elements of x.
        overlap: of neighbours, in ``[0, tile)``.

    Returns:
        A function of the same arguments.

    Errors:
        ValueError for such an overlap; where r times a position is not whole; for outputs of another shape.

    Source: the weights and the place of the last tile are those of StableSR and DiffBIR.
    Differs from the reference in: weights centred alike in both directions.

    >>> twice = blended_tiles(lambda x: 2 * x, tile=4, overlap=2)
    >>> bool(jnp.allclose(twice(jnp.ones((1, 7, 9, 1))), 2.0))
    True
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"overlap must be from 0 to less than the tile of {tile}, got {overlap}")

    def whole(x: Array, *others) -> Array:
        batch, *sides, channels = x.shape
        size = tuple(min(side, tile) for side in sides)
        if size == tuple(sides):
            return function(x, *others)
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((batch, *size, channels), x.dtype), *others)
        down, across = (_lay_out(*lengths, tile, overlap) for lengths in zip(sides, size, out.shape[1:3]))

        @jax.checkpoint
        def piece(x, others, top, left):
            corner = (jnp.zeros_like(top), top, left, jnp.zeros_like(top))
            return function(jax.lax.dynamic_slice(x, corner, (batch, *size, channels)), *others).astype(jnp.float32)

        def one(total, place):
            row, column = (jax.tree.map(lambda a: jnp.asarray(a)[index], line)
                           for line, index in zip((down, across), place))
            weighted = row.weights[:, None, None] * column.weights[:, None] * piece(x, others, row.start, column.start)
            corner = (jnp.zeros_like(row.place), row.place, column.place, jnp.zeros_like(row.place))
            so_far = jax.lax.dynamic_slice(total, corner, out.shape)
            return jax.lax.dynamic_update_slice(total, so_far + weighted, corner), None

        grid = np.stack(np.meshgrid(*(np.arange(len(line.start)) for line in (down, across)), indexing="ij"), -1)
        canvas = [side * made // part for side, part, made in zip(sides, size, out.shape[1:3])]
        total = jnp.zeros((batch, *canvas, out.shape[3]), jnp.float32)
        return jax.lax.scan(one, total, jnp.asarray(grid.reshape(-1, 2), jnp.int32))[0].astype(out.dtype)

    return whole


def tiled_autoencoder(autoencoder: Autoencoder, *, factor: int = 8, tile: int = 64, overlap: int = 16) -> Autoencoder:
    """An autoencoder that encodes and decodes tile by tile; see :func:`blended_tiles`.

    A network that takes statistics over its whole input, as a GroupNorm, takes them over each tile.

    Args:
        factor: pixels per latent, along a side.
        tile, overlap: in latents.
    """
    return Autoencoder(blended_tiles(autoencoder.encode, tile=tile * factor, overlap=overlap * factor),
                       blended_tiles(autoencoder.decode, tile=tile, overlap=overlap))


class _Line(NamedTuple):
    """The tiles along a side: where they begin in the input and in the output, and their weights ``[tiles, made]``."""
    start: np.ndarray
    place: np.ndarray
    weights: np.ndarray


def _lay_out(side, size, made, tile, overlap):
    """Tiles of ``size`` elements, of which the function makes ``made``, along a side; at each element of the output
    the weights sum to 1."""
    last = side - size
    start = np.array([*range(0, last, tile - overlap), last], np.int32)
    if side * made % size or (start * made % size).any():
        raise ValueError(f"tiles of {size} elements become {made}, so the side, {side}, and the places of the tiles, "
                         f"{start.tolist()}, must be multiples of {size // np.gcd(size, made)}")
    place = start * made // size
    bell = np.exp(-(np.arange(made) - (made - 1) / 2) ** 2 / (2 * _VARIANCE * made**2))
    total = np.zeros(side * made // size)
    for begin in place:
        total[begin:begin + made] += bell
    weights = np.stack([bell / total[begin:begin + made] for begin in place])
    return _Line(start, place, weights.astype(np.float32))
