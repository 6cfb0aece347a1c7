"""Latents of named autoencoders: in the units of the diffusion, of one size, and never mixed up."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import methods, models, schedules, weights
from indigo_jax.weights import latents
from tests import networks

MODULES = {"TinyAutoencoder": models.TinyAutoencoder(latent_channels=2, channels=4, levels=1, num_blocks=1,
                                                     pool_channels=0, scaling_factor=0.5),
           "AutoencoderKL": models.AutoencoderKL((4, 8), layers_per_block=1, latent_channels=2, num_groups=2,
                                                 scaling_factor=0.25)}
every = pytest.mark.parametrize("name", MODULES)


def random_params(module, *inputs):
    """Parameters without zeros, nothing compiled."""
    inputs = inputs or (jax.ShapeDtypeStruct((1, module.factor, module.factor, 3), jnp.float32),)
    shapes = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs), *inputs)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(0.3 * random.standard_normal(leaf.shape)), shapes)


def described(module):
    """The ``info`` of its weights."""
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(module).items()
                 if key in module.__dataclass_fields__ and key not in ("parent", "name", "dtype")}
    return {"architecture": type(module).__name__, "arguments": arguments}


@every
def test_latents_are_those_of_the_module_times_its_factor(name, tmp_path):
    module = MODULES[name]
    weights.save(tmp_path / "ae.safetensors", random_params(module), described(module))
    loaded, params, info = weights.load(tmp_path / "ae.safetensors")
    assert loaded == module
    space = latents.load(tmp_path / "ae.safetensors")
    assert (space.factor, space.channels, space.info) == (module.factor, module.latent_channels, info)
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 8, 12, 3)), jnp.float32)

    @jax.jit
    def both(params, x):
        z = space.autoencoder.encode(x)
        return z, space.autoencoder.decode(z), module.apply(params, x, method="encode"), module.apply(params, x)

    z, back, moments, wanted = both(params, x)
    mean = moments[0] if name == "AutoencoderKL" else moments
    assert z.shape == (2, 4, 6, 2) and float(z.std()) > 1e-3
    np.testing.assert_allclose(z, {"TinyAutoencoder": 0.5, "AutoencoderKL": 0.25}[name] * mean, rtol=1e-5)
    np.testing.assert_allclose(back, wanted, atol=1e-5)


def test_a_network_that_is_no_autoencoder_is_refused(tmp_path):
    networks.write_weights(tmp_path / "net.safetensors")
    with pytest.raises(weights.WeightsError, match="net.safetensors: a network that restores directly .*, where an "
                                                   "autoencoder is needed"):
        latents.load(tmp_path / "net.safetensors")


def test_weights_of_other_latents_are_refused():
    module = MODULES["TinyAutoencoder"]
    space = latents.from_module(module, random_params(module), {"architecture": "TinyAutoencoder", "name": "mine",
                                                                "sha256": "a" * 64})
    assert latents.identity(space) == {"name": "mine", "sha256": "a" * 64}
    latents.check_same(space, {"autoencoder": latents.identity(space)})
    latents.check_same(space, {"name": "a pixel network"})
    latents.check_same(space, {"autoencoder": {"name": "renamed", "sha256": "a" * 64}})
    with pytest.raises(ValueError, match="prior was trained in the latents of theirs .sha256 bbb.*not of mine"):
        latents.check_same(space, {"name": "prior", "autoencoder": {"name": "theirs", "sha256": "b" * 64}})


LATENT_PRIOR = models.LatentUNet((8,), (False,), 1, num_heads=1, context_dim=0, num_groups=4)


@pytest.mark.parametrize("module, inputs, info, name, message", [
    (MODULES["TinyAutoencoder"], (), {}, "indi", "an autoencoder .for --autoencoder., where a network that restores "
                                                 "directly is needed"),
    (MODULES["TinyAutoencoder"], (), {}, "diffpir", "an autoencoder .*, where a diffusion prior of pictures is needed"),
    (LATENT_PRIOR, (jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)),
     {"schedule": schedules.to_json("linear", num_timesteps=10), "prediction": "v"}, "diffpir",
     "a diffusion prior of latents .for --method latent-indigo., where a diffusion prior of pictures is needed"),
])
def test_methods_of_pictures_refuse_networks_of_latents(tmp_path, module, inputs, info, name, message):
    weights.save(tmp_path / "a.safetensors", random_params(module, *inputs), {**described(module), **info})
    with pytest.raises(weights.WeightsError, match=message):
        methods.load(name, task="denoise", weights=tmp_path / "a.safetensors")


def test_a_module_that_is_no_autoencoder():
    with pytest.raises(weights.WeightsError, match="tiny: not an autoencoder but a RestorationUNet"):
        latents.from_module(networks.module(), networks.params(), networks.INFO)
