"""Whether picture files are whole, without decoding those of which their ends tell."""
import contextlib
import os
import zlib

from PIL import ExifTags, JpegImagePlugin

from indigo_jax.images import kinds, metadata
from indigo_jax.images.reading import MAX_PIXELS, read_rgb8

_PNG = b"\x89PNG\r\n\x1a\n"
_TURNED = (5, 6, 7, 8)  # orientations that swap the sides


def check(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> tuple[int, int]:
    """(height, width) of a picture file that is whole, the right way up; refuses what cannot be read.

    PNG is read once for the checksums of all its parts, JPEG is looked at from its head and its last bytes, all else
    (and whatever looks odd) is decoded. Damage inside a JPEG between whole ends is not seen.

    Args, errors: as for :func:`read_rgb8`.
    """
    with contextlib.suppress(Exception):  # whoever fails here is read, which says what is wrong with it
        with contextlib.nullcontext(path) if hasattr(path, "read") else open(path, "rb") as stream:
            size = _size_of_whole(stream)
        if size is not None and 0 < size[0] * size[1] <= max_pixels:
            return size
    if hasattr(path, "seek"):
        path.seek(0)
    height, width = read_rgb8(path, max_pixels=max_pixels, name=name).shape[:2]
    return height, width


def _size_of_whole(stream):
    """Sides of a PNG or JPEG that has all its parts; None where it takes more to know."""
    head = stream.read(kinds.HEAD)
    stream.seek(0)
    if head.startswith(_PNG):
        return _size_of_png(stream.read())
    if kinds.recognise(head, "")[0] != "JPEG":
        return None
    stream.seek(-2, os.SEEK_END)
    if stream.read() != b"\xff\xd9":
        return None
    stream.seek(0)
    with metadata.quiet():
        image = JpegImagePlugin.JpegImageFile(stream)
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)


def _size_of_png(data):
    place, view, seen = len(_PNG), memoryview(data), False
    while place < len(data):
        length, kind = int.from_bytes(data[place:place + 4], "big"), data[place + 4:place + 8]
        end = place + 8 + length
        if zlib.crc32(view[place + 4:end]) != int.from_bytes(data[end:end + 4], "big") or end + 4 > len(data):
            return None
        if kind == b"eXIf":  # it may turn the picture
            return None
        seen = seen or kind == b"IDAT"
        if kind == b"IEND":
            return (int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")) if seen else None
        place = end + 4
    return None
