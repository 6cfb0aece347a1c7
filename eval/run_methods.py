"""What ``eval.run`` can restore with. A method is a function of the config; a config file may bring its own."""
import functools
import types
from typing import Any, Callable, NamedTuple

import jax.numpy as jnp

from eval import common
from eval.bird import as_prior
from indigo_jax import denoisers, operators, pipeline, prior, restoration, samplers, schedules, weights
from indigo_jax.typing import Params

_BIRD = {"denoise": "denoise", "deblur": "deblur", "motion": "deblur"}  # tasks of degradations, and of BIRD


class Method(NamedTuple):
    """A way to restore pictures, ready to run.

    Attributes:
        params: a tree of arrays; every device holds the whole.
        identity: JSON of all that its results depend on, beside the code and what the config says for every method.
        plan: ``plan(height, width) -> pipeline.Plan``: the canvas for a picture, one of few.
        restore: ``restore(params, y, keys, layout) -> x``, pure and image by image: ``y`` and ``x`` are
            ``[B, *layout.canvas, 3]`` in [-1, 1], ``keys`` ``[B]``.
    """

    params: Params
    identity: dict[str, Any]
    plan: Callable
    restore: Callable


def indi(config) -> Method:
    """InDI with the noise mode of the weights, ``config.steps`` steps and ``config.spacing``.

    Errors:
        :class:`weights.WeightsError` for weights that cannot be used, or of a diffusion prior.
    """
    model = _load(config, is_prior=False)
    noise = schedules.noise_from_json(model.info["noise"])
    times = schedules.indi_times(config.steps, config.spacing)
    conditioned = getattr(model.module, "condition_on_y", False)

    def restore(params, y, keys, layout):
        network = pipeline.tiled(functools.partial(model.module.apply, params), layout)
        restorer = denoisers.restorer(network, noise=noise, y=y if conditioned else None)
        return samplers.sample(samplers.indi(restorer, times, noise=noise), keys, y)[0]

    identity = {"weights": model.info["sha256"], "steps": config.steps, "spacing": config.spacing}
    return Method(model.params, identity, pipeline.plan, restore)


def bird(config) -> Method:
    """BIRD as ``indigo restore --method bird`` has it: denoising, its level estimated; deblurring without the kernel.

    Args:
        config: with the weights of a diffusion prior, and degradations that are all noise or all blur.

    Errors:
        :class:`weights.WeightsError` for other weights; ValueError for other degradations.
    """
    model = _load(config, is_prior=True)
    tasks = {_BIRD.get(degradation.task) for degradation in config.chosen()}
    if len(tasks) != 1 or None in tasks:
        raise ValueError(f"BIRD is measured on one of denoise, or deblur and motion; choose with --tasks, not "
                         f"{', '.join(degradation.task for degradation in config.chosen()) or 'pairs'}")
    task, = tasks

    def restore(params, y, keys, layout):
        def network(params, x, t):
            return pipeline.tiled(functools.partial(model.module.apply, params), layout)(x, t)

        found = as_prior(model._replace(module=types.SimpleNamespace(apply=network)), params)
        if task == "deblur":
            return restoration.deblur(found, y, keys).x
        sigma = jnp.maximum(restoration.noise_level(y), 0.005)
        return restoration.bird_restore(found, operators.compose(), y, keys, settings=restoration.DEFAULT["denoise"],
                                        sigma=sigma).x

    return Method(model.params, {"weights": model.info["sha256"]}, prior.PriorRestoration(*model).plan, restore)


def _load(config, *, is_prior):
    model = common.Model(*weights.load(config.weights))
    if ("schedule" in model.info) != is_prior:
        kinds = "a network that restores directly", "a diffusion prior"
        raise weights.WeightsError(f"--weights {config.weights}: {kinds[not is_prior]}, but this config needs "
                                   f"{kinds[is_prior]}")
    return model
