"""The benchmark of BIRD: what its rows say, against what a run of the kernel says and against counting by hand."""
import functools
import importlib.util
import json
import math

import jax
import numpy as np
import pytest

from eval import benchmark
from eval.speed import bird, measuring, twins
from indigo_jax import denoisers, models, operators, restoration, rng, schedules

HAS_TORCH = importlib.util.find_spec("torch") is not None

TINY = models.DDPMUNet(channels=8, multipliers=(1,), num_res_blocks=1, attention_resolutions=(), num_groups=4,
                       image_size=16)


@pytest.mark.slow
def test_benchmark_prints_a_row_for_each_mode(monkeypatch, capsys):
    monkeypatch.setattr(bird, "SMALL", TINY)
    assert benchmark.main(["bird", "--json", "--sizes", "16", "--batch", "2", "--repeats", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in rows] == ["official", "default", "refresh", "exact"]
    assert [row["evaluations_per_iteration"] for row in rows] == [10, 5, 1, 10]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(measuring.shapes(TINY)))
    for row in rows:
        assert row["parameters"] == parameters and row["device_count"] == math.gcd(2, jax.device_count())
        assert row["seconds_per_iteration"] == pytest.approx(row["run_seconds_min"] / 2)
        assert row["images_per_second"] == pytest.approx(
            2 / row["seconds_per_iteration"] / {"refresh": 100, "default": 60}.get(row["mode"], 100))
        assert row["peak_bytes"] >= row["temporary_bytes"] > 0 and row["compile_seconds"] > 0
        assert row["peak_share"] is None or 0 < row["peak_share"] < 1
        assert row["peer_seconds_per_iteration"] is row["peer"] is None  # measured on another network
    official, default, refresh, exact = (row["flops_per_image"] for row in rows)
    assert official == pytest.approx(2 * default) == pytest.approx(10 * refresh) and exact > 2.5 * official
    # the 3 x 3 and 1 x 1 convolutions at 16 x 16 by hand: in, 5 blocks (3 of them take 16 channels), attention, out
    products = 256 * (9 * (3 * 8 + 2 * 8 * 8 + 3 * (16 + 8) * 8 + 2 * 8 * 8 + 8 * 3) + 2 * 16 * 8 + 4 * 8 * 8)
    assert 1.5 * products < refresh < 6 * products

    lines = benchmark.to_text(rows).splitlines()
    assert lines[0].split()[:2] == ["mode", "network"] and lines[4].startswith("exact")
    assert any("released torch code" in line for line in lines)


def test_the_peer_stands_beside_the_same_work_only():
    def peer(mode, **changes):
        settings = {"size": 64, "batch": 1, "num_iterations": 2, **changes}
        facts = bird.program("", bird.SMALL, mode, **settings).facts
        return facts["peer_seconds_per_iteration"], facts["peer"]

    assert peer("official") == ([0.16, 0.307], bird.PEER)
    assert peer("default") == peer("official", size=32) == peer("official", batch=2) == (None, None)


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed ([parity])")
def test_the_twin_in_torch_is_the_same_iteration():
    """Two of them, from the same noise: noise, picture and losses."""
    random = np.random.default_rng(0)
    module = TINY.clone(attention_resolutions=(8,), multipliers=(1, 1))
    params = jax.tree.map(lambda leaf: 0.2 * random.standard_normal(leaf.shape, np.float32), measuring.shapes(module))
    keys, schedule = rng.image_keys(0, [0, 1]), schedules.respace(schedules.linear(), 3, "linspace")
    z, y = (random.standard_normal((2, 16, 16, 3), np.float32) for _ in range(2))
    operator = operators.blind_blur(5, form="mlp", boundary="zero", correlate=True)
    kernel = restoration.bird(denoisers.from_eps(functools.partial(module.apply, params), schedule), schedule, operator,
                              y, restoration.bird_optimizer(3e-2, 1e-3, final=1.0), clip="hard", num_iterations=3)
    unknowns = operator.init(keys)
    state = kernel.init(z, keys, unknowns)
    start, step = twins.bird(module, twins.parameters(params), schedule, y, unknowns, (3e-2, 1e-3))
    theirs = start(z)
    for i in range(2):
        state, info = jax.jit(kernel.step)(keys, state, i)
        found, x0, losses = step(theirs)
        np.testing.assert_allclose(losses.detach(), info.loss, rtol=1e-4)
        np.testing.assert_allclose(x0.detach().permute(0, 2, 3, 1), state.x0, atol=2e-3)
        np.testing.assert_allclose(found.detach().permute(0, 2, 3, 1), state.z, atol=2e-3)


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed ([parity])")
def test_beside_torch_both_take_turns(monkeypatch, capsys):
    monkeypatch.setattr(bird, "SMALL", TINY)
    monkeypatch.setattr(bird, "MODES", {"official": bird.MODES["official"]._replace(num_levels=2)})
    assert benchmark.main(["bird", "--json", "--sizes", "16", "--batch", "1", "--repeats", "2", "--iterations", "1",
                           "--against", "torch"]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["over_peer"] == row["seconds_per_iteration"] / row["peer_seconds_per_iteration"][0]
    assert "torch" in row["peer"] and row["repeats"] == 2


@pytest.mark.slow  # half a minute
def test_large_is_the_network_of_celeba_hq_in_two_precisions():
    class Arguments:
        large, batch, iterations, sizes, against = True, [1], 1, [64], ["torch"]

    facts = [getattr(program, "facts", None) or program.args[0].facts for program in bird.bird(Arguments)]
    assert {row["parameters"] for row in facts} == {113_673_219} and {row["image_size"] for row in facts} == {256}
    assert [row["dtype"] for row in facts if row["mode"] == "official"] == ["bfloat16", "float32"]


def test_share_of_the_peak():
    assert measuring.peak_share(989e12, "bfloat16", "NVIDIA H200", 2) == pytest.approx(0.5)
    assert measuring.peak_share(1e12, "float32", "cpu", 1) is None
