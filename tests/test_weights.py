"""Weights files: the round trip, the names, and everything that can be wrong with a file."""
import json
import pickle
import struct

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as file_of

from indigo_jax import checkpoints, models, schedules, weights
from tests import networks


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return networks.write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty folders instead of the bundled one and the cache."""
    bundled, cache = tmp_path / "bundled", tmp_path / "cache"
    bundled.mkdir()
    cache.mkdir()
    monkeypatch.setattr(weights, "FOLDER", bundled)
    monkeypatch.setenv("INDIGO_CACHE", str(cache))
    return bundled, cache


def forge(path, tensors=None, *, info=None, raw_info=None, good=None):
    """A safetensors file with the tensors of ``good`` (changed) and any info."""
    tensors = tensors_of(good.read_bytes()) if tensors is None else tensors
    text = json.dumps(networks.INFO if info is None else info) if raw_info is None else raw_info
    path.write_bytes(file_of(tensors, metadata={"info": text}))
    return path


# ---------------------------------------------------------------- round trip

def test_round_trip_is_float16_exact(good):
    module, params, info = weights.load(good)
    expected = networks.params()
    assert module == networks.module()
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected)):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))
    assert {key: info[key] for key in networks.INFO} == networks.INFO
    assert len(info["sha256"]) == 64


def test_arrays_that_are_views_are_written_in_order(good, tmp_path):
    turned = jax.tree.map(lambda a: np.asarray(a).T.copy().T, networks.params())  # Fortran order
    weights.save(tmp_path / good.name, turned, networks.INFO)
    assert (tmp_path / good.name).read_bytes() == good.read_bytes()


def test_a_loaded_file_saved_again_is_the_same_file(good, tmp_path):
    _, params, info = weights.load(good)
    weights.save(tmp_path / "again.safetensors", params, info)
    assert (tmp_path / "again.safetensors").read_bytes() == good.read_bytes()


def test_verify_tells_what_is_inside(good):
    facts = weights.verify(good)
    count = sum(leaf.size for leaf in jax.tree.leaves(networks.params()))
    assert facts["parameters"] == count and facts["name"] == "tiny"
    assert 2 * count < facts["size"] == good.stat().st_size


@pytest.mark.parametrize("change, message", [
    (lambda params, info: (params, {**info, "architecture": "Transformer"}), "unknown architecture Transformer"),
    (lambda params, info: (params, {**info, "arguments": {"width": 16}}), "missing"),
    (lambda params, info: (jax.tree.map(lambda leaf: leaf * 1e7, params), info), "too large for float16: write bf"),
    (lambda params, info: (jax.tree.map(lambda leaf: leaf * np.nan, params), info), "NaN or infinity"),
    (lambda params, info: (params, {key: info[key] for key in info if key != "noise"}), "lacks noise"),
])
def test_save_refuses_what_load_would(change, message, tmp_path):
    params, info = change(networks.params(), dict(networks.INFO))
    with pytest.raises(weights.WeightsError, match=message):
        weights.save(tmp_path / "bad.safetensors", params, info)
    assert not list(tmp_path.iterdir())


def test_save_names_another_extension(tmp_path):
    with pytest.raises(weights.WeightsError, match="name it net.safetensors"):
        weights.save(tmp_path / "net.npz", networks.params(), networks.INFO)


def test_a_failed_save_leaves_the_old_file(good, tmp_path, monkeypatch):
    target = tmp_path / "net.safetensors"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(weights.os, "replace", full)
    with pytest.raises(weights.WeightsError, match="No space left"):
        networks.write_weights(target)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"] and target.read_bytes() == b"old"


# ---------------------------------------------------------------- names

def test_without_weights_there_is_an_empty_list_and_a_clear_error(places):
    assert weights.available() == []
    with pytest.raises(weights.WeightsError, match="no weights are bundled"):
        weights.load("indi-photo")


def test_bundled_and_cached_names(places, good):
    bundled, cache = places
    (bundled / "indi-photo.safetensors").write_bytes(good.read_bytes())
    (cache / "mine.safetensors").write_bytes(good.read_bytes())
    manifest = weights.update_manifest()
    assert json.loads((bundled / "manifest.json").read_text()) == manifest
    assert {entry.name: entry.source for entry in weights.available()} == {"indi-photo": "bundled", "mine": "cache"}
    assert weights.verify("indi-photo")["sha256"] == manifest["indi-photo"]["sha256"]
    assert weights.verify("mine")["path"] == str(cache / "mine.safetensors")
    with pytest.raises(weights.WeightsError, match="known names: indi-photo, mine"):
        weights.load("indi-foto")


def test_the_bundled_name_goes_before_the_cache_and_a_path_before_both(places, good, tmp_path, monkeypatch):
    bundled, cache = places
    for folder in places:
        (folder / "net.safetensors").write_bytes(good.read_bytes())
    weights.update_manifest()
    assert weights.find("net") == (bundled / "net.safetensors", weights.verify(good)["sha256"])
    monkeypatch.chdir(cache)
    assert weights.find("net.safetensors")[1] is None


def test_a_changed_bundled_file_is_noticed(places, good):
    bundled, _ = places
    path = bundled / "indi-photo.safetensors"
    path.write_bytes(good.read_bytes())
    weights.update_manifest()
    data = bytearray(good.read_bytes())
    data[-100] ^= 1  # one bit, in a tensor: still a whole safetensors file
    path.write_bytes(data)
    with pytest.raises(weights.WeightsError, match="damaged or changed"):
        weights.load("indi-photo")
    path.unlink()
    assert weights.available()[0].size is None
    with pytest.raises(weights.WeightsError, match="missing; install"):
        weights.load("indi-photo")


def test_a_damaged_manifest_is_named(places):
    (places[0] / "manifest.json").write_text("{")
    with pytest.raises(weights.WeightsError, match="manifest.json: damaged"):
        weights.available()


BUNDLED = [row for row in weights.available() if row.source == "bundled"]


@pytest.mark.parametrize("row", BUNDLED, ids=lambda row: row.name)
def test_the_weights_that_ship_are_good(row):
    assert weights.verify(row.name)["sha256"] == row.sha256
    assert row.size <= 12 * 2**20
    assert row.path.with_suffix(".md").is_file()


# ---------------------------------------------------------------- bad files

def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was run')",)


PLAIN = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
BAD_BYTES = {
    "empty": (b"", "not a safetensors file"),
    "text": (b"these are no weights, sorry", "not a safetensors file"),
    "header length lie": (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
    "header longer than the file": (struct.pack("<Q", 500) + b"{}", "not a safetensors file"),
    "header not JSON": (struct.pack("<Q", 8) + b"{{{{{{{{", "not a safetensors file"),
    "overlapping offsets": (header({**PLAIN, "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, bytes(24)),
                            "not a safetensors file"),
    "huge shape": (header({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 16]}}, bytes(16)),
                   "not a safetensors file"),
    "offsets behind the end": (header({"a": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}, bytes(8)),
                               "not a safetensors file"),
    "no info": (header(PLAIN, bytes(16)), "without 'info'"),
    "pickle": (pickle.dumps(Bomb()), "refused"),
    "zip, as torch writes": (b"PK\3\4" + bytes(60), "refused"),
}


@pytest.mark.parametrize("data, message", BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_bad_bytes(data, message, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(data)
    with pytest.raises(weights.WeightsError, match=message) as caught:
        weights.load(path)
    assert "net.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".bin"])
def test_pickles_are_refused_by_name_and_never_run(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(pickle.dumps(Bomb(), protocol=0))
    with pytest.raises(weights.WeightsError, match="refused"):
        weights.load(path)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_truncated(part, good, tmp_path):
    data = good.read_bytes()
    (tmp_path / "net.safetensors").write_bytes(data[:int(part * len(data))])
    with pytest.raises(weights.WeightsError, match="damaged"):
        weights.load(tmp_path / "net.safetensors")


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


BIAS = "params/conv_in/bias"
BAD_TENSORS = {
    "NaN": (lambda t: {**t, BIAS: np.full_like(t[BIAS], np.nan)}, f"{BIAS} holds NaN"),
    "missing": (lambda t: without(t, BIAS), f"1 missing .{BIAS}."),
    "extra": (lambda t: {**t, "params/more": t[BIAS]}, "1 unknown .params/more."),
    "renamed": (lambda t: {**without(t, BIAS), "params/conv_in/offset": t[BIAS]}, "1 missing .* and 1 unknown"),
    "wrong shape": (lambda t: {**t, BIAS: np.zeros(3, np.float16)}, r"has the shape \[3\], the network needs \[8\]"),
    "integers": (lambda t: {**t, BIAS: np.zeros(8, np.int32)}, "is I32, not a float"),
}


@pytest.mark.parametrize("change, message", BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_bad_tensors(change, message, good, tmp_path):
    path = forge(tmp_path / "net.safetensors", change(tensors_of(good.read_bytes())))
    with pytest.raises(weights.WeightsError, match=message):
        weights.load(path)


def arguments(**changes):
    return {**networks.INFO, "arguments": {**networks.ARGUMENTS, **changes}}


BAD_INFO = {
    "architecture": ({**networks.INFO, "architecture": "__import__"}, "unknown architecture __import__"),
    "not a table": ([1, 2], "not a table"),
    "lacking": ({"architecture": "RestorationUNet", "arguments": {}}, "lacks noise, tasks"),
    "unknown argument": (arguments(heads=8), "does not take"),
    "monster": (arguments(width=10**9), "width = 1000000000"),
    "many blocks": (arguments(num_res_blocks=4000), "4000 blocks"),
    "many levels": (arguments(multipliers=[1] * 99), "multipliers"),
    "nested": (arguments(multipliers=[[1], [2]]), "multipliers"),
    "another size": (arguments(width=16), "has the shape"),
    "unknown norm": (arguments(norm="batch"), "no RestorationUNet can be made"),
    "dtype": (arguments(dtype="object"), "dtype 'object'"),
    "noise": ({**networks.INFO, "noise": "constant"}, "noise mode"),
    "tasks": ({**networks.INFO, "tasks": "denoise"}, "not a list"),
}


@pytest.mark.parametrize("info, message", BAD_INFO.values(), ids=BAD_INFO.keys())
def test_bad_info(info, message, good, tmp_path):
    with pytest.raises(weights.WeightsError, match=message) as caught:
        weights.load(forge(tmp_path / "net.safetensors", info=info, good=good))
    assert "\n" not in str(caught.value)


def test_info_that_is_not_json(good, tmp_path):
    with pytest.raises(weights.WeightsError, match="not JSON"):
        weights.load(forge(tmp_path / "net.safetensors", raw_info="{", good=good))


def test_float32_files_are_read_as_they_are(good, tmp_path):
    tensors = {key: value.astype(np.float32) + np.float32(1e-5) for key, value in tensors_of(good.read_bytes()).items()}
    _, params, _ = weights.load(forge(tmp_path / "net.safetensors", tensors))
    np.testing.assert_array_equal(params["params"]["conv_in"]["bias"], tensors[BIAS])


def test_a_folder_is_answered_with_the_command_to_convert_it(tmp_path):
    with pytest.raises(weights.WeightsError, match="indigo weights convert"):
        weights.load(tmp_path)


# ---------------------------------------------------------------- export

def test_export_takes_the_average_of_the_newest_step(tmp_path):
    config = {**{key: value for key, value in networks.INFO.items() if key not in ("name", "num_steps")},
              "config": {"data": "somewhere private"}}
    checkpoints.write_config(tmp_path / "run", config)
    average = networks.params(seed=5)
    with checkpoints.manager(tmp_path / "run") as manager:
        for step in (3, 9):
            manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(
                {"params": networks.params(seed=1), "ema": jax.tree.map(lambda leaf: leaf * step, average)})))
    weights.export(tmp_path / "run", tmp_path / "net.safetensors")
    _, params, info = weights.load(tmp_path / "net.safetensors")
    assert info["num_steps"] == 9 and info["name"] == "net"
    assert "private" not in json.dumps(info)
    expected = (9 * average["params"]["conv_in"]["bias"]).astype(np.float16)
    np.testing.assert_array_equal(params["params"]["conv_in"]["bias"], expected.astype(np.float32))


def test_export_of_no_workdir(tmp_path):
    with pytest.raises(weights.WeightsError, match="not a training run"):
        weights.export(tmp_path, tmp_path / "net.safetensors")
    checkpoints.write_config(tmp_path, networks.INFO)
    with pytest.raises(weights.WeightsError, match="no whole checkpoint"):
        weights.export(tmp_path, tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


# ---------------------------------------------------------------- diffusion priors

PRIORS = {
    "DDPMUNet": {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8],
                 "image_size": 16, "num_groups": 4, "patch_size": 2},
    "KerasUNet": {"widths": [8, 16], "has_attention": [False, True], "num_res_blocks": 1, "first_channels": 8,
                  "num_groups": 4},
    "ADMUNet": {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8],
                "image_size": 16, "num_groups": 4, "num_head_channels": 8},
}


def prior(architecture, **changes):
    """The info of a tiny prior, and random parameters."""
    info = {"architecture": architecture, "arguments": PRIORS[architecture], "prediction": "eps",
            "schedule": schedules.to_json("cosine", num_timesteps=20), **changes}
    if architecture == "ADMUNet":
        info["learned_variance"] = True
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in info["arguments"].items()}
    shapes = jax.eval_shape(getattr(models, architecture)(**arguments).init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32), jax.ShapeDtypeStruct((1,), np.float32))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.1 * random.standard_normal(leaf.shape)).astype(np.float32), shapes), info


@pytest.mark.parametrize("architecture", PRIORS)
def test_round_trip_of_a_prior(architecture, tmp_path):
    params, info = prior(architecture)
    weights.save(tmp_path / "prior.safetensors", params, info)
    module, loaded, facts = weights.load(tmp_path / "prior.safetensors")
    assert type(module).__name__ == architecture and {key: facts[key] for key in info} == info
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(schedules.from_json(facts["schedule"]).alpha_bar, schedules.cosine(20).alpha_bar)
    with pytest.raises(weights.WeightsError, match="prior.safetensors: a diffusion prior of pictures .for --method "
                                                   "bird and its like., where a network that restores directly is"):
        weights.load(tmp_path / "prior.safetensors", kind="restorer")


def test_round_trip_of_an_invertible_network(tmp_path):
    arguments = {"levels": 1, "lifting_steps": 2, "width": 4, "cond_dim": 8, "num_blocks": 1, "encoder_channels": 4,
                 "encoder_blocks": 1}
    x, y = (jax.ShapeDtypeStruct((1, side, side, 3), np.float32) for side in (32, 16))
    shapes = jax.eval_shape(models.GuidanceINN(**arguments).init, jax.random.key(0), x, y)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    info = {"architecture": "GuidanceINN", "arguments": arguments, "scale": 2}
    weights.save(tmp_path / "inn.safetensors", params, info)
    module, loaded, facts = weights.load(tmp_path / "inn.safetensors")
    assert module == models.GuidanceINN(**arguments) and facts["scale"] == 2
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    with pytest.raises(weights.WeightsError, match="'scale' in its info is 0, not a whole number from 1"):
        weights.save(tmp_path / "bad.safetensors", params, {**info, "scale": 0})
    for kind in ("restorer", "prior"):
        with pytest.raises(weights.WeightsError, match="inn.safetensors: an invertible network .for --inn., where a"):
            weights.load(tmp_path / "inn.safetensors", kind=kind)


@pytest.mark.parametrize("changes, message", [
    (dict(schedule="linear"), "the schedule linear in its info is none of ours .it has no name"),
    (dict(schedule={"name": "magic"}), "unknown schedule 'magic'"),
    (dict(schedule={"name": "linear", "num_timesteps": 10**9}), "num_timesteps = 1000000000 is not"),
    (dict(schedule={"name": "linear", "beta_end": "much"}), "beta_end = 'much' is not a number"),
    (dict(schedule={"name": "linear", "gamma": 2}), "unexpected keyword argument 'gamma'"),
    (dict(prediction="score"), "'prediction' in its info is score, not one of eps, x0, v, sigma"),
    (dict(learned_variance="yes"), "not true or false"),
])
def test_bad_info_of_a_prior(changes, message, tmp_path):
    params, info = prior("DDPMUNet", **changes)
    with pytest.raises(weights.WeightsError, match=message):
        weights.save(tmp_path / "prior.safetensors", params, info)


def test_a_prior_needs_a_schedule_and_not_a_noise_mode(tmp_path):
    params, info = prior("DDPMUNet")
    with pytest.raises(weights.WeightsError, match="its info lacks schedule, prediction"):
        weights.save(tmp_path / "prior.safetensors", params,
                     {"architecture": info["architecture"], "arguments": info["arguments"], "noise": {"name": "none"}})


# ---------------------------------------------------------------- kinds

def test_kinds_are_what_methods_ask_for():
    assert set(weights.KINDS) == set(weights.checking._NEEDS) == {"restorer", "prior", "latent prior", "inn",
                                                                  "autoencoder", "features"}
    assert set(weights.ARCHITECTURES) == set(weights.checking.ARCHITECTURES)
    assert set(weights.checking.ARCHITECTURES.values()) == set(weights.KINDS)


def test_a_file_says_its_kind_and_is_refused_for_another(good):
    assert weights.load(good)[2]["kind"] == "restorer" == weights.load(good, kind="restorer")[2]["kind"]
    for kind in set(weights.KINDS) - {"restorer"}:
        needed = weights.KINDS[kind].partition(" (")[0]
        with pytest.raises(weights.WeightsError, match=f"a network that restores .*, where {needed} is needed; see: "):
            weights.load(good, kind=kind)


def test_files_of_before_have_the_kind_of_their_architecture(good, tmp_path):
    """The kind was not written then; nothing else of the file changed."""
    path = forge(tmp_path / "old.safetensors", info={k: v for k, v in networks.INFO.items() if k != "kind"}, good=good)
    assert weights.load(path)[2]["kind"] == "restorer"
    for kind, expected in (("prior", "latent prior"), ("INN", "inn")):
        _, params, info = of_latents(kind)
        assert "kind" not in info and weights.checking.kind_of(info) == expected


def test_an_unknown_kind(good, tmp_path):
    with pytest.raises(weights.WeightsError, match="unknown kind oracle; this version knows restorer, prior"):
        weights.load(forge(tmp_path / "net.safetensors", info={**networks.INFO, "kind": "oracle"}, good=good))


@pytest.mark.parametrize("kind, lacking", [("prior", "schedule, prediction"), ("inn", "scale")])
def test_a_kind_needs_what_belongs_to_it(kind, lacking, good, tmp_path):
    with pytest.raises(weights.WeightsError, match=f"its info lacks {lacking}"):
        weights.load(forge(tmp_path / "net.safetensors", info={**networks.INFO, "kind": kind}, good=good))


@pytest.mark.parametrize("row", BUNDLED, ids=lambda row: row.name)
def test_what_ships_says_what_it_has_learned(row):
    assert weights.learned(row.name) == row.learned != "" and "\n" not in row.learned
    assert weights.learned("mine") == ""


def test_what_weights_have_learned_stands_in_their_card(places, good):
    bundled, _ = places
    (bundled / "net.safetensors").write_bytes(good.read_bytes())
    (bundled / "net.md").write_text("# Net\n\nLearned: squares, 8 px\n\nMore.\n")
    assert weights.update_manifest()["net"]["learned"] == "squares, 8 px"
    assert weights.learned("net") == weights.available()[0].learned == "squares, 8 px"


def test_round_trip_of_a_denoiser_that_is_told_the_level(tmp_path):
    path = networks.write_denoiser(tmp_path / "photo.safetensors")
    module, params, info = weights.load(path, kind="prior")
    assert module == networks.denoiser() and info["prediction"] == "sigma" and info["kind"] == "prior"
    np.testing.assert_allclose(schedules.from_json(info["schedule"]).alpha_bar[-1], 1 / 101, rtol=1e-5)
    wanted = networks.denoiser_params()
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, wanted)


# ---------------------------------------------------------------- latents

THEIRS = {"name": "ae", "sha256": "a" * 64}
LATENT_UNET = {"block_out_channels": [8, 16], "has_attention": [False, True], "layers_per_block": 1, "num_heads": 2,
               "context_dim": 0, "in_channels": 5, "out_channels": 5, "num_groups": 4}
LATENT_INN = {"channels": 5, "levels": 1, "lifting_steps": 2, "width": 4, "cond_dim": 8, "num_blocks": 1,
              "encoder_channels": 4, "encoder_blocks": 1}
OF_LATENTS = {
    "prior": ("LatentUNet", LATENT_UNET, ((1, 4, 4, 5), (1,))),
    "prior with context": ("LatentUNet", {**LATENT_UNET, "context_dim": 6}, ((1, 4, 4, 5), (1,), (1, 3, 6))),
    "DDPM": ("DDPMUNet", {**PRIORS["DDPMUNet"], "out_channels": 5}, ((1, 16, 16, 5), (1,))),
    "ADM": ("ADMUNet", {**PRIORS["ADMUNet"], "out_channels": 10}, ((1, 16, 16, 5), (1,))),
    "INN": ("GuidanceINN", LATENT_INN, ((1, 32, 32, 5), (1, 16, 16, 3))),
}


def of_latents(kind):
    architecture, arguments, inputs = OF_LATENTS[kind]
    info = {"architecture": architecture, "arguments": arguments, "autoencoder": THEIRS, **(
        {"scale": 2} if kind == "INN" else {"prediction": "eps", "schedule": schedules.to_json("linear")}),
        **({"learned_variance": True} if kind == "ADM" else {})}
    module = getattr(models, architecture)(**{key: tuple(value) if isinstance(value, list) else value
                                              for key, value in arguments.items()})
    shapes = jax.eval_shape(module.init, jax.random.key(0),
                            *(jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs))
    return module, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes), info


@pytest.mark.parametrize("kind", OF_LATENTS)
def test_round_trip_of_a_network_of_latents(kind, tmp_path):
    module, params, info = of_latents(kind)
    weights.save(tmp_path / "net.safetensors", params, info)
    loaded, again, facts = weights.load(tmp_path / "net.safetensors")
    assert loaded == module and facts["autoencoder"] == THEIRS
    assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize("autoencoder", [
    None, "ae", {"name": "ae"}, {"name": "ae", "sha256": 7}, {"name": "a\nb", "sha256": "a"}])
def test_an_autoencoder_is_a_name_and_a_sha256(autoencoder, tmp_path):
    _, params, info = of_latents("INN")
    with pytest.raises(weights.WeightsError, match="'autoencoder' in its info is .* not a name and a sha256"):
        weights.save(tmp_path / "net.safetensors", params, {**info, "autoencoder": autoencoder})


@pytest.mark.parametrize("arguments, message", [
    ({"channels": 4, "levels": 4000}, "4000 blocks"), ({"channels": 4, "num_blocks": 2, "levels": 1}, "missing"),
    ({"channels": 4, "levels": 1, "latent_channels": 0}, "no TinyAutoencoder can be made|missing|shape")])
def test_bad_autoencoders(arguments, message, tmp_path):
    module = models.TinyAutoencoder(channels=4, levels=1, num_blocks=1, pool_channels=0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    info = {"architecture": "TinyAutoencoder", "arguments": {"pool_channels": 0, "num_blocks": 1, **arguments}}
    with pytest.raises(weights.WeightsError, match=message):
        weights.save(tmp_path / "net.safetensors", params, info)
