"""Pictures of all kinds through a diffusion prior, and ``indigo restore --method bird``; a tiny random network."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import images, models, prior, schedules, weights
from indigo_jax.cli import main

SIDE = 16
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a tiny prior for pictures of 16 x 16."""
    module = models.DDPMUNet(channels=8, multipliers=(1,), num_res_blocks=1, attention_resolutions=(), image_size=SIDE,
                             num_groups=4)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(path, params, {
        "architecture": "DDPMUNet", "prediction": "eps", "schedule": schedules.to_json("linear", num_timesteps=100),
        "arguments": {"channels": 8, "multipliers": [1], "num_res_blocks": 1, "attention_resolutions": [],
                      "image_size": SIDE, "num_groups": 4}})
    return path


@pytest.fixture(scope="module")
def tiny(file):
    return prior.load(file)


def picture(height, width, **kinds):
    return images.Picture(RANDOM.uniform(-1, 1, (height, width, 3)).astype(np.float32), **kinds)


@pytest.mark.parametrize("size, tiles", [((1, 1), 1), ((7, 5), 1), ((16, 16), 1), ((20, 33), 6)])
def test_any_size_comes_back_at_its_own(tiny, size, tiles):
    mask = np.ones(size, np.float32)
    mask[0, 0] = 0
    y = picture(*size)
    restored, report = tiny.picture(y, "inpaint", mask=mask)
    assert restored.pixels.shape == y.pixels.shape and np.isfinite(restored.pixels).all()
    assert report.layout.rows * report.layout.columns == tiles and report.evaluations == 138 * tiles
    assert float(np.sum(np.abs(restored.pixels - y.pixels) * mask[..., None])) < 0.1 * 3 * y.pixels.size


def test_grey_stays_grey_and_transparency_stays(tiny):
    pixels = np.repeat(RANDOM.uniform(-1, 1, (16, 16, 1)), 3, axis=2).astype(np.float32)
    alpha = np.ones((16, 16), np.float32)
    alpha[:4] = 0
    restored, _ = tiny.picture(images.Picture(pixels, alpha=alpha, grey=True), "denoise")
    np.testing.assert_array_equal(restored.pixels[..., 0], restored.pixels[..., 1])
    np.testing.assert_array_equal(restored.pixels[:4], pixels[:4])
    np.testing.assert_array_equal(restored.alpha, alpha)


def test_super_resolution_enlarges_and_explains_its_input(tiny):
    restored, report = tiny.picture(picture(4, 6), "sr", scale=4)
    assert restored.pixels.shape == (16, 24, 3) and report.layout.columns == 2


def test_a_known_kernel_and_an_unknown_one(tiny):
    known, report = tiny.picture(picture(16, 16), "deblur", kernel=np.full((3, 3), 1 / 9, np.float32))
    assert report.kernel is None and report.evaluations == 150
    blind, report = tiny.picture(picture(16, 16), "deblur", size=5)
    assert report.kernel.shape == (5, 5) and report.evaluations == 98
    np.testing.assert_allclose(report.kernel.sum(), 1.0, rtol=1e-5)


