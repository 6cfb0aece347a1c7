"""JPEG: what an encoder and a decoder do to a picture, in jax, with a straight-through gradient."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.typing import Array

# ITU-T T.81, Annex K, tables K.1 (luminance) and K.2 (chrominance)
_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]], np.float32)
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]],
                   np.float32)
_TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]], np.float32)
_SHIFT = np.array([0.0, 128.0, 128.0], np.float32)

_FREQUENCY, _POSITION = np.mgrid[:8, :8]
_DCT = (np.where(_FREQUENCY == 0, np.sqrt(0.125), 0.5)
        * np.cos((2 * _POSITION + 1) * _FREQUENCY * np.pi / 16)).astype(np.float32)  # orthonormal
_SAFE = 0.5  # added to whole numbers that are divided and floored: a compiler may divide inexactly
_HIGHEST = jax.lax.Precision.HIGHEST


def _level(x: Array) -> Array:
    """Nearest of the levels 0..255."""
    return jnp.clip(base.straight_through(jnp.round, x), 0.0, 255.0)


def _pad_to(plane: Array, multiple: int) -> Array:
    """Repeat the last row and column until both sides are whole multiples."""
    pad = [(0, 0), (0, -plane.shape[1] % multiple), (0, -plane.shape[2] % multiple)]
    return jnp.pad(plane, pad + [(0, 0)] * (plane.ndim - 3), mode="edge")


def _tables(quality: Array) -> tuple[Array, Array]:
    """The two quantisation tables ``[..., 8, 8]`` with libjpeg's quality scaling."""
    quality = jnp.clip(quality, 1.0, 100.0)
    scale = jnp.where(quality < 50.0, jnp.floor((5000.0 + _SAFE) / quality), 200.0 - 2.0 * quality)[..., None, None]
    luma, chroma = (jnp.clip(jnp.floor((table * scale + 50.0 + _SAFE) / 100.0), 1.0, 255.0)
                    for table in (_LUMA, _CHROMA))
    return luma, chroma


def jpeg_steps(quality) -> Array:
    """The steps in which libjpeg rounds the DCT coefficients of brightness (0..255 scale): ``[...] -> [..., 8, 8]``.

    >>> jpeg_steps(50)[0, :4].tolist()
    [16.0, 11.0, 10.0, 16.0]
    """
    return _tables(jnp.asarray(quality, jnp.float32))[0]


def block_dct(plane: Array) -> Array:
    """Orthonormal DCT of blocks of 8 x 8: ``[B, H, W]``, sides multiples of 8, ``-> [B, H / 8, W / 8, 8, 8]``."""
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // 8, 8, width // 8, 8)
    return jnp.einsum("ui,bhiwj,vj->bhwuv", _DCT, blocks, _DCT, precision=_HIGHEST)


def inverse_block_dct(coefficients: Array) -> Array:
    """What :func:`block_dct` was made of."""
    batch, rows, columns = coefficients.shape[:3]
    blocks = jnp.einsum("ui,bhwuv,vj->bhiwj", _DCT, coefficients, _DCT, precision=_HIGHEST)
    return blocks.reshape(batch, 8 * rows, 8 * columns)


def _divide(coefficients: Array, table: Array) -> Array:
    """Whole multiples of the table: the integer DCT works in eighths, and halves are rounded away from zero."""
    eighths = jnp.round(8.0 * coefficients)
    return jnp.sign(eighths) * jnp.floor((jnp.abs(eighths) + 4.0 * table + _SAFE) / (8.0 * table)) * table


def _quantise(plane: Array, table: Array) -> Array:
    """Blocks of 8 x 8 of a plane ``[B, H, W]``: DCT, division by the table, rounding, and back; levels 0..255."""
    rows, columns = plane.shape[1:]
    plane = _pad_to(plane, 8)
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // 8, 8, width // 8, 8) - 128.0
    table = (table if table.ndim == 3 else table[None])[:, None, :, None, :]
    coefficients = jnp.einsum("ui,bhiwj,vj->bhuwv", _DCT, blocks, _DCT, precision=_HIGHEST)
    coefficients = base.straight_through(lambda value: _divide(value, table), coefficients)
    blocks = jnp.einsum("ui,bhuwv,vj->bhiwj", _DCT, coefficients, _DCT, precision=_HIGHEST)
    return _level(blocks.reshape(batch, height, width) + 128.0)[:, :rows, :columns]


