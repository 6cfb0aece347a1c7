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
        sixteen_bit: the file had 16 bits per channel. Grey pixels are then read and written with all 16; of colours
            Pillow gives the upper 8 only, and they are written with 8.
        icc_profile: the colour profile of the pixels, or None. Pixels are not converted, except from CMYK to sRGB.
        exif: EXIF block without its orientation (which has been applied), or None.
        mode: Pillow's name for the pixels of the file, such as "RGB", "LA" or "P".
        format: "PNG", "JPEG", "WEBP", "BMP" or "TIFF".
        frames: how many frames or pages the file has; the first was read.
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


def to_float(values):
    """uint8 or uint16 values as float32 in [-1, 1]."""
    half = np.float32(32767.5 if values.dtype == np.uint16 else 127.5)
    return values.astype(np.float32) / half - np.float32(1)


def show(path):
    """A file name on one line, printable anywhere."""
    text = os.fspath(path) if not isinstance(path, str) else path
    return text if text.isprintable() else repr(text)


def one_line(text):
    """The text, or the message of an error, without line breaks."""
    return " ".join(str(text).split()) or type(text).__name__
