"""Plans of LatentINDIGO: the program is the method's own, with networks of which only the shapes are known."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import methods, models, rng, schedules, weights
from tests import guided_networks
from tests.paths import ROOT
from train import plan, plan_chips, plan_guided, plan_programs

UNET = {"prompt_length": 5, "prompt_channels": 6, "block_out_channels": (8,), "has_attention": (True,),
        "layers_per_block": 1, "num_heads": 2, "num_groups": 4}
SPACE = {"block_out_channels": (4, 8), "layers_per_block": 1, "num_groups": 4}
INN = {**guided_networks.INN, "levels": 1}
SCHEDULE = schedules.to_json("scaled_linear", num_timesteps=100)
CONFIG = f'''"""Tiny networks."""
from indigo_jax import models
from train.plan_guided import GuidedConfig


def get_config():
    return GuidedConfig(model=models.PromptedUNet(**{UNET}), autoencoder=models.AutoencoderKL(**{SPACE}),
                        inn=models.GuidanceINN(**{INN}), schedule={SCHEDULE}, prediction="v", learned=16, crop=16,
                        steps=3)
'''


def tiny(**changes):
    networks = {"model": models.PromptedUNet(**UNET), "autoencoder": models.AutoencoderKL(**SPACE),
                "inn": models.GuidanceINN(**INN), "schedule": SCHEDULE, "prediction": "v", "learned": 16, "crop": 16}
    return plan_guided.GuidedConfig(**{**networks, "steps": 3, **changes})


def lowered(config, platform="cpu"):
    program = plan_programs.make(config, jax.devices()[:1], None, platform=platform)
    return program, program.jitted.lower(*program.arguments)


@pytest.fixture(scope="module")
def restoring(tmp_path_factory):
    """The method with such networks of random weights, from files."""
    folder = tmp_path_factory.mktemp("networks")
    space = guided_networks.write(folder / "space.safetensors", "AutoencoderKL", SPACE, (1, 16, 16, 3))
    identity = {"name": str(space), "sha256": weights.verify(space)["sha256"]}
    prior = guided_networks.write(folder / "prior.safetensors", "PromptedUNet", UNET, (1, 8, 8, 4), (1,),
                                  prediction="v", schedule=SCHEDULE, image_size=16, autoencoder=identity)
    inn = guided_networks.write_inn(folder / "inn.safetensors", levels=1)

    def load(**settings):
        return methods.load("latent-indigo", task="sr", scale=2, prior=str(prior), inn=str(inn), steps=3,
                            variant="pixel", devices=jax.devices()[:1], **settings)

    return load


@pytest.mark.parametrize("settings", [{}, pytest.param({"precision": "bfloat16", "gradient": "truncated"},
                                                       marks=pytest.mark.slow)])
def test_what_is_planned_is_what_runs(restoring, settings):
    """The method's own program: as many operations, as many bytes of weights."""
    method = restoring(**settings)
    y, keys = jnp.zeros((1, 8, 8, 3)), rng.image_keys(0, np.arange(1))
    run = method._solve.lower(method.params, y, keys, plan=method.plan(16, 16), given={})
    program, text = lowered(tiny(**settings))
    assert text.cost_analysis()["flops"] == pytest.approx(run.cost_analysis()["flops"], rel=1e-6)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(method.params))
    assert program.memory["parameters"] == held
    assert program.memory["batch"] == 4 * 8 * 8 * 3 + 8  # the measurement, and a key


@pytest.mark.slow  # half a minute of compilation
def test_bfloat16_computes_the_same_with_half_of_the_weights(restoring):
    """What is held in bfloat16 is what would be rounded to it at every use."""
    exact, method = restoring(), restoring(precision="bfloat16")
    module, params, _ = method.networks["prior"]
    assert module.dtype == jnp.bfloat16 and method.networks["inn"] is not None
    kinds = {leaf.ndim > 1: leaf.dtype for leaf in jax.tree.leaves(params)}
    assert kinds == {True: jnp.bfloat16, False: jnp.float32}
    assert {leaf.dtype for leaf in jax.tree.leaves(method.networks["inn"].params)} == {jnp.dtype("float32")}
    x, t = jax.random.normal(jax.random.key(1), (1, 8, 8, 4)), jnp.full(1, 30.0)
    found, wanted = jax.jit(lambda params, rounded: (module.apply(params, x, t), module.apply(rounded, x, t)))(
        exact.networks["prior"].params, params)
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16"):
        restoring(precision="float16")


