"""``indigo weights convert``: what others have trained as weights files, recognised or named."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from indigo_jax import convert, metrics, models, weights
from indigo_jax.cli import main
from tests import adm_reference, foreign
from tests.test_convert import SMALL, torch_state
from tests.test_lpips import random_arrays
from tests.torch_files import Global, write_zip


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


# ---------------------------------------------------------------- recognised, and used

def test_the_kinds_of_help_are_those_of_the_table():
    from indigo_jax.cli import weights as command
    from indigo_jax.convert import kinds
    assert command._FOREIGN == {name: row.summary for name, row in kinds.KINDS.items()}
    assert set(command._OPTIONS) == {field.name for field in dataclasses.fields(kinds.Options)}


def test_a_foreign_file_is_recognised_and_what_is_assumed_is_said(tmp_path, capsys):
    save_file(contiguous({f"module.{name}": value for name, value in foreign.autoencoder_kl("compvis").items()}),
              tmp_path / "ae.safetensors")
    out = tmp_path / "out.safetensors"
    assert main(["weights", "convert", str(tmp_path / "ae.safetensors"), "-o", str(out), "--dtype", "float32"]) == 0
    said = capsys.readouterr()
    assert "--num-groups" in said.err and "26,677 parameters" in said.out
    module, params, info = weights.load(out, kind="autoencoder")
    assert info["source"]["name"] == "ae.safetensors" and len(info["source"]["sha256"]["ae.safetensors"]) == 64
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(convert.diffusers_vae(foreign.autoencoder_kl(),
                                                                                   num_groups=4)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_average_is_said_and_raw_takes_the_other(tmp_path, capsys):
    state = foreign.drunet()
    path, out = write_zip(tmp_path / "net.pth", {"params": state, "params_ema": {k: 2 * v for k, v in state.items()}}
                          ), tmp_path / "out.safetensors"
    first = {}
    for flags in ([], ["--raw"]):
        assert main(["weights", "convert", str(path), "-o", str(out), *flags]) == 0
        assert ("averaged one (params_ema) was taken" in capsys.readouterr().err) is (not flags)
        first[len(flags)] = np.asarray(weights.load(out)[1]["params"]["head"]["kernel"])
    np.testing.assert_allclose(first[0], 2 * first[1], rtol=1e-3)


@pytest.mark.parametrize("method", ["once --task denoise", "hqs --task sr --scale 2 --steps 2"])
def test_a_converted_drunet_restores(tmp_path, method, monkeypatch):
    """Exactly as the bundled denoiser: pictures of any size, one call or a known operator."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    out = tmp_path / "drunet.safetensors"
    state = {name: 0.3 * value for name, value in foreign.drunet({"widths": (4, 6), "num_blocks": 1}).items()}
    assert main(["weights", "convert", str(write_zip(tmp_path / "net.pth", state)), "-o", str(out)]) == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 17, 3), np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--weights", str(out), "--method",
                 *method.split()]) == 0
    scale = 2 if "sr" in method else 1
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (17 * scale, 21 * scale)


@pytest.mark.parametrize("source, options, message", [
    ("net.pt", [], "net.pt: it names posix.system, which is no tensor and might run code: refused, nothing was run"),
    ("half.pth", [], "half.pth: not a whole archive (File is not a zip file); it may have been downloaded in part"),
    ("net.pth", ["--heads", "4"], "--heads is for --from adm and latent-unet, and this is drunet; leave it out"),
    ("net.pth", ["--from", "vae"], "net.pth: not an autoencoder of latent diffusion: no encoder.conv_out.weight"),
    ("net.pth", ["--revision", "main"], "a revision is for hf:OWNER/NAME; leave it out"),
    ("hf:nobody/nothing", ["--offline"], "hf:nobody/nothing: not in the cache of the hub at revision main"),
    ("run", ["--heads", "4"], "--heads is for --from adm and latent-unet; leave it out"),
    ("net.pth", ["--label", "x"], "argument --label: give a whole number from 0 to 1e+06, not 'x'")])
