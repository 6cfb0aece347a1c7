"""Our weights as folders of diffusers: read back they are the same, and so is what a prior knows of its noise."""
import dataclasses
import json

import jax
import numpy as np
import pytest

from indigo_jax import convert, models, schedules, weights
from indigo_jax.cli import main
from indigo_jax.convert import kinds, to_diffusers
from tests import foreign, latent_unet_reference
from tests.test_convert import SMALL, torch_state

PRIOR = {"schedule": schedules.to_json("linear", num_timesteps=50), "prediction": "eps", "image_size": 32}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def save(path, module, params, **info):
    arguments = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)
                 if field.name not in ("parent", "name", "dtype")}
    weights.save(path, params, {"architecture": type(module).__name__, "arguments": arguments, **info}, dtype="float32")
    return str(path)


def latent(prompt=False):
    random = np.random.default_rng(0)
    context, empty = random.standard_normal((2, 5, 6))
    config = latent_unet_reference.config(latent_unet_reference.SMALL)
    module = models.PromptedUNet(**convert.latent_prior_arguments(config, context), prompt_scale=3.0 if prompt else 1.0)
    return module, convert.latent_prior(foreign.latent_unet(), config, context, empty if prompt else None)


def test_an_unconditional_prior_goes_and_comes_back(tmp_path, capsys):
    """The torch port's network becomes diffusers' own, which computes the same."""
    state = {name: np.ascontiguousarray(value) for name, value in torch_state(models.DDPMUNet(**SMALL), 32).items()}
    path = save(tmp_path / "p.safetensors", models.DDPMUNet(**SMALL), convert.ddpm_unet(state), **PRIOR)
    out = tmp_path / "folder"
    assert main(["weights", "export", path, "-o", str(out), "--to", "diffusers"]) == 0
    assert "config.json, diffusion_pytorch_model.safetensors, scheduler_config.json" in capsys.readouterr().out
    found = kinds.load(str(out))
    same(found.params, convert.diffusers_unet2d(foreign.unet2d(state), foreign.UNET2D))
    assert found.module == models.UNet2D(**convert.diffusers_unet2d_arguments(foreign.UNET2D))
    assert found.info["schedule"] == PRIOR["schedule"] and found.info["prediction"] == "eps" and not found.notes
    again = save(tmp_path / "q.safetensors", found.module, found.params, **PRIOR)
    assert main(["weights", "export", again, "-o", str(out)]) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
    assert main(["weights", "export", again, "-o", str(tmp_path / "second")]) == 0
    same(kinds.load(str(tmp_path / "second")).params, found.params)


def test_an_autoencoder_goes_and_comes_back(tmp_path):
    params = convert.diffusers_vae(foreign.autoencoder_kl(), num_groups=4)
    module = models.AutoencoderKL(**convert.diffusers_vae_arguments(foreign.autoencoder_kl(), num_groups=4),
                                  scaling_factor=0.3)
    path = save(tmp_path / "v.safetensors", module, params)
    assert main(["weights", "export", path, "-o", str(tmp_path / "vae")]) == 0
    found = kinds.load(str(tmp_path / "vae"))
    same(found.params, params)
    assert found.module == module and not (tmp_path / "vae" / "scheduler_config.json").exists()


@pytest.mark.parametrize("prompt", [False, True])
def test_a_prior_of_latents_goes_with_its_text(tmp_path, prompt):
    module, params = latent(prompt)
    path = save(tmp_path / "p.safetensors", module, params, **{**PRIOR, "prediction": "v"})
    out = tmp_path / "folder"
    assert main(["weights", "export", path, "-o", str(out)]) == 0
    names = {"context": "empty_context.npy", "prompt": "context.npy"} if prompt else {"context": "context.npy"}
    found = kinds.load(str(out), options=kinds.Options(**{key: str(out / name) for key, name in names.items()},
                                                       **({"prompt_scale": 3.0} if prompt else {})))
    same(found.params, params)
    assert found.module == module and found.info["prediction"] == "v"


def test_schedules_that_diffusers_does_not_name(tmp_path):
    cosine = {"schedule": schedules.to_json("cosine", num_timesteps=20), "prediction": "x0"}
    config = to_diffusers.scheduler_config(cosine)
    alphas = np.cumprod(1 - np.asarray(config["trained_betas"]))
    np.testing.assert_allclose(alphas, schedules.from_json(cosine["schedule"]).alpha_bar, rtol=1e-4, atol=1e-7)
    assert config["prediction_type"] == "sample" and json.dumps(config)
    info, _ = kinds.schedule_of(config, kinds.Options())
    np.testing.assert_allclose(schedules.from_json(info["schedule"]).alpha_bar, alphas, rtol=1e-4, atol=1e-7)
    assert to_diffusers.scheduler_config({**cosine, "prediction": "sigma"}) is None
    assert to_diffusers.scheduler_config({}) is None


def test_networks_that_diffusers_does_not_have(tmp_path, capsys):
    path = save(tmp_path / "d.safetensors", models.DRUNet(**convert.drunet_arguments(foreign.drunet())),
                convert.drunet(foreign.drunet()), **{**PRIOR, "prediction": "sigma"}, kind="prior")
    assert main(["weights", "export", path, "-o", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "a DRUNet is no network of diffusers" in said and said.count("\n") == 1 and not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="folded pixels"):
        to_diffusers.to_diffusers(models.DDPMUNet(**SMALL, patch_size=2), {"params": {}}, {})
