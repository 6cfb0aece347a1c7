"""What a config will cost on chips that one does not have: memory, operations, traffic, time at best, collectives.

    python -m train.plan --config train/configs/indi_gopro.py --topology v5e:16x16 [--batch-size 2048] [--fsdp 8]
    python -m train.plan --config train/configs/diffusion_imagenet.py --topology cpu:8 --what sample --json
    python -m train.plan --config train/configs/plan_stable_diffusion.py --topology rtx4080:1 --alone

Compiles the script's real step, or a sampler, for the topology (v4, v5e, v5p or v6e of any size: needs libtpu, the
extra "tpu", but no TPU; or cpu:N virtual devices), and at half and double the chips with as many pictures per chip.
All flags of the config can be given. Compiling a large network takes minutes. For a GPU (rtx4080:N, a4000:N; both of
16 GB) there is no compiler here: the program is compiled for a CPU, so that its memory and bytes are estimates.

All numbers are for one chip and one run of the program. The time is that of a roofline: the slowest of three, if
nothing else ever waits. Operations and "bytes moved" are the compiler's counts, with loops counted as often as they
run; it also counts what stays in the chip's fast memory. Bytes to memory leave that out: those limit the speed.
"""
import argparse
import dataclasses
import json
import re
import sys
import time

import jax
import jax.numpy as jnp

from train import common, loop, plan_chips, plan_guided, plan_programs, plan_traffic
from train.plan_chips import Topology
from train.run_config import RunConfig

_MEMORY = ("parameters", "optimizer", "average", "batch", "activations")
_NUM_MOVERS = 12
_FITS = {None: "-", True: "yes", False: "NO"}


def plan(config, topology: Topology, *, what: str | None = None, steps: int | None = None) -> dict:
    """Compile a config's program for a topology and read what it costs; see the module's text.

    Args:
        config: of a training script; ``config.batch_size`` is that of all chips.
        what, steps: see :func:`plan_programs.make`.

    Returns:
        JSON-able. Bytes, operations and seconds of one chip; "fits" is None, "seconds" and "bound" are empty where the
        chip is not known (a CPU). Of a program that the compiler refuses for its size, "fits" is False and what only a
        compiled one has is missing. "estimated": memory and bytes are those of a CPU's program, for a GPU. "advice":
        what to change where memory is short.

    Errors:
        ValueError, ImportError: see :func:`plan_chips.devices` and :func:`plan_programs.make`.
    """
    guided = isinstance(config, plan_guided.GuidedConfig)
    what = what or ("guided" if guided else "train")
    program = plan_programs.make(config, plan_chips.devices(topology), what, steps=steps, platform=topology.platform)
    chip = topology.chip
    precision = config.precision if guided else jnp.dtype(getattr(loop.network(config), "dtype", "float32")).name
    row = {"topology": str(topology), "chips": topology.count, "what": what, "fsdp": config.fsdp,
           "pictures_per_chip": config.batch_size / topology.count, "size": config.crop, "precision": precision,
           "estimated": topology.platform == "gpu", **program.facts}

    def advised(row):
        return {**row, "advice": plan_guided.advice(config, row) if guided else []}

    began = time.perf_counter()
    try:
        compiled = program.jitted.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+)([KMGT])", str(error))
        total = float(used[1]) * 1024 ** (1 + "KMGT".index(used[2])) if used else None
        return advised({**row, "fits": False,
                        "memory": {**program.memory, "total": total, "available": chip and chip.memory}})
    row["compile_seconds"] = time.perf_counter() - began
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    traffic = plan_traffic.read(compiled.as_text(), chips=topology.count)
    total = (stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
             - stats.alias_size_in_bytes)
    memory = {**program.memory, "activations": float(stats.temp_size_in_bytes), "total": float(total),
              "available": chip and float(chip.memory)}
    flops, moved = (cost[name] * times for name, times in zip(("flops", "bytes accessed"), traffic.repeats))
    wire = sum(collective.wire for collective in traffic.collectives)
    return advised({
        **row, "fits": None if chip is None else total <= chip.memory, "memory": memory, "flops": flops,
        "bytes": moved, "memory_bytes": traffic.memory_bytes, "wire_bytes": wire, "intensity": flops / moved,
        "memory_intensity": flops / max(traffic.memory_bytes, 1.0),
        **roofline(chip, flops, traffic.memory_bytes, wire, precision),
        "collectives": [collective._asdict() for collective in traffic.collectives],
        "movers": [mover._asdict() for mover in traffic.movers[:_NUM_MOVERS]]})


