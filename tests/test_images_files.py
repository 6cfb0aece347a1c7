"""Files as people have them: any layout of TIFF, any name, metadata in and out, and what is told before the work."""
import importlib.util
import io
import os
import pathlib
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from indigo_jax import cli, data, images, metrics, operators
from indigo_jax.images import kinds, tiff
from tests import networks
from tests.paths import ROOT
from tests.test_images import chunk, encoded, levels, opened, png, random_levels

CASES = pathlib.Path(os.environ.get("INDIGO_SHARED") or ROOT.parent / "shared") / "fixtures" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the files of fixtures/cases: set INDIGO_SHARED")
needs_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heif")
without_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="the extra heif is here")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:title>\xc3\xa4</dc:title></x:xmpmeta>'


def tif(values, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def exif_block(**texts):
    block = Image.Exif()
    block[0x010F] = "maker"
    block[ExifTags.IFD.Exif] = {ExifTags.Base.FNumber: 2.5, ExifTags.Base.LensModel: "lens"}
    block[ExifTags.IFD.GPSInfo] = {1: "N", 2: (47.0, 3.0, 1.5)}
    for tag, text in texts.items():
        block[ExifTags.Base[tag]] = text
    return block.tobytes()


def read(data):
    return images.read(io.BytesIO(data))


# ---- layouts of TIFF ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("options", [
    {}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"compression": "zlib"}, {"compression": "zlib", "predictor": 2},
    {"compression": "zlib", "predictor": 2, "tile": (32, 16)}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["grey", "white0", "rgb", "grey+alpha", "rgba", "rgb+2"])
def test_tiff_layouts_are_the_same_picture(dtype, byteorder, options, planar, kind):
    top = np.iinfo(dtype).max
    count = {"grey": 1, "white0": 1, "rgb": 3, "grey+alpha": 2, "rgba": 4, "rgb+2": 5}[kind]
    stored = random_levels(23, 37, count, dtype=dtype)
    extra = {"grey+alpha": ["unassalpha"], "rgba": ["unassalpha"], "rgb+2": ["unspecified"] * 2}.get(kind)
    photometric = "rgb" if "rgb" in kind else "miniswhite" if kind == "white0" else "minisblack"
    if count == 1:
        file = tif(stored[..., 0], photometric=photometric, byteorder=byteorder, **options)
    else:
        planes = stored.transpose(2, 0, 1) if planar == "separate" else stored
        file = tif(planes, photometric=photometric, planarconfig=planar, extrasamples=extra, byteorder=byteorder,
                   **options)
    picture = read(file)
    colours = stored[..., :3 if "rgb" in kind else 1].astype(np.int64)
    expected = np.broadcast_to(top - colours if kind == "white0" else colours, [23, 37, 3])
    np.testing.assert_array_equal(levels(picture.pixels, top), expected)
    assert (picture.grey, picture.sixteen_bit, picture.format) == ("rgb" not in kind, dtype == np.uint16, "TIFF")
    if kind in ("grey+alpha", "rgba"):
        np.testing.assert_array_equal(np.rint(picture.alpha * np.float64(top)), stored[..., -1])
    else:
        assert picture.alpha is None
    assert ("2 channels beside the colours" in " ".join(picture.notes)) == (kind == "rgb+2")
    small = images.read_rgb8(io.BytesIO(file))
    np.testing.assert_array_equal(small, np.rint(expected / (top / 255)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (300, 400)])
def test_written_tiff_is_what_other_readers_read(tmp_path, size, dtype, channels):
    top = np.iinfo(dtype).max
    stored = random_levels(*size, channels, dtype=dtype)
    alpha = stored[..., -1] / np.float32(top) if channels in (2, 4) else None
    colours = np.broadcast_to(stored[..., :channels - (alpha is not None)], (*size, 3))
    picture = images.Picture(colours / np.float32(top / 2) - 1, alpha, grey=channels < 3,
                             sixteen_bit=dtype == np.uint16, icc_profile=SRGB if channels > 2 else None)
    images.write(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages.first
        np.testing.assert_array_equal(page.asarray().reshape(stored.shape), stored)
        assert page.tags.valueof(34675) == picture.icc_profile
    if dtype == np.uint8:
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / "a.tif")).reshape(stored.shape), stored)
    np.testing.assert_array_equal(levels(images.read(tmp_path / "a.tif").pixels, top), colours)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype, planar", [(np.uint8, "contig"), (np.uint16, "separate")])
