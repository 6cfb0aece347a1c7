"""The comparison of methods on a diffusion prior: problems, numbers, table, cache, figures; a tiny random network."""
import contextlib
import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eval import figures, measure, problems, tables
from eval.baselines import BASELINES, first, total_variation, wiener
from eval.figures import bird as bird_figures
from eval.figures import drawing
from eval.measure import aligned_psnr, psnr_of
from eval.tables import known
from indigo_jax import denoisers, methods, models, operators, rng, schedules, weights
from indigo_jax.methods import bird

SIDE = 16
RANDOM = np.random.default_rng(0)
START, END = tables.MARKS["bird"]
PSNR, ALIGNED, RESIDUAL = known.PSNR, known.ALIGNED, known.RESIDUAL
SMALL = {task: settings._replace(num_iterations=4) for task, settings in bird.DEFAULT.items()}


def smooth(height, width, seed=0):
    """A uint8 picture without much detail."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def case(task, side=SIDE, names=("a.png", "b.png"), seed=0):
    x = np.stack([problems.to_side(smooth(side, side, ord(name[0])), side) for name in names])
    return problems.make(task, jnp.asarray(x), rng.image_keys(seed, [rng.name_id(name) for name in names]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a tiny prior for pictures of 16 x 16, and a folder of two pictures of other sizes."""
    folder = tmp_path_factory.mktemp("prior")
    arguments = dict(channels=8, multipliers=[1], num_res_blocks=1, attention_resolutions=[], image_size=SIDE,
                     num_groups=4)
    module = models.DDPMUNet(**{name: tuple(value) if isinstance(value, list) else value
                                for name, value in arguments.items()})
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1))
    params = jax.tree.map(lambda leaf: (0.1 * RANDOM.normal(size=leaf.shape)).astype(np.float32), shapes)
    weights.save(folder / "tiny-prior.safetensors", params, {
        "architecture": "DDPMUNet", "prediction": "eps", "arguments": arguments, "name": "tiny",
        "schedule": schedules.to_json("linear", num_timesteps=100)})
    (folder / "pictures").mkdir()
    Image.fromarray(smooth(24, 20, 1)).save(folder / "pictures" / "a.png")
    Image.fromarray(smooth(SIDE, SIDE, 2)).save(folder / "pictures" / "b.png")
    return folder


# ---------------------------------------------------------------------------------------------------- the table

class Run:
    """A run of ``eval.tables``: rows, Markdown, README, what it said."""

    def __init__(self, files, out, *arguments):
        readme, said = out / "README.md", io.StringIO()
        readme.write_text(f"above\n{START}\nold\n{END}\nbelow\n")
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = tables.main(["--method", "bird", "--data", str(files / "pictures"), "--weights",
                                str(files / "tiny-prior.safetensors"), "-o", str(out), "--readme", str(readme),
                                *arguments])
        assert code == 0, said.getvalue()
        self.said, self.readme = said.getvalue(), readme.read_text()
        self.text = (out / "tiny_prior_bird.md").read_text()
        self.known = (out / "tiny_prior_bird.jsonl").read_text()
        with (out / "tiny_prior_bird.csv").open() as file:
            self.rows = list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    """All tasks; then one of them again, with one method more."""
    out = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        for task, settings in SMALL.items():
            patch.setitem(bird.DEFAULT, task, settings)
            patch.setitem(bird.OFFICIAL, task, bird.OFFICIAL[task]._replace(num_iterations=2))
        first = Run(files, out, "--methods", "bird", "--batch", "2")
        return first, Run(files, out, "--tasks", "inpaint", "--methods", "bird", "official")


def test_table_has_a_line_per_task_and_method(runs):
    run, _ = runs
    assert [(row["task"], row["method"], row["picture"]) for row in run.rows] == [
        (task, method, name) for task in problems.PICTURE_TASKS for method in ("input", "bird")
        for name in ("a.png", "b.png")]
    assert all(np.isfinite([float(row[name]) for name in (PSNR, ALIGNED, RESIDUAL)]).all() for row in run.rows)
    lines = [line.split(" | ") for line in run.text.splitlines() if line.startswith("| ")]
    assert [line[1] for line in lines[1:]] == [
        name for task in problems.PICTURE_TASKS for name in (known.title(task, "input"), known.title(task, "bird"))]
    assert {row["evaluations"] for row in run.rows if row["method"] == "input"} == {"0"}
    values = {(row["method"], row["picture"]): float(row[PSNR]) for row in run.rows if row["task"] == "deblur"}
    gains = [values["bird", name] - values["input", name] for name in ("a.png", "b.png")]
    line = next(line for line in run.text.splitlines() if f"| {values_mean(values, 'bird'):.2f} (" in line)
    assert f"({np.mean(gains):+.2f}) | {min(gains):+.2f} |" in line
    assert str(SMALL["deblur"]) in run.text and str(SMALL["sr"]) in run.text
    assert "BIRD against its official settings" not in run.text


