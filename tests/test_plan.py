"""Plans: texts of programs read by hand, rooflines by hand, whole plans on virtual devices and for a TPU pod."""
import importlib.util
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.paths import ROOT
from train import plan, plan_chips, plan_hlo, plan_programs, plan_traffic

PROGRAM = textwrap.dedent("""\
    HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,4]{1,0})->f32[]}, num_partitions=4

    %add (x: f32[], y: f32[]) -> f32[] {
      %x = f32[] parameter(0)
      %y = f32[] parameter(1)
      ROOT %sum = f32[] add(f32[] %x, f32[] %y)
    }

    %conv (a: bf16[2,8,8,4], k: bf16[3,3,4,16]) -> bf16[2,8,8,16] {
      %a = bf16[2,8,8,4]{3,0,2,1:T(8,128)(2,1)} parameter(0)
      %k = bf16[3,3,4,16]{3,2,1,0} parameter(1)
      ROOT %convolution.1 = bf16[2,8,8,16]{3,2,1,0} convolution(%a, %k), window={size=3x3 pad=1_1x1_1}, \
    dim_labels=b01f_01io->b01f
    }

    %cut (table: f32[100,8], i: s32[]) -> f32[1,8] {
      %table = f32[100,8]{1,0} parameter(0)
      %i = s32[] parameter(1)
      %zero = s32[] constant(0)
      ROOT %piece = f32[1,8]{1,0} dynamic-slice(%table, %i, %zero), dynamic_slice_sizes={1,8}
    }

    %body (state: (s32[], bf16[2,8,8,4])) -> (s32[], bf16[2,8,8,4]) {
      %state = (s32[], bf16[2,8,8,4]{3,2,1,0}) parameter(0)
      %count = s32[] get-tuple-element(%state), index=0
      %x.1 = bf16[2,8,8,4]{3,2,1,0} get-tuple-element(%state), index=1
      %kernel = bf16[3,3,4,16]{3,2,1,0:T(8,128)(2,1)S(1)} constant({...})
      %fusion.1 = bf16[2,8,8,16]{3,2,1,0} fusion(%x.1, %kernel), kind=kOutput, calls=%conv, \
    metadata={op_name="jit(step)/transpose(jvp(Net))/block0/conv_in/conv_general_dilated" source_file="a.py"}
      %y.1 = bf16[2,8,8,4]{3,2,1,0} slice(%fusion.1), slice={[0:2], [0:8], [0:8], [0:4]}
      ROOT %next = (s32[], bf16[2,8,8,4]{3,2,1,0}) tuple(%count, /*index=1*/%y.1)
    }

    %more (state: (s32[], bf16[2,8,8,4])) -> pred[] {
      %state.1 = (s32[], bf16[2,8,8,4]{3,2,1,0}) parameter(0)
      ROOT %yes = pred[] constant(true)
    }

    ENTRY %main.9 (w: f32[10,10], table.1: f32[100,8], start: (s32[], bf16[2,8,8,4])) -> f32[] {
      %w = f32[10,10]{1,0} parameter(0)
      %table.1 = f32[100,8]{1,0} parameter(1)
      %start = (s32[], bf16[2,8,8,4]{3,2,1,0}) parameter(2)
      %i.1 = s32[] constant(3)
      %while.1 = (s32[], bf16[2,8,8,4]{3,2,1,0}) while(%start), condition=%more, body=%body, \
    backend_config={"known_trip_count":{"n":"5"}}
      %fusion.2 = f32[1,8]{1,0} fusion(%table.1, %i.1), kind=kLoop, calls=%cut
      %all-reduce.1 = (f32[10,10]{1,0}, f32[5]{0}) all-reduce(%w, %w), replica_groups=[1,4]<=[4], to_apply=%add
      %all-gather-start.1 = (f32[10,10]{1,0}, f32[40,10]{1,0}) all-gather-start(%w), replica_groups={{0,1,2,3}}, \
    dimensions={0}
      %all-gather-done.1 = f32[40,10]{1,0} all-gather-done(%all-gather-start.1)
      %copy-start.1 = (f32[10,10]{1,0:S(1)}, f32[10,10]{1,0}, u32[]{:S(2)}) copy-start(%w)
      ROOT %result = f32[] constant(0)
    }
    """)


# ---------------------------------------------------------------------------------------------------- texts

