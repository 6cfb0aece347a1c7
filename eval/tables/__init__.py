"""The table of results: fixed degradations, restored with several numbers of steps, measured, written.

    python -m eval.tables [--data FOLDER] [--weights indi-photo] [--steps 1 5 10] [--lpips FILE]
        [--readme docs/results.md]
    python -m eval.tables --method bird --weights PRIOR [--data FOLDER] [--tasks ...] [--methods ...] [--seeds 0 1]
    python -m eval.tables --method people [--data FOLDER] [--limit N] [--lpips FILE]
    python -m eval.tables --method all [--data PHOTOGRAPHS] [--faces FOLDER] [--limit N] [--tasks ...] [--methods ...]
    python -m eval.tables --method bird-photo [--data PHOTOGRAPHS] [--limit N] [--lpips FILE]
    python -m eval.tables --method captured --data FOLDER [--limit N]
    python -m eval.tables --method coverage [--data FOLDER] [--limit N]
    python -m eval.tables --method solvers [--data FOLDER] [--limit N]
    python -m eval.tables --method opponents --weights PRIOR [--data FOLDER] [--limit N]
    python -m eval.tables --method conditional --weights FILE [--against indi-photo] [--steps 1 2 5 10 20]
    python -m eval.tables --method calibration|mri [--seed 0]
    python -m eval.tables --method reproduction
    python -m eval.tables --method indigo|latent-indigo [--prior P] [--inn I] [--autoencoder A] [--data FOLDER]

Prints a Markdown table and writes it with one CSV row per picture into eval/results/. Without --data it measures on
four photographs that scikit-image carries. Nothing in the result depends on the clock or on the machine, up to the
rounding of its floating point arithmetic.

--method people measures what `indigo restore --task ...` does with damaged photographs, with the bundled weights,
beside the picture as it is and what scikit-image has.

--method all has every method on every task that it does, photographs with the prior of photographs and the pictures of
--faces with that of faces, from honest borders, at equal evaluations, samples and means apart. It keeps its numbers as
--method bird does.

--method bird-photo is that for BIRD and DiffPIR with the prior of photographs, at BIRD's number of evaluations.

--method captured has photographs of a shaken camera, with their truths and kernels in gt/ beside them.

--method calibration asks of every sampler of posteriors whether its mean and its spread are those of the posterior,
where that is known exactly. --method mri measures slices from a quarter and an eighth of k-space, on phantoms with the
bundled prior. Both take no pictures and no weights.

--method coverage draws several samples of each picture with the bundled prior of faces, and asks how far from the truth
their mean is, and how far they lie apart. --method reproduction writes the published numbers of eval/reference/ and,
from the files of results, ours beside them; it measures nothing.

--method solvers asks how many evaluations Heun's method and DPM-Solver++ need to come as near to the exact flow as DDIM
with a hundred: for Gaussian pictures, and with the bundled prior of faces, from noise and in a restoration.

--method conditional compares InDI with a diffusion given y (train.diffusion --condition y) at each number of steps.

--method opponents compares BIRD with the methods of its paper's tables at equal evaluations: GDP, BlindDPS, GibbsDDRM,
DPS, DDRM, DiffPIR, where the damage is known, unknown, or known wrongly. It keeps its numbers as --method bird does.

--method bird compares BIRD with its official settings and with cheap methods, on a diffusion prior; --methods chooses
the lines, among them any method of indigo_jax.methods.METHODS that does the task. --method indigo or latent-indigo
compares guided chains with free ones, with refinement and each regulariser. Both add every number that they have
measured to a .jsonl file beside the .csv and take it from there next time, as long as weights, pictures and the method
itself are the same: a run that was stopped goes on where it was.
"""
import pathlib
import re
import shlex

from eval import command, problems
from eval.command import guided_methods, write, write_csv
from eval.tables import (
    calibration, captured, conditional, coverage, every, guided, known, mri, opponents, people, photo, reproduction,
    solvers)
from indigo_jax.methods import METHODS


_GUIDED = guided_methods()
# by method: ``table(args, pictures, path, command) -> (name of the weights, rows, Markdown)``: arguments of the command
# line, clean pictures, where the files go (without an extension), the command that was given
TABLES = {"indi": photo.table, "bird": known.table, "people": people.table, "all": every.table,
          "bird-photo": every.bird_table,
          "opponents": opponents.table, "conditional": conditional.table, "coverage": coverage.table,
          "calibration": calibration.table, "mri": mri.table, "reproduction": reproduction.table,
          "solvers": solvers.table, "captured": captured.table,
          **dict.fromkeys(_GUIDED, guided.table)}
_NO_PICTURES = ("calibration", "captured", "mri", "reproduction")
_PICTURES = tuple(method for method in TABLES if method not in _NO_PICTURES)
OWN_FLAGS = {**dict.fromkeys(("data", "limit"), (*_PICTURES, "captured")),
             "weights": ("indi", "bird", "opponents", "conditional"),
             "against": ("conditional",), "autoencoder": ("latent-indigo",),
             "lpips": ("indi", "people", "all", "bird-photo", "conditional", *_GUIDED), "faces": ("all",),
             "steps": ("indi", "conditional"), "spacing": ("indi",), "tasks": ("bird", "all", "coverage"),
             "methods": ("bird", "all", "coverage"),
             "seeds": ("bird", *_GUIDED),
             **dict.fromkeys(("prior", "inn", "degradations", "kinds", "chain_steps", "guidance", "start",
                              "refine", "raw_colors"), _GUIDED)}