def test_tiff_orientation_is_that_of_pillow(orientation, dtype, planar):
    stored = random_levels(5, 7, 3)
    reference = Image.fromarray(stored)
    exif = reference.getexif()
    exif[0x0112] = orientation
    upright = np.asarray(opened_bytes(encoded(reference, "PNG", exif=exif)))
    wide = stored.astype(dtype) * (257 if dtype == np.uint16 else 1)
    data = tif(wide.transpose(2, 0, 1) if planar == "separate" else wide, photometric="rgb", planarconfig=planar,
               extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(images.read_rgb8(io.BytesIO(data)), upright)


def opened_bytes(data):
    from PIL import ImageOps
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk_tiff_is_shown_in_rgb(dtype, planar):
    inks = random_levels(6, 8, 4)
    reference = np.asarray(Image.frombytes("CMYK", (8, 6), inks.tobytes()).convert("RGB"))
    wide = inks.astype(dtype) * (257 if dtype == np.uint16 else 1)
    data = tif(wide.transpose(2, 0, 1) if planar == "separate" else wide, photometric="separated", planarconfig=planar)
    picture = read(data)
    np.testing.assert_array_equal(levels(picture.pixels), reference)
    assert picture.mode == "CMYK" and picture.icc_profile is None and not picture.grey


def test_premultiplied_tiff_becomes_straight():
    colours, alpha = random_levels(9, 9, 3, dtype=np.uint16), random_levels(9, 9, 1, dtype=np.uint16, seed=1) | 0x4000
    alpha[:2] = 0
    stored = np.concatenate([np.rint(colours * (alpha / 65535)).astype(np.uint16), alpha], axis=-1)
    picture = read(tif(stored, photometric="rgb", extrasamples=["assocalpha"]))
    visible = alpha[..., 0] > 0
    np.testing.assert_allclose(levels(picture.pixels, 65535)[visible], colours[visible], atol=2)
    np.testing.assert_array_equal(np.rint(picture.alpha * 65535.0), alpha[..., 0])


@pytest.mark.parametrize("mode, compression", [
    (mode, compression) for mode in ("L", "RGB", "RGBA", "LA", "CMYK", "P") for compression in
    ("tiff_lzw", "tiff_adobe_deflate", "packbits", "raw")] + [
    ("1", "group3"), ("1", "group4"), ("1", "tiff_lzw"), ("1", "raw"), ("I;16", "tiff_lzw"), ("I;16", "raw")])
def test_compressed_tiff_is_what_pillow_wrote(mode, compression):
    rgb = Image.fromarray(random_levels(19, 33, 4))
    image = Image.fromarray(random_levels(19, 33, dtype=np.uint16)) if mode == "I;16" else (
        rgb.convert(mode) if mode not in ("CMYK", "P") else rgb.convert("RGB").convert(mode))
    picture = read(encoded(image, "TIFF", compression=compression))
    top = 65535 if mode == "I;16" else 255
    reference = np.asarray(image if mode == "I;16" else image.convert("RGB"))
    reference = np.repeat(reference[..., None], 3, axis=-1) if reference.ndim == 2 else reference
    np.testing.assert_array_equal(levels(picture.pixels, top), reference)
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(np.rint(picture.alpha * 255), np.asarray(image)[..., -1])
    assert picture.mode == mode


def test_jpeg_in_tiff_is_read():
    y, x = np.mgrid[:32, :48] * 4
    image = Image.fromarray(np.stack([x, y, x + y], axis=-1).astype(np.uint8))
    picture = read(encoded(image, "TIFF", compression="jpeg", quality=95))
    assert np.abs(levels(picture.pixels) - np.asarray(image).astype(int)).max() < 24


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_per_sample_fill_the_range(bits):
    values = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2 ** bits
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(2, -1), axis=-1)
    tags = {256: 8, 257: 2, 258: bits, 259: 1, 262: 1, 277: 1, 278: 2, 279: packed.size}
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags) + 1)
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted({**tags, 273: start}.items()))
    picture = read(head + entries + bytes(4) + packed.tobytes())
    np.testing.assert_array_equal(levels(picture.pixels)[..., 0], values.astype(int) * (255 // (2 ** bits - 1)))


@pytest.mark.parametrize("values, options, message", [
    (np.linspace(0, 255, 16, dtype=np.float32).reshape(4, 4), {},
     "floating-point pixels from 0 to 255, whose range is unknown; scale them to 0 ... 1"),
    (np.full([4, 4, 3], -1, np.float16), {"photometric": "rgb"}, "floating-point pixels from -1 to -1"),
    (np.full([4, 4], np.nan, np.float32), {}, "floating-point pixels from nan to nan"),
    (np.ones([4, 4], np.uint32), {}, "32-bit pixels, whose range is unknown"),
    (np.ones([4, 4], np.int16), {}, "16-bit signed pixels"), (np.ones([4, 4], np.int8), {}, "8-bit signed"),
    (np.ones([4, 4, 3], np.uint8), {"photometric": "cielab"}, "'Lab' (PhotometricInterpretation 8)"),
    (np.ones([4, 4], np.uint16), {"photometric": "cfa"}, "a camera's raw data"),
    (np.ones([4, 4, 3], np.uint16), {"photometric": "linear_raw"}, "a camera's raw data"),
    (np.ones([4, 4], np.uint8), {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]}, "a camera's raw data"),
    (np.ones([4, 4, 9], np.uint8), {"planarconfig": "contig", "photometric": "minisblack"}, "9 channels"),
    (np.ones([2, 16, 16], np.uint8), {"volumetric": True, "tile": (16, 16, 16), "photometric": "minisblack"},
     "a depth of"),
    (np.ones([4, 4, 4], np.uint8), {"photometric": "separated", "extratags": [(332, "H", 1, 2, True)]}, "inks other"),
])
def test_tiff_without_one_meaning_is_refused_by_name(tmp_path, values, options, message):
    (tmp_path / "x.tif").write_bytes(tif(values, **options))
    for reader in (images.read, images.read_rgb8):
        with pytest.raises(images.ImageError) as caught:
            reader(tmp_path / "x.tif")
        assert message in str(caught.value) and str(caught.value).startswith(f"{tmp_path / 'x.tif'}: ")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_floating_point_from_0_to_1_is_16_bits(dtype, planar):
    values = np.linspace(0, 1, 4 * 6 * 3).reshape(4, 6, 3).astype(dtype)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    picture = read(tif(stored, photometric="rgb", planarconfig=planar))
    assert picture.sixteen_bit and picture.notes == ("its floating-point values from 0 to 1 are read as 16 bits",)
    np.testing.assert_array_equal(levels(picture.pixels, 65535), np.rint(values.astype(np.float64) * 65535))


def test_tiff_with_pieces_missing_or_of_too_much_is_refused():
    whole = tif(random_levels(64, 64), rowsperstrip=8)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        offsets, sizes = (file.pages.first.tags[tag].valueoffset for tag in (273, 279))
    for place in (offsets, sizes):
        for value in (0, 2 ** 31):
            broken = bytearray(whole)
            broken[place + 4:place + 6] = struct.pack("<I", value)[:2] if place == sizes else b"\0\0"
            with pytest.raises(images.ImageError, match="damaged TIFF"):
                read(bytes(broken[:-1]))
    bomb = zlib.compress(bytes(400 << 20), 9)
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 278: 8, 279: len(bomb)}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted({**tags, 273: start}.items()))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags) + 1)
    with pytest.raises(images.ImageError, match="a piece becomes more than 64 bytes"):
        read(head + entries + bytes(4) + bomb)