def values_mean(values, method):
    return np.mean([value for (name, _), value in values.items() if name == method])


def test_table_goes_into_the_readme(runs, files):
    run, _ = runs
    assert run.readme.startswith(f"above\n{START}\n| task | method | network evaluations |")
    assert run.readme.endswith(f"\n{END}\nbelow\n") and "old" not in run.readme.split("below")[0][6:30]
    assert "`python -m eval.tables --method bird --data pictures --weights tiny-prior.safetensors --methods bird`" in (
        run.text)
    assert str(files) not in run.text


def test_second_run_measures_only_what_is_new(runs):
    first, second = runs
    assert "4 of 6 results are taken from tiny_prior_bird.jsonl" in second.said
    assert second.rows[:4] == [row for row in first.rows if row["task"] == "inpaint"]
    assert second.known.startswith(first.known) and second.known.count("\n") == first.known.count("\n") + 2
    assert "BIRD against its official settings:" in second.text
    ours, theirs = (int(second.rows[i]["evaluations"]) for i in (2, 4))
    assert theirs == 20 and f"| {theirs} | {ours} | {ours / theirs:.3f} |" in second.text


def test_numbers_equal_direct_computation(runs, files):
    network = methods.base.open_network(files / "tiny-prior.safetensors", "prior")
    truth = problems.to_side(np.asarray(Image.open(files / "pictures" / "a.png")), SIDE)
    keys = rng.image_keys(0, [rng.name_id("a.png")])
    alone = problems.make("denoise", jnp.asarray(truth)[None], keys)

    @jax.jit
    def restore(case):
        prior = denoisers.of(lambda x, t: network.module.apply(network.params, x, t), network.info)
        return bird.optimise(prior, problems.problem_of("denoise", case), SMALL["denoise"]).x

    row = {row["method"]: row for row in runs[0].rows if row["task"] == "denoise" and row["picture"] == "a.png"}
    for method, x in (("input", np.clip(alone.y, -1, 1)), ("bird", restore(alone))):
        error = np.asarray(x, np.float64)[0] - truth
        assert float(row[method][PSNR]) == pytest.approx(10 * np.log10(4 / np.mean(error**2)), abs=2e-3)
        left = np.asarray(x)[0] - np.asarray(alone.y)[0]
        assert float(row[method][RESIDUAL]) == pytest.approx(np.sqrt(np.mean(left**2)) / 0.3, rel=2e-3, abs=1e-4)


def made_up(task, method, picture, psnr, evaluations=0, aligned=0.0):
    return {"picture": picture, "seed": 0, "task": task, "method": method, "evaluations": evaluations, PSNR: psnr,
            ALIGNED: aligned, RESIDUAL: 1.5}


ROWS = [made_up("blind", "input", "a", 10.0, aligned=11.0), made_up("blind", "input", "b", 20.0, aligned=21.0),
        made_up("blind", "bird", "a", 14.0, 50, 16.0), made_up("blind", "bird", "b", 19.5, 50, 22.0),
        made_up("blind", "official", "a", 12.0, 200, 13.0), made_up("blind", "official", "b", 17.0, 200, 17.0),
        made_up("blind", "diffpir", "a", 25.0, 30, 25.0), made_up("blind", "diffpir", "b", 27.0, 30, 27.0),
        made_up("sr", "input", "a", 15.0), made_up("sr", "bird", "a", 14.0, 300)]


def test_table_of_made_up_rows():
    text = known.to_markdown(ROWS).splitlines()
    name = known.title("blind", "bird")
    assert text[3] == f"|  | {name} | 50 | **16.75** (+1.75) | -0.50 | **19.00** (+3.00, +1.00) | 1.50 |"
    assert text[5].startswith("|  | DiffPIR, told the true kernel | 30 | 26.00 (+11.00) | +7.00 |")  # told: not bold
    assert "| **15.00** |  |  | 1.50 |" in text[6] and "| 14.00 (-1.00) | -1.00 |  | 1.50 |" in text[7]


