"""The table of reproduction: published numbers, with their source, and ours beside them, with every difference."""
import csv
import json
import pathlib
import re
from typing import NamedTuple

import numpy as np

from eval.command import RESULTS
from eval.measure import markdown

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"


class Entry(NamedTuple):
    """A file of :data:`REFERENCE`.

    Attributes:
        data, task, metric: what was measured, on what, how.
        source, note: where the numbers are published; what is to be known of them.
        values: ``{method: number}``.
        ours: each of ``name``, ``results`` (a .csv of eval/results), ``where`` (the values of its columns), ``column``
            (of the number) and ``hardware``.
        differences: of ours from theirs, a sentence each.
    """

    data: str
    task: str
    metric: str
    source: str
    note: str
    values: dict[str, float]
    ours: list[dict]
    differences: list[str]


def entries(folder=REFERENCE) -> list[Entry]:
    """All published numbers, in the order of what they are about."""
    found = [Entry(**json.loads(path.read_text(encoding="utf-8"))) for path in pathlib.Path(folder).glob("*.json")]
    return sorted(found, key=lambda entry: [int(part) if part.isdigit() else part for part in re.split(
        r"(\d+)", f"{entry.data} {entry.task}")])


def measured(one: dict, results=RESULTS) -> tuple[float, int]:
    """The mean of ours over its rows, in float64, and how many there are.

    Errors:
        ValueError where no row of the results is meant.
    """
    path = pathlib.Path(results) / f"{one['results']}.csv"
    with open(path, encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if one["where"].items() <= row.items()]
    if not rows:
        raise ValueError(f"{path.name} has no row of {one['where']}; measure it again, or say which row is meant")
    return float(np.mean([float(row[one["column"]]) for row in rows])), len(rows)


def command_of(name: str, results=RESULTS) -> str:
    """The command that has written a file of results, as it says itself."""
    text = (pathlib.Path(results) / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"Written by `(.+?)`", text)[-1]


def rows_of(found: list[Entry], results=RESULTS) -> list[dict]:
    """A row per published number and per one of ours."""
    rows = []
    for entry in found:
        about = {"data": entry.data, "task": entry.task, "metric": entry.metric}
        rows += [{**about, "method": name, "whose": "published", "value": value, "pictures": "", "source": entry.source}
                 for name, value in entry.values.items()]
        for one in entry.ours:
            value, count = measured(one, results)
            rows.append({**about, "method": one["name"], "whose": "ours", "value": value, "pictures": count,
                         "source": command_of(one["results"], results)})
    return rows


def to_markdown(found: list[Entry], rows: list[dict]) -> str:
    """A line per task, theirs beside ours; then of each the sources, the commands and the differences."""
    lines = []
    for entry in found:
        own = [row for row in rows if (row["data"], row["task"]) == (entry.data, entry.task)]
        theirs, ours = ([f"{row['method']} {row['value']:.2f}" for row in own if row["whose"] == whose]
                        for whose in ("published", "ours"))
        lines.append([f"{entry.task}, {entry.data.upper()}", entry.metric, ", ".join(theirs), ", ".join(ours)])
    notes, seen = [], {}
    for entry in found:
        seen.setdefault(tuple(entry.differences), []).append(entry)
    for differences, group in seen.items():
        notes.append(f"**{group[0].data.upper()}: {'; '.join(entry.task for entry in group)}**")
        notes.append("\n".join([
            *(f"- Published: {entry.source}; {entry.note}." for entry in group),
            *dict.fromkeys(f"- Ours: `{command_of(one['results'])}`, {measured(one)[1]} pictures, on {one['hardware']}."
                           for entry in group for one in entry.ours),
            *(f"- Differs: {difference}." for difference in differences)]))
    head = markdown(["what", "metric", "published", "ours"], lines).replace("---:|---:|", "---|---|")
    return "\n\n".join([head, *notes])


def table(args, pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`. Reads what was measured; measures nothing."""
    found = entries()
    rows = rows_of(found)
    closing = ("No number of INDIGO, INDIGO+ or LatentINDIGO is here: none of their tables could be read. None of "
               "these is like for like, and none of ours is a claim to have reproduced a paper.")
    return "reproduction", rows, "\n\n".join([to_markdown(found, rows), closing, f"Written by `{command}`."])