@pytest.mark.parametrize("loop, condition, count", [
    ('condition=%c, body=%b, backend_config={"known_trip_count":{"n":"5"}}', "", 5),
    ("condition=%c, body=%b", """
      %n = s32[]{:T(128)} constant(7)
      %i = s32[] get-tuple-element(%p), index=0
      ROOT %less = pred[] compare(%i, %n), direction=LT""", 7),
    ("condition=%c, body=%b", """
      %n = s32[] constant(7)
      ROOT %fused = pred[] fusion(%p, %n), kind=kLoop, calls=%f""", 7),
    ("condition=%c, body=%b", """
      %n = s32[] constant(7)
      ROOT %other = pred[] compare(%i, %n), direction=NE""", 1),
])
def test_how_often_a_loop_runs(loop, condition, count):
    computations, entry = plan_hlo.parse(textwrap.dedent(f"""
    %f (a: s32[], b: s32[]) -> pred[] {{
      ROOT %less = pred[] compare(%a, %b), direction=LT
    }}
    %c (p: (s32[])) -> pred[] {{{condition}
    }}
    ENTRY %main () -> s32[] {{
      ROOT %while.1 = (s32[]) while(%start), {loop}
    }}
    """))
    assert plan_hlo.trips(computations, computations[entry][0]) == count


def test_operands_are_names_whatever_stands_between_them():
    computations, _ = plan_hlo.parse(PROGRAM)
    found = {each.name: each.operands for body in computations.values() for each in body}
    assert found["next"] == ("count", "y.1") and found["sum"] == ("x", "y")  # a comment; types
    assert found["i.1"] == ("3",) and found["w"] == ("0",)


def test_collectives_of_a_text():
    traffic = plan_traffic.read(PROGRAM, chips=4)
    assert traffic.collectives == [plan_traffic.Collective("all-gather", 1, 1600, 1200.0),
                                   plan_traffic.Collective("all-reduce", 1, 420, 630.0)]


def test_movers_of_a_text_count_loops_and_leave_out_the_fast_memory():
    traffic = plan_traffic.read(PROGRAM, chips=4)
    by_name = {mover.operation: mover for mover in traffic.movers}
    convolution = by_name["convolution bf16"]
    assert convolution.count == 5 and convolution.memory_bytes == 5 * 2 * (2 * 8 * 8 * 4 + 2 * 8 * 8 * 16)
    assert convolution.bytes == convolution.memory_bytes + 5 * 2 * 3 * 3 * 8 * 128  # the kernel in whole tiles
    assert convolution.source == "backward conv_general_dilated in block0/conv_in"
    assert by_name["elementwise f32"].bytes == 2 * 8 * 4 + 4  # the piece read and written, and the index
    assert by_name["copy f32"].memory_bytes == 400 == by_name["copy f32"].bytes / 2  # it goes into the fast memory
    assert traffic.products == 5 * 2 * (2 * 8 * 8 * 16) * 9 * 4 and traffic.repeats[0] == 5
    assert traffic.memory_bytes == sum(mover.memory_bytes for mover in traffic.movers)


