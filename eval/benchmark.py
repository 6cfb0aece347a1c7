"""Speed and memory: of InDI's sampler, training step and rollout gradient; of BIRD's iterations; of LatentINDIGO's
guided steps; of more devices.

    python -m eval.benchmark indi [--json] [--sizes 64] [--batch 8] [--steps 1 10] [--large]
    python -m eval.benchmark bird [--json] [--sizes 64] [--batch 1 4] [--large]
    python -m eval.benchmark latent-indigo [--json [FILE]] [--sizes 256 512 1024 2048] [--time 256] [--large]
    python -m eval.benchmark scaling [--json] [--topologies v5e:4x4 v5p:8x8x16] [--two-processes]

Each row is one compiled program on all devices (bird: on as many as divide the batch), timed after a run that is not
counted; compilation is apart. FLOPs are XLA's count for one picture (of one step, times the steps: XLA counts the body
of a loop once); peak bytes are those that the compiler reserves, per device. Times depend on the machine and on what
else runs there. LatentINDIGO's rows are compiled, and only those of --time are run.
"""
import functools
import itertools
import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import benchmark_bird, benchmark_indigo, benchmark_scaling, common
from eval.measuring import Program, flops, measure, parameter_count, random_parameters, scaled, shapes, table
from indigo_jax import models, operators, rng, samplers, sharding
from indigo_jax.restoration.indigo import GRADIENTS

COLUMNS = (("task", "task", "s"), ("network", "network", "s"), ("parameters", "params", ",d"),
           ("batch", "batch", "d"), ("image_size", "size", "d"), ("num_steps", "steps", "d"),
           ("convolution", "conv", "s"), ("remat", "remat", ""), ("images_per_second", "images/s", ".3g"),
           ("run_seconds_min", "min s", ".4g"), ("run_seconds_median", "median s", ".4g"),
           ("compile_seconds", "compile s", ".3g"), ("flops_per_image", "GFLOP/image", scaled(1e9)),
           ("peak_bytes", "peak MB", scaled(1e6)))


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
    params = jax.device_put(random_parameters(shapes(module)), sharding.replicated(mesh))
    y = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    place = sharding.batch_sharding(mesh)
    return Setting(module, params, jax.device_put(y, place),
                   jax.device_put(rng.image_keys(0, np.arange(batch)), place))


def rollout(module, params, y, keys, *, num_steps: int, remat: bool = False):
    """InDI from y with ``num_steps`` steps."""
    kernel = samplers.indi(functools.partial(module.apply, params), num_steps)
    return samplers.sample(kernel, keys, y, remat=remat)[0]


def _sample(module, size, batch, num_steps):
    module, params, y, keys = setting(module, size=size, batch=batch)
    operations = num_steps * flops(module.apply, params, y, jnp.ones(batch))
    return jax.jit(functools.partial(rollout, module, num_steps=num_steps)), (params, y, keys), operations


def _rollout_gradient(module, size, batch, num_steps, remat):
    """Gradient of the restored pictures with respect to the measurement."""
    inputs = setting(module, size=size, batch=batch)

    def total(y, params, keys):
        return jnp.sum(rollout(module, params, y, keys, num_steps=num_steps, remat=remat) ** 2)

    plain, t = module.clone(convolution="plain"), jnp.ones(batch)  # of the other one XLA would also count dead code
    forward = flops(plain.apply, inputs.params, inputs.y, t)
    both = flops(jax.grad(lambda y, params: jnp.sum(plain.apply(params, y, t) ** 2)), inputs.y, inputs.params)
    operations = num_steps * (both + forward * remat)
    return jax.jit(jax.grad(total)), (inputs.y, inputs.params, inputs.keys), operations


def _train_step(module, size, batch):
    """``train.indi``'s own step: degradation on the device, loss, gradient, AdamW, moving average."""
    from train import indi, indi_config
    config = indi_config.IndiConfig(model=module, degradation=operators.photo_mixture(), batch_size=batch,
                                    crop=size, margin=16)
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    optimizer = indi.make_optimizer(config)
    template = jax.eval_shape(functools.partial(indi.init_state, config, optimizer))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    state = state._replace(params=random_parameters(template.params), ema=random_parameters(template.ema),
                           bad_step=np.full((), -1, np.int32))
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
    programs, chosen, batches = [], networks(args.large), args.batch or [8]
    for name, module in chosen.items():
        for size, batch in itertools.product(args.sizes, batches):
            facts = {"benchmark": "indi", "network": name, "parameters": parameter_count(module), "batch": batch,
                     "image_size": size, "convolution": "plain", "remat": False}
            programs += [Program({"task": "sample", **facts, "num_steps": n},
                                 functools.partial(_sample, module, size, batch, n)) for n in args.steps]
            programs.append(Program({"task": "train_step", **facts, "num_steps": 1},
                                    functools.partial(_train_step, module, size, batch), carries=True))
    name, module = next(iter(chosen.items()))
    size, batch = min(args.sizes), args.rollout_batch or min(batches)
    for convolution in ("plain", "flipped"):
        for remat in (False, True):
            facts = {"benchmark": "indi", "task": "rollout_gradient", "network": name,
                     "parameters": parameter_count(module), "batch": batch, "image_size": size,
                     "convolution": convolution, "remat": remat, "num_steps": args.rollout_steps}
            programs.append(Program(facts, functools.partial(_rollout_gradient, module.clone(convolution=convolution),
                                                             size, batch, args.rollout_steps, remat)))
    return programs


