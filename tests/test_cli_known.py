"""``indigo restore`` where the damage is known or looked for: masks, kernels, sinograms; a tiny random network."""
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data, transform

from indigo_jax import metrics, operators
from indigo_jax.cli import main
from tests import guided_networks

SIDE = 16
RANDOM = np.random.default_rng(0)
ANGLES = operators.sparse_view_angles(6)
PHANTOM = transform.resize(data.shepp_logan_phantom(), (SIDE, SIDE), anti_aliasing=True).astype(np.float32)
SINOGRAM = np.asarray(operators.radon(ANGLES, SIDE)(PHANTOM[None, :, :, None]))[0, :, :, 0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a tiny prior for pictures of 16 x 16."""
    return guided_networks.write_prior(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def read(path):
    with Image.open(path) as file:
        return np.asarray(file, float)


# ---------------------------------------------------------------------------------------------------- pictures

def bird(file, *options):
    """``restore in.png -o out.png --method bird``."""
    return main(["restore", "in.png", "-o", "out.png", "--method", "bird", "--weights", str(file), *map(str, options)])


def test_holes_are_filled_and_reported(file, capsys):
    save("in.png", RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
    hole = np.zeros((16, 16), bool)
    hole[4:8, 4:8] = True
    save("mask.png", np.uint8(255 * hole))
    assert bird(file, "--task", "inpaint", "--mask", "mask.png", "--report", "r.json") == 0
    said = json.loads(pathlib.Path("r.json").read_text())["files"][0]
    assert said["network_evaluations"] == 138 and said["tiles"] == 1 and said["sigma_255"] == [2.5]
    assert "138 network evaluations" in capsys.readouterr().out
    before, after = read("in.png"), read("out.png")
    assert np.abs(before - after)[~hole].mean() < 8 < np.abs(before - after)[hole].mean()


def test_the_kernel_that_was_found_is_written(file):
    save("in.png", RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
    assert bird(file, "--task", "deblur", "--kernel-size", 5, "--report", "r.json", "--samples", 2) == 0
    names = json.loads(pathlib.Path("r.json").read_text())["files"][0]["kernels"]
    assert names == ["out-1-kernel.npy", "out-2-kernel.npy"]
    kernel = np.load(names[0])
    assert kernel.shape == (5, 5) and (kernel >= 0).all()


@pytest.mark.parametrize("options, message", [
    ([], "--method bird needs a --task. There is: deblur, nonuniform, sr"),
    (["--task", "inpaint", "--mask", "mask.png", "--weights", "ellipses65"], "no weights of this name"),
    (["--task", "denoise", "--weights", "indi-photo"], "indi-photo: a network that restores directly (for --method "
     "indi), where a diffusion prior of pictures is needed"),
    (["--task", "denoise", "--steps", "3"], "--steps is for --method indi and"),
    (["--task", "inpaint"], "needs --mask FILE"),
    (["--task", "denoise", "--mask", "mask.png"], "--mask is for --task inpaint"),
    (["--task", "deblur", "--kernel-size", "8"], "--kernel-size must be odd; use 9"),
    (["--task", "deblur", "--kernel", "k.npy", "--candidates", "2"], "leave --kernel-size, --kernel-family and "),
    (["--task", "sr", "--kernel-size", "9"], "--kernel-size is for --task deblur and nonuniform; leave it out"),
    (["--task", "deblur", "--grid", "2x2"], "--grid is for --task nonuniform"),
    (["--task", "nonuniform", "--grid", "9x2"], "give ROWSxCOLUMNS, 1 to 8 of each, as 2x3, not '9x2'"),
    (["--task", "deblur", "--kernel-family", "disk"], "There is: free, gaussian, motion"),
    (["--task", "deblur", "--method", "hqs"], "hqs undoes a blur that is known: give its kernel, or use blind"),
    (["--task", "denoise", "--method", "ddnm"], "--task denoise is for --method indi; add that, or give another"),
])
def test_wrong_usage(capsys, options, message):
    save("in.png", np.zeros((8, 8, 3), np.uint8))
    save("mask.png", np.eye(8, dtype=np.uint8) * 255)
    np.save("k.npy", np.full((3, 3), 1 / 9))
    assert main(["restore", "in.png", "-o", "out.png", "--method", "bird", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not pathlib.Path("out.png").exists()


@pytest.mark.parametrize("kernel, message", [
    (np.array([[1.0, -0.5, 1.0]]), "no negative entries"), (np.array([[1.0, np.nan, 1.0]]), "finite")])
def test_bad_kernels(file, capsys, kernel, message):
    np.save("k.npy", kernel)
    save("in.png", np.zeros((8, 8, 3), np.uint8))
    assert bird(file, "--task", "deblur", "--kernel", "k.npy") == 2
    assert message in capsys.readouterr().err


def test_masks_that_make_no_sense(file, capsys):
    save("in.png", np.zeros((8, 8, 3), np.uint8))
    for name, mask, code, message in (
            ("black.png", np.zeros((8, 8), np.uint8), 2, "nothing to fill"),
            ("white.png", np.full((8, 8), 255, np.uint8), 2, "nothing is left"),
            ("small.png", np.eye(5, dtype=np.uint8) * 255, 1, "the mask has 5 x 5 pixels, the picture 8 x 8")):
        assert bird(file, "--task", "inpaint", "--mask", save(name, mask)) == code
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1 and not pathlib.Path("out.png").exists()


def test_a_picture_that_is_restored_in_pieces_is_noted(file, capsys):
    save("in.png", RANDOM.integers(0, 256, (16, 20, 3), np.uint8))
    assert main(["restore", "in.png", "-o", "out.png", "--method", "diffpir", "--task", "denoise", "--steps", "2",
                 "--weights", str(file)]) == 0
    out, err = capsys.readouterr()
    assert err == ("indigo restore: note: in.png: tiny has learned pictures of 16 px; this one of 20 x 16 pixels is "
                   "restored in 2 pieces, each as if it were such a picture\n")
    assert "4 network evaluations in 2 tiles of 16 x 16, residual" in out


# ---------------------------------------------------------------------------------------------------- sinograms

def ct(file, source, out, *options):
    return main(["restore", *map(str, source), "-o", str(out), "--method", "bird", "--task", "ct", "--weights",
                 str(file), *map(str, options)])


def test_angles_report_and_comparison(file, capsys):
    np.save("head.npy", SINOGRAM)
    pathlib.Path("angles.txt").write_text("\n".join(map(str, ANGLES)))
    assert ct(file, ["head.npy"], "out.png", "--angles", "angles.txt", "--report", "r.json", "--compare", "both.png",
              "--sigma-255", 0.5) == 0
    said = json.loads(pathlib.Path("r.json").read_text())["files"][0]
    assert said["network_evaluations"] == 100 and said["sigma_255"] == [0.5] and said["residual_255"][0] < 5
    assert "100 network evaluations, residual" in capsys.readouterr().out
    with Image.open("out.png") as picture, Image.open("both.png") as pair:
        assert picture.size == (SIDE, SIDE) and picture.mode == "L" and pair.width > 2 * SIDE


@pytest.mark.slow
def test_bundled_weights_beat_filtered_back_projection(capsys):
    """Twenty views of the phantom of Shepp and Logan with a little noise, with nothing else given."""
    side = 64
    phantom = transform.resize(data.shepp_logan_phantom(), (side, side), anti_aliasing=True).astype(np.float32)
    angles = operators.sparse_view_angles(20)
    sinogram = np.asarray(operators.radon(angles, side)(phantom[None, :, :, None]))
    sinogram = sinogram + np.random.default_rng(0).normal(size=sinogram.shape) * 1e-3 * side
    np.save("head.npy", sinogram[0, :, :, 0])
    assert main(["restore", "head.npy", "-o", "head.png", "--task", "ct"]) == 0
    assert "--method diffpir: it had the least error on phantoms" in capsys.readouterr().err
    restored = read("head.png")[None, :, :, None].astype(np.float32) / 127.5 - 1
    truth = 2 * phantom[None, :, :, None] - 1
    simple = 2 * np.asarray(operators.filtered_backprojection(jnp.asarray(sinogram, jnp.float32), angles)) - 1
    assert metrics.psnr(restored, truth)[0] > metrics.psnr(np.clip(simple, -1, 1), truth)[0] + 3


def test_a_folder_of_sinograms_one_of_them_bad(file, capsys):
    pathlib.Path("in").mkdir()
    np.save("in/good.npy", SINOGRAM)
    np.save("in/cube.npy", SINOGRAM[None])
    assert ct(file, ["in"], "out") == 1
    assert {path.name for path in pathlib.Path("out").iterdir()} == {"good.png", ".indigo-manifest.jsonl"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "cube.npy: a sinogram is a 2-D array" in said[0]


@pytest.mark.parametrize("write, message", [
    (lambda path: path.write_bytes(b"P5 1 1 255 x"), "not an .npy file"),
    (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "damaged .npy file, or one of objects"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "damaged .npy file"),
])
def test_files_that_are_no_sinograms(file, capsys, write, message):
    write(pathlib.Path("in.npy"))
    assert ct(file, ["in.npy"], "out.png") == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not pathlib.Path("out.png").exists()


@pytest.mark.parametrize("options, message", [
    (["--angles", "absent.txt"], "--angles absent.txt: .*No such file"),
    (["--angles", __file__], "give degrees, one number per angle"),
    (["--mask", "mask.png"], "--mask is for --task inpaint"),
    (["--method", "indi"], "--task ct is for --method diffpir; add that"),
])
def test_wrong_usage_with_sinograms(file, capsys, options, message):
    np.save("in.npy", SINOGRAM)
    assert ct(file, ["in.npy"], "out.png", *options) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1


def test_an_empty_folder_and_nothing_at_all(file, capsys):
    pathlib.Path("empty").mkdir()
    for source, message in (("empty", "no sinograms in this folder"), ("absent.npy", "no such file or folder")):
        assert ct(file, [source], "out") == 2
        assert message in capsys.readouterr().err
