"""The table of results: fixed degradations, restored with several numbers of steps, measured, written.

    python -m eval.tables [--data FOLDER] [--weights indi-photo] [--steps 1 5 10] [--lpips FILE] [--readme README.md]
    python -m eval.tables --method bird --weights PRIOR [--data FOLDER] [--tasks ...] [--methods ...] [--seeds 0 1]
    python -m eval.tables --method indigo|latent-indigo [--prior P] [--inn I] [--autoencoder A] [--data FOLDER]

Prints a Markdown table and writes it with one CSV row per picture into eval/results/. Without --data it measures on
four photographs that scikit-image carries. Nothing in the result depends on the clock or on the machine, up to the
rounding of its floating point arithmetic.

--method bird compares BIRD with its official settings and with cheap methods, on a diffusion prior. It adds every
number that it has measured to a .jsonl file beside the .csv and takes it from there next time, as long as weights,
pictures and the method itself are the same: a run that was stopped goes on where it was. So does --method indigo or
latent-indigo, which compares guided chains with free ones, with refinement and each regulariser.
"""
import csv
import io
import json
import pathlib
import re
import shlex
import sys
from typing import Iterable

import jax
import numpy as np

import indigo_jax
from eval import bird, bird_tables, common, indigo, indigo_tables
from eval.configs import photo_degradations
from indigo_jax import metrics

START, END = "<!-- results:start -->", "<!-- results:end -->"
REFERENCE = pathlib.Path(__file__).parent / "reference"
_ALL = "mean of the tasks"
_SHOWN = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 4), "lpips": ("LPIPS", 4)}  # title, decimals


# ---------------------------------------------------------------------------------------------------- measuring

def protocols(lpips: str | None) -> list[metrics.Protocol]:
    """PSNR, SSIM and, with a file of weights, LPIPS."""
    names = [metrics.by_name("psnr"), metrics.by_name("ssim")]
    return names + [metrics.by_name("lpips", lpips_params=metrics.load_lpips(lpips))] if lpips else names


def measure(results: Iterable[common.Result], measures) -> list[dict]:
    """One row per picture: ``{"picture", "task", "variant", "steps", protocol name: float, ...}``; steps 0: the input.

    Args:
        results: pictures with their truth.
        measures: callables ``(a, b) -> [B]`` with a ``name``.
    """
    rows = []
    for result in results:
        row = {"picture": result.name, "task": result.degradation.task, "variant": result.degradation.variant,
               "steps": result.num_steps}
        try:
            row.update({measure.name: float(measure(result.image[None], result.truth[None])[0])
                        for measure in measures})
        except ValueError as error:
            raise ValueError(f"{result.name}: {error}") from error
        rows.append(row)
    return rows


def means(rows: list[dict], name: str) -> dict[str, dict[int, float]]:
    """``{task: {steps: float64 mean over pictures and variants}}`` of one protocol, in the order of the rows."""
    values = {}
    for row in rows:
        values.setdefault(row["task"], {}).setdefault(row["steps"], []).append(row[name])
    return {task: {steps: float(np.mean(numbers, dtype=np.float64)) for steps, numbers in by_steps.items()}
            for task, by_steps in values.items()}


# ---------------------------------------------------------------------------------------------------- writing