def test_compression_that_needs_imagecodecs(monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra tiff")
    stored = random_levels(20, 24, 3, dtype=np.uint16)
    for options in ({"compression": "lzw", "predictor": 2}, {"compression": "zstd"}, {"compression": "lzma"}):
        data = tif(stored.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", byteorder=">", **options)
        np.testing.assert_array_equal(levels(read(data).pixels, 65535), stored)
    assert imagecodecs.__version__
    chunky = [tif(stored, photometric="rgb", byteorder=order, compression="lzw", predictor=predictor)
              for order in "<>" for predictor in (None, 2)]
    grey = [tif(stored[..., 0], photometric=photometric, byteorder=">", compression="lzw")
            for photometric in ("minisblack", "miniswhite")]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(tiff.importlib.util, "find_spec",
                        lambda name: find_spec(name) if name != "imagecodecs" else None)
    with pytest.raises(images.ImageError, match=r"LZW|LZMA.*pip install 'indigo-jax\[tiff\]'"):
        read(data)
    for file in chunky:  # by Pillow: the upper 8 bits
        assert np.abs(levels(read(file).pixels) - stored // 257).max() <= 1
    np.testing.assert_array_equal(levels(read(grey[0]).pixels, 65535)[..., 0], stored[..., 0])
    with pytest.raises(images.ImageError, match=r"pip install 'indigo-jax\[tiff\]'"):
        read(grey[1])


@needs_cases
@pytest.mark.parametrize("name", ["rgb16_le_tiled.tif", "icc2mib.png", "opaque_rgba.png", "exif100k.png",
                                  "folder_of_names/noext", "folder_of_names/g.apng"])
def test_the_same_picture_in_other_files(name):
    np.testing.assert_array_equal(images.read_rgb8(CASES / name), images.read_rgb8(CASES / "base.png"))


@needs_cases
def test_white_is_zero_is_the_positive_of_the_planes():
    grey, colour = (images.read(CASES / name).pixels for name in ("tiff16_white0.tif", "tiff16_planar.tif"))
    assert np.corrcoef(grey[..., 0].ravel(), colour.mean(axis=-1).ravel())[0, 1] > 0.5
    alone = images.read(CASES / "tiff16_grey_alpha.tif")
    assert alone.grey and alone.sixteen_bit and (alone.alpha == 1).all()
    base = images.read(CASES / "base.png").pixels
    assert np.corrcoef(alone.pixels[..., 0].ravel(), base.mean(axis=-1).ravel())[0, 1] > 0.9


# ---- metadata ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_metadata_is_kept_from_every_format_in_every_format(tmp_path, source, suffix):
    full = images.Picture(np.zeros([4, 4, 3], np.float32), exif=exif_block(Copyright="me"), xmp=XMP, dpi=(300.0, 150.0),
                          icc_profile=SRGB)
    images.write(tmp_path / f"in{source}", full)
    picture = images.read(tmp_path / f"in{source}")
    assert images.check_target(tmp_path / f"out{suffix}", picture) == () == picture.notes
    images.write(tmp_path / f"out{suffix}", picture)
    back = images.read(tmp_path / f"out{suffix}")
    assert (back.icc_profile, back.xmp, back.dpi) == (SRGB, XMP, (300.0, 150.0))
    image = opened(tmp_path / f"out{suffix}")
    found = image.getexif()  # by Pillow, not by us
    assert (found[0x010F], found[0x8298]) == ("maker", "me")
    assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] == 2.5
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[2] == (47.0, 3.0, 1.5)
    if suffix != ".webp":
        assert np.allclose(image.info["dpi"], (300, 150), atol=0.02)
    assert image.info["xmp"] == XMP and image.info["icc_profile"] == SRGB


@pytest.mark.parametrize("unit, factor", [(2, 1.0), (3, 2.54)])
def test_resolution_of_tiff_in_inches_and_centimetres(unit, factor):
    data = tif(random_levels(4, 4), resolution=(100, 50), resolutionunit=unit)
    assert np.allclose(read(data).dpi, (100 * factor, 50 * factor), atol=0.01)
    assert read(tif(random_levels(4, 4), resolutionunit=1, resolution=(1, 1))).dpi is None


def test_layout_tags_in_exif_do_not_become_the_layout_of_a_tiff(tmp_path):
    block = Image.Exif()
    block[256], block[259], block[273], block[0x010F] = 9999, 7, 1, "maker"
    stored = random_levels(5, 6, 3)
    images.write(tmp_path / "a.tif", images.Picture(stored, exif=block.tobytes()))
    np.testing.assert_array_equal(images.read_rgb8(tmp_path / "a.tif"), stored)
    assert opened(tmp_path / "a.tif").getexif()[0x010F] == "maker"


def test_orientation_in_xmp_is_applied_and_dropped(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    stored = random_levels(4, 6, 3)
    picture = read(encoded(Image.fromarray(stored), "WEBP", lossless=True, xmp=xmp))
    np.testing.assert_array_equal(levels(picture.pixels), np.rot90(stored, -1))
    assert picture.xmp is None or b"Orientation" not in picture.xmp


def test_large_metadata_is_no_damage():
    noise = random_levels(2 << 20).tobytes()
    body = (b"\0" + bytes(range(9))) * 2
    for extra, what in (
            (chunk(b"iCCP", b"p\0\0" + zlib.compress(noise)), "a colour profile of more than 1024 KiB was left out"),
            (chunk(b"zTXt", b"k\0\0" + zlib.compress(noise)), "a text of more than 1024 KiB was left out"),
            (chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(noise)), "a text of more than 1024 KiB was left out"),
            (chunk(b"tEXt", b"k\0" + noise.replace(b"\0", b"x")), None), (chunk(b"tEXt", b"k\0x") * 3, None)):
        picture = read(png(3, 2, body, extra=extra + chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))))
        np.testing.assert_array_equal(levels(picture.pixels).ravel(), list(range(9)) * 2)
        assert picture.notes == ((what,) if what else ()) and picture.dpi == (300.0, 300.0)
    profile = bytes(16) + b"RGB " + noise  # other formats hold it, and it is kept
    assert read(encoded(Image.new("RGB", (3, 2)), "JPEG", icc_profile=profile)).icc_profile == profile


