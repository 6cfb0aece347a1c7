"""Jobs on folders: what is done is not done again, whatever happened in between; refusals; the report."""
import hashlib
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import tracemalloc

import jax
import numpy as np
import pytest
import tqdm
from PIL import Image

from indigo_jax import cli, images, methods, weights
from indigo_jax.cli import manifest, outputs, progress
from indigo_jax.methods import base
from tests import fake_method, networks
from tests.paths import ROOT
from tests.test_cli import photo, tree


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in a folder of its own, on one device, with the method that needs no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    monkeypatch.setitem(methods.METHODS, "fake", fake_method.Fake)


@pytest.fixture
def restore(capsys):
    """Run ``indigo restore`` with the fake method: (exit code, lines of stdout, lines of stderr)."""
    def run(*argv):
        capsys.readouterr()
        code = cli.main(["restore", *map(str, argv), "--method", "fake"])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()
    return run


def process(*argv, **environment):
    """The same in a process of its own, in its own group."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen([sys.executable, "-m", "tests.fake_method", "restore", *argv, "--method", "fake"],
                            env={**os.environ, "PYTHONPATH": path, **environment}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(running):
    """(exit code, stdout, stderr) of a process."""
    out, err = running.communicate(timeout=300)
    return running.returncode, out, err


def stamps(folder):
    """When each result was written, by its path in the folder."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in pathlib.Path(folder).rglob("*")
            if file.name[0] != "." and file.is_file()}


def lines(folder):
    return [json.loads(line) for line in pathlib.Path(folder, manifest.NAME).read_text().splitlines() if line]


# ---------------------------------------------------------------- what is done

def test_a_second_run_does_nothing_loads_nothing_and_says_so_in_one_line(restore, monkeypatch):
    for i in range(3):
        photo(f"in/{i}.png", seed=i)
    assert restore("in", "-o", "out")[0] == 0
    before = stamps("out")
    monkeypatch.setenv("FAKE_LOADS", "never")
    code, out, err = restore("in", "-o", "out")
    assert (code, err) == (0, []) and out == [
        "nothing to do: all 3 pictures are in out already, made with these settings; --redo makes them again"]
    assert stamps("out") == before and len(lines("out")) == 3
    monkeypatch.delenv("FAKE_LOADS")
    code, out, _ = restore("in", "-o", "out", "--redo")
    assert code == 0 and out[0].startswith("3 of 3 pictures restored") and not out[0].endswith("skipped")
    assert all(stamps("out")[name] > before[name] for name in before)


def test_no_device_is_started_when_there_is_nothing_to_do():
    photo("in/a.png")
    assert finished(process("in", "-o", "out"))[0] == 0
    code, out, err = finished(process("in", "-o", "out", JAX_PLATFORMS="no_such_platform"))  # a device would fail
    assert (code, err) == (0, "") and out.startswith("nothing to do"), err


