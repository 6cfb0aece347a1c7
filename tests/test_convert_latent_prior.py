"""Stable Diffusion as a prior: both names of its UNet, the empty text, one file and pipelines."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from indigo_jax import convert, models, weights
from indigo_jax.cli import main
from indigo_jax.convert import compvis, kinds
from indigo_jax.convert.diffusers_unet import with_added
from indigo_jax.convert.latent_prior import empty_text_of_xl
from tests import foreign, guided_networks, latent_unet_reference

ARGUMENTS = latent_unet_reference.SMALL
CONFIG = latent_unet_reference.config(ARGUMENTS)


def contiguous(state):
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


@pytest.mark.parametrize("changes", [{}, dict(layers_per_block=2, block_out_channels=(8, 12, 16),
                                              has_attention=(False, True, True), num_heads=(2, 3, 4))])
def test_both_names_of_the_unet_are_one(changes):
    expected, found = foreign.latent_unet(**changes), compvis.unet(foreign.latent_unet("compvis", **changes))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    wanted = latent_unet_reference.config({**ARGUMENTS, **changes})
    config = compvis.unet_config(foreign.latent_unet("compvis", **changes))
    assert config["attention_head_dim"] == 8
    for name in ("block_out_channels", "layers_per_block", "cross_attention_dim", "in_channels", "out_channels",
                 "down_block_types", "up_block_types"):
        assert config[name] == wanted[name], name


def test_a_prompted_network_is_one_with_this_context():
    context = np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)
    state = foreign.latent_unet()
    module = models.PromptedUNet(**convert.latent_prior_arguments(CONFIG, context))
    x, t = np.random.default_rng(1).standard_normal((2, 4, 6, 5)), np.array([3.0, 900.0])
    expected = latent_unet_reference.forward(state, ARGUMENTS, x, t, np.broadcast_to(context, (2, 5, 6)))
    found = jax.jit(module.apply)(convert.latent_prior(state, CONFIG, context), jnp.moveaxis(jnp.float32(x), 1, -1),
                                  jnp.float32(t))
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, atol=2e-5 * np.abs(expected).max())
    for wrong in (context[:, :5], context[0], context * np.nan):
        with pytest.raises(ValueError, match=r"the context of a text is \[words, 6\] here and finite"):
            convert.latent_prior_arguments(CONFIG, wrong)


def test_the_empty_text_does_not_see_what_comes_later():
    """A causal encoder: the first words of a longer text are those of a shorter one."""
    state = foreign.text_encoder()
    whole = convert.empty_text(state, num_heads=2)
    assert whole.shape == (9, 6) and np.isfinite(whole).all()
    places = "text_model.embeddings.position_embedding.weight"
    short = {**state, places: state[places][:4]}
    np.testing.assert_allclose(convert.empty_text(short, num_heads=2), whole[:4], atol=1e-5)
    other = convert.empty_text(state, num_heads=2, pad=0)
    np.testing.assert_allclose(other[:2], whole[:2], atol=1e-5)
    assert np.abs(other[2:] - whole[2:]).max() > 0.01
    with pytest.raises(ValueError, match="not a CLIPTextModel"):
        convert.empty_text({"a": np.zeros(3)})
    with pytest.raises(ValueError, match="not a whole CLIPTextModel .*fc1.bias"):
        convert.empty_text({name: value for name, value in state.items() if not name.endswith("0.mlp.fc1.bias")})
    with pytest.raises(ValueError, match="activation 'relu'"):
        convert.empty_text(state, activation="relu")


@pytest.fixture
def pipeline(tmp_path):
    """A folder as of StableDiffusionPipeline.save_pretrained."""
    return foreign.stable_diffusion(tmp_path / "sd")


def test_a_pipeline_becomes_an_autoencoder_and_a_prior_of_its_latents(pipeline, tmp_path, capsys):
    convert_it = ["weights", "convert", str(pipeline), "-o"]
    assert main([*convert_it, str(tmp_path / "x.safetensors")]) == 2
    assert "say which with --from latent-unet (unet) or --from vae (vae)" in capsys.readouterr().err
    vae, prior = str(tmp_path / "vae.safetensors"), str(tmp_path / "prior.safetensors")
    assert main([*convert_it, vae, "--from", "vae"]) == 0
    assert main([*convert_it, prior, "--from", "latent-unet", "--autoencoder", vae, "--dtype", "float32"]) == 0
    autoencoder, _, about = weights.load(vae, kind="autoencoder")
    module, params, info = weights.load(prior, kind="latent prior")
    assert autoencoder.scaling_factor == 0.2 and info["autoencoder"]["sha256"] == about["sha256"]
    assert info["schedule"]["name"] == "scaled_linear" and info["steps_offset"] == 1 and info["image_size"] == 512
    expected = convert.empty_text(foreign.text_encoder(), num_heads=2, activation="gelu", pad=0)
    np.testing.assert_allclose(params["params"]["context"], expected, atol=1e-6)


def test_one_file_of_all_three_networks(tmp_path):
    state = {**{f"model.diffusion_model.{k}": v for k, v in foreign.latent_unet("compvis").items()},
             **{f"first_stage_model.{k}": v for k, v in foreign.autoencoder_kl("compvis", latent_channels=4).items()},
             **{f"cond_stage_model.transformer.{k}": v for k, v in foreign.text_encoder().items()},
             "betas": np.ones(5, np.float32)}
    path = tmp_path / "sd.safetensors"
    save_file(contiguous(state), path)
    with pytest.raises(ValueError, match="several networks; say which with --from latent-unet or vae"):
        kinds.load(str(path))
    assert kinds.load(str(path), "vae").module.scaling_factor == 0.18215
    with pytest.raises(ValueError, match="8 heads of attention do not divide the 12 channels"):
        kinds.load(str(path), "latent-unet")
    found = kinds.load(str(path), "latent-unet", options=kinds.Options(heads=2))
    np.testing.assert_array_equal(found.params["params"]["context"], convert.empty_text(foreign.text_encoder()))
    expected = convert.latent_prior(foreign.latent_unet(), {**CONFIG, "attention_head_dim": 2},
                                    found.params["params"]["context"])
    assert jax.tree.structure(found.params) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(found.params), jax.tree.leaves(expected)))


def test_without_a_text_encoder_an_embedding_must_be_given(tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(contiguous(foreign.latent_unet()), folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"no text encoder of CLIP .* empty text \[77, 6\] with --context FILE.npy"):
        kinds.load(str(folder))
    context = np.random.default_rng(0).standard_normal((7, 6))
    np.save(tmp_path / "empty.npy", context)
    found = kinds.load(str(folder), options=kinds.Options(context=str(tmp_path / "empty.npy")))
    np.testing.assert_allclose(found.params["params"]["context"], context, rtol=1e-6)
    (tmp_path / "bad.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match="bad.npy: not an .npy of numbers, nor an .npz"):
        kinds.load(str(folder), options=kinds.Options(context=str(tmp_path / "bad.npy")))


XL = {**ARGUMENTS, "transformer_depth": (2, 3), "told": 7}


@pytest.mark.parametrize("names", ["diffusers", "compvis"])
@pytest.mark.parametrize("given", [False, True])
def test_xl_is_told_a_text_and_a_size_once(tmp_path, names, given):
    """Transformers of several blocks; what XL is told beside the time becomes part of it."""
    # its own names say nothing of how wide a size is told; always 256
    arguments = {**XL, "num_heads": (2, 2), "told": 7 + 6 * 256 - 48} if names == "compvis" else XL
    state, folder = foreign.latent_unet(names, **arguments), tmp_path / "unet"
    folder.mkdir()
    config = {**latent_unet_reference.config(arguments), "sample_size": 4}
    if names == "compvis":
        state = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    else:
        (folder / "config.json").write_text(json.dumps(config))
    save_file(contiguous(state), folder / "diffusion_pytorch_model.safetensors")
    random = np.random.default_rng(1)
    context, pooled = np.zeros((77, 6)), np.zeros(7)
    options = {"heads": 2, "image_size": 32} if names == "compvis" else {}
    if given:
        context, pooled = random.standard_normal((5, 6)), random.standard_normal(7)
        np.savez(tmp_path / "text.npz", context=context, pooled=pooled)
        options["context"] = str(tmp_path / "text.npz")
    found = kinds.load(str(folder if names == "diffusers" else folder / "diffusion_pytorch_model.safetensors"),
                       options=kinds.Options(**options))
    assert found.module.transformer_depth == (2, 3) and found.info["image_size"] == 32
    if names == "compvis":
        return
    x, t = random.standard_normal((2, 4, 4, 6)), np.array([3.0, 900.0])
    added = latent_unet_reference.told(np.stack([pooled] * 2), np.array([[32.0, 32, 0, 0, 32, 32]] * 2))
    expected = latent_unet_reference.forward(state, arguments, x, t, np.stack([context] * 2), added)
    y = jax.jit(found.module.apply)(found.params, jnp.moveaxis(jnp.float32(x), 1, -1), jnp.float32(t))
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected, atol=3e-5 * np.abs(expected).max())


def test_what_xl_is_told_must_fit(tmp_path):
    state, config = foreign.latent_unet(**XL), latent_unet_reference.config(XL)
    with pytest.raises(ValueError, match=r"the text as a whole is \[3\], the network takes \[7\]"):
        with_added(state, config, np.zeros(3))
    with pytest.raises(ValueError, match="addition_embed_type = 'image'"):
        with_added(state, {**config, "addition_embed_type": "image"})
    np.save(tmp_path / "text.npy", np.zeros((5, 6)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(contiguous(state), tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="takes one text, .* leave --prompt out"):
        kinds.load(str(tmp_path), options=kinds.Options(prompt=str(tmp_path / "text.npy")))


def second_encoder(**options):
    """CLIPTextModelWithProjection."""
    projection = np.random.default_rng(7).standard_normal((7, options.get("channels", 6))).astype(np.float32)
    return {**foreign.text_encoder(**options), "text_projection.weight": projection}


def test_the_empty_text_of_xl_is_that_of_both_encoders():
    """Where the last layer does nothing, what comes before it is what the norm makes the last of, and so known."""
    first, second = foreign.text_encoder(), second_encoder(channels=8)
    for state in (first, second):
        for name in state:
            if name.startswith("text_model.encoder.layers.1.") and ("out_proj" in name or "fc2" in name):
                state[name] = np.zeros_like(state[name])
    options, others = {"num_heads": 2}, {"num_heads": 2, "activation": "gelu", "pad": 0}
    context, pooled = empty_text_of_xl(first, second, options, others)
    assert context.shape == (9, 14) and pooled.shape == (7,)
    wanted = [convert.empty_text(first, **options), convert.empty_text(
        {name: value for name, value in second.items() if name != "text_projection.weight"}, **others)]
    for found, normed, state in zip(np.split(context, [6], axis=1), wanted, (first, second)):
        scale, bias = (state[f"text_model.final_layer_norm.{leaf}"] for leaf in ("weight", "bias"))
        centred = found - found.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * scale + bias,
                                   normed, atol=1e-4)
    np.testing.assert_allclose(pooled, second["text_projection.weight"] @ wanted[1][1], atol=1e-4)
    with pytest.raises(ValueError, match="second text encoder is no CLIPTextModelWithProjection"):
        empty_text_of_xl(first, first, options, others)


@pytest.fixture
def xl(tmp_path):
    """A folder as of StableDiffusionXLPipeline.save_pretrained."""
    folder, arguments = tmp_path / "xl", {**XL, "context_dim": 14}
    text = {"num_attention_heads": 2, "hidden_act": "quick_gelu"}
    parts = {"unet": ({**latent_unet_reference.config(arguments), "sample_size": 8}, foreign.latent_unet(**arguments),
                      "diffusion_pytorch_model"),
             "vae": ({"_class_name": "AutoencoderKL", "norm_num_groups": 4, "scaling_factor": 0.13025,
                      "force_upcast": True}, foreign.autoencoder_kl(latent_channels=4), "diffusion_pytorch_model"),
             "text_encoder": (text, foreign.text_encoder(), "model"),
             "text_encoder_2": ({**text, "hidden_act": "gelu"}, second_encoder(channels=8), "model")}
    for name, (config, state, stem) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(contiguous(state), folder / name / f"{stem}.safetensors")
    for name in ("scheduler", "tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({
        "_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "beta_end": 0.012, "steps_offset": 1, "prediction_type": "epsilon", "timestep_spacing": "leading"}))
    (folder / "tokenizer_2" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    write_index(folder)
    return folder


def write_index(folder, **changes):
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], **changes}))


def test_a_pipeline_of_xl_says_whether_its_empty_text_is_zeros(xl):
    plain = kinds.load(str(xl), "latent-unet")
    assert not plain.params["params"]["context"].any() and plain.params["params"]["context"].shape == (77, 14)
    write_index(xl, force_zeros_for_empty_prompt=False)
    found = kinds.load(str(xl), "latent-unet")
    context, pooled = empty_text_of_xl(foreign.text_encoder(), second_encoder(channels=8),
                                       {"num_heads": 2}, {"num_heads": 2, "activation": "gelu", "pad": 0})
    np.testing.assert_allclose(found.params["params"]["context"], context, atol=1e-5)
    state, config = (foreign.latent_unet(**{**XL, "context_dim": 14}),
                     latent_unet_reference.config({**XL, "context_dim": 14}))
    told = with_added(state, config, pooled, 64)[0]["time_embedding.linear_2.bias"]
    np.testing.assert_allclose(found.params["params"]["unet"]["time_embed_2"]["bias"], told, atol=1e-5)
    assert np.abs(told - plain.params["params"]["unet"]["time_embed_2"]["bias"]).max() > 0.01
    write_index(xl, force_zeros_for_empty_prompt=False, text_encoder_2=[None, None])
    with pytest.raises(ValueError, match="empty text is not zeros .* has no text_encoder_2 of CLIP"):
        kinds.load(str(xl), "latent-unet")
    write_index(xl, requires_aesthetics_score=True)
    with pytest.raises(ValueError, match="a refiner of Stable Diffusion XL .*requires_aesthetics_score"):
        kinds.load(str(xl), "latent-unet")
    with pytest.raises(ValueError, match="the UNet of a refiner .* convert the base model"):
        with_added(foreign.latent_unet(**{**XL, "told": 14 - 8}), {**config, "cross_attention_dim": 14})


def test_an_xl_folder_restores_a_picture(xl, tmp_path, monkeypatch):
    """From the folder of diffusers through the commands, its autoencoder first."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    vae, prior, inn = (str(tmp_path / f"{name}.safetensors") for name in ("vae", "prior", "inn"))
    assert main(["weights", "convert", str(xl), "-o", vae, "--from", "vae"]) == 0
    assert main(["weights", "convert", str(xl), "-o", prior, "--from", "latent-unet", "--autoencoder", vae,
                 "--image-size", "16"]) == 0
    module, _, info = weights.load(prior, kind="latent prior")
    assert module.transformer_depth == (2, 3) and info["image_size"] == 16
    assert weights.load(vae, kind="autoencoder")[0].scaling_factor == 0.13025
    guided_networks.write_inn(tmp_path / "inn.safetensors", levels=1)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--method", "latent-indigo",
                 "--task", "sr", "--scale", "2", "--prior", prior, "--inn", inn, "--variant", "pixel", "--steps", "1"
                 ]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (16, 16)