def _halve(plane: Array) -> Array:
    """Chroma subsampling 4:2:0: means of 2 x 2, halves rounded down and up in turn along a row, as libjpeg does."""
    batch, height, width = plane.shape
    total = plane.reshape(batch, height // 2, 2, width // 2, 2).sum(axis=(2, 4))
    bias = jnp.asarray(1.0 + np.arange(width // 2) % 2, plane.dtype)
    return base.straight_through(lambda mean: jnp.floor(mean + bias * 0.25), total * 0.25)


def _double(plane: Array, height: int, width: int) -> Array:
    """libjpeg's "fancy" upsampling: a triangle filter (3/4, 1/4) along both axes, cut to ``height`` x ``width``."""
    if plane.shape[2] <= 2:  # libjpeg-turbo repeats pixels of pictures this narrow
        return jnp.repeat(jnp.repeat(plane, 2, axis=1), 2, axis=2)[:, :height, :width]
    for axis in (1, 2):
        last = plane.shape[axis] - 1
        index = np.arange(last + 1)
        before = jnp.take(plane, np.maximum(index - 1, 0), axis=axis, mode="clip")
        after = jnp.take(plane, np.minimum(index + 1, last), axis=axis, mode="clip")
        pair = jnp.stack([3.0 * plane + before, 3.0 * plane + after], axis=axis + 1)
        shape = list(plane.shape)
        shape[axis] *= 2
        plane = pair.reshape(shape)
    bias = jnp.asarray(np.where(np.arange(plane.shape[2]) % 2 == 0, 8.0, 7.0) / 16.0, plane.dtype)
    plane = base.straight_through(lambda value: jnp.floor(value + bias), plane / 16.0)
    return plane[:, :height, :width]


@base.operator()
class Jpeg(base.Applied):
    """See :func:`jpeg`."""
    quality: Array

    def _apply(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        if channels not in (1, 3):
            raise ValueError(f"jpeg: images have 1 or 3 channels, got {channels}")
        if self.quality.shape not in ((), (batch,)):
            raise ValueError(f"jpeg: quality must be a number or one per image [{batch}], got {self.quality.shape}")
        luma, chroma = _tables(self.quality)
        picture = _level((x.astype(jnp.float32) + 1.0) * 127.5)
        if channels == 1:
            out = _quantise(picture[..., 0], luma)[..., None]
        else:
            ycc = _level(jnp.einsum("kc,bhwc->bhwk", _TO_YCC, picture, precision=_HIGHEST) + _SHIFT)
            halves = [_halve(_pad_to(ycc[..., k], 16)) for k in (1, 2)]
            crop = -(-height // 2), -(-width // 2)
            halves = [_quantise(half, chroma)[:, :crop[0], :crop[1]] for half in halves]
            planes = [_quantise(ycc[..., 0], luma)] + [_double(half, height, width) for half in halves]
            ycc = jnp.stack(planes, axis=-1) - _SHIFT
            out = _level(jnp.einsum("ck,bhwk->bhwc", _TO_RGB, ycc, precision=_HIGHEST))
        return (out / 127.5 - 1.0).astype(x.dtype)


def jpeg(quality) -> Jpeg:
    """JPEG compression and decompression, as libjpeg (so Pillow) does it by default.

    Levels 0..255 -> full-range BT.601 YCbCr -> chroma halved (4:2:0) -> 8 x 8 DCT -> ``round(c / q) q`` with the tables
    of Annex K scaled by ``quality`` -> inverse DCT -> chroma doubled with a triangle filter -> RGB levels.

    Args:
        quality: 1 (worst) to 100 (best), a number or one per image ``[B]``; may be traced.

    The result holds 8-bit levels ``k / 127.5 - 1``. Every rounding passes the gradient straight through. Images with
    one channel are compressed as grey pictures. Differs from a file where libjpeg's
    integer arithmetic rounds otherwise: about a tenth of the pixels, by one level.

    >>> jpeg(50)(jnp.zeros((1, 9, 7, 3))).shape
    (1, 9, 7, 3)
    """
    return Jpeg(base.check_number(quality, "quality", 1.0, 100.0))
