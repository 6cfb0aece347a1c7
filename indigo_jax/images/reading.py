"""Reading picture files: recognised by content, checked for size before anything is decoded."""
import io
import os
import pathlib

import numpy as np
from PIL import BmpImagePlugin, ExifTags, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from indigo_jax.images.picture import EXTENSIONS, ImageError, Picture, one_line, show, to_float

MAX_PIXELS = 120_000_000
_READERS = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile,
            "WEBP": WebPImagePlugin.WebPImageFile, "BMP": BmpImagePlugin.BmpImageFile,
            "TIFF": TiffImagePlugin.TiffImageFile}
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
          (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"))
_OTHERS = ((b"GIF8", "a GIF picture"), (b"%PDF", "a PDF document"), (b"%!PS", "a PostScript file"),
           (b"8BPS", "a Photoshop file"), (b"SIMPLE", "a FITS file"), (b"PK\3\4", "a zip archive"),
           (b"\x1f\x8b", "a gzip archive"), (b"\0\0\0\x0cjP", "a JPEG 2000 picture"), (b"\x93NUMPY", "a numpy array"))
_SUPPORTED = "PNG, JPEG, WebP, BMP or TIFF"


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
    pixels = to_float(values)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return Picture(pixels, alpha, **facts)


def read_rgb8(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> np.ndarray:
    """Read a picture as uint8 ``[H, W, 3]`` RGB, as :func:`read` does; transparency is dropped, 16 bits are rounded."""
    values, _, _ = _decode(path, max_pixels, name)
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)


def list_pictures(path, *, exclude=None, extensions=EXTENSIONS) -> list[pathlib.Path]:
    """The picture files of a folder and of its subfolders, sorted by path; a file gives itself.

    Names that begin with a dot are left out. Links to folders are not followed, so a loop of links ends.

    Args:
        path: a folder or a file.
        exclude: a folder inside it to leave out, where the results go; None or elsewhere leaves out nothing.
        extensions: of what counts as a picture, in any case.

    Errors:
        :class:`ImageError` when there is nothing at ``path``, a folder in it cannot be read, or ``exclude`` is the
        folder itself.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{show(path)}: no such file or folder; check the path")
    exclude = None if exclude is None else pathlib.Path(exclude).resolve()
    if exclude == path.resolve():
        raise ImageError(f"{show(path)}: the results cannot go into the folder that is read; choose another folder")
    found = []
    for folder, folders, files in os.walk(path, onerror=_unreadable):
        folder = pathlib.Path(folder)
        folders[:] = [name for name in folders
                      if not name.startswith(".") and (exclude is None or (folder / name).resolve() != exclude)]
        found += [folder / name for name in files
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions]
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def by_stem(names, folder, place=lambda stem: stem) -> dict[str, str]:
    """``{name without extension: name}``, where ``place`` may change what stands on the left.

    Errors:
        ValueError for two names in the ``folder`` that differ in the extension only.
    """
    stems = {}
    for name in names:
        stem = str(place(pathlib.PurePosixPath(name).with_suffix("")))
        if stem in stems:
            raise ValueError(f"{show(folder)}: {stems[stem]} and {name} differ in the extension only; keep one of them")
        stems[stem] = name
    return stems


def _decode(path, max_pixels, name):
    """The pixels as the file has them, alpha, and the other fields of Picture."""
    if hasattr(path, "read"):
        return _decode_stream(path, max_pixels, name or getattr(path, "name", "picture"))
    name = show(path if name is None else name)
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
        raise ImageError(f"{name}: a truncated or damaged {format_} file ({one_line(error)}); copy or download it "
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
    grey = mode in ("1", "L", "LA", "La")
    target = "L" if grey else "RGB"
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


def _unreadable(error):
    raise ImageError(f"{show(error.filename)}: the folder cannot be read ({error.strerror}); check its permissions")
