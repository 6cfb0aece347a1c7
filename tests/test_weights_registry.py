"""Networks of other packages: trained, saved, loaded and restored with under a name that the user allows."""
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from indigo_jax import convert, denoisers, models, operators, schedules, weights
from indigo_jax.cli import main
from indigo_jax.weights import registry
from tests import tiny_training
from train import diffusion, indi


class Denoiser(nn.Module):
    """A stranger's network that is told the time."""

    width: int = 4
    note: str | None = None

    @nn.compact
    def __call__(self, x, t):
        h = nn.relu(nn.Conv(self.width, (3, 3), name="first")(x))
        return nn.Conv(3, (3, 3), name="last")(h) + 0.0 * t[:, None, None, None]


INFO = {"architecture": "Denoiser", "arguments": {"width": 6, "note": None}, "prediction": "x0", "image_size": 16,
        "schedule": schedules.to_json("cosine", num_timesteps=20)}


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Denoiser(6).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.1 * random.standard_normal(leaf.shape)).astype(np.float32), shapes)


def test_a_registered_network_is_saved_and_loaded(tmp_path, params, monkeypatch):
    path = tmp_path / "mine.safetensors"
    with pytest.raises(weights.WeightsError, match="unknown architecture Denoiser; .* call weights.register, or set "
                                                   "INDIGO_NETWORKS=package.module:Denoiser"):
        weights.save(path, params, INFO)
    weights.register("Denoiser", Denoiser)
    weights.save(path, params, INFO, dtype="float32")
    module, loaded, info = weights.load(path, kind="prior")
    assert module == Denoiser(6) and info["kind"] == "prior"
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(weights.WeightsError, match=r"unknown architecture Denoisers \(did you mean 'Denoiser'\?\)"):
        weights.save(path, params, {**INFO, "architecture": "Denoisers"})
    registry._REGISTERED.clear()
    with pytest.raises(weights.WeightsError, match="unknown architecture Denoiser"):
        weights.load(path)
    monkeypatch.setenv(registry.VARIABLE, f"{__name__}:Denoiser")
    with pytest.raises(weights.WeightsError, match=r"unknown architecture denoiser \(did you mean 'Denoiser'\?\)"):
        weights.save(path, params, {**INFO, "architecture": "denoiser"})


def test_a_file_makes_nothing_run_that_the_user_has_not_named(tmp_path, params, monkeypatch):
    """An import path in a file is a name as any other."""
    weights.register("Denoiser", Denoiser)
    info = {**INFO, "architecture": "antigravity:fly"}
    with pytest.raises(weights.WeightsError, match="unknown architecture antigravity:fly"):
        weights.save(tmp_path / "mine.safetensors", params, info)
    import sys
    assert "antigravity" not in sys.modules
    monkeypatch.setenv(registry.VARIABLE, f"json:loads, {__name__}:Denoiser")
    registry._REGISTERED.clear()
    for name in ("Denoiser", f"{__name__}:Denoiser"):
        weights.save(tmp_path / "mine.safetensors", params, {**INFO, "architecture": name})
        assert weights.load(tmp_path / "mine.safetensors")[0] == Denoiser(6)


@pytest.mark.parametrize("variable, words", [
    ("Denoiser", "'Denoiser' is not package.module:Class"), ("os.system('x'):Denoiser", "is not package.module:Class"),
    ("no_such_package:Denoiser", "no_such_package:Denoiser cannot be imported"),
    ("json:Denoiser", "json:Denoiser cannot be imported")])
def test_what_the_variable_may_say(variable, words, params, tmp_path, monkeypatch):
    monkeypatch.setenv(registry.VARIABLE, variable)
    with pytest.raises(weights.WeightsError, match=words):
        weights.save(tmp_path / "mine.safetensors", params, INFO)