def test_no_network_is_opened_and_nothing_is_compiled_when_there_is_nothing_to_do(monkeypatch, tmp_path, capsys):
    """Of a method with a network: what takes the seconds of a first run is not even begun."""
    photo("in/a.png")
    command = ["restore", "in", "-o", "out", "--method", "once", "--task", "denoise", "--weights",
               str(networks.write_denoiser(tmp_path / "tiny.safetensors")), "--no-cache"]
    assert cli.main(command) == 0
    capsys.readouterr()
    for owner, name in ((weights, "load"), (methods, "load"), (base.Restoration, "_compile"),
                        (base.Restoration, "run")):
        monkeypatch.setattr(owner, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    assert cli.main(command) == 0 and capsys.readouterr().out.startswith("nothing to do: the picture is in out")
    photo("in/b.png", seed=1)
    with pytest.raises(pytest.fail.Exception, match="was called"):  # the patches would be met
        cli.main(command)


def test_ctrl_c_leaves_whole_files_and_a_second_run_does_the_rest():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell, children likewise
    try:
        for i in range(8):
            photo(f"in/{i}.png", seed=i)
        assert finished(process("in", "-o", "whole"))[0] == 0
        running = process("in", "-o", "out", FAKE_SECONDS="1", XLA_FLAGS="")  # one device
        patience = time.monotonic() + 120
        while len(stamps("out")) < 2:
            assert running.poll() is None and time.monotonic() < patience, running.communicate()
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        code, out, err = finished(running)
    finally:
        signal.signal(signal.SIGINT, before)
    done = stamps("out")
    assert code == 130 and not out and "interrupted" in err and "Traceback" not in err, (code, out, err)
    assert 2 <= len(done) < 8 and not [file for file in pathlib.Path("out").iterdir() if file.suffix == ".tmp"]
    for name in done:
        assert pathlib.Path("out", name).read_bytes() == pathlib.Path("whole", name).read_bytes()
    code, out, _ = finished(process("in", "-o", "out"))
    assert code == 0 and f"{len(done)} skipped" in out
    assert {name: stamps("out")[name] for name in done} == done  # these were not made again
    for file in pathlib.Path("whole").glob("*.png"):
        assert pathlib.Path("out", file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", ["seed", "setting", "samples", "input", "output", "version", "weights", "damage"])
def test_whatever_a_result_depends_on_is_looked_at(change, restore, monkeypatch):
    photo("in/a.png")
    photo("in/b.png", seed=1)
    pathlib.Path("w").write_bytes(b"one")
    monkeypatch.setattr(fake_method.Fake, "named_weights", classmethod(lambda *_: {"restorer": "w"}))
    assert restore("in", "-o", "out")[0] == 0
    assert "nothing to do" in restore("in", "-o", "out")[1][0]
    flags = {"seed": ["--seed", 1], "setting": ["--strength", 0.5], "samples": ["--samples", 2]}.get(change, [])
    if change == "input":
        photo("in/a.png", seed=7)
    elif change == "output":
        pathlib.Path("out/a.png").unlink()
    elif change == "damage":  # of the same length
        data = pathlib.Path("out/a.png").read_bytes()
        pathlib.Path("out/a.png").write_bytes(data[:-1] + b"?")
    elif change == "version":
        monkeypatch.setattr(manifest, "code_version", lambda: "another")
    elif change == "weights":
        pathlib.Path("w").write_bytes(b"two")
    code, out, _ = restore("in", "-o", "out", *flags)
    count = 1 if change in ("input", "output", "damage") else 2
    assert code == 0 and out[0].startswith(f"{count} of 2 pictures restored into out in ")
    assert "nothing to do" in restore("in", "-o", "out", *flags)[1][0]
    wanted = -images.read("in/a.png").pixels * (0.5 if change == "setting" else 1) - (change == "seed") / 127.5
    name = "out/a-1.png" if change == "samples" else "out/a.png"
    np.testing.assert_allclose(images.read(name).pixels, np.clip(wanted, -1, 1), atol=1 / 127)


def test_a_renamed_input_is_another_output_and_a_moved_folder_is_still_known(restore):
    photo("in/a.png")
    assert restore("in", "-o", "out")[0] == 0
    pathlib.Path("in/a.png").rename("in/b.png")
    assert restore("in", "-o", "out")[1][0].startswith("out/b.png: ")
    pathlib.Path("out").rename("moved")
    pathlib.Path("in").rename("source")
    assert "nothing to do" in restore("source", "-o", "moved")[1][0]


def test_half_a_line_is_nobodys(restore):
    for i in range(3):
        photo(f"in/{i}.png", seed=i)
    assert restore("in", "-o", "out")[0] == 0
    path = pathlib.Path("out", manifest.NAME)
    data = path.read_bytes().rstrip(b"\n")
    path.write_bytes(data[:-20])  # the third line is cut
    assert restore("in", "-o", "out")[1][0].startswith("1 of 3 pictures")
    assert "nothing to do" in restore("in", "-o", "out")[1][0]
    path.write_bytes(b"\n{}\nnonsense\n" + path.read_bytes() + b'{"key": "zz"}\n')
    assert "nothing to do" in restore("in", "-o", "out")[1][0]


def test_skip_existing_looks_at_names_alone(restore):
    for name in ("a", "b"):
        photo(f"in/{name}.png")
    pathlib.Path("out").mkdir()
    pathlib.Path("out/a.png").write_bytes(b"mine")
    code, out, _ = restore("in", "-o", "out", "--skip-existing", "--report", "r.json")
    assert code == 0 and out[0].endswith("1 skipped") and pathlib.Path("out/a.png").read_bytes() == b"mine"
    row = json.loads(pathlib.Path("r.json").read_text())["files"][0]
    assert (row["status"], row["reason"]) == ("skipped", "there is a file of its name")
    assert restore("in", "-o", "out")[1][0].startswith("1 of 2 pictures")


# ---------------------------------------------------------------- killed, and two at once

def _big(folder, count):
    for i in range(count):  # large enough that writing takes a while
        photo(f"{folder}/{i}.png", 500, 500, seed=i)


def survives_kills(kills, seconds, code=0, **environment):
    """Folder "in" restored into "whole" at once, and into "out" with so many kills, is the same; code: of each run.

    Returns how many of them came before the run had ended.
    """
    assert finished(process("in", "-o", "whole"))[0] == code
    chance, killed = random.Random(0), 0
    for _ in range(kills):
        running = process("in", "-o", "out", FAKE_SECONDS=str(seconds), **environment)
        seen = len(stamps("out")) if os.path.isdir("out") else 0
        while running.poll() is None and len(stamps("out") if os.path.isdir("out") else ()) <= seen:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 3 * seconds))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        killed += running.returncode == -signal.SIGKILL
        for name in stamps("out"):  # whole or not there
            assert pathlib.Path("out", name).read_bytes() == pathlib.Path("whole", name).read_bytes()
    for file in pathlib.Path("out").rglob("*"):
        os.utime(file, (0, 0))  # as if it were long ago
    found, out, err = finished(process("in", "-o", "out"))
    assert found == code and (code or not err) and ("skipped" in out or "nothing to do" in out), (out, err)
    assert tree("out") == tree("whole")
    hidden = {file.name for file in pathlib.Path("out").rglob(".*")}
    assert hidden == {manifest.NAME}  # no temporary files
    return killed


