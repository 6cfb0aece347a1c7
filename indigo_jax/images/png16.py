"""PNG files of 16 bits a channel, of which Pillow itself reads the upper 8 bits and writes grey alone."""
import io
import zlib
from typing import Callable

import numpy as np
from PIL import Image

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of the number of channels
_ROWS = 1 << 22  # bytes filtered at once, about
# Pillow's names for pixels of 6 and 8 bytes: the first takes the upper byte of each value, the second the lower one.
_LOWER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_GREY_ALPHA = "LA;16B"


def decode(image, stream, upright: Callable) -> tuple[np.ndarray, np.ndarray | None]:
    """All 16 bits of colours, or of grey with transparency.

    Args:
        image: what Pillow reads of the file: the upper bytes, upright.
        stream: the file.
        upright: ``upright(image)`` turns another one in place, as this one was.

    Returns:
        uint16 values ``[H, W]`` or ``[H, W, 3]``, and alpha float32 ``[H, W]`` or None.

    Errors:
        As Pillow's, for a damaged file.
    """
    stream.seek(0)
    with type(image)(stream) as lower:
        tile, = lower.tile
        kind = tile.args
        lower.tile = [tile._replace(args="RGBA" if kind == _GREY_ALPHA else _LOWER[kind])]
        lower.load()
        upright(lower)
        halves = np.asarray(image), np.asarray(lower)
    if kind == _GREY_ALPHA:  # 4 bytes a pixel, read as such
        halves = halves[1][..., ::2], halves[1][..., 1::2]
    values = halves[0].astype(np.uint16) << np.uint16(8) | halves[1]
    if values.shape[2] != 3:
        alpha = values[..., -1].astype(np.float32) / np.float32(65535)
        return values[..., 0] if kind == _GREY_ALPHA else values[..., :3], alpha
    hidden = image.info.get("transparency")
    return values, None if hidden is None else (values != np.asarray(hidden)).any(axis=-1).astype(np.float32)


def encode(values: np.ndarray, **options) -> bytes:
    """The bytes of a PNG file.

    Args:
        values: uint16 ``[H, W]`` or ``[H, W, C]``: grey, grey and alpha, RGB, RGB and straight alpha.
        options: as Pillow takes them when it saves PNG: colour profile, EXIF, texts, resolution.

    Source: PNG specification, third edition, sections 5, 9 (filter type 4, Paeth) and 11.
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    frame = io.BytesIO()
    Image.new({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], (1, 1)).save(frame, "PNG", **options)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    parts, is_written = [frame.getvalue()[:8]], False
    for kind, data in _chunks(frame.getvalue()):
        if kind == b"IHDR":
            data = size + bytes([16, _COLOUR_TYPES[channels], 0, 0, 0])
        if kind != b"IDAT":
            parts.append(_chunk(kind, data))
        elif not is_written:
            parts += [_chunk(kind, piece) for piece in _deflated(values)]
            is_written = True
    return b"".join(parts)


def _chunks(data):
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position:position + 4], "big")
        yield data[position + 4:position + 8], data[position + 8:position + 8 + length]
        position += length + 12


def _chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _deflated(values):
    """The filtered rows, compressed, in pieces."""
    height, width, channels = values.shape
    step, packer = max(1, _ROWS // (2 * width * channels)), zlib.compressobj(6)
    above = np.zeros([1, width, 2 * channels], np.uint8)
    for top in range(0, height, step):
        rows = np.ascontiguousarray(values[top:top + step].astype(">u2")).view(np.uint8).reshape(-1, *above.shape[1:])
        piece = packer.compress(_filtered(rows, np.concatenate([above, rows[:-1]])))
        if piece:
            yield piece
        above = rows[-1:]
    yield packer.flush()


def _filtered(rows, above):
    """uint8 rows ``[h, W, bytes of a pixel]`` less what Paeth expects of the bytes to the left and above."""
    a, b, c = (np.zeros(rows.shape, np.int16) for _ in range(3))
    a[:, 1:], b[:], c[:, 1:] = rows[:, :-1], above, above[:, :-1]
    to_a, to_b = np.abs(b - c), np.abs(a - c)
    to_c = np.abs(a + b - 2 * c)
    expected = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    lines = (rows - expected).astype(np.uint8).reshape(len(rows), -1)
    return np.concatenate([np.full([len(rows), 1], 4, np.uint8), lines], axis=1).tobytes()
