"""The three networks of INDIGO+ beside its prior: the invertible one, the encoder of its condition, SwinIR."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from indigo_jax import convert, models, weights
from indigo_jax.cli import main
from indigo_jax.convert import kinds
from tests import foreign, guided_networks, swinir_reference as reference
from tests.test_convert_inn import torch_state
from tests.torch_files import write_zip

SMALL = reference.SMALL


def swinir(**changes):
    return foreign.random_arrays(reference.shapes({**SMALL, **changes}))


def kdsr(**changes):
    return foreign.random_arrays(reference.kdsr_shapes(**changes))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.mark.parametrize("changes", [{}, {"unshuffle": 1, "depths": (2,)}])
def test_swinir_computes_what_the_reference_does(changes):
    arguments, state = {**SMALL, **changes}, swinir(**changes)
    found = convert.swinir_arguments(state)
    assert found == {name: value for name, value in arguments.items() if name != "features" or found["unshuffle"] > 1}
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, 8 * arguments["unshuffle"], 12 * arguments["unshuffle"]))
    expected = 2 * reference.forward(state, arguments, x) - 1
    module = models.SwinIR(**found)
    y = jax.jit(module.apply)(convert.swinir(state), jnp.moveaxis(jnp.float32(2 * x - 1), 1, -1), jnp.ones(1))
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected, atol=3e-5 * np.abs(expected).max())


def test_swinir_takes_any_size_and_has_the_size_of_the_paper():
    module, params = models.SwinIR(**SMALL), convert.swinir(swinir())
    assert jax.eval_shape(module.apply, params, jnp.zeros((1, 13, 7, 3))).shape == (1, 13, 7, 3)
    x = jnp.zeros((1, 64, 64, 3))
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(models.SwinIR().init, jax.random.key(0), x)))
    theirs = sum(int(np.prod(shape)) for shape in reference.shapes(
        dict(width=180, depths=(6,) * 8, num_heads=6, window=8, mlp_ratio=2.0, unshuffle=8, features=64)).values())
    assert count == theirs == 15_792_587


def test_the_encoder_computes_what_the_reference_does():
    state = kdsr()
    module = models.DegradationEncoder(**convert.kdsr_arguments(state))
    x = np.random.default_rng(1).uniform(0, 1, (2, 3, 9, 7))
    expected = reference.kdsr_forward(state, x)
    found = jax.jit(module.apply)(convert.kdsr(state), jnp.moveaxis(jnp.float32(x), 1, -1))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("converter, make, change, words", [
    (convert.kdsr, kdsr, lambda s: s.pop("mlp.2.bias"), "the encoder lacks dense_1/bias"),
    (convert.kdsr, kdsr, lambda s: s.update({"E.9.weight": np.zeros(3)}), "the encoder has unknown E/9"),
    (convert.kdsr, kdsr, lambda s: s.clear(), "not KDSR's encoder"),
    (convert.swinir, swinir, lambda s: s.pop("norm.bias"), "lacks norm_out/bias"),
    (convert.swinir, swinir, lambda s: s.update({"extra.weight": np.zeros((3, 3))}), "has unknown extra/kernel"),
    (convert.swinir, swinir, lambda s: s.pop("conv_up1.weight"), "folds pixels by 2 and enlarges by 1"),
    (convert.swinir, swinir, lambda s: s.update({"upsample.0.weight": np.zeros(3)}), "enlarges by shuffling"),
    (convert.swinir, swinir, lambda s: s.clear(), "not a SwinIR")])
def test_they_are_strict(converter, make, change, words):
    state = make()
    change(state)
    with pytest.raises(ValueError, match=words):
        converter(state)


def test_the_buffers_of_swinir_are_left_out():
    block = "layers.0.residual_group.blocks.1"
    extra = {f"{block}.attn_mask": np.zeros((4, 16, 16)), f"{block}.attn.relative_position_index": np.zeros((16, 16))}
    assert jax.tree.all(jax.tree.map(np.array_equal, convert.swinir({**swinir(), **extra}), convert.swinir(swinir())))


def test_indigo_plus_from_its_files_to_a_picture(tmp_path, capsys):
    """Its invertible network with its encoder, and its first estimate, through the commands."""
    small = dict(channels=3, lifting_steps=1, width=4, cond_dim=3, detail_slicing="overlap", num_blocks=1, cond_width=5)
    inn = write_zip(tmp_path / "INN.pth", {"params": torch_state(models.WaveletINN(**small))})
    state = {f"E_st.{name}": value for name, value in kdsr().items()} | {"G.head.0.weight": np.zeros((3, 3), "f4")}
    encoder = write_zip(tmp_path / "KDSRS-GANV2.pth", {"params_ema": state})
    save_file({f"module.{name}": value for name, value in swinir().items()}, tmp_path / "swinir.safetensors")
    out = tmp_path / "inn.safetensors"
    command = ["weights", "convert", str(inn), "-o", str(out)]
    assert main(command) == 2
    assert "give that one's checkpoint" in capsys.readouterr().err
    assert main([*command, "--encoder", str(inn)]) == 2
    assert "no encoder of KDSR in it: its names begin with transform_net" in capsys.readouterr().err
    assert main([*command, "--encoder", str(encoder), "--dtype", "float32"]) == 0
    module, params, info = weights.load(out, kind="inn")
    assert info["scale"] == 4 and isinstance(module, models.GuidanceINN)
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, 8, 8))
    embedded = module.apply(params, jnp.moveaxis(jnp.float32(x), 1, -1), method="embed")
    np.testing.assert_allclose(embedded, reference.kdsr_forward(kdsr(), x), atol=1e-4)
    first = tmp_path / "estimate.safetensors"
    assert main(["weights", "convert", str(tmp_path / "swinir.safetensors"), "-o", str(first)]) == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    prior = guided_networks.write_prior(tmp_path / "prior.safetensors")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--task", "sr", "--scale", "4",
                 "--method", "indigo", "--prior", str(prior), "--inn", str(out), "--estimate", str(first),
                 "--steps", "1"]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (32, 32)


def test_an_encoder_of_another_length_is_refused(tmp_path):
    small = dict(channels=3, lifting_steps=1, width=4, cond_dim=5, detail_slicing="overlap", num_blocks=1, cond_width=5)
    inn = write_zip(tmp_path / "INN.pth", torch_state(models.WaveletINN(**small)))
    encoder = write_zip(tmp_path / "e.pth", kdsr())
    with pytest.raises(ValueError, match="conditions of 3 numbers, the invertible network takes 5"):
        kinds.load(str(inn), options=kinds.Options(encoder=str(encoder)))
