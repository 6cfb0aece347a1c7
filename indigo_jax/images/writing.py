"""Writing picture files: whole or not at all."""
import contextlib
import os
import pathlib
import secrets
import struct

import numpy as np
from PIL import Image

from indigo_jax.images.picture import EXTENSIONS, FORMATS, ImageError, Picture, one_line, show, to_float


def write(path, picture, *, quality: int = 95) -> None:
    """Write a picture file: whole or not at all.

    The file is written under a temporary name in the same folder and renamed. Values are clipped and rounded:
    ``round((x + 1) * 127.5)``. PNG, TIFF, BMP and WebP are written without loss. A grey picture becomes a grey file
    (the mean of its channels), with 16 bits where it had them and no transparency, in PNG and TIFF; transparency, the
    colour profile and EXIF (not in TIFF and BMP) are kept.

    Args:
        path: where to; the extension chooses the format, missing folders are made.
        picture: a :class:`Picture` (for a restored one: ``picture._replace(pixels=restored)``), or an array
            ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, float in [-1, 1] or uint8.
        quality: of a JPEG file, 1 ... 100 (colours at full resolution).

    Errors:
        :class:`ImageError`: unknown extension, wrong shape, values that are not numbers, transparency in a format
        without it, a folder that cannot be written, a full disk. An older file of that name is left as it was.
    """
    path = pathlib.Path(path)
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ImageError(f"{show(path)}: unknown extension {path.suffix!r}; use one of {', '.join(EXTENSIONS)}")
    if not isinstance(picture, Picture):
        picture = Picture(picture, grey=np.ndim(picture) == 2 or np.shape(picture)[-1:] == (1,))
    image = _to_pillow(path, picture, format_)
    options = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True},
               "TIFF": {"compression": "tiff_adobe_deflate"}}.get(format_, {})
    if picture.exif and format_ in ("PNG", "JPEG", "WEBP"):
        options["exif"] = picture.exif
    if picture.icc_profile and format_ != "BMP":
        space = b"GRAY" if image.mode in ("L", "LA", "I;16") else b"RGB "
        if picture.icc_profile[16:20] == space:
            options["icc_profile"] = picture.icc_profile
    temporary = path.parent / f".indigo-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            image.save(stream, format_, **options)
        os.replace(temporary, path)
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{show(path)}: cannot be written ({one_line(reason)}); check the folder, its free space and "
                         f"that {format_} holds a picture of {image.width}x{image.height}") from error
    finally:
        with contextlib.suppress(OSError):  # gone if all went well
            temporary.unlink()


def _to_levels(pixels, levels, dtype):
    """Round [-1, 1] to 0 ... levels; uint8 stays what it is."""
    return np.rint((np.clip(pixels, -1, 1) + 1) * (levels / 2)).astype(dtype)


def _to_pillow(path, picture, format_):
    pixels = np.asarray(picture.pixels)
    pixels = to_float(pixels) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ImageError(f"{show(path)}: a picture is [H, W, 3], [H, W, 1] or [H, W], not {list(pixels.shape)}")
    if not np.isfinite(pixels).all():
        raise ImageError(f"{show(path)}: {np.count_nonzero(~np.isfinite(pixels)):,} of {pixels.size:,} values are not "
                         "finite; nothing was written")
    if picture.grey or pixels.shape[2] == 1:
        pixels = pixels.mean(axis=-1)
    alpha = picture.alpha
    if alpha is None:
        if picture.grey and picture.sixteen_bit and format_ in ("PNG", "TIFF"):
            return Image.fromarray(_to_levels(pixels, 65535, np.uint16))
        return Image.fromarray(_to_levels(pixels, 255, np.uint8))
    alpha = np.asarray(alpha, np.float32)
    if alpha.shape != pixels.shape[:2]:
        raise ImageError(f"{show(path)}: transparency {list(alpha.shape)} does not fit the picture "
                         f"{list(pixels.shape[:2])}; resize it with resize_alpha")
    if format_ in ("JPEG", "BMP"):
        raise ImageError(f"{show(path)}: {format_} cannot hold transparency; write .png, .webp or .tif instead")
    channels = pixels if pixels.ndim == 3 else pixels[..., None]
    if format_ == "WEBP" and channels.shape[2] == 1:
        channels = channels.repeat(3, axis=-1)
    return Image.fromarray(_to_levels(np.concatenate([channels, alpha[..., None] * 2 - 1], axis=-1), 255, np.uint8))
