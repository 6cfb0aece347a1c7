"""TIFF files written: 8 or 16 bits, deflated strips, and EXIF as directories of its own.

(Pillow writes either compressed TIFF files or ones with EXIF; here its directories meet strips of our own.)
"""
import io
import zlib

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from indigo_jax.images import metadata

_STRIP = 1 << 18  # bytes of a strip before compression, about


def encode(values: np.ndarray, *, exif=None, xmp=None, icc_profile=None, dpi=None) -> bytes:
    """The bytes of a TIFF file: little-endian, deflate with horizontal differences.

    Args:
        values: uint8 or uint16 ``[H, W]`` or ``[H, W, C]``: grey, grey and alpha, RGB, RGB and straight alpha.
        exif, xmp, icc_profile, dpi: as in :class:`indigo_jax.images.Picture`.

    Source: TIFF revision 6.0, sections 8 and 14; Adobe Photoshop TIFF technical notes (deflate).
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    bits = 8 * values.itemsize
    rows = max(1, _STRIP // (width * channels * values.itemsize))
    strips = [_deflated(values[top:top + rows]) for top in range(0, height, rows)]
    sizes = tuple(map(len, strips))
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in _descriptive(exif).items():
        tags[tag] = value
    layout = {256: width, 257: height, 258: (bits,) * channels, 259: 8, 262: 1 if channels < 3 else 2, 277: channels,
              278: rows, 284: 1, 317: 2}
    for tag, value in layout.items():
        tags[tag] = value
    if channels in (2, 4):
        tags[338] = 2
    if dpi:
        tags[282], tags[283] = dpi
        tags[296] = 2
    for tag, kind, value in ((700, 1, xmp), (34675, 7, icc_profile)):
        if value:
            tags.tagtype[tag] = kind
            tags[tag] = value
    for tag, value in ((273, tuple(int(end) for end in np.cumsum((0, *sizes))[:-1])), (279, sizes)):
        tags.tagtype[tag] = 4
        tags[tag] = value
    stream = io.BytesIO()
    tags.save(stream)  # makes offsets within the data into offsets within the file
    return stream.getvalue() + b"".join(strips)


def _deflated(rows):
    little = rows.astype(rows.dtype.newbyteorder("<"))
    little[:, 1:] -= rows[:, :-1]  # modulo 2^bits
    return zlib.compress(little.tobytes(), 6)


def _descriptive(exif):
    """The tags of an EXIF block that do not speak of a layout; directories as dicts."""
    block, tags = Image.Exif(), {}
    if exif:
        block.load(exif)
    for tag in metadata.DESCRIPTIVE:
        if tag in metadata.DIRECTORIES:
            found = dict(block.get_ifd(tag))
            found.pop(ExifTags.IFD.Interop, None)
            tags[tag] = found
        else:
            tags[tag] = block.get(tag)
    return {tag: value for tag, value in tags.items() if value}
