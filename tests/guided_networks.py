"""Tiny networks with made-up weights for INDIGO and LatentINDIGO, as files; nothing compiled.

Pixels: a prior of 16 x 16, invertible networks of scale 4 and 1. Latents: an autoencoder with 2 pixels per latent, a
prior of 16 x 16 pixels, invertible networks of scale 2.
"""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import models, schedules, weights

PRIOR = {"channels": 8, "multipliers": [1], "num_res_blocks": 1, "attention_resolutions": [], "image_size": 16,
         "num_groups": 4, "patch_size": 2}
INN = {"lifting_steps": 1, "width": 4, "num_blocks": 1, "cond_dim": 4, "cond_width": 4, "encoder_channels": 4,
       "encoder_blocks": 1}
SPACE = {"latent_channels": 2, "channels": 4, "levels": 1, "num_blocks": 1, "pool_channels": 0}
UNET = {"block_out_channels": [8], "has_attention": [True], "layers_per_block": 1, "num_heads": 2, "context_dim": 0,
        "in_channels": 2, "out_channels": 2, "num_groups": 4}


def write(path, architecture, arguments, *inputs, size=0.1, seed=0, **info):
    """A weights file of random parameters; ``inputs`` are shapes that the network takes. Returns its path."""
    module = getattr(models, architecture)(**{
        name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()})
    shapes = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs),
                            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs))
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: np.float32(size * random.standard_normal(leaf.shape)), shapes)
    weights.save(path, params, {"architecture": architecture, "arguments": arguments, "name": path.stem, **info})
    return path


def write_prior(path, prediction="eps", **info):
    """A prior of pixels."""
    return write(path, "DDPMUNet", PRIOR, (1, 16, 16, 3), (1,), prediction=prediction,
                 schedule=schedules.to_json("linear", num_timesteps=100), **info)


def write_inn(path, levels=2, channels=3, **options):
    """An invertible network; "autoencoder" among the options makes it one of latents."""
    info = {name: options.pop(name) for name in ("autoencoder", "scale") if name in options}
    scale = 1 if options.get("undecimated") else 2**levels
    arguments = {**INN, "levels": levels, "channels": channels, **({"offset": 0.0} if channels != 3 else {}), **options}
    return write(path, "GuidanceINN", arguments, (1, 8 * scale, 8 * scale, channels), (1, 8, 8, 3), size=0.05,
                 **{"scale": scale, **info})


def write_all(folder):
    """Every kind of them; returns ``{name: path}``."""
    files = {"prior": write_prior(folder / "prior.safetensors"), "inn": write_inn(folder / "inn.safetensors"),
             "same": write_inn(folder / "same.safetensors", levels=1, undecimated=True),
             "half": write_inn(folder / "half.safetensors", levels=1),
             "space": write(folder / "space.safetensors", "TinyAutoencoder", SPACE, (1, 16, 16, 3), size=0.2),
             "other": write(folder / "other.safetensors", "TinyAutoencoder", SPACE, (1, 16, 16, 3), seed=1)}
    space = {"name": str(files["space"]), "sha256": weights.verify(files["space"])["sha256"]}
    schedule = schedules.to_json("scaled_linear", num_timesteps=100)
    files["latents"] = write(folder / "latents.safetensors", "LatentUNet", UNET, (1, 8, 8, 2), (1,), prediction="v",
                             schedule=schedule, image_size=16, autoencoder=space)
    files["latent_inn"] = write_inn(folder / "latent_inn.safetensors", levels=1, channels=2, autoencoder=space)
    return files
