"""How a train step grows with the number of devices: planned for any number, measured on virtual ones and processes.

Every row has as many pictures per device, so that what should stay the same does: operations, memory and (but for the
factor of a ring) bytes between devices. Measured rows share the cores of one machine: their times say that the
program runs, not how fast a pod is.
"""
import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np

from eval.speed.measuring import scaled

COLUMNS = (("source", "source", "s"), ("topology", "topology", "s"), ("processes", "processes", "d"),
           ("pictures_per_chip", "pictures/chip", "g"), ("flops", "GFLOP/chip", scaled(1e9)),
           ("total_bytes", "MB/chip", scaled(1e6)), ("collectives", "collectives", "d"),
           ("collective_bytes", "collective MB", scaled(1e6)), ("wire_bytes", "MB sent/chip", scaled(1e6)),
           ("roofline_seconds", "roofline s", ".3g"), ("run_seconds_min", "measured s", ".4g"))
NOTES = ("planned: compiled and read, not run; measured: on virtual devices of this machine, which share its cores",)
_EMPTY = {key: None for key, _, _ in COLUMNS}
_CODE = "import sys; from eval.speed import scaling; sys.exit(scaling.worker(sys.argv[1]))"


def make_config(per_chip: int, count: int, side: int):
    """InDI with a small network, or the one of 26 million parameters for pictures of 128 pixels and more."""
    from indigo_jax import models, operators
    from train.indi import IndiConfig
    model = models.RestorationUNet(width=8, multipliers=(1, 2), num_res_blocks=1, patch_size=2, norm="layer")
    if side >= 128:
        model = models.RestorationUNet(width=64, dtype="bfloat16")
    return IndiConfig(model=model, degradation=operators.random_gaussian_noise((5.0, 50.0)), margin=0, crop=side,
                      batch_size=per_chip * count)


def scaling(args) -> list:
    """Functions that make one row each: plans, then runs on virtual devices, then a run on two processes.

    Args:
        args: ``topologies`` (default: 1, 2, 4 and 8 virtual devices), ``batch`` (pictures per device, the first of
            them), ``sizes`` (the first), ``repeats``, ``two_processes``.
    """
    from train import plan_chips
    counts = (1, 2, 4, 8)
    topologies = [plan_chips.parse(name) for name in args.topologies or [f"cpu:{count}" for count in counts]]
    virtual = [topology.count for topology in topologies if topology.kind == "cpu"]
    plan_chips.start_cpu(max(virtual, default=1))
    side, per_chip, repeats = args.sizes[0], (args.batch or [1])[0], args.repeats

    def planned(topology):
        return lambda: plan_row(topology, per_chip, side)

    def measured(count):
        return lambda: measure_row(count, per_chip, side, repeats)

    rows = [planned(topology) for topology in topologies] + [measured(count) for count in virtual]
    return rows + [lambda: processes_row(per_chip, side, repeats)] * bool(args.two_processes)


def plan_row(topology, per_chip: int, side: int) -> dict:
    """A row that is compiled and read only."""
    from train import plan
    made = plan.plan(make_config(per_chip, topology.count, side), topology)
    return _row("planned", 1, made)


def _row(source, processes, made, **measured):
    found = made.get("collectives", ())
    return {"benchmark": "scaling", **_EMPTY, "source": source, "processes": processes, "repeats": 0,
            "topology": made["topology"], "device_count": made["chips"], "image_size": made["size"],
            "pictures_per_chip": made["pictures_per_chip"], "flops": made.get("flops"), "fits": made["fits"],
            "total_bytes": made["memory"]["total"], "collectives": sum(each["count"] for each in found),
            "collective_bytes": sum(each["bytes"] for each in found), "wire_bytes": made.get("wire_bytes"),
            "roofline_seconds": max(made.get("seconds", {}).values(), default=None), "bound": made.get("bound"),
            "platform": made["topology"].partition(":")[0], "device_kind": made["topology"].partition(":")[0],
            "jax_version": jax.__version__, **measured}


def measure_row(count: int, per_chip: int, side: int, repeats: int, processes: int = 1) -> dict:
    """A row of a program that is run, on the first ``count`` devices; also planned, for the other columns."""
    from train import indi, loop, plan, plan_chips, plan_programs
    config = make_config(per_chip, count, side)
    topology = plan_chips.Topology("cpu", (count,))
    devices = jax.devices()[:count]
    made = plan.plan(config, topology) if processes == 1 else None
    program = plan_programs.make(config, devices, "train")
    state_shapes, batch_shapes = program.arguments
    optimizer = indi.make_optimizer(config)
    state = jax.jit(lambda: indi.init_state(config, optimizer),
                    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state_shapes))()
    pixels = np.random.default_rng(0).integers(0, 256, (config.batch_size, side, side, 3)).astype(np.uint8)
    batch = {name: jax.make_array_from_callback(shape.shape, shape.sharding, lambda index: pixels[index])
             for name, shape in batch_shapes.items()}
    assert isinstance(state, loop.TrainState)
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        state, values = jax.block_until_ready(program.jitted(state, batch))
        times.append(time.perf_counter() - began)
    measured = {"run_seconds_min": min(times[1:]), "repeats": repeats, "loss": float(values["loss"])}
    if made is None:
        made = {"topology": str(topology), "chips": count, "size": side, "fits": None, "memory": {"total": None},
                "pictures_per_chip": per_chip}
        return {**_row("measured", processes, made, **measured), "collectives": None, "collective_bytes": None}
    return _row("measured", processes, made, **measured)


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
    started = []
    for index in range(processes):
        task = json.dumps({"port": port, "index": index, "processes": processes, "per_chip": per_chip, "side": side,
                           "repeats": repeats})
        started.append(subprocess.Popen([sys.executable, "-c", _CODE, task], stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.PIPE, env=environment))
    try:
        outputs = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, said) in zip(started, outputs):
        if process.returncode:
            raise ValueError(f"a process of the run on {processes} failed: {' '.join(said.split())[-300:]}")
    return json.loads(outputs[0][0].splitlines()[-1])


def worker(task: str) -> int:
    """One of the processes of :func:`processes_row`."""
    task = json.loads(task)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{task['port']}", task["processes"], task["index"])
    row = measure_row(jax.device_count(), task["per_chip"], task["side"], task["repeats"], task["processes"])
    print(json.dumps(row))
    return 0
