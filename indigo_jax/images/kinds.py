"""What a file is: told from its first bytes, and from its name only where those say nothing."""
import importlib.util
import pathlib

SUPPORTED = "PNG, JPEG, WebP, BMP or TIFF"
HEAD = 64  # bytes that are looked at

_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
          (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"))
_PICTURES = ((b"GIF8", "a GIF picture"), (b"8BPS", "a Photoshop file"), (b"SIMPLE", "a FITS file"),
             (b"\0\0\0\x0cjP", "a JPEG 2000 picture"), (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
             (b"\0\0\0\x0cJXL", "a JPEG XL picture"), (b"\xff\x0a", "a JPEG XL picture"), (b"\x76\x2f\x31\x01",
             "an OpenEXR picture"), (b"#?RADIANCE", "a Radiance HDR picture"), (b"gimp xcf", "a GIMP file"),
             (b"DDS ", "a DDS texture"), (b"qoif", "a QOI picture"), (b"FUJIFILMCCD-RAW", "a camera raw file"),
             (b"IIRO", "a camera raw file"), (b"IIU\0", "a camera raw file"), (b"FOVb", "a camera raw file"))
_OTHERS = ((b"%PDF", "a PDF document"), (b"%!PS", "a PostScript file"), (b"PK\3\4", "a zip archive"),
           (b"\x1f\x8b", "a gzip archive"), (b"\x93NUMPY", "a numpy array"))
_BRANDS = {**dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
           b"avif": "AVIF", b"avis": "AVIF"}
_RAW = (".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
        ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f")
_BY_SUFFIX = {**dict.fromkeys(_RAW, "a camera raw file"), ".gif": "a GIF picture", ".dib": "a .dib bitmap",
              **dict.fromkeys((".heic", ".heif", ".hif"), "a HEIC picture"), ".avif": "an AVIF picture",
              **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx", ".jpm"), "a JPEG 2000 picture"),
              ".jxl": "a JPEG XL picture", **dict.fromkeys((".psd", ".psb"), "a Photoshop file"),
              ".svg": "a drawing", ".svgz": "a drawing", ".eps": "a PostScript file", ".exr": "an OpenEXR picture",
              ".xcf": "a GIMP file", ".dds": "a DDS texture", ".qoi": "a QOI picture",
              ".tga": "a Targa picture", ".pcx": "a PCX picture", ".ico": "an icon", ".icns": "an icon",
              **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm", ".pfm"), "a Netpbm picture"),
              ".fits": "a FITS file", ".dcm": "a DICOM file", ".wmf": "a drawing",
              ".emf": "a drawing"}


def recognise(head: bytes, name: str = "") -> tuple[str | None, str]:
    """The format of a file, and what it is in words; the format is None where it cannot be read.

    Args:
        head: its first :data:`HEAD` bytes, or all.
        name: of the file; only a camera's raw files need it, which begin as TIFF files do.

    >>> recognise(b"GIF89a")
    (None, 'a GIF picture')
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    for magic, format_ in _MAGIC:
        if head.startswith(magic):
            if format_ == "TIFF" and (suffix in _RAW or head[8:10] == b"CR"):
                return None, "a camera raw file"
            return format_, f"a {format_} picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP", "a WebP picture"
    if head[4:8] == b"ftyp":
        format_ = _BRANDS.get(head[8:12])
        if format_ is None:
            return None, "a camera raw file" if head[8:11] == b"crx" else "a video file"
        words = "an AVIF picture" if format_ == "AVIF" else "a HEIC picture"
        return format_ if can_read(format_) else None, words
    for magic, words in (*_PICTURES, *_OTHERS):
        if head.startswith(magic):
            return None, words
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return None, "text" if head else "an empty file"
    return None, f"unknown data (it begins with {head[:8].hex(' ')})"


def kind_in_folder(head: bytes, name: str) -> tuple[bool, str | None]:
    """Whether a file in a folder is a picture to be read; if not, what picture it is in words, None if it is none.

    First bytes that say what a file is count more than its name; only two letters (BMP) need more than that.
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    format_, words = recognise(head, name)
    if format_ == "BMP" and (suffix == ".dib" or not _is_bitmap(head)):
        format_, words = None, ""
    if format_:
        return True, None
    if any(words == known for _, known in _PICTURES) or words in ("a HEIC picture", "an AVIF picture"):
        return False, words
    return False, _BY_SUFFIX.get(suffix)


def can_read(format_: str) -> bool:
    """Whether what reads a format is installed."""
    return format_ not in ("HEIC", "AVIF") or importlib.util.find_spec("pillow_heif") is not None


def advice(words: str) -> str:
    """What to do about a picture that is not read."""
    if words in ("a HEIC picture", "an AVIF picture"):
        return "install what reads it, pip install 'indigo-jax[heif]', or convert it to PNG"
    if words == "a .dib bitmap":
        return "save it as .bmp or .png"
    return f"convert it to {SUPPORTED}"


def _is_bitmap(head):
    return head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
