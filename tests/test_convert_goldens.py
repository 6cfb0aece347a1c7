"""Converted networks against what torch and diffusers answer, kept as numbers: neither is needed here."""
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from indigo_jax import convert
from indigo_jax.convert import kinds
from tests import goldens


def opened(golden, folder):
    """The converted network of a folder as its library writes it."""
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


@pytest.mark.parametrize("name", [name for name in goldens.NAMES if name != "text"])
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


def test_there_are_goldens_of_every_kind():
    assert {name.split("_")[0] for name in goldens.NAMES} == {"unet2d", "vae", "prompted", "text"}
    assert len(goldens.NAMES) >= 11


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
