"""Picture files: every kind of pixel, every kind of damage, and files that are whole or not there."""
import doctest
import io
import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from indigo_jax import images
from indigo_jax.images import comparison, reading, transparency
from tests.paths import SHARED, needs_shared


def random_levels(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def levels(pixels, top=255):
    return np.rint((pixels + 1) * (top / 2)).astype(int)


def opened(path):
    """The file as Pillow sees it."""
    return Image.open(io.BytesIO(path.read_bytes()))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b"", bits=8, colour=2, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data))
            + chunk(b"IEND", b""))


def encoded(image, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


# ---- reading -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".PNG"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (7, 5, 3), (13, 31, 3), (6, 4)])
def test_lossless_formats_return_the_same_levels(tmp_path, suffix, shape):
    expected = random_levels(*shape)
    images.write(tmp_path / f"a{suffix}", expected)
    picture = images.read(tmp_path / f"a{suffix}")
    assert picture.pixels.dtype == np.float32 and picture.pixels.shape == shape[:2] + (3,)
    expected = expected.reshape(shape[:2] + (-1,))
    np.testing.assert_array_equal(levels(picture.pixels), np.broadcast_to(expected, picture.pixels.shape))
    np.testing.assert_array_equal(images.read_rgb8(tmp_path / f"a{suffix}"), levels(picture.pixels))
    assert picture.grey == (len(shape) == 2 and suffix != ".webp")
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_jpeg_is_close_and_obeys_quality(tmp_path):
    y, x = np.mgrid[:32, :32] / 16 - 1
    expected = np.stack([x, y, x * y], axis=-1)
    images.write(tmp_path / "a.jpg", expected)
    images.write(tmp_path / "b.jpeg", expected, quality=10)
    assert np.abs(images.read(tmp_path / "a.jpg").pixels - expected).max() < 0.06
    assert (tmp_path / "b.jpeg").stat().st_size < (tmp_path / "a.jpg").stat().st_size


@pytest.mark.parametrize("mode, values", [
    ("1", [[0, 255]]), ("L", [[0, 200]]), ("P", [[(255, 0, 0), (0, 0, 255)]]), ("RGB", [[(1, 2, 3), (9, 8, 7)]]),
])
def test_modes_without_alpha(mode, values):
    image = Image.fromarray(np.asarray(values, np.uint8)).convert(mode)
    picture = images.read(io.BytesIO(encoded(image)))
    assert (picture.mode, picture.alpha, picture.grey) == (mode, None, mode in ("1", "L"))
    expected = np.asarray(values).reshape(1, 2, -1)
    np.testing.assert_array_equal(levels(picture.pixels), np.broadcast_to(expected, [1, 2, 3]))


def test_cmyk_is_shown_in_rgb_and_loses_its_profile():
    cmyk = Image.fromarray(np.asarray([[(255, 0, 0, 0)] * 16] * 16, np.uint8)).convert("RGBA")
    cmyk = Image.frombytes("CMYK", cmyk.size, cmyk.tobytes())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of the wrong space: ignored
    for options in ({}, {"icc_profile": profile}):
        picture = images.read(io.BytesIO(encoded(cmyk, "JPEG", quality=95, **options)))
        assert (picture.mode, picture.grey, picture.icc_profile) == ("CMYK", False, None)
        assert np.abs(levels(picture.pixels)[8, 8] - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_straight_and_kept(tmp_path, mode, suffix):
    stored = random_levels(8, 6, len(mode.replace("RGB", "abc")))
    stored[:3, :, -1] = 0  # colours under fully transparent pixels survive too
    stored[3:5, :, -1] = 77
    (tmp_path / "in.png").write_bytes(encoded(Image.fromarray(stored)))
    picture = images.read(tmp_path / "in.png")
    assert picture.alpha.dtype == np.float32 and 0 <= picture.alpha.min() and picture.alpha.max() <= 1
    images.write(tmp_path / f"out{suffix}", picture)
    back = images.read(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(np.rint(back.alpha * 255), stored[..., -1])
    np.testing.assert_array_equal(levels(back.pixels), np.broadcast_to(stored[..., :-1], [8, 6, 3]))
    if suffix != ".webp":
        assert opened(tmp_path / f"out{suffix}").mode == mode


@pytest.mark.parametrize("mode, key, opaque", [("P", 0, [0, 1]), ("RGB", (1, 2, 3), [0, 1]), ("L", 7, [0, 1])])
def test_transparent_colour_becomes_alpha(mode, key, opaque):
    colours = {"P": [[0, 1]], "RGB": [[(1, 2, 3), (9, 8, 7)]], "L": [[7, 9]]}[mode]
    image = Image.fromarray(np.asarray(colours, np.uint8))
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    picture = images.read(io.BytesIO(encoded(image, transparency=key)))
    np.testing.assert_array_equal(picture.alpha, [opaque])
    assert picture.mode == mode and picture.grey == (mode == "L")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_keeps_every_level(tmp_path, suffix):
    stored = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (tmp_path / f"in{suffix}").write_bytes(encoded(Image.fromarray(stored), "TIFF" if suffix == ".tif" else "PNG"))
    picture = images.read(tmp_path / f"in{suffix}")
    assert picture.sixteen_bit and picture.grey and picture.pixels[0, 0, 0] == -1 and picture.pixels[-1, -1, 0] == 1
    images.write(tmp_path / f"out{suffix}", picture)
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / f"out{suffix}")), stored)
    np.testing.assert_array_equal(images.read_rgb8(tmp_path / f"in{suffix}")[..., 0], np.rint(stored / 257))
    images.write(tmp_path / "eight.jpg", picture)
    assert images.read(tmp_path / "eight.jpg").mode == "L"


