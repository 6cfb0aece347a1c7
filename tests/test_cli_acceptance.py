"""A nested folder of every kind of picture, two of them broken and one huge: done, killed and started again."""
import importlib.util
import json
import pathlib
import struct
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from indigo_jax import images
from tests import test_cli_jobs as jobs
from tests.test_images import png
from tests.test_images_png16 import filtered

elsewhere, restore = jobs.elsewhere, jobs.restore  # fixtures
HUGE = (1100, 1300)  # many times the others; the slow test takes 12 megapixels


class Kind(NamedTuple):
    """What a file must become: its levels, upright, ``[H, W, C]`` with alpha last; and how near."""

    levels: np.ndarray
    near: float = 0  # levels


def _levels(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _smooth(height, width):
    row, column = np.mgrid[:height, :width]
    return np.stack([row * 255 // height, column * 255 // width, (row + column) % 256], axis=-1).astype(np.uint8)


def kinds(folder, huge=HUGE):
    """Write the folder; ``{file: Kind}`` of what can be done."""
    folder, made = pathlib.Path(folder), {}

    def add(name, levels, near=0):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made[name] = Kind(levels[..., None] if levels.ndim == 2 else levels, near)
        return path

    rgb, grey, alpha = _levels(13, 21, 3), _levels(7, 5, seed=1), _levels(9, 12, 4, seed=2)
    deep, deep_grey = _levels(11, 6, 3, seed=3, dtype=np.uint16), _levels(8, 8, 1, seed=4, dtype=np.uint16)
    Image.fromarray(rgb).save(add("colours.png", rgb))
    Image.fromarray(grey).save(add("deep/grey.PNG", grey))
    add("deep/er/colours16.png", deep).write_bytes(png(6, 11, filtered(deep, range(5)), 16, 2))
    add("deep/er/grey16.png", deep_grey).write_bytes(png(8, 8, filtered(deep_grey, range(5)), 16, 0))
    wide = _levels(5, 9, 4, seed=5, dtype=np.uint16)
    add("deep/er/alpha16.png", wide).write_bytes(png(9, 5, filtered(wide, range(5)), 16, 6))
    Image.fromarray(alpha).save(add("alpha/colours.png", alpha))
    Image.fromarray(alpha).save(add("alpha/packed.webp", alpha), lossless=True, exact=True)
    Image.fromarray(alpha[..., :2]).save(add("alpha/grey.png", alpha[..., :2]))
    palette = Image.fromarray(rgb).quantize(7)
    palette.save(add("palette.png", np.asarray(palette.convert("RGB"))))
    bits = _levels(6, 10, seed=6) > 99
    Image.fromarray(bits).save(add("one bit.bmp", np.where(bits, 255, 0).astype(np.uint8)))
    smooth = _smooth(24, 40)
    ink = 255 - np.concatenate([smooth, np.full([24, 40, 1], 255, np.uint8)], axis=-1)
    Image.frombytes("CMYK", (40, 24), ink.tobytes()).save(add("ink.jpg", smooth, 8), quality=100, subsampling=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, it is 40 high
    Image.fromarray(np.rot90(smooth).copy()).save(add("turned.jpg", smooth, 6), quality=100, subsampling=0, exif=exif)
    Image.fromarray(smooth).save(add("names/no suffix", smooth), "PNG")
    Image.fromarray(smooth).save(add("names/really.jpg", smooth), "PNG")
    Image.fromarray(smooth).save(add("names/naïve 画.jfif", smooth, 6), "JPEG", quality=100, subsampling=0)
    tifffile.imwrite(add("tiff/planes.tif", deep), deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(add("tiff/white is zero.tiff", 65535 - deep_grey[..., 0]), deep_grey[..., 0],
                     photometric="miniswhite", byteorder=">")
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 4, 3)
    tifffile.imwrite(add("tiff/float.tif", np.rint(values.astype(np.float64) * 65535).astype(np.uint16)), values,
                     photometric="rgb")
    if importlib.util.find_spec("pillow_heif"):
        from pillow_heif import from_pillow
        from_pillow(Image.fromarray(_smooth(64, 80))).save(add("phone.heic", _smooth(64, 80), 40), quality=100)
    large = np.resize(_levels(97, 3, seed=7), (*huge, 3))
    Image.fromarray(large).save(add("huge/large.png", large), compress_level=1)
    (folder / "deep/er/cut.png").write_bytes((folder / "colours.png").read_bytes()[:-300])
    (folder / "names/words.jpg").write_text("no picture")
    return made


def check(made, folder):
    """Every picture is its own negative, of its own size, depth and orientation."""
    found = {str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if path.name[0] != "."}
    names = {name: str(pathlib.Path(name).with_suffix(".png")) for name in made}
    assert {name for name in found if pathlib.Path(folder, name).is_file()} == set(names.values())
    for name, kind in made.items():
        path = pathlib.Path(folder, names[name])
        width, height, bits, colour = struct.unpack(">IIBB", path.read_bytes()[16:26])
        channels = kind.levels.shape[2]
        assert (height, width) == kind.levels.shape[:2], name
        assert (bits, colour) == (8 * kind.levels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]), name
        picture, top = images.read(path), np.iinfo(kind.levels.dtype).max
        pixels = np.rint((picture.pixels + 1) * (top / 2))
        colours = kind.levels[..., :3 if channels > 2 else 1].astype(float)
        seen = np.ones(pixels.shape[:2], bool)
        if channels in (2, 4):
            np.testing.assert_array_equal(np.rint(picture.alpha * top), kind.levels[..., -1], err_msg=name)
            seen = kind.levels[..., -1] > 0  # what is hidden has no colour of its own
        assert np.abs(pixels - (top - colours))[seen].max() <= kind.near, name


def check_report(made, count):
    rows = {row["input"]: row for row in json.loads(pathlib.Path("r.json").read_text())["files"]}
    failed = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert set(failed) == {"in/deep/er/cut.png", "in/names/words.jpg"} and len(rows) == len(made) + 2
    assert "truncated or damaged PNG" in failed["in/deep/er/cut.png"] and "text" in failed["in/names/words.jpg"]
    assert sum(row["status"] == "done" for row in rows.values()) == count


def test_every_kind_is_done_and_two_failures_are_named(restore, monkeypatch):
    made = kinds("in")
    code, out, err = restore("in", "-o", "out", "--report", "r.json")
    assert code == 1 and out[0].startswith(f"{len(made)} of {len(made) + 2} pictures restored into out in ")
    assert out[0].endswith(", 2 failed") and {line for line in err if ": note: " not in line} == {
        line for line in err if "cut.png: a truncated" in line or "words.jpg: text" in line}
    check(made, "out")
    check_report(made, len(made))
    monkeypatch.setenv("FAKE_LOADS", "never")  # nothing is loaded for the two that cannot be read
    code, out, err = restore("in", "-o", "out", "--report", "r.json")
    assert code == 1 and len(err) == 2 and out == [
        f"nothing to do: {len(made)} of {len(made) + 2} pictures are in out already, made with these settings; "
        "--redo makes them again; 2 failed"]
    check_report(made, 0)


def test_no_device_is_started_for_what_cannot_be_read():
    made = kinds("in", (20, 30))
    assert jobs.finished(jobs.process("in", "-o", "out"))[0] == 1
    code, out, err = jobs.finished(jobs.process("in", "-o", "out", JAX_PLATFORMS="no_such_platform"))
    assert code == 1 and out.startswith(f"nothing to do: {len(made)} of ") and err.count("\n") == 2


def test_killed_at_ten_moments_in_a_folder_of_every_kind():
    made = {f"{half}/{name}": kind for half in "ab" for name, kind in kinds(f"in/{half}", (2000, 3000)).items()}
    assert jobs.survives_kills(kills=10, seconds=0.5, code=1, XLA_FLAGS="") == 10
    check(made, "out")
    assert jobs.finished(jobs.process("in", "-o", "out"))[1].startswith(f"nothing to do: {len(made)} of ")
