"""What a person with a photograph relies on: a good picture stays as it is, a network paints only what it has learned
where it was asked to, what is said wrongly of the damage is noticed, and the demonstrations are called so."""
import csv
import pathlib
import re

import numpy as np
import pytest
import skimage.data
from PIL import Image

from eval.tables import people
from indigo_jax import cli, images, methods, metrics, operators, weights
from tests import networks
from tests.test_images_files import CASES, needs_cases

ROOT = pathlib.Path(__file__).parents[1]


def photograph(side=96):
    """A clean photograph, uint8: one shrunk, so that its own noise is gone."""
    whole = Image.fromarray(skimage.data.astronaut()).resize((256, 256), Image.Resampling.BOX)
    return np.asarray(whole)[:side, 64:64 + side]


def picture(pixels):
    return images.Picture(np.asarray(pixels, np.float32) / 127.5 - 1)


def eight_bits(found):
    return np.clip(np.round((found.pixels + 1) * 127.5), 0, 255).astype(np.uint8)


def psnr(a, b):
    return float(metrics.by_name("psnr")(a[None], b[None])[0])


@pytest.fixture(scope="module")
def look():
    return methods.load("look", copies=1)


def test_a_picture_with_nothing_wrong_comes_back_as_it_was_and_that_is_said(look):
    x = photograph()
    found, report = look(picture(x))
    np.testing.assert_array_equal(eight_bits(found), x)
    assert report.note == "no noise was found, so it stays as it is"
    told, report = look.told(sigma_255=5.0)(picture(x))
    assert (eight_bits(told) != x).any() and not report.note  # a person who says the level is believed


def test_strength_is_the_share_of_the_change_that_is_made(tmp_path):
    restore = methods.load("once", task="denoise", sigma_255=20.0, copies=1,
                           weights=networks.write_denoiser(tmp_path / "denoiser.safetensors"))
    y = picture(photograph(40))
    whole, half, none = (restore.told(strength=strength)(y)[0].pixels for strength in (1.0, 0.5, 0.0))
    np.testing.assert_array_equal(none, y.pixels)
    restore.told(angles=np.arange(3.0))  # arrays can be compared, too
    inside = np.abs(whole) < 1  # of what is clipped nothing can be said
    assert inside.mean() > 0.3 and np.abs(whole - y.pixels)[inside].max() > 0.02
    np.testing.assert_allclose(half[inside], (whole + y.pixels)[inside] / 2, atol=1e-5)


@pytest.mark.slow
def test_a_little_noise_is_taken_out_where_nothing_is_said(look):
    x = photograph()
    y = np.clip(np.round(x + np.random.default_rng(0).normal(0, 5, x.shape)), 0, 255).astype(np.uint8)
    assert psnr(eight_bits(look(picture(y))[0]), x) > psnr(y, x) + 3


@pytest.mark.slow
@pytest.mark.parametrize("quality", [75, 90])
def test_files_of_phones_are_no_worse_where_nothing_is_said(look, tmp_path, quality):
    x = photograph()
    Image.fromarray(x).save(tmp_path / "y.jpg", quality=quality)
    y = images.read(tmp_path / "y.jpg")
    found, report = look(y)
    assert "JPEG" in report.note and psnr(eight_bits(found), x) > psnr(eight_bits(y), x) + 0.2


@pytest.fixture(scope="module")
def blurred():
    """A blurred photograph, cut out of a larger one, and its kernel."""
    kernel = np.zeros((13, 13), np.float32)  # a shake that begins slowly and turns: nothing of it is symmetric
    kernel[3, 2:11], kernel[3:11, 10] = np.linspace(1, 0.3, 9), np.linspace(0.3, 0.1, 8)
    kernel /= kernel.sum()
    x = photograph(128)[None] / 127.5 - 1
    y = np.asarray(operators.blur(kernel)(x.astype(np.float32)))[0, 24:-24, 24:-24]
    return np.round((y + 1) * 127.5 + np.random.default_rng(0).normal(0, 1, y.shape)), kernel


