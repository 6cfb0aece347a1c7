"""``--method latent-indigo``: INDIGO with a prior of the latents of an autoencoder."""
import dataclasses
import pathlib
from typing import Any

from indigo_jax import restoration, tiles, weights
from indigo_jax.methods import base, guided_chain
from indigo_jax.methods.flags import flag
from indigo_jax.methods.indigo import Indigo
from indigo_jax.weights import WeightsError, latents

_LATENT_TILE = 64  # latents that the autoencoder takes in one piece, along a side


class LatentIndigo(Indigo):
    """LatentINDIGO (You, Siromani and Dragotti); see :func:`restoration.latent_indigo`."""

    name = "latent-indigo"
    summary = "indigo with a prior of the latents of an autoencoder (a demonstration)"
    when = "as indigo, of larger portraits"
    kind_of_prior = "latent prior"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(guided_chain.Settings):
        prior: str = flag("latent-faces", "the diffusion prior", metavar="NAME|PATH", file="weights")
        inn: str | None = flag(  # type: ignore[assignment]
            None, "the invertible network that knows the damage (default: inn-latent, or inn-pixel)",
            metavar="NAME|PATH", file="weights")
        autoencoder: str | None = flag(None, "the autoencoder of the prior's latents (default: the one that --prior "
                                             "names)", metavar="NAME|PATH", file="weights")
        variant: str | None = flag(None, "what the invertible network sees; latent is faster (default: as --inn, or "
                                         "latent)", choices=("pixel", "latent"))
        guide_every: int = flag(1, "guide in one of so many steps", low=1, high=10_000, metavar="N")
        regularizer: Any = flag(None, "what keeps latents natural (default: trust-region)",
                                choices=tuple(guided_chain.REGULARIZERS))

    @classmethod
    def named_weights(cls, settings, task):
        inn = settings.inn or ("inn-pixel" if settings.variant == "pixel" else "inn-latent")
        autoencoder = _autoencoder_of(settings)
        return {**super().named_weights(settings, task), "inn": inn,
                **({} if autoencoder is None else {"autoencoder": autoencoder})}

    def load(self):
        self.settings = settings = dataclasses.replace(
            self.settings, inn=self.named_weights(self.settings, self.task)["inn"])
        self.networks = self.opened()
        prior, inn = self.networks["prior"], settings.inn
        name = settings.autoencoder or self.networks["autoencoder"].name
        self.variant = self._check_networks((settings.variant,) if settings.variant else ("pixel", "latent"))
        self.space = space = latents.from_module(*self.networks["autoencoder"])
        self.factor = space.factor
        network = self.networks["inn"]
        for path, info, channels in ((settings.prior, prior.info, self._channels()),
                                     (inn, network.info, network.module.channels)):
            try:
                latents.check_same(space, info)
            except ValueError as error:
                raise WeightsError(str(error)) from error
            if (path is settings.prior or "autoencoder" in info) and channels != space.channels:
                raise WeightsError(f"{path}: for latents of {channels} channels; those of {name} have {space.channels}")
        self._finish()

    def opened(self) -> dict[str, base.Network]:
        """Its networks by role, from their files."""
        settings = self.settings
        prior = base.open_network(settings.prior, self.kind_of_prior)
        name = _autoencoder_of(settings)
        if name is None:
            raise WeightsError(f"{settings.prior}: does not say of which autoencoder its latents are; give the "
                               "autoencoder")
        return {"prior": prior, "inn": base.open_network(settings.inn, "inn"),
                "autoencoder": base.open_network(name, "autoencoder")}

    def autoencoder(self, params):
        space = latents.from_module(self._fast(self.networks["autoencoder"].module), params[2], {})
        side = _LATENT_TILE if self.settings.tile is None else self.settings.tile // self.factor
        return tiles.tiled_autoencoder(space.autoencoder, factor=space.factor, tile=side, overlap=side // 4)

    def _kernel(self, denoiser, levels, network, y, estimate, params, options):
        space = self.autoencoder(params)
        kernel = restoration.latent_indigo(denoiser, levels, network, y, space, self.variant, **options,
                                           guide_every=self.chain.guide_every, regularizer=self.chain.regularizer)
        return space.encode(estimate), kernel


def _autoencoder_of(settings):
    """That of the settings, or the one that the prior names: beside its file, or among the weights; None."""
    name = settings.autoencoder or ((weights.info_of(settings.prior) or {}).get("autoencoder") or {}).get("name")
    if settings.autoencoder or not name or pathlib.Path(name).name != name:
        return name
    beside = pathlib.Path(settings.prior).with_name(f"{name}.safetensors")
    return str(beside) if pathlib.Path(settings.prior).is_file() and beside.is_file() else name
