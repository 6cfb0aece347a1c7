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
import json

from tqdm import tqdm

from eval import command
from eval.speed import bird, indi, latent_indigo, scaling
from eval.speed.measuring import Program, measure, table
from indigo_jax.restoration.indigo import GRADIENTS

# by name: what makes the programs (or rows), columns of the table, notes below it
BENCHMARKS = {"indi": (indi.indi, indi.COLUMNS, ()), "bird": (bird.bird, bird.COLUMNS, bird.NOTES),
              "latent-indigo": (latent_indigo.latent_indigo, latent_indigo.COLUMNS, latent_indigo.notes),
              "scaling": (scaling.scaling, scaling.COLUMNS, scaling.NOTES)}


def to_text(rows: list[dict]) -> str:
    """A table for people."""
    first = rows[0]
    _, columns, notes = BENCHMARKS[first["benchmark"]]
    notes = notes(rows) if callable(notes) else notes
    return "\n".join([table(rows, columns), "", *notes,
                      f"{first['device_count']} x {first['device_kind']} ({first['platform']}), jax "
                      f"{first['jax_version']}; from the fastest of up to {max(row['repeats'] for row in rows)} runs; "
                      "memory per device"])


def _parser():
    parser = command.Parser(prog="eval.benchmark", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE",
                        help="print a JSON list with one object per row, nothing else; or write it, beside the table")
    parser.add_argument("--sizes", type=command.whole, nargs="+", metavar="PX",
                        help="sides of the square pictures; default: 64; latent-indigo: "
                        f"{' '.join(map(str, latent_indigo.SIZES))}")
    parser.add_argument("--batch", type=command.whole, nargs="+", metavar="B",
                        help="pictures in a batch, split over the devices; default: 8; bird: 1 4; scaling: 1 a device")
    parser.add_argument("--steps", type=command.whole, nargs="+", default=[1, 10], metavar="N",
                        help="indi: numbers of sampling steps; default: 1 10")
    parser.add_argument("--large", action="store_true",
                        help="indi: also the network of 26 million parameters; bird: that of 114 million, at 256 px; "
                        "latent-indigo: networks of Stable Diffusion's size, compiled only")
    parser.add_argument("--time", type=command.whole, nargs="*", default=list(latent_indigo.TIMED), metavar="PX",
                        help="latent-indigo: sizes of which steps are also run; default: "
                        f"{' '.join(map(str, latent_indigo.TIMED))}")
    parser.add_argument("--gradient", choices=GRADIENTS, default="full",
                        help="latent-indigo: through the diffusion network, or not; default: full")
    parser.add_argument("--rollout-steps", type=command.whole, default=10, metavar="N",
                        help="indi: steps of the rollout that is differentiated; default: 10")
    parser.add_argument("--rollout-batch", type=command.whole, metavar="B", help="its batch; default: --batch")
    parser.add_argument("--iterations", type=command.whole, default=2, metavar="N",
                        help="bird: iterations in one compiled program; default: 2")
    parser.add_argument("--topologies", nargs="+", metavar="KIND:SIZE",
                        help="scaling: as v5e:4x4 (needs libtpu) or cpu:8; default: cpu:1 cpu:2 cpu:4 cpu:8")
    parser.add_argument("--two-processes", action="store_true", help="scaling: also measure two processes")
    parser.add_argument("--repeats", type=command.whole, default=5, metavar="R", help="timed runs of a row; default: 5")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S",
                        help="begin no further run of a row after so long; default: 20")
    return parser


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.name is None and args.json in BENCHMARKS:  # --json NAME
        args.name, args.json = args.json, "-"
    args.sizes = args.sizes or (list(latent_indigo.SIZES) if args.name == "latent-indigo" else [64])
    if args.name not in BENCHMARKS:
        said = "name a benchmark" if args.name is None else f"no benchmark {args.name!r}"
        parser.exit(2, f"{parser.prog}: {said}; there are: {', '.join(BENCHMARKS)}\n")

    def work():
        programs = BENCHMARKS[args.name][0](args)
        rows = [measure(program, repeats=args.repeats, seconds=args.seconds) if isinstance(program, Program)
                else program() for program in tqdm(programs, unit="row", desc="measuring")]
        text = json.dumps(rows, indent=2, allow_nan=False)
        if args.json not in (None, "-"):
            command.write(args.json, text + "\n")
        print(text if args.json == "-" else to_text(rows))

    return command.run(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
