"""Reading checkpoints: torch's files without torch, nothing run; averages, wrappers and buffers."""
import numpy as np
import pytest
from safetensors.numpy import save_file

from indigo_jax.convert import checkpoint, torch_file
from tests.torch_files import Global, dumps, write_legacy, write_zip

RANDOM = np.random.default_rng(0)
STATE = {"a.weight": RANDOM.standard_normal((3, 4)).astype(np.float32), "a.bias": np.arange(3.0, dtype=np.float32)}
OTHER = {name: value + 1 for name, value in STATE.items()}
WRITERS = {"zip": write_zip, "legacy": write_legacy}


def arrays(found):
    return {name: checkpoint.array(value) for name, value in found.tensors.items()}


def same(found, expected):
    found = arrays(found)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


# ---------------------------------------------------------------- torch's files

@pytest.mark.parametrize("writer", WRITERS)
def test_both_formats_of_torch(tmp_path, writer):
    turned = np.asfortranarray(STATE["a.weight"])
    state = {**STATE, "turned": turned, "half": STATE["a.bias"].astype(np.float16), "double": np.ones(2),
             "scalar": np.array(3.5, np.float32), "whole": np.arange(4), "flag": np.array([True, False]),
             "bf16": (STATE["a.weight"].view(np.uint32) >> 16).astype(np.uint16)}
    found = checkpoint.read(WRITERS[writer](tmp_path / "net.pt", {"state_dict": state, "epoch": 3}))
    expected = {**state, "bf16": (STATE["a.weight"].view(np.uint32) >> 16 << 16).view(np.float32)}
    same(found, expected)
    assert all(value.dtype == np.float32 for name, value in arrays(found).items() if name not in ("whole", "flag"))


