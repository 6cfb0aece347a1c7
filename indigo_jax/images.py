"""Reading and writing picture files safely.

A picture in memory is float32 ``[H, W, 3]`` in [-1, 1], RGB; :class:`Picture` carries beside it what the file had and
a restored file should have too: transparency, greyness, 16 bits, the colour profile, EXIF.
"""
import contextlib
import io
import os
import pathlib
import secrets
import struct
from typing import NamedTuple

import numpy as np
from PIL import BmpImagePlugin, ExifTags, Image, ImageDraw, ImageFont, ImageOps, JpegImagePlugin, PngImagePlugin
from PIL import TiffImagePlugin, WebPImagePlugin

MAX_PIXELS = 120_000_000
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
            ".tiff": "TIFF"}
EXTENSIONS = tuple(_FORMATS)

_READERS = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile,
            "WEBP": WebPImagePlugin.WebPImageFile, "BMP": BmpImagePlugin.BmpImageFile,
            "TIFF": TiffImagePlugin.TiffImageFile}
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
          (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"))
_OTHERS = ((b"GIF8", "a GIF picture"), (b"%PDF", "a PDF document"), (b"%!PS", "a PostScript file"),
           (b"8BPS", "a Photoshop file"), (b"SIMPLE", "a FITS file"), (b"PK\3\4", "a zip archive"),
           (b"\x1f\x8b", "a gzip archive"), (b"\0\0\0\x0cjP", "a JPEG 2000 picture"), (b"\x93NUMPY", "a numpy array"))
_SUPPORTED = "PNG, JPEG, WebP, BMP or TIFF"


class ImageError(ValueError):
    """A picture file that cannot be read or written: one line with the file, what was found and what to do."""


class Picture(NamedTuple):
    """A picture and what else its file held.

    Attributes:
        pixels: float32 ``[H, W, 3]`` in [-1, 1], RGB, the right way up; never premultiplied with alpha.
        alpha: float32 ``[H, W]`` in [0, 1] (1 is opaque), or None.
        grey: the file had one colour channel; :func:`write` makes such a file again.
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


def read(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Picture:
    """Read one picture file: PNG, JPEG, WebP, BMP or TIFF, recognised by its content, not by its name.

    8-bit values become ``v / 127.5 - 1``, 16-bit ones ``v / 32767.5 - 1``, whatever the largest value is. EXIF
    orientation is applied. Of an animation or a document with several pages the first is read.

    Args:
        path: a file, or a binary stream.
        max_pixels: larger pictures are refused before anything is decoded.
        name: what to call the picture in errors; the path where None.

    Errors:
        :class:`ImageError`, one line: no such file, not a picture, damaged or truncated, more than ``max_pixels``,
        32-bit or Lab pixels.
    """
    values, alpha, facts = _decode(path, max_pixels, name)
    pixels = _to_float(values)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return Picture(pixels, alpha, **facts)


def read_rgb8(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> np.ndarray:
    """Read a picture as uint8 ``[H, W, 3]`` RGB, as :func:`read` does; transparency is dropped, 16 bits are rounded."""
    values, _, _ = _decode(path, max_pixels, name)
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)


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
    format_ = _FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ImageError(f"{_show(path)}: unknown extension {path.suffix!r}; use one of {', '.join(EXTENSIONS)}")
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
        raise ImageError(f"{_show(path)}: cannot be written ({_line(reason)}); check the folder, its free space and "
                         f"that {format_} holds a picture of {image.width}x{image.height}") from error
    finally:
        with contextlib.suppress(OSError):  # gone if all went well
            temporary.unlink()


def list_pictures(path, *, exclude=None) -> list[pathlib.Path]:
    """The picture files of a folder and of its subfolders, sorted by path; a file gives itself.

    Chosen by extension in any case (``EXTENSIONS``). Names that begin with a dot are left out. Links to folders are
    not followed, so a loop of links ends.

    Args:
        path: a folder or a file.
        exclude: a folder inside it to leave out, where the results go; None or elsewhere leaves out nothing.

    Errors:
        :class:`ImageError` when there is nothing at ``path``, a folder in it cannot be read, or ``exclude`` is the
        folder itself.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{_show(path)}: no such file or folder; check the path")
    exclude = None if exclude is None else pathlib.Path(exclude).resolve()
    if exclude == path.resolve():
        raise ImageError(f"{_show(path)}: the results cannot go into the folder that is read; choose another folder")
    found = []
    for folder, folders, files in os.walk(path, onerror=_unreadable):
        folder = pathlib.Path(folder)
        folders[:] = [name for name in folders
                      if not name.startswith(".") and (exclude is None or (folder / name).resolve() != exclude)]
        found += [folder / name for name in files
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in _FORMATS]
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def fill_hidden(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Replace the colours that nobody sees (alpha 0) by those of their visible surroundings.

    Files store anything under transparent pixels, often black; a network that blurs or sharpens across the edge would
    draw a halo from it. Visible pixels stay as they are. (Push-pull: fill from half the resolution, recursively.)

    Args:
        pixels: float ``[H, W, 3]``.
        alpha: float ``[H, W]`` in [0, 1].

    Returns:
        float32 ``[H, W, 3]``; unchanged where everything is visible, or nothing.

    >>> pixels = np.array([[[0.5, 0.0, 0.5], [-1.0, -1.0, -1.0]]])
    >>> fill_hidden(pixels, np.array([[1.0, 0.0]]))[0, 1].tolist()
    [0.5, 0.0, 0.5]
    """
    pixels, weight = np.asarray(pixels, np.float32), (np.asarray(alpha) > 0).astype(np.float32)[..., None]
    if weight.all() or not weight.any():
        return pixels
    return np.where(weight > 0, pixels, _pull(pixels * weight, weight))


def resize_alpha(alpha: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize transparency ``[h, w]`` to ``[height, width]`` (bicubic, clipped to [0, 1]) beside an enlarged picture."""
    image = Image.fromarray(np.asarray(alpha, np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)), 0.0, 1.0)


def side_by_side(pictures, labels=None, *, gap: int = 4) -> np.ndarray:
    """Pictures in a row, to compare before with after.

    Args:
        pictures: arrays ``[h, w, 3]`` float in [-1, 1] (or ``[h, w]``, ``[h, w, 1]``). Those of at most half the
            largest height and width are enlarged by a whole factor, so that each pixel stays a square.
        labels: one text above each, or None.
        gap: white pixels between them.

    Returns:
        float32 ``[H, W, 3]`` in [-1, 1].

    >>> before, after = np.zeros([2, 3, 3]), np.zeros([4, 6, 3])
    >>> side_by_side([before, after], gap=1).shape
    (4, 13, 3)
    """
    return grid([pictures], labels, gap=gap)


def grid(rows, labels=None, *, gap: int = 4) -> np.ndarray:
    """Rows of pictures, all in cells of one size; ``labels`` stand above the first row. See :func:`side_by_side`."""
    rows = [[_rgb(picture) for picture in row] for row in rows]
    if not rows or not all(rows):
        raise ValueError("a grid needs at least one row, and each row at least one picture")
    columns = max(len(row) for row in rows)
    if labels is not None and len(labels) != columns:
        raise ValueError(f"{len(labels)} labels for {columns} columns; give one for each")
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    canvas = np.ones([len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3], np.float32)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            factor = min(height // picture.shape[0], width // picture.shape[1])
            picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = i * (height + gap), j * (width + gap)
            canvas[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    if labels is None:
        return canvas
    return np.concatenate([_labels(labels, canvas.shape[1], width + gap, height), canvas])


def _decode(path, max_pixels, name):
    """The pixels as the file has them, alpha, and the other fields of Picture."""
    if hasattr(path, "read"):
        return _decode_stream(path, max_pixels, name or getattr(path, "name", "picture"))
    name = _show(path if name is None else name)
    if not os.path.isfile(path):
        found = "a folder, not a picture file" if os.path.isdir(path) else "no such file"
        raise ImageError(f"{name}: {found}; check the path")
    try:
        with open(path, "rb") as stream:
            return _decode_stream(stream, max_pixels, name)
    except OSError as error:
        raise ImageError(f"{name}: cannot be opened ({error.strerror}); check its permissions") from error


def _decode_stream(stream, max_pixels, name):
    head = stream.read(32)
    stream.seek(0)
    format_ = _recognise(head, name)
    try:
        _check_size(_webp_size(head) if format_ == "WEBP" else None, max_pixels, name)
        # The class itself instead of Image.open: only this format is tried, and only our pixel limit counts.
        with _READERS[format_](stream) as image:
            _check_size(image.size, max_pixels, name)
            facts = {"mode": image.mode, "format": format_, "sixteen_bit": _sixteen_bit(image, head),
                     "frames": getattr(image, "n_frames", 1)}
            if 0 in image.size:
                raise ImageError(f"{name}: {image.width} x {image.height} pixels, an empty picture; replace it")
            image.load()
            exif = _turn_upright(image)
            values, alpha, grey, profile = _channels(image, name)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{name}: a truncated or damaged {format_} file ({_line(error)}); copy or download it "
                         "again") from error
    return values, alpha, {**facts, "grey": grey, "icc_profile": profile, "exif": exif}


def _recognise(head, name):
    for magic, format_ in _MAGIC:
        if head.startswith(magic):
            return format_
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if not head:
        raise ImageError(f"{name}: an empty file; copy or download it again")
    found = next((other for magic, other in _OTHERS if head.startswith(magic)), None)
    if found is None and head[4:8] == b"ftyp":
        found = "a HEIC, AVIF or video file"
    if found is None:
        text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
        found = "text" if text else f"unknown data (it begins with {head[:8].hex(' ')})"
    raise ImageError(f"{name}: {found}, not a picture that can be read; convert it to {_SUPPORTED}")


def _webp_size(head):
    """Width and height from the first 30 bytes: constructing the WebP decoder would already reserve the canvas."""
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _check_size(size, max_pixels, name):
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(f"{name}: {size[0]} x {size[1]} pixels, more than the limit of {max_pixels:,}; make it "
                         "smaller, or raise max_pixels if you trust the file")


def _sixteen_bit(image, head):
    if image.format == "PNG":
        return head[24] == 16
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) == 16
    return False


def _turn_upright(image):
    """Turn the picture as EXIF says, in place; return the rest of EXIF (of TIFF none: it is mixed with the layout)."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        return exif.tobytes() if len(exif) and "exif" in image.info else None
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return None


def _channels(image, name):
    """uint8 or uint16 values ``[H, W]`` or ``[H, W, 3]``, alpha or None, greyness, colour profile."""
    mode, profile = image.mode, image.info.get("icc_profile") or None
    if mode.startswith("I;16"):
        values, transparent = np.asarray(image).astype(np.uint16), image.info.get("transparency")
        alpha = None if transparent is None else (values != transparent).astype(np.float32)
        return values, alpha, True, profile
    if mode in ("I", "F", "LAB"):
        raise ImageError(f"{name}: pixels of kind {mode!r} (32-bit or Lab), whose range is unknown; convert it to 8 or "
                         "16 bits per channel")
    if mode in ("1", "L", "LA", "La"):
        grey, target = True, "L"
    else:
        grey, target = False, "RGB"
    if mode == "CMYK":
        return np.asarray(_cmyk_to_srgb(image, profile)), None, False, None
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("LA" if grey else "RGBA")
        values = np.asarray(image)
        alpha = values[..., -1].astype(np.float32) / np.float32(255)
        return values[..., 0] if grey else values[..., :3], alpha, grey, profile
    return np.asarray(image if mode == target else image.convert(target)), None, grey, profile


def _cmyk_to_srgb(image, profile):
    if profile:
        from PIL import ImageCms  # needs LittleCMS, which some builds of Pillow lack
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, ImportError, OSError, TypeError):
            pass
    return image.convert("RGB")


def _to_float(values):
    half = np.float32(32767.5 if values.dtype == np.uint16 else 127.5)
    return values.astype(np.float32) / half - np.float32(1)


def _to_levels(pixels, levels, dtype):
    """Round [-1, 1] to 0 ... levels; uint8 stays what it is."""
    return np.rint((np.clip(pixels, -1, 1) + 1) * (levels / 2)).astype(dtype)


def _to_pillow(path, picture, format_):
    pixels = np.asarray(picture.pixels)
    pixels = _to_float(pixels) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ImageError(f"{_show(path)}: a picture is [H, W, 3], [H, W, 1] or [H, W], not {list(pixels.shape)}")
    if not np.isfinite(pixels).all():
        raise ImageError(f"{_show(path)}: {np.count_nonzero(~np.isfinite(pixels)):,} of {pixels.size:,} values are not "
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
        raise ImageError(f"{_show(path)}: transparency {list(alpha.shape)} does not fit the picture "
                         f"{list(pixels.shape[:2])}; resize it with resize_alpha")
    if format_ in ("JPEG", "BMP"):
        raise ImageError(f"{_show(path)}: {format_} cannot hold transparency; write .png, .webp or .tif instead")
    channels = pixels if pixels.ndim == 3 else pixels[..., None]
    if format_ == "WEBP" and channels.shape[2] == 1:
        channels = channels.repeat(3, axis=-1)
    return Image.fromarray(_to_levels(np.concatenate([channels, alpha[..., None] * 2 - 1], axis=-1), 255, np.uint8))


def _pull(pixels, weight):
    """Weighted means over 2 x 2 blocks, filled recursively, brought back to this size."""
    height, width = weight.shape[:2]
    if height == width == 1:
        return pixels
    both = np.pad(np.concatenate([pixels, weight], axis=-1), [(0, height % 2), (0, width % 2), (0, 0)])
    sums = both[::2, ::2] + both[1::2, ::2] + both[::2, 1::2] + both[1::2, 1::2]
    coarse_weight = (sums[..., -1:] > 0).astype(np.float32)
    coarse = sums[..., :-1] / np.maximum(sums[..., -1:], 1)
    if not coarse_weight.all():
        coarse = np.where(coarse_weight > 0, coarse, _pull(coarse, coarse_weight))
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]


def _rgb(picture):
    picture = np.asarray(picture, np.float32)
    picture = picture[..., None] if picture.ndim == 2 else picture
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise ValueError(f"a picture is [H, W, 3], [H, W, 1] or [H, W], not {list(picture.shape)}")
    return np.broadcast_to(np.clip(picture, -1, 1), picture.shape[:2] + (3,))


def _labels(labels, width, step, height):
    size = int(np.clip(height // 12, 10, 40))
    strip = Image.new("L", (width, size + size // 2), 255)
    draw = ImageDraw.Draw(strip)
    for j, label in enumerate(labels):
        draw.text((j * step + 2, 0), label, fill=0, font=ImageFont.load_default(size))
    return np.repeat(_to_float(np.asarray(strip))[..., None], 3, axis=-1)


def _unreadable(error):
    raise ImageError(f"{_show(error.filename)}: the folder cannot be read ({error.strerror}); check its permissions")


def _show(path):
    """A file name on one line, printable anywhere."""
    text = os.fspath(path) if not isinstance(path, str) else path
    return text if text.isprintable() else repr(text)


def _line(text):
    return " ".join(str(text).split()) or type(text).__name__
