"""The files that were answered wrongly once, each through the command that a person would type."""
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from indigo_jax import cli, images
from tests import test_cli_jobs as jobs
from tests.test_images_files import CASES, needs_cases

pytestmark = needs_cases
elsewhere, restore = jobs.elsewhere, jobs.restore  # fixtures


def header(path):
    """Size and what else the head of a file says."""
    with Image.open(path) as image:
        return image.size, image.info


def test_dots_per_inch_are_kept_in_every_format(restore):
    for suffix in ("png", "jpg", "tif"):
        assert restore(CASES / "dpi300.jpg", "-o", f"a.{suffix}")[0] == 0
        np.testing.assert_allclose([float(each) for each in header(f"a.{suffix}")[1]["dpi"]], 300, atol=0.1)


def test_grey_stored_as_colour_stays_neutral(restore):
    assert restore(CASES / "grey_as_rgb.png", "-o", "a.png")[0] == 0
    pixels = images.read_rgb8("a.png")
    assert (pixels == pixels[..., :1]).all() and pixels.std() > 5


def test_no_advice_about_a_limit_that_nobody_can_raise(restore):
    code, out, err = restore(CASES / "big_1bit.png", "-o", "a.png")
    text = " ".join(out + err)
    assert "MAX_IMAGE_PIXELS" not in text and "decompression" not in text.lower()
    if code:
        assert len(err) == 1 and "12000 x 10001" in text.replace(",", "")
    else:
        assert header("a.png")[0] == (12000, 10001)


def test_hidden_pixels_do_not_count(restore, capsys):
    assert cli.main(["evaluate", "--reference", str(CASES / "alpha_pair/a"), "--restored", str(CASES / "alpha_pair/b"),
                     "--metrics", "psnr"]) == 0
    said = capsys.readouterr()
    a, b = (images.read(CASES / f"alpha_pair/{side}/x.png") for side in "ab")
    seen = (a.alpha > 0) & (b.alpha > 0)
    error = np.mean((a.pixels - b.pixels)[seen]**2)
    value = float(said.out.splitlines()[-1].split()[-1])
    assert "measured where it is seen" in said.err
    assert np.isinf(value) or value == pytest.approx(10 * np.log10(4 / error), abs=0.2)


def test_a_mask_for_each_picture(restore):
    code, out, err = restore(CASES / "imgs", "-o", "out", "--task", "inpaint", "--mask", CASES / "masks")
    names = sorted(path.name for path in (CASES / "imgs").iterdir())
    assert code == 0 and sorted(path.name for path in pathlib.Path("out").glob("*.png")) == names


def test_large_metadata_is_left_out_and_said(restore):
    code, _, err = restore(CASES / "exif100k.png", "-o", "a.jpg")
    assert code == 0 and any("EXIF" in line for line in err) and header("a.jpg")[0] == (48, 40)


def test_the_picture_that_is_cut_short_is_named_before_the_first_step(tmp_path, monkeypatch, capsys):
    from train import indi, loop
    monkeypatch.setattr(loop, "jit_step", lambda *args: lambda *more: pytest.fail("a step was made"))
    config = os.path.join(os.path.dirname(__file__), "tiny_training.py")
    assert indi.main(["--config", config, "--data", str(CASES / "train_bad"), "--workdir", str(tmp_path / "run")]) == 2
    assert "train/05.png: a truncated or damaged PNG" in capsys.readouterr().err.splitlines()[-1]
