"""Speed of the sampler, of the training step, and of the gradient through a rollout.

    python -m eval.benchmark indi [--json] [--sizes 64] [--batch 8] [--steps 1 10] [--large]

Each row is one compiled program on all devices, timed after a run that is not counted; compilation is apart. FLOPs are
XLA's count for one picture (of one step, times the steps: XLA counts the body of a loop once); peak bytes are those
that the compiler reserves, per device. Times depend on the machine and on what else runs there.
"""
import functools
import json
import statistics
import sys
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import common
from indigo_jax import models, operators, rng, samplers, sharding

_COLUMNS = (("task", "task", "s"), ("network", "network", "s"), ("parameters", "params", ",d"),
            ("batch", "batch", "d"), ("image_size", "size", "d"), ("num_steps", "steps", "d"),
            ("convolution", "conv", "s"), ("remat", "remat", ""), ("images_per_second", "images/s", ".3g"),
            ("run_seconds_min", "min s", ".4g"), ("run_seconds_median", "median s", ".4g"),
            ("compile_seconds", "compile s", ".3g"), ("flops_per_image", "GFLOP/image", ".4g"),
            ("peak_bytes", "peak MB", ".4g"))
_UNITS = {"flops_per_image": 1e9, "peak_bytes": 1e6}


# ---------------------------------------------------------------------------------------------------- one row

class Program(NamedTuple):
    """What is measured.

    Attributes:
        facts: columns that are known beforehand.
        make: ``make() -> (jitted, arguments, flops)``: ``flops`` of the whole batch.
        carries: the first output takes the place of the first argument (which is donated) in the next run.
    """

    facts: dict
    make: Callable
    carries: bool = False


def measure(program: Program, *, repeats: int, seconds: float) -> dict:
    """Compile and time a program: one row, ready for JSON.

    Args:
        repeats: at most so many timed runs.
        seconds: no further run is begun after so long, so that slow programs run once.
    """
    function, arguments, flops = program.make()
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    times = []
    began = time.perf_counter()
    for repeat in range(1 + repeats):
        if repeat > 1 and time.perf_counter() - began > seconds:
            break
        mark = time.perf_counter()
        outputs = jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - mark)
        if program.carries:
            arguments = (outputs[0], *arguments[1:])
    times = times[1:]  # the first run also warms up
    batch = program.facts["batch"]
    device = jax.devices()[0]
    return {**program.facts, "platform": device.platform, "device_kind": device.device_kind,
            "device_count": jax.device_count(), "compile_seconds": compile_seconds,
            "run_seconds_min": min(times), "run_seconds_median": statistics.median(times), "repeats": len(times),
            "images_per_second": batch / min(times), "flops_per_image": flops / batch, **_memory(compiled),
            "jax_version": jax.__version__}


def _memory(compiled) -> dict:
    """Bytes per device: arguments, results and temporaries together, and the temporaries (which remat saves).

    (The compiler's own peak is left aside: on the CPU it leaves out most temporaries.)
    """
    stats = compiled.memory_analysis()
    peak = (stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
            - stats.alias_size_in_bytes)
    return {"peak_bytes": int(peak), "temporary_bytes": int(stats.temp_size_in_bytes)}


def _flops(function, *arguments) -> float:
    """XLA's count for a function without loops; nothing is compiled."""
    return float(jax.jit(function).lower(*arguments).cost_analysis()["flops"])


# ---------------------------------------------------------------------------------------------------- indi

class Setting(NamedTuple):
    """A network and its inputs, placed on the devices."""

    module: Any
    params: Any
    y: jax.Array
    keys: jax.Array


def setting(module, *, size: int, batch: int) -> Setting:
    """Random parameters and pictures: speed does not depend on the values."""
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    params = jax.device_put(_random(_shapes(module)), sharding.replicated(mesh))
    y = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    place = sharding.batch_sharding(mesh)
    return Setting(module, params, jax.device_put(y, place),
                   jax.device_put(rng.image_keys(0, np.arange(batch)), place))


def _shapes(module):
    """Parameters as shapes; nothing is computed."""
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
                          jax.ShapeDtypeStruct((1,), jnp.float32))


def _random(shapes):
    """Small random numbers of the given shapes."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.02 * random.standard_normal(leaf.shape, np.float32), shapes)


def rollout(module, params, y, keys, *, num_steps: int, remat: bool = False):
    """InDI from y with ``num_steps`` steps."""
    kernel = samplers.indi(functools.partial(module.apply, params), num_steps)
    return samplers.sample(kernel, keys, y, remat=remat)[0]


def _sample(module, size, batch, num_steps):
    module, params, y, keys = setting(module, size=size, batch=batch)
    flops = num_steps * _flops(module.apply, params, y, jnp.ones(batch))
    return jax.jit(functools.partial(rollout, module, num_steps=num_steps)), (params, y, keys), flops


def _rollout_gradient(module, size, batch, num_steps, remat):
    """Gradient of the restored pictures with respect to the measurement."""
    inputs = setting(module, size=size, batch=batch)

    def total(y, params, keys):
        return jnp.sum(rollout(module, params, y, keys, num_steps=num_steps, remat=remat) ** 2)

    plain, t = module.clone(convolution="plain"), jnp.ones(batch)  # of the other one XLA would also count dead code
    forward = _flops(plain.apply, inputs.params, inputs.y, t)
    both = _flops(jax.grad(lambda y, params: jnp.sum(plain.apply(params, y, t) ** 2)), inputs.y, inputs.params)
    flops = num_steps * (both + forward * remat)
    return jax.jit(jax.grad(total)), (inputs.y, inputs.params, inputs.keys), flops


def _train_step(module, size, batch):
    """``train.indi``'s own step: degradation on the device, loss, gradient, AdamW, moving average."""
    from train import indi, indi_config
    config = indi_config.IndiConfig(model=module, degradation=operators.photo_mixture(), batch_size=batch,
                                    crop=size, margin=16)
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    optimizer = indi.make_optimizer(config)
    shapes = jax.eval_shape(functools.partial(indi.init_state, config, optimizer))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = state._replace(params=_random(shapes.params), ema=_random(shapes.ema), bad_step=np.full((), -1, np.int32))
    state = jax.device_put(state, sharding.replicated(mesh))
    side = size + 2 * config.margin
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    arguments = state, sharding.put_batch({"image": pictures}, mesh)
    step = jax.jit(functools.partial(indi.train_step, config, optimizer), donate_argnums=0,
                   out_shardings=sharding.replicated(mesh))
    return step, arguments, float(step.lower(*arguments).cost_analysis()["flops"])