def test_what_a_jpeg_cannot_hold_is_left_out_and_said_before(tmp_path):
    block = Image.Exif()
    block[0x010E] = "x" * 100_000
    picture = images.Picture(random_levels(4, 4, 3), exif=block.tobytes(), xmp=b"y" * 70_000)
    notes = images.check_target(tmp_path / "a.jpg", picture)
    assert [note.partition(" ")[0] for note in notes] == ["EXIF", "XMP"] and "100,0" in notes[0]
    images.write(tmp_path / "a.jpg", picture)
    back = images.read(tmp_path / "a.jpg")
    assert back.exif is None and back.xmp is None and back.pixels.shape == (4, 4, 3)
    for suffix in (".png", ".tif", ".webp"):
        assert images.check_target(tmp_path / f"a{suffix}", picture) == ()
        images.write(tmp_path / f"a{suffix}", picture)
        assert opened(tmp_path / f"a{suffix}").getexif()[0x010E] == "x" * 100_000
    assert "BMP has no place for its EXIF, XMP" in images.check_target(tmp_path / "a.bmp", picture)[0]
    images.write(tmp_path / "a.bmp", picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_damaged_metadata_never_fails_the_writing(tmp_path, suffix):
    for exif, xmp, dpi in ((b"Exif\0\0nonsense", b"\xff\xfe", (0, float("nan"))), (b"x", b"\0", ("a", None)),
                           (b"Exif\0\0MM\0*\0\0\0\x08\0\xff", None, (1e30, 1)), (None, None, (300,))):
        picture = images.Picture(random_levels(4, 4, 3), exif=exif, xmp=xmp, dpi=dpi, icc_profile=b"no")
        images.check_target(tmp_path / f"a{suffix}", picture)
        images.write(tmp_path / f"a{suffix}", picture)
        assert images.read(tmp_path / f"a{suffix}").pixels.shape == (4, 4, 3)


# ---- what is told before the work --------------------------------------------------------------------------------

def test_opaque_transparency_goes_into_any_format(tmp_path):
    stored = random_levels(6, 5, 4)
    stored[..., 3] = 255
    picture = read(encoded(Image.fromarray(stored)))
    for suffix in (".jpg", ".bmp"):
        assert images.check_target(tmp_path / f"a{suffix}", picture) == ()
        images.write(tmp_path / f"a{suffix}", picture)
        assert opened(tmp_path / f"a{suffix}").mode == "RGB"
        clear = picture._replace(alpha=np.where(np.arange(5) > 3, 0.99, picture.alpha))
        with pytest.raises(images.ImageError, match=r"cannot hold transparency; write \.png, \.webp or \.tif"):
            images.check_target(tmp_path / f"a{suffix}", clear)
    np.testing.assert_array_equal(images.read_rgb8(tmp_path / "a.bmp"), stored[..., :3])


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for place, reason in ((tmp_path / "file" / "a.png", "Not a directory"), (tmp_path / "folder.png", "a folder has"),
                          (tmp_path / f"{'x' * 300}.png", "File name too long"), (tmp_path / "a.gif", "unknown ext"),
                          ("/proc/nothing/a.png", "cannot be written")):
        with pytest.raises(images.ImageError) as caught:
            images.check_target(place)
        assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert images.check_target(tmp_path / "new" / "deep" / "a.png") == ()
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize("source, suffix, eight", [
    ("grey.png", ".png", False), ("grey.png", ".tif", False), ("grey.png", ".jpg", True), ("rgb.png", ".png", False),
    ("rgb.png", ".tif", False), ("rgb.png", ".webp", True), ("rgb.tif", ".tif", False), ("rgb.tif", ".png", False),
    ("grey+.tif", ".png", False), ("grey+.tif", ".tif", False), ("grey+.tif", ".webp", True)])
def test_bits_that_are_lost_are_said_before_the_work(tmp_path, source, suffix, eight):
    wide = random_levels(4, 4, 3, dtype=np.uint16)
    data = {"grey.png": encoded(Image.fromarray(wide[..., 0])), "rgb.png": png(2, 2, bytes(26), bits=16),
            "rgb.tif": tif(wide, photometric="rgb"),
            "grey+.tif": tif(wide[..., :2], photometric="minisblack", extrasamples=["unassalpha"])}[source]
    picture = read(data)
    notes = images.check_target(tmp_path / f"a{suffix}", picture)
    assert notes == (("of its 16 bits a channel 8 are kept",) if eight else ())
    images.write(tmp_path / f"a{suffix}", picture)
    if not eight:
        np.testing.assert_array_equal(images.read(tmp_path / f"a{suffix}").pixels, picture.pixels)


def test_too_large_a_result_for_a_format_is_refused_before_the_work(tmp_path):
    picture = images.Picture(np.zeros([1, 5000, 3], np.float32))
    assert images.check_target(tmp_path / "a.webp", picture, times=3) == ()
    with pytest.raises(images.ImageError, match="WEBP holds at most 16,383 pixels a side, not 20000 x 4"):
        images.check_target(tmp_path / "a.webp", picture, times=4)


# ---- folders -----------------------------------------------------------------------------------------------------

def test_pictures_of_a_folder_are_known_by_what_they_are(tmp_path):
    image = Image.fromarray(random_levels(8, 8, 3))
    files = {"photo.dat": encoded(image), "noext": encoded(image, "JPEG"), "a.jfif": encoded(image, "JPEG"),
             "b.jpe": encoded(image, "JPEG"), "c.mpo": encoded(image, "JPEG"), "d.apng": encoded(image),
             "e.jpg_large": encoded(image, "JPEG"), "f.unknown": encoded(image, "BMP"), "g.gif": encoded(image),
             "h.w": encoded(image, "WEBP"), "x.png": b"This is text.\n", "y.jfif": b"text"}
    others = {"notes.txt": b"BM is how this text begins", "empty": b"", "table.csv": b"1,2", "video.mp4":
              b"\0\0\0\x18ftypisom", "archive.zip": b"PK\3\4", "model.npy": b"\x93NUMPY", "paper.pdf": b"%PDF-1"}
    left_out = {"k.gif": encoded(image, "GIF"), "l.jp2": b"\0\0\0\x0cjP  ", "m.dib": encoded(image, "BMP"),
                "n.nef": encoded(image, "TIFF"), "o.svg": b"<svg/>", "p.tga": bytes(64), "gif": encoded(image, "GIF"),
                "q.CR2": b"II*\0\x10\0\0\0CR"}
    for name, content in {**files, **others, **left_out}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    listing = images.find_pictures(tmp_path)
    assert [path.name for path in listing.pictures] == sorted(files)
    assert [path.name for path, _ in listing.left_out] == sorted(left_out)
    for path, reason in listing.left_out:
        assert reason.startswith(f"{path}: ") and "left out; " in reason and "\n" not in reason
    for name in files.keys() - {"x.png", "y.jfif"}:
        assert images.read(tmp_path / name).pixels.shape == (8, 8, 3)
    for name in ("x.png", "y.jfif"):
        with pytest.raises(images.ImageError, match=f"{name}: text, not a picture"):
            images.read(tmp_path / name)
    with pytest.raises(images.ImageError, match="n.nef: a camera raw file"):
        images.read(tmp_path / "n.nef")
    assert images.find_pictures(tmp_path, extensions=[".npy"]).pictures == [tmp_path / "model.npy"]


def test_pipes_and_links_to_folders_are_left_out_and_said(tmp_path):
    """Whoever opens a pipe waits for ever; a link to a folder may lead back."""
    (tmp_path / "other").mkdir()
    for name in ("a.png", "other/b.png"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(random_levels(8, 8, 3))))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "back").symlink_to(tmp_path)
    (tmp_path / "same.png").symlink_to(tmp_path / "a.png")
    listing = images.find_pictures(tmp_path)
    assert [path.name for path in listing.pictures] == ["a.png", "b.png", "same.png"]
    assert [(path.name, reason.partition(": ")[2]) for path, reason in listing.left_out] == [
        ("back", "a link to a folder, left out; give it as an input of its own"),
        ("pipe.png", "a pipe or a device, left out"), ("zero.png", "a pipe or a device, left out")]


