"""The table of all methods: what is damaged how, which lines there are, what the table says; no network is run."""
import functools
import types

import numpy as np
import pytest

from eval import problems
from eval.measure import Cache
from eval.tables import every
from indigo_jax import methods
from indigo_jax.methods import base, bird
from indigo_jax.methods.known import Sampled

IMAGE = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)


@pytest.mark.parametrize("task", every.TASKS)
def test_a_damage_is_that_of_its_name_and_repeatable(task):
    first, again, other = (every.damaged(task, IMAGE, seed) for seed in (0, 0, 1))
    side = every.SIDE // 4 if task == "sr" else every.SIDE
    assert first.y.shape == (side, side, 3) and first.truth.shape == (every.SIDE, every.SIDE, 3)
    np.testing.assert_array_equal(first.y, again.y)
    assert (first.y != other.y).any() == (task in ("denoise", "deblur", "blind"))
    levels = (first.y + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert sorted(first.settings) == {"deblur": ["kernel"], "inpaint": ["mask"]}.get(task, [])


def test_what_lies_beyond_the_border_of_a_blurred_picture_has_come_in():
    image = np.full((every.SIDE + 2 * every._MARGIN,) * 2 + (3,), 255, np.uint8)
    image[4:-4, 4:-4] = 0
    found = every.damaged("deblur", image, 0)
    assert found.truth.max() == -1 and found.y[0].max() > -0.9 and found.y[32, 16:48].max() < -0.9


@pytest.mark.parametrize("weights", ["photo", "faces64"])
@pytest.mark.parametrize("task", every.TASKS)
def test_every_method_that_does_a_task_has_its_lines(task, weights):
    """Chains of samples twice, at one number of evaluations; what fits only portraits for these alone."""
    lines = every.lines_of(task, weights)
    by_method = {method: [line for line in lines if line.method == method] for method in methods.METHODS}
    for name, found in by_method.items():
        kind = methods.METHODS[name]
        if issubclass(kind, methods.Indigo) and weights == "photo":
            assert not found
        elif issubclass(kind, Sampled) and task in kind.tasks:
            assert [line.kind for line in found] == [every.SAMPLE, every.MEAN]
            assert {line.settings["steps"] for line in found} == {every.BUDGET}
            assert {line.settings["weights"] for line in found} == {weights}
    named = {line.method for line in lines}
    assert named <= set(every.TITLES)
    assert {"denoise": {"once", "hqs", "bird", "indi"}, "deblur": {"hqs", "bird"}, "blind": {"blind", "bird", "indi"},
            "sr": {"hqs", "indi", "bird"}, "inpaint": {"hqs", "bird"}, "jpeg": {"indi"}}[task] <= named
    assert not named & {"deblur": {"blind", "indi"}, "blind": {"hqs", "diffpir"}}.get(task, set())
    assert {line.method for line in every.lines_of(task, weights, ["bird"])} <= {"bird"}


@pytest.mark.parametrize("weights", ["photo", "faces64"])
@pytest.mark.parametrize("task", every.TASKS)
def test_every_line_can_be_loaded(task, weights, monkeypatch):
    """One that is refused would end the table after an hour."""
    monkeypatch.setattr(base, "open_network", _open)
    settings = every.damaged(task, np.zeros((96, 96, 3), np.uint8), 0).settings
    for line in every.lines_of(task, weights):
        methods.load(line.method, task="deblur" if task == "blind" else task, **line.settings, **settings)


_open = functools.cache(base.open_network)


@pytest.mark.parametrize("task", [task for task in every.TASKS if task not in ("blind", "jpeg")])
def test_what_needs_no_network_helps(task):
    """A smooth picture comes back at its own size, and as itself."""
    x = np.linspace(20, 230, 80)[:, None, None] + np.zeros((80, 80, 3))
    damage = every.damaged(task, np.uint8(x), 0)
    for name in every.BASELINES:
        found, evaluations = every._cheap(name, task, damage)
        assert found.shape == damage.truth.shape and evaluations == 0
        error = np.sqrt(np.mean((found - damage.truth) ** 2))
        assert error < 0.08 or name == "input" and task in ("denoise", "inpaint"), (name, error)


def test_rows_and_the_table(monkeypatch):
    """A method that gives the negative of its input back: a line of its own, and what it loses."""
    told = []

    class Negative:
        def __call__(self, picture, seed):
            return types.SimpleNamespace(pixels=-picture.pixels), types.SimpleNamespace(evaluations=7)

        def told(self, **settings):
            told.append(settings)
            return self

    monkeypatch.setattr(methods, "load", lambda *args, **settings: Negative())
    monkeypatch.setitem(every.BASELINES, "tv", lambda task, problem: 0.0 * problem.y)  # costs seconds to compile
    pictures = problems.Pictures("two", ["a", "b"], [IMAGE, IMAGE[::-1]])
    rows = every.measure(pictures, "photo", tasks=["jpeg", "deblur"], wanted=["indi", "hqs"], lpips=lambda a, b: [0.5])
    assert [(row["task"], row["method"]) for row in rows[::2]] == [
        ("jpeg", "input"), ("jpeg", "indi"), ("deblur", "input"), ("deblur", "wiener"), ("deblur", "tv"),
        ("deblur", "hqs")]
    assert told[0] == {} and list(told[1]) == ["kernel"]
    found = {(one["task"], one["method"]): one for one in every.summaries(rows)}
    mine, before = found["jpeg", "indi"], found["jpeg", "input"]
    assert mine["gain"] == pytest.approx(mine["psnr"] - before["psnr"]) and mine["evaluations"] == 7
    assert mine["below"] == 2 and mine["count"] == 2 and before["gain"] == 0 and before["below"] == 0
    assert found["deblur", "wiener"]["psnr"] > found["deblur", "input"]["psnr"]  # of noise-like pictures
    lines = every.to_markdown(rows).splitlines()
    assert lines[0].startswith("| damage | method | answer |") and "`photo`: JPEG, quality 10" in lines[2]
    assert "| InDI | estimate | 7 |" in lines[3] and lines[3].endswith("2 of 2 |")


def test_what_was_measured_is_not_measured_again(monkeypatch, tmp_path):
    loaded = []

    class Same:
        def __call__(self, picture, seed):
            return types.SimpleNamespace(pixels=picture.pixels), types.SimpleNamespace(evaluations=7)

        def told(self, **settings):
            return self

    def load(*args, **settings):
        loaded.append(settings)
        return Same()

    monkeypatch.setattr(methods, "load", load)
    first = problems.Pictures("one", ["a"], [IMAGE])
    both = problems.Pictures("two", ["a", "b"], [IMAGE, IMAGE[::-1]])

    def measured(pictures, seed=0):
        cache = Cache(tmp_path / "all.jsonl", every.MEASURED)
        return every.measure(pictures, "photo", tasks=["jpeg"], wanted=["indi"], seed=seed, cache=cache)

    rows = measured(first)
    assert len(loaded) == 1 and measured(first) == rows and len(loaded) == 1
    more = measured(both)
    assert len(loaded) == 2 and [row["picture"] for row in more] == ["a", "b"] * 2 and more[::2] == rows
    measured(first, seed=1)
    assert len(loaded) == 3
    monkeypatch.setattr(every, "_sources", lambda: "another program")
    measured(first)
    assert len(loaded) == 4


def test_samples_stand_below_estimates_and_means():
    def row(method, kind, psnr):
        return {"prior": "photo", "task": "sr", "picture": "a", "method": method, "kind": kind, "evaluations": 1,
                "psnr": psnr, "lpips": None}

    lines = every.to_markdown([row("input", every.POINT, 20.0), row("dps", every.SAMPLE, 23.0),
                               row("dps", every.MEAN, 22.0)]).splitlines()[2:]
    assert ["bicubic" in lines[0], every.MEAN in lines[1], "**23.00**" in lines[2]] == [True, True, True]
    assert "LPIPS" not in lines[0] and "+3.00" in lines[2]


@pytest.mark.parametrize("faces, data, priors", [(True, True, ["faces64", "photo"]), (True, None, ["faces64"]),
                                                 (None, True, ["photo"]), (None, None, ["photo"])])
def test_portraits_have_the_prior_of_faces_and_photographs_theirs(monkeypatch, faces, data, priors):
    asked, pictures = [], problems.Pictures("two", ["a"], [IMAGE])

    def measured(pictures, weights, **known):
        asked.append((weights, known))
        return [{"prior": weights, "task": "jpeg", "picture": "a", "method": "input", "kind": every.POINT,
                 "evaluations": 0, "psnr": 20.0, "lpips": None}]

    monkeypatch.setattr(every, "measure", measured)
    monkeypatch.setattr(every, "open_pictures", lambda folder, limit: pictures)
    args = types.SimpleNamespace(faces=faces and "faces", data=data and "photos", limit=1, lpips=None, seed=3,
                                 tasks=["sr"], methods=["indi"])
    name, rows, text = every.table(args, pictures, None, "python -m eval.tables --method all")
    assert name == "all" and [row["prior"] for row in rows] == [weights for weights, _ in asked] == priors
    assert asked[0][1] == {"tasks": ["sr", "jpeg"], "wanted": ["indi"], "seed": 3, "lpips": None, "cache": None}
    assert "100 evaluations" in text and text.endswith("Written by `python -m eval.tables --method all`.")


def test_diffpir_has_as_many_evaluations_as_bird(monkeypatch):
    asked = []
    pictures = problems.Pictures("one", ["a"], [IMAGE])

    def restored(answers, line, task, damage, seed):
        asked.append((task, line.method, line.settings))
        return damage.truth, line.settings.get("steps", 0)

    monkeypatch.setattr(every, "_restored", restored)
    args = types.SimpleNamespace(lpips=None, seed=0)
    name, rows, text = every.bird_table(args, pictures, None, "python -m eval.tables --method bird-photo")
    assert {settings["weights"] for _, _, settings in asked} == {"photo"}
    steps = {(task, settings["steps"]) for task, method, settings in asked if method == "diffpir"}
    assert steps == {(task, bird.DEFAULT[task].evaluations) for task in ("denoise", "deblur", "sr", "inpaint")}
    assert name == "bird-photo" and "BIRD" in text and {row["method"] for row in rows} >= {"bird", "diffpir", "hqs"}