BENCHMARKS = {"indi": indi, "bird": benchmark_bird.bird, "latent-indigo": benchmark_indigo.latent_indigo,
              "scaling": benchmark_scaling.scaling}
_TABLES = {"indi": (COLUMNS, ()), "bird": (benchmark_bird.COLUMNS, benchmark_bird.NOTES),
           "latent-indigo": (benchmark_indigo.COLUMNS, benchmark_indigo.notes),
           "scaling": (benchmark_scaling.COLUMNS, benchmark_scaling.NOTES)}
_SIZES = {"latent-indigo": list(benchmark_indigo.SIZES)}  # of the others: 64


# ---------------------------------------------------------------------------------------------------- command line

def to_text(rows: list[dict]) -> str:
    """A table for people."""
    first = rows[0]
    columns, notes = _TABLES[first["benchmark"]]
    notes = notes(rows) if callable(notes) else notes
    return "\n".join([table(rows, columns), "", *notes,
                      f"{first['device_count']} x {first['device_kind']} ({first['platform']}), jax "
                      f"{first['jax_version']}; from the fastest of up to {max(row['repeats'] for row in rows)} runs; "
                      "memory per device"])


def _parser():
    parser = common.Parser(prog="eval.benchmark", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE",
                        help="print a JSON list with one object per row, nothing else; or write it, beside the table")
    parser.add_argument("--sizes", type=common.whole, nargs="+", metavar="PX",
                        help="sides of the square pictures; default: 64; latent-indigo: "
                        f"{' '.join(map(str, benchmark_indigo.SIZES))}")
    parser.add_argument("--batch", type=common.whole, nargs="+", metavar="B",
                        help="pictures in a batch, split over the devices; default: 8; bird: 1 4; scaling: 1 a device")
    parser.add_argument("--steps", type=common.whole, nargs="+", default=[1, 10], metavar="N",
                        help="indi: numbers of sampling steps; default: 1 10")
    parser.add_argument("--large", action="store_true",
                        help="indi: also the network of 26 million parameters; bird: that of 114 million, at 256 px; "
                        "latent-indigo: networks of Stable Diffusion's size, compiled only")
    parser.add_argument("--time", type=common.whole, nargs="*", default=list(benchmark_indigo.TIMED), metavar="PX",
                        help="latent-indigo: sizes of which steps are also run; default: "
                        f"{' '.join(map(str, benchmark_indigo.TIMED))}")
    parser.add_argument("--gradient", choices=GRADIENTS, default="full",
                        help="latent-indigo: through the diffusion network, or not; default: full")
    parser.add_argument("--rollout-steps", type=common.whole, default=10, metavar="N",
                        help="indi: steps of the rollout that is differentiated; default: 10")
    parser.add_argument("--rollout-batch", type=common.whole, metavar="B", help="its batch; default: --batch")
    parser.add_argument("--iterations", type=common.whole, default=2, metavar="N",
                        help="bird: iterations in one compiled program; default: 2")
    parser.add_argument("--topologies", nargs="+", metavar="KIND:SIZE",
                        help="scaling: as v5e:4x4 (needs libtpu) or cpu:8; default: cpu:1 cpu:2 cpu:4 cpu:8")
    parser.add_argument("--two-processes", action="store_true", help="scaling: also measure two processes")
    parser.add_argument("--repeats", type=common.whole, default=5, metavar="R", help="timed runs of a row; default: 5")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S",
                        help="begin no further run of a row after so long; default: 20")
    return parser


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.name is None and args.json in BENCHMARKS:  # --json NAME
        args.name, args.json = args.json, "-"
    args.sizes = args.sizes or _SIZES.get(args.name, [64])
    if args.name not in BENCHMARKS:
        said = "name a benchmark" if args.name is None else f"no benchmark {args.name!r}"
        parser.exit(2, f"{parser.prog}: {said}; there are: {', '.join(BENCHMARKS)}\n")

    def work():
        programs = BENCHMARKS[args.name](args)
        bar = tqdm(programs, unit="row", desc="measuring")
        rows = [measure(program, repeats=args.repeats, seconds=args.seconds) if isinstance(program, Program)
                else program() for program in bar]
        text = json.dumps(rows, indent=2, allow_nan=False)
        if args.json not in (None, "-"):
            common.write_text(args.json, text + "\n")
        print(text if args.json == "-" else to_text(rows))

    return common.run(parser, work)


if __name__ == "__main__":
    sys.exit(main())
