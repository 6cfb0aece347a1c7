"""The table of results: fixed degradations, restored with several numbers of steps, measured, written.

    python -m eval.tables [--data FOLDER] [--weights indi-photo] [--steps 1 5 10] [--lpips FILE] [--readme README.md]

Prints a Markdown table and writes it with one CSV row per picture into eval/results/. Without --data it measures on
four photographs that scikit-image carries. Nothing in the result depends on the clock or on the machine, up to the
rounding of its floating point arithmetic.
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
from eval import common
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
    trained = f", {info['num_steps']:,} training steps" if info.get("num_steps") else ""
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

def _parser():
    parser = common.Parser(prog="eval.tables", description=__doc__)
    common.add_model_arguments(parser)
    parser.add_argument("--steps", type=common.whole, nargs="+", default=[1, 5, 10], metavar="N",
                        help="numbers of sampling steps; default: 1 5 10")
    parser.add_argument("--readme", metavar="FILE", help=f"also write the table between {START} and {END} of this file")
    parser.add_argument("-o", "--output", default=str(common.RESULTS), metavar="FOLDER",
                        help="where the .md and the .csv go; default: eval/results")
    return parser


def _command(args) -> str:
    """The command that was run, without this machine's folders."""
    words = ["python", "-m", "eval.tables"]
    for flag, path in (("--data", args.data), ("--weights", args.weights), ("--lpips", args.lpips)):
        words += [flag, pathlib.Path(path).resolve().name] if path else []
    words += ["--steps", *map(str, args.steps)]
    for flag, value, default in (("--spacing", args.spacing, "uniform"), ("--limit", args.limit, None),
                                 ("--seed", args.seed, 0)):
        words += [flag, str(value)] if value != default else []
    return shlex.join(words)


def _work(args):
    readme = pathlib.Path(args.readme).read_text(encoding="utf-8") if args.readme else None
    if readme is not None:
        _with_name(args.readme, readme, "")  # refuses before the long work
    pictures = common.open_pictures(args.data, limit=args.limit)
    measures = protocols(args.lpips)
    model = common.load_model(args.weights)
    rows = measure(common.restorations(model, pictures, photo_degradations.get_config(), sorted(set(args.steps)),
                                       batch_size=args.batch, seed=args.seed, spacing=args.spacing), measures)
    table = to_markdown(rows, measures)
    notes = "\n\n".join([provenance(model, pictures, measures, _command(args)), *references(pictures)])
    stem = re.sub(r"\W+", "_", pathlib.Path(args.weights).stem) + ("" if args.data else "_scikit_image")
    folder = pathlib.Path(args.output)
    common.write_text(folder / f"{stem}.csv", to_csv(rows))
    common.write_text(folder / f"{stem}.md", f"# Results of {model.info.get('name', stem)}\n\n{table}\n\n{notes}\n")
    if readme is not None:
        common.write_text(args.readme, _with_name(args.readme, readme, f"{table}\n\n{notes}"))
    print(f"{table}\n\n{notes}")


def _with_name(path, text, body):
    try:
        return replace_between(text, body)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    return common.run(parser, lambda: _work(args))


if __name__ == "__main__":
    sys.exit(main())
