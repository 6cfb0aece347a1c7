"""What it costs to begin: seconds of the processor for imports and for asking for help; see :mod:`eval.benchmark`."""
import functools
import os
import statistics
import subprocess
import sys

import jax

CODES = {"jax": "import jax, jax.numpy", "indigo_jax": "import jax, jax.numpy, indigo_jax",
         "methods": "import jax, jax.numpy, indigo_jax.methods",
         "help": "import sys; from indigo_jax.cli import main; sys.exit(main(['--help']))"}
COLUMNS = (("task", "begin with", "s"), ("code", "code", "s"), ("run_seconds_min", "min s", ".3f"),
           ("run_seconds_median", "median s", ".3f"), ("beyond_jax_seconds", "beyond jax, s", ".3f"))
NOTES = ("seconds of the processor of a fresh interpreter, in turns; files lie in the memory of the operating system",)


def start(args) -> list:
    """One row for each of :data:`CODES`; all are measured with the first."""
    measured = functools.cache(functools.partial(measure, args.repeats))
    return [functools.partial(_row, measured, name) for name in CODES]


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` interpreters for each code, after one that is not counted."""
    times = {name: [] for name in CODES}
    for _ in range(1 + repeats):
        for name, code in CODES.items():
            times[name].append(_processor_seconds(code))
    return {name: values[1:] for name, values in times.items()}


def _processor_seconds(code):
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _row(measured, name):
    times = measured()
    device = jax.devices()[0]
    return {"benchmark": "start", "task": name, "code": CODES[name], "run_seconds_min": min(times[name]),
            "run_seconds_median": statistics.median(times[name]),
            "beyond_jax_seconds": min(times[name]) - min(times["jax"]), "repeats": len(times[name]), "device_count": 1,
            "platform": device.platform, "device_kind": device.device_kind, "jax_version": jax.__version__}
