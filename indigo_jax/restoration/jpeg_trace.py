"""What JPEG left in a picture: the lattice on which its coefficients lie, and the nearest picture that it allows."""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import operators
from indigo_jax.typing import Array

QUALITIES = tuple(range(5, 98))  # that are looked for; above them the steps are those of 8 bits
_LUMA = (0.299, 0.587, 0.114)
_FOUND = 0.5  # mean distance from the lattice over that of any picture; made with the quality it is 0.02 to 0.3
_LEAST, _ENOUGH = 3.0, 50  # steps that show above the rounding to 8 bits; coefficients that must show it
_EDGE = 20.0  # of 255: larger steps between neighbours are those of the picture


class JpegTrace(NamedTuple):
    """What :func:`find_jpeg` finds.

    Attributes:
        found: ``[B]`` bool: whether the picture is what a decoder gave, not resized or changed since.
        steps: of the coefficients of brightness, 0..255 scale ``[B, 8, 8]``; where nothing was found, ones.
        offset: ``[B, 2]`` int32: row and column of the first whole block.
    """

    found: Array
    steps: Array
    offset: Array


def find_jpeg(y: Array, candidates: Array | None = None) -> JpegTrace:
    """Whether pictures have been JPEG files, of which quality, and where their blocks begin.

    The DCT coefficients of brightness of such a picture lie near whole multiples of the steps of its file. Steps are
    taken whose lattice is so near; blocks are looked for from the first pixel on, and from where the steps between
    neighbouring pixels are largest.

    Args:
        y: pictures ``[B, H, W, 3]`` in [-1, 1], at least 16 pixels a side.
        candidates: steps that are tried ``[N, 8, 8]``; default: those of libjpeg from quality 5 to 97.

    Errors:
        ValueError for smaller pictures.

    Source: quantisation estimation from coefficient lattices, after Fan & de Queiroz (IEEE TIP 2003); the score is
    ours.
    """
    if min(y.shape[1:3]) < 16:
        raise ValueError(f"pictures must have at least 16 pixels a side, got {y.shape[2]} x {y.shape[1]}")
    if candidates is None:
        candidates = operators.jpeg_steps(jnp.asarray(QUALITIES))
    luma, varies = luma_of(y), jnp.ones((8, 8), bool).at[0, 0].set(False)
    offsets = jnp.stack([jnp.zeros((len(y), 2), jnp.int32), _block_borders(luma)])

    def distances(offset):
        coefficients = operators.block_dct(_from(luma, offset) - 128)

        def one(steps):
            places = coefficients / steps
            off = 4 * jnp.abs(places - jnp.round(places))
            tells = (jnp.abs(places) > 0.5) & (steps >= _LEAST) & varies
            count = jnp.sum(tells, axis=(1, 2, 3, 4)).astype(luma.dtype)
            mean = jnp.sum(jnp.where(tells, off, 0.0), axis=(1, 2, 3, 4)) / jnp.maximum(count, 1)
            return jnp.where(count < _ENOUGH, jnp.inf, mean)

        return jax.lax.map(one, candidates)

    all_distances = jnp.stack([distances(offset) for offset in offsets])  # [2, N, B]
    best = jnp.argmin(all_distances.reshape(-1, len(y)), axis=0)
    found = jnp.min(all_distances, axis=(0, 1)) < _FOUND
    where, which = jnp.divmod(best, len(candidates))
    steps = jnp.where(found[:, None, None], candidates[which], 1.0)
    offset = jnp.take_along_axis(offsets, where[None, :, None], axis=0)[0]
    return JpegTrace(found, steps, jnp.where(found[:, None], offset, 0))


def jpeg_error(y: Array, trace: JpegTrace) -> Array:
    """About the root mean square error in brightness that the rounding has left in y: ``[B]``, in [-1, 1] units.

    It is measured by doing it once more: the same steps on blocks that are moved by half a block. 0.8 of the true
    error on photographs.
    """
    luma = _from(luma_of(y), trace.offset + 4)
    coefficients, steps = operators.block_dct(luma - 128), trace.steps[:, None, None]
    again = operators.inverse_block_dct(steps * jnp.round(coefficients / steps)) + 128
    return jnp.sqrt(jnp.mean((again - luma)**2, axis=(1, 2))) / 127.5


def nearest_jpeg(x: Array, y: Array, trace: JpegTrace, *, share: float = 0.6) -> Array:
    """The picture nearest to x whose coefficients of brightness a JPEG encoder rounds to those of y.

    Args:
        x: a restoration of y, ``[B, H, W, 3]`` in [-1, 1], sides multiples of 8.
        y: the decoded pictures.
        trace: of y.
        share: of half a step that a coefficient may lie away; 1: all that the file allows. Most lie nearer, so less
            errs less: 0.6 was best of 0.6 and 1 on twelve photographs from quality 10 to 90.

    Returns:
        Pictures like x; where the trace found nothing, x itself. Colours (the two other channels of YCbCr) are x's.

    Source: projection onto the quantisation constraint set (Zakhor, IEEE TCSVT 1992).
    """
    before = luma_of(x)
    wanted, given = (operators.block_dct(_roll(luma, -trace.offset)) for luma in (before, luma_of(y)))
    room = share * trace.steps[:, None, None] / 2
    after = _roll(operators.inverse_block_dct(jnp.clip(wanted, given - room, given + room)), trace.offset)
    return jnp.where(trace.found[:, None, None, None], x + (after - before)[..., None] / 127.5, x)


def luma_of(x):
    """Brightness of JPEG, 0..255: ``[B, H, W, 3] -> [B, H, W]``."""
    return (jnp.einsum("bhwc,c->bhw", jnp.asarray(x, jnp.float32), jnp.asarray(_LUMA),
                       precision=jax.lax.Precision.HIGHEST) + 1) * 127.5


def _block_borders(luma):
    """Row and column ``[B, 2]`` of the blocks, if there are any: where neighbours differ most."""
    def border(axis):
        each = jnp.minimum(jnp.abs(jnp.diff(luma, axis=axis)), _EDGE).mean(axis=3 - axis)
        whole = each.shape[1] // 8 * 8
        return (jnp.argmax(each[:, :whole].reshape(len(luma), -1, 8).mean(axis=1), axis=1) + 1) % 8

    return jnp.stack([border(1), border(2)], axis=1).astype(jnp.int32)


def _from(plane, offset):
    """The whole blocks of ``[B, H, W]`` from an offset ``[B, 2]`` below 16 on."""
    height, width = (side // 8 * 8 - 8 for side in plane.shape[1:])
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, at % 8, (height, width)))(plane, offset)


def _roll(plane, offset):
    return jax.vmap(lambda one, by: jnp.roll(one, by, (0, 1)))(plane, offset)