def test_killed_twice_and_started_again():
    _big("in", 8)
    survives_kills(kills=2, seconds=0.1)


def test_killed_at_ten_moments_and_started_again():
    _big("in", 40)
    survives_kills(kills=10, seconds=0.1)


def test_two_at_once_in_one_folder():
    _big("in", 6)
    both = [process("in", "-o", "out", FAKE_SECONDS="0.05") for _ in range(2)]
    other = process("in", "-o", "other")
    for each in (*both, other):
        code, _, err = finished(each)
        assert (code, err) == (0, "")
    assert tree("out") == tree("other") and len({line["key"] for line in lines("out")}) == 6
    assert finished(process("in", "-o", "out"))[1].startswith("nothing to do")


def test_another_run_that_has_done_a_picture_meanwhile_is_noticed():
    mine, others = manifest.Manifest("."), manifest.Manifest(".")
    photo("a.png")
    digest = hashlib.sha256(pathlib.Path("a.png").read_bytes()).hexdigest()
    key = manifest.key_of("a")
    assert mine.find(key) is None
    others.add(key, {"a.png": digest}, facts={"width": 1})
    assert mine.is_done(key, ["a.png"])["facts"] == {"width": 1}
    photo("a.png", seed=1)
    assert mine.is_done(key, ["a.png"]) is None


def test_a_hash_is_that_of_what_was_written_though_another_process_replaces_it(monkeypatch):
    replace = os.replace

    def and_lose(source, target):
        replace(source, target)
        pathlib.Path(target).write_bytes(b"of another process")
    monkeypatch.setattr(os, "replace", and_lose)
    digest = outputs.write_whole(pathlib.Path("a.txt"), lambda path: path.write_bytes(b"mine"))
    assert digest == hashlib.sha256(b"mine").hexdigest()


def test_what_a_killed_run_left_goes_also_when_there_is_nothing_to_do():
    _big("in", 1)
    first = process("in", "-o", "out")
    assert finished(first)[0] == 0
    left = pathlib.Path("out", f".indigo-{first.pid}-0123abcd.tmp")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert finished(process("in", "-o", "out"))[1].startswith("nothing to do") and not left.exists()


