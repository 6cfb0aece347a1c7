"""What every method of restoration must do, whatever it is: one table, and one test for each promise.

A new method is covered by one row of :data:`ROWS`. Tiny networks with made-up weights, tiny settings.
"""
import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import cli, images, methods, rng, sharding, weights
from indigo_jax.methods import METHODS
from indigo_jax.methods.flags import flags_of
from tests import guided_networks, networks

KERNEL = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
ROWS = {  # method: task and settings that take a second; @name is the file of a tiny network
    "indi": dict(task="denoise", weights="@restorer", steps=2),
    "once": dict(task="denoise", weights="@denoiser"),
    "look": dict(task="auto", weights="@denoiser", restorer="@restorer"),
    "jpeg": dict(task="jpeg", weights="@denoiser", restorer="@restorer"),
    "hqs": dict(task="deblur", weights="@denoiser", steps=2, kernel=KERNEL),
    "blind": dict(task="deblur", weights="@denoiser", restorer="@restorer", kernel_size=3, steps=2,
                  sigma_255=120.0),  # so it is believed
    "diffpir": dict(task="denoise", weights="@prior", steps=4),
    "bird": dict(task="denoise", weights="@prior", sigma_255=10.0),
    "ddrm": dict(task="sr", scale=2, weights="@prior", steps=3),
    "daps": dict(task="denoise", weights="@prior", steps=3),
    "reddiff": dict(task="denoise", weights="@prior", steps=3),
    "pnp-flow": dict(task="denoise", weights="@prior", steps=3),
    "ddnm": dict(task="sr", scale=2, weights="@prior", steps=4),
    "dps": dict(task="denoise", weights="@prior", steps=3),
    "pigdm": dict(task="sr", scale=2, weights="@prior", steps=3),
    "tmpd": dict(task="denoise", weights="@prior", steps=3),
    "indigo": dict(task="auto", prior="@prior", inn="@half", steps=3),
    "latent-indigo": dict(task="auto", prior="@latents", inn="@latent_inn", steps=3)}
DRAWS_NOTHING = {"once", "look", "hqs", "blind"}  # their results are means, the same for every seed
SLOW = {"ddrm", "ddnm", "dps", "daps", "reddiff", "pnp-flow", "tmpd",
        "latent-indigo"}  # as pigdm, as indigo; with tests of their own
every = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS])
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def believed():
    """Blind deblurring's results, though they are those of noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("indigo_jax.methods.blind"), "_TOO_WHITE", 1.0)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {**guided_networks.write_all(folder), "restorer": networks.write_weights(folder / "restorer.safetensors"),
            "denoiser": networks.write_denoiser(folder / "denoiser.safetensors")}


@pytest.fixture(scope="module")
def made(files):
    """``made(name, setting=...)``: the method of a row, which counts how often its program is traced, and keeps what
    it was given last."""
    @functools.cache
    def row(name):
        return load(name)

    def load(name, **changes):
        class Counted(METHODS[name]):
            traces = 0

            def solve(self, *arguments, **known):
                self.traces += 1
                return super().solve(*arguments, **known)

            def run(self, y, *arguments):
                self.seen = np.asarray(y)
                return super().run(y, *arguments)

        given = {**ROWS[name], **changes}
        task, scale = given.pop("task"), given.pop("scale", None)
        return Counted(Counted.Settings(**{key: from_file(files, value) for key, value in given.items()}), task=task,
                       scale=scale)

    return lambda name, **changes: load(name, **changes) if changes else row(name)


def from_file(files, value):
    return files[value[1:]] if isinstance(value, str) and value.startswith("@") else value


def picture(height, width, **kinds):
    return images.Picture(RANDOM.uniform(-1, 1, (height, width, 3)).astype(np.float32), **kinds)


def test_every_method_has_a_row():
    assert ROWS.keys() == METHODS.keys(), "a method needs one row in ROWS, and no more"


@every
def test_what_it_says_of_itself(name):
    method = METHODS[name]
    assert method.name == name and set(method.tasks) <= set(methods.TASKS)
    assert all(isinstance(text, str) and text for text in (method.summary, method.when, method.needs, method.cost))
    for field, known in flags_of(method.Settings).values():
        assert known.help and set(known.tasks) <= set(methods.TASKS) and "\n" not in known.help
    assert set(flags_of(method.Settings)) == set(method.Settings.__dataclass_fields__)  # no field that is no flag


def test_the_command_line_knows_all_and_nothing_else(capsys):
    assert cli.main(["restore", "a.png", "-o", "b.png", "--method", "none of them"]) == 2
    assert f"There is: auto, {', '.join(METHODS)}" in capsys.readouterr().err
    assert cli.main(["methods"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: {method.summary}\n" in said for name, method in METHODS.items())
    assert all(f"--task {task}" in said for task in methods.TASKS)


@every
def test_its_help_has_its_settings_and_no_others(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["restore", "--method", name, "--help"])
    shown = {line.split()[0].rstrip(",") for line in capsys.readouterr().out.splitlines() if line.startswith("  --")}
    assert left.value.code == 0
    flags = {other: {f"--{setting.replace('_', '-')}" for setting, (_, known) in flags_of(method.Settings).items()
                     if not known.tasks or set(known.tasks) & set(method.tasks)} for other, method in METHODS.items()}
    assert flags[name] <= shown and not (set().union(*flags.values()) - flags[name]) & shown


# ---------------------------------------------------------------- results

@every
def test_alone_on_one_device_as_in_a_batch_on_eight(name, made):
    """To rounding, which BIRD's optimiser enlarges where a gradient is nearly nothing: a pixel in some thousands moves
    by up to 1e-3, all others by 1e-6."""
    method = made(name)
    plan = method.plan(16, 16)
    sides = [side // method.scale for side in plan.canvas]
    y = np.random.default_rng(0).uniform(-1, 1, (8, *sides, 3)).astype(np.float32)
    keys = rng.image_keys(0, np.arange(8))
    solve = jax.jit(method.solve, static_argnames="plan")
    known = method.given(y[0], lambda array, **_: jnp.asarray(array[None], jnp.float32))

    def restored(y, keys):
        y = method.enlarged(y)
        return solve(method.params, y, keys, plan=plan, given={**known, **method.estimated(jnp.asarray(y))})

    split = sharding.batch_sharding(sharding.data_mesh())
    batch = restored(*(jax.device_put(array, split) for array in (y, keys)))
    assert len(batch.x.sharding.device_set) == 8 and batch.x.shape == (8, *plan.canvas, 3)
    for i in (0, 7):
        alone = restored(y[i:i + 1], keys[i:i + 1])
        for one, of_all in zip(jax.tree.leaves(alone), jax.tree.leaves(batch)):
            np.testing.assert_allclose(one[0], of_all[i], atol=2e-3 if name == "bird" else 1e-4)
            assert np.median(np.abs(one[0] - of_all[i])) < 1e-5


@every
def test_any_size_and_one_program_for_those_of_a_canvas(name, made):
    method = made(name)
    method(picture(3, 4))
    traced = method.traces
    for size in ((1, 1), (7, 5), (3, 8)):
        restored, report = method(picture(*size))
        assert restored.pixels.shape == (method.scale * size[0], method.scale * size[1], 3)
        assert np.isfinite(restored.pixels).all() and np.abs(restored.pixels).max() <= 1
        assert report.plan == method.plan(*(method.scale * side + 2 * method.margin() for side in size))
    assert method.traces == traced


@every
def test_more_than_its_network_sees_at_once(name, made):
    method = made(name)
    y = picture(5, 20)
    restored, report = method(y)
    assert restored.pixels.shape == (5 * method.scale, 20 * method.scale, 3) and np.isfinite(restored.pixels).all()
    assert (report.plan.count > 1) == (not method.takes_any_size)
    assert report.evaluations % report.plan.count == 0
    said = method.warning(y)
    assert said is None if report.plan.count == 1 else f"in {report.plan.count} pieces" in said and "\n" not in said


@every
def test_the_same_bytes_again_and_on_any_device(name, made):
    method, y = made(name), picture(6, 7)
    assert len(method.devices) == 8
    first = method(y)[0].pixels
    assert np.abs(first[:6, :7] - y.pixels).mean() > 1e-3 or method.scale > 1  # something is done
    np.testing.assert_array_equal(first, method(y)[0].pixels)
    np.testing.assert_array_equal(first, method(y, device=method.devices[-1])[0].pixels)


@every
def test_seeds_and_samples(name, made):
    method, y = made(name), picture(6, 7)
    first, seeded, other = (method(y, **which)[0].pixels for which in ({}, dict(seed=1), dict(sample=1)))
    for result in (seeded, other):
        assert (result != first).any() == (name not in DRAWS_NOTHING)
    assert (seeded != other).any() == (name not in DRAWS_NOTHING)
    np.testing.assert_array_equal(other, method(y, sample=1)[0].pixels)


# ---------------------------------------------------------------- what the file held

@every
def test_grey_transparency_and_depth_are_kept(name, made):
    method = made(name)
    alpha = np.ones((7, 8), np.float32)
    alpha[:, 4:] = 0
    y = picture(7, 8, alpha=alpha, grey=True, sixteen_bit=True, mode="LA")
    y = y._replace(pixels=np.repeat(y.pixels[..., :1], 3, axis=2))
    restored, _ = method(y)
    np.testing.assert_array_equal(restored.pixels[..., 0], restored.pixels[..., 1])
    np.testing.assert_array_equal(restored.pixels[..., 0], restored.pixels[..., 2])
    assert (restored.grey, restored.sixteen_bit, restored.mode) == (True, True, "LA")
    if method.scale == 1:
        np.testing.assert_array_equal(restored.alpha, alpha)
        np.testing.assert_array_equal(restored.pixels[:, 4:], y.pixels[:, 4:])
    assert restored.alpha.shape == restored.pixels.shape[:2]
    assert restored.alpha[0, 0] > 0.99 and restored.alpha[0, -1] < 0.01


@every
def test_colours_under_full_transparency_do_not_leak(name, made):
    """What goes through the network is what lies around them."""
    method, alpha, seen = made(name), np.ones((7, 8), np.float32), []
    alpha[:, 5:] = 0
    for hidden in (-1.0, 0.9):
        pixels = np.full((7, 8, 3), 0.3, np.float32)
        pixels[:, 5:] = hidden
        restored, _ = method(images.Picture(pixels, alpha=alpha))
        assert method.scale > 1 or (restored.pixels[:, 5:] == hidden).all()
        seen.append(method.seen)
    np.testing.assert_array_equal(*seen)
    np.testing.assert_allclose(seen[0], 0.3, atol=1e-5)


# ---------------------------------------------------------------- reports

@every
def test_its_report_can_be_written_and_read_aloud(name, made):
    method = made(name)
    y = picture(6, 5)
    reports = [method(y, sample=sample)[1] for sample in (0, 1)]
    facts = json.loads(json.dumps(method.facts(reports), allow_nan=False))
    assert facts["network_evaluations"] == sum(report.evaluations for report in reports) >= 0
    assert isinstance(facts["tiles"], int) and method.line(reports) and "\n" not in method.line(reports)
    assert len(method.info["sha256"]) == 64 and method.before
    if reports[0].residual is not None:
        assert np.isfinite([report.residual for report in reports]).all()


# ---------------------------------------------------------------- refusals: one line

def refused(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in words), said
    return caught.value


@every
@pytest.mark.parametrize("bad, words", [
    (np.zeros((4, 4)), "[4, 4]"), (np.zeros((0, 4, 3)), "[0, 4, 3]"), (np.zeros((4, 4, 4)), "[4, 4, 4]"),
    (np.full((4, 4, 3), np.nan), "NaN or infinity"), (np.full((4, 4, 3), np.inf), "NaN or infinity")])
def test_what_is_no_picture(name, bad, words, made):
    traced = made(name).traces
    refused(lambda: made(name)(images.Picture(bad)), words)
    assert made(name).traces == traced


@every
def test_what_is_too_large(name, made, monkeypatch):
    method = made(name)
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    refused(lambda: method(picture(28, 20)), "more than the limit of 500")


@every
def test_unknown_tasks_and_settings(name, made):
    refused(lambda: made(name, task="colourise"), "colourise", *METHODS[name].tasks)
    for task in set(methods.TASKS) - set(METHODS[name].tasks):
        refused(lambda: made(name, task=task), "needs a task" if task == "auto" else task, name)
    refused(lambda: methods.load(name, colour=1), f"{name} has no setting 'colour'", *flags_of(METHODS[name].Settings))


@every
def test_values_out_of_range(name):
    method = METHODS[name]
    for setting, (_, known) in flags_of(method.Settings).items():
        tasks = [task for task in known.tasks or method.tasks if task in method.tasks]
        if not tasks:  # for tasks of other methods
            continue

        def make(value):
            return method(method.Settings(**{setting: value}), task=tasks[0])

        if known.choices:
            refused(lambda: make("nonsense"), setting, *known.choices)
        for limit, beyond in ((known.low, known.low - 1), (known.high, 2 * known.high)):
            if np.isfinite(limit):
                refused(lambda: make(beyond), setting)
                refused(lambda: make(float("nan")), setting)


@every
def test_weights_of_another_kind(name, made, files):
    roles = [setting for setting, (_, known) in flags_of(METHODS[name].Settings).items() if known.file == "weights"]
    assert roles
    for role in roles:
        wrong = files["restorer" if role == "autoencoder" else "space"]
        error = refused(lambda: made(name, **{role: wrong}), str(wrong), "needed", "indigo weights list")
        assert isinstance(error, weights.WeightsError)
        missing = refused(lambda: made(name, **{role: "no-such-weights"}), "no weights of this name")
        assert isinstance(missing, weights.WeightsError)


@every
def test_progress_is_told_and_changes_nothing(name, made):
    """Of every call of the network, in pieces, too; the result has the same bytes."""
    whole, seen = picture(20, 33) if name == "diffpir" else picture(16, 16), []  # tiles of one
    method = made(name)
    without, report = method(whole)
    told, _ = method(whole, progress=lambda: seen.append(1))
    np.testing.assert_array_equal(told.pixels, without.pixels)
    expected, plan = method.expected(whole)
    assert expected == report.evaluations and plan == report.plan
    assert 0.5 * expected <= len(seen) <= 1.5 * expected
    assert not method._listeners._listening


def test_a_call_of_a_network_can_be_timed(made):
    for name in ("hqs", "latent-indigo"):
        method = made(name)
        assert 0 < method.seconds(method.expected(picture(20, 33))[1]) < 60