def test_bad_sources_are_one_line(tmp_path, capsys, monkeypatch, source, options, message):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "net.pth", foreign.drunet())
    (tmp_path / "half.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:4000])
    write_zip(tmp_path / "net.pt", {"a": Global("posix", "system", f"touch {tmp_path / 'mark'}")})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"architecture": "DDPMUNet"}')
    assert main(["weights", "convert", source, "-o", "out.safetensors", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists() and not (tmp_path / "mark").exists()


def broken(change):
    state = foreign.drunet()
    change(state)
    return state


def whole_numbers(state):
    state["m_head.weight"] = np.zeros(state["m_head.weight"].shape, np.int64)


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("m_tail.weight"), "not a DRUNet: no m_head.weight, m_tail.weight"),
    (lambda s: s.pop("m_body.1.res.2.weight"), "lacks body_block_1_out/kernel (1 in all) for DRUNet"),
    (lambda s: s.update({"m_more.weight": np.zeros(3, np.float32)}), "has unknown m_more.weight (1 in all) for DRUNet"),
    (lambda s: s.update({"m_up1.0.weight": np.zeros((6, 5, 2, 2), np.float32)}), "up_0/kernel has the shape"),
    (lambda s: s["m_head.weight"].__setitem__(0, np.inf), "m_head.weight holds NaN or infinity: the checkpoint is"),
    (whole_numbers, "m_head.weight holds whole numbers (int64), as of a quantised network")])
def test_checkpoints_that_are_not_whole_are_one_line(tmp_path, capsys, change, message):
    path = write_zip(tmp_path / "net.pth", broken(change))
    assert main(["weights", "convert", str(path), "-o", str(tmp_path / "out.safetensors"), "--from", "drunet"]) == 2
    said = capsys.readouterr().err
    assert ": net.pth: " in said and message in said and said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]
    if "quantised" not in message and "holds NaN" not in message:
        assert "its names begin with m_" in said


def test_a_changed_byte_names_the_file_and_the_array(tmp_path, capsys):
    state = {**foreign.drunet(), "m_tail.weight": np.full((3, 4, 3, 3), 1.5, np.float32)}
    path = write_zip(tmp_path / "net.pth", state)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(state["m_tail.weight"].tobytes())] ^= 1
    path.write_bytes(data)
    assert main(["weights", "convert", str(path), "-o", str(tmp_path / "out.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "net.pth: m_tail.weight: the values of data/" in said and "are damaged" in said and said.count("\n") == 1


def test_a_pipeline_goes_through_a_file(tmp_path):
    """What diffusers calls its networks and its noise is there again when the file is loaded."""
    folder = tmp_path / "ddpm"
    folder.mkdir()
    state = contiguous(foreign.unet2d(torch_state(models.DDPMUNet(**SMALL), 32)))
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(foreign.UNET2D))
    (folder / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "linear", "num_train_timesteps": 200}))
    out = tmp_path / "out.safetensors"
    assert main(["weights", "convert", str(folder), "-o", str(out), "--dtype", "float32"]) == 0
    module, params, info = weights.load(out, kind="prior")
    assert module == models.UNet2D(**convert.diffusers_unet2d_arguments(foreign.UNET2D))
    assert info["schedule"]["num_timesteps"] == 200 and info["image_size"] == 32
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(convert.diffusers_unet2d(state, foreign.UNET2D))):
        np.testing.assert_array_equal(a, b)


def test_heads_and_classes_go_through_a_file(tmp_path):
    state = {**foreign.adm(), "label_emb.weight": np.ones((3, 128), np.float32)}
    path, out = write_zip(tmp_path / "net.pt", contiguous(state)), tmp_path / "out.safetensors"
    command = ["weights", "convert", str(path), "-o", str(out), "--heads", "4", "--image-size", "16"]
    assert main(command) == 2
    assert main([*command, "--label", "1"]) == 0
    module, _, info = weights.load(out, kind="prior")
    assert module.num_heads == 4 and info["label"] == 1


