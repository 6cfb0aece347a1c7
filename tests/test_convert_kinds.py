"""Recognising what others have trained, and converting it: files, folders, pipelines, the hub; clear refusals."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from indigo_jax import convert, models, schedules
from indigo_jax.convert import kinds, sources
from tests import adm_reference, autoencoder_reference, foreign
from tests.paths import SHARED, needs_shared
from tests.test_convert import SMALL, torch_state
from tests.torch_files import write_zip


def contiguous(state):
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def ddpm():
    return contiguous(torch_state(models.DDPMUNet(**SMALL), 32))


def write(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(state), path)
    return str(path)


def same(params, expected):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def write_unet2d(folder, state, config=None, scheduler=None):
    write(folder / "diffusion_pytorch_model.safetensors", state)
    (folder / "config.json").write_text(json.dumps(config or foreign.UNET2D))
    if scheduler is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return str(folder)


MAKERS = {"ddpm-unet": (ddpm, "DDPMUNet"), "adm": (foreign.adm, "ADMUNet"), "drunet": (foreign.drunet, "DRUNet"),
          "vae": (foreign.autoencoder_kl, "AutoencoderKL"), "taesd": (foreign.taesd, "TinyAutoencoder")}
OPTIONS = {"adm": kinds.Options(image_size=16, head_channels=16)}


# ---------------------------------------------------------------- recognised

@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.net."])
def test_a_file_is_recognised_by_its_names(tmp_path, kind, prefix):
    make, architecture = MAKERS[kind]
    state = {prefix + name: value for name, value in make().items()}
    state |= {"betas": np.ones(10, np.float32), "sqrt_alphas_cumprod": np.ones(10, np.float32)}
    found = kinds.load(write(tmp_path / "net.safetensors", state), options=OPTIONS.get(kind, kinds.Options()))
    assert type(found.module).__name__ == architecture and found.info["source"]["kind"] == kind
    assert len(found.info["source"]["sha256"]["net.safetensors"]) == 64


@pytest.mark.parametrize("prefix", [
    "unet.", "net.", "model.", "ema_model.", "denoise_fn.", "_orig_mod.", "module.model.", "model.unet.", "ema.module.",
    "module._orig_mod.net.", "diffusion.denoise_fn.", "model.diffusion_model.", "ema_model.module.unet.",
    "module.ema_model.net."])
def test_wrappers_are_stripped_and_buffers_ignored(tmp_path, prefix):
    """Buffers, by their names, of the diffusion around the network and of the modules in it."""
    state = foreign.drunet()
    buffers = {name: np.ones(10, np.float32) for name in (
        "betas", "module.alphas_cumprod", f"{prefix}sqrt_recipm1_alphas_cumprod", f"{prefix}m_head.total_ops",
        "posterior_mean_coef1", "loss_weight")}
    path = write(tmp_path / "net.safetensors", {**buffers, **{prefix + name: value for name, value in state.items()}})
    found = kinds.load(path)
    same(found.params, convert.drunet(state))
    assert not any("left out" in note for note in found.notes)
    assert any("averaged" in note for note in found.notes) == ("ema" in prefix)


@pytest.mark.parametrize("plain, averaged", [("model.", "ema_model."), ("model.", "model_ema.module."),
                                             ("module.denoise_fn.", "module.ema_denoise_fn.")])
def test_two_sets_in_one_table_of_names(tmp_path, plain, averaged):
    state, other = foreign.drunet(), {name: value + 1 for name, value in foreign.drunet().items()}
    both = {**{averaged + name: value for name, value in other.items()},
            **{plain + name: value for name, value in state.items()}}
    path = write(tmp_path / "net.safetensors", both)
    found, raw = kinds.load(path), kinds.load(path, raw=True)
    same(found.params, convert.drunet(other))
    same(raw.params, convert.drunet(state))
    assert len(found.notes) == len(kinds.load(write(tmp_path / "one.safetensors", state)).notes) + 1
    assert "averaged one (" in found.notes[0] and "--raw takes the other" in found.notes[0]
    assert "not averaged" in raw.notes[0]


def test_each_kind_is_recognised_as_itself_alone():
    names = {kind: list(make()) for kind, (make, _) in MAKERS.items()}
    names["diffusers-unet"] = list(foreign.unet2d(ddpm()))
    for kind, each in names.items():
        assert kinds.recognise(each) == {kind: [""]}
    assert set(names) <= set(kinds.KINDS)


def test_several_networks_in_one_file(tmp_path):
    state = {**{f"first_stage_model.{k}": v for k, v in foreign.autoencoder_kl("compvis").items()},
             **{f"prior.{k}": v for k, v in ddpm().items()}}
    path = write(tmp_path / "all.safetensors", state)
    with pytest.raises(ValueError, match="several networks; say which with --from ddpm-unet or vae"):
        kinds.load(path)
    found = kinds.load(path, "vae")
    assert isinstance(found.module, models.AutoencoderKL)
    assert any("tensors of other networks were left out (prior." in note for note in found.notes)


def test_a_training_run_of_others_gives_its_average(tmp_path):
    state, other = foreign.drunet(), {name: value + 1 for name, value in foreign.drunet().items()}
    path = str(write_zip(tmp_path / "run.pt", {"params": state, "params_ema": other}))
    same(kinds.load(path).params, convert.drunet(other))
    same(kinds.load(path, raw=True).params, convert.drunet(state))
    assert "averaged" in kinds.load(path).notes[0]


# ---------------------------------------------------------------- each kind

@pytest.mark.parametrize("changes", [{}, {"widths": (4, 6), "num_blocks": 1}, {"out_channels": 1}])
def test_drunet_computes_what_the_reference_does(changes):
    state = foreign.drunet(changes)
    arguments = convert.drunet_arguments(state)
    assert arguments == {**foreign.DRUNET, **changes}
    x, sigma = np.random.default_rng(1).uniform(-1, 1, (2, 16, 12, 3)).astype(np.float32), np.float32([0.1, 0.3])
    theirs = np.moveaxis((x + 1) / 2, -1, 1)
    count = arguments["out_channels"]
    parts = [foreign.drunet_forward(state, theirs[:, i:i + count], sigma / 2) for i in range(0, 3, count)]
    expected = 2 * np.moveaxis(np.concatenate(parts, axis=1), 1, -1) - 1
    found = jax.jit(models.DRUNet(**arguments).apply)(convert.drunet(state), x, sigma)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_drunet_takes_any_size_and_sees_no_farther_than_its_reach():
    module = models.DRUNet(widths=(2, 2, 2), num_blocks=1)
    params = jax.tree.map(np.ones_like, convert.drunet(foreign.drunet({"widths": (2, 2, 2), "num_blocks": 1})))
    side = 4 * module.reach

    @jax.jit
    def outputs(params, x):
        return module.apply(params, x, jnp.full(1, 0.2))

    x = np.zeros((1, side, side, 3), np.float32)
    y = x.copy()
    y[0, side // 2, side // 2] = 0.5
    changed = np.abs(np.asarray(outputs(params, y) - outputs(params, x)))[0].max(axis=-1).max(axis=0) > 0
    seen = np.flatnonzero(changed)
    assert 0.4 * module.reach < max(side // 2 - seen[0], seen[-1] - side // 2) <= module.reach
    assert module.reach % module.multiple == 0
    assert jax.eval_shape(outputs, params, jnp.zeros((1, 7, 5, 3))).shape == (1, 7, 5, 3)
    count = jax.tree.leaves(jax.eval_shape(models.DRUNet().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)),
                                           jnp.zeros(1)))
    assert sum(leaf.size for leaf in count) == 32_640_960


@pytest.mark.parametrize("old", [False, True])
def test_unet2d_of_google_is_the_ddpm_unet(tmp_path, old):
    """The same numbers under the names of diffusers and of the torch port: one function."""
    state = {name: 0.3 * value for name, value in ddpm().items()}
    found = kinds.load(write_unet2d(tmp_path, foreign.unet2d(state, old=old)))
    x, t = np.random.default_rng(1).standard_normal((1, 8, 8, 3)).astype(np.float32), jnp.full(1, 7.0)
    expected = models.DDPMUNet(**SMALL).apply(convert.ddpm_unet(state), x, t)
    np.testing.assert_allclose(found.module.apply(found.params, x, t), expected, rtol=1e-4,
                               atol=1e-5 * float(jnp.abs(expected).max()))
    assert found.info["image_size"] == 32


@pytest.mark.parametrize("scheduler, schedule, prediction", [
    ({"beta_schedule": "linear", "num_train_timesteps": 500, "beta_start": 1e-4, "beta_end": 0.01},
     schedules.to_json("linear", num_timesteps=500, beta_end=0.01), "eps"),
    ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
      "prediction_type": "v_prediction"}, schedules.to_json("scaled_linear"), "v"),
    ({"beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "prediction_type": "sample"},
     schedules.to_json("cosine", num_timesteps=1000), "x0")])
def test_the_scheduler_of_a_pipeline(scheduler, schedule, prediction):
    info, notes = kinds.schedule_of(scheduler, kinds.Options())
    assert info["schedule"] == schedule and info["prediction"] == prediction
    assert len(notes) == ("steps_offset" in scheduler) and info["steps_offset"] == scheduler.get("steps_offset", 0)


@pytest.mark.parametrize("scheduler, words", [
    ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"), ({"trained_betas": [1.5]}, "must descend within"),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr .* goes with v_prediction or sample"),
    ({"prediction_type": "flow"}, "prediction_type 'flow'")])
def test_schedulers_that_none_here_is(scheduler, words):
    with pytest.raises(ValueError, match=words):
        kinds.schedule_of(scheduler, kinds.Options())


def test_a_scheduler_that_ends_in_nothing_but_noise():
    info, _ = kinds.schedule_of({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                                 "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, kinds.Options())
    wanted = schedules.rescale_zero_terminal_snr(schedules.scaled_linear())
    jax.tree.map(np.testing.assert_array_equal, schedules.from_json(json.loads(json.dumps(info["schedule"]))), wanted)


def test_without_a_scheduler_it_is_said_what_is_assumed():
    info, notes = kinds.schedule_of(None, kinds.Options())
    assert info["schedule"]["name"] == "linear" and "--schedule" in notes[0]
    info, notes = kinds.schedule_of(None, kinds.Options(schedule="cosine", prediction="v"))
    assert (info["schedule"]["name"], info["prediction"], notes) == ("cosine", "v", [])


@pytest.mark.parametrize("names", ["diffusers", "compvis"])
def test_autoencoders_of_both_names_are_one(tmp_path, names):
    expected = convert.diffusers_vae(foreign.autoencoder_kl(), num_groups=4)
    found = kinds.load(write(tmp_path / "net.safetensors", foreign.autoencoder_kl(names)))
    same(found.params, expected)
    assert found.module.num_groups == 4 and any("--num-groups" in note for note in found.notes)


def test_an_autoencoder_without_its_small_convolutions_and_with_a_shift(tmp_path):
    """16 channels, a shift of the latents: quantising convolutions that do that and nothing else."""
    state = {name: value for name, value in foreign.autoencoder_kl("compvis", latent_channels=16).items()
             if "quant_conv" not in name}
    shift = 0.3
    found = kinds.load(write(tmp_path / "ae.safetensors", state),
                       options=kinds.Options(scaling_factor=0.36, shift_factor=shift))
    assert found.module.latent_channels == 16 and found.module.scaling_factor == 0.36
    reference = foreign.autoencoder_kl(latent_channels=16)
    reference |= {"quant_conv.weight": np.eye(32)[..., None, None], "quant_conv.bias": np.zeros(32),
                  "post_quant_conv.weight": np.eye(16)[..., None, None], "post_quant_conv.bias": np.zeros(16)}
    arguments = {**autoencoder_reference.SMALL_KL, "latent_channels": 16}
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8))
    moments = autoencoder_reference.kl_encode(reference, arguments, x)
    mean = moments[0] if isinstance(moments, tuple) else moments[:, :16]
    z, _ = found.module.apply(found.params, jnp.asarray(np.moveaxis(x, 1, -1), jnp.float32), method="encode")
    np.testing.assert_allclose(np.moveaxis(z, -1, 1), mean - shift, atol=1e-4 * np.abs(mean).max())
    expected = autoencoder_reference.kl_decode(reference, arguments, mean)
    decoded = found.module.apply(found.params, z, method="decode")
    np.testing.assert_allclose(np.moveaxis(decoded, -1, 1), expected, atol=2e-4 * np.abs(expected).max())


def test_small_autoencoders_of_both_names_and_in_two_files(tmp_path):
    state, expected = foreign.taesd(), convert.taef2(foreign.taesd())
    same(kinds.load(write(tmp_path / "a.safetensors", foreign.taesd("diffusers"))).params, expected)
    for half in ("encoder", "decoder"):
        part = {name.removeprefix(f"{half}."): value for name, value in state.items() if name.startswith(half)}
        (tmp_path / "two").mkdir(exist_ok=True)
        write_zip(tmp_path / "two" / f"taesd_{half}.pth", contiguous(part))
    same(kinds.load(str(tmp_path / "two")).params, expected)


@pytest.mark.parametrize("name, architecture", [("vae_ldm", models.AutoencoderKL),
                                                ("taesd_diffusers", models.TinyAutoencoder)])
@needs_shared
def test_files_that_were_once_refused(name, architecture):
    found = kinds.load(str(SHARED / "fixtures" / "cases" / f"{name}.safetensors"))
    assert isinstance(found.module, architecture)


@pytest.mark.parametrize("changes, heads", [({}, dict(num_heads=4)), ({"num_head_channels": 8}, dict(num_heads=0)),
                                            ({"num_head_channels": 32}, dict(num_heads=2))])
def test_any_number_of_heads(changes, heads):
    """SMALL attends at 64 channels, where 4 heads are heads of 16; the reference is told their width."""
    arguments = {**adm_reference.SMALL, **changes}
    state = adm_reference.random_state(arguments)
    knobs = dict(image_size=16, num_head_channels=arguments["num_head_channels"], **heads)
    module = models.ADMUNet(**convert.guided_diffusion_arguments(state, **knobs))
    x, t = np.random.default_rng(1).standard_normal((1, 3, 8, 8)), np.array([37.0])
    expected = adm_reference.forward(state, arguments, x, t)
    found = jax.jit(module.apply)(convert.guided_diffusion(state, **knobs), jnp.moveaxis(jnp.float32(x), 1, -1),
                                  jnp.float32(t))
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("heads", [dict(num_head_channels=16), dict(num_heads=2)])
def test_both_orders_of_attention(tmp_path, heads):
    """Names and shapes of both are the same, so one who does not say is told that one was assumed."""
    arguments = {**adm_reference.SMALL, "num_head_channels": 16 if "num_head_channels" in heads else 32}
    state = adm_reference.random_state(arguments)
    save_file({name: np.asarray(value, np.float32) for name, value in state.items()}, tmp_path / "net.safetensors")
    x, t = np.random.default_rng(1).standard_normal((1, 3, 8, 8)), np.array([37.0])
    said = {"heads": heads.get("num_heads"), "head_channels": heads.get("num_head_channels"), "image_size": 16}
    for order in ("legacy", "new"):
        converted = kinds.load(str(tmp_path / "net.safetensors"), options=kinds.Options(**said, attention_order=order))
        expected = adm_reference.forward(state, arguments, x, t, order)
        found = jax.jit(converted.module.apply)(converted.params, jnp.moveaxis(jnp.float32(x), 1, -1), jnp.float32(t))
        np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, atol=2e-5 * np.abs(expected).max())
        assert not any("attention" in note or "px" in note for note in converted.notes)
    converted = kinds.load(str(tmp_path / "net.safetensors"), options=kinds.Options(heads=2))
    assert sum("--attention-order new" in note for note in converted.notes) == 1
    assert sum("taken to be of 16 px" in note for note in converted.notes) == 1


@pytest.mark.parametrize("label, row", [(2, 2), ("mean", None)])
def test_a_class_is_added_to_the_time(label, row):
    state = foreign.adm()
    vectors = np.random.default_rng(3).standard_normal((5, 128)).astype(np.float32)
    vector = vectors.mean(axis=0) if row is None else vectors[row]
    knobs = dict(image_size=16, num_head_channels=16)
    expected = convert.guided_diffusion({**state, "time_embed.2.bias": state["time_embed.2.bias"] + vector}, **knobs)
    same(convert.guided_diffusion({**state, "label_emb.weight": vectors}, label=label, **knobs), expected)
    for wrong, words in ((None, "with 5 classes"), (5, "label 5: the network has the classes 0 to 4")):
        with pytest.raises(ValueError, match=words):
            convert.guided_diffusion({**state, "label_emb.weight": vectors}, label=wrong, **knobs)
    with pytest.raises(ValueError, match="without classes"):
        convert.guided_diffusion(state, label=1, **knobs)


def test_blocks_level_by_level():
    """A network with one block on the first level and two on the second, made of one with two on both."""
    arguments = {**adm_reference.SMALL, "attention_resolutions": (), "num_res_blocks": 2}
    state = adm_reference.random_state(arguments)
    renamed = {}
    for name, value in state.items():  # without input block 2 and output block 5, the second of the first level
        parts = name.split(".")
        if parts[0] == "input_blocks" and int(parts[1]) >= 2:
            if parts[1] == "2":
                continue
            parts[1] = str(int(parts[1]) - 1)
        if parts[0] == "output_blocks" and parts[1] == "5":
            continue
        renamed[".".join(parts)] = value
    found = convert.guided_diffusion_arguments(renamed, image_size=16, num_head_channels=16)
    assert found["num_res_blocks"] == (1, 2)
    convert.guided_diffusion(renamed, image_size=16, num_head_channels=16)  # every array has its place


# ---------------------------------------------------------------- folders and the hub

def pipeline(folder, unet):
    unet_folder = folder / "unet"
    write_unet2d(unet_folder, unet)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "squaredcos_cap_v2"}))
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"]}))
    return folder


def test_a_pipeline_and_a_file_within_it(tmp_path):
    unet = foreign.unet2d(ddpm())
    found = kinds.load(str(pipeline(tmp_path, unet)))
    assert found.info["schedule"]["name"] == "cosine" and isinstance(found.module, models.UNet2D)
    inside = kinds.load(str(tmp_path / "unet" / "diffusion_pytorch_model.safetensors"))
    same(inside.params, found.params)
    assert inside.info["schedule"] == found.info["schedule"]


def test_pieces_of_a_large_file(tmp_path):
    state = contiguous(foreign.unet2d(ddpm()))
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2])):
        write(tmp_path / f"part-{number}.safetensors", {name: state[name] for name in part})
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": {
        name: f"part-{number}.safetensors" for number, part in enumerate((names[::2], names[1::2])) for name in part}}))
    (tmp_path / "config.json").write_text(json.dumps(foreign.UNET2D))
    same(kinds.load(str(tmp_path)).params, convert.diffusers_unet2d(state, foreign.UNET2D))
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match="part-1.safetensors is missing, one of 2 pieces"):
        kinds.load(str(tmp_path))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of the hub with one repository, and no network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "models--someone--ddpm-tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    pipeline_folder = repository / "snapshots" / COMMIT
    pipeline_folder.mkdir(parents=True)
    return pipeline(pipeline_folder, foreign.unet2d(ddpm()))


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_the_cache_of_the_hub(hub, revision):
    found = kinds.load("hf:someone/ddpm-tiny", revision=revision)
    source = found.info["source"]
    assert source["name"] == "hf:someone/ddpm-tiny" and source["revision"] == COMMIT
    assert list(source["sha256"]) == ["diffusion_pytorch_model.safetensors"]


def test_a_pinned_revision_in_the_cache_needs_no_network(hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert sources.resolve("hf:someone/ddpm-tiny", revision=COMMIT).path == hub


@pytest.mark.parametrize("name, revision, words", [
    ("hf:someone/other", None, "not in the cache of the hub at revision main .* the network is not to be used"),
    ("hf:someone/ddpm-tiny", "v2", "not in the cache of the hub at revision v2"),
    ("hf:ddpm-tiny", None, "a repository is hf:OWNER/NAME"), ("hf:a/../b", None, "a repository is hf:OWNER/NAME"),
    ("hf:someone/ddpm-tiny", "../../x", "is not a commit, a branch or a tag"),
    ("net.pt", "main", "a revision is for hf:OWNER/NAME")])
def test_what_the_hub_does_not_have(hub, name, revision, words):
    with pytest.raises(ValueError, match=words) as error:
        kinds.load(name, revision=revision)
    assert "\n" not in str(error.value)


def test_no_network(hub, monkeypatch):
    """With the client installed its error is told, without it what to install: one line both times."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot be fetched \(|install indigo-jax\[hub\]") as error:
        kinds.load("hf:someone/elsewhere")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


