"""Sinograms through a diffusion prior, and ``indigo restore --method bird --task ct``; a tiny random network."""
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data, transform

from indigo_jax import metrics, models, operators, prior, restoration, rng, schedules, weights
from indigo_jax.cli import main
from indigo_jax.restoration import tasks
from tests.oracles import GaussianDiffusion

SIDE = 16
ARGUMENTS = {"channels": 8, "multipliers": [1], "num_res_blocks": 1, "attention_resolutions": [], "image_size": SIDE,
             "num_groups": 4}
ANGLES = operators.sparse_view_angles(6)
PHANTOM = transform.resize(data.shepp_logan_phantom(), (SIDE, SIDE), anti_aliasing=True).astype(np.float32)
SINOGRAM = np.asarray(operators.radon(ANGLES, SIDE)(PHANTOM[None, :, :, None]))[0, :, :, 0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a tiny prior for pictures of 16 x 16."""
    module = models.DDPMUNet(**ARGUMENTS)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(path, params, {"architecture": "DDPMUNet", "prediction": "eps", "arguments": ARGUMENTS,
                                "schedule": schedules.to_json("linear", num_timesteps=100)})
    return path


@pytest.fixture(scope="module")
def tiny(file):
    return prior.load(file)


@pytest.mark.parametrize("channels", [1, 3])
def test_many_views_without_noise_leave_one_picture(channels):
    """With a Gaussian prior and more rays than pixels the answer is the phantom, whatever the prior's mean."""
    schedule = schedules.linear(100)
    wide = restoration.Prior(GaussianDiffusion(0.5, 1.0).denoiser(schedule), schedule)
    size = 8
    radon = operators.radon(operators.sparse_view_angles(24), size, num_detectors=12)
    density = operators.gaussian_blur(0.7)(jax.random.uniform(jax.random.key(1), (2, size, size, 1)))
    solve = jax.jit(lambda y, keys: tasks.reconstruct(wide, radon, y, keys, sigma=1e-3, channels=channels))
    found = solve(radon(density), rng.image_keys(0, [0, 1]))
    assert found.x.shape == (2, size, size, channels)
    assert float(jnp.sqrt(jnp.mean((found.x.mean(-1) - (2 * density[..., 0] - 1))**2))) < 0.06
    assert float(found.residual.max()) < 2e-3


def test_the_noise_of_smooth_projections_is_found():
    wave = np.sin(np.linspace(0, 6, 128))[None, :, None, None] * np.ones((2, 128, 40, 1))
    noisy = wave + 0.1 * np.random.default_rng(0).normal(size=wave.shape)
    np.testing.assert_allclose(tasks.sinogram_noise(jnp.asarray(noisy, jnp.float32)), 0.1, rtol=0.05)


@pytest.mark.parametrize("detectors, tiles", [(16, 1), (11, 1), (20, 4)])
def test_the_picture_has_the_side_of_the_detectors(tiny, detectors, tiles):
    phantom = transform.resize(PHANTOM, (detectors, detectors))
    place = np.arange(detectors) - detectors // 2
    phantom[place[:, None]**2 + place**2 > (detectors // 2)**2] = 0
    sinogram = transform.radon(phantom, ANGLES, circle=True)
    picture, report = tiny.sinogram(sinogram)
    assert picture.pixels.shape == (detectors, detectors, 3) and picture.grey
    assert report.layout.rows * report.layout.columns == tiles and report.evaluations == 100 * tiles

    def error(density):
        density = jnp.asarray(density, jnp.float32)[None, :, :, None]
        return np.abs(operators.radon(ANGLES, detectors)(density)[0, :, :, 0] - sinogram).mean()

    assert error(picture.pixels[..., 0] / 2 + 0.5) < 0.1 * error(np.full_like(phantom, 0.5))


def test_the_same_sinogram_gives_the_same_bytes_and_samples_differ(tiny):
    first, again, other = (tiny.sinogram(SINOGRAM, sample=sample)[0].pixels for sample in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("values, angles, message", [
    (np.zeros((4, 4, 1)), None, r"a 2-D array of numbers, \[detectors, angles\], this is float64 \[4, 4, 1\]"),
    (np.zeros((4, 4), complex), None, "complex128"),
    (np.full((4, 4), np.nan), None, "NaN"),
    (np.zeros((4, 3)), np.zeros(2), "3 columns for 2 angles$"),
    (np.zeros((4, 3)), np.zeros(4), "3 columns for 4 angles: it must be .*sinogram.T"),
    (np.zeros((4, 1)), [np.inf], "finite numbers, in degrees"),
    (SINOGRAM.T, None, "its columns do not: .*sinogram.T"),
    (255 * SINOGRAM, None, "divide it by the density"),
])
def test_refusals(values, angles, message):
    with pytest.raises(ValueError, match=message):
        prior.check_sinogram(values, angles)


# ---------------------------------------------------------------------------------------------------- command line

def command(file, source, out, *options):
    return main(["restore", *map(str, source), "-o", str(out), "--method", "bird", "--task", "ct", "--weights",
                 str(file), *map(str, options)])


def test_command_line_with_angles_report_and_comparison(file, tmp_path, capsys):
    np.save(tmp_path / "head.npy", SINOGRAM)
    (tmp_path / "angles.txt").write_text("\n".join(map(str, ANGLES)))
    out, report, both = (tmp_path / name for name in ("out.png", "report.json", "both.png"))
    assert command(file, [tmp_path / "head.npy"], out, "--angles", tmp_path / "angles.txt", "--report", report,
                   "--compare", both, "--sigma-255", 0.5) == 0
    said = json.loads(report.read_text())["files"][0]
    assert said["network_evaluations"] == 100 and said["sigma_255"] == [0.5] and said["residual_255"][0] < 5
    assert "100 network evaluations, residual" in capsys.readouterr().out
    with Image.open(out) as picture, Image.open(both) as pair:
        assert picture.size == (SIDE, SIDE) and picture.mode == "L" and pair.width > 2 * SIDE


def test_bundled_weights_beat_filtered_back_projection(tmp_path):
    """Twenty views of the phantom of Shepp and Logan with a little noise, with nothing else given."""
    side = 64
    phantom = transform.resize(data.shepp_logan_phantom(), (side, side), anti_aliasing=True).astype(np.float32)
    angles = operators.sparse_view_angles(20)
    sinogram = np.asarray(operators.radon(angles, side)(phantom[None, :, :, None]))
    sinogram = sinogram + np.random.default_rng(0).normal(size=sinogram.shape) * 1e-3 * side
    np.save(tmp_path / "head.npy", sinogram[0, :, :, 0])
    out = tmp_path / "head.png"
    assert main(["restore", str(tmp_path / "head.npy"), "-o", str(out), "--method", "bird", "--task", "ct"]) == 0
    with Image.open(out) as picture:
        restored = np.asarray(picture, np.float32)[None, :, :, None] / 127.5 - 1
    truth = 2 * phantom[None, :, :, None] - 1
    simple = 2 * np.asarray(operators.filtered_backprojection(jnp.asarray(sinogram, jnp.float32), angles)) - 1
    assert metrics.psnr(restored, truth)[0] > metrics.psnr(np.clip(simple, -1, 1), truth)[0] + 3


def test_a_folder_of_sinograms_one_of_them_bad(file, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", SINOGRAM)
    np.save(tmp_path / "in" / "cube.npy", SINOGRAM[None])
    assert command(file, [tmp_path / "in"], tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "cube.npy: a sinogram is a 2-D array" in said[0]


@pytest.mark.parametrize("write, message", [
    (lambda path: path.write_bytes(b"P5 1 1 255 x"), "not an .npy file"),
    (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "damaged .npy file, or one of objects"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "damaged .npy file"),
])
def test_files_that_are_no_sinograms(file, tmp_path, capsys, write, message):
    write(tmp_path / "in.npy")
    assert command(file, [tmp_path / "in.npy"], tmp_path / "out.png") == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("options, message", [
    (["--angles", "absent.txt"], "--angles absent.txt: .*No such file"),
    (["--angles", __file__], "give degrees, one number per angle"),
    (["--mask", "mask.png"], "--mask is for --task inpaint"),
    (["--method", "indi"], "--task ct is for --method bird; add that"),
])
def test_wrong_usage(file, tmp_path, capsys, options, message):
    np.save(tmp_path / "in.npy", SINOGRAM)
    assert command(file, [tmp_path / "in.npy"], tmp_path / "out.png", *options) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1


def test_an_empty_folder_and_nothing_at_all(file, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source, message in (("empty", "no sinograms in this folder"), ("absent.npy", "no such file or folder")):
        assert command(file, [tmp_path / source], tmp_path / "out") == 2
        assert message in capsys.readouterr().err
