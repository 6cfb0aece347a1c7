"""The picture in memory, the formats of its files, and the error that says what is wrong with one."""
import os
from typing import NamedTuple

import numpy as np

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
           ".tiff": "TIFF"}
EXTENSIONS = tuple(FORMATS)


class ImageError(ValueError):
    """A picture file that cannot be read or written: one line with the file, what was found and what to do."""


class Picture(NamedTuple):
    """A picture and what else its file held.

    Attributes:
        pixels: float32 ``[H, W, 3]`` in [-1, 1], RGB, the right way up; never premultiplied with alpha.
        alpha: float32 ``[H, W]`` in [0, 1] (1 is opaque), or None.
        grey: the file had one colour channel; :func:`indigo_jax.images.write` makes such a file again.
        sixteen_bit: the file had 16 bits per channel, and all 16 are read; PNG and TIFF are then written with 16.
        icc_profile: the colour profile of the pixels, or None. Pixels are not converted, except from CMYK to sRGB.
        exif: EXIF block without its orientation (which has been applied), or None. It begins with "Exif", two zeros.
        mode: Pillow's name for the pixels of the file, such as "RGB", "LA" or "P".
        format: "PNG", "JPEG", "WEBP", "BMP", "TIFF", "HEIC" or "AVIF".
        frames: how many frames or pages the file has; the first was read.
        xmp: XMP packet, or None.
        dpi: pixels per inch, horizontal and vertical, or None.
        jpeg_steps: of a JPEG file the 64 steps in which the coefficients of brightness are rounded, row by row.
        notes: what of the file was left out and why, each a line of its own to be said.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    sixteen_bit: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    mode: str = "RGB"
    format: str = "PNG"
    frames: int = 1
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    jpeg_steps: tuple[int, ...] | None = None

    @property
    def is_neutral(self) -> bool:
        """Whether all that is seen is grey, R = G = B, however many channels the file has."""
        visible = self.pixels if self.alpha is None else self.pixels[np.asarray(self.alpha) > 0]
        return self.grey or bool((visible == visible[..., :1]).all())


def to_float(values):
    """uint8 or uint16 values as float32 in [-1, 1]."""
    half = np.float32(32767.5 if values.dtype == np.uint16 else 127.5)
    result = values.astype(np.float32)
    np.divide(result, half, out=result)
    return np.subtract(result, np.float32(1), out=result)  # in place: of 100 megapixels each copy takes 1.2 GB


def show(path):
    """A file name on one line, printable anywhere."""
    text = os.fspath(path) if not isinstance(path, str) else path
    return text if text.isprintable() else repr(text)


def one_line(text):
    """The text, or the message of an error, without line breaks."""
    return " ".join(str(text).split()) or type(text).__name__