@pytest.mark.slow
@pytest.mark.parametrize("which, is_explained", [("its own", True), ("far too large", False)])
def test_a_kernel_that_does_not_explain_the_picture_is_noticed(blurred, which, is_explained):
    y, kernel = blurred
    kernel = {"its own": kernel, "far too large": np.full((25, 25), 1 / 625)}[which]
    _, report = methods.load("hqs", task="deblur", kernel=kernel)(picture(y))
    assert ("does not explain the picture" in report.note) != is_explained


@pytest.mark.slow
@pytest.mark.parametrize("sigma_255", [None, 2.0, 2.6])
def test_a_turned_kernel_is_told_from_its_own_by_auto(blurred, sigma_255):
    """What is left of y hardly tells: both have the same spectrum. The edges of what explains it do."""
    y, kernel = blurred
    for given, kind in ((kernel, "convolution"), (kernel[::-1, ::-1], "correlation")):
        _, report = methods.load("hqs", task="deblur", kernel=given, kernel_is="auto", sigma_255=sigma_255)(picture(y))
        assert f"the kernel is that of a {kind}" in report.note


@needs_cases
@pytest.mark.parametrize("sigma_255", [None, 2.56])
def test_a_turned_kernel_of_a_portrait_is_told_or_not_told(sigma_255):
    """Never the wrong one: the two hardly differ."""
    kernel = np.load(CASES / "k9.npy")
    for kind, wrong in (("conv", "a correlation"), ("corr", "a convolution")):
        found = images.read(CASES / f"face64_{kind}.png")
        _, report = methods.load("hqs", task="deblur", kernel=kernel, kernel_is="auto", sigma_255=sigma_255)(found)
        assert not report.note.startswith(f"the kernel is that of {wrong}")
        assert report.note.startswith(("the kernel is that of a", "whether the kernel is that of a convolution or"))


def test_a_kernel_that_is_not_there_is_not_turned():
    with pytest.raises(ValueError, match="kernel_is correlation says how a kernel was used; give the kernel"):
        methods.load("blind", task="deblur", kernel_is="correlation")


@pytest.mark.parametrize("task", methods.TASKS)
@pytest.mark.parametrize("known", [(), ("kernel",)])
def test_auto_takes_no_prior_of_faces(task, known):
    method = methods.METHODS[methods.choose(task, known if task == "deblur" else ()).method]
    named = set(method.named_weights(method.Settings(), task).values())
    assert named <= ({"ellipses64"} if task == "ct" else {"photo", "indi-photo"})


def test_a_prior_of_faces_says_what_it_knows_before_it_starts():
    restore = methods.load("diffpir", task="denoise", weights="faces64")
    for side in (64, 100):
        assert "has learned portraits of 64 px, faces alone" in restore.warning(picture(np.zeros((side, side, 3))))
    assert methods.load("once", task="denoise").warning(picture(np.zeros((64, 64, 3)))) is None


DEMONSTRATIONS = ("indigo", "latent-indigo")


@pytest.mark.parametrize("flag", ["--start 0.5", "--prior faces64", "--inn inn-pixel", "--refine 1e-4",
                                  "--same-size"])
@pytest.mark.parametrize("task", ["auto", "sr"])
def test_auto_never_takes_a_demonstration(flag, task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph(32)).save("a.png")
    assert cli.main(["restore", "a.png", "-o", "b.png", "--task", task, *flag.split()]) == 2
    assert f"{flag.split()[0]} is for --method indigo and latent-indigo, of which one must be named" in (
        capsys.readouterr().err)


def test_demonstrations_are_called_so_wherever_they_are_met(capsys):
    assert tuple(name for name, method in methods.METHODS.items() if method.demonstration) == DEMONSTRATIONS
    for words in (["restore", "--help"], *(["restore", "--method", name, "--help"] for name in DEMONSTRATIONS)):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert "demonstration" in capsys.readouterr().out
    for name in ("latent-faces", "autoencoder-faces", "inn-latent", "inn-pixel"):
        assert "demonstration" in weights.learned(name)
    for page in ("README.md", "docs/methods/indigo.md"):
        assert "demonstrations" in (ROOT / page).read_text(encoding="utf-8")


