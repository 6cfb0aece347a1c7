"""The command line: exit codes, one line for everything that goes wrong, nothing half written, the same bytes."""
import csv
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from indigo_jax import checkpoints, cli, images, methods, weights
from indigo_jax.cli.degrade import OPERATORS
from tests import networks
from tests.paths import ROOT


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return str(networks.write_weights(tmp_path_factory.mktemp("net") / "tiny.safetensors"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in a folder of its own, on one device, so that a program is compiled once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.fixture
def indigo(capsys, net):
    """Run a command; returns (exit code, lines of stdout, lines of stderr). ``restore`` is by the tiny network and
    InDI where nothing else is said."""
    def run(*argv):
        argv = [str(word) for word in argv]
        if argv[0] == "restore":
            argv += ["--weights", net] * ("--weights" not in argv) + ["--method", "indi"] * ("--method" not in argv)
        capsys.readouterr()
        code = cli.main(argv)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out.splitlines(), err.splitlines()
    return run


def photo(path, height=20, width=30, seed=0, mode="RGB"):
    """Write a picture of noise."""
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values[..., 0] if channels == 1 else values).save(path)
    return path


def bomb(path, side=50_000):
    """A PNG of a few bytes that claims to be side x side."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
                                   + chunk(b"IEND", b""))


def tree(folder, hidden=False):
    """{file below a folder: sha256}, without the hidden one that says what is done."""
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in pathlib.Path(folder).rglob("*") if file.is_file() and (hidden or file.name[0] != ".")}


# ---------------------------------------------------------------- wrong usage: exit 2, one line, nothing written

def wrong_usage(run, *argv):
    before = tree(".", hidden=True)
    code, out, err = run(*argv)
    assert code == 2 and not out and len(err) == 1, (code, out, err)
    assert tree(".", hidden=True) == before
    return err[0]


@pytest.mark.parametrize("line, says", [
    ("restore", "INPUT"),
    ("restore a.png", "--output"),
    ("restor a.png -o b.png", "did you mean 'restore'"),
    ("restore a.png -o b.png --task denoize", "did you mean 'denoise'"),
    ("restore a.png -o b.png --task restoration", "There is: auto, denoise, deblur, nonuniform, sr, jpeg"),
    ("restore a.png -o b.png --method indi --task ct", "--task ct is for --method diffpir; add that"),
    ("restore a.png -o b.png --method bird", "--method bird needs a --task. There is: deblur, nonuniform, sr"),
    ("restore a.png -o b.png --strenght 1", "unknown option --strenght; did you mean '--strength'? --help has all"),
    ("restore a.png -o b.png --method brid", "There is: auto, indi, once, look"),
    ("restore a.png -o b.png --method auto --mask m.png", "--mask is for --task inpaint; add that, or leave it out"),
    ("restore a.png -o b.png --method auto --kernel k.npy --task jpeg", "--kernel is for --task deblur; add that"),
    ("restore a.png -o b.png --method auto --task jpeg --tile 64 --zeta 0", "no method takes all of"),
    ("restore a.png -o b.png --method auto --task inpaint", "no method takes a network that restores directly for it"),
    ("restore a.png -o b.png --method hqs --task inpaint", "--task inpaint needs --mask FILE, a picture in which"),
    ("restore a.png -o b.png --mask m.png", "--mask is for --method hqs and diffpir and bird and ddnm and"),
    ("restore a.png -o b.png --method once --task denoise --kernel k.npy", "--kernel is for --method hqs and blind"),
    ("restore a.png -o b.png --method once --task denoise --strength 2", "give a number from 0 to 1, not '2'"),
    ("restore a.png -o b.png --stpes 3", "did you mean '--steps'"),
    ("restore a.png -o b.png --steps 0", "whole number from 1"),
    ("restore a.png -o b.png --steps 1e-4", "whole number"),
    ("restore a.png -o b.png --scale 2", "add --task sr"),
    ("restore a.png -o b.png --tile 10", "from 64"),
    ("restore a.png -o b.png --seed -1", "from 0"),
    ("restore a.png -o b.png --report r.txt", "r.json"),
    ("restore missing -o out", "missing: no such file or folder"),
    ("restore empty -o out", "no pictures in this folder"),
    ("restore pictures -o out.png", "name a folder: out"),
    ("restore a.png pictures -o out.png", "name a folder: out"),
    ("restore a.png -o a.png", "would overwrite an INPUT"),
    ("restore pictures -o pictures", "cannot go into the folder that is read"),
    ("restore a.png -o notes.txt", "a file, but no picture name"),
    ("restore a.png -o b.gif", ".gif cannot be written"),
    ("restore a.png -o b.png --compare a.png", "would overwrite an INPUT"),
    ("restore a.png -o b.png --compare b.png", "where a result goes"),
    ("restore pictures other -o out", "both be written to out/x.png"),
    ("restore a.png -o b.png --weights indi-foto", "no weights of this name"),
    ("restore a.png -o b.png --weights missing.safetensors", "no such weights file"),
    ("restore a.png -o b.png --weights notes.txt", "not a safetensors file"),
    ("restore a.png -o b.png --weights model.pth", "refused"),
    ("degrade a.png -o b.png", "--operator"),
    ("degrade a.png -o b.png --operator gausian-noise", "did you mean 'gaussian-noise'"),
    ("degrade a.png -o b.png --operator jpeg --factor 3", "--factor does nothing with jpeg, which takes --quality"),
    ("degrade a.png -o b.png --operator jpeg --quality 0", "from 1 to 100"),
    ("degrade a.png -o b.png --operator blur", "needs --kernel"),
    ("degrade a.png -o b.png --operator blur --kernel k.npy", "no such file"),
    ("degrade a.png -o b.png --operator blur --kernel notes.txt", "unknown type '.txt'"),
    ("evaluate --reference pictures", "--restored"),
    ("evaluate --reference pictures --restored missing", "--restored missing: no such file or folder"),
    ("evaluate --reference pictures --restored empty", "no pictures"),
    ("evaluate --reference pictures --restored a.png", "two folders or two files"),
    ("evaluate --reference pictures --restored elsewhere", "no name is in both"),
    ("evaluate --reference pictures --restored other --metrics pnsr", "unknown metric 'pnsr'"),
    ("evaluate --reference pictures --restored other --metrics psnr,psnr", "each metric once"),
    ("evaluate --reference pictures --restored other --metrics lpips", "INDIGO_LPIPS"),
    ("evaluate --reference pictures --restored other -o table.txt", "table.csv"),
    ("weights", "ACTION"),
    ("weights lst", "did you mean 'list'"),
    ("weights convert pictures -o w.safetensors --from indigo", "not a training run"),
    ("weights convert pictures -o w.safetensors --from torch", "There is: auto, indigo"),
    ("page", "There is: restore, methods, degrade, evaluate, weights, cache, demo"),
])
def test_wrong_usage(line, says, indigo, monkeypatch):
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    for name in ("a.png", "pictures/x.png", "other/x.png", "elsewhere/y.png"):
        photo(name)
    pathlib.Path("empty").mkdir()
    pathlib.Path("notes.txt").write_text("not a picture, nor weights")
    pathlib.Path("model.pth").write_bytes(b"\x80\x02}q\x00.")
    message = wrong_usage(indigo, *line.split())
    assert says in message and message.startswith("indigo")


def test_a_choice_of_any_method_is_known_without_a_method(indigo):
    """Two methods have a --preset, each with names of its own."""
    photo("a.png")
    for name in ("syn", "official"):  # of indigo; of bird
        assert "unknown --preset" not in wrong_usage(indigo, "restore", "a.png", "-o", "b.png", "--preset", name)
    assert "fast, official, syn, real" in wrong_usage(indigo, "restore", "a.png", "-o", "b.png", "--preset", "none")


def test_a_task_that_the_weights_do_not_know(indigo, tmp_path):
    photo("a.png")
    path = networks.write_weights(tmp_path / "denoiser.safetensors", tasks=["denoise"])
    message = wrong_usage(indigo, "restore", "a.png", "-o", "b.png", "--task", "sr", "--weights", path)
    assert "were not trained for sr; use auto or one of denoise" in message


@pytest.mark.parametrize("command", ["", "restore", "methods", "degrade", "evaluate", "weights",
                                     "weights convert", "cache"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([*command.split(), "--help"])
    assert left.value.code == 0 and f"usage: indigo {command}".strip() in capsys.readouterr().out


# ---------------------------------------------------------------- restore by what is wrong and what is known

@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return str(networks.write_denoiser(tmp_path_factory.mktemp("net") / "denoiser.safetensors"))


@pytest.mark.parametrize("words, says", [
    ("", "indi: it is the first that takes --weights"), ("--task jpeg", "indi: it is the first that takes --weights"),
    ("--task deblur", "indi: it is the first that takes --weights"),
    ("--task deblur --kernel-size 3 --steps 1 --weights denoiser",
     "blind: it looks for the kernel; --method indi is quick and modest"),
    ("--task denoise --steps 2", "indi: it is the first that takes --steps and --weights"),
    ("--task denoise --weights denoiser", "once: one call at the noise level has the least error"),
    ("--task deblur --kernel k.npy --steps 2 --weights denoiser", "hqs: the kernel is known"),
    ("--task inpaint --mask m.png --steps 2 --weights denoiser", "hqs: it fills holes with the least error")])
def test_the_method_is_chosen_and_said(words, says, indigo, denoiser):
    photo("a.png", 8, 8)
    np.save("k.npy", np.full((3, 3), 1 / 9))
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("m.png")
    words = words.replace("denoiser", denoiser, 1) if words.endswith("denoiser") else words
    code, out, err = indigo("restore", "a.png", "-o", "b.png", "--method", "auto", "--report", "r.json", *words.split())
    assert (code, err) == (0, [f"indigo restore: --method {says}"]) and out[0].startswith("b.png: 8 x 8 pixels, ")
    report = json.loads(pathlib.Path("r.json").read_text())
    assert report["method"] == says.split(":")[0] and report["files"][0]["network_evaluations"] >= 1


@pytest.mark.parametrize("words", ["", "--task denoise", "--task deblur --kernel k.npy", "--task inpaint --mask m.png"])
def test_the_prior_of_photographs_is_the_default_where_a_level_is_known(words):
    photo("a.png", 16, 16)
    np.save("k.npy", np.full((3, 3), 1 / 9))
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save("m.png")
    assert cli.main(["restore", "a.png", "-o", "b.png", "--report", "r.json", *words.split()]) == 0
    assert json.loads(pathlib.Path("r.json").read_text())["files"][0]["weights"] == "photo"
    assert images.read("b.png").pixels.shape == (16, 16, 3)


def test_the_bundled_restorer_is_the_default_of_what_it_was_trained_for(capsys):
    photo("a.png", 8, 8)
    assert cli.main(["restore", "a.png", "-o", "b.png", "--task", "sr"]) == 0
    assert "--method indi" in capsys.readouterr().err and images.read("b.png").pixels.shape == (32, 32, 3)


# ---------------------------------------------------------------- restore

def test_one_picture(indigo):
    photo("a.png")
    code, out, err = indigo("restore", "a.png", "-o", "b.png")
    assert (code, err) == (0, []) and len(out) == 1
    assert out[0].startswith("b.png: 30 x 20 pixels, 1 step, ")
    assert images.read("b.png").pixels.shape == (20, 30, 3)
    assert (images.read("b.png").pixels != images.read("a.png").pixels).mean() > 0.5


def test_good_and_bad_pictures_in_one_folder(indigo):
    photo("in/good.png")
    photo("in/deep/er/good.png", seed=1)
    data = photo("in/cut.png").read_bytes()
    pathlib.Path("in/cut.png").write_bytes(data[:len(data) // 2])
    pathlib.Path("in/text.png").write_text("hello")
    pathlib.Path("in/zero.png").touch()
    pathlib.Path("in/line\nbreak.png").touch()
    bomb("in/bomb.png")
    code, out, err = indigo("restore", "in", "nowhere", "-o", "out", "--report", "report.json")
    assert code == 1 and len(out) == 1 and out[0].startswith("2 of 7 pictures restored into out in ")
    assert out[0].endswith("6 failed")
    assert set(tree("out")) == {"good.png", "deep/er/good.png"}
    for name, reason in (("cut.png", "truncated"), ("text.png", "text, not a picture"), ("zero.png", "an empty file"),
                         ("bomb.png", "50000 x 50000 pixels, more than the limit"), ("nowhere", "no such file"),
                         (r"line\nbreak.png", "an empty file")):
        assert [line for line in err if name in line and reason in line], (name, err)
    assert len(err) == 6
    report = json.loads(pathlib.Path("report.json").read_text())
    assert report["counts"] == {"done": 2, "skipped": 0, "failed": 6, "left out": 0}
    assert [row["status"] for row in report["files"]].count("failed") == 6 and len(report["files"]) == 8
    assert all(("reason" in row) == (row["status"] == "failed") for row in report["files"])


@pytest.mark.parametrize("height, width, mode", [
    (1, 1, "RGB"), (7, 5, "RGB"), (5, 7, "L"), (9, 6, "RGBA"), (6, 9, "LA"), (1, 40, "L")])
def test_size_greyness_and_transparency_are_kept(height, width, mode, indigo):
    photo("a.png", height, width, mode=mode)
    assert indigo("restore", "a.png", "-o", "b.png")[0] == 0
    with Image.open("a.png") as before, Image.open("b.png") as after:
        assert after.size == (width, height) and after.mode == mode
        if mode.endswith("A"):
            np.testing.assert_array_equal(np.asarray(after)[..., -1], np.asarray(before)[..., -1])


def test_sixteen_bit_grey(indigo):
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save("a.png")
    assert indigo("restore", "a.png", "-o", "b.png")[0] == 0
    assert images.read("b.png").sixteen_bit
    assert len(np.unique(images.read("b.png").pixels)) > 300


def test_alone_in_a_folder_and_under_another_name_gives_the_same_bytes(indigo):
    for i in range(3):
        photo(f"in/{i}.png", seed=i)
    assert indigo("restore", "in", "-o", "out")[0] == 0
    pathlib.Path("in/1.png").rename("renamed.png")
    assert indigo("restore", "renamed.png", "-o", "alone.png")[0] == 0
    assert indigo("restore", "renamed.png", "-o", "seed.png", "--seed", "1")[0] == 0
    assert pathlib.Path("alone.png").read_bytes() == pathlib.Path("out/1.png").read_bytes()
    assert pathlib.Path("alone.png").read_bytes() != pathlib.Path("seed.png").read_bytes()


@pytest.mark.slow  # test_methods.py asks the same of every method
def test_one_and_eight_devices_give_the_same_bytes(net):
    for i in range(2):
        photo(f"in/{i}.png", 60, 40 + 4 * i, seed=i)
    photo("in/large.png", 70, 100, seed=9)
    code = "import jax, sys; from indigo_jax.cli import main; assert len(jax.devices()) == int(sys.argv[1]); " \
           "sys.exit(main(sys.argv[2:]))"
    for count in (1, 8):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
                       "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        run = subprocess.run(
            [sys.executable, "-c", code, str(count), "restore", "in", "-o", str(count), "--weights", net, "--steps",
             "2", "--tile", "64", "--report", f"{count}.json"],
            env=environment, capture_output=True, text=True, timeout=500)
        assert run.returncode == 0, run.stderr
    assert tree("1") == tree("8") and len(tree("1")) == 3
    devices = {row["device"] for row in json.loads(pathlib.Path("8.json").read_text())["files"]}
    assert len(devices) == 3
    large = json.loads(pathlib.Path("1.json").read_text())["files"][-1]
    assert large["input"] == "in/large.png" and large["network_evaluations"] == 8  # 2 x 2 tiles, 2 steps


def test_names(indigo):
    for name in ("in/a.png", "in/a.jpg", "in/A.bmp", "in/sub/naïve 画.webp", "in/-dash.png"):
        photo(name)
    assert indigo("restore", "in", "-o", "out")[0] == 0
    assert set(tree("out")) == {"a.png", "a.jpg.png", "A.png", "sub/naïve 画.png", "-dash.png"}


def test_results_inside_the_input_are_not_read_again(indigo):
    photo("in/a.png")
    for _ in range(2):
        assert indigo("restore", "in", "-o", "in/out")[0] == 0
    assert set(tree("in")) == {"a.png", "out/a.png"}


def test_a_file_given_twice_is_done_once(indigo):
    photo("in/a.png")
    code, out, _ = indigo("restore", "in/a.png", "./in/a.png", "-o", "out")
    assert code == 0 and out[0].startswith("out/a.png: ")


def test_existing_results_are_replaced_or_skipped(indigo):
    photo("in/a.png")
    photo("in/b.png", seed=1)
    assert indigo("restore", "in", "-o", "out")[0] == 0
    whole = tree("out")
    pathlib.Path("out/a.png").write_bytes(b"mine")
    pathlib.Path("out/b.png").unlink()
    code, out, _ = indigo("restore", "in", "-o", "out", "--skip-existing")
    assert code == 0 and "1 of 2 pictures" in out[0] and "1 skipped" in out[0]
    assert pathlib.Path("out/a.png").read_bytes() == b"mine" and tree("out")["b.png"] == whole["b.png"]
    assert indigo("restore", "in", "-o", "out")[0] == 0
    assert tree("out") == whole


def test_interrupted_and_started_again(indigo, monkeypatch):
    for i in range(3):
        photo(f"in/{i}.png", seed=i)
    assert indigo("restore", "in", "-o", "whole")[0] == 0
    replace, calls = os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == 3:  # two for each picture
            raise KeyboardInterrupt
        return replace(*paths)
    monkeypatch.setattr(os, "replace", interrupted)
    code, out, err = indigo("restore", "in", "-o", "out")
    assert code == 130 and not out and len(err) == 1 and "interrupted" in err[0]
    assert set(os.listdir("out")) == {"0.png", ".indigo-manifest.jsonl"}
    code, out, _ = indigo("restore", "in", "-o", "out")
    assert code == 0 and out[0].startswith("2 of 3 pictures") and out[0].endswith(", 1 skipped")
    assert tree("out") == tree("whole")


def test_a_full_disk_is_that_pictures_failure(indigo, monkeypatch):
    photo("in/a.png")
    photo("in/b.png", seed=1)
    replace = os.replace

    def full(source, target):
        if pathlib.Path(target).name == "a.png":
            raise OSError(28, "No space left on device")
        return replace(source, target)
    monkeypatch.setattr(os, "replace", full)
    code, _, err = indigo("restore", "in", "-o", "out")
    assert code == 1 and len(err) == 1 and "out/a.png" in err[0] and "No space left" in err[0]
    assert set(os.listdir("out")) == {"b.png", ".indigo-manifest.jsonl"}


def test_memory_that_runs_out_is_one_line(indigo, monkeypatch):
    photo("a.png")

    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9999999999 bytes.")
    monkeypatch.setattr(methods.Restoration, "__call__", exhausted)
    code, out, err = indigo("restore", "a.png", "-o", "b.png")
    assert code == 1 and len(err) == 1
    assert err[0].startswith("indigo restore: a.png: not enough memory; make the picture smaller")


def test_when_memory_runs_out_smaller_pieces_are_tried(indigo, monkeypatch):
    photo("a.png", 70, 200)
    assert indigo("restore", "a.png", "-o", "wanted.png", "--tile", "64")[0] == 0
    run, tried = methods.Restoration.run, []

    def exhausted(self, y, keys, plan, *more):
        tried.append(plan.tile)
        if max(plan.tile) > 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9999999999 bytes.")
        return run(self, y, keys, plan, *more)
    monkeypatch.setattr(methods.Restoration, "run", exhausted)
    code, out, err = indigo("restore", "a.png", "-o", "b.png")
    assert code == 0 and tried == [(128, 256), (128, 128), (64, 64)]
    assert err == ["indigo restore: note: a.png: not enough memory; is restored in pieces of 128 x 128 pixels",
                   "indigo restore: note: a.png: not enough memory; is restored in pieces of 64 x 64 pixels"]
    assert pathlib.Path("b.png").read_bytes() == pathlib.Path("wanted.png").read_bytes()


def test_a_program_that_does_not_fit_is_not_begun(indigo, monkeypatch):
    photo("a.png", 20, 200)
    monkeypatch.setattr(methods.memory, "_LARGE", 1)
    monkeypatch.setattr(methods.memory, "free_memory", lambda device: 1000)
    code, out, err = indigo("restore", "a.png", "-o", "b.png")
    assert code == 1 and not os.path.exists("b.png") and "in pieces of 64 x 64" in err[-2]
    assert re.search(r"a.png: not enough memory, the program needs [\d.]+ GB and 0.0 GB are free", err[-1])
    monkeypatch.setattr(methods.memory, "free_memory", lambda device: 10**10)
    assert indigo("restore", "a.png", "-o", "b.png")[0] == 0


def test_samples_compare_and_report(indigo, net):
    photo("in/a.png")
    code, _, _ = indigo("restore", "in", "-o", "out", "--samples", "2", "--steps", "2", "--compare", "seen",
                        "--report", "report.json")
    assert code == 0
    assert set(tree("out")) == {"a-1.png", "a-2.png", "a-mean.png", "a-spread.png"}
    assert len(set(tree("out").values())) == 4
    seen = images.read("seen/a.png").pixels
    assert seen.shape[0] > 20 and seen.shape[1] == 3 * 30 + 2 * 4
    row, = json.loads(pathlib.Path("report.json").read_text())["files"]
    assert row.pop("seconds") > 0 and row.pop("device").startswith("cpu:0") and row.pop("spread_255") > 0
    assert row == {"input": "in/a.png", "status": "done", "outputs": ["out/a-1.png", "out/a-2.png"], "width": 30,
                   "mean": "out/a-mean.png", "spread_map": "out/a-spread.png", "spread": "spread of this method",
                   "height": 20, "steps": 2, "network_evaluations": 4, "tiles": 1, "weights": "tiny",
                   "sha256": hashlib.sha256(pathlib.Path(net).read_bytes()).hexdigest()}


def test_super_resolution(indigo):
    photo("a.png", 5, 7)
    assert indigo("restore", "a.png", "-o", "b.png", "--task", "sr", "--compare", "c.png")[0] == 0
    assert images.read("b.png").pixels.shape == (20, 28, 3)
    assert indigo("restore", "a.png", "-o", "b.png", "--task", "sr", "--scale", "2")[0] == 0
    assert images.read("b.png").pixels.shape == (10, 14, 3)


def test_an_animation_says_that_its_first_frame_was_taken(indigo):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    frames[0].save("a.tif", save_all=True, append_images=frames[1:])
    code, _, err = indigo("restore", "a.tif", "-o", "b.png")
    assert code == 0 and err == ["indigo restore: note: a.tif: the first of 2 pages or frames"]


# ---------------------------------------------------------------- degrade

@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator(name, indigo):
    photo("a.png", 24, 32)
    np.save("k.npy", np.full((3, 3), 1 / 9))
    kernel = ["--kernel", "k.npy"] if name == "blur" else []
    code, out, err = indigo("degrade", "a.png", "-o", "b.png", "--operator", name, *kernel)
    assert (code, err) == (0, []) and name in out[0]
    x, y = images.read("a.png").pixels, images.read("b.png").pixels
    assert y.shape == ((6, 8, 3) if name == "downsample" else x.shape)
    assert name == "downsample" or np.abs(x - y).mean() > 0.02


def test_one_thing_has_one_name(indigo):
    """What restore --task sr undoes is --operator sr; the longer names are understood, too."""
    photo("a.png", 8, 12)
    for name in ("sr", "downsample"):
        assert indigo("degrade", "a.png", "-o", f"{name}.png", "--operator", name, "--factor", "2")[0] == 0
    assert pathlib.Path("sr.png").read_bytes() == pathlib.Path("downsample.png").read_bytes()
    for name in ("sr", "super-resolution"):
        assert indigo("restore", "sr.png", "-o", f"x-{name}.png", "--task", name, "--scale", "2")[0] == 0
    assert images.read("x-super-resolution.png").pixels.shape == images.read("a.png").pixels.shape == (8, 12, 3)


def test_a_method_of_one_task_needs_no_other_word(indigo, denoiser, tmp_path):
    """Nobody hears of a task auto that was not given; what the flags are for is the task."""
    photo("a.png", 8, 8)
    np.save("k.npy", np.full((3, 3), 1 / 9))
    for words in (("--method", "blind", "--kernel-size", "3"), ("--method", "hqs", "--kernel", "k.npy")):
        assert indigo("restore", "a.png", "-o", "b.png", *words, "--weights", denoiser, "--steps", "1", "--report",
                      "r.json")[0] == 0
        assert json.loads(pathlib.Path("r.json").read_text())["task"] == "deblur"
    message = wrong_usage(indigo, "restore", "a.png", "-o", "c.png", "--method", "bird", "--weights", denoiser)
    assert message.startswith("indigo restore: --method bird needs a --task. There is: deblur, nonuniform")
    assert "auto" not in message
    with pytest.raises(ValueError, match="bird needs a task; there is deblur, nonuniform"):
        methods.load("bird", weights=denoiser)


def test_flags_reach_the_operator(indigo):
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save("a.png")
    for sigma in (5, 20):
        assert indigo("degrade", "a.png", "-o", "b.png", "--operator", "gaussian-noise", "--sigma-255", sigma)[0] == 0
        assert np.asarray(Image.open("b.png"), float).std() == pytest.approx(sigma, rel=0.05)


def test_the_angle_turns_the_motion(indigo):
    photo("a.png", 24, 24)
    rough = {}
    for angle in (0, 90):
        assert indigo("degrade", "a.png", "-o", "b.png", "--operator", "motion-blur", "--angle", angle)[0] == 0
        y = images.read("b.png").pixels
        rough[angle] = np.abs(np.diff(y, axis=1)).mean() / np.abs(np.diff(y, axis=0)).mean()
    assert rough[0] < 0.5 and rough[90] > 2


def test_degrading_keeps_names_transparency_and_bad_company(indigo):
    photo("in/sub/a.png", mode="LA")
    pathlib.Path("in/b.png").write_text("text")
    code, out, err = indigo("degrade", "in", "-o", "out", "--operator", "gaussian-blur", "--sigma", "1")
    assert code == 1 and len(err) == 1 and set(tree("out")) == {"sub/a.png"}
    with Image.open("in/sub/a.png") as before, Image.open("out/sub/a.png") as after:
        assert after.mode == "LA"
        np.testing.assert_array_equal(np.asarray(after)[..., 1], np.asarray(before)[..., 1])


def test_degrading_is_the_same_alone_and_differs_by_seed(indigo):
    photo("in/a.png")
    photo("in/b.png", seed=1)
    noise = ("--operator", "gaussian-noise")
    assert indigo("degrade", "in", "-o", "out", *noise)[0] == 0
    assert indigo("degrade", "in/b.png", "-o", "b.png", *noise)[0] == 0
    assert indigo("degrade", "in/b.png", "-o", "c.png", *noise, "--seed", "7")[0] == 0
    assert pathlib.Path("b.png").read_bytes() == pathlib.Path("out/b.png").read_bytes()
    assert pathlib.Path("b.png").read_bytes() != pathlib.Path("c.png").read_bytes()


# ---------------------------------------------------------------- evaluate

def test_pairs_are_made_by_name(indigo):
    for i, name in enumerate(("a", "deep/b", "c")):
        photo(f"true/{name}.png", seed=i)
    photo("true/only.png")
    photo("got/z.png")
    Image.open("true/a.png").save("got/a.bmp")  # the same pixels
    y = np.asarray(Image.open("true/deep/b.png")).astype(int)
    pathlib.Path("got/deep").mkdir()
    Image.fromarray(np.where(y < 128, y + 10, y - 10).astype(np.uint8)).save("got/deep/b.png")
    photo("got/c.png", 8, 8)  # another size
    code, out, err = indigo("evaluate", "--reference", "true", "--restored", "got", "-o", "scores.csv")
    assert code == 1
    assert len(err) == 3
    assert any("true/only.png: no restored picture" in line for line in err)
    assert any("got/c.png: " in line and "but its reference true/c.png has" in line for line in err)
    assert any("1 restored without a reference" in line and "z" in line for line in err)
    rows = {row["name"]: row for row in csv.DictReader(pathlib.Path("scores.csv").read_text().splitlines())}
    assert list(rows) == ["a", "deep/b", "mean"]
    assert set(rows["mean"]) == {"name", "psnr-rgb-crop0-u8", "ssim-rgb-crop0-u8"}
    assert float(rows["a"]["psnr-rgb-crop0-u8"]) == float(rows["mean"]["psnr-rgb-crop0-u8"]) == np.inf
    assert float(rows["deep/b"]["psnr-rgb-crop0-u8"]) == pytest.approx(20 * np.log10(25.5), abs=1e-9)
    ssim = [float(rows[name]["ssim-rgb-crop0-u8"]) for name in ("a", "deep/b", "mean")]
    assert ssim[0] == pytest.approx(1) and ssim[2] == pytest.approx((ssim[0] + ssim[1]) / 2, abs=1e-12)
    assert out[0].split() == ["name", "psnr-rgb-crop0-u8", "ssim-rgb-crop0-u8"] and out[-1].startswith("mean")


def test_two_files_whatever_their_names(indigo):
    photo("a.png")
    photo("b.png", seed=1)
    code, out, err = indigo("evaluate", "--reference", "a.png", "--restored", "b.png", "--metrics",
                            "psnr-y-bt601-crop4-u8")
    assert (code, err) == (0, []) and out[0].split() == ["name", "psnr-y-bt601-crop4-u8"]
    assert 5 < float(out[1].split()[1]) < 15


def test_nothing_to_measure_is_not_a_mean_of_nothing(indigo):
    photo("true/a.png")
    photo("got/a.png", 8, 8)
    code, out, err = indigo("evaluate", "--reference", "true", "--restored", "got", "-o", "scores.csv")
    assert code == 1 and not out and "nothing could be measured" in err[-1]
    assert not os.path.exists("scores.csv")


def test_two_candidates_for_one_name_are_refused(indigo):
    for name in ("true/a.png", "got/a.png", "got/a.jpg"):
        photo(name)
    assert "differ in the extension only" in wrong_usage(indigo, "evaluate", "--reference", "true", "--restored", "got")


# ---------------------------------------------------------------- weights

def test_weights_without_any(indigo, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "none")
    for action in ("list", "verify"):
        code, out, err = indigo("weights", action)
        assert (code, err) == (0, []) and "no weights" in out[0]


def test_weights_list_and_verify(indigo, tmp_path, monkeypatch, net):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "bundled")
    pathlib.Path("bundled").mkdir()
    for name in ("one", "two"):
        pathlib.Path(f"bundled/{name}.safetensors").write_bytes(pathlib.Path(net).read_bytes())
    weights.update_manifest()
    pathlib.Path("bundled/two.safetensors").write_bytes(b"damaged")
    code, out, err = indigo("weights", "list")
    assert (code, err) == (0, []) and [line.split()[0] for line in out] == ["one", "two"]
    code, out, err = indigo("weights", "verify")
    assert code == 1 and len(out) == len(err) == 1
    assert out[0].startswith("one: good") and "two" in err[0] and "manifest" in err[0]
    assert indigo("weights", "verify", net)[0] == 0
    photo("a.png")
    assert indigo("restore", "a.png", "-o", "b.png", "--weights", "one")[0] == 0
    assert "damaged" in wrong_usage(indigo, "restore", "a.png", "-o", "b.png", "--weights", "two")


def test_weights_convert(indigo, monkeypatch):
    monkeypatch.setattr(checkpoints, "read_config", lambda workdir: networks.INFO)
    monkeypatch.setattr(checkpoints, "latest_step", lambda workdir: 9)
    monkeypatch.setattr(checkpoints, "restore_params", lambda workdir: networks.params())
    code, out, err = indigo("weights", "convert", "run", "-o", "mine.safetensors", "--from", "indigo")
    assert (code, err) == (0, []) and out[0].startswith("mine.safetensors: 41,")
    assert weights.load("mine.safetensors")[2]["name"] == "mine"