def test_a_kernel_of_unknown_size_a_family_and_a_grid(tiny):
    for options, shape in ((dict(task="deblur"), (7, 7)), (dict(task="nonuniform", size=3, grid=(1, 2)), (2, 3, 3)),
                           (dict(task="deblur", size=5, family="gaussian"), (5, 5))):
        restored, report = tiny.picture(picture(16, 16), **options)
        assert restored.pixels.shape == (16, 16, 3) and np.isfinite(restored.pixels).all()
        assert report.kernel.shape == shape and report.evaluations == 98
        np.testing.assert_allclose(report.kernel.sum((-2, -1)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(report.kernel, report.kernel.T, rtol=1e-4)  # the Gaussian


def test_the_same_picture_gives_the_same_bytes(tiny):
    y = picture(9, 9)
    first, again = (tiny.picture(y, "denoise", sample=sample)[0].pixels for sample in (0, 0))
    other = tiny.picture(y, "denoise", sample=1)[0].pixels
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("options, message", [
    (dict(task="colourise"), "does deblur, nonuniform, sr, denoise, inpaint"),
    (dict(task="nonuniform", grid=(0, 2)), "1 to 8 rows and columns of kernels, not 0 x 2"),
    (dict(task="inpaint"), "white = the area to fill"),
    (dict(task="inpaint", mask=np.ones((3, 4))), "the mask has 4 x 3 pixels, the picture 16 x 16"),
    (dict(task="denoise", mask=np.ones((16, 16))), "a mask is for inpaint"),
    (dict(task="denoise", kernel=np.ones((3, 3))), "a kernel is for deblur"),
    (dict(task="deblur", size=4), "size must be odd"),
    (dict(task="sr", scale=3), "scale 3 does not divide"),
])
def test_refusals(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.picture(picture(16, 16), **options)


# ---------------------------------------------------------------------------------------------------- command line

def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def read(path):
    with Image.open(path) as file:
        return np.asarray(file, float)


def test_command_line_inpaints_with_a_report(file, tmp_path, capsys):
    source = save(tmp_path / "in.png", RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 255
    mask = save(tmp_path / "mask.png", mask)
    out, report = tmp_path / "out.png", tmp_path / "report.json"
    command = ["restore", source, "-o", str(out), "--method", "bird", "--task", "inpaint", "--weights", str(file)]
    assert main([*command, "--mask", mask, "--report", str(report)]) == 0
    said = json.loads(report.read_text())["files"][0]
    assert said["network_evaluations"] == 138 and said["tiles"] == 1
    assert "138 network evaluations" in capsys.readouterr().out
    before, after = read(source), read(out)
    hole = np.zeros((16, 16), bool)
    hole[4:8, 4:8] = True
    assert np.abs(before - after)[~hole].mean() < 8 < np.abs(before - after)[hole].mean()


def test_command_line_writes_the_kernel_that_it_found(file, tmp_path):
    source = save(tmp_path / "in.png", RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
    out, report = tmp_path / "out.png", tmp_path / "report.json"
    command = ["restore", source, "-o", str(out), "--method", "bird", "--task", "deblur", "--weights", str(file)]
    assert main([*command, "--kernel-size", "5", "--report", str(report)]) == 0
    kernel = np.load(json.loads(report.read_text())["files"][0]["kernels"][0])
    assert kernel.shape == (5, 5) and (kernel >= 0).all()


@pytest.mark.parametrize("options, message", [
    ([], "--task auto is for --method indi; add that, or give another --task. There is: deblur, nonuniform, sr"),
    (["--task", "inpaint", "--mask", "mask.png", "--weights", "ellipses65"], "no weights of this name"),
    (["--task", "denoise", "--weights", "indi-photo"], "not a diffusion prior"),
    (["--task", "denoise", "--steps", "3"], "--steps is for --method indi"),
    (["--task", "inpaint"], "needs --mask FILE"),
    (["--task", "denoise", "--mask", "mask.png"], "--mask is for --task inpaint"),
    (["--task", "deblur", "--kernel-size", "8"], "--kernel-size must be odd; use 9"),
    (["--task", "deblur", "--kernel", "k.npy", "--candidates", "2"], "leave --candidates out"),
    (["--task", "sr", "--kernel-size", "9"], "--kernel-size is for --task deblur and nonuniform; leave it out"),
    (["--task", "deblur", "--grid", "2x2"], "--grid is for --task nonuniform"),
    (["--task", "nonuniform", "--grid", "9x2"], "give ROWSxCOLUMNS, 1 to 8 of each, as 2x3, not '9x2'"),
    (["--task", "deblur", "--kernel-family", "disk"], "There is: free, gaussian, motion"),
])
def test_wrong_usage(tmp_path, capsys, options, message):
    source = save(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    assert main(["restore", source, "-o", str(tmp_path / "out.png"), "--method", "bird", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("flag, make, message", [
    ("--kernel", lambda path: np.save(path, np.array([[1.0, -0.5, 1.0]])), "no negative entries"),
    ("--kernel", lambda path: np.save(path, np.array([[1.0, np.nan, 1.0]])), "finite"),
])
def test_bad_kernels(file, tmp_path, capsys, flag, make, message):
    make(tmp_path / "k.npy")
    source = save(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    command = ["restore", source, "-o", str(tmp_path / "out.png"), "--method", "bird", "--weights", str(file)]
    assert main([*command, "--task", "deblur", flag, str(tmp_path / "k.npy")]) == 2
    assert message in capsys.readouterr().err


def test_masks_that_make_no_sense(file, tmp_path, capsys):
    source = save(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    command = ["restore", source, "-o", str(tmp_path / "out.png"), "--method", "bird", "--task", "inpaint", "--weights",
               str(file), "--mask"]
    assert main([*command, save(tmp_path / "black.png", np.zeros((8, 8), np.uint8))]) == 2
    assert "nothing to fill" in capsys.readouterr().err
    assert main([*command, save(tmp_path / "small.png", np.eye(5, dtype=np.uint8) * 255)]) == 1
    assert "the mask has 5 x 5 pixels, the picture 8 x 8" in capsys.readouterr().err