def test_what_cannot_be_registered():
    with pytest.raises(ValueError, match="DDPMUNet is a network of this package"):
        weights.register("DDPMUNet", Denoiser)
    with pytest.raises(ValueError, match="name is that of a class, not 'a:b'"):
        weights.register("a:b", Denoiser)
    with pytest.raises(ValueError, match="unknown kind 'oracle'; there are restorer, prior"):
        weights.register("Denoiser", Denoiser, kind="oracle")
    with pytest.raises(ValueError, match="takes the class of Mine, not one of its objects"):
        weights.register("Mine", Denoiser())


def test_mistyped_words_are_told_the_nearest(tmp_path, params):
    weights.register("Denoiser", Denoiser)

    def saved(**changes):
        weights.save(tmp_path / "mine.safetensors", params, {**INFO, **changes})

    saved()
    for call, words in (
            (lambda: weights.load("photo", kind="priors"), "unknown kind 'priors' .did you mean 'prior'..; there"),
            (lambda: weights.load("fotos"), "no weights of this name .did you mean 'photo'"),
            (lambda: weights.register("Other", Denoiser, kind="restore"), "did you mean 'restorer'"),
            (lambda: saved(kind="piror"), "unknown kind piror .did you mean 'prior'"),
            (lambda: saved(prediction="epsilon"), "not one of eps, .*did you mean 'eps'"),
            (lambda: saved(schedule={"name": "cosin"}), "unknown schedule 'cosin' .did you mean 'cosine'"),
            (lambda: weights.save(tmp_path / "a.safetensors", params["params"], INFO), "give the whole variables"),
            (lambda: weights.save(tmp_path / "a.safetensors", params, INFO, dtype="f32"), "did you mean 'float32'"),
            (lambda: denoisers.of(lambda x, t: x, {**INFO, "prediction": "x_0"}), "'x_0' .did you mean 'x0'"),
            (lambda: weights.save(tmp_path / "a.safetensors", Denoiser(), INFO), "not the variables of module.init"),
            (lambda: saved(schedule=schedules.cosine(9)), "what a file cannot .*schedules.to_json makes a schedule's"),
            (lambda: saved(schedule="cosine"), r"it has no name: make it with schedules.to_json\(NAME"),
            (lambda: weights.register(Denoiser, "Denoiser"), "the name comes first"),
            (lambda: denoisers.of(lambda x, t: x, {}), "its info has no 'schedule'"),
            (lambda: convert.load("mine.pt", "drunett"), "unknown kind 'drunett' .did you mean 'drunet'")):
        with pytest.raises(ValueError, match=words):
            call()


def test_wrong_tensors_of_a_registered_network_are_named(tmp_path, params):
    weights.register("Denoiser", Denoiser, inputs=lambda module: ((1, 8, 8, 3), (1,)))
    for arguments, words in (({"width": 5}, "first/kernel has the shape|first/bias has the shape"),
                             ({"depth": 3}, "arguments that Denoiser does not take")):
        with pytest.raises(weights.WeightsError, match=words):
            weights.save(tmp_path / "mine.safetensors", params, {**INFO, "arguments": arguments})


def test_a_network_of_ones_own_from_training_to_a_picture(tmp_path, monkeypatch, capsys):
    """The command line, with nothing but the environment variable."""
    pictures = tiny_training.write_pictures(tmp_path / "pictures")
    indi.train(tiny_training.tiny(pictures, tmp_path / "run", num_steps=2, checkpoint_every=2))
    out, command = tmp_path / "mine.safetensors", ["weights", "convert", str(tmp_path / "run"), "-o"]
    assert main([*command, str(out)]) == 2
    assert "INDIGO_NETWORKS=package.module:TwoConvolutions" in capsys.readouterr().err
    monkeypatch.setenv(registry.VARIABLE, "tests.tiny_training:TwoConvolutions")
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        assert main([*command, str(out), "--dtype", dtype]) == 0
        module, params, info = weights.load(out, kind="restorer")
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert type(module) is tiny_training.TwoConvolutions and size * count < out.stat().st_size < 3 * size * count
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--method", "indi", "--task",
                 "denoise", "--weights", str(out)]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (16, 16)