@needs_cases
def test_the_folder_of_names():
    listing = images.find_pictures(CASES / "folder_of_names")
    found = [path.name for path in listing.pictures if path.name != "d.avif"]
    assert found == ["a.jpg", "b.jfif", "c.jpe", "f.mpo", "g.apng", "i.jpg_large", "noext"]
    assert {path.name for path, _ in listing.left_out} >= {"e.gif", "h.dib"}


# ---- HEIC and AVIF -----------------------------------------------------------------------------------------------

@without_heif
def test_without_the_extra_the_message_names_it(tmp_path):
    for name, brand, what in (("a.heic", b"heic", "a HEIC picture"), ("a.avif", b"avif", "an AVIF picture")):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(20))
        with pytest.raises(images.ImageError, match=rf"{what}.*pip install 'indigo-jax\[heif\]'"):
            images.read(tmp_path / name)
    listing = images.find_pictures(tmp_path)
    assert not listing.pictures and all("indigo-jax[heif]" in reason for _, reason in listing.left_out)


@needs_heif
def test_heic_and_avif_are_read(tmp_path):
    import pillow_heif
    y, x = np.mgrid[:48, :64] * 3
    image = Image.fromarray(np.stack([x, y, x + y], axis=-1).astype(np.uint8))
    exif = exif_block()
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=95, exif=exif)
    image.save(tmp_path / "b.avif", quality=95, exif=exif)
    assert [path.name for path in images.list_pictures(tmp_path)] == ["a.heic", "b.avif"]
    for name, format_ in (("a.heic", "HEIC"), ("b.avif", "AVIF")):
        picture = images.read(tmp_path / name)
        assert picture.format == format_ and picture.alpha is None
        assert np.abs(levels(picture.pixels) - np.asarray(image).astype(int)).mean() < 4
        images.write(tmp_path / "out.png", picture)
        assert opened(tmp_path / "out.png").getexif()[0x010F] == "maker"
        with pytest.raises(images.ImageError, match="64 x 48 pixels, more than the limit"):
            images.read(tmp_path / name, max_pixels=100)