def lpips_state():
    """Of torchvision's AlexNet and of the heads, the shapes of the metric."""
    random = np.random.default_rng(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    alex = {f"features.{i}.weight": 0.01 * random.standard_normal(shape).astype(np.float32)
            for i, shape in shapes.items()}
    alex |= {f"features.{i}.bias": np.full(shape[0], 0.1, np.float32) for i, shape in shapes.items()}
    heads = {f"lin{i}.model.1.weight": np.full((1, shape[0], 1, 1), 0.5, np.float32)
             for i, shape in enumerate(shapes.values())}
    return alex, heads


def test_lpips_in_two_files_and_in_one(tmp_path, capsys):
    alex, heads = lpips_state()
    folder = tmp_path / "two"
    folder.mkdir()
    write_zip(folder / "alexnet.pth", {**alex, "classifier.1.weight": np.zeros((2, 2), np.float32)})
    write_zip(folder / "heads.pth", heads)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    one = {f"net.slice{slices[int(name.split('.')[1])]}.{name.removeprefix('features.')}": value
           for name, value in alex.items()}
    write_zip(tmp_path / "one.pth", {**one, **heads, "scaling_layer.shift": np.zeros(3, np.float32)})
    found = []
    for source, kind in ((folder, "lpips"), (folder, "auto"), (tmp_path / "one.pth", "auto")):
        out = tmp_path / "lpips.npz"
        assert main(["weights", "convert", str(source), "-o", str(out), "--from", kind]) == 0
        found.append(metrics.load_lpips(out))
        out.unlink()
    assert jax.tree.all(jax.tree.map(lambda *arrays: all(np.array_equal(arrays[0], each) for each in arrays), *found))
    np.testing.assert_array_equal(found[0]["conv2/kernel"][1, 2], alex["features.3.weight"][:, :, 1, 2].T)
    capsys.readouterr()
    for source, out, words in ((folder / "heads.pth", "a.npz", "its AlexNet's convolutions are missing (conv1/kernel"),
                               (folder / "alexnet.pth", "a.npz", "its heads are missing (lin0 of 5)"),
                               (folder, "a.safetensors", "written as .npz: name it a.npz")):
        assert main(["weights", "convert", str(source), "-o", str(tmp_path / out), "--from", "lpips"]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / out).exists()
    assert main(["weights", "convert", str(folder / "heads.pth"), "-o", str(tmp_path / "a.npz")]) == 2
    assert "not all of LPIPS: its AlexNet's convolutions are missing" in capsys.readouterr().err
    for name, change, words in (("lin2.model.1.weight", np.nan, "lin2.model.1.weight holds NaN or infinity"),
                                ("lin2.model.1.weight", -1, "lin2 has weights below zero"),
                                ("lin3.model.1.weight", np.ones((1, 2, 1, 1)), "lin3 must be finite floats of")):
        write_zip(tmp_path / "bad.pth", {**one, **heads, name: np.float32(0 * heads[name] + change if np.ndim(
            change) == 0 else change)})
        assert main(["weights", "convert", str(tmp_path / "bad.pth"), "-o", str(tmp_path / "a.npz")]) == 2
        said = capsys.readouterr().err
        assert "bad.pth" in said and words in said and said.count("\n") == 1 and not list(tmp_path.glob("*a*.npz"))


def test_what_holds_lpips_among_others_is_not_taken_for_it(tmp_path):
    """The loss of an autoencoder's training, in the autoencoder's file; a pipeline's folder."""
    heads = {"lin0.model.1.weight": np.ones((1, 4, 1, 1), np.float32)}
    path = write_zip(tmp_path / "loss.pth", {f"loss.perceptual_loss.{name}": value for name, value in heads.items()})
    assert not convert.is_lpips(path) and not convert.is_lpips(tmp_path / "absent")
    write_zip(tmp_path / "heads.pth", heads)
    assert convert.is_lpips(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert not convert.is_lpips(tmp_path) and convert.is_lpips(tmp_path / "heads.pth")
    (tmp_path / "heads.pth").write_bytes(b"PK\3\4 cut")
    assert not convert.is_lpips(tmp_path / "heads.pth")


@pytest.mark.parametrize("network", ["squeeze", "vgg"])
def test_lpips_of_other_networks(network, tmp_path, capsys):
    """torch's names and shapes, from the published architectures; every array arrives, turned around."""
    places = {"squeeze": [0, 3, 4, 6, 7, 9, 10, 11, 12],
              "vgg": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]}[network]
    arrays, state, blocks = random_arrays(network), {}, []
    for name in arrays:
        block = name.split("/")[0]
        if not name.startswith("lin") and block not in blocks:
            blocks.append(block)
    parts = {"squeeze": "squeeze", "expand1": "expand1x1", "expand3": "expand3x3"}
    for name, value in arrays.items():
        if name.startswith("lin"):
            state[f"{name}.model.1.weight"] = value.reshape(1, -1, 1, 1)
            continue
        block, *part, leaf = name.split("/")
        torch_name = ".".join([str(places[blocks.index(block)]), *(parts[each] for each in part)])
        state[f"net.slice1.{torch_name}.{'weight' if leaf == 'kernel' else 'bias'}"] = (
            np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if leaf == "kernel" else value)
    write_zip(tmp_path / "whole.pth", state)
    command = ["weights", "convert", str(tmp_path / "whole.pth"), "-o", str(tmp_path / "out.npz"), "--from", "lpips"]
    assert main(command) == 0
    found = metrics.load_lpips(tmp_path / "out.npz", network=network)
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    del state["lin4.model.1.weight"]
    write_zip(tmp_path / "whole.pth", state)
    capsys.readouterr()
    assert main(command) == 2 and "its heads are missing (lin4 of 1)" in capsys.readouterr().err