# ---------------------------------------------------------------- refusals

def changed(make, change):
    state = make()
    change(state)
    return state


@pytest.mark.parametrize("kind, change, words", [
    ("drunet", lambda s: s.pop("m_body.1.res.2.weight"), r"lacks body_block_1_out/kernel .1 in all. for DRUNet"),
    ("drunet", lambda s: s.update({"m_more.weight": np.zeros(3, np.float32)}), "has unknown m_more.weight"),
    ("drunet", lambda s: s.update({"m_up1.0.weight": np.zeros((6, 5, 2, 2), np.float32)}), "up_0/kernel has the shape"),
    ("drunet", lambda s: s.update({"m_head.weight": np.zeros((4, 3, 3, 3), np.float32)}), "also given a map"),
    ("drunet", lambda s: s["m_tail.weight"].fill(np.nan), "m_tail.weight holds NaN or infinity"),
    ("vae", lambda s: s.pop("decoder.conv_out.bias"), "lacks decoder/conv_out/bias"),
    ("taesd", lambda s: s.update({"encoder.99.weight": np.zeros((8, 8, 3, 3), np.float32)}), "has unknown encoder.99"),
    ("adm", lambda s: s.pop("out.0.bias"), "lacks norm_out/bias"),
    ("ddpm-unet", lambda s: s.pop("mid.block_1.conv1.bias"), "lacks mid_block_1/conv1/bias"),
])
def test_what_does_not_fit_is_named(tmp_path, kind, change, words):
    path = write(tmp_path / "net.safetensors", changed(MAKERS[kind][0], change))
    with pytest.raises(ValueError, match=f"net.safetensors: .*{words}") as error:
        kinds.load(path, options=OPTIONS.get(kind, kinds.Options()))
    assert "\n" not in str(error.value)