def test_temporary_files_of_the_living_and_the_recent_are_left_alone():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, process_, age in (("old", gone.pid, 1000), ("recent", gone.pid, 0), ("living", os.getpid(), 1000)):
        file = pathlib.Path(f".indigo-{process_}-{hashlib.md5(name.encode()).hexdigest()[:8]}.png")
        file.write_text(name)
        os.utime(file, (time.time() - age,) * 2)
    pathlib.Path(".indigo-1-notours.png").touch()
    outputs.clean(["."])
    assert {file.read_text() for file in pathlib.Path().glob(".indigo-*")} == {"recent", "living", ""}


def test_an_input_that_changes_while_it_is_done_is_done_again(restore, monkeypatch):
    photo("in/a.png")
    call = fake_method.Fake.__call__

    def and_change(self, *args, **more):
        photo("in/a.png", 21, seed=5)
        return call(self, *args, **more)
    monkeypatch.setattr(fake_method.Fake, "__call__", and_change)
    assert restore("in", "-o", "out")[0] == 0
    monkeypatch.undo()
    methods.METHODS["fake"] = fake_method.Fake
    try:
        assert not pathlib.Path("out", manifest.NAME).exists() or not lines("out")
    finally:
        del methods.METHODS["fake"]


# ---------------------------------------------------------------- the report

def test_the_report_says_what_became_of_every_input(restore):
    for i in range(2):
        photo(f"in/{i}.png", seed=i)
    assert restore("in", "-o", "out")[0] == 0
    pathlib.Path("in/bad.png").write_text("text")
    Image.new("L", (3, 3)).save("in/old.gif")
    photo("in/new.png", seed=5)
    code, out, err = restore("in", "gone", "-o", "out", "--report", "r.json")
    assert code == 1 and out[0].endswith(", 2 failed, 2 skipped, 1 left out")
    assert any("note: left out: in/old.gif: " in line for line in err)
    report = json.loads(pathlib.Path("r.json").read_text())
    assert report["counts"] == {"done": 1, "skipped": 2, "failed": 2, "left out": 1}
    rows = {row["input"]: row for row in report["files"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "in/0.png": "skipped", "in/1.png": "skipped", "in/new.png": "done", "in/bad.png": "failed", "gone": "failed",
        "in/old.gif": "left out"}
    assert all(row.get("reason") for row in rows.values() if row["status"] != "done")
    assert rows["in/0.png"]["outputs"] == ["out/0.png"] and rows["in/0.png"]["width"] == 30  # as it was then


def test_an_interrupted_run_leaves_a_report(restore, monkeypatch):
    for i in range(3):
        photo(f"in/{i}.png", seed=i)
    call = fake_method.Fake.__call__

    def interrupted(self, picture, **more):
        if (picture.pixels == images.read("in/1.png").pixels).all():
            raise KeyboardInterrupt
        return call(self, picture, **more)
    monkeypatch.setattr(fake_method.Fake, "__call__", interrupted)
    code, out, err = restore("in", "-o", "out", "--report", "r.json")
    assert code == 130 and not out and len(err) == 1
    report = json.loads(pathlib.Path("r.json").read_text())
    assert [row["status"] for row in report["files"]] == ["done", "left out", "left out"] and report["interrupted"]


# ---------------------------------------------------------------- refused before anything is computed

@pytest.fixture
def refused(restore, monkeypatch):
    """A run that is wrong usage, or a picture's failure, with nothing computed and nothing left behind."""
    def run(*argv, code=2):
        monkeypatch.setattr(fake_method.Fake, "__call__", lambda *_, **__: pytest.fail("computed"))
        before = tree(".", hidden=True)
        found, out, err = restore(*argv)
        assert (found, len(err)) == (code, 1) and tree(".", hidden=True) == before, (found, out, err)
        return err[0]
    return run


def test_outputs_that_cannot_be_written(refused, monkeypatch):
    photo("in/a.png")
    pathlib.Path("file").touch()
    assert "file/out: file is no folder" in refused("in", "-o", "file/out")
    assert "--compare file/c: file is no folder" in refused("in", "-o", "out", "--compare", "file/c")
    pathlib.Path("out/a.png").mkdir(parents=True)
    assert "out/a.png, where its result goes, is a folder" in refused("in", "-o", "out", code=1)
    opened = os.open

    def read_only(path, flags, *more, **others):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *more, **others)
    monkeypatch.setattr(os, "open", read_only)
    assert "cannot be written to (Read-only file system)" in refused("in", "-o", "new/folder")
    assert "--report new/r.json" in refused("in", "-o", "out", "--report", "new/r.json")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that the system makes up")