def test_official_settings_beside_ours():
    text = known.against_official(ROWS).splitlines()
    assert text[2:] == [f"| {problems.TASKS['blind']} | 200 | 50 | 0.250 | 14.50 | 16.75 | +2.25 |"]
    assert known.against_official(ROWS[-2:]) == ""


def test_cache_outlives_a_torn_line(tmp_path):
    path = tmp_path / "known.jsonl"
    row = {"key": "k", **made_up("sr", "bird", "a", 14.0, 300)}
    measure.Cache(path, known.MEASURED).add([row])
    whole = path.read_text()
    path.write_text(whole + json.dumps({**row, "key": "torn"})[:50])
    cache = measure.Cache(path, known.MEASURED)
    assert cache.known == {"k": {"evaluations": 300, PSNR: 14.0, ALIGNED: 0.0, RESIDUAL: 1.5}}
    cache.add([{**row, "key": "next"}])
    assert set(measure.Cache(path, known.MEASURED).known) == {"k", "next"}


def test_the_digest_of_a_program_changes_with_the_settings(files, monkeypatch):
    def digest(name="a.png", **settings):
        line = known.line("inpaint", "bird", files / "tiny-prior.safetensors", **settings)
        return measure.program_digest(line.restore, line.params, case("inpaint", names=(name,)).unseen)

    before = digest()
    assert before == digest("b.png")
    for change in (dict(rate=0.07), dict(num_iterations=7)):
        monkeypatch.setitem(bird.DEFAULT, "inpaint", SMALL["inpaint"]._replace(**change))
        after = digest()
        assert after != before
        before = after
    assert digest(preset="official") != before


def test_any_method_that_does_a_task_can_be_a_line():
    pairs = known.chosen(["denoise", "blind"], ["hqs", "once", "dps", "ddnm", "wiener"])
    assert pairs == [("denoise", name) for name in ("input", "once", "hqs", "dps")] + [
        ("blind", name) for name in ("input", "ddnm", "hqs", "dps")]
    assert known.title("blind", "dps") == "DPS, told the true kernel" and known.is_told("blind", "hqs")
    assert not known.is_told("blind", "bird") and not known.is_told("deblur", "hqs")
    assert {name for names in known.LINES.values() for name in names} < set(known.NAMES)


@pytest.mark.parametrize("arguments, named", [
    (["--weights", "{prior}"], "a diffusion prior"),
    (["--method", "bird"], "where a diffusion prior of pictures is needed"),
    (["--method", "bird", "--steps", "3"], "--steps is for --method indi"),
    (["--seeds", "1", "2"], "--seeds is for --method bird")])