@pytest.mark.slow  # most of a minute of compilation
def test_plan_for_a_gpu(tmp_path, capsys):
    """Through the command: twice the time of bfloat16 in float32, memory called an estimate."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    assert plan.main(["--config", str(path), "--topology", "rtx4080:1", "--alone", "--json"]) == 0
    row, = json.loads(capsys.readouterr().out)
    chip = plan_chips.CHIPS["rtx4080"]
    assert row["what"] == "guided" and row["steps"] == row["calls"] == 3 and row["fits"] is True and row["estimated"]
    assert row["seconds"]["compute"] == pytest.approx(row["flops"] / chip.flops32)
    assert row["flops"] > 3 * row["call_flops"] > 0  # the autoencoder and gradients come on top
    assert row["advice"] == [] and row["collectives"] == []
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
        models.PromptedUNet(**UNET).init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.ones(1))))
    assert row["parameters"]["prior"] == count
    text = plan.to_text("tiny", [row], row)
    assert "3 calls of the prior" in text and "memory and bytes are those of a CPU's program, an estimate" in text
    assert plan.main(["--config", str(path), "--topology", "cpu:1", "--what", "train"]) == 2
    assert "GuidedConfig has no such program; leave --what out" in capsys.readouterr().err


def test_a_guided_call_costs_two():
    once, twice = (plan_guided.make(tiny(model=models.PromptedUNet(**UNET, prompt_scale=scale)), steps=None,
                                    platform="cpu")[-1]["call_flops"] for scale in (1.0, 2.0))
    assert twice == pytest.approx(2 * once, rel=0.05)


def test_what_to_do_when_it_does_not_fit():
    row = {"fits": False, "estimated": True, "pictures_per_chip": 2, "memory": {"total": 20.0, "available": 16.0}}
    said = " ".join(plan_guided.advice(tiny(learned=64), row))
    for flag in ("fewer pictures", "--precision bfloat16", "--gradient truncated", "--tile 32", "network of latents"):
        assert flag in said
    rest = tiny(learned=64, precision="bfloat16", gradient="truncated", tile=16,
                inn=models.GuidanceINN(**{**INN, "channels": 4}))
    assert plan_guided.advice(rest, {**row, "pictures_per_chip": 1}) == []
    fits = {**row, "fits": True, "memory": {"total": 13.0, "available": 16.0}}
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in plan_guided.advice(tiny(), fits)[0]
    assert plan_guided.advice(tiny(), {**fits, "estimated": False}) == []
    with pytest.raises(ValueError, match="crop 17: .* on a canvas of"):
        plan_guided.make(tiny(crop=17), steps=None, platform="cpu")


@pytest.mark.slow
def test_stable_diffusion_is_planned_in_its_full_size():
    """Lowered, not compiled: parameters and operations are those of Stable Diffusion 2.1."""
    from train import common
    config = common.config_from_command_line(
        ["--config", str(ROOT / "train" / "configs" / "plan_stable_diffusion.py")], program="train.plan",
        kind=plan_guided.GuidedConfig)
    function, params, batch, facts = plan_guided.make(config, steps=2, platform="gpu")
    context = 77 * 1024
    assert facts["parameters"]["prior"] == 865_910_724 + context
    assert facts["parameters"]["autoencoder"] == 83_653_863
    assert facts["calls"] == 2 and 0.6e12 < facts["call_flops"] < 1.0e12
    assert jax.eval_shape(lambda params, batch: function(params, *batch), params, batch).x.shape == (1, 512, 512, 3)
