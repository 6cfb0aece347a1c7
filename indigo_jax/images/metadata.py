"""What a picture file says beside its pixels: EXIF, XMP, resolution; and texts of PNG that are too large to be read."""
import contextlib
import io
import math
import re
import threading
import warnings
import zlib

from PIL import ExifTags, Image, ImageOps

LARGEST = 1 << 20  # bytes of one compressed text or profile in a PNG; Pillow refuses the picture over more
_LARGEST_TOTAL = 16 << 20
_MOST_CHUNKS = 1_000_000
_TEXTS = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")
_RESOLUTION = (ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit)
DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# of a TIFF file, whose other tags are its layout
DESCRIPTIVE = (
    ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software,
    ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright,
    ExifTags.Base.Rating, ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject, *DIRECTORIES)
_FILTERS = threading.Lock()  # of warnings, which all threads share


@contextlib.contextmanager
def quiet():
    """Without Pillow's warnings of metadata that it finds odd; what it cannot read it raises for."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def of_image(image) -> dict:
    """Turn a loaded Pillow image upright, in place; the fields ``exif``, ``xmp``, ``dpi``, ``notes`` of its picture."""
    notes, exif, dpi = [], None, resolution(image.info.get("dpi"))
    try:
        with quiet():
            ImageOps.exif_transpose(image, in_place=True)
            block = image.getexif()
            block.pop(ExifTags.Base.Orientation, None)
            dpi = dpi or _resolution_of(block)
            exif = block.tobytes() if len(block) else None
    except Exception:  # decoders raise anything on damaged blocks, which are no reason to refuse the picture
        notes.append("its EXIF block is damaged and was left out")
    return {"exif": exif, "xmp": _as_bytes(image.info.get("xmp")), "dpi": dpi, "notes": tuple(notes)}


def of_tiff(stream, xmp) -> dict:
    """The same of a TIFF file, from its tags alone."""
    fields = {"exif": None, "xmp": _without_orientation(_as_bytes(xmp)), "dpi": None, "notes": ()}
    stream.seek(2)
    if 43 in stream.read(2):
        return {**fields, "notes": ("the EXIF block of a BigTIFF file is not read, left out",)}
    stream.seek(0)
    try:
        with quiet():
            tags, block = Image.Exif(), Image.Exif()
            tags.load_from_fp(stream, None)
            fields["dpi"] = _resolution_of(tags)
            for tag in DESCRIPTIVE:
                value = dict(tags.get_ifd(tag)) if tag in DIRECTORIES else tags.get(tag)
                if value and not (tag == ExifTags.Base.ImageDescription and _is_for_machines(value)):
                    block[tag] = value
            fields["exif"] = block.tobytes() if len(block) else None
    except Exception:
        fields["notes"] = ("its EXIF block is damaged and was left out",)
    return fields


def with_resolution(exif: bytes | None, dpi) -> bytes:
    """An EXIF block that says the resolution too, for formats that have no other place for it."""
    block = Image.Exif()
    if exif:
        block.load(exif)
    for tag, value in zip(_RESOLUTION, (*dpi, 2)):
        block[tag] = value
    return block.tobytes()


def resolution(dpi) -> tuple[float, float] | None:
    """Pixels per inch, or None where they are no two sensible numbers.

    Whole numbers come back whole: PNG counts pixels per metre, and 150 dpi are 150.01 then.
    """
    try:
        pair = tuple(float(value) for value in dpi)
        pair = tuple(float(round(value, 2 * (abs(value - round(value)) > 0.02))) for value in pair)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return pair if len(pair) == 2 and all(math.isfinite(value) and 1 <= value <= 1e5 for value in pair) else None


def without_large_texts(stream):
    """A PNG stream without the texts and profiles that are too large, and notes on what was left out."""
    drop, total, notes = [], 0, []
    stream.seek(8)
    position = 8
    for _ in range(_MOST_CHUNKS):
        header = stream.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            break
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind in _TEXTS:
            size = _inflated(kind, stream.read(length))
            total += size
            if size > LARGEST and kind != b"tEXt" or total > _LARGEST_TOTAL:
                total -= size
                drop.append((position, length + 12))
                what = "a colour profile" if kind == b"iCCP" else "a text"
                notes.append(f"{what} of more than {min(size, LARGEST) >> 10} KiB was left out")
        position += length + 12
        stream.seek(position)
    stream.seek(0)
    if not drop:
        return stream, ()
    kept = io.BytesIO()
    for start, length in drop:
        kept.write(stream.read(start - stream.tell()))
        stream.seek(start + length)
    kept.write(stream.read())
    kept.seek(0)
    return kept, tuple(dict.fromkeys(notes))


def _inflated(kind, data):
    """How large a text becomes, at least; counted up to the limit."""
    packed = None
    if kind in (b"iCCP", b"zTXt"):
        packed = data.partition(b"\0")[2][1:]
    elif kind == b"iTXt":
        rest = data.partition(b"\0")[2]
        if rest[:1] not in (b"", b"\0"):
            packed = rest[2:].split(b"\0", 2)[-1]
    if packed is None:
        return len(data)
    try:
        return len(zlib.decompressobj().decompress(packed, LARGEST + 1))
    except zlib.error:
        return 0


def _resolution_of(tags):
    unit = {2: 1.0, 3: 2.54}.get(tags.get(ExifTags.Base.ResolutionUnit, 2))
    try:
        return unit and resolution([unit * float(tags.get(tag)) for tag in _RESOLUTION[:2]])
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _as_bytes(xmp):
    if isinstance(xmp, tuple):
        xmp = bytes(xmp) if all(isinstance(value, int) and 0 <= value < 256 for value in xmp) else b"".join(xmp)
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp) if xmp else None


def _without_orientation(xmp):
    return xmp and re.sub(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>', b"", xmp)


def _is_for_machines(description):
    return str(description).startswith(("{", "ImageJ=", "<?xml", "<OME"))
