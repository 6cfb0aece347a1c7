"""The benchmarks of training and of convolutions: the twins in torch are the same networks, and what the rows say."""
import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import benchmark
from eval.speed import convolution, start, training, twins
from eval.speed.measuring import shapes
from indigo_jax import models

HAS_TORCH = importlib.util.find_spec("torch") is not None
SMALL = {
    "indi_photo_small": models.RestorationUNet(width=8, multipliers=(1, 2), num_res_blocks=1, patch_size=2),
    "denoiser_photo": models.DenoisingUNet(width=8, multipliers=(1, 2), num_res_blocks=1, patch_size=2),
    "diffusion_faces64": models.DDPMUNet(channels=8, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,),
                                         image_size=16, patch_size=2, num_groups=4)}


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed ([parity])")
@pytest.mark.parametrize("name", training.NETWORKS)
def test_a_twin_is_the_same_network(name):
    random = np.random.default_rng(0)
    module = SMALL[name]
    params = jax.tree.map(lambda leaf: 0.2 * random.standard_normal(leaf.shape, np.float32), shapes(module))
    x, t = random.standard_normal((2, 16, 16, 3), np.float32), np.array([0.3, 0.9], np.float32)

    def loss(params):
        out = module.apply(params, x, t)
        return jnp.mean(out**2), out

    (_, wanted), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    torch = twins.torch()
    tensors = twins.parameters(params)
    found = twins.apply(module, tensors, twins.pictures(x), torch.from_numpy(t))
    torch.mean(found**2).backward()
    np.testing.assert_allclose(found.detach().permute(0, 2, 3, 1), wanted, atol=1e-4 * np.abs(wanted).max())
    gradients = jax.tree.map(lambda leaf: leaf.grad, tensors)
    for ours, theirs in zip(jax.tree.leaves(twins.parameters({"params": grads["params"]})), jax.tree.leaves(gradients),
                            strict=True):
        ours = ours.detach().numpy()
        np.testing.assert_allclose(theirs, ours, atol=1e-3 * np.abs(ours).max() + 1e-7)


def test_the_benchmark_of_training_says_what_a_step_costs(monkeypatch, capsys):
    config_of = training.config_of
    monkeypatch.setattr(training, "config_of", lambda name: dataclasses.replace(config_of(name), model=SMALL[name]))
    against = ["--against", "torch"] * HAS_TORCH
    assert benchmark.main(["training", "--json", "--networks", "denoiser_photo", "--batch", "1", "--sizes", "8",
                           "--repeats", "2", *against]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in rows] == ["ours", "compiler", "torch"][:2 + HAS_TORCH]
    for row in rows:
        assert row["repeats"] == 2 and 0 < row["gradient_seconds_min"] <= row["gradient_seconds_median"]
        assert row["gradient_over_forward"] == row["gradient_seconds_min"] / (3 * row["forward_seconds_min"])
        assert (row["step_over_torch"] is None) == (not HAS_TORCH)
    assert benchmark.to_text(rows).splitlines()[1].startswith("denoiser_photo  ours")


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_it_says_what_to_install():
    with pytest.raises(ImportError, match=r"pip install \"indigo_jax\[parity\]\""):
        twins.torch()


def test_no_twin_and_no_such_network():
    with pytest.raises(ValueError, match="no twin of ADMUNet"):
        twins.apply(models.ADMUNet(), {}, None, None)
    with pytest.raises(ValueError, match="there are: indi_photo_small, denoiser_photo"):
        training.config_of("large")


def test_a_row_of_the_benchmark_of_convolutions(monkeypatch, capsys):
    monkeypatch.setattr(convolution, "SHAPES", ((8, 4, 6),))
    assert benchmark.main(["convolution", "--json", "--batch", "2", "--repeats", "1"]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["rule"] == "patches" and row["rule_over_best"] >= 1
    assert row["own_flops_per_second"] * row["own_seconds_min"] == pytest.approx(2 * 9 * 2 * 8**2 * 4 * 6)
    assert benchmark.to_text([row]).splitlines()[0].split()[:4] == ["side", "in", "out", "batch"]


def test_beginning_is_measured_in_interpreters_of_their_own(monkeypatch, capsys):
    monkeypatch.setattr(start, "CODES", {"jax": "pass", "more": "sum(i * i for i in range(3_000_000))"})
    assert benchmark.main(["start", "--json", "--repeats", "1"]) == 0
    nothing, more = json.loads(capsys.readouterr().out)
    assert nothing["beyond_jax_seconds"] == 0 and more["run_seconds_min"] == more["run_seconds_median"] > 0
    assert more["beyond_jax_seconds"] == pytest.approx(more["run_seconds_min"] - nothing["run_seconds_min"])


def test_all_benchmarks_in_one_list_of_rows(monkeypatch, capsys):
    seen = []

    def rows(name):
        def make(args):
            seen.append((name, args.sizes))
            return [lambda: {"benchmark": name, "device_count": 1, "device_kind": "d", "platform": "p",
                             "jax_version": "1", "repeats": 1}]
        return make, (("benchmark", "of", "s"),), (f"a note on {name}",)

    monkeypatch.setattr(benchmark, "BENCHMARKS", {name: rows(name) for name in ("indi", "latent-indigo")})
    assert benchmark.main(["all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["benchmark"] for row in found] == ["indi", "latent-indigo"]
    assert seen == [("indi", [64]), ("latent-indigo", [256, 512, 1024, 2048])]
    text = benchmark.to_text(found)
    assert text.count("a note on") == text.count("1 x d (p)") == 2
    assert benchmark.main(["all", "--sizes", "32"]) == 0 and seen[2:] == [("indi", [32]), ("latent-indigo", [32])]


def test_results_take_the_place_of_those_before(tmp_path):
    facts = {"benchmark": "start", "task": "a", "code": "pass", "run_seconds_min": 1.25, "run_seconds_median": 2.0,
             "beyond_jax_seconds": 0.0, "repeats": 1, "device_count": 1, "device_kind": "d", "platform": "p",
             "jax_version": "1"}
    path = tmp_path / "speed.md"
    benchmark.record([facts], path)
    path.write_text(path.read_text() + "\nMore.\n")
    before = path.read_text()
    benchmark.record([{**facts, "run_seconds_min": 0.75}], path)
    assert path.read_text() == before.replace("1.250", "0.750") != before
    assert before.startswith("# Speed\n\n<!-- start -->\n```\nbegin with") and before.endswith("\nMore.\n")
