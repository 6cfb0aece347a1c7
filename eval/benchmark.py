"""Speed and memory: of InDI's sampler, training step and rollout gradient; of BIRD's iterations; of LatentINDIGO's
guided steps; of more devices; of training on a CPU beside torch; of single convolutions; of
starting up; the memory of every method beside that of a call of its network.

    python -m eval.benchmark indi [--json] [--sizes 64] [--batch 8] [--steps 1 10] [--large]
    python -m eval.benchmark bird [--json] [--sizes 64] [--batch 1 4] [--large] [--against torch]
    python -m eval.benchmark latent-indigo [--json [FILE]] [--sizes 256 512 1024 2048] [--time 256] [--large]
    python -m eval.benchmark scaling [--json] [--topologies v5e:4x4 v5p:8x8x16] [--two-processes]
    python -m eval.benchmark training [--json] [--against torch] [--networks indi_photo_small]
    python -m eval.benchmark convolution [--json] [--batch 8]
    python -m eval.benchmark start [--json]
    python -m eval.benchmark peaks [--json] [--sizes 256]
    python -m eval.benchmark all [--json [FILE]]

Each row is one compiled program on all devices (bird: on as many as divide the batch), timed after a run that is not
counted; compilation is apart. FLOPs are XLA's count for one picture (of one step, times the steps: XLA counts the body
of a loop once); peak bytes are those that the compiler reserves, per device. Times depend on the machine and on what
else runs there. LatentINDIGO's rows are compiled, and only those of --time are run.
"""
import argparse
import itertools
import json
import pathlib

from tqdm import tqdm

from eval import command
from eval.speed import bird, convolution, indi, latent_indigo, peaks, scaling, start, training
from eval.speed.measuring import Program, measure, table
from indigo_jax.restoration.indigo import GRADIENTS

# by name: what makes the programs (or rows), columns of the table, notes below it
BENCHMARKS = {"indi": (indi.indi, indi.COLUMNS, ()), "bird": (bird.bird, bird.COLUMNS, bird.NOTES),
              "latent-indigo": (latent_indigo.latent_indigo, latent_indigo.COLUMNS, latent_indigo.notes),
              "scaling": (scaling.scaling, scaling.COLUMNS, scaling.NOTES),
              "training": (training.training, training.COLUMNS, training.NOTES),
              "convolution": (convolution.convolution, convolution.COLUMNS, convolution.NOTES),
              "start": (start.start, start.COLUMNS, start.NOTES),
              "peaks": (peaks.peaks, peaks.COLUMNS, peaks.NOTES)}


def to_text(rows: list[dict]) -> str:
    """A table for people, one for each benchmark that the rows are of."""
    groups = itertools.groupby(rows, key=lambda row: row["benchmark"])
    return "\n\n".join(_one_table(list(group)) for _, group in groups)


def _one_table(rows):
    first = rows[0]
    _, columns, notes = BENCHMARKS[first["benchmark"]]
    notes = notes(rows) if callable(notes) else notes
    repeats = max(row["repeats"] for row in rows)
    runs = f"from the fastest of up to {repeats} runs" if repeats else "compiled, not run"
    return "\n".join([table(rows, columns), "", *notes,
                      f"{first['device_count']} x {first['device_kind']} ({first['platform']}), jax "
                      f"{first['jax_version']}; {runs}; memory per device"])


def record(rows: list[dict], path=command.RESULTS / "speed.md") -> None:
    """Put the table of each benchmark into its place in a Markdown file, or at the end; what else is there stays."""
    path = pathlib.Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else "# Speed\n"
    for name, group in itertools.groupby(rows, key=lambda row: row["benchmark"]):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        block = f"{begin}\n```\n{_one_table(list(group))}\n```\n{end}"
        before, found, rest = text.partition(begin)
        text = before + block + rest.partition(end)[2] if found else f"{text}\n{block}\n"
    command.write(path, text)


def _parser():
    parser = command.Parser(prog="eval.benchmark", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}; or all of them: all")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE",
                        help="print a JSON list with one object per row, nothing else; or write it, beside the table")
    parser.add_argument("--results", action="store_true",
                        help="also write the table into eval/results/speed.md, in the place of the one before")
    parser.add_argument("--rows", metavar="FILE", help="measure nothing: rows that --json FILE has written")
    parser.add_argument("--sizes", type=command.whole, nargs="+", metavar="PX",
                        help="sides of the square pictures; default: 64; latent-indigo: "
                        f"{' '.join(map(str, latent_indigo.SIZES))}")
    parser.add_argument("--batch", type=command.whole, nargs="+", metavar="B",
                        help="pictures in a batch, split over the devices; default: 8; bird: 1 4; scaling: 1 a device; "
                        "training: the config's")
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
    parser.add_argument("--networks", nargs="+", choices=training.NETWORKS, metavar="NAME",
                        help=f"training: of {', '.join(training.NETWORKS)}; default: all")
    parser.add_argument("--against", nargs="+", choices=("torch",), default=[], metavar="torch",
                        help="training, bird in official mode: the same in torch, in the same run")
    parser.add_argument("--repeats", type=command.whole, default=5, metavar="R", help="timed runs of a row; default: 5")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S",
                        help="begin no further run of a row after so long; default: 20")
    return parser


def _sized(args, name):
    """The flags, with the sizes that a benchmark has where none are given."""
    sizes = args.sizes or (list(latent_indigo.SIZES) if name == "latent-indigo" else [64])
    return argparse.Namespace(**{**vars(args), "sizes": sizes})


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.name is None and args.json in (*BENCHMARKS, "all"):  # --json NAME
        args.name, args.json = args.json, "-"
    if args.rows and args.name is None:
        args.name = "all"
    if args.name not in (*BENCHMARKS, "all"):
        said = "name a benchmark" if args.name is None else f"no benchmark {args.name!r}"
        parser.exit(2, f"{parser.prog}: {said}; there are: {', '.join(BENCHMARKS)}, all\n")

    def work():
        if args.rows:
            return show(json.loads(pathlib.Path(args.rows).read_text(encoding="utf-8")))
        programs = [program for name in (BENCHMARKS if args.name == "all" else [args.name])
                    for program in BENCHMARKS[name][0](_sized(args, name))]
        rows = [measure(program, repeats=args.repeats, seconds=args.seconds) if isinstance(program, Program)
                else program() for program in tqdm(programs, unit="row", desc="measuring")]
        return show(rows)

    def show(rows):
        text = json.dumps(rows, indent=2, allow_nan=False)
        if args.json not in (None, "-"):
            command.write(args.json, text + "\n")
        if args.results:
            record(rows)
        print(text if args.json == "-" else to_text(rows))

    return command.run(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
