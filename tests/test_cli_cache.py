"""Compiled programs are kept for the next run, in the user's cache folder, and can be removed."""
import os
import pathlib
import subprocess
import sys

import pytest

from indigo_jax import cli
from indigo_jax.cli import cache
from tests.paths import ROOT

_CODE = """
import sys, jax
from indigo_jax.cli import cache
cache.use(sys.argv[1] == "keep")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(3)).block_until_ready()
"""


def _compile(word, **environment):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    base = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    run = subprocess.run([sys.executable, "-c", _CODE, word], env={**base, "PYTHONPATH": path, **environment},
                         capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


def test_programs_are_kept_shown_and_removed_and_weights_stay(home, capsys):
    _compile("keep")
    files = [file for file in (home / "programs").rglob("*") if file.is_file()]
    assert files and all(file.stat().st_mode & 0o022 == 0 for file in (home / "programs").iterdir())
    (home / "mine.safetensors").write_text("weights")
    assert cli.main(["cache"]) == 0
    assert capsys.readouterr().out.startswith(f"{home / 'programs'}: {len(files)} compiled programs, 0.")
    for file in files:
        file.write_bytes(file.read_bytes()[:20])  # as if its process had been killed
    _compile("keep")  # nothing is said
    assert cli.main(["cache", "clear"]) == 0 and capsys.readouterr().out.endswith("MiB, removed\n")
    assert [file for file in home.rglob("*") if file.is_file()] == [home / "mine.safetensors"]


def test_other_folders_and_none(home, tmp_path):
    _compile("never")
    _compile("keep", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "told"))
    assert not home.exists() and any((tmp_path / "told").iterdir())


def test_a_folder_that_others_may_write_to_is_not_used(home):
    place = home / "programs" / cache._processor()
    place.mkdir(parents=True)
    place.chmod(0o777)
    _compile("keep")
    assert not any(place.iterdir())


def test_the_oldest_go_when_there_are_too_many(home, monkeypatch):
    monkeypatch.setattr(cache, "_LARGEST", 25)
    for i in range(4):
        file = home / "programs" / "x" / str(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"0123456789")
        os.utime(file, (i, i))
    cache._trim()
    assert sorted(file.name for file in pathlib.Path(home, "programs", "x").iterdir()) == ["2", "3"]
