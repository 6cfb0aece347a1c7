"""Ctrl-C at any moment: one line, exit code 130, whatever is being done."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.paths import ROOT
from tests.test_cli import photo

SAID = "indigo{}: interrupted; what has been written is whole, the rest is not there\n"
PROGRAM = "import sys; print('up', flush=True); from indigo_jax.cli import main; sys.exit(main())"


def process(program, *words):
    """A process that hears Ctrl-C, whose interpreter is up."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    try:
        running = subprocess.Popen([sys.executable, "-c", program, *words], env={**os.environ, "PYTHONPATH": path},
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout.readline() == "up\n"
    return running


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5, 2.5])
def test_it_ends_with_one_line(delay):
    """While modules are imported, programs traced and compiled, the picture computed: which of them it is depends on
    the machine."""
    photo("a.png", 512, 512)
    running = process(PROGRAM, "restore", "a.png", "-o", "b.png", "--report", "r.json", "--no-cache")
    time.sleep(delay)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    lines = err.splitlines(keepends=True)
    assert running.returncode == 130 and not out, (running.returncode, out, err)
    assert lines[-1] in (SAID.format(""), SAID.format(" restore")) and "Traceback" not in err, err
    assert all(line.startswith("indigo restore: ") for line in lines[:-1]), err
    left = {path.name for path in pathlib.Path().iterdir()}
    assert left <= {"a.png", "r.json"}  # nothing half written
    if "r.json" in left:
        assert json.loads(pathlib.Path("r.json").read_text())["interrupted"]


@pytest.mark.parametrize("place", ["import", "callback", "caught"])
def test_wherever_it_comes_up(place):
    """Inside an import it is no exception; one that a callback or a careless ``except`` has swallowed is not lost."""
    pathlib.Path("slow.py").write_text("import time\ntry:\n    time.sleep(60)\nfinally:\n    print('unwound')\n")
    doing = {
        "import": "import slow",
        "callback": "import gc\ngc.callbacks.append(lambda *_: time.sleep(60))\ngc.collect()\nprint('went on')",
        "caught": "try:\n    time.sleep(60)\nexcept BaseException:\n    pass"}[place]
    body = "".join(f"    {line}\n" for line in doing.splitlines())
    running = process(f"import sys, time\nsys.path.insert(0, '')\nfrom indigo_jax import cli\n"
                      f"from indigo_jax.cli import commands\n"
                      f"def run(argv):\n    print('up', flush=True)\n{body}    return 0\n"
                      "commands.run = run\nsys.exit(cli.main())")
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", SAID.format(""))