def roofline(chip: plan_chips.Chip | None, flops: float, memory_bytes: float, wire_bytes: float,
             precision: str = "bfloat16") -> dict:
    """The least seconds for each of the three, and which of them is the longest.

    Args:
        chip: None where it is not known.
        flops, memory_bytes, wire_bytes: of one chip.
        precision: of the products; see :class:`plan_chips.Chip`.

    >>> roofline(plan_chips.CHIPS["v5e"], 197e12, 0.819e9, 0.0)["bound"]
    'compute'
    """
    if chip is None:
        return {"seconds": {}, "bound": None}
    peak = (precision == "float32" and chip.flops32) or chip.flops
    seconds = {"compute": flops / peak, "memory": memory_bytes / chip.bandwidth,
               "network": wire_bytes / chip.interconnect}
    return {"seconds": seconds, "bound": max(seconds, key=seconds.get)}


def plans(config, topology: Topology, *, alone: bool = False, **options) -> list[dict]:
    """:func:`plan` for a topology and (unless ``alone``) at half and double the chips, smallest first.

    The neighbours have as many pictures per chip. One that cannot be compiled for (no such slice) is left out, as is
    one that the pictures or fsdp do not divide.
    """
    rows = [plan(config, topology, **options)]
    for other in () if alone else (topology.half(), topology.double()):
        if other is None or other.count % config.fsdp or config.batch_size * other.count % topology.count:
            continue
        batch_size = config.batch_size * other.count // topology.count
        try:
            rows.append(plan(dataclasses.replace(config, batch_size=batch_size), other, **options))
        except ValueError as error:
            print(f"train.plan: {error}", file=sys.stderr)
    return sorted(rows, key=lambda row: row["chips"])


def to_text(name: str, rows: list[dict], main: dict) -> str:
    """A table for people: a column for each topology, then collectives and byte movers of the main one."""
    lines = [("", [row["topology"] for row in rows]),
             ("pictures per chip", [f"{row['pictures_per_chip']:g}" for row in rows])]
    lines += [(f"{part}, MiB", [_scaled(row["memory"].get(part), 2**20) for row in rows]) for part in _MEMORY
              if part in main["memory"]]
    lines += [("all, MiB", [_scaled(row["memory"]["total"], 2**20) for row in rows]),
              ("fits", [_FITS[row["fits"]] for row in rows])]
    lines += [(title, [_scaled(row.get(key), unit) for row in rows]) for title, key, unit in (
        ("GFLOP", "flops", 1e9), ("GB moved", "bytes", 1e9), ("GB to memory", "memory_bytes", 1e9),
        ("FLOP / B moved", "intensity", 1), ("FLOP / B to memory", "memory_intensity", 1),
        ("MB to other chips", "wire_bytes", 1e6))]
    lines += [(f"{part}, ms", [_scaled(row.get("seconds", {}).get(part), 1e-3) for row in rows])
              for part in ("compute", "memory", "network")]
    lines += [("bound", [row.get("bound") or "-" for row in rows]),
              ("collectives", [str(sum(each["count"] for each in row.get("collectives", []))) for row in rows])]
    widths = [max(map(len, column)) for column in zip(*(values for _, values in lines))]
    text = [f"{name}, {main['what']}, {main['steps']} step(s), fsdp {main['fsdp']}, {main['size']} px, "
            f"{main['precision']}; per chip"]
    text += ["  ".join([title.ljust(18), *map(str.rjust, values, widths)]).rstrip() for title, values in lines]
    if "calls" in main:
        text += ["", f"{main['calls']} calls of the prior for a picture, {main['call_flops'] / 1e12:.3g} TFLOP each; "
                     + ", ".join(f"{role} {count / 1e6:.1f} M" for role, count in main["parameters"].items())
                     + " parameters"]
    if main["estimated"]:
        text += ["", f"no compiler for {main['topology']} here: memory and bytes are those of a CPU's program, an "
                     "estimate"]
    if main["advice"]:
        text += ["", f"for {main['topology']}:", *(f"  {each}" for each in main["advice"])]
    if "collectives" in main:
        text += ["", f"collectives at {main['topology']}:"]
        text += [f"  {each['count']} x {each['kind']}, {each['bytes'] / 1e6:.4g} MB"
                 for each in main["collectives"]] or ["  none"]
        text += ["", f"largest movers of bytes at {main['topology']}:"]
        text += [f"  {each['bytes'] / 1e9:8.3f} GB, to memory {each['memory_bytes'] / 1e9:8.3f} GB  "
                 f"{each['count']} x {each['operation']}: {each['source']}" for each in main["movers"]]
    return "\n".join(text)


