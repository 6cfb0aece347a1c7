"""The sharded evaluation: the same bytes on any number of devices and processes, resumed, with broken pictures."""
import csv
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eval import run
from eval.configs import folder, folder_bird
from eval.problems import Degradation
from eval.run import batches, processes, records
from eval.run.config import EvalConfig
from indigo_jax import images, methods, metrics, models, operators, paths, rng, samplers, schedules, tiles, weights
from indigo_jax.methods import base, bird
from indigo_jax.methods.flags import flag
from tests import networks
from tests.paths import ROOT

PSNR, SSIM = "psnr-rgb-crop0-u8", "ssim-rgb-crop0-u8"
NOISE = (Degradation("denoise", "sigma 25", lambda keys: operators.gaussian_noise(sigma_255=25.0)),)
COUNTS = (1, 7, 8, 13)
CODE = run.code


def textured(height, width, seed):
    """A smooth uint8 picture with some detail."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(autouse=True, scope="module")
def fixed_code():
    """As if nobody touched the sources while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "code", lambda method: "fixed")
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A weights file and, for each of COUNTS, a folder of so many pictures of several sizes."""
    folder = tmp_path_factory.mktemp("eval-run")
    networks.write_weights(folder / "tiny.safetensors")
    for count in COUNTS:
        for i in range(count):
            images.write(folder / str(count) / f"part-{i % 2}" / f"{i:02}.png", textured(16 + 3 * (i % 3), 24 - i, i))
    return folder


@pytest.fixture(scope="module")
def tiny(files):
    """``tiny(output, count=13, ...) -> EvalConfig``; each method is made once, so that its programs are."""
    def config(output, count=13, **changes):
        return dataclasses.replace(EvalConfig(
            degradations=NOISE, data=str(files / str(count)), weights=str(files / "tiny.safetensors"),
            output=str(output), batch=2, steps=2), **changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "load", functools.cache(methods.load))
        patch.setitem(methods.METHODS, "as-given", AsGiven)
        yield config


class AsGiven(base.Restoration):
    """A method that changes nothing, or gives NaN."""

    name, tasks = "as-given", ("auto",)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        broken: bool = flag(False, "gives NaN")

    def load(self):
        self.networks = {}

    def plan(self, height, width):
        return plan(height, width)

    def solve(self, params, y, keys, *, plan, given):
        return base.Solved(jnp.full_like(y, jnp.nan) if self.settings.broken else y)


def plan(height, width):
    """Of a network for any size."""
    return tiles.plan(height, width, tile=1024, overlap=96, learned=64)


@pytest.fixture(scope="module")
def tables(tiny, tmp_path_factory):
    """``{count: bytes of scores.csv}``, done on one device without a stop."""
    found = {}
    for count in COUNTS:
        output = tmp_path_factory.mktemp(f"one-{count}")
        run.evaluate(tiny(output, count), jax.devices()[:1])
        found[count] = (output / "scores.csv").read_bytes()
    return found


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


# ---------------------------------------------------------------------------------------------------- the numbers

@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_the_table_is_the_same_on_any_number_of_devices(num_devices, tiny, tables, tmp_path):
    for count in COUNTS:
        outcome = run.evaluate(tiny(tmp_path / str(count), count), jax.devices()[:num_devices])
        assert outcome.count == count and not outcome.failed
        assert (tmp_path / str(count) / "scores.csv").read_bytes() == tables[count]


def test_a_picture_has_the_same_scores_whatever_its_neighbours(tables):
    seven, thirteen = (tables[count].decode().splitlines() for count in (7, 13))
    assert len(seven) == 1 + 7 + 1 and len(thirteen) == 1 + 13 + 1
    assert seven[0] == thirteen[0] and set(seven[:-1]) < set(thirteen) and seven[-1] != thirteen[-1]


def test_the_numbers_are_those_of_a_direct_computation(tiny, files, tmp_path):
    """Three pictures by hand, each alone and with the network itself."""
    run.evaluate(tiny(tmp_path, 7, pictures=True))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), networks.params())  # as in a file
    kernel = samplers.indi(functools.partial(networks.module().apply, params), paths.indi_times(2),
                           noise=paths.constant_noise(0.01))
    sample = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])
    noise = jax.jit(lambda x, keys: operators.gaussian_noise(sigma_255=25.0)(x, keys=keys))
    rows = rows_of(tmp_path / "scores.csv")
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows[:-1]) + ["mean"] and len(rows) == 8
    for row in rows[:3]:
        truth = np.asarray(Image.open(files / "7" / row["name"]))
        height, width = truth.shape[:2]

        def on_canvas(image):
            canvas = np.pad(image, [(0, 64 - height), (0, 64 - width), (0, 0)], "reflect")
            return (canvas[None] / 127.5 - 1).astype(np.float32)

        def levels(x):
            return np.rint((np.clip(np.asarray(x)[0, :height, :width], -1, 1) + 1) * 127.5).astype(np.uint8)

        keys = rng.fold(rng.image_keys(0, [rng.name_id(row["name"])]), np.uint32(rng.name_id("denoise/sigma 25")))
        y = levels(noise(on_canvas(truth), rng.fold(keys, 0)))
        x = levels(sample(rng.fold(keys, 1), on_canvas(y)))
        np.testing.assert_allclose(float(row[f"input {PSNR}"]), metrics.psnr(y[None], truth[None])[0], atol=2e-3)
        np.testing.assert_allclose(float(row[PSNR]), metrics.psnr(x[None], truth[None])[0], atol=2e-3)
        np.testing.assert_allclose(float(row[SSIM]), metrics.ssim(x[None], truth[None])[0], atol=2e-4)
        written = np.asarray(Image.open(tmp_path / "restored" / "denoise-sigma-25" / row["name"]))
        assert float(row[PSNR]) == metrics.psnr(written[None], truth[None])[0]
        assert np.abs(written.astype(int) - x).max() <= 1
    for name in (PSNR, SSIM, f"input {PSNR}"):
        assert float(rows[-1][name]) == pytest.approx(np.mean([float(row[name]) for row in rows[:-1]]), rel=1e-14)


def test_one_program_for_each_canvas_and_any_method(tiny, files, tmp_path):
    data = tmp_path / "data"
    for i, size in enumerate([(12, 60), (64, 64), (30, 11), (65, 20), (128, 64)]):
        images.write(data / f"{i}.png", textured(*size, i))
    before = batches.program.cache_info().misses
    degradations = (*NOISE, Degradation("deblur", "", lambda keys: operators.gaussian_blur(1.6)))
    config = tiny(tmp_path / "out", data=str(data), method="as-given", degradations=degradations)
    outcome = run.evaluate(config, jax.devices()[:2])
    assert batches.program.cache_info().misses - before == 2  # 64 x 64 and 128 x 64
    rows = rows_of(tmp_path / "out" / "scores.csv")
    assert [(row["name"], row["task"]) for row in rows[:4]] == [
        ("0.png", "denoise"), ("0.png", "deblur"), ("1.png", "denoise"), ("1.png", "deblur")]
    assert all(row[PSNR] == row[f"input {PSNR}"] and 15 < float(row[PSNR]) < 45 for row in rows)
    assert [(row["name"], row["task"], row["variant"]) for row in rows[10:]] == [
        ("mean", "denoise", "sigma 25"), ("mean", "deblur", "")] and len(rows) == 12
    assert [row["task"] for row in outcome.means] == ["denoise", "deblur"]


def write_prior(path, **arguments):
    """A weights file of a small diffusion prior."""
    arguments = dict(num_res_blocks=1, attention_resolutions=(), num_groups=4, **arguments)
    shapes = jax.eval_shape(models.DDPMUNet(**arguments).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)),
                            jnp.zeros(1))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.1 * random.normal(size=leaf.shape)).astype(np.float32), shapes)
    weights.save(path, params, {"architecture": "DDPMUNet", "arguments": arguments, "prediction": "eps",
                                "schedule": schedules.to_json("linear", num_timesteps=100)})


@pytest.mark.slow
def test_bird_is_a_method_too(files, tmp_path, monkeypatch):
    """The same bytes on one device, two and eight, in two tiles, and the weights must fit the method."""
    write_prior(tmp_path / "prior.safetensors", channels=8, multipliers=(1,), image_size=16)
    monkeypatch.setitem(bird.DEFAULT, "denoise", bird.Optimisation(num_iterations=3, num_levels=2))
    config = dataclasses.replace(folder_bird.get_config(), data=str(tmp_path / "data"), batch=1,
                                 weights=str(tmp_path / "prior.safetensors"))
    for i in range(3):
        images.write(tmp_path / "data" / f"{i}.png", textured(14, 20 + i, i))
    tables = []
    for devices in (1, 2, 8):
        output = tmp_path / str(devices)
        assert run.evaluate(dataclasses.replace(config, output=str(output)), jax.devices()[:devices]).count == 3
        tables.append((output / "scores.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2] and len(rows_of(output / "scores.csv")) == 4
    once = dataclasses.replace(folder.get_config(), method="once", weights=config.weights, steps=5).restoration()
    assert (once.name, once.task) == ("once", "denoise")
    for changes, said in (({"tasks": ("denoise", "deblur")}, "one of denoise, or deblur and motion"),
                          ({"weights": str(files / "tiny.safetensors")}, "where a diffusion prior of pictures"),
                          ({"method": "indi"}, "where a network that restores directly is needed"),
                          ({"method": "once", "tasks": ("deblur",)}, "once is measured on one of denoise; "),
                          ({"method": "indigo"}, "enlarges 4 times"),
                          ({"method": "birds"}, "unknown method 'birds'; there are indi, once")):
        with pytest.raises(ValueError, match=said):
            run.evaluate(dataclasses.replace(config, output=str(output), **changes))


def test_a_device_takes_fewer_of_larger_pictures():
    assert [batches._rows(plan(*size), 4) for size in ((100, 100), (512, 512), (512, 1024), (3000, 4000))
            ] == [4, 4, 2, 1]


def test_pairs_are_restored_as_they_are(tiny, files, tmp_path):
    for i in range(3):
        images.write(tmp_path / "sharp" / f"{i}.png", textured(20, 20, i))
        images.write(tmp_path / "blurred" / f"{i}.jpg", textured(20, 20, i) // 2)
    config = tiny(tmp_path / "out", data=f"pairs:{tmp_path}/sharp,{tmp_path}/blurred", method="as-given",
                  degradations=())
    run.evaluate(config)
    for i, row in enumerate(rows_of(tmp_path / "out" / "scores.csv")[:-1]):
        pair = [np.asarray(Image.open(tmp_path / name))[None] for name in (f"sharp/{i}.png", f"blurred/{i}.jpg")]
        assert row["task"] == "given" and float(row[PSNR]) == metrics.psnr(*pair)[0]
    with pytest.raises(ValueError, match="holds pairs but the config degrades"):
        run.evaluate(dataclasses.replace(config, degradations=NOISE))
    with pytest.raises(ValueError, match="holds no pairs"):
        run.evaluate(dataclasses.replace(config, data=str(files / "1")))


# ---------------------------------------------------------------------------------------------------- going on

def restored_names(monkeypatch):
    """The names of the pictures that are sent to the devices from now on."""
    names, inner = [], batches.restored

    def spy(jobs, *args, **kwargs):
        return inner((names.append(job.name) or job for job in jobs), *args, **kwargs)

    monkeypatch.setattr(batches, "restored", spy)
    return names


def test_a_stopped_run_goes_on_to_the_same_table(tiny, tables, tmp_path, monkeypatch):
    write, written = records.Records.write, []

    def stop_at_the_sixth(self, name, **values):
        written.append(name)
        if len(written) == 6:
            raise KeyboardInterrupt
        write(self, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr(records.Records, "write", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            run.evaluate(tiny(tmp_path), jax.devices()[:2])
    assert not (tmp_path / "scores.csv").exists()
    sent = restored_names(monkeypatch)
    run.evaluate(tiny(tmp_path), jax.devices()[:4])  # other devices, other neighbours
    assert (tmp_path / "scores.csv").read_bytes() == tables[13]
    assert len(sent) == 8 and not set(sent) & set(written[:5])
    run.evaluate(tiny(tmp_path))
    assert len(sent) == 8


def test_only_what_has_changed_is_done_again(tiny, files, tmp_path, monkeypatch):
    data, output = tmp_path / "data", tmp_path / "out"
    for i in range(3):
        images.write(data / f"{i}.png", textured(20, 20, i))
    run.evaluate(tiny(output, data=str(data)))
    sent, table = restored_names(monkeypatch), rows_of(output / "scores.csv")
    images.write(data / "1.png", textured(20, 20, 7))
    images.write(data / "3.png", textured(20, 20, 3))
    run.evaluate(tiny(output, data=str(data)))
    assert sent == ["1.png", "3.png"]
    rows = rows_of(output / "scores.csv")
    assert rows[0] == table[0] and rows[1] != table[1] and rows[2] == table[2] and len(rows) == 5
    record = next(path for path in (output / "records").iterdir() if "2.png" in path.read_text())
    record.write_text(record.read_text()[:40])  # damaged
    run.evaluate(tiny(output, data=str(data)))
    assert sent == ["1.png", "3.png", "2.png"] and rows_of(output / "scores.csv") == rows
    run.evaluate(tiny(output, data=str(data), pictures=True, limit=2))
    assert sent[3:] == ["0.png", "1.png"] and len(list((output / "restored").rglob("*.png"))) == 2
    assert rows_of(output / "scores.csv")[:2] == rows[:2]


def test_the_results_of_another_run_are_refused(tiny, tables, tmp_path, monkeypatch):
    run.evaluate(tiny(tmp_path, 1))
    for changes, said in (({"seed": 5}, "seed was 0, is 5"), ({"batch": 3}, "batch was 2, is 3"),
                          ({"metrics": ("psnr",)}, "metrics was"), ({"steps": 1}, "steps was 2, is 1"),
                          ({"degradations": (Degradation("denoise", "sigma 25", lambda keys: operators.gaussian_noise(
                              sigma_255=15.0)),)}, "degradations denoise sigma 25 was ")):
        with pytest.raises(ValueError, match=said) as error:
            run.evaluate(tiny(tmp_path, 1, **changes))
        text = str(error.value)
        assert "\n" not in text and str(tmp_path) in text and text.count(", is ") == 1
    with monkeypatch.context() as patch:
        patch.setattr(run, "code", lambda method: "0123456789ab")
        with pytest.raises(ValueError, match="code was fixed, is 0123456789ab; name another folder"):
            run.evaluate(tiny(tmp_path, 1))
    assert (tmp_path / "scores.csv").read_bytes() == tables[1]
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json: damaged"):
        run.evaluate(tiny(tmp_path, 1))


def test_records_belong_to_their_run_and_picture(tmp_path):
    one, other = (records.Records(tmp_path, {"seed": seed}) for seed in (0, 1))
    for name in ("a.png", "x" * 250 + "/" + "y" * 250 + ".png", "caf\udce9\n.png"):
        one.write(name, scores=[])
        assert one.read(name) == {"name": name, "run": one.run, "scores": []} and other.read(name) is None
    assert one.read("b.png") is None and len(list((tmp_path / "records").iterdir())) == 3


def test_code_means_the_sources_of_packages_and_method(tmp_path, monkeypatch):
    for name in ("__init__.py", "models/inner.py", "cli/inner.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ONE = 1")
    monkeypatch.setattr(run.indigo_jax, "__file__", str(tmp_path / "__init__.py"))
    indi, own = (object.__new__(method) for method in (methods.METHODS["indi"], AsGiven))
    before = CODE(indi)
    assert len(before) == 12 and CODE(own) != before  # of another file
    (tmp_path / "cli" / "inner.py").write_text("ONE = 2")
    assert CODE(indi) == before
    (tmp_path / "models" / "inner.py").write_text("ONE = 2")
    assert CODE(indi) != before


# ---------------------------------------------------------------------------------------------------- bad pictures

def test_bad_pictures_are_named_and_the_others_scored(tiny, files, tmp_path, capsys, monkeypatch):
    data, output = tmp_path / "data", tmp_path / "out"
    images.write(data / "good.png", textured(20, 20, 0))
    images.write(data / "small.png", textured(8, 30, 1))
    (data / "torn.png").write_bytes((data / "good.png").read_bytes()[:200])
    monkeypatch.setattr(run.common, "config_from_command_line", lambda *args, **_: tiny(output, data=str(data)))
    assert run.main([]) == 1
    printed = capsys.readouterr()
    assert "small.png: SSIM needs at least 11 x 11" in printed.err
    assert "torn.png: a truncated or damaged PNG" in printed.err
    assert "1 pictures" in printed.out and "2 failed: small.png, torn.png" in printed.out
    assert [row["name"] for row in rows_of(output / "scores.csv")] == ["good.png", "mean"]
    images.write(data / "torn.png", textured(20, 20, 2))
    (data / "small.png").unlink()
    assert run.main([]) == 0  # tried again
    assert [row["name"] for row in rows_of(output / "scores.csv")] == ["good.png", "torn.png", "mean"]


def test_a_restoration_of_nan_is_a_failure(tiny, files, tmp_path):
    outcome = run.evaluate(tiny(tmp_path, 1, method="as-given", settings={"broken": True}))
    assert outcome.count == 0 and not (tmp_path / "scores.csv").exists()
    assert list(outcome.failed.values()) == ["part-0/00.png: the restoration holds NaN or infinity"]


def test_a_degradation_must_keep_the_size(tiny, tmp_path):
    smaller = (Degradation("sr", "", lambda keys: operators.downsample(2)),)
    with pytest.raises(ValueError, match="degradation sr makes .* keeps the size"):
        run.evaluate(tiny(tmp_path, 1, degradations=smaller, method="as-given"))


@pytest.mark.parametrize("name, place", [
    ("a.png", "a.png"), ("b/a.jpg", "b/a.jpg.png"), ("a.jpg.png", "a.jpg.png.png"), ("A.PNG", "A.PNG.png"),
    ("3", "3.png")])
def test_no_two_pictures_share_a_place(name, place):
    assert records.picture_name(name) == place


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", "..\\a.png"])
def test_no_picture_leaves_the_output(name):
    with pytest.raises(ValueError, match="no name for a file"):
        records.picture_name(name)


# ---------------------------------------------------------------------------------------------------- command line

def command(files, output, count=13, *more):
    return ["--config", str(ROOT / "eval" / "configs" / "folder.py"), "--data", str(files / str(count)), "--output",
            str(output), "--weights", str(files / "tiny.safetensors"), "--steps", "2", "--batch", "2", *more]


@pytest.mark.parametrize("changes, named", [
    ({"--data": "{tmp}/empty"}, "no pictures in this folder"), ({"--data": "{tmp}/none"}, "no such folder"),
    ({"--output": "{tmp}/file"}, "is a file"), ({"--output": "{data}/out"}, "lies in --data"),
    ({"--weights": "no-such"}, "no weights of this name"),
    ({"--config": "no/such.py"}, "config no/such.py not found; there are: folder.py, folder_bird.py"),
    ({"--config": "{root}/eval/configs/photo_degradations.py"}, "is no config of eval.run"),
    ({"--tasks": "ct"}, "--tasks ct: not in this config; there are: denoise, deblur, motion, sr, jpeg"),
    ({"--metrics": "sharpness"}, "unknown metric 'sharpness'"), ({"--output": ""}, "--data FOLDER --output FOLDER")])
def test_what_the_user_can_put_right_is_one_line(changes, named, files, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    arguments = command(files, tmp_path / "out", 1)
    for option, value in changes.items():
        arguments += [option, value.format(tmp=tmp_path, data=files / "1", root=ROOT)]
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_without_a_config_and_with_help(capsys):
    assert run.main([]) == 2 and "--config eval/configs/folder.py" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    assert stop.value.code == 0 and "--num-processes" in capsys.readouterr().out


def test_killed_at_any_moment_it_ends_with_the_same_table(files, tables, tmp_path, capsys):
    """SIGKILL after some records, by a process with one device; the rest is done here with eight."""
    slowly = ("import sys, time\nfrom eval import run\nfrom eval.run import records\nwrite = records.Records.write\n"
              "run.code = lambda method: 'fixed'\n"
              "def slow(*args, **kwargs):\n    write(*args, **kwargs)\n    time.sleep(0.3)\n"
              "records.Records.write = slow\nsys.exit(run.main(sys.argv[1:]))")
    process = subprocess.Popen([sys.executable, "-c", slowly, *command(files, tmp_path)], cwd=ROOT,
                               env=environment(devices=1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    since = time.monotonic()
    while len(list(tmp_path.glob("records/*.json"))) < 4:
        assert process.poll() is None and time.monotonic() < since + 300, process.communicate(timeout=10)[0].decode()
        time.sleep(0.02)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("records/[!.]*.json")}
    assert 4 <= len(kept) < 13 and not (tmp_path / "scores.csv").exists()
    assert run.main(command(files, tmp_path)) == 0
    assert (tmp_path / "scores.csv").read_bytes() == tables[13]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    printed = capsys.readouterr().out
    assert printed.startswith(f"denoise (sigma 25): {PSNR} ") and f"13 pictures, see {tmp_path}" in printed


# ---------------------------------------------------------------------------------------------------- processes

def environment(devices):
    return {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


@pytest.fixture
def two(tmp_path, monkeypatch):
    """The first of two processes; the second is what the test writes."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.Peers, "barrier", lambda self, name: None)
    folder = tmp_path / ".processes"
    folder.mkdir()
    return processes.Peers(tmp_path, 0.3), folder / "1.json"


