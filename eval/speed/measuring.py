"""Measuring a compiled program: time, memory, operations, the share of what the device could do; rows as text."""
import math
import statistics
import time
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import rng

# dense operations per second of one device, without sparsity, from the makers' data sheets; float32 at jax's default
# precision, which is TF32 on these GPUs and bfloat16 passes on TPUs
PEAKS = {"NVIDIA H200": {"bfloat16": 989e12, "float32": 495e12},
         "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 495e12},
         "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12},
         "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 156e12},
         "TPU v4": {"bfloat16": 275e12, "float32": 275e12},
         "TPU v5 lite": {"bfloat16": 197e12, "float32": 197e12},
         "TPU v5": {"bfloat16": 459e12, "float32": 459e12},
         "TPU v6 lite": {"bfloat16": 918e12, "float32": 918e12}}


class Program(NamedTuple):
    """What is measured.

    Attributes:
        facts: columns that are known beforehand.
        make: ``make() -> (jitted, arguments, flops)``: ``flops`` of the whole batch.
        carries: the first output takes the place of the first argument (which is donated) in the next run.
        derive: ``derive(row) -> dict``: columns that follow from the measured ones.
    """

    facts: dict
    make: Callable
    carries: bool = False
    derive: Callable | None = None


def measure(program: Program, *, repeats: int, seconds: float) -> dict:
    """Compile and time a program: one row, ready for JSON.

    Args:
        repeats: at most so many timed runs.
        seconds: no further run is begun after so long, so that slow programs run once.
    """
    function, arguments, operations = program.make()
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    times, _ = run_seconds(compiled, arguments, repeats=repeats, seconds=seconds, carries=program.carries)
    batch = program.facts["batch"]
    device = jax.devices()[0]
    row = {"device_count": jax.device_count(), **program.facts, "platform": device.platform,
           "device_kind": device.device_kind, "compile_seconds": compile_seconds, "run_seconds_min": min(times),
           "run_seconds_median": statistics.median(times), "repeats": len(times),
           "images_per_second": batch / min(times), "flops_per_image": operations / batch, **memory(compiled),
           "jax_version": jax.__version__}
    return {**row, **(program.derive(row) if program.derive else {})}


def run_seconds(compiled, arguments, *, repeats: int, seconds: float = math.inf, carries: bool = False) -> tuple:
    """``(seconds of each timed run, results of the last)``, after one run that also warms up.

    Args:
        compiled, arguments: what is run.
        repeats, seconds: as for :func:`measure`.
        carries: as in :class:`Program`.
    """
    times, began = [], time.perf_counter()
    for repeat in range(1 + repeats):
        if repeat > 1 and time.perf_counter() - began > seconds:
            break
        mark = time.perf_counter()
        outputs = jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - mark)
        if carries:
            arguments = (outputs[0], *arguments[1:])
    return times[1:], outputs


def interleaved(functions: dict[str, Callable], *, repeats: int, seconds: float = math.inf) -> dict[str, list[float]]:
    """Seconds of every run of each function by name, in turns, after one run of each that is not counted.

    On a CPU they are those of the processor, all threads of this process together: what else runs on the machine
    counts little, but what waits costs nothing. Elsewhere they are those of the clock.

    Args:
        functions: without arguments; what they return is waited for.
        repeats: at most so many timed rounds.
        seconds: no further round is begun after so long.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    times, began = {name: [] for name in functions}, time.perf_counter()
    for turn in range(1 + repeats):
        if turn > 1 and time.perf_counter() - began > seconds:
            break
        for name, function in functions.items():
            mark = clock()
            jax.block_until_ready(function())
            times[name].append(clock() - mark)
    return {name: values[1:] for name, values in times.items()}


def memory(compiled) -> dict:
    """Bytes per device: arguments, results and temporaries together, and the temporaries (which remat saves).

    (The compiler's own peak is left aside: on the CPU it leaves out most temporaries.)
    """
    stats = compiled.memory_analysis()
    peak = (stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
            - stats.alias_size_in_bytes)
    return {"peak_bytes": int(peak), "temporary_bytes": int(stats.temp_size_in_bytes)}


def flops(function, *arguments) -> float:
    """XLA's count for a function without loops; nothing is compiled."""
    return float(jax.jit(function).lower(*arguments).cost_analysis()["flops"])


def shapes(module):
    """Parameters as shapes; nothing is computed."""
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
                          jax.ShapeDtypeStruct((1,), jnp.float32))


def random_arrays(shapes):
    """Small random numbers of the given shapes, and keys: speed does not depend on the values."""
    random = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return rng.image_keys(0, np.arange(leaf.shape[0]))
        return 0.02 * random.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(fill, shapes)


def parameter_count(module) -> int:
    """How many numbers the network learns; nothing is computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(module)))


def peak_share(operations_per_second: float, dtype: str, device_kind: str, device_count: int) -> float | None:
    """The share of what the devices could do at most; None where their kind is not in :data:`PEAKS`.

    >>> peak_share(495e12, "bfloat16", "NVIDIA H200", 1) > 0.5, peak_share(1e9, "float32", "cpu", 1)
    (True, None)
    """
    peak = PEAKS.get(device_kind, {}).get(dtype)
    return None if peak is None else operations_per_second / (peak * device_count)


def table(rows: list[dict], columns) -> str:
    """Rows for people, of columns ``(key, title, format or function of the value)``; what is None is left out."""
    def cell(value, form):
        return "-" if value is None else form(value) if callable(form) else format(value, form)

    cells = [[title for _, title, _ in columns]]
    cells += [[cell(row[key], form) for key, _, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) if i > 1 else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in cells)


def scaled(unit: float) -> Callable[[float], str]:
    """Four digits of a number in multiples of ``unit``."""
    return lambda value: format(value / unit, ".4g")
