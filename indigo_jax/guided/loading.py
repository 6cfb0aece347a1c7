"""Weights files as networks that belong together."""
from typing import Callable

from indigo_jax import latents, weights
from indigo_jax.guided.restoration import IndigoRestoration
from indigo_jax.weights import WeightsError

METHODS = ("indigo", "latent-indigo")
VARIANTS = ("pixel", "latent")


def load(method: str, *, prior, inn, autoencoder=None, variant: str | None = None,
         distance: Callable | None = None) -> IndigoRestoration:
    """The restoration by named weights or weights files; see :func:`weights.load`.

    Args:
        method: "indigo": all in pixels; "latent-indigo": the prior knows the latents of an autoencoder.
        prior: a diffusion prior.
        inn: a :class:`models.GuidanceINN`, of pixels or of latents.
        autoencoder: for "latent-indigo"; default: by the name that the prior keeps of it.
        variant: "pixel" or "latent", where the network must be of that kind; None takes either.
        distance: as of :func:`restoration.indigo`.

    Errors:
        :class:`weights.WeightsError`, one line: also for weights of another kind, of another autoencoder, or with
        other channels.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    of_prior, of_inn = weights.load(prior), weights.load(inn)
    _check_kinds(method, prior, of_prior, inn, of_inn, variant)
    if method == "indigo":
        if autoencoder is not None:
            raise ValueError("an autoencoder is for latent-indigo; leave it out")
        return IndigoRestoration(of_prior, of_inn, distance=distance)
    if autoencoder is None:
        if "autoencoder" not in of_prior[2]:
            raise WeightsError(f"{prior}: does not say of which autoencoder its latents are; give the autoencoder")
        autoencoder = of_prior[2]["autoencoder"]["name"]
    of_space = weights.load(autoencoder)
    space = latents.from_module(*of_space)
    for name, (module, _, info), channels in ((prior, of_prior, _channels(of_prior)),
                                              (inn, of_inn, getattr(of_inn[0], "channels", None))):
        try:
            latents.check_same(space, info)
        except ValueError as error:
            raise WeightsError(str(error)) from error
        if (name is prior or "autoencoder" in info) and channels != space.channels:
            raise WeightsError(f"{name}: for latents of {channels} channels; those of {autoencoder} have "
                               f"{space.channels}")
    return IndigoRestoration(of_prior, of_inn, of_space, distance=distance)


def _check_kinds(method, prior, of_prior, inn, of_inn, variant):
    """Refuse weights that are something else, or for something else, than they are given for."""
    info, (inn_module, _, inn_info) = of_prior[2], of_inn
    if "schedule" not in info:
        raise WeightsError(f"{prior}: not a diffusion prior but a {info['architecture']}; see: indigo weights list")
    if "scale" not in inn_info or not hasattr(inn_module, "undecimated"):
        raise WeightsError(f"{inn}: not an invertible network but a {inn_info['architecture']}; see: indigo weights "
                           "list")
    if getattr(of_prior[0], "context_dim", 0):
        raise WeightsError(f"{prior}: a prior that needs a text, which no method here gives it")
    scale = 1 if inn_module.undecimated else 2**inn_module.levels
    if inn_info["scale"] != scale:
        raise WeightsError(f"{inn}: its info says scale {inn_info['scale']}, its network has {scale}")
    of_latents = "autoencoder" in info or info["architecture"] == "LatentUNet"
    if of_latents != (method == "latent-indigo"):
        other = METHODS[of_latents]
        raise WeightsError(f"{prior}: a prior of {'latents' if of_latents else 'pixels'}; use --method {other}, or "
                           "another prior")
    found = "latent" if "autoencoder" in inn_info else "pixel"
    wanted = "pixel" if method == "indigo" else variant
    if wanted not in (None, found):
        raise WeightsError(f"{inn}: an invertible network of {found}s, where one of {wanted}s is needed; give another")
    if found == "pixel" and inn_module.channels != 3:
        raise WeightsError(f"{inn}: {inn_module.channels} channels and no autoencoder of their latents in its info; "
                           "pictures have 3")
    if method == "indigo" and _channels(of_prior) != 3:
        raise WeightsError(f"{prior}: for pictures of {_channels(of_prior)} channels, not 3")


def _channels(of_prior):
    module, _, info = of_prior
    return getattr(module, "out_channels", 3) // (2 if info.get("learned_variance") else 1)
