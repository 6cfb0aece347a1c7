"""``indigo weights convert --from ddpm-unet | adm``: state dicts of torch as weights files."""
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from indigo_jax import convert, models, weights
from indigo_jax.cli import main
from tests import adm_reference
from tests.test_convert import SMALL, torch_state


def convert_file(source, out, kind, *options):
    return main(["weights", "convert", str(source), "-o", str(out), "--from", kind, *options])


def contiguous(state):
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def ddpm_state():
    return contiguous(torch_state(models.DDPMUNet(**SMALL), 32))


@pytest.mark.parametrize("suffix, write", [("safetensors", lambda path, state: save_file(state, path)),
                                           ("npz", lambda path, state: np.savez(path, **state))])
def test_ddpm_unet(tmp_path, ddpm_state, suffix, write):
    write(tmp_path / f"net.{suffix}", ddpm_state)
    out = tmp_path / "out.safetensors"
    assert convert_file(tmp_path / f"net.{suffix}", out, "ddpm-unet") == 0
    module, params, info = weights.load(out)
    assert module == models.DDPMUNet(**SMALL) and info["image_size"] == 32 and info["prediction"] == "eps"
    assert info["schedule"]["name"] == "linear" and info["schedule"]["num_timesteps"] == 1000
    same(params, convert.ddpm_unet(ddpm_state))


def same(params, expected):
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)  # float16


def test_adm_with_its_size_and_schedule(tmp_path):
    state = adm_reference.random_state(adm_reference.SMALL)
    save_file(contiguous(state), tmp_path / "net.safetensors")
    out, size = tmp_path / "out.safetensors", str(adm_reference.SMALL["image_size"])
    assert convert_file(tmp_path / "net.safetensors", out, "adm", "--schedule", "cosine", "--image-size", size) == 0
    module, params, info = weights.load(out)
    assert isinstance(module, models.ADMUNet) and info["image_size"] == module.image_size == int(size)
    assert info["learned_variance"] == (module.out_channels == 6) and info["schedule"]["name"] == "cosine"
    same(params, convert.guided_diffusion(state, image_size=int(size)))


@pytest.mark.parametrize("name, content, kind, options, message", [
    ("net.bin", b"x", "ddpm-unet", [], "net.bin: a damaged file, or one of another"),
    ("net.npz", b"x", "ddpm-unet", [], "a damaged file"),
    ("net.pt", b"x", "adm", [], "net.pt: a "),
    (None, None, "adm", [], "no such file"),
    ("net.npz", b"x", "keras-ddpm", ["--image-size", "64"], "--image-size is for --from ddpm-unet and adm"),
])
def test_refusals(tmp_path, capsys, name, content, kind, options, message):
    if name:
        (tmp_path / name).write_bytes(content)
    assert convert_file(tmp_path / (name or "absent.npz"), tmp_path / "out.safetensors", kind, *options) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out.safetensors").exists()


def test_arrays_of_another_network(tmp_path, capsys, ddpm_state):
    save_file(ddpm_state, tmp_path / "net.safetensors")
    assert convert_file(tmp_path / "net.safetensors", tmp_path / "out.safetensors", "adm") == 2
    assert "not a guided-diffusion UNet" in capsys.readouterr().err