# ---------------------------------------------------------------- guided, and used

@pytest.mark.slow
def test_guidance_without_a_classifier():
    """Of the empty text and another one, as two calls say."""
    random = np.random.default_rng(2)
    context, empty = random.standard_normal((2, 5, 6)).astype(np.float32)
    state, arguments = foreign.latent_unet(), convert.latent_prior_arguments(CONFIG, context)
    x, t = random.standard_normal((2, 4, 6, 4)).astype(np.float32), jnp.asarray([3.0, 900.0])
    alone = jax.jit(models.PromptedUNet(**arguments).apply)
    with_text, without = (alone(convert.latent_prior(state, CONFIG, each), x, t) for each in (context, empty))
    module = models.PromptedUNet(**arguments, prompt_scale=3.0)
    guided = jax.jit(module.apply)(convert.latent_prior(state, CONFIG, context, empty), x, t)
    np.testing.assert_allclose(guided, without + 3 * (with_text - without), atol=1e-4)
    with pytest.raises(ValueError, match="give both of one length"):
        convert.latent_prior(state, CONFIG, context, empty[:3])


@pytest.mark.parametrize("prompt", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stable_diffusion_folder_restores_a_picture(pipeline, tmp_path, prompt, monkeypatch, capsys):
    """From the folder of diffusers through the commands: the empty text is the text encoder's."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    vae, prior, inn = (str(tmp_path / f"{name}.safetensors") for name in ("vae", "prior", "inn"))
    assert main(["weights", "convert", str(pipeline), "-o", vae, "--from", "vae"]) == 0
    command = ["weights", "convert", str(pipeline), "-o", prior, "--from", "latent-unet", "--autoencoder", vae,
               "--image-size", "16"]
    if prompt:
        np.save(tmp_path / "text.npy", np.random.default_rng(0).standard_normal((9, 6)))
        assert main([*command, "--prompt-scale", "2"]) == 2
        assert "give its embedding with --prompt FILE.npy" in capsys.readouterr().err
        command += ["--prompt", str(tmp_path / "text.npy"), "--prompt-scale", "2"]
    assert main(command) == 0
    module, params, _ = weights.load(prior, kind="latent prior")
    assert module.prompt_scale == (2.0 if prompt else 1.0)
    empty = convert.empty_text(foreign.text_encoder(), num_heads=2, activation="gelu", pad=0)
    np.testing.assert_allclose(params["params"]["empty_context" if prompt else "context"], empty, atol=2e-3)
    guided_networks.write_inn(tmp_path / "inn.safetensors", levels=1)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--method", "latent-indigo",
                 "--task", "sr", "--scale", "2", "--prior", prior, "--inn", inn, "--variant", "pixel", "--steps", "1",
                 "--autoencoder", vae]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (16, 16)