MARKS = {method: tuple(f"<!-- {'results' if method == 'indi' else method}:{edge} -->" for edge in ("start", "end"))
         for method in TABLES}  # of the places in the documentation
_PATHS = ("data", "faces", "weights", "against", "prior", "inn", "autoencoder", "lpips")
_ALWAYS = ("weights", "lpips", "steps")  # said in the command though they have their defaults
_SAID = ("method", *_PATHS, "steps", "spacing", "limit", "seed", "tasks", "methods", "seeds", "degradations", "kinds",
         "chain_steps", "guidance", "start", "refine", "raw_colors")


def _parser():
    parser = command.Parser(prog="eval.tables", description=__doc__)
    parser.add_argument("--method", choices=tuple(TABLES), default="indi", help="default: indi")
    command.add_model_arguments(parser)
    parser.add_argument("--faces", metavar="FOLDER", help="all: clean portraits, for the prior of faces; photographs "
                        "are then left out unless --data is given")
    parser.add_argument("--steps", type=command.whole, nargs="+", default=[1, 5, 10], metavar="N",
                        help="indi: numbers of sampling steps; default: 1 5 10")
    parser.add_argument("--against", default="indi-photo", metavar="NAME|FILE",
                        help="conditional: the network of InDI; default: indi-photo")
    parser.add_argument("--tasks", choices=tuple(problems.TASKS), nargs="+", default=list(problems.PICTURE_TASKS),
                        metavar="TASK", help=f"bird: some of {', '.join(problems.PICTURE_TASKS)} (default: all of "
                        "these), or ct, which takes slices and without --data the Shepp-Logan phantom")
    parser.add_argument("--methods", choices=known.NAMES, nargs="+", metavar="NAME",
                        help=f"bird: lines, some of {', '.join(known.NAMES)}, where they do the task; default: of each "
                        "task those of the paper and the baselines, none that is slow")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="bird: several seeds; default: --seed; "
                        f"indigo: default: {' '.join(map(str, guided.SEEDS))}")
    command.add_guided_arguments(parser)
    parser.add_argument("--degradations", choices=tuple(problems.LEARNED), nargs="+", metavar="NAME",
                        default=list(problems.LEARNED),
                        help=f"indigo: some of {', '.join(problems.LEARNED)}; default: all")
    parser.add_argument("--kinds", choices=guided.KINDS, nargs="+", metavar="NAME", default=list(guided.KINDS),
                        help=f"indigo: lines, some of {', '.join(guided.KINDS)} (R0 to R4: latents only); default: all")
    parser.add_argument("--refine", type=float, default=guided.REFINE, metavar="RATE",
                        help="indigo: learning rate of the line \"refined\"; default: %(default)g")
    parser.add_argument("--raw-colors", action="store_true", help="indigo: keep the chain's colours")
    parser.add_argument("--readme", metavar="FILE", help=f"also write the table between {' and '.join(MARKS['indi'])} "
                        f"of this file (bird: {' and '.join(MARKS['bird'])}, and so for the others)")
    parser.add_argument("-o", "--output", default=str(command.RESULTS), metavar="FOLDER",
                        help="where the .md and the .csv go; default: eval/results")
    return parser


def _command(args, parser) -> str:
    """The command that was run, without this machine's folders."""
    words = ["python", "-m", "eval.tables"]
    for name in _SAID:
        value = getattr(args, name)
        is_default = value == parser.get_default(name) and name not in _ALWAYS
        if value is None or is_default or args.method not in OWN_FLAGS.get(name, TABLES):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += ["--" + name.replace("_", "-"), *(pathlib.Path(each).resolve().name if name in _PATHS else str(each)
                                                   for each in values)]
    return shlex.join(words)


def _work(args, parser):
    for name, owners in OWN_FLAGS.items():
        if args.method not in owners and getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is for --method {' or '.join(owners)}; leave it out")
    readme = args.readme and pathlib.Path(args.readme)
    if readme:
        _replaced(readme, "", args.method)  # refuses before the long work
    if "ct" in args.tasks and args.tasks != ["ct"]:
        raise ValueError("--tasks ct takes slices and a prior of slices; measure it alone")
    names = ("phantom.png",) if "ct" in args.tasks else None
    pictures = args.method in _PICTURES and problems.open_pictures(args.data, limit=args.limit, names=names)
    main = args.prior or METHODS[args.method].Settings().prior if args.method in _GUIDED else args.weights
    main = {"people": "photographs", "all": "methods", "bird-photo": "photographs", "coverage": coverage.WEIGHTS,
            "solvers": solvers.WEIGHTS}.get(args.method, main)
    stem = re.sub(r"\W+", "_", pathlib.Path(main).stem) + ("" if args.data else "_scikit_image")
    stem = stem if args.method == "indi" else f"{stem}_{args.method.replace('-', '_')}"
    path = pathlib.Path(args.output) / (stem if args.method in _PICTURES else args.method)
    name, rows, body = TABLES[args.method](args, pictures, path, _command(args, parser))
    write_csv(path.with_suffix(".csv"), rows)
    write(path.with_suffix(".md"), f"# Results of {name or stem}\n\n{body}\n")
    if readme:
        write(readme, _replaced(readme, body, args.method))
    print(body)


def _replaced(path, body, method):
    """The text of a file with what is between the method's marks replaced."""
    text, (start, end) = path.read_text(encoding="utf-8"), MARKS[method]
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{path} needs the marks {start} and {end}, once each and in this order")
    return text[:text.index(start) + len(start)] + "\n" + body.strip("\n") + "\n" + text[text.index(end):]


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    return command.run(parser, lambda: _work(args, parser))