def test_streams_with_odd_names_are_read(tmp_path):
    images.write(tmp_path / "a.png", random_levels(3, 4, 3))
    with os.fdopen(os.open(tmp_path / "a.png", os.O_RDONLY), "rb") as stream:  # its name is a number
        assert images.read(stream).pixels.shape == (3, 4, 3)
    stream = io.BytesIO(b"text")
    stream.name = "a\nb.png"
    with pytest.raises(images.ImageError, match=r"'a\\nb.png': text, not a picture"):
        images.read(stream)


def test_every_kind_says_what_to_do():
    assert kinds.recognise(b"\0\0\0\x18ftypcrx ") == (None, "a camera raw file")
    assert "heif" in kinds.advice("a HEIC picture") and "PNG" in kinds.advice("a GIF picture")


# ---- measuring and pairs -----------------------------------------------------------------------------------------

def test_hidden_pixels_do_not_count_in_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reference, restored = random_levels(40, 48, 4), random_levels(40, 48, 4, seed=1)
    restored[..., :3] = np.clip(reference[..., :3].astype(int) + 5, 0, 255)
    reference[..., 3], restored[..., 3] = 255, 255
    reference[:20, :, 3] = restored[:20, :, 3] = 0
    seen = []
    for seed in (2, 3):  # whatever lies under the transparent pixels
        for folder, values in (("a", reference), ("b", restored)):
            (tmp_path / folder).mkdir(exist_ok=True)
            values[:20, :, :3] = random_levels(20, 48, 3, seed=seed + (folder == "b") * 7)
            (tmp_path / folder / "x.png").write_bytes(encoded(Image.fromarray(values)))
        assert cli.main(["evaluate", "--reference", "a", "--restored", "b"]) == 0
        output = capsys.readouterr()
        seen.append(output.out)
        assert "measured where it is seen, in 50% of its pixels" in output.err
    assert seen[0] != "" and seen[0].split()[5:7] == seen[1].split()[5:7]
    below = [values[20:, :, :3][None] for values in (restored, reference)]
    assert f"{metrics.psnr(*below)[0]:.4f}" in seen[0].split()
    alone = images.to_measure(images.read("b/x.png"), images.read("a/x.png")._replace(alpha=None))[2]
    np.testing.assert_array_equal(alone, reference[..., 3] > 0)


