"""``indigo restore --method indigo | latent-indigo``: what is loaded, refused, written; tiny random networks."""
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors
from PIL import Image
from safetensors.numpy import save_file

from indigo_jax import cli, images, methods, weights
from indigo_jax.weights import latents
from tests import guided_networks, networks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return guided_networks.write_all(tmp_path_factory.mktemp("networks"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.fixture
def indigo(capsys, files):
    """Run ``restore a.png -o out``; a word @name is that network's file. Returns (code, stdout, stderr) in lines."""
    def run(line, output="out.png", source="a.png"):
        words = [str(files[word[1:]]) if word.startswith("@") else word for word in line.split()]
        capsys.readouterr()
        code = cli.main(["restore", source, "-o", output, *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out.splitlines(), err.splitlines()
    return run


def photo(path, height=5, width=7, seed=0, channels=3):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)).save(path)
    return path


PIXEL = "--method indigo --prior @prior --inn @inn"
LATENT = "--method latent-indigo --prior @latents --inn @latent_inn"


@pytest.mark.parametrize("line, says", [
    ("--method indi --prior x", "latent-indigo; --method indi takes its network by --weights"),
    ("--task ct --prior x", "--prior is for --method indigo and latent-indigo"),
    ("--method bird --task denoise --variant pixel", "--variant is for --method latent-indigo"),
    ("--method bird --task denoise --steps 9", "--steps is for --method indi and hqs and"),
    (f"{PIXEL} --variant pixel", "--variant is for --method latent-indigo; leave it out"),
    (f"{PIXEL} --regularizer none", "--regularizer is for --method latent-indigo"),
    (f"{PIXEL} --mask m.png", "--mask is for --method hqs and"),
    (f"{PIXEL} --weights indi-photo", "takes its networks by --prior and --inn and --estimate; leave --weights out"),
    (f"{PIXEL} --task inpaint", "--task inpaint is for --method hqs; add that, or give another --task. There is: a"),
    (f"{PIXEL} --task sr --same-size", "--task sr enlarges; leave --same-size out"),
    (f"{PIXEL} --task sr --scale 2", "--scale 2: inn was made for 4; use 4, or another inn"),
    ("--method indigo --prior @prior --inn @same --task sr", "--task sr: same keeps the size; give another inn"),
    (f"{PIXEL} --scale 4", "add --task sr"),
    (f"{PIXEL} --from-noise --estimate indi-photo", "--from-noise starts without a first estimate"),
    (f"{PIXEL} --from-noise --start 0.5", "--from-noise visits all levels; leave start out"),
    (f"{PIXEL} --start 1", "argument --start: give a number from 0.001 to 0.9999, not '1'"),
    (f"{PIXEL} --estimate @prior", "a diffusion prior of pictures (for --method bird and its like), where a network"),
    (f"{PIXEL} --guidance -1", "give a number from 0"),
    (f"{PIXEL} --gradient half", "There is: full, truncated"),
    (f"{PIXEL} --tile 65", "--tile 65: the prior does not take pieces of this side"),
    (f"{LATENT} --tile 65", "--tile 65 is not a positive multiple of the 2 pixels of a latent; use 16"),
    (f"{PIXEL} --steps 500", "--steps 500: the prior has 100 levels of noise to visit; use at most so many"),
    ("--method indigo --prior indi-photo --inn @inn", "indi-photo: a network that restores directly (for --method indi)"
     ", where a diffusion prior of pictures is needed"),
    ("--method indigo --prior @prior --inn @prior", "where an invertible network is needed; see: indigo weights list"),
    ("--method indigo --prior @prior --inn missing.safetensors", "missing.safetensors: no such weights file"),
    ("--method indigo --prior @latents --inn @inn", "a diffusion prior of latents (for --method latent-indigo), where"),
    ("--method indigo --prior @prior --inn @latent_inn", "an invertible network of latents, where one of pixels is"),
    ("--method latent-indigo --prior @prior --inn @half", "where a diffusion prior of latents is needed"),
    (f"{LATENT} --variant pixel", "an invertible network of latents, where one of pixels is needed"),
    ("--method latent-indigo --prior @latents --inn @half --variant latent", "network of pixels, where one of latents"),
    (f"{LATENT} --autoencoder @other", "latents was trained in the latents of"),
    (f"{LATENT} --autoencoder @inn", "an invertible network (for --inn), where an autoencoder is needed"),
])
def test_wrong_usage(line, says, indigo):
    photo("a.png")
    code, out, err = indigo(line)
    assert code == 2 and not out and len(err) == 1 and says in err[0], err
    assert [path.name for path in pathlib.Path().iterdir()] == ["a.png"]


def write_bad(files, name, **changes):
    """A copy of a weights file with other tensors, or another info."""
    with safetensors.safe_open(files[name], "numpy") as file:
        tensors, info = {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["info"])
    if changes.pop("nan", False):
        key = sorted(tensors)[0]
        tensors[key] = np.full_like(tensors[key], np.nan)
    save_file(tensors, "bad.safetensors", metadata={"info": json.dumps({**info, **changes})})


@pytest.mark.parametrize("name, changes, line, says", [
    ("prior", dict(nan=True), "--method indigo --prior bad.safetensors --inn @inn", "holds NaN or infinity"),
    ("inn", dict(nan=True), "--method indigo --prior @prior --inn bad.safetensors", "holds NaN or infinity"),
    ("inn", dict(scale=2), "--method indigo --prior @prior --inn bad.safetensors", "says scale 2, its network has 4"),
    ("space", dict(nan=True), f"{LATENT} --autoencoder bad.safetensors", "holds NaN or infinity"),
])
def test_damaged_weights(name, changes, line, says, indigo, files):
    photo("a.png")
    write_bad(files, name, **changes)
    code, out, err = indigo(line)
    assert code == 2 and not out and len(err) == 1 and says in err[0] and not pathlib.Path("out.png").exists()


@pytest.mark.parametrize("line, says", [
    ("--method indigo", "faces64, a default, is not among the weights here; name others with --prior or --inn"),
    ("--method indigo --prior @prior", "inn-pixel, a default, is not among"),
    ("--method latent-indigo --prior @latents", "inn-latent, a default, is not among"),
    ("--method latent-indigo --prior @latents --variant pixel", "inn-pixel, a default"),
    ("--method latent-indigo --inn @latent_inn", "latent-faces, a default"),
    ("--method diffpir --task denoise", "photo, a default, is not among the weights here; name others with --w"),
])
def test_a_missing_default_is_named(line, says, indigo, monkeypatch):
    photo("a.png")
    monkeypatch.setattr(weights, "available", lambda: [])
    code, out, err = indigo(line)
    assert code == 2 and not out and len(err) == 1 and says in err[0] and "indigo weights list" in err[0]


def test_what_is_given_and_what_is_default(files):
    def chosen(**given):
        method = methods.load("latent-indigo", **given)
        return {role: network.name for role, network in method.networks.items()}, method.variant

    ours = dict(prior=files["latents"], inn=files["latent_inn"])
    assert chosen() == (dict(prior="latent-faces", inn="inn-latent", autoencoder="autoencoder-faces"), "latent")
    assert chosen(variant="pixel")[0]["inn"] == "inn-pixel" and chosen(inn="inn-pixel")[1] == "pixel"
    assert chosen(**ours) == (dict(prior="latents", inn="latent_inn", autoencoder="space"), "latent")
    assert chosen(**ours, autoencoder=files["space"])[0]["autoencoder"] == "space"
    assert {role: network.name for role, network in methods.load("indigo").networks.items()} == dict(
        prior="faces64", inn="inn-pixel")


def test_channels_of_latents_must_agree(files, monkeypatch):
    space = latents.load(files["space"])
    monkeypatch.setattr(latents, "from_module", lambda *of: space._replace(channels=5))
    with pytest.raises(weights.WeightsError, match="for latents of 2 channels; those of .* have 5"):
        methods.load("latent-indigo", prior=files["latents"], inn=files["latent_inn"])


def test_a_folder_with_bad_company_and_a_report(indigo, files):
    photo("in/a.png", 3, 4, channels=4)
    photo("in/deep/b.png", 1, 1, seed=1)
    pathlib.Path("in/zero.png").touch()
    line = f"{PIXEL} --steps 2 --no-color-fix --unconditional --compare seen --report r.json"
    code, out, err = indigo(line, "out", "in")
    assert code == 1 and out[0].startswith("2 of 3 pictures restored into out in ") and "an empty file" in err[0]
    assert images.read("out/a.png").pixels.shape == (12, 16, 3) and images.read("out/a.png").alpha.shape == (12, 16)
    assert images.read("out/deep/b.png").pixels.shape == (4, 4, 3) and images.read("seen/a.png").pixels.shape[1] == 36
    report = json.loads(pathlib.Path("r.json").read_text())
    assert (report["method"], report["scale"]) == ("indigo", 4)
    row = report["files"][0]
    assert row["network_evaluations"] == 2 and row["tiles"] == 1 and row["canvas"] == [16, 16] and row["steps"] == 2
    assert (row["guidance"], row["weights"], row["inn"]["name"]) == (3.5, "prior", "inn") and "drift" not in row
    assert row["inn"]["sha256"] == weights.verify(files["inn"])["sha256"] and 0 < row["residual"][0] < 2
    kept = pathlib.Path("out/deep/b.png").read_bytes()
    assert indigo(f"{PIXEL} --steps 2 --no-color-fix --unconditional", "alone.png", "in/deep/b.png")[0] == 0
    assert pathlib.Path("alone.png").read_bytes() == kept


@pytest.mark.slow
@pytest.mark.parametrize("line, size", [
    (LATENT, (10, 14)), ("--method latent-indigo --prior @latents --inn @half --autoencoder @space", (10, 14)),
    ("--method indigo --prior @prior --inn @same", (5, 7)), (f"{PIXEL} --task jpeg", (5, 7)),
    (f"{PIXEL} --estimate net.safetensors", (20, 28)), (f"{PIXEL} --preset real --from-noise --samples 2", (20, 28))])
def test_every_kind_of_network(line, size, indigo):
    photo("a.png")
    networks.write_weights(pathlib.Path("net.safetensors"))
    code, out, err = indigo(f"{line} --steps 2 --report r.json")
    assert (code, err) == (0, []) and "network evaluations" in out[0] and "residual" in out[0]
    row, = json.loads(pathlib.Path("r.json").read_text())["files"]
    assert images.read(row["outputs"][-1]).pixels.shape == (*size, 3) and np.isfinite(row["residual"]).all()
    assert ("drift" in row) == ("latent" in line) == ("autoencoder" in row)