def test_weights_and_flags_of_the_other_method_are_one_line(arguments, named, files, tmp_path, capsys):
    arguments = [word.format(prior=files / "tiny-prior.safetensors") for word in arguments]
    assert tables.main([*arguments, "--limit", "1", "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- problems

def test_pictures_come_to_the_priors_side():
    picture = RANDOM.integers(0, 256, (32, 36, 3)).astype(np.uint8)
    blocks = picture[:, 2:34].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(problems.to_side(picture, 16), blocks / 127.5 - 1, atol=1e-5)
    np.testing.assert_array_equal(problems.to_side(picture[:16, :16], 16), picture[:16, :16].astype(np.float32) /
                                  np.float32(127.5) - 1)
    assert problems.to_side(picture[:5, :4], 16).shape == (16, 16, 3)


@pytest.mark.parametrize("side, hole", [(16, 5), (64, 20)])
def test_the_hole_is_in_the_middle(side, hole):
    found = case("inpaint", side)
    missing = np.asarray(found.given["mask"]) == 0
    rows, columns = np.flatnonzero(missing[0].any(axis=1)), np.flatnonzero(missing[0].any(axis=0))
    assert len(rows) == len(columns) == hole and missing[0].sum() == hole**2
    assert rows[0] + rows[-1] in (side - 1, side - 2)
    y = np.asarray(found.y)
    assert (y[missing] == 0).all()
    noise = (y - np.asarray(found.x))[~missing]
    assert 0.018 < noise.std() < 0.022


def test_measurements_have_their_noise():
    everything = {task: case(task, 64) for task in ("denoise", "sr", "deblur", "blind")}
    for task, found in everything.items():
        problem = problems.problem_of(task, found)
        noise = np.asarray(problem.y - problem.operator(found.x))
        sigma = 0.3 if task == "denoise" else 0.02
        assert float(problem.sigma[0]) == pytest.approx(sigma) and noise.std() == pytest.approx(sigma, rel=0.1)
    assert everything["sr"].y.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(everything["deblur"].y, everything["blind"].y)
    kernels = np.asarray(everything["blind"].given["kernel"])
    assert kernels.shape == (2, 9, 9) and np.abs(kernels[0] - kernels[1]).max() > 0.01
    centroid = np.einsum("bij,i->b", kernels, np.arange(9)), np.einsum("bij,j->b", kernels, np.arange(9))
    np.testing.assert_allclose(centroid, 4, atol=0.5)


def test_measurements_belong_to_picture_and_seed():
    found = case("blind")
    np.testing.assert_allclose(case("blind", names=("b.png",)).y[0], found.y[1], atol=1e-6)
    for other in (case("blind", seed=1), case("blind", names=("b.png", "a.png"))):
        assert np.abs(np.asarray(other.given["kernel"] - found.given["kernel"])).max() > 0.01


def test_aligned_psnr_finds_the_shift():
    truth = RANDOM.uniform(-0.8, 0.8, (2, 32, 40, 3))
    shifted = np.stack([np.roll(truth[0], (2, -3), (0, 1)) + 0.1, np.roll(truth[1], (0, 3), (0, 1)) - 0.02])
    np.testing.assert_allclose(aligned_psnr(shifted, truth), 10 * np.log10(4 / np.square([0.1, 0.02])), atol=1e-6)
    assert (aligned_psnr(np.roll(truth, 4, 1), truth) < 15).all()  # farther than it looks
    assert (psnr_of(shifted, truth) < 15).all()


# ---------------------------------------------------------------------------------------------------- methods

def test_wiener_solves_its_least_squares():
    found = case("deblur", 8, names=("a.png",))
    problem = problems.problem_of("deblur", found._replace(y=found.y[..., :1]))
    basis = jnp.eye(64).reshape(64, 8, 8, 1)
    columns = np.asarray(operators.blur(found.given["kernel"][0])(basis), np.float64).reshape(64, 64)
    pictures = np.eye(64).reshape(64, 8, 8)
    differences = 0.02 / 0.2 * np.concatenate([np.diff(pictures, axis=i).reshape(64, -1) for i in (1, 2)], axis=1)
    matrix = np.concatenate([columns, differences], axis=1).T
    right = np.concatenate([np.asarray(problem.y, np.float64).ravel(), np.zeros(differences.shape[1])])
    expected = np.linalg.lstsq(matrix, right, rcond=None)[0]
    np.testing.assert_allclose(np.asarray(wiener("deblur", problem)).ravel(), expected, atol=5e-3)


def clipped(task, baseline, found):
    return np.clip(baseline(task, problems.problem_of(task, found)), -1, 1)


def test_total_variation_keeps_edges():
    x = np.full((1, 32, 32, 3), -0.6, np.float32)
    x[:, 8:24, 10:20] = 0.7
    found = problems.make("deblur", jnp.asarray(x), rng.image_keys(0, [1]))
    scores = [psnr_of(clipped("deblur", baseline, found), x)[0] for baseline in (wiener, total_variation)]
    assert psnr_of(found.y, x)[0] + 6 < scores[0] < scores[1] - 3


def test_tomography_of_a_disc():
    """Of a disc of density 3/4: the sum along the central ray, back-projection near it, total variation nearer."""
    side = 32
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    x = np.where(rows**2 + columns**2 < 8**2, 0.5, -1.0)[None, ..., None].repeat(3, -1).astype(np.float32)
    found = problems.make("ct", jnp.asarray(x), rng.image_keys(0, [1]))
    assert found.y.shape == (1, side, problems.NUM_VIEWS, 1)
    np.testing.assert_allclose(found.y[0, side // 2, :, 0], 0.75 * 16, atol=0.03 * side)
    scores = [psnr_of(clipped("ct", baseline, found), x)[0] for baseline in (first, total_variation)]
    assert 15 < scores[0] < scores[1] - 3


@pytest.mark.parametrize("tasks", [["ct", "sr"], ["sr", "ct"]])
def test_tomography_is_measured_alone(tasks, files, capsys):
    assert tables.main(["--method", "bird", "--weights", str(files / "tiny-prior.safetensors"), "--tasks", *tasks]) == 2
    assert "measure it alone" in capsys.readouterr().err


STEPPED = ("daps", "ddnm", "ddrm", "diffpir", "dps", "hqs", "indigo", "latent-indigo", "pigdm", "pnp-flow", "reddiff",
           "tmpd")


@pytest.mark.slow
@pytest.mark.parametrize("task, name", [(task, name) for task in problems.TASKS for name in known.NAMES
                                        if known.does(task, name)])
def test_every_line_runs(task, name, files, monkeypatch):
    monkeypatch.setitem(bird.OFFICIAL, task, bird.OFFICIAL["sr"]._replace(num_iterations=2))
    steps = {"steps": 3} if name in STEPPED else {}
    if name in ("indi", "indigo", "latent-indigo") and task == "sr":
        pytest.skip("4 x 4 pixels are too few for the networks that ship")
    line, found = known.line(task, name, str(files / "tiny-prior.safetensors"), **steps), case(task)
    x, numbers = jax.jit(line.restore)(line.params, found.unseen)
    assert x.shape == (2, SIDE, SIDE, 3) and float(jnp.abs(x).max()) <= 1 and numbers[RESIDUAL].shape == (2,)
    assert (int(numbers["evaluations"]) == 0) == (name in BASELINES)


# ---------------------------------------------------------------------------------------------------- figures

def is_drawn(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 150
        return len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_figures_of_made_up_numbers(tmp_path):
    inpaint, blind = case("inpaint"), case("blind")
    walks = [bird_figures.Walk("one", "iteration", inpaint, RANDOM.uniform(-1, 1, (30, 2, SIDE, SIDE, 3))),
             bird_figures.Walk("two", "evaluation", blind, RANDOM.uniform(-1, 1, (3, 2, SIDE, SIDE, 3)))]
    levels = [{"levels": n, "iterations": 100 // n, "evaluations": 100, "psnr": 20 + n, "seconds": 1.0} for n in (2, 5)]
    wrong = [{"error": error, "amount": amount, "method": method, "psnr": 20.0 - amount}
             for error in ("rotation", "width") for amount in (0.0, 1.0) for method in ("bird", "dps", "blind")]
    for name, figure in (("a", bird_figures.draw_iterations(walks)), ("b", bird_figures.draw_levels(levels, "levels")),
                         ("c", bird_figures.draw_wrong_kernel(wrong, "wrong"))):
        drawing.save(figure, tmp_path / f"{name}.png")
        assert is_drawn(tmp_path / f"{name}.png")


def test_spoiled_kernels():
    kernel = np.zeros((1, 9, 9), np.float32)
    kernel[0, 4, 2:7] = 0.2
    np.testing.assert_array_equal(bird_figures.spoiled(kernel), kernel)
    np.testing.assert_allclose(bird_figures.spoiled(kernel, rotation=90.0)[0], kernel[0].T, atol=1e-6)
    wide = bird_figures.spoiled(kernel, width=1.0)
    assert wide.sum() == pytest.approx(1, abs=1e-5) and (wide[0, 3] > 0).all() and wide.max() < 0.1
    small, large = bird_figures.same_side(kernel[:, 3:6, 3:6], kernel)
    assert small.shape == large.shape and small[0, 4, 4] == kernel[0, 4, 4] and small[0, 4, 2] == 0


def test_figures_belong_to_their_method(capsys):
    for arguments in (["--method", "bird", "--figure", "toy"], ["--figure", "kernels"]):
        with pytest.raises(SystemExit) as stop:
            figures.main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and "is one of --method" in error


@pytest.mark.slow
def test_all_figures_of_a_prior(files, tmp_path, monkeypatch):
    monkeypatch.setattr(bird_figures, "LEVELS", (2, 5))
    code = figures.main(["--method", "bird", "--data", str(files / "pictures"), "--weights",
                         str(files / "tiny-prior.safetensors"), "-o", str(tmp_path)])
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bird_iterations.png", "bird_kernels.png", "bird_levels.csv", "bird_levels.png", "bird_wrong_kernel.csv",
        "bird_wrong_kernel.png"]
    assert all(is_drawn(path) for path in tmp_path.glob("*.png"))