@pytest.mark.parametrize("top", [1, 255, 256])
def test_dark_sixteen_bit_pictures_stay_dark(top):
    stored = np.full([4, 4], top, np.uint16)
    pixels = images.read(io.BytesIO(encoded(Image.fromarray(stored)))).pixels
    np.testing.assert_allclose(pixels, top / 32767.5 - 1, atol=1e-7)


def test_sixteen_bit_transparency_and_colour():
    grey = png(2, 1, b"\0" + struct.pack(">HH", 300, 40000), 16, 0, chunk(b"tRNS", struct.pack(">H", 300)))
    picture = images.read(io.BytesIO(grey))
    np.testing.assert_array_equal(picture.alpha, [[0, 1]])
    colour = images.read(io.BytesIO(png(1, 1, b"\0" + struct.pack(">HHH", 0, 40000, 65535), 16)))
    assert colour.sixteen_bit and not colour.grey
    np.testing.assert_allclose(colour.pixels[0, 0], np.array([0, 40000, 65535]) / 32767.5 - 1, atol=1 / 127.5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype):
    with pytest.raises(images.ImageError, match="range is unknown; .*convert it"):
        images.read(io.BytesIO(encoded(Image.fromarray(np.full([3, 3], 7, dtype)), "TIFF")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_and_dropped(tmp_path, orientation, format_):
    upright = np.zeros([16, 24, 3], np.uint8)
    upright[:8, :8] = 255
    stored = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
              5: lambda a: a.transpose(1, 0, 2), 6: np.rot90,
              7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}[orientation](upright)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    options = {"lossless": True} if format_ == "WEBP" else {"quality": 100} if format_ == "JPEG" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), format_, exif=exif, **options)
    picture = images.read(io.BytesIO(data))
    assert picture.pixels.shape == (16, 24, 3)
    assert np.abs(levels(picture.pixels) - upright.astype(int)).max() <= 3
    np.testing.assert_array_equal(images.read_rgb8(io.BytesIO(data)), levels(picture.pixels))
    if format_ != "TIFF":
        images.write(tmp_path / "out.png", picture)
        kept = opened(tmp_path / "out.png").getexif()
        assert 0x0112 not in kept and kept[0x010F] == "maker"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_colour_profile_of_the_pixels_is_kept(tmp_path, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert profile[16:20] == b"RGB "
    picture = images.Picture(np.zeros([4, 4, 3], np.float32), icc_profile=profile)
    images.write(tmp_path / f"a{suffix}", picture)
    assert images.read(tmp_path / f"a{suffix}").icc_profile == profile
    images.write(tmp_path / f"b{suffix}", picture._replace(grey=True))  # a profile for colours does not fit grey
    if suffix != ".webp":
        assert images.read(tmp_path / f"b{suffix}").icc_profile is None


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(format_):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    picture = images.read(io.BytesIO(data))
    assert picture.frames == 3
    np.testing.assert_array_equal(levels(picture.pixels)[2, 2], [255, 0, 0])


@needs_shared
def test_a_real_photograph_is_the_same_as_through_pillow():
    path = sorted((SHARED / "data" / "eval_open" / "set5").glob("*.png"))[0]
    np.testing.assert_array_equal(levels(images.read(path).pixels), np.asarray(opened(path).convert("RGB")))


# ---- refusing ----------------------------------------------------------------------------------------------------

def refused(data, tmp_path, name="bad.png", **options):
    """The one line with which a file is refused, from both readers."""
    (tmp_path / name).write_bytes(data)
    lines = []
    for reader in (images.read, images.read_rgb8):
        with pytest.raises(images.ImageError) as caught:
            reader(tmp_path / name, **options)
        lines.append(str(caught.value))
    assert lines[0] == lines[1] and lines[0].startswith(f"{tmp_path / name}: ") and "\n" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("data, found", [
    (b"", "an empty file"), (b"This is no picture at all.\n", "text, not a picture"),
    (b"GIF89a" + bytes(40), "a GIF picture"), (b"SIMPLE  =   T", "a FITS file"), (b"%!PS-Adobe", "a PostScript file"),
    (b"8BPS\0\1", "a Photoshop file"), (b"\0\0\0\x18ftypisom", "a video file"),
    (bytes(64), "unknown data"), (b"\x89PNG\r\n\x1a\n", "truncated or damaged PNG"),
    (b"\xff\xd8\xff\xe0", "truncated or damaged JPEG"), (b"RIFF\x24\0\0\0WEBPVP8 ", "truncated or damaged WEBP"),
    (b"BM", "truncated or damaged BMP"), (b"II*\0\x08\0\0\0", "truncated or damaged TIFF"),
])
def test_what_is_no_picture_is_named(tmp_path, data, found):
    assert found in refused(data, tmp_path)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(tmp_path, format_, part):
    data = encoded(Image.fromarray(random_levels(64, 64, 3)), format_)
    assert f"truncated or damaged {format_} file" in refused(data[:int(len(data) * part)], tmp_path)


def test_a_flipped_bit_in_a_png_is_refused(tmp_path):
    data = bytearray(encoded(Image.fromarray(random_levels(64, 64, 3))))
    data[len(data) // 2] ^= 1
    assert "damaged PNG" in refused(bytes(data), tmp_path)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError("it was decoded")
    for reader in reading._READERS.values():
        monkeypatch.setattr(reader, "load", decode)
    rows = zlib.compressobj(9)
    body = b"".join([rows.compress(bytes(50_000))] * 100) + rows.flush()
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    message = refused(bomb, tmp_path)
    assert message.endswith("50000 x 50000 pixels, more than the limit of 120,000,000; make it smaller or cut it into "
                            "pieces")  # what the command line can do nothing about it does not advise
    assert "90 x 90 pixels, more than the limit of 8,099" in refused(png(90, 90), tmp_path, max_pixels=8099)
    for kind, body in ((b"VP8X", bytes(4) + b"\xff\xff\0\xff\xff\0"), (b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f"),
                       (b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + b"\xff\x3f\xff\x3f")):
        webp = b"RIFF" + struct.pack("<I", 30) + b"WEBP" + kind + struct.pack("<I", len(body)) + body.ljust(20, b"\0")
        side = 65536 if kind == b"VP8X" else 16384 if kind == b"VP8L" else 16383
        assert f"{side} x {side} pixels" in refused(webp, tmp_path)


def test_webp_size_is_that_of_the_picture():
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}):
        data = encoded(Image.new("RGBA" if options else "RGB", (37, 211)), "WEBP", **options)
        assert reading._webp_size(data[:32]) == (37, 211)


def test_large_pictures_below_the_limit_bring_no_warning():
    width, height = 20_000, 5_000  # more than Pillow's own first limit, one bit per pixel
    data = png(width, height, bytes((width // 8 + 1) * height), bits=1, colour=0)
    assert width * height > Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(images.ImageError, match="limit of 99,999,999"):
            images.read(io.BytesIO(data), max_pixels=99_999_999)
        with pytest.raises(images.ImageError, match="damaged PNG"):  # through the size check, and cut off inside
            images.read(io.BytesIO(data[:80]))


def test_a_text_chunk_bomb_is_never_inflated():
    text = b"comment\0\0" + zlib.compress(bytes(64 << 20), 9)
    data = png(1, 1, bytes(4), extra=chunk(b"zTXt", text))
    tracemalloc.start()
    picture = images.read(io.BytesIO(data))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert picture.notes == ("a text of more than 1024 KiB was left out",) and picture.pixels.shape == (1, 1, 3)


def test_damaged_exif_and_profile_are_no_reason_to_refuse(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0"
    data = encoded(Image.fromarray(random_levels(8, 8, 3)), exif=exif, icc_profile=b"no")
    picture = images.read(io.BytesIO(data))
    images.write(tmp_path / "out.png", picture)
    np.testing.assert_array_equal(images.read(tmp_path / "out.png").pixels, picture.pixels)


def test_missing_files_folders_and_odd_names(tmp_path):
    with pytest.raises(images.ImageError, match="gone.png: no such file; check the path"):
        images.read(tmp_path / "gone.png")
    with pytest.raises(images.ImageError, match="a folder, not a picture file"):
        images.read(tmp_path)
    for name in ("a\nb.png", "\udcff.png"):
        with pytest.raises(images.ImageError) as caught:
            images.read(name)
        assert "\n" not in str(caught.value) and str(caught.value).encode()
    for name in ("-n.png", "ä ö 漢字.png", "x" * 251 + ".png", "a\nb.png"):
        images.write(tmp_path / name, np.zeros([2, 2, 3]))
        assert images.read(tmp_path / name).pixels.shape == (2, 2, 3)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(images.ImageError, match="no such file"):  # and does not wait for a writer
        images.read(tmp_path / "pipe.png")


# ---- writing -----------------------------------------------------------------------------------------------------

def test_values_are_rounded_and_clipped(tmp_path):
    values = np.array([[-7, -1, 127.4 / 127.5 - 1, 127.6 / 127.5 - 1, 1, 1.5, 254.51 / 127.5 - 1]])
    images.write(tmp_path / "a.png", values)
    assert np.asarray(opened(tmp_path / "a.png")).tolist() == [[0, 0, 127, 128, 255, 255, 255]]


def test_restored_grey_stays_one_channel(tmp_path):
    picture = images.read(io.BytesIO(encoded(Image.fromarray(random_levels(4, 4)))))
    restored = np.clip(picture.pixels + np.array([0.02, 0, -0.02], np.float32), -1, 1)
    images.write(tmp_path / "a.png", picture._replace(pixels=restored))
    assert opened(tmp_path / "a.png").mode == "L"


@pytest.mark.parametrize("name, picture, message", [
    ("a.gif", np.zeros([2, 2, 3]), "unknown extension '.gif'; use one of .png"),
    ("a", np.zeros([2, 2, 3]), "unknown extension ''"),
    ("a.png", np.zeros([2, 2, 4]), "not [2, 2, 4]"), ("a.png", np.zeros([1, 2, 2, 3]), "not [1, 2, 2, 3]"),
    ("a.png", np.zeros([0, 2, 3]), "not [0, 2, 3]"),
    ("a.png", np.array([[0, np.nan], [np.inf, 0]]), "2 of 4 values are not finite; nothing was written"),
    ("a.jpg", images.Picture(np.zeros([2, 2, 3]), np.full([2, 2], 0.9)), "JPEG cannot hold transparency; write .png"),
    ("a.png", images.Picture(np.zeros([4, 4, 3]), np.ones([2, 2])), "resize it with resize_alpha"),
    ("a.webp", np.zeros([1, 16_400, 3]), "cannot be written"),
])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, name, picture, message):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(images.ImageError) as caught:
        images.write(tmp_path / name, picture)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == b"old" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, failure):
    (tmp_path / "a.png").write_bytes(b"old")

    def save(image, stream, *_, **__):
        stream.write(b"half")
        raise failure
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else images.ImageError) as caught:
        images.write(tmp_path / "a.png", np.zeros([2, 2, 3]))
    assert isinstance(failure, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert (tmp_path / "a.png").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_folders_are_made_and_files_in_the_way_named(tmp_path):
    images.write(tmp_path / "new" / "deep" / "a.png", np.zeros([2, 2, 3]))
    assert images.list_pictures(tmp_path) == [tmp_path / "new" / "deep" / "a.png"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(images.ImageError, match="cannot be written"):
        images.write(tmp_path / "file" / "a.png", np.zeros([2, 2, 3]))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(images.ImageError, match="cannot be written"):
        images.write(tmp_path / "folder.png", np.zeros([2, 2, 3]))
    assert not list(tmp_path.rglob("*.tmp"))


# ---- folders -----------------------------------------------------------------------------------------------------

def test_list_pictures(tmp_path):
    for name in ("b.png", "A.PNG", "a.jpg", "a.png", "sub/c.JPeG", "sub/deep/d.tif", "out/e.png", "notes.txt",
                 ".hidden.png", ".cache/f.png", "sub/-x y.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    found = [path.relative_to(tmp_path).as_posix() for path in images.list_pictures(tmp_path, exclude=tmp_path / "out")]
    assert found == ["A.PNG", "a.jpg", "a.png", "b.png", "link.png", "sub/-x y.webp", "sub/c.JPeG", "sub/deep/d.tif"]
    assert tmp_path / "out" / "e.png" in images.list_pictures(tmp_path, exclude="elsewhere")
    assert images.list_pictures(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(images.ImageError, match="cannot go into the folder that is read"):
        images.list_pictures(tmp_path, exclude=tmp_path / "sub" / "..")
    with pytest.raises(images.ImageError, match="no such file or folder"):
        images.list_pictures(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert images.list_pictures(tmp_path / "empty") == []


# ---- hidden colours, comparison pictures -------------------------------------------------------------------------

def test_hidden_colours_come_from_their_surroundings():
    pixels, alpha = np.full([13, 17, 3], 0.5, np.float32), np.zeros([13, 17])
    alpha[3:6, 4:9] = 0.3
    pixels[alpha == 0] = -1  # black under the transparent part: a halo, if a network saw it
    np.testing.assert_allclose(images.fill_hidden(pixels, alpha), 0.5, atol=1e-6)
    two = np.where(np.arange(17)[None, :, None] < 8, pixels, -0.5).astype(np.float32)
    filled = images.fill_hidden(two, np.ones([13, 17]))
    np.testing.assert_array_equal(filled, two)
    np.testing.assert_array_equal(images.fill_hidden(two, np.zeros([13, 17])), two)
    visible = np.random.default_rng(0).random([13, 17]) > 0.7
    noisy = np.random.default_rng(1).uniform(-1, 1, [13, 17, 3]).astype(np.float32)
    filled = images.fill_hidden(noisy, visible)
    np.testing.assert_array_equal(filled[visible], noisy[visible])
    assert filled.min() >= noisy[visible].min() - 1e-6 and filled.max() <= noisy[visible].max() + 1e-6


def test_resize_alpha():
    alpha = np.pad(np.ones([4, 4], np.float32), 2)
    large = images.resize_alpha(alpha, 32, 24)
    assert large.shape == (32, 24) and large.dtype == np.float32 and large.min() == 0 and large.max() == 1
    np.testing.assert_allclose(large.mean(), alpha.mean(), atol=0.02)


def test_side_by_side_and_grid():
    before, after = np.full([4, 6, 3], -0.5), np.full([8, 12], 0.25)
    pair = images.side_by_side([before, after], gap=2)
    assert pair.shape == (8, 26, 3) and pair.dtype == np.float32
    assert (pair[:, :12] == -0.5).all() and (pair[:, 12:14] == 1).all() and (pair[:, 14:] == 0.25).all()
    assert images.grid([[before] * 3, [before]], gap=1).shape == (9, 20, 3)
    named = images.side_by_side([after, after], labels=["before", "after"])
    strip = named[:-8]
    assert named.shape[1:] == (28, 3) and strip.min() < 0  # something is written
    assert (strip[:, :12] != strip[:, 16:]).any()  # and not the same twice
    with pytest.raises(ValueError, match="1 labels for 2 columns"):
        images.side_by_side([after, after], labels=["one"])
    with pytest.raises(ValueError, match="at least one row"):
        images.grid([])


def test_examples_in_the_docstrings():
    for module in (comparison, transparency):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed
