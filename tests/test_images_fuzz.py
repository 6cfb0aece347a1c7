"""Damaged picture files of every format: a picture of the size that the file says, or one line; never anything else."""
import importlib.util
import io
import struct
import time
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from indigo_jax import images
from indigo_jax.images import tiff_writing
from tests.test_images import chunk, encoded, png, random_levels
from tests.test_images_files import SRGB, XMP, exif_block, tif

SECONDS = 10  # no file of a few hundred bytes takes that long


def whole_files():
    """``{name: bytes}`` of small files, of each format and kind of pixel, with all the metadata it can have."""
    rgba = Image.fromarray(random_levels(12, 17, 4))
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    extras = {"exif": exif_block(), "icc_profile": SRGB[:200], "dpi": (300, 300)}
    text = PngImagePlugin.PngInfo()
    text.add_text("k", "v" * 40, zip=True)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    files = {
        "png": encoded(rgb, pnginfo=text, **extras), "png-rgba": encoded(rgba), "png-l": encoded(grey),
        "png-p": encoded(rgb.convert("P"), transparency=3), "png-1": encoded(grey.convert("1")),
        "png-16": encoded(Image.fromarray(random_levels(12, 17, dtype=np.uint16))),
        "png-rgb16": png(2, 2, bytes(26), bits=16, extra=chunk(b"tRNS", bytes(6))),
        "apng": encoded(rgb, save_all=True, append_images=[rgb.rotate(90)]),
        "jpg": encoded(rgb, "JPEG", xmp=XMP, **extras), "jpg-l": encoded(grey, "JPEG", progressive=True),
        "jpg-cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "mpo": encoded(rgb, "MPO", save_all=True, append_images=[grey]),
        "webp": encoded(rgb, "WEBP", exif=exif_block(), xmp=XMP), "webp-rgba": encoded(rgba, "WEBP", lossless=True),
        "webp-film": encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "bmp": encoded(rgb, "BMP", dpi=(300, 300)), "bmp-p": encoded(rgb.convert("P"), "BMP"),
        "bmp-1": encoded(grey.convert("1"), "BMP"), "bmp-rgba": encoded(rgba, "BMP"),
    }
    for mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK", "P"):
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            options = extras if compression == "raw" else {"compression": compression}
            files[f"tif-{mode}-{compression}"] = encoded(rgba.convert("RGB").convert(mode), "TIFF", **options)
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif
        stream = io.BytesIO()
        pillow_heif.from_pillow(rgb.resize((64, 64))).save(stream, quality=50)
        files["heic"], files["avif"] = stream.getvalue(), encoded(rgb, "AVIF", exif=exif_block())
    files["tif-jpeg"] = encoded(rgb, "TIFF", compression="jpeg")
    files["tif-g4"] = encoded(grey.convert("1"), "TIFF", compression="group4")
    wide = random_levels(20, 17, 3, dtype=np.uint16)
    for order in "<>":
        files[f"tif-16{order}"] = tif(wide, photometric="rgb", byteorder=order)
        files[f"tif-planes{order}"] = tif(wide.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
                                          byteorder=order, rowsperstrip=7)
        files[f"tif-tiles{order}"] = tif(wide, photometric="rgb", byteorder=order, tile=(16, 16), compression="zlib",
                                         predictor=2)
        files[f"tif-white{order}"] = tif(wide[..., 0], photometric="miniswhite", byteorder=order, bigtiff=order == ">")
    files["tif-own"] = tiff_writing.encode(wide, exif=exif_block(), xmp=XMP, icc_profile=SRGB[:200], dpi=(300, 300))
    files["tif-pages"] = tif(np.stack([wide, wide]), photometric="rgb")
    return files


def mutated(data, generator):
    """The file with a few bytes changed, cut out, doubled or put in: mostly where the structure is."""
    data = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        reach = max(len(data) if generator.random() < 0.5 else min(len(data), 200), 1)
        at, kind = int(generator.integers(reach)), generator.integers(7)
        if kind == 0:
            data[at:at + 1] = bytes([generator.integers(256)])
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] ^= 1 << int(generator.integers(8))
        elif kind == 2:
            value = int(generator.choice([0, 1, 255, 65535, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]))
            data[at:at + 4] = struct.pack(generator.choice(["<I", ">I"]), value)
        elif kind == 3:
            del data[at:at + int(generator.integers(1, 20))]
        elif kind == 4:
            data[at:at] = data[at:at + int(generator.integers(1, 40))]
        elif kind == 5:
            data[at:at] = generator.bytes(int(generator.integers(1, 9)))
        elif generator.random() < 0.3:
            del data[max(at, 10):]
    return bytes(data)


def pillows_size(data):
    """What Pillow takes for the size; None where it refuses."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "BMP", "TIFF"]) as image:
            return image.size
    except Exception:
        return None


def check(data):
    """Whether the file was read. Anything but a picture or one line is an error."""
    since = time.perf_counter()
    try:
        picture = images.read(io.BytesIO(data), max_pixels=1_000_000, name="x")
    except images.ImageError as error:
        text = str(error)
        assert "\n" not in text and text.startswith("x: ") and text.isprintable() and len(text) < 600, text
        return False
    finally:
        assert time.perf_counter() - since < SECONDS
    assert picture.pixels.dtype == np.float32 and picture.pixels.ndim == 3 and picture.pixels.shape[2] == 3
    assert np.isfinite(picture.pixels).all() and np.abs(picture.pixels).max() <= 1
    assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    size = pillows_size(data)
    assert size is None or sorted(size) == sorted(picture.pixels.shape[:2])
    return True


def fuzz(count, seed):
    generator, files = np.random.default_rng(seed), whole_files()
    names, read = list(files), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(count):
            name = names[i % len(names)]
            data = mutated(files[name], generator)
            try:
                read += check(data)
            except BaseException as error:
                error.add_note(f"mutation {i} of {name}: {data.hex()}")
                raise
    return read


def test_the_whole_files_are_read():
    for name, data in whole_files().items():
        assert check(data), name


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_a_picture_or_one_line(seed):
    read = fuzz(500, seed)
    assert 50 < read < 450  # mutations that all fail, or none, would test nothing


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_very_many_damaged_files(seed):
    fuzz(10_000, seed)


def test_headers_that_promise_too_much_cost_nothing():
    stream = io.BytesIO()
    tifffile.imwrite(stream, random_levels(8, 8), metadata=None)
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        places = {tag: file.pages.first.tags[tag].valueoffset for tag in (256, 257, 278)}
    for tag, place in places.items():
        broken = data.copy()
        broken[place:place + 4] = struct.pack("<I", 2 ** 31 - 1)
        since = time.perf_counter()
        try:
            assert images.read(io.BytesIO(bytes(broken))).pixels.shape == (8, 8, 3) and tag == 278
        except images.ImageError:
            pass
        assert time.perf_counter() - since < 1
