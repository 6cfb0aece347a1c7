"""The benchmark of memory: what a method takes beside a call of its network."""
import json

import pytest

from eval import benchmark
from eval.speed import peaks
from indigo_jax import methods


def test_a_method_takes_little_more_than_a_call_of_its_network(monkeypatch, capsys):
    monkeypatch.setattr(methods, "METHODS", {name: methods.METHODS[name] for name in ("hqs", "pigdm")})
    assert benchmark.main(["peaks", "--json", "--sizes", "32"]) == 0
    hqs, pigdm = json.loads(capsys.readouterr().out)
    assert [hqs["method"], hqs["weights"], hqs["task"], pigdm["method"]] == ["hqs", "photo", "deblur", "pigdm"]
    assert pigdm["differentiated"] and not hqs["differentiated"] and pigdm["call_bytes"] > 1.3 * hqs["call_bytes"]
    for row in (hqs, pigdm):
        assert 1 <= row["over_call"] < 1.5 and row["over_call"] == row["peak_bytes"] / row["call_bytes"]
    text = benchmark.to_text([hqs, pigdm])
    assert "compiled, not run" in text and "peak/call" in text.splitlines()[0]


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_has_a_task_and_a_picture(name):
    method, picture = peaks._ready(name, 64)
    assert method.task in method.tasks and 64 // method.scale == picture.pixels.shape[0]