def networks(large: bool) -> dict:
    """The network that ships, and those of paper-like sizes, by name."""
    try:
        from train.configs import indi_photo_small
    except ImportError as error:
        raise ImportError(f'the benchmark of training needs: pip install "indigo_jax[train]" ({error})') from error
    chosen = {"indi-photo": indi_photo_small.get_config().model, "6.5M": models.RestorationUNet(width=32)}
    return {**chosen, "26M": models.RestorationUNet(width=64)} if large else chosen


def indi(args) -> list[Program]:
    """Sampling and training for each network and size; both convolutions through a rollout, for the first network."""
    programs, chosen = [], networks(args.large)
    for name, module in chosen.items():
        for size in args.sizes:
            facts = {"benchmark": "indi", "network": name, "parameters": parameter_count(module), "batch": args.batch,
                     "image_size": size, "convolution": "plain", "remat": False}
            programs += [Program({"task": "sample", **facts, "num_steps": n},
                                 functools.partial(_sample, module, size, args.batch, n)) for n in args.steps]
            programs.append(Program({"task": "train_step", **facts, "num_steps": 1},
                                    functools.partial(_train_step, module, size, args.batch), carries=True))
    name, module = next(iter(chosen.items()))
    size, batch = min(args.sizes), args.rollout_batch or args.batch
    for convolution in ("plain", "flipped"):
        for remat in (False, True):
            facts = {"benchmark": "indi", "task": "rollout_gradient", "network": name,
                     "parameters": parameter_count(module), "batch": batch, "image_size": size,
                     "convolution": convolution, "remat": remat, "num_steps": args.rollout_steps}
            programs.append(Program(facts, functools.partial(_rollout_gradient, module.clone(convolution=convolution),
                                                             size, batch, args.rollout_steps, remat)))
    return programs


def parameter_count(module) -> int:
    """How many numbers the network learns; nothing is computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(_shapes(module)))


BENCHMARKS = {"indi": indi}


# ---------------------------------------------------------------------------------------------------- command line

def to_text(rows: list[dict]) -> str:
    """A table for people."""
    cells = [[title for _, title, _ in _COLUMNS]]
    for row in rows:
        cells.append([format(row[key] / _UNITS[key] if key in _UNITS else row[key], form)
                      for key, _, form in _COLUMNS])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.rjust(width) if i > 1 else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in cells]
    return "\n".join([*lines, "", f"{rows[0]['device_count']} x {rows[0]['device_kind']} ({rows[0]['platform']}), jax "
                      f"{rows[0]['jax_version']}; images/s from the fastest of up to {max(r['repeats'] for r in rows)} "
                      "runs; memory per device"])


def _parser():
    parser = common.Parser(prog="eval.benchmark", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object per row, nothing else")
    parser.add_argument("--sizes", type=common.whole, nargs="+", default=[64], metavar="PX",
                        help="sides of the square pictures; default: 64")
    parser.add_argument("--batch", type=common.whole, default=8, metavar="B",
                        help="pictures in a batch, split over all devices; default: 8")
    parser.add_argument("--steps", type=common.whole, nargs="+", default=[1, 10], metavar="N",
                        help="numbers of sampling steps; default: 1 10")
    parser.add_argument("--large", action="store_true", help="also the network of 26 million parameters")
    parser.add_argument("--rollout-steps", type=common.whole, default=10, metavar="N",
                        help="steps of the rollout that is differentiated; default: 10")
    parser.add_argument("--rollout-batch", type=common.whole, metavar="B", help="its batch; default: --batch")
    parser.add_argument("--repeats", type=common.whole, default=5, metavar="R", help="timed runs of a row; default: 5")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S",
                        help="begin no further run of a row after so long; default: 20")
    return parser


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.name not in BENCHMARKS:
        said = "name a benchmark" if args.name is None else f"no benchmark {args.name!r}"
        parser.exit(2, f"{parser.prog}: {said}; there are: {', '.join(BENCHMARKS)}\n")

    def work():
        programs = BENCHMARKS[args.name](args)
        bar = tqdm(programs, unit="row", desc="measuring")
        rows = [measure(program, repeats=args.repeats, seconds=args.seconds) for program in bar]
        print(json.dumps(rows, indent=2) if args.json else to_text(rows))

    return common.run(parser, work)


if __name__ == "__main__":
    sys.exit(main())