def test_a_process_waits_for_the_others(two):
    peers, other = two
    with pytest.raises(ValueError, match="no news for 0.3 s .* from process 0, 1; all processes must see the same"):
        peers.begin()
    other.write_text(json.dumps({"done": 1}))
    peers.begin()
    peers.tell(3)
    with pytest.raises(ValueError, match="no news for 0.3 s .* from process 1; .* what is done is kept"):
        peers.wait()
    other.write_text(json.dumps({"finished": True}))
    peers.wait()
    peers.end()
    assert not other.parent.exists()


def test_a_process_that_stops_stops_the_others(two):
    peers, other = two
    other.write_text(json.dumps({"error": "its disk is full"}))
    with pytest.raises(ValueError, match="process 1 stopped: its disk is full"):
        peers.wait()


@pytest.mark.slow
def test_two_processes_write_the_same_table(files, tables, tmp_path):
    """Two devices each; of one picture, the second process has none."""
    script = ("import sys\nfrom eval import run\nrun.code = lambda method: 'fixed'\n"
              "calls = ' '.join(sys.argv[2:]).split(' then ')\n"
              "start = sys.argv[1].split()\n"
              "codes = [run.main(call.split() + start * (i == 0)) for i, call in enumerate(calls)]\n"
              "sys.exit(max(codes))")
    calls = " then ".join(" ".join(command(files, tmp_path / str(count), count)) for count in COUNTS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, "-c", script, f"--coordinator 127.0.0.1:{port} --num-processes 2 --process-id {i}", calls],
        cwd=ROOT, env=environment(devices=2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(2)]
    printed = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    for count in COUNTS:
        assert (tmp_path / str(count) / "scores.csv").read_bytes() == tables[count]
        assert not (tmp_path / str(count) / ".processes").exists()
    assert printed[0].count("pictures, see") == 4 and "pictures, see" not in printed[1]


