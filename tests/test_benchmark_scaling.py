"""The benchmark of scaling: what stays the same when devices are added, against counting by hand."""
import json

import pytest

from eval import benchmark
from eval.speed import scaling


def test_rows_are_made_one_by_one():
    class Arguments:
        topologies, batch, sizes, repeats, two_processes = ["cpu:2", "cpu:4"], [3], [16], 1, True

    assert len(scaling.scaling(Arguments)) == 2 + 2 + 1
    Arguments.topologies, Arguments.two_processes = ["v5e:2x2"], False
    assert len(scaling.scaling(Arguments)) == 1  # nothing to measure


def test_the_work_of_a_device_is_the_same_on_more_of_them():
    assert [scaling.make_config(3, count, 16).batch_size for count in (1, 4)] == [3, 12]
    assert scaling.make_config(8, 256, 128).model.width == 64


@pytest.mark.slow
def test_benchmark_of_scaling_prints_plans_and_measurements(capsys):
    assert benchmark.main(["scaling", "--json", "--sizes", "16", "--topologies", "cpu:1", "cpu:4", "--repeats", "1",
                           "--two-processes"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["source"], row["device_count"], row["processes"]) for row in rows] == [
        ("planned", 1, 1), ("planned", 4, 1), ("measured", 1, 1), ("measured", 4, 1), ("measured", 2, 2)]
    one, four = rows[:2]
    assert four["flops"] == pytest.approx(one["flops"], rel=0.01) and four["pictures_per_chip"] == 1
    assert one["wire_bytes"] == 0 and four["wire_bytes"] == pytest.approx(four["collective_bytes"] * 1.5)
    assert all(row["run_seconds_min"] is None for row in rows[:2])
    assert all(row["run_seconds_min"] > 0 and row["loss"] > 0 for row in rows[2:])
    lines = benchmark.to_text(rows).splitlines()
    assert lines[0].split()[0] == "source" and lines[1].startswith("planned")


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(scaling, "_CODE", "import sys; sys.exit('no such luck')")
    with pytest.raises(ValueError, match="failed: no such luck"):
        scaling.processes_row(1, 16, 1)