@pytest.mark.parametrize("network, arguments", [(f"{__name__}:Denoiser", {"width": 6, "note": None}),
                                                ("tests.test_models_pytrees:Nnx", {"width": 6})])
def test_a_prior_of_ones_own_from_training_to_a_picture(tmp_path, monkeypatch, capsys, network, arguments):
    """``train.diffusion`` of a network of linen and one of flax.nnx; then the commands, by its import path."""
    place, _, name = network.partition(":")
    module = models.adapted(getattr(importlib.import_module(place), name))(**arguments)
    pictures = tiny_training.write_pictures(tmp_path / "pictures")
    state = diffusion.train(diffusion.DiffusionConfig(
        model=module, schedule=schedules.to_json("cosine", num_timesteps=20), prediction="x0", data=str(pictures),
        workdir=str(tmp_path / "run"), num_steps=4, batch_size=8, crop=16, resize=16, learning_rate=3e-3,
        warmup_steps=2, ema=0.5, checkpoint_every=4, log_every=1, eval_every=4, eval_steps=2, eval_samples=2,
        data_threads=1, cache=True))
    out, command = tmp_path / "mine.safetensors", ["weights", "convert", str(tmp_path / "run"), "--dtype", "float32"]
    assert main([*command, "-o", str(out)]) == 2
    assert f"unknown architecture {name}" in capsys.readouterr().err and not out.exists()
    monkeypatch.setenv(registry.VARIABLE, network)
    assert main([*command, "-o", str(out)]) == 0
    loaded, params, info = weights.load(out, kind="prior")
    assert type(loaded).__name__ == name and info["arguments"] == arguments and info["prediction"] == "x0"
    start = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros(1))
    for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(new, old)
    assert jax.tree.structure(params) == jax.tree.structure(jax.tree.map(np.asarray, start))
    small = np.random.default_rng(0).integers(90, 160, (8, 8, 3), np.uint8)
    Image.fromarray(small).save(tmp_path / "a.png")
    restore = ["restore", str(tmp_path / "a.png"), "--method", "ddnm", "--task", "sr", "--scale", "2", "--steps", "3",
               "--weights", str(out), "-o"]
    assert main([*restore, str(tmp_path / "b.png")]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        found = np.asarray(picture)
    assert found.shape == (16, 16, 3)
    again = operators.average_pool(2)(jnp.float32(found)[None] / 127.5 - 1)[0] * 127.5 + 127.5
    assert np.abs(np.asarray(again) - small).mean() < 2  # it explains what was given
    monkeypatch.delenv(registry.VARIABLE)
    assert main([*restore, str(tmp_path / "c.png")]) != 0
    assert f"unknown architecture {name}" in capsys.readouterr().err


@pytest.mark.parametrize("dtype, exact", [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0.0)])
def test_the_dtype_of_a_file(tmp_path, params, dtype, exact):
    weights.register("Denoiser", Denoiser)
    large = jax.tree.map(lambda leaf: leaf * (1.0 if dtype == "float16" else 1e7), params)
    weights.save(tmp_path / "mine.safetensors", large, INFO, dtype=dtype)
    for a, b in zip(jax.tree.leaves(weights.load(tmp_path / "mine.safetensors")[1]), jax.tree.leaves(large)):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=exact, atol=1e-7)
    if dtype == "float16":
        with pytest.raises(weights.WeightsError, match="holds .*, too large for float16: write bfloat16 or float32"):
            weights.save(tmp_path / "mine.safetensors", jax.tree.map(lambda leaf: leaf * 1e7, params), INFO)
    with pytest.raises(weights.WeightsError, match="weights are written in float16, bfloat16, float32, not in int8"):
        weights.save(tmp_path / "mine.safetensors", params, INFO, dtype="int8")