def test_a_folder_in_which_no_files_can_be_made(refused):
    photo("a.png")
    assert "--output /proc/b.png: no files can be made in /proc; name another" in refused("a.png", "-o", "/proc/b.png")


def test_a_comparison_that_its_format_does_not_hold(refused):
    photo("a.png", width=8300, height=8)
    assert "c.webp: WEBP holds at most 16,383 pixels a side, not 166" in refused(
        "a.png", "-o", "b.png", "--compare", "c.webp", code=1)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(refused):
    photo("in/a.png")
    pathlib.Path("locked").mkdir(mode=0o500)
    assert "cannot be written to (Permission denied)" in refused("in", "-o", "locked/out")


def test_transparency_in_a_format_without_it(refused):
    photo("a.png", mode="RGBA")
    for name in ("b.jpg", "b.bmp"):
        assert "cannot hold transparency" in refused("a.png", "-o", name, code=1)


@pytest.mark.parametrize("argv, says", [
    ("three -o .", "three/x.png would overwrite an INPUT"),
    ("in other -o out", "both be written to out/x.png"),
    ("in --task inpaint --mask m.png -o .", "m.png would overwrite an INPUT"),
    ("two -o out", "both be written to out/x.jpg.png")])
def test_outputs_that_would_overwrite(argv, says, refused):
    for name in ("in/x.png", "three/x.png", "three/three/x.png", "other/x.png", "two/x.png", "two/x.jpg",
                 "two/x.jpg.png"):
        photo(name)
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save("m.png")
    photo("in/m.bmp")
    assert says in refused(*argv.split())


# ---------------------------------------------------------------- a mask for each picture

def _mask(path, row, size=(20, 30)):
    values = np.zeros(size, np.uint8)
    values[row] = 255
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_masks_are_paired_by_name(restore):
    for name in ("in/a.png", "in/sub/b.jpg", "in/c.png", "in/d.png"):
        photo(name)
    _mask("masks/a.bmp", 1)
    _mask("masks/sub/b.png", 2)
    _mask("masks/b.png", 3)  # of nobody
    Image.fromarray(np.zeros((20, 30), np.uint8)).save("masks/d.png")
    code, out, err = restore("in", "-o", "out", "--task", "inpaint", "--mask", "masks", "--report", "r.json")
    assert code == 1 and out[0].startswith("2 of 4") and len(err) == 2
    assert any("in/c.png: no mask of its name (c) in masks" in line for line in err)
    assert any("in/d.png: --mask masks/d.png: no white pixel" in line for line in err)
    for name, source, row in (("a", "in/a.png", 1), ("sub/b", "in/sub/b.jpg", 2)):
        before, after = (np.round(images.read(each).pixels * 127.5) for each in (source, f"out/{name}.png"))
        rows = (before != after).any(axis=(1, 2))
        assert rows.tolist() == [i == row for i in range(20)]
    _mask("masks/a.bmp", 5)  # another one: done again, the other not
    code, out, err = restore("in", "-o", "out", "--task", "inpaint", "--mask", "masks")
    assert out[0].startswith("1 of 4") and out[0].endswith("1 skipped")


def test_folders_of_masks_that_make_no_sense(refused):
    photo("in/a.png")
    pathlib.Path("empty").mkdir()
    assert "no pictures in this folder" in refused("in", "-o", "out", "--task", "inpaint", "--mask", "empty")
    _mask("two/a.png", 1)
    _mask("two/a.bmp", 1)
    assert "differ in the extension only" in refused("in", "-o", "out", "--task", "inpaint", "--mask", "two")


