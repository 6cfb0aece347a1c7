"""How a train step grows with the number of devices: planned for any number, measured on virtual ones and processes.

Every row has as many pictures per device, so that what should stay the same does: operations, memory and (but for the
factor of a ring) bytes between devices. Measured rows share the cores of one machine: their times say that the
program runs, not how fast a pod is.
"""
import functools
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np

from eval.speed.measuring import run_seconds, scaled

COLUMNS = (("source", "source", "s"), ("topology", "topology", "s"), ("processes", "processes", "d"),
           ("pictures_per_chip", "pictures/chip", "g"), ("flops", "GFLOP/chip", scaled(1e9)),
           ("total_bytes", "MB/chip", scaled(1e6)), ("collectives", "collectives", "d"),
           ("collective_bytes", "collective MB", scaled(1e6)), ("wire_bytes", "MB sent/chip", scaled(1e6)),
           ("roofline_seconds", "roofline s", ".3g"), ("run_seconds_min", "measured s", ".4g"))
NOTES = ("planned: compiled and read, not run; measured: on virtual devices of this machine, which share its cores",)
_CODE = "import sys; from eval.speed import scaling; scaling.worker(*map(int, sys.argv[1:]))"


def make_config(per_chip: int, count: int, side: int):
    """InDI with a small network, or the one of 26 million parameters for pictures of 128 pixels and more."""
    from indigo_jax import models, operators
    from train.indi import IndiConfig
    small = models.RestorationUNet(width=8, multipliers=(1, 2), num_res_blocks=1, patch_size=2, norm="layer")
    model = models.RestorationUNet(width=64, dtype="bfloat16") if side >= 128 else small
    return IndiConfig(model=model, degradation=operators.random_gaussian_noise((5.0, 50.0)), margin=0, crop=side,
                      batch_size=per_chip * count)


def scaling(args) -> list:
    """Functions that make one row each: plans, then runs on virtual devices, then a run on two processes.

    Args:
        args: ``topologies`` (default: 1, 2, 4 and 8 virtual devices), ``batch`` (pictures per device, the first of
            them), ``sizes`` (the first), ``repeats``, ``two_processes``.
    """
    from train import plan_chips
    topologies = [plan_chips.parse(name) for name in args.topologies or ("cpu:1", "cpu:2", "cpu:4", "cpu:8")]
    virtual = [topology.count for topology in topologies if topology.kind == "cpu"]
    plan_chips.start_cpu(max(virtual, default=1))
    per_chip, side = (args.batch or [1])[0], args.sizes[0]
    rows = [functools.partial(plan_row, topology, per_chip, side) for topology in topologies]
    rows += [functools.partial(measure_row, count, per_chip, side, args.repeats) for count in virtual]
    return rows + [functools.partial(processes_row, per_chip, side, args.repeats)] * bool(args.two_processes)


def plan_row(topology, per_chip: int, side: int) -> dict:
    """A row that is compiled and read only."""
    from train import plan
    return _row("planned", 1, plan.plan(make_config(per_chip, topology.count, side), topology))


def _row(source, processes, made, **measured):
    found, kind = made.get("collectives"), made["topology"].partition(":")[0]
    total = {key: None if found is None else sum(each[key] for each in found) for key in ("count", "bytes")}
    return {"benchmark": "scaling", "run_seconds_min": None, "source": source, "processes": processes, "repeats": 0,
            "topology": made["topology"], "device_count": made["chips"], "image_size": made["size"],
            "pictures_per_chip": made["pictures_per_chip"], "flops": made.get("flops"), "fits": made.get("fits"),
            "total_bytes": made.get("memory", {}).get("total"), "collectives": total["count"],
            "collective_bytes": total["bytes"], "wire_bytes": made.get("wire_bytes"),
            "roofline_seconds": max(made.get("seconds", {}).values(), default=None), "bound": made.get("bound"),
            "platform": kind, "device_kind": kind, "jax_version": jax.__version__, **measured}


def measure_row(count: int, per_chip: int, side: int, repeats: int, processes: int = 1) -> dict:
    """A row of a program that is run, on the first ``count`` devices; of one process also planned, for the other
    columns."""
    from train import loop, plan, plan_chips, plan_programs
    config = make_config(per_chip, count, side)
    topology = plan_chips.Topology("cpu", (count,))
    made = {"topology": str(topology), "chips": count, "size": side, "pictures_per_chip": per_chip}
    if processes == 1:
        made = plan.plan(config, topology)
    program = plan_programs.make(config, jax.devices()[:count], "train")
    state_shapes, batch_shapes = program.arguments
    state = jax.jit(lambda: loop.init_state(config, loop.make_optimizer(config)),
                    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state_shapes))()
    pixels = np.random.default_rng(0).integers(0, 256, (config.batch_size, side, side, 3)).astype(np.uint8)
    batch = {name: jax.make_array_from_callback(shape.shape, shape.sharding, lambda index: pixels[index])
             for name, shape in batch_shapes.items()}
    times, (_, values) = run_seconds(program.jitted, (state, batch), repeats=repeats, carries=True)
    return _row("measured", processes, made, run_seconds_min=min(times), repeats=repeats, loss=float(values["loss"]))


def processes_row(per_chip: int, side: int, repeats: int, processes: int = 2) -> dict:
    """A row of as many processes on this machine, one device each, which talk over the loopback.

    Errors:
        ValueError when one of them fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    started = [subprocess.Popen(
        [sys.executable, "-c", _CODE, *map(str, (port, index, per_chip, side, repeats, processes))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for index in range(processes)]
    try:
        outputs = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, said) in zip(started, outputs):
        if process.returncode:
            raise ValueError(f"a process of the run on {processes} failed: {' '.join(said.split())[-300:]}")
    return json.loads(outputs[0][0].splitlines()[-1])


def worker(port: int, index: int, *work: int) -> None:
    """One of the processes of :func:`processes_row`; ``work`` is what :func:`measure_row` takes."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", work[-1], index)
    print(json.dumps(measure_row(jax.device_count(), *work)))
