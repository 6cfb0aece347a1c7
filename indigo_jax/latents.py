"""The latents of a named autoencoder in the units of the diffusion, and whether a network was trained in them."""
from typing import NamedTuple

from indigo_jax import weights
from indigo_jax.typing import Array, Autoencoder, Image, Params


class LatentSpace(NamedTuple):
    """An autoencoder ready for latent diffusion; see :func:`load`.

    Attributes:
        autoencoder: E and D. ``encode`` gives ``scaling_factor z``, ``decode`` takes it; both are deterministic, of a
            distribution the mode. Pictures have sides divisible by ``factor``, and are not clipped.
        factor: pixels per latent, along a side.
        channels: of a latent.
        info: what travels with the weights: architecture, sha256, ...
    """

    autoencoder: Autoencoder
    factor: int
    channels: int
    info: dict


def load(name_or_path) -> LatentSpace:
    """The latents of an autoencoder by named weights or a weights file; see :func:`weights.load`.

    Errors:
        :class:`weights.WeightsError`, also for a network that is no autoencoder.
    """
    return from_module(*weights.load(name_or_path))


def from_module(module, params: Params, info: dict) -> LatentSpace:
    """The latents of an autoencoder with its weights, as :func:`weights.load` gives them.

    Args:
        module: a :class:`models.TinyAutoencoder`, :class:`models.AutoencoderKL` or another network with ``encode``,
            ``decode``, ``factor``, ``latent_channels`` and ``scaling_factor``.
        params: its variables; in a compiled program, pass them as an argument of it, or they become part of it.
        info: becomes that of the result.

    Errors:
        :class:`weights.WeightsError` for a network that is no autoencoder.
    """
    if not hasattr(module, "latent_channels"):
        name = info.get("name") or "these weights"
        raise weights.WeightsError(f"{name}: not an autoencoder but a {type(module).__name__}; see: indigo weights "
                                   "list")

    def encode(x: Image) -> Array:
        z = module.apply(params, x, method="encode")
        return module.scaling_factor * (z[0] if isinstance(z, tuple) else z)

    def decode(z: Array) -> Image:
        return module.apply(params, z / module.scaling_factor, method="decode")

    return LatentSpace(Autoencoder(encode, decode), module.factor, module.latent_channels, info)


def identity(space: LatentSpace) -> dict:
    """``{"name", "sha256"}`` of the autoencoder: what a prior or an invertible network of its latents keeps of it."""
    return {"name": space.info.get("name", space.info["architecture"]), "sha256": space.info["sha256"]}


def check_same(space: LatentSpace, info: dict) -> None:
    """Refuse weights that know the latents of another autoencoder; those that name none are not judged.

    Args:
        space: the latents at hand.
        info: of a diffusion prior or an invertible network, from :func:`weights.load`.

    Errors:
        ValueError, one line with the names of both autoencoders.
    """
    wanted, found = info.get("autoencoder"), space.info.get("sha256")
    if wanted is None or found is None or wanted["sha256"] == found:
        return
    name = info.get("name", "these weights")
    raise ValueError(f"{name} was trained in the latents of {wanted['name']} (sha256 {wanted['sha256'][:12]}...), not "
                     f"of {space.info.get('name', 'this autoencoder')} ({found[:12]}...): give that autoencoder")