# ---------------------------------------------------------------- what is said

def test_all_samples_are_named(restore):
    photo("a.png")
    code, out, _ = restore("a.png", "-o", "b.png", "--samples", 3)
    assert code == 0 and out[0].startswith("b-1.png, b-2.png, b-3.png: 30 x 20 pixels, ")


def test_sixteen_bits_of_colour_that_become_eight_are_said(restore, monkeypatch):
    photo("a.png")
    read = images.read
    monkeypatch.setattr(images, "read", lambda path: read(path)._replace(sixteen_bit=True))
    assert restore("a.png", "-o", "b.webp")[2] == [
        "indigo restore: note: a.png: of its 16 bits a channel 8 are kept"]
    assert restore("a.png", "-o", "b.png")[2] == [] and images.read("b.png").sixteen_bit


def test_one_picture_written_under_its_name_is_done_each_time(restore):
    photo("a.png")
    for _ in range(2):
        assert restore("a.png", "-o", "b.png")[1][0].startswith("b.png: ")
    assert not pathlib.Path(manifest.NAME).exists()


# ---------------------------------------------------------------- very many files

def _memory_of(count, capsys):
    """Peak of what Python holds while so many links to a picture are restored, in bytes."""
    folder = pathlib.Path(f"in{count}")
    folder.mkdir()
    for i in range(count):
        if i % 50_000 == 0:  # a file of ext4 has 65,000 names at most
            photo(f"one{count + i}.png", 2, 2)
            one = f"one{count + i}.png"
        os.link(one, folder / f"{i:06}.png")
    tracemalloc.start()
    try:
        assert cli.main(["restore", str(folder), "-o", f"out{count}", "--method", "fake", "--report", "r.json"]) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert capsys.readouterr().out.startswith(f"{count} of {count} pictures")


def test_memory_hardly_grows_with_the_number_of_files(capsys):
    _memory_of(20, capsys)  # whatever is imported
    few, many = _memory_of(50, capsys), _memory_of(550, capsys)
    assert (many - few) / 500 < 3000


@pytest.mark.slow
def test_a_hundred_thousand_files(capsys):
    _memory_of(20, capsys)
    assert _memory_of(100_000, capsys) < 150e6


# ---------------------------------------------------------------- long work

@pytest.fixture
def long(monkeypatch):
    """The fake method's work counts as long: 4 calls of 200 seconds a picture."""
    monkeypatch.setattr(progress, "LONG", {"cpu": 1.0})


def test_long_work_is_told_of_inside_a_picture(restore, long, monkeypatch):
    photo("a.png")
    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0})

        def update(self, n=1):
            super().update(n)
            shown.append((self.unit, self.n, self.total))
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    assert restore("a.png", "-o", "b.png", "--samples", 2)[0] == 0
    assert shown == [*(("call", i, 8) for i in range(1, 9)), ("picture", 1, 1)]
    shown.clear()
    monkeypatch.setattr(progress, "LONG", {"cpu": 1e9})
    assert restore("a.png", "-o", "b.png")[0] == 0 and shown == [("picture", 1, 1)]


def test_an_estimate_is_said_where_nobody_can_be_asked(restore, long):
    for i in range(6):
        photo(f"in/{i}.png", seed=i)
    code, out, err = restore("in", "-o", "out")
    assert code == 0 and err == [
        "indigo restore: note: about 80 minutes: 6 pictures, 4 network calls each, 2e+02 s a call"]
    assert restore("in", "-o", "out")[2] == []  # nothing to do


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("\n", 2), ("", 2), ("no\n", 2)])
def test_a_person_is_asked(answer, code, restore, long, monkeypatch):
    photo("a.png")

    class Terminal(io.StringIO):
        def isatty(self):
            return True
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    found, out, err = restore("a.png", "-o", "b.png")
    assert found == code and os.path.exists("b.png") == (code == 0)
    assert any("about 13 minutes: 1 picture, 4 network calls each" in line and "go on? [y/N]" in line for line in err)
    assert code == 0 or "nothing was done" in err[-1]
    assert restore("a.png", "-o", "b.png", "--yes")[0] == 0
