"""What ``indigo restore --method latent-indigo`` costs with networks of any size: the method's own program, no weights.
"""
import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import tyro

from indigo_jax import methods, rng, weights
from indigo_jax.methods import base

_LatentIndigo = methods.METHODS["latent-indigo"]
_USUAL_SHARE = 0.75  # of a GPU's memory that jax takes unless it is told otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Networks and the settings of a restoration. Networks are linen modules, made in the config file."""

    model: tyro.conf.Suppress[Any]
    """The prior of latents."""
    autoencoder: tyro.conf.Suppress[Any]
    """Of its latents."""
    inn: tyro.conf.Suppress[Any]
    """A :class:`models.GuidanceINN`, of pixels, or of latents where it has as many channels as they."""
    schedule: tyro.conf.Suppress[dict]
    """Of the prior, as :func:`schedules.to_json` has it."""
    prediction: str = "eps"
    """Of the prior."""
    learned: int = 512
    """Side of the pictures that the prior has learned, in pixels."""

    crop: int = 512
    """Side of a restored picture in pixels."""
    batch_size: int = 1
    """Pictures over all chips."""
    steps: int = 100
    """Of the sampler."""
    gradient: Literal["full", "truncated"] = "full"
    """Of the guidance: through the prior, or past it."""
    guide_every: int = 1
    """Guide in one of so many steps."""
    tile: int = 0
    """Side of the pieces that prior and autoencoder see, in pixels; 0: the side that the prior has learned."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which prior and autoencoder compute and are held."""

    fsdp: ClassVar[int] = 1
    accumulate: ClassVar[int] = 1


class _Planned(_LatentIndigo):
    """The method with networks that are shapes alone, for devices of a platform that need not be here."""

    platform = None

    def __init__(self, config, platform):
        self.platform, self._config = platform, config
        settings = self.Settings(
            prior="the prior", autoencoder="the autoencoder", inn="the invertible network", steps=config.steps,
            gradient=config.gradient, guide_every=config.guide_every, tile=config.tile or None,
            precision=config.precision)
        inn = config.inn
        scale = 1 if inn.undecimated else 2**inn.levels
        super().__init__(settings, task="auto" if scale == 1 else "sr", scale=None if scale == 1 else scale)

    def opened(self):
        config = self._config
        factor, channels = config.autoencoder.factor, config.autoencoder.latent_channels
        scale = 1 if config.inn.undecimated else 2**config.inn.levels
        identity = {"name": "the autoencoder", "sha256": "planned"}
        prior = {"schedule": config.schedule, "prediction": config.prediction, "image_size": config.learned,
                 "autoencoder": identity}
        inn = {"scale": scale, **({} if config.inn.channels == 3 else {"autoencoder": identity})}
        side = config.learned // factor
        return {
            "prior": _shapes(config.model, prior, (1, side, side, channels), (1,)),
            "inn": _shapes(config.inn, inn, (1, 8 * scale, 8 * scale, config.inn.channels), (1, 8, 8, 3)),
            "autoencoder": _shapes(config.autoencoder, identity, (1, 8 * factor, 8 * factor, 3))}


def _shapes(module, info, *inputs):
    params = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs),
                            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs))
    return base.Network(module, params, {"architecture": type(module).__name__, "sha256": "planned", **info})


def make(config: GuidedConfig, *, steps: int | None, platform: str):
    """``(function, params, batch, facts)``: ``function(params, batch)`` restores pictures, whose shapes these are.

    Args:
        steps: in place of the config's.
        platform: of the devices: what runs on a CPU is not always what runs elsewhere.

    Errors:
        ValueError for networks or settings that do not fit together.
    """
    config = config if steps is None else dataclasses.replace(config, steps=steps)
    try:
        method = _Planned(config, platform)
        plan = method.plan(config.crop, config.crop)
    except weights.WeightsError as error:
        raise ValueError(str(error)) from error
    side = config.crop // method.scale
    if plan.canvas != (config.crop, config.crop) or config.crop % method.scale:
        raise ValueError(f"crop {config.crop}: pictures of this side are restored on a canvas of {plan.canvas[1]} x "
                         f"{plan.canvas[0]}; use {plan.canvas[0]}")
    batch = (jax.ShapeDtypeStruct((config.batch_size, side, side, 3), jnp.float32),
             jax.eval_shape(lambda: rng.image_keys(0, jnp.arange(config.batch_size))))

    def restore(params, y, keys):
        return method.solve(params, y, keys, plan=plan, given={})

    prior = method.networks["prior"]
    call = jax.jit(prior.module.apply).lower(
        prior.params, jax.ShapeDtypeStruct(method.piece(plan), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32))
    calls = method.chain.evaluations * plan.count
    parameters = {role: sum(leaf.size for leaf in jax.tree.leaves(network.params))
                  for role, network in method.networks.items()}
    return restore, method.params, batch, {"steps": config.steps, "calls": calls, "tiles": plan.count,
                                           "call_flops": float(call.cost_analysis()["flops"]),
                                           "parameters": parameters}


def advice(config: GuidedConfig, row: dict) -> list[str]:
    """What to change for a plan that needs too much memory, the cheapest first; [] where there is nothing to say.

    Args:
        row: of :func:`plan.plan`.
    """
    total, available = row["memory"]["total"], row["memory"]["available"]
    if row["fits"] is None:
        return []
    said = []
    if row["fits"] and row["estimated"] and total > _USUAL_SHARE * available:
        said.append("set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95: jax takes three quarters of a GPU's memory unless told")
    if row["fits"]:
        return said
    if row["pictures_per_chip"] > 1:
        said.append("fewer pictures per chip: the activations of each come on top")
    if config.precision == "float32":
        said.append("--precision bfloat16: half of the weights and activations of prior and autoencoder")
    if config.gradient == "full":
        said.append("--gradient truncated: nothing of the prior is kept for a gradient; the guidance goes past it")
    tile = config.tile or config.learned
    if tile // 2 % config.autoencoder.factor == 0 and tile > config.learned // 4:
        said.append(f"--tile {tile // 2}: prior and autoencoder see smaller pieces, one after the other; more calls")
    if config.inn.channels == 3:
        said.append("an invertible network of latents (its channels those of the latents): no picture is decoded "
                    "while it is guided")
    return said
