"""Networks for INDIGO and LatentINDIGO that belong together, pictures degraded for them, and what a result leaves."""
import functools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval import bird, common
from indigo_jax import guided, latents, operators, restoration, rng, weights
from indigo_jax.typing import Array, Key

METHODS = guided.METHODS
DEFAULTS = {"indigo": ("faces64", "inn-pixel"), "latent-indigo": ("latent-faces", "inn-latent")}  # prior, inn
DEGRADATIONS = {"plain": "shrunk", "second-order": "degraded twice, shrunk", "unseen": "strong blur, shrunk, noise"}
_FACTOR = 4  # of the degradations for networks that keep the size


class Parts(NamedTuple):
    """What a method runs; ``autoencoder`` is None in pixels.

    Attributes:
        restoration: as ``indigo restore`` has it.
        prior, inn, autoencoder: :class:`common.Model`.
    """

    restoration: guided.IndigoRestoration
    prior: common.Model
    inn: common.Model
    autoencoder: common.Model | None

    @property
    def scale(self) -> int:
        return self.restoration.scale

    @property
    def side(self) -> int:
        """Of the pictures: the one that the prior has learned."""
        return self.restoration.bucket(*2 * (max(self.restoration.tile // self.scale, 1),))[0]

    @property
    def digest(self) -> str:
        """Digits of the SHA-256 of all weights."""
        return " ".join(part.info["sha256"][:12] for part in (self.prior, self.inn, self.autoencoder) if part)


def load(method: str, prior: str | None = None, inn: str | None = None, autoencoder: str | None = None) -> Parts:
    """Named weights or files; None is :data:`DEFAULTS`, and the autoencoder that the prior names.

    Errors:
        :class:`weights.WeightsError`, as :func:`guided.load`.
    """
    first, second = DEFAULTS[method]
    prior, inn = prior or first, inn or second
    whole = guided.load(method, prior=prior, inn=inn, autoencoder=autoencoder)
    of_prior = common.Model(*weights.load(prior))
    if method == "latent-indigo":
        autoencoder = autoencoder or of_prior.info["autoencoder"]["name"]
    return Parts(whole, of_prior, common.Model(*weights.load(inn)),
                 common.Model(*weights.load(autoencoder)) if autoencoder else None)


# ---------------------------------------------------------------------------------------------------- problems

class Problem(NamedTuple):
    """Pictures ``x`` ``[B, S, S, 3]``, their measurements ``y`` and keys ``[B]`` for what a method draws."""

    x: Array
    y: Array
    keys: Key


def degradation(name: str, scale: int):
    """An operator of :data:`DEGRADATIONS`; with ``scale`` 1 pictures are enlarged again."""
    factor, again = (scale, ()) if scale > 1 else (_FACTOR, (operators.upsample(_FACTOR), operators.clip()))
    if name == "second-order":
        return operators.realesrgan("kdsr", factor=factor, enlarge=scale == 1)
    blur, noise = operators.gaussian_blur(0.75 * factor), operators.gaussian_noise(sigma_255=20)
    before, after = ((blur,), (noise,)) if name == "unseen" else ((), ())
    return operators.compose(*before, operators.downsample(factor), *after, operators.quantize(), *again)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_problem(name: str, scale: int, x: Array, keys: Key) -> Problem:
    """What is drawn depends on a picture's key and the degradation's name."""
    own = rng.fold(keys, np.uint32(rng.name_id(name)))
    return Problem(x, degradation(name, scale)(x, keys=rng.fold(own, 0)), rng.fold(own, 1))


def problem_of(parts: Parts, pictures: common.Pictures, name: str, seed: int) -> Problem:
    """All pictures as one problem, at the side of the prior."""
    x = jnp.stack([jnp.asarray(bird.to_side(image, parts.side)) for image in pictures.images])
    return make_problem(name, parts.scale, x, rng.image_keys(seed, [rng.name_id(name) for name in pictures.names]))


def enlarged(parts: Parts, y: Array) -> Array:
    """The first estimate: bicubic."""
    return jnp.clip(operators.upsample(parts.scale)(y), -1, 1) if parts.scale > 1 else y


# ---------------------------------------------------------------------------------------------------- networks

def space_of(parts: Parts, params) -> latents.LatentSpace | None:
    """The latents, with parameters that may be traced."""
    return parts.autoencoder and latents.from_module(parts.autoencoder.module, params, parts.autoencoder.info)


def network_of(parts: Parts, params) -> restoration.InvertibleNetwork:
    """The invertible network, with parameters that may be traced."""
    def call(method, params, *arguments):
        return parts.inn.module.apply(params, *arguments, method=method)

    return restoration.InvertibleNetwork(functools.partial(call, "forward"), functools.partial(call, "inverse"), params)


def all_params(parts: Parts) -> tuple:
    """Of prior, invertible network and autoencoder: the first argument of a program."""
    return tuple(part and part.params for part in (parts.prior, parts.inn, parts.autoencoder))


def judge(parts: Parts) -> Callable:
    """``judge(x, y) -> (residuals [B], drifts [B] or None)`` of finished pictures, by the networks as they are loaded.

    The residual is the root mean square of ``y - c(x)`` in the units of the invertible network (pixels in [0, 1], or
    latents), the drift :func:`restoration.manifold_drift` of ``E(x)``.
    """
    @jax.jit
    def run(params, x, y):
        space, network = space_of(parts, params[2]), network_of(parts, params[1])
        cond = parts.inn.module.apply(params[1], y / 2 + 0.5, method="embed")
        latent = parts.restoration.variant == "latent"
        u, measured = (space.autoencoder.encode(a) if latent else a / 2 + 0.5 for a in (x, y))
        left = measured - network.forward(network.params, u, cond)[0]
        drift = space and restoration.manifold_drift(space.autoencoder.encode(x), space.autoencoder)
        return jnp.sqrt(jnp.mean(left**2, axis=(1, 2, 3))), drift

    return lambda x, y: run(all_params(parts), x, y)
