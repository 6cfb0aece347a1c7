"""PNG of 16 bits a channel: every level in, every level out, as the specification and other readers have it."""
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from indigo_jax import images
from indigo_jax.images import png16
from tests.test_images import chunk, encoded, opened, png, random_levels
from tests.test_images_files import SRGB, XMP, exif_block, read

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # colour types by the number of channels
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def expected_byte(kind, a, b, c):
    """What the filter of a row takes off a byte: those to the left, above, and above to the left."""
    if kind == 4:
        away = {name: abs(a + b - c - value) for name, value in (("a", a), ("b", b), ("c", c))}
        return {"a": a, "b": b, "c": c}[min(away, key=lambda name: (away[name], name))]
    return (0, a, b, (a + b) // 2)[kind]


def filtered(values, kinds):
    """The rows of 16-bit values, filtered by ``kinds`` in turn."""
    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8).astype(int)
    step, out, above = 2 * values.shape[2], b"", np.zeros(rows.shape[1], int)
    for i, row in enumerate(rows):
        left, corner = (np.concatenate([np.zeros(step, int), line])[:-step] for line in (row, above))
        kind = kinds[i % len(kinds)]
        out += bytes([kind, *((x - expected_byte(kind, *near)) % 256 for x, *near in zip(row, left, above, corner))])
        above = row
    return out


def unfiltered(data, height, width, channels):
    """The reverse, row by row and byte by byte."""
    step = 2 * channels
    lines, above = [], [0] * width * step
    for line in np.frombuffer(data, np.uint8).reshape(height, -1):
        row = []
        for i, x in enumerate(line[1:].tolist()):
            a, c = (row[i - step], above[i - step]) if i >= step else (0, 0)
            row.append((x + expected_byte(line[0], a, above[i], c)) % 256)
        lines.append(bytes(row))
        above = row
    return np.frombuffer(b"".join(lines), ">u2").reshape(height, width, channels)


def chunks(data):
    position = 8
    while position < len(data):
        length, = struct.unpack_from(">I", data, position)
        kind, body = data[position + 4:position + 8], data[position + 8:position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length)[0] == zlib.crc32(kind + body)
        yield kind, body
        position += length + 12


def split(values):
    """Colours, and alpha in [0, 1] or None, of 1 ... 4 channels."""
    alpha = values[..., -1] / 65535 if values.shape[2] in (2, 4) else None
    return values[..., :1 if values.shape[2] < 3 else 3], alpha


def check(picture, values):
    colours, alpha = split(values)
    assert picture.sixteen_bit and picture.grey == (values.shape[2] < 3)
    found = np.rint((picture.pixels + 1) * 32767.5)
    np.testing.assert_array_equal(found, np.broadcast_to(colours, found.shape))
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(picture.alpha, alpha.astype(np.float32))


@pytest.mark.parametrize("channels", COLOURS)
def test_every_level_is_read_through_every_filter(channels):
    values = random_levels(11, 7, channels, dtype=np.uint16)
    check(read(png(7, 11, filtered(values, range(5)), 16, COLOURS[channels])), values)


@pytest.mark.parametrize("channels", COLOURS)
def test_interlaced_files_are_read(channels):
    values = random_levels(9, 13, channels, dtype=np.uint16)
    data = b"".join(filtered(values[y::dy, x::dx], (4, 1)) for y, x, dy, dx in PASSES)
    header = struct.pack(">IIBBBBB", 13, 9, 16, COLOURS[channels], 0, 0, 1)
    check(read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data))
               + chunk(b"IEND", b"")), values)


def test_a_transparent_colour_is_one_of_16_bits():
    values = np.array([[[300, 40000, 7], [300, 40000, 8]]], np.uint16)
    data = png(2, 1, filtered(values, (0,)), 16, 2, chunk(b"tRNS", struct.pack(">HHH", 300, 40000, 7)))
    np.testing.assert_array_equal(read(data).alpha, [[0, 1]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_halves_are_turned(orientation):
    values = random_levels(3, 5, 3, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    turned = read(png(5, 3, filtered(values, (2,)), 16, 2, chunk(b"eXIf", block)))
    upper = encoded(Image.fromarray((values >> 8).astype(np.uint8)), exif=exif)
    lower = encoded(Image.fromarray((values & 255).astype(np.uint8)), exif=exif)
    wanted = [np.rint((read(data).pixels + 1) * 127.5) for data in (upper, lower)]
    np.testing.assert_array_equal(np.rint((turned.pixels + 1) * 32767.5), wanted[0] * 256 + wanted[1])


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 31)])
@pytest.mark.parametrize("channels", COLOURS)
def test_what_is_written_is_what_the_specification_says(channels, size, monkeypatch):
    monkeypatch.setattr(png16, "_ROWS", 1000)  # in several pieces
    ramp = np.arange(size[0] * size[1] * channels, dtype=np.uint16).reshape(*size, channels) * 7
    for values in (random_levels(*size, channels, dtype=np.uint16), ramp):
        found = list(chunks(png16.encode(values if channels > 1 else values[..., 0])))
        assert found[0] == (b"IHDR", struct.pack(">IIBBBBB", *size[::-1], 16, COLOURS[channels], 0, 0, 0))
        assert found[-1] == (b"IEND", b"")
        data = zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT"))
        np.testing.assert_array_equal(unfiltered(data, *size, channels), values)


@pytest.mark.parametrize("channels", COLOURS)
def test_other_readers_read_it(channels):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra tiff")
    values = random_levels(37, 50, channels, dtype=np.uint16)
    np.testing.assert_array_equal(imagecodecs.png_decode(png16.encode(values)).reshape(values.shape), values)
    check(read(imagecodecs.png_encode(values)), values)


@pytest.mark.parametrize("channels", COLOURS)
def test_metadata_and_every_bit_are_kept(channels, tmp_path):
    values = random_levels(6, 4, channels, dtype=np.uint16)
    picture = read(png(4, 6, filtered(values, (0,)), 16, COLOURS[channels]))
    profile = {} if channels < 3 else {"icc_profile": SRGB}
    picture = picture._replace(exif=exif_block(Artist="me"), xmp=XMP, dpi=(300.0, 150.0), **profile)
    assert images.check_target(tmp_path / "a.png", picture) == ()
    images.write(tmp_path / "a.png", picture)
    again = images.read(tmp_path / "a.png")
    check(again, values)
    assert (again.xmp, again.dpi, again.icc_profile) == (XMP, (300.0, 150.0), picture.icc_profile)
    assert opened(tmp_path / "a.png").getexif()[0x013B] == "me"


def test_a_smooth_picture_is_packed_well():
    ramp = np.broadcast_to(np.linspace(0, 65535, 256).astype(np.uint16)[:, None], (256, 256))
    assert len(png16.encode(np.stack([ramp, ramp.T, ramp], axis=-1))) < 30_000  # of 393,216 bytes


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(part):
    data = png16.encode(random_levels(20, 20, 3, dtype=np.uint16))
    with pytest.raises(images.ImageError, match="truncated or damaged"):
        read(data[:int(part * len(data))])