def test_names_that_no_kind_has(tmp_path):
    path = write(tmp_path / "net.safetensors", {f"layer{i}.weight": np.zeros(3, np.float32) for i in range(9)})
    with pytest.raises(ValueError, match=r"begin with layer0.weight, layer1.weight, layer2.weight, ... \(9 in all\), "
                                         r"where such as these are expected: temb.dense.0.weight \(ddpm-unet\)"):
        kinds.load(path)
    with pytest.raises(ValueError, match="not a DRUNet: no m_head.weight.*; its names begin with layer0.weight"):
        kinds.load(path, "drunet")


@pytest.mark.parametrize("change, words", [
    ({"act_fn": "gelu"}, "act_fn = 'gelu'"), ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
    ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D"), ({"in_channels": 1}, "1 channels"),
    ({"new_option": 7}, "new_option = 7")])
def test_configs_of_other_networks(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        kinds.load(write_unet2d(tmp_path, foreign.unet2d(ddpm()), {**foreign.UNET2D, **change}))


def test_folders_that_say_nothing(tmp_path):
    with pytest.raises(ValueError, match="a folder without a checkpoint"):
        kinds.load(str(tmp_path))
    for name in ("a.pt", "b.pt"):
        write_zip(tmp_path / name, foreign.drunet())
    with pytest.raises(ValueError, match="a folder with the checkpoints a.pt, b.pt; give one"):
        kinds.load(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"x": ["diffusers", "Unknown"]}')
    with pytest.raises(ValueError, match="a pipeline of Unknown; of these classes"):
        kinds.load(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        kinds.load(str(tmp_path))


def test_options_of_other_kinds(tmp_path):
    path = write(tmp_path / "net.safetensors", foreign.drunet())
    with pytest.raises(ValueError, match="--heads is for --from adm and latent-unet, and this is drunet; leave it out"):
        kinds.load(path, options=kinds.Options(heads=4))