def to_markdown(name: str, rows: list[dict]) -> str:
    """A line for each plan of a config, for docs/how-to/pods.md."""
    columns = ("config", "program", "topology", "fsdp", "pictures per chip", "MiB per chip", "fits", "GFLOP", "FLOP/B",
               "roofline", "collectives")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        seconds = row.get("seconds") or {}
        kinds = ", ".join(f"{each['count']} {each['kind']}" for each in row.get("collectives", [])) or "none"
        cells = (name, row["what"], row["topology"], str(row["fsdp"]), f"{row['pictures_per_chip']:g}",
                 _scaled(row["memory"]["total"], 2**20), _FITS[row["fits"]].lower(), _scaled(row.get("flops"), 1e9),
                 _scaled(row.get("intensity"), 1),
                 f"{max(seconds.values()) * 1e3:.3g} ms, {row['bound']}" if seconds else "-",
                 kinds if "collectives" in row else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scaled(value, unit):
    return "-" if value is None else f"{value / unit:,.0f}" if value / unit >= 1000 else f"{value / unit:.3g}"


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m train.plan", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="of a training script, as in train/configs/")
    parser.add_argument("--topology", required=True, metavar="KIND:SIZE",
                        help="as v5e:16x16, v4:4x4x4, rtx4080:1 or cpu:8")
    parser.add_argument("--what", choices=plan_programs.WHAT,
                        help="default: guided where a config has it, else train")
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler, or iterations of BIRD")
    parser.add_argument("--alone", action="store_true", help="not at half and double the chips")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object per topology")
    parser.add_argument("--markdown", action="store_true", help="print one line of a table per topology")
    args, rest = parser.parse_known_args(argv)
    try:
        topology = plan_chips.parse(args.topology)
        plan_chips.start_cpu(1 if topology.platform == "tpu" else 2 * topology.count)
        config = common.config_from_command_line(["--config", args.config, *rest], program="train.plan",
                                                 kind=RunConfig | plan_guided.GuidedConfig)
        rows = plans(config, topology, alone=args.alone, what=args.what, steps=args.steps)
    except (ValueError, ImportError) as error:
        print(f"train.plan: {error}", file=sys.stderr)
        return 2
    name = re.sub(r".*/|\.py$", "", args.config)
    main_row = next(row for row in rows if row["topology"] == str(topology))
    if args.json:
        print(json.dumps([{"config": name, **row} for row in rows], indent=2, allow_nan=False))
    elif args.markdown:
        print(to_markdown(name, rows))
    else:
        print(to_text(name, rows, main_row))
    return 0 if main_row["fits"] is not False else 1


if __name__ == "__main__":
    sys.exit(main())
