"""The programs that a plan compiles: a script's own train step and its sampler, BIRD, or LatentINDIGO, for shapes
instead of arrays.

See :mod:`train.loop` for how a script is found and what it has, :mod:`train.plan_guided` for LatentINDIGO.
"""
import functools
import math
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules, sharding
from train import latent, loop, plan_guided

WHAT = ("train", "sample", "bird", "guided")


class Program(NamedTuple):
    """What is compiled.

    Attributes:
        jitted: a jitted function.
        arguments: shapes with shardings.
        memory: bytes of each part of the arguments per chip, by name.
        facts: what else to say about it.
    """

    jitted: Callable
    arguments: tuple
    memory: dict[str, float]
    facts: dict[str, Any]


def make(config, devices, what: str | None, *, steps: int | None = None, platform: str | None = None) -> Program:
    """The program of a config for devices that need not exist.

    Args:
        what: "train": one optimiser step. "sample": the sampler of the script's evaluation, all steps. "bird": all
            iterations of blind deblurring with the config's prior. "guided": LatentINDIGO, all steps, of a
            :class:`plan_guided.GuidedConfig`, which has nothing else. None: "guided" or "train".
        steps: of the sampler, or iterations of BIRD; default: the config's, or 60.
        platform: what the program is for, where these devices only stand for it; default: their own.

    Errors:
        ValueError for a batch that the devices cannot share, or a config that has no such program.
    """
    mesh = sharding.mesh(devices, fsdp=config.fsdp)
    sharding.check_batch_size(config.batch_size, mesh, parts=config.accumulate)
    if isinstance(config, plan_guided.GuidedConfig):
        if what in (None, "guided"):
            return _guided(config, mesh, steps, platform or devices[0].platform)
        raise ValueError(f"{what}: a {type(config).__name__} has no such program; leave --what out")
    if what in (None, "train"):
        return _train(config, mesh)
    if what == "sample" and hasattr(config, "noise"):
        return _indi(config, mesh, steps or config.eval_steps)
    if what == "sample" and hasattr(config, "prediction"):
        return _ddim(config, mesh, steps or config.eval_steps)
    if what == "bird" and hasattr(config, "prediction") and not config.autoencoder:
        return _bird(config, mesh, steps or 60)
    raise ValueError(f"{what}: a {type(config).__name__} has no such program; see --what train")


def bytes_per_chip(tree) -> float:
    """Of arrays, or shapes with shardings: what each chip holds of them."""
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                     for leaf in jax.tree.leaves(tree)))


def _on(tree, shardings):
    """Shapes with shardings."""
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings), tree)
    return jax.tree.map(lambda leaf, place: _on(leaf, place), tree, shardings)


def _train(config, mesh):
    optimizer = loop.make_optimizer(config)
    state = jax.eval_shape(functools.partial(loop.init_state, config, optimizer))
    shardings = sharding.parameter_shardings(state, mesh, rules=config.sharding_rules)
    arguments = _on(state, shardings), _on(_batch(config), sharding.batch_sharding(mesh))
    step = loop.jit_step(functools.partial(loop.script(config).train_step, config, optimizer), mesh, shardings)
    memory = {"parameters": bytes_per_chip(arguments[0].params), "optimizer": bytes_per_chip(arguments[0].opt_state),
              "average": bytes_per_chip(arguments[0].ema), "batch": bytes_per_chip(arguments[1])}
    return Program(step, arguments, memory, {"steps": 1})


def _batch(config):
    """What a train step gets: pixels, or what the program of a frozen autoencoder makes of them."""
    if getattr(config, "autoencoder", None):
        batch = {"image": _pictures(config)}
        if hasattr(config, "degradation"):
            small = config.crop // config.scale
            batch["coarse"], measurement = _pictures(config, small), (config.batch_size, small, small, 3)
            batch["measurement"] = jax.ShapeDtypeStruct(measurement, jnp.float32)
        return batch
    degrades = getattr(config, "degradation", None) is not None
    side = config.crop + 2 * getattr(config, "margin", 0) * degrades
    pixels = jax.ShapeDtypeStruct((config.batch_size, side, side, 3), jnp.uint8)
    return dict.fromkeys(["image"] if degrades or not hasattr(config, "degradation") else ["image", "measurement"],
                         pixels)


def _sampler(config, mesh, function, **facts):
    """``function(params, x, keys)`` as ``eval.run`` runs samplers: whole parameters everywhere, each device for its own
    pictures or latents x."""
    state = jax.eval_shape(functools.partial(loop.init_state, config, loop.make_optimizer(config)))
    batch = _pictures(config), jax.eval_shape(lambda: rng.image_keys(0, jnp.arange(config.batch_size)))
    return _per_device(mesh, function, state.params, batch, facts)


def _guided(config, mesh, steps, platform):
    """LatentINDIGO, each device for its own pictures."""
    return _per_device(mesh, *plan_guided.make(config, steps=steps, platform=platform))


def _per_device(mesh, function, params, batch, facts):
    params, batch = _on(params, sharding.replicated(mesh)), _on(batch, sharding.batch_sharding(mesh))
    program = jax.jit(sharding.per_device(lambda params, batch: function(params, *batch), mesh))
    return Program(program, (params, batch), {"parameters": bytes_per_chip(params), "batch": bytes_per_chip(batch)},
                   facts)


def _pictures(config, side=None):
    """Or latents, where the config has them."""
    return jax.ShapeDtypeStruct((config.batch_size, *latent.shape(config, side or config.crop)), jnp.float32)


def _of(config, params, **options):
    """What samplers take, of a config's network."""
    info = loop.script(config).config_to_json(config)
    return denoisers.of(functools.partial(loop.network(config).apply, params), info, **options)


def _indi(config, mesh, steps):
    def restore(params, y, keys):
        restorer = _of(config, params, y=y if getattr(config.model, "condition_on_y", False) else None)
        return samplers.sample(samplers.indi(restorer, steps, noise=restorer.noise), keys, y)[0]

    return _sampler(config, mesh, restore, steps=steps)


def _ddim(config, mesh, steps):
    spacing = "leading" if config.prediction == "eps" else "trailing"

    def draw(params, z, keys):
        prior = _of(config, params, clip=not config.autoencoder)
        kernel = samplers.ddim(prior.denoiser, schedules.respace(prior.schedule, steps, spacing))
        return samplers.sample(kernel, keys, z)[0]

    return _sampler(config, mesh, draw, steps=steps)


def _bird(config, mesh, iterations, num_levels=5):
    operator = operators.blind_blur(13 if config.crop < 128 else 41)

    def deblur(params, y, keys):
        prior = _of(config, params)
        levels = schedules.respace(prior.schedule, num_levels, "linspace")
        kernel = restoration.bird(prior.denoiser, levels, operator, y,
                                  restoration.bird_optimizer(num_iterations=iterations), num_iterations=iterations)
        return samplers.sample(kernel, keys, keys)[0]

    return _sampler(config, mesh, deblur, steps=iterations, levels=num_levels)