def to_csv(rows: list[dict]) -> str:
    """One line per picture, numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: list[dict], measures) -> str:
    """One line per task and metric, then the mean of the tasks; the best number of each is bold.

    PSNR also shows its gain over the input.
    """
    table = {measure.name: means(rows, measure.name) for measure in measures}
    tasks = list(table[measures[0].name])
    if len(tasks) > 1:
        for by_task in table.values():
            by_task[_ALL] = {n: float(np.mean([by_task[task][n] for task in tasks])) for n in by_task[tasks[0]]}
        tasks.append(_ALL)
    steps = [steps for steps in next(iter(table[measures[0].name].values())) if steps]
    lines = ["| task | metric | input | " + " | ".join(f"N = {n}" for n in steps) + " |",
             "|---|---|" + "---:|" * (1 + len(steps))]
    for task in tasks:
        variants = list(dict.fromkeys(row["variant"] for row in rows if row["task"] == task and row["variant"]))
        label = f"{task} ({', '.join(variants)})" if variants else task
        for measure in measures:
            values = table[measure.name][task]
            title, decimals = _SHOWN[measure.metric]
            best = (max if measure.higher_is_better else min)(values.values())
            cells = [f"**{values[n]:.{decimals}f}**" if values[n] == best else f"{values[n]:.{decimals}f}"
                     for n in (0, *steps)]
            if measure.metric == "psnr":
                cells[1:] = [f"{cell} ({values[n] - values[0]:+.2f})" for cell, n in zip(cells[1:], steps)]
            lines.append(f"| {label if measure is measures[0] else ''} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(model: common.Model, pictures: common.Pictures, measures, command: str) -> str:
    """What was measured, on what, how, and the command: no date, no machine."""
    info, count = model.info, sum(leaf.size for leaf in jax.tree.leaves(model.params))
    trained = f", {info['num_steps']:,} steps in its last training run" if info.get("num_steps") else ""
    return "\n".join([
        f"`{info.get('name', 'unnamed')}` ({count:,} parameters{trained}, sha256 `{info.get('sha256', 'none')[:12]}`) "
        f"on {len(pictures.names)} pictures (`{pictures.label}`, pixels `{pictures.digest}`), indigo_jax "
        f"{indigo_jax.__version__}.",
        "Means over pictures (and over the variants in brackets) in float64; inputs and results are rounded to 8 bits. "
        "Protocols: " + ", ".join(f"`{measure.name}`" for measure in measures) + ".",
        "N is the number of steps, in brackets the gain over the input, bold the best of a line. The input of "
        "super-resolution is the bicubic enlargement.",
        f"Written by `{command}`."])


def references(pictures: common.Pictures) -> list[str]:
    """Published numbers for these pictures, with their source, for scale."""
    lines = []
    for path in sorted(REFERENCE.glob("*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["data"] == pictures.label.lower():
            values = ", ".join(f"{name} {value}" for name, value in known["values"].items())
            lines.append(f"For scale: {known['task']}, {known['metric']}: {values} ({known['note']}; "
                         f"{known['source']}).")
    return lines


def replace_between(text: str, body: str, *, start: str = START, end: str = END) -> str:
    """``text`` with everything between the two marks replaced by ``body`` on lines of its own.

    Errors:
        ValueError unless each mark is there exactly once, in this order.

    >>> replace_between("a [ old ] b", "new", start="[", end="]").splitlines()
    ['a [', 'new', '] b']
    """
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"needs the marks {start} and {end}, once each and in this order")
    return text[:text.index(start) + len(start)] + "\n" + body.strip("\n") + "\n" + text[text.index(end):]


# ---------------------------------------------------------------------------------------------------- command line

_GUIDED = tuple(indigo.METHODS)
METHODS = ("indi", "bird", *_GUIDED)
OWN_FLAGS = {"steps": ("indi",), "spacing": ("indi",), "lpips": ("indi", *_GUIDED), "tasks": ("bird",),
             "methods": ("bird",), "seeds": ("bird", *_GUIDED), "weights": ("indi", "bird"),
             "autoencoder": ("latent-indigo",),
             **dict.fromkeys(("prior", "inn", "degradations", "kinds", "chain_steps", "guidance", "start",
                              "refine", "raw_colors"), _GUIDED)}
MARKS = {"indi": (START, END), "bird": (bird_tables.START, bird_tables.END), **indigo_tables.MARKS}


def _parser():
    parser = common.Parser(prog="eval.tables", description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="indi", help="default: indi")
    common.add_model_arguments(parser)
    parser.add_argument("--steps", type=common.whole, nargs="+", default=[1, 5, 10], metavar="N",
                        help="indi: numbers of sampling steps; default: 1 5 10")
    parser.add_argument("--tasks", choices=tuple(bird.TASKS), nargs="+", default=list(bird.PICTURE_TASKS),
                        metavar="TASK", help=f"bird: some of {', '.join(bird.PICTURE_TASKS)} (default: all of these), "
                        "or ct, which takes slices and without --data the Shepp-Logan phantom")
    methods = tuple(dict.fromkeys(name for by_task in bird.METHODS.values() for name in by_task))
    parser.add_argument("--methods", choices=methods, nargs="+", metavar="NAME",
                        help=f"bird: some of {', '.join(methods)}; default: all but {', '.join(bird.ON_REQUEST)}")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="bird: several seeds; default: --seed; "
                        f"indigo: default: {' '.join(map(str, indigo_tables.SEEDS))}")
    _add_guided_arguments(parser)
    parser.add_argument("--readme", metavar="FILE", help=f"also write the table between {START} and {END} of this file "
                        f"(bird: {' and '.join(MARKS['bird'])}; so for indigo and latent-indigo)")
    parser.add_argument("-o", "--output", default=str(common.RESULTS), metavar="FOLDER",
                        help="where the .md and the .csv go; default: eval/results")
    return parser


def _add_guided_arguments(parser):
    common.add_guided_arguments(parser)
    parser.add_argument("--degradations", choices=tuple(indigo.DEGRADATIONS), nargs="+", metavar="NAME",
                        default=list(indigo.DEGRADATIONS),
                        help=f"indigo: some of {', '.join(indigo.DEGRADATIONS)}; default: all")
    parser.add_argument("--kinds", choices=indigo_tables.KINDS, nargs="+", metavar="NAME",
                        default=list(indigo_tables.KINDS),
                        help=f"indigo: lines, some of {', '.join(indigo_tables.KINDS)} (R0 to R4: latents only); "
                        "default: all")
    parser.add_argument("--refine", type=float, default=indigo_tables.Choice().refine, metavar="RATE",
                        help="indigo: learning rate of the line \"refined\"; default: %(default)g")
    parser.add_argument("--raw-colors", action="store_true", help="indigo: keep the chain's colours")


def _command(args) -> str:
    """The command that was run, without this machine's folders."""
    words = ["python", "-m", "eval.tables"] + (["--method", args.method] if args.method != "indi" else [])
    for flag, path in (("--data", args.data), ("--weights", None if args.method in _GUIDED else args.weights),
                       ("--prior", args.prior), ("--inn", args.inn), ("--autoencoder", args.autoencoder),
                       ("--lpips", args.lpips if args.method != "bird" else None)):
        words += [flag, pathlib.Path(path).resolve().name] if path else []
    if args.method == "indi":
        words += ["--steps", *map(str, args.steps)]
    for flag, value, default in (("--spacing", args.spacing, "uniform"), ("--limit", args.limit, None),
                                 ("--seed", args.seed, 0), ("--tasks", args.tasks, list(bird.PICTURE_TASKS)),
                                 ("--methods", args.methods, None), ("--seeds", args.seeds, None),
                                 ("--degradations", args.degradations, list(indigo.DEGRADATIONS)),
                                 ("--kinds", args.kinds, list(indigo_tables.KINDS)),
                                 ("--chain-steps", args.chain_steps, None), ("--guidance", args.guidance, None),
                                 ("--start", args.start, None),
                                 ("--refine", args.refine, indigo_tables.Choice().refine)):
        words += [flag, *map(str, value if isinstance(value, list) else [value])] if value != default else []
    return shlex.join(words + ["--raw-colors"] * args.raw_colors)