def test_help_says_that_more_steps_make_noise_stronger(capsys):
    with pytest.raises(SystemExit):
        cli.main(["restore", "--method", "indi", "--help"])
    assert "make noise and grain stronger" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("line, instead", [("--method once --task denoise", "indi"), ("--task auto", "indi"),
                                           ("--method hqs --task sr", "indi"), ("--task jpeg", "indi")])
def test_samples_that_would_be_equal_are_refused(line, instead, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph(32)).save("a.png")
    assert cli.main(["restore", "a.png", "-o", "b.png", "--samples", "3", *line.split()]) == 2
    said = capsys.readouterr().err
    assert "gives one answer, so 3 samples would be the same" in said and f"--method {instead}" in said


def test_pictures_that_are_left_out_count(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("in").mkdir()
    Image.fromarray(photograph(32)).save("in/a.png")
    Image.fromarray(photograph(32)).save("in/b.gif")
    pathlib.Path("in/c.cr2").write_bytes(b"II*\0\x10\0\0\0CR\2\0" + bytes(500))
    pathlib.Path("in/notes.txt").write_text("no picture")
    network = str(networks.write_weights(tmp_path / "net.safetensors"))
    assert cli.main(["restore", "in", "-o", "out", "--method", "indi", "--weights", network]) == 1
    out, err = capsys.readouterr()
    assert "1 of 3 pictures restored" in out and "2 left out" in out
    assert "in/b.gif" in err and "in/c.cr2" in err


def test_a_word_of_the_command_line_means_one_thing(tmp_path, monkeypatch, capsys):
    """What degrade makes by a name, restore undoes by that name."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph(32)).save("a.png")
    for name, side in (("sr", 8), ("super-resolution", 8), ("downsample", 8), ("downsample-upsample", 32)):
        assert cli.main(["degrade", "a.png", "-o", f"{name}.png", "--operator", name]) == 0
        assert images.read(f"{name}.png").pixels.shape == (side, side, 3)


# ---------------------------------------------------------------- what README and the table of results say

def rows_of(text):
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()
            if line.startswith("|") and not line.startswith("|---")]


def test_the_methods_that_readme_promises_are_those_that_are_taken():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = rows_of(text.partition("| what is wrong | command |")[2].partition("\n\n")[0])
    seen = set()
    for row in rows:
        command, method = row[1], row[2]
        task = re.search(r"--task (\S+?)[ `]", command)
        flags = [name for name in ("kernel", "mask") if f"--{name} " in command]
        assert methods.choose(task[1] if task else "auto", flags).method == method, row
        seen.add(task[1] if task else "auto")
    assert seen == {"auto", "denoise", "deblur", "sr", "jpeg", "inpaint", "ct"}


def test_auto_measured_no_worse_than_the_picture_or_what_is_cheap():
    """Of ``eval/results/photographs_people.csv``: in the mean, 0.1 dB against the picture, 0.2 dB against the best."""
    with open(ROOT / "eval" / "results" / "photographs_people.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {task.title for task in people.TASKS}
    for task in people.TASKS:
        by_method = {}
        for row in rows:
            if row["task"] == task.title:
                by_method.setdefault(row["method"], []).append(min(float(row["psnr"]), 60.0))
        means = {name: np.mean(values) for name, values in by_method.items()}
        ours, = (name for name in means if name.startswith(people.OURS))
        if task.title.startswith("nothing wrong"):
            assert means[ours] > 50 and min(by_method[ours]) > 44
            continue
        others = {name: value for name, value in means.items() if name != ours}
        assert means[ours] > others.get(people.INPUT, 0) - 0.1, task.title
        assert means[ours] > max(others.values()) - 0.2, task.title
