"""Published numbers beside ours: every number has a source, every one of ours rows that it comes from."""
import csv
import pathlib

import numpy as np
import pytest

from eval import tables
from eval.tables import reproduction

ROOT = pathlib.Path(__file__).parents[1]
ENTRIES = reproduction.entries()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.data}, {entry.task}")
def test_every_entry_says_where_it_is_from_and_what_differs(entry):
    assert len(entry.source) > 10 and entry.note and entry.differences and entry.ours
    assert all(10 < value < 60 for value in entry.values.values())
    for one in entry.ours:
        value, count = reproduction.measured(one)
        with open(ROOT / f"eval/results/{one['results']}.csv") as stream:
            rows = [float(row[one["column"]]) for row in csv.DictReader(stream)
                    if all(row[name] == wanted for name, wanted in one["where"].items())]
        assert (value, count) == (pytest.approx(np.mean(rows), abs=1e-12), len(rows))
        assert reproduction.command_of(one["results"]).startswith("python -m eval.tables") and one["hardware"]


def test_levels_are_in_the_order_of_numbers_not_of_letters():
    noise = [entry.task for entry in ENTRIES if entry.data == "cbsd68"]
    assert noise == [f"Gaussian noise, sigma {sigma}" for sigma in (5, 15, 25, 50)]


def test_a_row_that_is_not_there_is_an_error():
    one = {**ENTRIES[0].ours[0], "where": {"method": "magic"}}
    with pytest.raises(ValueError, match="has no row of .*magic"):
        reproduction.measured(one)


def test_the_page_is_what_the_command_writes(tmp_path, capsys):
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs/results.md").read_text())
    assert tables.main(["--method", "reproduction", "--readme", str(page), "--output", str(tmp_path)]) == 0
    assert page.read_text() == (ROOT / "docs/results.md").read_text(), (
        "results have changed: python -m eval.tables --method reproduction --readme docs/results.md")
    with open(tmp_path / "reproduction.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["whose"] for row in rows} == {"published", "ours"} and all(row["source"] for row in rows)
