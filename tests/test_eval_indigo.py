"""Tables and figures of INDIGO and LatentINDIGO: numbers by hand, files, cache, exit codes; tiny random networks."""
import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eval import command, figures, measure, problems, tables
from eval.figures import drawing
from eval.figures import indigo as indigo_figures
from eval.tables import guided
from eval.tables.known import MEASURED
from indigo_jax import methods, rng
from tests import guided_networks
from tests.test_eval_bird import is_drawn, smooth

PSNR, RESIDUAL, LAST, DRIFT = guided.PSNR, guided.RESIDUAL, guided.LAST, guided.DRIFT
NAMES = command.guided_methods()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of tiny networks, and a folder of two pictures."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "pictures").mkdir()
    for name, side in (("a", 24), ("b", 16)):
        Image.fromarray(smooth(side, 16, ord(name))).save(folder / "pictures" / f"{name}.png")
    return {**guided_networks.write_all(folder), "pictures": folder / "pictures"}


def arguments(files, method):
    prior, inn = {"indigo": ("prior", "inn"), "latent-indigo": ("latents", "latent_inn")}[method]
    return ["--method", method, "--prior", str(files[prior]), "--inn", str(files[inn]), "--data",
            str(files["pictures"])]


def made(name, files, **settings):
    """The method with the tiny networks, and its pictures shrunk."""
    _, _, _, prior, _, inn, *_ = arguments(files, name)
    method = methods.load(name, prior=prior, inn=inn, **settings)
    return method, guided.case_of(method, problems.open_pictures(str(files["pictures"])), "plain", 0)


# ---------------------------------------------------------------------------------------------------- the table

def table(files, out, method, *more):
    readme = out / "README.md"
    start, end = tables.MARKS[method]
    readme.write_text(f"above\n{start}\nold\n{end}\nbelow\n")
    assert tables.main([*arguments(files, method), "--chain-steps", "3", "-o", str(out), "--readme", str(readme),
                        *more]) == 0
    [path] = out.glob("*.csv")
    with path.open() as file:
        return list(csv.DictReader(file)), path.with_suffix(".md").read_text(), readme.read_text()


