"""Converted networks against what diffusers and the papers' programs answer, kept as numbers: no torch is needed."""
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from indigo_jax import convert, metrics, models
from indigo_jax.convert import checkpoint, kinds
from indigo_jax.convert.kdsr import SIGNATURE
from tests import goldens


def opened(golden, folder):
    """The converted network of a file, or of a folder as its library writes it."""
    if golden.kind == "file":
        save_file(goldens.draw(golden.shapes), folder / "net.safetensors")
        return kinds.load(str(folder / "net.safetensors"), options=kinds.Options(**golden.options))
    (folder / "config.json").write_text(json.dumps(golden.config))
    save_file(goldens.draw(golden.shapes), folder / "diffusion_pytorch_model.safetensors")
    options = dict(golden.options)
    if options.pop("context", False):
        texts = {name: golden.arrays[name] for name in ("context", "pooled") if name in golden.arrays}
        np.savez(folder / "text.npz", **texts)
        np.save(folder / "text.npy", golden.arrays["context"])
        options["context"] = str(folder / ("text.npz" if len(texts) > 1 else "text.npy"))
    return kinds.load(str(folder), options=kinds.Options(**options))


def close(found, expected):
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), rtol=1e-4)


def named(*kinds):
    return [name for name in goldens.NAMES if goldens.load(name).kind in kinds]


@pytest.mark.parametrize("name", named("diffusers", "file"))
def test_a_converted_network_answers_as_the_original(tmp_path, name):
    golden = goldens.load(name)
    converted = opened(golden, tmp_path)
    for method, given, wanted in golden.calls:
        arguments = [np.moveaxis(golden.arrays[each], 1, -1) if golden.arrays[each].ndim == 4 else golden.arrays[each]
                     for each in given]
        found = jax.jit(lambda p, *a, method=method: converted.module.apply(p, *a, method=method))(
            converted.params, *arguments)
        for each, one in zip(wanted, found if isinstance(found, tuple) else (found,)):
            close(np.moveaxis(np.asarray(one), -1, 1), golden.arrays[each])


def test_the_empty_text_is_the_encoders():
    golden = goldens.load("text")
    close(convert.empty_text(goldens.draw(golden.shapes), **golden.options), golden.arrays["y"])


def test_the_encoder_of_kdsr_out_of_a_whole_checkpoint():
    golden = goldens.load("kdsr_encoder")
    state = goldens.draw_for(golden.kind, golden.shapes)
    assert checkpoint.under(state, SIGNATURE) == ["E_st."]
    state, rest = checkpoint.cut(state, "E_st.")
    assert all(name.startswith("G.") for name in rest)
    module = models.DegradationEncoder(**convert.kdsr_arguments(state))
    x = np.moveaxis(golden.arrays["x"], 1, -1)
    close(jax.jit(module.apply)(convert.kdsr(state), x), golden.arrays["y"])
    assert np.abs(golden.arrays["y"][0] - golden.arrays["y"][1]).max() > 0.1  # of two pictures


@pytest.mark.parametrize("name", named("lpips"))
def test_lpips_is_that_of_its_package(name, tmp_path):
    golden = goldens.load(name)
    state = goldens.draw_for(golden.kind, golden.shapes)
    heads = {name: value for name, value in state.items() if name.startswith("lin")}
    save_file(heads, tmp_path / "heads.safetensors")  # as they are published: beside torchvision's network
    save_file({name: value for name, value in state.items() if name not in heads}, tmp_path / "net.safetensors")
    np.savez(tmp_path / "lpips.npz", **convert.read_lpips(tmp_path))
    params = metrics.load_lpips(tmp_path / "lpips.npz", network=name.partition("_")[2])
    x = np.moveaxis(golden.arrays["x"], 1, -1)
    found = metrics.lpips(x[:2], x[2:], params)
    np.testing.assert_allclose(found, golden.arrays["y"], rtol=2e-5)


def test_there_are_goldens_of_every_kind():
    families = [name.split("_")[0] for name in goldens.NAMES]
    counts = {family: families.count(family) for family in families}
    assert counts == {"adm": 7, "ddpm": 1, "drunet": 2, "kdsr": 1, "lpips": 3, "prompted": 2, "swinir": 2, "text": 1,
                      "unet2d": 6, "vae": 3}


def test_a_wrong_parameter_is_seen(tmp_path):
    """The numbers depend on every kind of parameter: exchange any two of one shape, and they differ."""
    golden = goldens.load("unet2d_ddpm")
    state = goldens.draw(golden.shapes)
    first, second = [name for name in state if name.endswith("to_q.weight") or name.endswith("to_k.weight")][:2]
    swapped = {first: second, second: first}
    shapes = {swapped.get(name, name): shape for name, shape in golden.shapes.items()}
    assert shapes == golden.shapes
    converted = opened(golden, tmp_path)
    save_file({**state, first: state[second], second: state[first]}, tmp_path / "diffusion_pytorch_model.safetensors")
    other = kinds.load(str(tmp_path))
    x, t = np.moveaxis(golden.arrays["x"], 1, -1), golden.arrays["t"]
    one, two = (jax.jit(each.module.apply)(each.params, x, t) for each in (converted, other))
    assert np.abs(one - two).max() > 1e-3