def test_products_of_real_programs_are_what_xla_counts():
    def network(x, a, b):
        return jnp.einsum("bhwc,cd->bhwd", jax.lax.conv_general_dilated(
            x, a, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")), b)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 10, 12, 3), (3, 3, 3, 5), (5, 7))]
    compiled = jax.jit(network).lower(*shapes).compile()
    traffic = plan_traffic.read(compiled.as_text())
    assert traffic.products == pytest.approx(2 * 2 * 8 * 10 * 5 * (27 + 7)) and traffic.collectives == []
    assert traffic.products == pytest.approx(compiled.cost_analysis()["flops"], rel=0.02)
    assert traffic.memory_bytes >= 4 * (2 * 10 * 12 * 3 + 2 * 8 * 10 * 7)


@pytest.mark.parametrize("kind, sent", [("all-reduce", 2 * 80 * 7 / 8), ("all-gather", 80 * 7 / 8),
                                        ("reduce-scatter", 80 * 7), ("all-to-all", 80 * 7 / 8),
                                        ("collective-permute", 80)])
def test_bytes_on_the_wire(kind, sent):
    assert plan_traffic.wire_bytes(kind, 80, 8) == pytest.approx(sent)


# ---------------------------------------------------------------------------------------------------- chips

def test_roofline_by_hand():
    chip = plan_chips.CHIPS["v5e"]
    limits = plan.roofline(chip, 1.97e12, 0.819e11, 2e8)
    assert limits["seconds"] == pytest.approx({"compute": 0.01, "memory": 0.1, "network": 0.001})
    assert limits["bound"] == "memory"
    assert plan.roofline(chip, 1e9, 1e3, 1e9)["bound"] == "network"
    assert plan.roofline(None, 1.0, 1.0, 1.0) == {"seconds": {}, "bound": None}


def test_topologies():
    assert plan_chips.parse("v5e:16x16").count == 256 and plan_chips.parse("cpu:6").count == 6
    assert str(plan_chips.parse("v4:4x4x8").half()) == "v4:4x4x4"
    for wrong in ("v5e", "v5e:16", "v5e:4x4x4", "v4:4x4", "h100:8", "cpu:0", "cpu:8x8", "v5e:ax2"):
        with pytest.raises(ValueError, match="topology"):
            plan_chips.parse(wrong)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    config = ROOT / "train" / "configs" / "indi_gopro.py"
    assert plan.main(["--config", str(config), "--topology", "v5e:4x4"]) == 2
    said = capsys.readouterr().err
    assert 'pip install "indigo_jax[tpu]"' in said and said.count("\n") == 1


# ---------------------------------------------------------------------------------------------------- whole plans

CONFIG = '''"""A tiny run."""
from indigo_jax import models, operators
from train.indi import IndiConfig


def get_config():
    model = models.RestorationUNet(width=8, multipliers=(1,), num_res_blocks=1, patch_size=2, norm="layer")
    return IndiConfig(model=model, degradation=operators.random_gaussian_noise((5.0, 50.0)), crop=16, margin=0,
                      batch_size=8)
'''


def write_config(folder):
    path = folder / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def test_plan_of_a_tiny_run(tmp_path, capsys):
    path = write_config(tmp_path)
    assert plan.main(["--config", path, "--topology", "cpu:4", "--json", "--alone"]) == 0
    row, = json.loads(capsys.readouterr().out)
    model = networks.module(multipliers=[1])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.ones(1))
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert row["memory"]["parameters"] == row["memory"]["average"] == parameters
    assert row["memory"]["optimizer"] == pytest.approx(2 * parameters, rel=0.01)
    assert row["memory"]["batch"] == 2 * 16 * 16 * 3 and row["pictures_per_chip"] == 2
    assert row["memory"]["total"] >= 4 * parameters + row["memory"]["activations"] > 4 * parameters
    assert {each["kind"] for each in row["collectives"]} == {"all-reduce"}  # the gradient, and nothing else
    assert parameters <= sum(each["bytes"] for each in row["collectives"]) <= parameters + 64
    assert row["fits"] is row["bound"] is None and row["intensity"] == pytest.approx(row["flops"] / row["bytes"])
    assert row["movers"][0]["bytes"] >= row["movers"][-1]["bytes"] > 0


@pytest.mark.slow
def test_plan_at_half_and_double_the_devices(tmp_path, capsys):
    path = write_config(tmp_path)
    assert plan.main(["--config", path, "--topology", "cpu:4"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].split() == ["cpu:2", "cpu:4", "cpu:8"]
    assert plan.main(["--config", path, "--topology", "cpu:4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["pictures_per_chip"] for row in rows] == [2, 2, 2]
    for row in rows[1:]:
        assert row["flops"] == pytest.approx(rows[0]["flops"], rel=0.01)
    assert plan.main(["--config", path, "--topology", "cpu:4", "--json", "--fsdp", "4", "--alone"]) == 0
    split, = json.loads(capsys.readouterr().out)
    assert {each["kind"] for each in split["collectives"]} >= {"all-gather"}
    assert split["memory"]["parameters"] < 0.5 * rows[1]["memory"]["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sample", "bird"])
def test_samplers_need_no_collective(what):
    from indigo_jax import models, schedules
    from train.diffusion import DiffusionConfig
    model = models.DDPMUNet(channels=8, multipliers=(1,), num_res_blocks=1, attention_resolutions=(), num_groups=4,
                            image_size=16)
    config = DiffusionConfig(model=model, schedule=schedules.to_json("linear"), crop=16, batch_size=4)
    topology = plan_chips.parse("cpu:2")
    once, thrice = (plan.plan(config, topology, what=what, steps=steps) for steps in (1, 3))
    assert once["collectives"] == thrice["collectives"] == []
    assert thrice["flops"] == pytest.approx(3 * once["flops"], rel=0.1)


def test_a_program_that_a_config_does_not_have(tmp_path, capsys):
    path = write_config(tmp_path)
    assert plan.main(["--config", path, "--topology", "cpu:2", "--what", "bird"]) == 2
    assert "IndiConfig has no such program" in capsys.readouterr().err
    assert plan.main(["--config", path, "--topology", "cpu:3"]) == 2
    assert "use 6 or 9" in capsys.readouterr().err


def test_bytes_per_chip_are_those_of_the_shards():
    from indigo_jax import sharding
    mesh = sharding.mesh(jax.devices()[:4], fsdp=4)
    tree = {"kernel": np.zeros((3, 3, 4, 8), np.float32), "bias": np.zeros(8, np.float32)}
    shapes = plan_programs._on(tree, sharding.parameter_shardings(tree, mesh))
    assert plan_programs.bytes_per_chip(shapes) == 4 * (3 * 3 * 4 * 8 / 4 + 8)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu ([tpu])")
def test_plan_for_a_tpu(tmp_path, capsys):
    assert plan.main(["--config", write_config(tmp_path), "--topology", "v5e:4x4", "--batch-size", "16", "--json",
                      "--alone"]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["chips"] == 16 and row["fits"] is True and row["bound"] in ("compute", "memory", "network")
    assert {each["kind"] for each in row["collectives"]} == {"all-reduce"}
    assert sum(each["count"] for each in row["collectives"]) <= 2