def _work(args, parser):
    for flag, methods in OWN_FLAGS.items():
        if args.method not in methods and getattr(args, flag) != parser.get_default(flag):
            name = flag.replace("_", "-")
            raise ValueError(f"--{name} is for --method {' or '.join(methods)}; leave it out")
    readme = pathlib.Path(args.readme).read_text(encoding="utf-8") if args.readme else None
    if readme is not None:
        _with_name(args.readme, readme, "", args.method)  # refuses before the long work
    if "ct" in args.tasks and args.tasks != ["ct"]:
        raise ValueError("--tasks ct takes slices and a prior of slices; measure it alone")
    pictures = common.open_pictures(args.data, limit=args.limit, names=("phantom.png",) if "ct" in args.tasks else None)
    main = args.prior or indigo.DEFAULTS[args.method][0] if args.method in _GUIDED else args.weights
    stem = re.sub(r"\W+", "_", pathlib.Path(main).stem) + ("" if args.data else "_scikit_image")
    path = pathlib.Path(args.output) / (stem if args.method == "indi" else f"{stem}_{args.method.replace('-', '_')}")
    name, rows, body = {"indi": _indi, "bird": _bird}.get(args.method, _guided)(args, pictures, path)
    common.write_text(path.with_suffix(".csv"), to_csv(rows))
    common.write_text(path.with_suffix(".md"), f"# Results of {name or stem}\n\n{body}\n")
    if readme is not None:
        common.write_text(args.readme, _with_name(args.readme, readme, body, args.method))
    print(body)


def _indi(args, pictures, path):
    """The weights' name, the rows, the Markdown."""
    del path
    measures = protocols(args.lpips)
    model = common.load_model(args.weights)
    rows = measure(common.restorations(model, pictures, photo_degradations.get_config(), sorted(set(args.steps)),
                                       batch_size=args.batch, seed=args.seed, spacing=args.spacing), measures)
    notes = [provenance(model, pictures, measures, _command(args)), *references(pictures)]
    return model.info.get("name"), rows, "\n\n".join([to_markdown(rows, measures), *notes])


def _bird(args, pictures, path):
    """As :func:`_indi`; numbers that are known are taken from ``path``'s .jsonl."""
    model = common.load_model(args.weights, method="bird")
    pairs = bird_tables.chosen(args.tasks, args.methods)
    seeds = list(dict.fromkeys(args.seeds or [args.seed]))
    rows = bird_tables.measure(model, pictures, pairs, seeds, bird_tables.Cache(path.with_suffix(".jsonl")),
                               batch_size=args.batch)
    both = bird_tables.against_official(rows)
    body = [bird_tables.to_markdown(rows), both and f"BIRD against its official settings:\n\n{both}",
            bird_tables.provenance(model, pictures, pairs, seeds, _command(args))]
    return model.info.get("name"), rows, "\n\n".join(filter(None, body))


def _guided(args, pictures, path):
    """As :func:`_bird`."""
    return indigo_tables.run(args, pictures, path, _command(args))


def _with_name(path, text, body, method):
    start, end = MARKS[method]
    try:
        return replace_between(text, body, start=start, end=end)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    return common.run(parser, lambda: _work(args, parser))


if __name__ == "__main__":
    sys.exit(main())