@pytest.mark.slow
def test_table_of_pixels_is_measured_once(files, tmp_path, capsys):
    command = (files, tmp_path, "indigo", "--kinds", "guided", "--seeds", "0", "--degradations", "plain")
    rows, text, readme = table(*command)
    assert [(row["kind"], row["picture"]) for row in rows] == [
        (kind, name) for kind in ("input", "guided") for name in ("a.png", "b.png")]
    assert [row["evaluations"] for row in rows] == ["0"] * 2 + ["3"] * 2 and {row[DRIFT] for row in rows} == {""}
    assert "| plain: shrunk | bicubic | 0 |" in text and "|  | guided | 3 |" in text and "drift" not in text
    assert str(files["pictures"].parent) not in text and text.split("\n\n")[1] in readme and "old" not in readme
    known = (tmp_path / "prior_indigo.jsonl").read_text()
    assert table(*command)[0] == rows and (tmp_path / "prior_indigo.jsonl").read_text() == known
    assert "4 of 4 results are taken from prior_indigo.jsonl" in capsys.readouterr().err
    method, case = made("indigo", files, steps=3)
    x = guided.enlarged(method, case.y)
    for row, left in zip(rows, guided.judge(method, method.params, x, case.y)[0]):
        assert float(row[RESIDUAL]) == pytest.approx(float(left), rel=1e-3)
    x = method.run(case.y, case.keys, method.plan(*case.x.shape[1:3]), {}).x
    error = np.mean((np.asarray(x, np.float64) - np.asarray(case.x)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose([float(row[PSNR]) for row in rows[2:]], 10 * np.log10(4 / error), atol=2e-3)


@pytest.mark.slow
def test_table_of_latents_has_every_kind(files, tmp_path):
    rows, text, _ = table(files, tmp_path, "latent-indigo", "--guidance", "2.0", "--refine", "0.01")
    assert [row["kind"] for row in rows[::6]] == 3 * list(guided.KINDS)
    assert list(dict.fromkeys(row["degradation"] for row in rows)) == list(problems.LEARNED)
    assert all(np.isfinite([float(row[name]) for name in (PSNR, RESIDUAL, DRIFT)]).all() for row in rows)
    numbers = [{name: None if row[name] == "" else float(row[name]) for name in guided.MEASURED} for row in rows]
    found = guided.summaries([{**row, **own} for row, own in zip(rows, numbers)])
    for kinds in found.values():
        assert kinds["refined"][LAST] < kinds["guided"][LAST]
        assert len({kinds[name][PSNR] for name in ("free", "guided", "R0", "R1", "R4")}) > 2
    assert "guided, R2 (reencode)" in text and "--guidance 2.0 --refine 0.01`" in text and "latents" in text


def made_up(degradation, kind, seed, psnr, residual=0.1, drift=None, evaluations=100):
    return {"degradation": degradation, "kind": kind, "seed": seed, "picture": "a", "evaluations": evaluations,
            PSNR: psnr, guided.LPIPS: None, RESIDUAL: residual, LAST: None if kind == "input" else residual / 2,
            DRIFT: drift}


def test_table_of_made_up_rows():
    rows = [made_up("plain", "input", 0, 20.0, 0.5, evaluations=0), made_up("plain", "free", 0, 21.0, 0.3),
            made_up("plain", "free", 1, 23.0, 0.1), made_up("plain", "guided", 0, 22.0, 0.1),
            made_up("plain", "guided", 1, 25.0, 0.1), made_up("unseen", "guided", 0, 19.0)]
    text = guided.to_markdown(rows[:5]).splitlines()
    assert text[0] == "| degradation | method | network evaluations | PSNR, dB | residual | of the chain |"
    assert text[2:] == ["| plain: shrunk | bicubic | 0 | 20.00 (-1.00 ± 0.00) | 0.5000 |  |",
                        "|  | zeta = 0 | 100 | 22.00 | 0.2000 | 0.1000 |",
                        "|  | guided | 100 | 23.50 (+1.50 ± 0.50) | 0.1000 | 0.0500 |"]
    assert "| 19.00 | 0.1000 |" in guided.to_markdown(rows[5:])  # nothing to gain over
    assert "drift" in guided.to_markdown([made_up("plain", "guided", 0, 20.0, drift=0.2)])


def test_cache_keeps_the_numbers_of_its_own_table(tmp_path):
    row = {"key": "k", **made_up("plain", "guided", 0, 20.0)}
    measure.Cache(tmp_path / "known.jsonl", guided.MEASURED).add([row])
    known = measure.Cache(tmp_path / "known.jsonl", guided.MEASURED).known
    assert known == {"k": {name: row[name] for name in guided.MEASURED}}
    assert not measure.Cache(tmp_path / "known.jsonl", MEASURED).known


@pytest.mark.parametrize("run, arguments, words", [
    (tables, ["--method", "indigo", "--prior", "nothing"], "no weights of this name"),
    (tables, ["--method", "indigo", "--weights", "x"], "--weights is for --method indi or bird"),
    (tables, ["--prior", "x"], "--prior is for --method indigo or latent-indigo"),
    (tables, ["--method", "indigo", "--autoencoder", "x"], "--autoencoder is for --method latent-indigo"),
    (figures, ["--method", "latent-indigo", "--prior", "nothing"], "no weights of this name"),
    (figures, ["--method", "bird", "--figure", "decomposition"], "is one of --method indigo")])
def test_what_is_wrong_is_said_in_one_line(run, arguments, words, tmp_path, capsys):
    try:
        code = run.main([*arguments, "-o", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- problems

@pytest.mark.slow
@pytest.mark.parametrize("name", problems.LEARNED)
def test_degradations(name):
    x = jnp.asarray(np.stack([smooth(32, 32, seed) for seed in (0, 1)]) / np.float32(127.5) - 1)
    keys = rng.image_keys(0, [5, 6])
    found = problems.make_learned(name, 4, x, keys)
    assert found.y.shape == (2, 8, 8, 3) and float(jnp.abs(found.y).max()) <= 1
    assert problems.make_learned(name, 1, x, keys).y.shape == x.shape
    np.testing.assert_allclose(problems.make_learned(name, 4, x[1:], keys[1:]).y[0], found.y[1], atol=1e-5)
    assert name == "plain" or float(jnp.abs(found.y - problems.make_learned("plain", 4, x, keys).y).max()) > 0.02


# ---------------------------------------------------------------------------------------------------- figures

def test_contrast():
    a = np.zeros((10, 20, 3))
    a[0, 0], a[0, 1, 0], a[1] = 9.0, -9.0, 0.5
    found = indigo_figures.contrast(a)
    assert found[5, 5, 0] == 0.5 and found[0, 0, 0] == 1.0 and found[0, 1, 0] == 0.0
    np.testing.assert_allclose(found[1], 1.0, atol=1e-12)  # 0.5 is the 99th percentile
    for channels in (1, 2, 3, 8):
        assert indigo_figures.contrast(np.ones((4, 2, channels))).shape == (4, 2, 3)


def test_figures_of_made_up_numbers(tmp_path):
    random = np.random.default_rng(0)

    def pixels(*shape):
        return random.uniform(-1, 1, shape).astype(np.float32)

    details = [[pixels(1, side, side, 3) for _ in range(3)] for side in (4, 8)]
    found = indigo_figures.Decomposition(pixels(1, 16, 16, 3), pixels(1, 4, 4, 3), pixels(1, 16, 16, 3),
                                         pixels(1, 4, 4, 3), details, pixels(1, 4, 4, 3), pixels(1, 16, 16, 3))
    walks = [indigo_figures.Walk(name, pixels(6, 1, 16, 16, 3), np.linspace(1, level, 6)[:, None], np.ones((6, 1)))
             for name, level in (("guided", 0.1), ("zeta = 0", 0.5))]
    case = problems.Case(found.x, found.y, None, {})
    for name, figure in (("a", indigo_figures.draw_decomposition(found, title="t")),
                         ("b", indigo_figures.draw_path(walks, case, title="t")),
                         ("c", indigo_figures.draw_drift(walks, "t"))):
        drawing.save(figure, tmp_path / f"{name}.png")
        assert is_drawn(tmp_path / f"{name}.png")


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMES)
def test_a_decomposition_with_its_own_coarse_part_is_the_picture(method, files):
    method, case = made(method, files)
    found = indigo_figures.decompose(method, case)
    params, apply, space = method.params[1], method.networks["inn"].module.apply, method.autoencoder(method.params)
    cond = apply(params, case.y / 2 + 0.5, method="embed")
    back = apply(params, found.coarse, found.details, cond, method="inverse")
    np.testing.assert_allclose(back, found.whole, atol=1e-5)
    swapped = apply(params, found.measured, found.details, cond, method="inverse")
    wanted = 2 * swapped - 1 if space is None else space.decode(swapped)
    np.testing.assert_allclose(found.swapped, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMES)
def test_all_figures(method, files, tmp_path):
    assert figures.main([*arguments(files, method), "--chain-steps", "4", "-o", str(tmp_path)]) == 0
    stem = method.replace("-", "_")
    names = [f"{stem}_{name}.png" for name in indigo_figures.OF_METHOD[method]] + [f"{stem}_path.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all(is_drawn(path) for path in tmp_path.glob("*.png"))
    with (tmp_path / f"{stem}_path.csv").open() as file:
        rows = list(csv.DictReader(file))
    chains = 2 if method == "indigo" else 3
    assert len(rows) == chains * 4 * 2 and all(float(row["residual"]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMES)
def test_a_walk_ends_where_the_restoration_does(method, files):
    method, case = made(method, files, steps=4, guidance=0.7, no_color_fix=True)
    found = indigo_figures.walk(method, case, "")
    wanted = method.run(case.y, case.keys, method.plan(*case.x.shape[1:3]), {})
    np.testing.assert_allclose(found.residual[-1], wanted.residual, rtol=1e-3)
    if method.variant is None:  # the last estimate, less its last pull
        assert float(jnp.abs(jnp.asarray(found.x0[-1]) - jax.device_get(wanted.x)).mean()) < 0.1
