"""Tables, figures and benchmarks: the numbers against direct computation, the files, the exit codes."""
import contextlib
import csv
import functools
import io
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eval import benchmark, figures, problems, tables
from eval.configs import photo_degradations
from eval.figures import drawing, toy
from eval.figures import people as people_figures
from eval.figures import photo as photo_figures
from eval.figures import posteriors as posterior_figures
from eval.problems import Degradation, Pictures
from eval.speed import indi, measuring
from eval.tables import photo
from eval.tables.photo import Result
from indigo_jax import images, methods, metrics, models, operators, paths, rng, samplers, weights
from tests.paths import SHARED, needs_shared

TINY = dict(width=8, multipliers=(1,), num_res_blocks=1, patch_size=2, norm="layer")
START, END = tables.MARKS["indi"]
NOISE = Degradation("noise", "", lambda keys: operators.gaussian_noise(sigma_255=25.0))
BLURS = tuple(Degradation("blur", f"{n} px", functools.partial(photo_degradations.straight, n)) for n in (9, 13))


def textured(height, width, seed):
    """A smooth uint8 picture with some detail."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def model():
    """A tiny network that changes its input slightly."""
    module = models.RestorationUNet(**TINY)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.ones(1))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.05 * random.normal(size=leaf.shape)).astype(np.float16).astype(np.float32),
                          shapes)
    info = {"architecture": "RestorationUNet", "arguments": {**TINY, "multipliers": [1]}, "name": "tiny",
            "noise": paths.noise_to_json(paths.constant_noise(0.01)), "tasks": ["denoise"], "num_steps": 1234}
    return methods.base.Network(module, params, info)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """A weights file and a folder of two pictures."""
    folder = tmp_path_factory.mktemp("eval")
    weights.save(folder / "tiny-net.safetensors", model.params, model.info)
    for i, name in enumerate(("a.png", "b.png")):
        images.write(folder / "pictures" / name, textured(24, 20, i))
    return folder


@pytest.fixture
def few(monkeypatch):
    """Three degradations of two tasks instead of all."""
    monkeypatch.setattr(photo_degradations, "get_config", lambda: (NOISE, *BLURS))


# ---------------------------------------------------------------------------------------------------- the table

@pytest.fixture(scope="module")
def table(files, tmp_path_factory):
    """A whole run of ``eval.tables``: its rows, its text, the README, what it printed."""
    out = tmp_path_factory.mktemp("table")
    readme = out / "README.md"
    readme.write_text(f"above\n{START}\nold numbers\n{END}\nbelow\n")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(photo_degradations, "get_config", lambda: (NOISE, *BLURS))
        patch.delenv("INDIGO_LPIPS", raising=False)
        code = tables.main(["--data", str(files / "pictures"), "--weights", str(files / "tiny-net.safetensors"),
                            "--steps", "2", "1", "--batch", "2", "-o", str(out), "--readme", str(readme)])
    assert code == 0
    with (out / "tiny_net.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, (out / "tiny_net.md").read_text(), readme.read_text(), printed.getvalue()


def test_table_equals_direct_computation(table, files, model):
    rows, text, _, _ = table
    assert len(rows) == 2 * 3 * 3  # pictures, degradations, numbers of steps with the input
    psnr = {}
    for row in rows:
        psnr.setdefault((row["task"], int(row["steps"])), []).append(float(row["psnr-rgb-crop0-u8"]))

    noise, apply = paths.constant_noise(0.01), functools.partial(model.module.apply, model.params)
    direct = {steps: jax.jit(functools.partial(samplers.sample, samplers.indi(apply, steps, noise=noise)))
              for steps in (1, 2)}
    expected = {0: [], 1: [], 2: []}
    for name in ("a.png", "b.png"):  # alone, in batches of one
        truth = np.asarray(Image.open(files / "pictures" / name))[None]
        key = rng.image_keys(0, [rng.name_id(name)])[0]
        y = np.asarray(problems.degrade((NOISE, *BLURS), truth[0], key)[:1])
        expected[0].append(metrics.psnr(y, truth)[0])
        keys = rng.fold(jax.random.fold_in(key, np.uint32(rng.name_id("noise/")))[None], 1)
        for steps, restore in direct.items():
            x, _ = restore(keys, y.astype(np.float32) / np.float32(127.5) - np.float32(1))
            expected[steps].append(metrics.psnr(np.asarray(x), truth)[0])
    for steps, values in expected.items():
        np.testing.assert_allclose(psnr["noise", steps], values, atol=2e-3)

    line = next(line for line in text.splitlines() if line.startswith("| noise |"))
    cells = [cell.strip().replace("*", "") for cell in line.split("|")[3:-1]]
    mean = {steps: np.mean(psnr["noise", steps]) for steps in (0, 1, 2)}
    assert cells == [f"{mean[0]:.2f}"] + [f"{mean[n]:.2f} ({mean[n] - mean[0]:+.2f})" for n in (1, 2)]
    blur = next(line for line in text.splitlines() if line.startswith("| blur (9 px, 13 px) |"))
    assert f"{np.mean(psnr['blur', 0]):.2f}" in blur and len(psnr["blur", 0]) == 4  # two pictures, two lengths


def test_table_goes_into_the_readme_and_to_the_terminal(table, files):
    _, text, readme, printed = table
    assert readme.startswith(f"above\n{START}\n| task | metric | input | N = 1 | N = 2 |\n")
    assert readme.endswith(f"\n{END}\nbelow\n") and "old numbers" not in readme
    assert printed.strip() in text and printed.strip() in readme
    assert "`tiny`" in text and "1,234 steps in its last training run" in text and "psnr-rgb-crop0-u8" in text
    assert "`python -m eval.tables --data pictures --weights tiny-net.safetensors --steps 2 1`" in text
    assert str(files) not in text


@pytest.mark.parametrize("text", ["no marks", f"{END} {START}", f"{START}{END}" * 2])
def test_readme_without_its_marks_is_refused_before_the_work(text, files, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    code = tables.main(["--weights", "no-such-weights", "--readme", str(readme), "-o", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and START in error and readme.name in error
    assert readme.read_text() == text and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, named", [
    (["--data", "no/such/folder"], "no/such/folder"), (["--weights", "no-weights", "--limit", "1"], "no-weights"),
    (["--lpips", "no-such.npz", "--limit", "1"], "no-such.npz"), (["--readme", "no-such.md"], "no-such.md")])
def test_what_the_user_can_put_right_is_one_line(arguments, named, tmp_path, capsys):
    assert tables.main([*arguments, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("main, arguments", [
    (tables.main, ["--steps", "0"]), (tables.main, ["--data"]), (figures.main, ["--figure", "fig4"]),
    (benchmark.main, ["indi", "--batch", "few"])])
def test_wrong_usage_is_one_line(main, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "--help" in error


def fabricated(size=40):
    """Results without any network: noise that more steps make smaller."""
    random, out = np.random.default_rng(0), []
    for i, name in enumerate(("a", "b")):
        truth = textured(size, size, i)
        for task in ("one", "two"):
            for steps in (0, 1, 3):
                noise = random.normal(0, 30 / (1 + steps), truth.shape)
                image = np.clip(truth + noise, 0, 255).astype(np.uint8)
                out.append(Result(name, Degradation(task, "", None), steps, image, truth))
    return out


@needs_shared
def test_lpips_has_its_own_lines():
    measures = photo.protocols(str(SHARED / "data" / "weights_extra" / "lpips_alex_v0.1.npz"))
    rows = photo.measure(fabricated(), measures)
    lines = photo.to_markdown(rows, measures).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["PSNR, dB", "SSIM", "LPIPS"] * 3
    lowest = min(photo.means(rows, "lpips-alex-v0.1")["one"].values())
    assert f"**{lowest:.4f}**" in lines[4]
    of_input = np.mean([by_steps[0] for by_steps in photo.means(rows, "lpips-alex-v0.1").values()])
    assert lines[8].startswith("| mean of the tasks |") and f" {of_input:.4f}" in lines[10]


def test_too_small_a_picture_is_named(model):
    results = [Result("tiny.png", NOISE, 0, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))]
    with pytest.raises(ValueError, match="tiny.png: SSIM needs"):
        photo.measure(results, photo.protocols(None))


def test_references_are_sourced_and_meant_for_their_pictures_only():
    known = [json.loads(path.read_text()) for path in photo.REFERENCE.glob("*.json")]
    assert known and all({"data", "task", "metric", "values", "note", "source"} <= entry.keys() for entry in known)
    tasks = {degradation.task for degradation in photo_degradations.get_config()}
    for entry in known:
        assert entry["source"] in "".join(photo.references(Pictures(entry["data"], [], [])))
        shown = photo.references(Pictures(entry["data"], [], []), tasks)
        assert (entry["source"] in "".join(shown)) == (entry["task"] in tasks)
    assert photo.references(Pictures("somebody's pictures", [], [])) == []


# ---------------------------------------------------------------------------------------------------- pictures

def test_pictures_of_a_dependency():
    pictures = problems.open_pictures(limit=2, crop=100)
    assert pictures.names == list(problems.BUILT_IN[:2])
    assert all(image.shape == (100, 100, 3) and image.dtype == np.uint8 for image in pictures.images)
    whole = problems.open_pictures(limit=1)
    np.testing.assert_array_equal(whole.images[0][206:306, 206:306], pictures.images[0])
    assert pictures.digest != whole.digest and len(whole.digest) == 12


def test_fixed_degradations():
    truth, key = textured(40, 32, 0), rng.image_keys(0, [7])[0]
    everything = photo_degradations.get_config()
    inputs = np.asarray(problems.degrade(everything, truth, key))
    assert inputs.shape == (12, 40, 32, 3) and inputs.dtype == np.uint8
    for degradation, y in zip(everything, inputs):
        psnr = metrics.psnr(y[None], truth[None])[0]
        assert 10 < psnr < 45, degradation.task
    assert 19 < metrics.psnr(inputs[:1], truth[None])[0] < 22  # sigma 25, clipped
    assert len({y.tobytes() for y in inputs}) == 12
    last = everything[-1:]
    np.testing.assert_array_equal(problems.degrade(last, truth, key)[0], inputs[-1])  # whatever the others are
    other = problems.degrade(last, truth, rng.image_keys(0, [8])[0])
    assert (np.asarray(other)[0] != inputs[-1]).any()


# ---------------------------------------------------------------------------------------------------- figures

def is_drawn(path):
    """A PNG of some size with many colours."""
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
        return len(np.unique(np.asarray(picture.convert("L")))) > 20


@pytest.mark.parametrize("example", toy.TOYS, ids=["noise", "constant", "brownian"])
def test_toy_ends_on_the_four_modes(example):
    _, y = example.observe(400)
    paths = example.paths(y, 30)
    assert paths.shape == (31, 400, 2)
    mode, distance = toy.nearest_mode(paths[-1])
    assert np.mean(distance < 0.05) > 0.99
    assert (np.bincount(mode, minlength=4) > 60).all()
    kept = np.sign(example.observe(400)[0]) == np.sign(paths[-1])  # the coordinate that is seen without noise is kept
    assert kept[:, 0].mean() > (0.99 if example.sigma == 0 else 0.8)


def test_toy_with_one_step_is_the_regression():
    noise, missing, _ = toy.TOYS
    y = toy.observations(noise)
    np.testing.assert_allclose(noise.paths(y, 1), [y, np.tanh(y)], atol=1e-5)  # E[x | y] of +-1 seen with sigma 1
    y = missing.observe(20)[1]
    np.testing.assert_allclose(missing.paths(y, 1)[-1], y * [1, 0], atol=1e-3)


def test_toy_figure(tmp_path):
    drawing.save(toy.draw_toy((1, 4), num_scored=50), tmp_path / "toy.png")
    assert is_drawn(tmp_path / "toy.png")


def test_a_picture_for_a_line_of_the_readme(monkeypatch, tmp_path):
    monkeypatch.setattr(people_figures.people, "restored", lambda task, damage: (task.task, [damage.truth], 0.0))
    for name in ("holes", "sr"):
        assert figures.main(["--method", "people", "--figure", name, "-o", str(tmp_path)]) == 0
        shown = np.asarray(Image.open(tmp_path / f"people_{name}.jpg")).astype(float)
        before, found, truth = (shown[:, start:start + 192] for start in (0, 196, 392))
        assert shown.shape == (192, 584, 3) and np.abs(found - truth).mean() < 3.5 < np.abs(before - truth).mean()


def test_a_portrait_as_every_posterior_sampler_restores_it(monkeypatch, tmp_path):
    """With a method that gives the truth, and one that gives black, in place of all: what is shown, and its PSNR."""
    truth, asked = posterior_figures.every.damaged("inpaint", posterior_figures.face(), 0).truth, {}

    def load(name, *, task, weights, **settings):
        asked[name] = task, weights, *settings
        found = -np.ones_like(truth) if name == "dps" else truth
        return lambda picture, seed: (types.SimpleNamespace(pixels=found), None)

    monkeypatch.setattr(posterior_figures.methods, "load", load)
    cells = posterior_figures.cells("inpaint")
    names = [name for _, name, _ in cells]
    assert names == ["the input", *asked, "truth"] and len(names) == 12 and "hqs" not in names
    assert set(asked.values()) == {("inpaint", "faces64", "mask")}
    shown = {name: (np.asarray(picture), text) for picture, name, text in cells}
    assert shown["pigdm"][1] == "inf dB" and (shown["the input"][0][32, 32] == 1).all()  # the hole is white
    assert shown["dps"][1] == f"{-10 * np.log10(np.mean((truth + 1)**2) / 4):.1f} dB"
    assert [name for _, name, _ in posterior_figures.cells("sr")][0] == "bicubic"
    assert figures.main(["--method", "posteriors", "--figure", "sr", "-o", str(tmp_path)]) == 0
    with Image.open(tmp_path / "posteriors_sr.jpg") as picture:
        assert picture.format == "JPEG" and min(picture.size) > 200


def test_figures_of_real_pictures(files, few, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    code = figures.main(["--figure", "perception-distortion", "-o", str(tmp_path), "--data", str(files / "pictures"),
                         "--weights", str(files / "tiny-net.safetensors"), "--steps", "2", "--crop", "20"])
    assert code == 0, capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "perception_distortion.csv", "perception_distortion.png", "strip.png"]
    assert is_drawn(tmp_path / "perception_distortion.png") and is_drawn(tmp_path / "strip.png")
    rows = list(csv.DictReader((tmp_path / "perception_distortion.csv").read_text().splitlines()))
    assert {(row["task"], row["variant"], row["steps"]) for row in rows} == {
        (*task, n) for task in (("noise", ""), ("blur", "13 px")) for n in "012"}


def test_high_frequencies_tell_blur_from_noise():
    measure = photo_figures.HighFrequencies()
    truth = textured(64, 48, 3)[None]
    x = truth.astype(np.float32) / 127.5 - 1
    blurred = np.asarray(operators.gaussian_blur(2.0)(jnp.asarray(x)))
    noisy = np.clip(truth + np.random.default_rng(0).normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    assert measure(truth, truth)[0] == 1
    assert measure(((blurred + 1) * 127.5).astype(np.uint8), truth)[0] < 0.5
    assert measure(noisy, truth)[0] > 2


def test_detail_is_where_the_edges_are():
    picture = np.full((100, 130, 3), 90, np.uint8)
    picture[50:70, 84:100] = textured(20, 16, 0)
    window = photo_figures.detail(picture, 32)
    assert picture[window].shape == (32, 32, 3) and (picture[window] != 90).sum() == (picture != 90).sum()
    assert picture[photo_figures.detail(picture, 500)].shape == picture.shape


# ---------------------------------------------------------------------------------------------------- benchmarks

KEYS = {"benchmark", "task", "network", "parameters", "batch", "image_size", "num_steps", "convolution", "remat",
        "platform", "device_kind", "device_count", "compile_seconds", "run_seconds_min", "run_seconds_median",
        "repeats", "images_per_second", "flops_per_image", "peak_bytes", "temporary_bytes", "jax_version"}


@pytest.mark.slow  # a minute of compilation
def test_benchmark_prints_json(monkeypatch, capsys):
    monkeypatch.setattr(indi, "networks", lambda large: {"tiny": models.RestorationUNet(**TINY)})
    monkeypatch.setattr(indi.operators, "photo_mixture", lambda: operators.random_gaussian_noise())
    code = benchmark.main(["indi", "--json", "--sizes", "16", "--batch", str(jax.device_count()), "--steps", "1", "3",
                           "--rollout-steps", "2", "--repeats", "2"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    rows = json.loads(printed.out)
    assert [(row["task"], row["num_steps"]) for row in rows] == [
        ("sample", 1), ("sample", 3), ("train_step", 1)] + [("rollout_gradient", 2)] * 4
    assert [(row["convolution"], row["remat"]) for row in rows[3:]] == [
        ("plain", False), ("plain", True), ("flipped", False), ("flipped", True)]
    for row in rows:
        assert row.keys() == KEYS
        assert all(math.isfinite(row[key]) for key in KEYS if isinstance(row[key], (int, float)))
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["run_seconds_min"])
        assert 0 < row["run_seconds_min"] <= row["run_seconds_median"] and 1 <= row["repeats"] <= 2
        assert row["compile_seconds"] > 0 and row["peak_bytes"] >= row["temporary_bytes"] > 0
        assert row["device_count"] == jax.device_count() and row["jax_version"] == jax.__version__
    assert rows[1]["flops_per_image"] == pytest.approx(3 * rows[0]["flops_per_image"])
    products = 8 * 8 * 9 * (12 * 8 + 6 * 8 * 8 + 2 * (16 * 8 + 8 * 8) + 8 * 12)  # of its 3x3 convolutions
    assert 1.5 * products < rows[0]["flops_per_image"] < 3 * products  # two operations each; borders count less
    assert rows[2]["flops_per_image"] > 2 * rows[0]["flops_per_image"]  # forward and backward
    assert rows[4]["flops_per_image"] > rows[3]["flops_per_image"] == rows[5]["flops_per_image"]
    assert measuring.parameter_count(models.RestorationUNet(**TINY)) == rows[0]["parameters"]

    text = benchmark.to_text(rows).splitlines()
    assert text[0].split()[:3] == ["task", "network", "params"] and text[1].startswith("sample")
    assert len(text) == len(rows) + 3 and jax.__version__ in text[-1]


def test_both_convolutions_give_the_same_gradient():
    batch, gradients = jax.device_count(), []
    for convolution, remat in (("plain", False), ("flipped", True)):
        module = models.RestorationUNet(**TINY, convolution=convolution)
        function, arguments, _ = indi._rollout_gradient(module, 16, batch, 2, remat)
        gradients.append(np.asarray(function(*arguments)))
    assert np.abs(gradients[0]).max() > 0.1
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-5)


@pytest.mark.parametrize("arguments", [["no-such"], []])
def test_unknown_benchmark_names_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.rstrip().endswith(f"there are: {', '.join(benchmark.BENCHMARKS)}, all")
    assert "start, peaks, all" in error


@pytest.mark.skipif(jax.device_count() == 1, reason="one device shares any batch")
def test_benchmark_refuses_a_batch_that_the_devices_cannot_share(capsys):
    assert benchmark.main(["indi", "--batch", str(jax.device_count() + 1)]) == 2
    printed = capsys.readouterr()
    assert "cannot be split evenly" in printed.err and printed.out == ""