# ---------------------------------------------------------------------------------------------------- as users do it

@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirteen pictures, and a network with sums over all pixels that are long enough to be shared among threads."""
    folder = tmp_path_factory.mktemp("as-users")
    for i in range(13):
        images.write(folder / "data" / f"{i:02}.png", textured(200, 196, i))
    arguments = {**networks.ARGUMENTS, "norm": "group"}
    weights.save(folder / "group.safetensors", networks.params(norm="group"), {**networks.INFO, "arguments": arguments})
    return folder


def start_alone(photographs, output, devices, *more, program=("-m", "eval.run")):
    """``python -m eval.run``, compiled with optimisation and without a cache, as on a machine with one core."""
    tuned = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    env = {name: value for name, value in environment(devices).items() if name not in tuned}
    return subprocess.Popen(
        [sys.executable, *program, "--config", "eval/configs/folder.py", "--data", str(photographs / "data"),
         "--output", str(output), "--weights", str(photographs / "group.safetensors"), "--steps", "2", *more],
        cwd=ROOT, env={**env, "PJRT_NPROC": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(processes):
    printed = [process.communicate(timeout=400)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(printed)


@pytest.fixture(scope="module")
def table_of_one(photographs):
    finished([start_alone(photographs, photographs / "1", 1)])
    return (photographs / "1" / "scores.csv").read_bytes()


@pytest.mark.parametrize("devices", [4, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 8))])
def test_processes_with_other_numbers_of_devices_write_the_same_table(devices, photographs, table_of_one, tmp_path):
    """Whatever machine code the compiler and its libraries choose for their number of threads."""
    finished([start_alone(photographs, tmp_path, devices)])
    assert (tmp_path / "scores.csv").read_bytes() == table_of_one and len(rows_of(tmp_path / "scores.csv")) == 14


@pytest.mark.slow
def test_two_processes_together_write_the_table_of_one(photographs, table_of_one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finished([start_alone(photographs, tmp_path, devices, "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2",
                          "--process-id", str(i)) for i, devices in enumerate((1, 4))])
    assert (tmp_path / "scores.csv").read_bytes() == table_of_one


BIRD_ON_ONE_AND_TWO = """
import dataclasses, sys
import jax, numpy as np
from eval.configs import folder_bird
from indigo_jax import rng, sharding
from indigo_jax.methods import bird
bird.DEFAULT["denoise"] = bird.Optimisation(num_iterations=3, num_levels=2)
method = dataclasses.replace(folder_bird.get_config(), weights=sys.argv[1], tasks=("denoise",)).restoration()
plan = method.plan(60, 60)
def restore(params, batch):
    keys = rng.image_keys(0, batch["id"])
    return method.solve(params, batch["y"], keys, plan=plan, given=method.estimated(batch["y"])).x
batch = {"y": np.random.default_rng(0).uniform(-1, 1, (2, *plan.canvas, 3)).astype(np.float32),
         "id": np.arange(2, dtype=np.uint32)}
found = []
for devices in (1, 2):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    program, params = sharding.same_program(restore, mesh), jax.device_put(method.params, sharding.replicated(mesh))
    rows = [{name: value[i:i + devices] for name, value in batch.items()} for i in range(0, 2, devices)]
    found.append(np.concatenate([program(params, sharding.put_batch(row, mesh)) for row in rows]))
assert np.isfinite(found).all() and (found[0] == found[1]).all(), np.abs(found[0] - found[1]).max()
"""


@pytest.mark.slow
def test_bird_is_the_same_program_on_one_device_and_on_two(tmp_path):
    """To the last bit of its float32; as one program for several devices it is compiled into something else."""
    write_prior(tmp_path / "prior.safetensors", channels=16, multipliers=(1, 2), image_size=64)
    done = subprocess.run([sys.executable, "-c", BIRD_ON_ONE_AND_TWO, str(tmp_path / "prior.safetensors")], cwd=ROOT,
                          env=environment(2), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
