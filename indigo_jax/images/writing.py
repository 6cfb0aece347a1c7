"""Writing picture files: whole or not at all."""
import contextlib
import io
import math
import os
import pathlib
import secrets
import struct

import numpy as np
from PIL import Image, PngImagePlugin

from indigo_jax.images import metadata, png16, tiff_writing
from indigo_jax.images.picture import EXTENSIONS, FORMATS, ImageError, Picture, one_line, show, to_float


_SIXTEEN = ("PNG", "TIFF")  # formats of 16 bits a channel
_LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_STRIP = 256  # rows
_LARGEST_MARKER = 65_533  # bytes of one block of a JPEG file
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


def write(path, picture, *, quality: int = 95) -> None:
    """Write a picture file: whole or not at all.

    The file is written under a temporary name in the same folder and renamed. Values are clipped and rounded:
    ``round((x + 1) * 127.5)``. PNG, TIFF, BMP and WebP are written without loss. A grey picture becomes a grey file
    (the mean of its channels). 16 bits stay 16 in PNG and TIFF; transparency, the colour profile, EXIF, XMP and the
    resolution are kept where the format has a place for them; :func:`check_target` says what is not.

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
    format_ = _format_of(path)
    if not isinstance(picture, Picture):
        picture = Picture(picture, grey=np.ndim(picture) == 2 or np.shape(picture)[-1:] == (1,))
    values = _levels(path, picture, format_)
    options = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True}}
    options = options.get(format_, {}) | _kept(picture, format_, values.ndim == 2 or values.shape[2] == 2)[0]
    temporary = _temporary(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            if format_ == "TIFF":
                stream.write(tiff_writing.encode(values, **options))
            elif values.dtype == np.uint16:
                stream.write(png16.encode(values, **options))
            else:
                Image.fromarray(values).save(stream, format_, **options)
        os.replace(temporary, path)
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{show(path)}: cannot be written ({one_line(reason)}); check the folder, its free space and "
                         f"that {format_} holds a picture of {values.shape[1]}x{values.shape[0]}") from error
    finally:
        with contextlib.suppress(OSError):  # gone if all went well
            temporary.unlink()


def check_target(path, picture: Picture | None = None, *, times: int = 1) -> tuple[str, ...]:
    """Find out before the work what :func:`write` would refuse or leave out after it.

    Args:
        path: where the result will go.
        picture: what was read and will be restored; None asks about the place alone.
        times: how much larger the result will be.

    Returns:
        What the format has no place for, each a line to be said; empty where all is kept.

    Errors:
        :class:`ImageError`: an unknown extension, transparency that the format does not hold, too large a picture for
        it, a folder that cannot be written to. Nothing is left on the disk.
    """
    path = pathlib.Path(path)
    format_ = _format_of(path)
    _probe(path)
    if picture is None:
        return ()
    if format_ in ("JPEG", "BMP") and not _is_opaque(picture.alpha):
        raise _no_transparency(path, format_)
    check_size(path, *(times * side for side in np.shape(picture.pixels)[:2]))
    notes = _kept(picture, format_, picture.grey and format_ != "WEBP")[1]
    if picture.sixteen_bit and format_ not in _SIXTEEN:
        notes.append("of its 16 bits a channel 8 are kept")
    return tuple(notes)


def check_size(path, height: int, width: int) -> None:
    """Refuse (:class:`ImageError`) a picture that is too large for the format of its name."""
    format_ = _format_of(pathlib.Path(path))
    if max(height, width) > _LARGEST_SIDE.get(format_, math.inf):
        raise ImageError(f"{show(path)}: {format_} holds at most {_LARGEST_SIDE[format_]:,} pixels a side, not "
                         f"{width} x {height}; write .png or .tif instead")


def _format_of(path):
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ImageError(f"{show(path)}: unknown extension {path.suffix!r}; use one of {', '.join(EXTENSIONS)}")
    return format_


def _temporary(folder):
    return folder / f".indigo-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _probe(path):
    """Refuse a place that cannot be written to, by writing an empty file beside it, or where its folders would be."""
    try:
        if path.is_dir():
            raise ImageError(f"{show(path)}: cannot be written (a folder has this name); choose another name")
        folder = path.parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # says whether the name is too long
        temporary = _temporary(folder)
        open(temporary, "xb").close()
        temporary.unlink()
    except OSError as error:
        raise ImageError(f"{show(path)}: cannot be written ({one_line(error.strerror or error)}); check the folder and "
                         "its permissions") from error


def _kept(picture, format_, grey):
    """Options for Pillow that keep what the file said beside its pixels, and lines on what is left out."""
    options, notes = {}, []
    exif, xmp, dpi = picture.exif, picture.xmp, metadata.resolution(picture.dpi)
    if format_ == "BMP":
        parts = {"EXIF": exif, "XMP": xmp, "colour profile": picture.icc_profile}
        lost = [name for name, value in parts.items() if value]
        return {"dpi": dpi} if dpi else {}, [f"BMP has no place for its {', '.join(lost)}, left out"] if lost else []
    if picture.icc_profile:
        if picture.icc_profile[16:20] == (b"GRAY" if grey else b"RGB "):
            options["icc_profile"] = picture.icc_profile
        else:
            notes.append("its colour profile is not one for these pixels and was left out")
    if dpi and format_ != "WEBP":
        options["dpi"] = tuple(map(round, dpi)) if format_ == "JPEG" else dpi
    if format_ == "JPEG":
        if exif and len(exif) > _LARGEST_MARKER:
            notes.append(f"EXIF of {len(exif):,} bytes is more than a JPEG file holds, left out")
            exif = None
        if xmp and len(xmp) + len(_XMP_NAME) > _LARGEST_MARKER:
            notes.append(f"XMP of {len(xmp):,} bytes is more than a JPEG file holds, left out")
            xmp = None
    if xmp and format_ == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    elif xmp:
        options["xmp"] = xmp
    try:
        if dpi and format_ == "WEBP":
            exif = metadata.with_resolution(exif, dpi)
        if exif and format_ == "TIFF":
            tiff_writing.encode(np.zeros([1, 1], np.uint8), exif=exif)
        elif exif:
            Image.new("L", (1, 1)).save(io.BytesIO(), format_, exif=exif)
        options |= {"exif": exif} if exif else {}
    except Exception:  # Pillow raises anything on a damaged block
        notes.append("its EXIF block is damaged and was left out")
    return options, notes


def _is_opaque(alpha):
    """Whether alpha is 1 everywhere, as far as a file of 8 bits can say."""
    return alpha is None or bool((np.asarray(alpha) * 255 >= 254.5).all())


def _no_transparency(path, format_):
    return ImageError(f"{show(path)}: {format_} cannot hold transparency; write .png, .webp or .tif instead")


def _to_levels(pixels, levels, dtype):
    """Round [-1, 1] to 0 ... levels; uint8 stays what it is. Strip by strip, so that no second picture is held."""
    result = np.empty(pixels.shape, dtype)
    for top in range(0, len(pixels), _STRIP):
        strip = pixels[top:top + _STRIP]
        result[top:top + _STRIP] = np.rint((np.clip(strip, -1, 1) + 1) * (levels / 2))
    return result


def _levels(path, picture, format_):
    """uint8 or uint16 ``[H, W]`` or ``[H, W, 2 ... 4]``, as the file will hold them."""
    pixels = np.asarray(picture.pixels)
    pixels = to_float(pixels) if pixels.dtype == np.uint8 else np.asarray(pixels, np.float32)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ImageError(f"{show(path)}: a picture is [H, W, 3], [H, W, 1] or [H, W], not {list(pixels.shape)}")
    if not np.isfinite(pixels).all():
        raise ImageError(f"{show(path)}: {np.count_nonzero(~np.isfinite(pixels)):,} of {pixels.size:,} values are not "
                         "finite; nothing was written")
    if picture.grey or pixels.shape[2] == 1:
        pixels = pixels.mean(axis=-1, keepdims=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = np.asarray(alpha, np.float32)
        if alpha.shape != pixels.shape[:2]:
            raise ImageError(f"{show(path)}: transparency {list(alpha.shape)} does not fit the picture "
                             f"{list(pixels.shape[:2])}; resize it with resize_alpha")
        if format_ in ("JPEG", "BMP"):
            if not _is_opaque(alpha):
                raise _no_transparency(path, format_)
        else:
            if format_ == "WEBP":
                pixels = np.broadcast_to(pixels, pixels.shape[:2] + (3,))
            pixels = np.concatenate([pixels, alpha[..., None] * 2 - 1], axis=-1)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if picture.sixteen_bit and format_ in _SIXTEEN:
        return _to_levels(pixels, 65535, np.uint16)
    return _to_levels(pixels, 255, np.uint8)
