"""Reading picture files: recognised by content, checked for size before anything is decoded."""
import io
import os

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from indigo_jax.images import kinds, metadata, png16, tiff
from indigo_jax.images.picture import ImageError, Picture, one_line, show, to_float

MAX_PIXELS = 120_000_000
_READERS = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile,
            "WEBP": WebPImagePlugin.WebPImageFile, "BMP": BmpImagePlugin.BmpImageFile,
            "TIFF": TiffImagePlugin.TiffImageFile}


def read(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Picture:
    """Read one picture file: PNG, JPEG, WebP, BMP or TIFF, recognised by its content, not by its name.

    HEIC and AVIF are read where the extra ``heif`` is installed. 8-bit values become ``v / 127.5 - 1``, 16-bit ones
    ``v / 32767.5 - 1``, whatever the largest value is. EXIF orientation is applied. Of an animation or a document with
    several pages the first is read. What had to be left behind is in ``notes`` of the result.

    Args:
        path: a file, or a binary stream.
        max_pixels: larger pictures are refused before anything is decoded.
        name: what to call the picture in errors; the path where None.

    Errors:
        :class:`ImageError`, one line: no such file, not a picture, damaged or truncated, more than ``max_pixels``,
        32-bit, floating-point or Lab pixels, a TIFF layout that is not known.
    """
    values, alpha, facts = _decode(path, max_pixels, name)
    pixels = to_float(values)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return Picture(pixels, alpha, **facts)


def read_rgb8(path, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> np.ndarray:
    """Read a picture as uint8 ``[H, W, 3]`` RGB, as :func:`read` does; transparency is dropped, 16 bits are rounded."""
    values, _, _ = _decode(path, max_pixels, name)
    values = _eight_bits(values)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)


def _decode(path, max_pixels, name):
    """The pixels as the file has them, alpha, and the other fields of Picture."""
    if hasattr(path, "read"):
        return _decode_stream(path, max_pixels, show(str(name or getattr(path, "name", "picture"))))
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
    head = stream.read(kinds.HEAD)
    stream.seek(0)
    format_, words = kinds.recognise(head, os.path.basename(name))
    if not head:
        raise ImageError(f"{name}: an empty file; copy or download it again")
    if format_ is None:
        raise ImageError(f"{name}: {words}, not a picture that can be read; {kinds.advice(words)}")

    def check_size(size):
        if size[0] * size[1] > max_pixels:
            raise ImageError(f"{name}: {size[0]} x {size[1]} pixels, more than the limit of {max_pixels:,}; make it "
                             "smaller or cut it into pieces")
        if 0 in size:
            raise ImageError(f"{name}: {size[0]} x {size[1]} pixels, an empty picture; replace it")

    try:
        values, alpha, facts = None, None, {}
        if format_ == "TIFF":
            values, alpha, facts = tiff.decode(stream, check_size, name)
            stream.seek(0)
        if values is None:
            values, alpha, facts = _through_pillow(stream, format_, head, check_size, name, facts)
        if values.ndim == 3 and values.shape[2] == 4:
            values, facts["icc_profile"] = _cmyk_to_srgb(_eight_bits(values), facts["icc_profile"]), None
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{name}: a truncated or damaged {format_} file ({one_line(error)}); copy or download it "
                         "again") from error
    return values, alpha, facts


def _through_pillow(stream, format_, head, check_size, name, facts):
    """As :func:`tiff.decode`, from which the ``facts`` of a TIFF file come."""
    notes = ()
    if format_ == "WEBP" and len(head) >= 30:
        check_size(_webp_size(head))
    if format_ == "PNG":
        stream, notes = metadata.without_large_texts(stream)
    # The class itself instead of Image.open: only this format is tried, and only our pixel limit counts.
    with metadata.quiet():
        image = _reader(format_, name)(stream)
    with image:
        check_size(image.size)
        found = {"mode": image.mode, "format": format_, "sixteen_bit": format_ == "PNG" and head[24] == 16,
                 "frames": getattr(image, "n_frames", 1)}
        if format_ == "JPEG":
            found["jpeg_steps"] = tuple(image.quantization.get(0, ())) or None
        image.load()
        found |= metadata.of_image(image)
        values, alpha, grey, profile = _channels(image, name)
        if found["sixteen_bit"] and values.dtype == np.uint8:
            values, alpha = png16.decode(image, stream, metadata.of_image)
            grey = values.ndim == 2
    found |= {"grey": grey, "icc_profile": profile, **facts}
    return values, alpha, {**found, "notes": (*notes, *found["notes"])}


def _reader(format_, name):
    if format_ in _READERS:
        return _READERS[format_]
    try:
        if format_ == "AVIF":
            from PIL import AvifImagePlugin
            if AvifImagePlugin.SUPPORTED:
                return AvifImagePlugin.AvifImageFile
            raise ImportError("Pillow was built without it")
        from pillow_heif.as_plugin import HeifImageFile
        return HeifImageFile
    except ImportError as error:
        raise ImageError(f"{name}: {format_} cannot be read here ({one_line(error)}); convert it to PNG") from error


def _webp_size(head):
    """Width and height from the first 30 bytes: constructing the WebP decoder would already reserve the canvas."""
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


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
        return np.asarray(image), None, False, profile
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("LA" if grey else "RGBA")
        values = np.asarray(image)
        alpha = values[..., -1].astype(np.float32) / np.float32(255)
        return values[..., 0] if grey else values[..., :3], alpha, grey, profile
    return np.asarray(image if mode == target else image.convert(target)), None, grey, profile


def _eight_bits(values):
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8) if values.dtype == np.uint16 else values


def _cmyk_to_srgb(values, profile):
    """``[H, W, 4]`` amounts of ink as uint8 ``[H, W, 3]``."""
    image = Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())
    if profile:
        from PIL import ImageCms  # needs LittleCMS, which some builds of Pillow lack
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
        except (ImageCms.PyCMSError, ImportError, OSError, TypeError):
            pass
    return np.asarray(image.convert("RGB"))