def test_the_files_of_lightning(tmp_path):
    """Of the trainer's objects nothing is needed."""
    path = write_zip(tmp_path / "net.ckpt", {
        "state_dict": {"a.weight": STATE["a.weight"]}, "hyper": Global("argparse", "Namespace", call=True),
        "callbacks": {"best": Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", call=True)}})
    same(checkpoint.read(path), {"a.weight": STATE["a.weight"]})


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("module, name", [("posix", "system"), ("os", "system"), ("builtins", "exec"),
                                          ("builtins", "eval"), ("subprocess", "Popen"), ("torch", "load"),
                                          ("torch.hub", "load"), ("builtins", "getattr"), ("operator", "attrgetter"),
                                          ("__main__", "Net"), ("functools", "partial"), ("runpy", "run_path")])
def test_nothing_is_run(tmp_path, writer, module, name):
    mark = tmp_path / "mark"
    hostile = {**STATE, "x": Global(module, name, f"touch {mark}")}
    WRITERS[writer](tmp_path / "net.pt", hostile)
    with pytest.raises(ValueError, match=rf"net.pt: it names {module}.{name}, .* nothing was run") as error:
        checkpoint.read(tmp_path / "net.pt")
    assert not mark.exists() and "\n" not in str(error.value)


def test_a_bare_pickle_runs_nothing(tmp_path):
    (tmp_path / "net.pkl").write_bytes(dumps(Global("os", "system", f"touch {tmp_path / 'mark'}")))
    with pytest.raises(ValueError, match="names os.system"):
        checkpoint.read(tmp_path / "net.pkl")
    (tmp_path / "net.pkl").write_bytes(dumps({"a": 1}))
    with pytest.raises(ValueError, match="a pickle, but not one of torch"):
        checkpoint.read(tmp_path / "net.pkl")
    assert not (tmp_path / "mark").exists()


def test_functions_that_are_known_cannot_be_turned_into_others(tmp_path):
    """A pickle may set attributes of what it has named; the next file must not see them."""
    write_zip(tmp_path / "net.pt", STATE)
    first = torch_file._Unpickler._known()[("torch._utils", "_rebuild_tensor_v2")]
    assert first is not torch_file._Unpickler._known()[("torch._utils", "_rebuild_tensor_v2")]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", ["net.pt", "old.pt", "net.safetensors", "net.npz"])
def test_half_downloaded_files(tmp_path, name, share):
    state = {"a.weight": np.ones((64, 64), np.float32), **STATE}
    path = tmp_path / name
    {"net.pt": write_zip, "old.pt": write_legacy, "net.safetensors": lambda p, s: save_file(s, p),
     "net.npz": lambda p, s: np.savez(p, **s)}[name](path, state)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{name}: .*(downloaded in part|damaged)") as error:
        arrays(checkpoint.read(path))
    assert "\n" not in str(error.value)


def test_a_changed_byte_and_views_beyond_the_values(tmp_path):
    path = write_zip(tmp_path / "net.pt", {"a.weight": np.full((8, 8), 1.5, np.float32)})
    data = bytearray(path.read_bytes())
    place = bytes(data).index(np.full(64, 1.5, np.float32).tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        arrays(checkpoint.read(path))
    for shape, strides, offset in (((9, 8), (8, 1), 0), ((8, 8), (8, 1), 1), ((8,), (-1,), 7), ((10**6, 8), (0, 1), 0)):
        storage = torch_file._Storage("f4", 64, lambda _: (bytes(256), "<"))
        with pytest.raises(ValueError, match="outside of its 64 values"):
            torch_file.Tensor(storage, offset, shape, strides).array()


@pytest.mark.parametrize("content, words", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "stands for the file"),
    (b"<!DOCTYPE html><html>", "stands for the file"), (b"", "downloaded in part"), (b"x", "downloaded in part")])
def test_what_is_no_checkpoint(tmp_path, content, words):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"net.pth: .*{words}"):
        checkpoint.read(tmp_path / "net.pth")
    with pytest.raises(ValueError, match="no such file"):
        checkpoint.read(tmp_path / "absent.pth")
    (tmp_path / "net.gguf").write_bytes(b"x")
    with pytest.raises(ValueError, match="no checkpoint; give a file .safetensors, .npz, .pt"):
        checkpoint.read(tmp_path / "net.gguf")


def test_bfloat16_of_safetensors(tmp_path):
    import jax.numpy as jnp
    save_file({"a": STATE["a.weight"].astype(jnp.bfloat16), "b": STATE["a.bias"]}, tmp_path / "net.safetensors")
    found = arrays(checkpoint.read(tmp_path / "net.safetensors"))
    np.testing.assert_array_equal(found["a"], STATE["a.weight"].astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(found["b"], STATE["a.bias"])


# ---------------------------------------------------------------- averages

def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


ADAM = {"state": {0: {"exp_avg": STATE["a.weight"], "exp_avg_sq": STATE["a.weight"]}}, "param_groups": [{"lr": 1.0}]}
LAYOUTS = {
    "ema": {"model": STATE, "ema": OTHER, "optimizer": ADAM, "step": 7},
    "model_ema": {"model": STATE, "model_ema": OTHER},
    "params_ema": {"params": STATE, "params_ema": OTHER},
    "list": [STATE, ADAM, 3, 1000, OTHER],
    "shadow": {"model": STATE, "ema": {"decay": 0.999, "num_updates": 4, "shadow": OTHER}},
    "ema-pytorch": {"step": 1, "model": prefixed("model.", STATE), "ema": {
        "initted": np.array([True]), "step": np.array([5]), **prefixed("ema_model.model.", OTHER),
        **prefixed("online_model.model.", STATE)}},
    "lightning": {"state_dict": {**prefixed("net.", STATE)}, "ema_state_dict": prefixed("net.", OTHER)},
    "latent diffusion": {"state_dict": {**prefixed("model.net.", STATE), "model_ema.decay": np.array(0.9, np.float32),
                                        **{f"model_ema.net{name.replace('.', '')}": value
                                           for name, value in OTHER.items()}}},
}


def test_averages_without_names_follow_the_parameters():
    """A list in their order, in which what is computed on the way, as running means, has no place."""
    state = {"mean": np.full(3, 7.0, np.float32), **STATE}
    tree = {"model": state, "ema": {"decay": 0.999, "num_updates": 4, "shadow_params": list(OTHER.values())}}
    found = checkpoint.choose(tree)
    same(found, {"mean": state["mean"], **OTHER})
    assert "averaged one (ema)" in found.notes[0]
    same(checkpoint.choose(tree, raw=True), state)
    tree["ema"]["shadow_params"].append(np.zeros((9, 9), np.float32))
    with pytest.raises(ValueError, match="averages without names, which do not follow the .* parameters beside it"):
        checkpoint.choose(tree)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_average_is_taken_and_said(layout):
    found = checkpoint.choose(LAYOUTS[layout])
    prefix = {"ema-pytorch": "model.", "lightning": "net.", "latent diffusion": "model.net."}.get(layout, "")
    within = "online_model." if layout == "ema-pytorch" else ""  # beside the averages, as whose raw ones they are named
    same(found, prefixed(within + prefix, OTHER))
    assert "averaged one" in found.notes[0] and "--raw" in found.notes[0]
    found = checkpoint.choose(LAYOUTS[layout], raw=True)
    same(found, prefixed(prefix, STATE))
    assert "not averaged" in found.notes[0]


SIDE_BY_SIDE = [("model.", "ema_model."), ("model.", "model_ema."), ("model.", "ema."), ("net.", "net_ema."),
                ("unet.", "ema_unet."), ("denoise_fn.", "ema_denoise_fn."), ("module.model.", "module.ema_model."),
                ("model.", "model_ema.module."), ("model._orig_mod.", "ema_model."), ("model.module.", "ema.module."),
                ("online_model.model.", "ema_model.model."), ("", "ema."), ("generator.", "g_ema.")]


@pytest.mark.parametrize("wrap", [lambda flat: flat, lambda flat: {"state_dict": flat, "epoch": 3},
                                  lambda flat: {"ema": flat, "step": 3}], ids=["alone", "state_dict", "ema"])
@pytest.mark.parametrize("plain, averaged", SIDE_BY_SIDE)
def test_averages_beside_the_others_in_one_table(plain, averaged, wrap):
    """Whatever else is there stays with both; so do names of the average that the others lack, to be refused later."""
    beside = {"vae.a.weight": 7 * STATE["a.weight"], "betas": np.ones(9, np.float32)}
    flat = {**prefixed(averaged, OTHER), **prefixed(plain, STATE), **beside, f"{averaged}more.bias": STATE["a.bias"],
            f"{averaged}n_averaged": np.array(3), f"{averaged.split('.')[0]}.num_updates": np.array(5)}
    kept = {"vae.a.weight": beside["vae.a.weight"]}
    found = checkpoint.choose(wrap(flat))
    same(found, {**prefixed(plain, OTHER), f"{plain}more.bias": STATE["a.bias"], **kept})
    mark = ".".join(word for word in averaged.split(".") if "ema" in word)
    assert mark in found.notes[0] and "averaged one" in found.notes[0] and "--raw takes the other" in found.notes[0]
    found = checkpoint.choose(wrap(flat), raw=True)
    same(found, {**prefixed(plain, STATE), **kept})
    assert "not averaged" in found.notes[0]


def test_two_networks_and_their_averages():
    flat = {**prefixed("unet.", STATE), **prefixed("unet_ema.", OTHER), **prefixed("text.", STATE),
            **prefixed("ema_model.text.", {name: 3 * value for name, value in STATE.items()})}
    same(checkpoint.choose(flat), {**prefixed("unet.", OTHER), **prefixed("text.", {
        name: 3 * value for name, value in STATE.items()})})
    same(checkpoint.choose(flat, raw=True), {**prefixed("unet.", STATE), **prefixed("text.", STATE)})


def test_networks_of_other_shapes_are_no_pair():
    """An averaged network beside another one, as a text encoder: there is no other set to take."""
    flat = {**prefixed("ema_model.", OTHER), "text.a.weight": np.ones((9, 9), np.float32), "text.a.bias": np.ones(9)}
    same(checkpoint.choose(flat), OTHER)
    with pytest.raises(ValueError, match="averaged parameters alone; leave --raw out"):
        checkpoint.choose(flat, raw=True)


@pytest.mark.parametrize("tree", [{"ema": OTHER, "step": 3}, prefixed("ema_model.", OTHER), {"params_ema": OTHER},
                                  {"ema": {"shadow": OTHER}}])
def test_an_average_alone(tree):
    found = checkpoint.choose(tree)
    same(found, OTHER)
    assert "its parameters are averaged ones" in found.notes[0]
    with pytest.raises(ValueError, match="averaged parameters alone; leave --raw out"):
        checkpoint.choose(tree, raw=True)


@pytest.mark.parametrize("tree", [STATE, {"state_dict": STATE}, {"model": {"state_dict": STATE}}, [STATE, ADAM, 3, 7],
                                  {"params": STATE, "optimizer": ADAM}])
def test_parameters_alone_need_no_word(tree):
    for raw in (False, True):
        found = checkpoint.choose(tree, raw=raw)
        same(found, STATE)
        assert found.notes == ()


def test_buffers_are_no_parameters():
    buffers = {name: np.ones(4, np.float32) for name in (
        "betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1", "net.sqrt_recip_alphas",
        "loss_weight", "bn.num_batches_tracked", "gammas", "sqrt_recipm1_gammas", "alphas_cumprod_next", "n_averaged",
        "log_one_minus_alphas_cumprod", "posterior_log_variance_clipped", "a.total_ops", "a.total_params")}
    same(checkpoint.choose({**buffers, **STATE}), STATE)


@pytest.mark.parametrize("tree, words", [
    ({"epoch": 3, "args": "x"}, r"found a table of 2 entries \(epoch, args\)"), ([1, 2], "found a list of 2 entries"),
    (7, "found int"), ({}, "found a table of 0 entries"), ({"optimizer": ADAM}, "no parameters in it")])
def test_what_holds_no_parameters(tree, words):
    with pytest.raises(ValueError, match=words) as error:
        checkpoint.choose(tree)
    assert "state_dict" in str(error.value) and "\n" not in str(error.value)


def test_prefixes():
    names = {f"{prefix}{name}": 0 for prefix in ("module._orig_mod.", "other.") for name in STATE}
    assert checkpoint.under(names, tuple(STATE)) == ["other.", "module._orig_mod."]
    assert checkpoint.under({"xa.weight": 0, "a.bias": 0}, tuple(STATE)) == []
    found, rest = checkpoint.cut({"net.a.weight": STATE["a.weight"], "b": STATE["a.bias"]}, "net.")
    assert list(found) == ["a.weight"] and rest == ["b"]