def test_metrics_of_visible_pixels():
    a, b = random_levels(1, 32, 40, 3), random_levels(1, 32, 40, 3, seed=1)
    visible = np.zeros([1, 32, 40], bool)
    visible[:, 8:, 4:] = True
    np.testing.assert_allclose(metrics.psnr(a, b, visible=visible), metrics.psnr(a[:, 8:, 4:], b[:, 8:, 4:]))
    middle = np.zeros([1, 32, 40], bool)
    middle[:, 5:-5, 5:-5] = True  # every window of the picture
    np.testing.assert_allclose(metrics.ssim(a, b, visible=middle), metrics.ssim(a, b))
    np.testing.assert_allclose(metrics.ssim(a, b, border=4, visible=visible | True), metrics.ssim(a, b, border=4))
    one = np.zeros([1, 32, 40], bool)
    one[0, 20, 30] = True
    np.testing.assert_allclose(metrics.ssim(a, b, visible=one), metrics.ssim(a[:, 15:26, 25:36], b[:, 15:26, 25:36]))
    for measure in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match="no pixel is visible"):
            measure(a, b, visible=np.zeros_like(visible))
        with pytest.raises(ValueError, match=r"visible is \[B, H, W\]"):
            measure(a, b, visible=visible[0])


def test_sizes_that_do_not_fit_are_told_with_both_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, size in (("hr/photo_1.png", (161, 190, 3)), ("lr/photo_1.png", (41, 50, 3))):
        images.write(name, random_levels(*size))
    assert cli.main(["evaluate", "--reference", "hr", "--restored", "lr"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "lr/photo_1.png: 50 x 41 pixels, but its reference hr/photo_1.png has 190 x 161" in lines[0]
    with pytest.raises(ValueError, match=r"hr/photo_1.png: 190 x 161 pixels.*lr/photo_1.png has 50 x 41.*whole factor"):
        data.paired_folders("hr", "lr")[0]


def test_odd_sides_shrunk_and_enlarged_are_measured_where_the_reference_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images.write("hr/photo_1.png", random_levels(161, 190, 3))
    assert cli.main(["degrade", "hr", "-o", "lr", "--operator", "downsample", "--factor", "4"]) == 0
    assert images.read("lr/photo_1.png").pixels.shape == (41, 48, 3)
    restorer = networks.write_weights(tmp_path / "restorer.safetensors")
    assert cli.main(["restore", "lr", "-o", "sr", "--task", "sr", "--scale", "4", "--method", "indi", "--steps", "1",
                     "--weights", str(restorer), "--no-cache"]) == 0
    enlarged = images.read_rgb8("sr/photo_1.png")
    assert enlarged.shape == (164, 192, 3)
    capsys.readouterr()
    assert cli.main(["evaluate", "--reference", "hr", "--restored", "sr", "--metrics", "psnr"]) == 0
    out, err = capsys.readouterr()
    assert ("note: sr/photo_1.png: 192 x 164 pixels, measured on the 190 x 161 at the top left that its reference "
            "hr/photo_1.png has: enlarging by 4") in err
    wanted = metrics.psnr(random_levels(161, 190, 3)[None], enlarged[None, :161, :190])[0]
    assert float(out.split()[-1]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("small, shared", [((41, 48), (160, 188)), ((40, 47), (160, 188)), ((41, 47), (160, 188))])
def test_pairs_of_odd_sizes_are_cut_to_what_both_show(small, shared, tmp_path):
    high, low = random_levels(161, 190, 3), random_levels(*small, 3)
    images.write(tmp_path / "hr" / "photo_1.png", high)
    images.write(tmp_path / "lr" / "photo_1.png", low)
    pair = data.paired_folders(tmp_path / "hr", tmp_path / "lr")[0]
    np.testing.assert_array_equal(pair["image"], high[:shared[0], :shared[1]])
    np.testing.assert_array_equal(pair["measurement"], low[:shared[0] // 4, :shared[1] // 4])
    batch = next(data.evaluation_batches([pair], batch_size=1, crop=64))
    assert batch["image"].shape == (1, 64, 64, 3) and batch["measurement"].shape == (1, 16, 16, 3)


def test_whole_factors_of_odd_sides():
    for factor in range(1, 17):
        for side in range(8 * factor, 8 * factor + 40):
            assert images.shrunk_by((side, 40 * factor), (-(-side // factor), 40)) == factor
            assert images.shrunk_by((side, 40 * factor), (side // factor, 40)) == factor
    assert images.shrunk_by((64, 64), (63, 64)) is None and images.shrunk_by((64, 64), (64, 128)) is None
    assert images.enlarged_by((10, 10), (12, 12)) == 3 and images.enlarged_by((64, 64), (64, 65)) is None


@needs_cases
def test_the_pairs_of_odd_sizes():
    pairs = data.open_source(f"pairs:{CASES / 'pairs_hr'},{CASES / 'pairs_lr'}")
    assert [tuple(4 * side for side in pairs[i]["measurement"].shape[:2]) for i in range(4)] == [
        pairs[i]["image"].shape[:2] for i in range(4)]
    for pair in (pairs[i] for i in range(4)):  # of the same places: shrunk, the one is the other
        x = jnp.asarray(pair["image"][None], jnp.float32) / 127.5 - 1
        error = np.abs((np.asarray(operators.downsample(4)(x))[0] + 1) * 127.5 - pair["measurement"])
        assert error.mean() < 1


def test_evaluate_names_what_it_leaves_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        images.write(f"{folder}/x.png", random_levels(16, 16, 3))
        (tmp_path / folder / "y.gif").write_bytes(b"GIF89a" + bytes(30))
    assert cli.main(["evaluate", "--reference", "a", "--restored", "b"]) == 1
    error = capsys.readouterr().err
    assert "a/y.gif: a GIF picture, left out" in error and "b/y.gif: a GIF picture, left out" in error


def test_neutral_pictures():
    grey = np.repeat(random_levels(5, 6, 1), 3, axis=-1)
    coloured = grey.copy()
    coloured[0, 0, 1] ^= 1
    assert read(encoded(Image.fromarray(grey))).is_neutral and read(encoded(Image.fromarray(grey), "JPEG")).is_neutral
    assert not read(encoded(Image.fromarray(coloured))).is_neutral
    hidden = np.concatenate([coloured, np.full([5, 6, 1], 255, np.uint8)], axis=-1)
    assert not read(encoded(Image.fromarray(hidden))).is_neutral
    hidden[0, 0, 3] = 0
    assert read(encoded(Image.fromarray(hidden))).is_neutral
