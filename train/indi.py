"""Train InDI: learn F(x_t, t) ~ E[x | x_t] from pairs of clean and degraded pictures.

    python -m train.indi --config train/configs/indi_photo_small.py --data PICTURES --workdir RUN

Paper: Delbracio & Milanfar, Inversion by Direct Iteration, TMLR 2023 (arXiv 2303.11435).
"""
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from indigo_jax import data, denoisers, losses, metrics, operators, paths, rng, samplers
from train import common, loop
from train.run_config import RunConfig

_DEGRADE, _LOSS, _GREY = 0, 1, 2  # what an image's key is folded with


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndiConfig(RunConfig):
    """One training run of InDI. Components (network, degradation) are made in the config file by their constructors."""

    model: tyro.conf.Suppress[Any]
    """A linen module: ``module.apply(params, x_t, t)`` (and y, if its ``condition_on_y`` is set)."""
    degradation: tyro.conf.Suppress[Any] = None
    """An operator that degrades clean pictures on the device, or None for data that comes in pairs."""
    tasks: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What the network will have learned, of: denoise, deblur, sr, jpeg."""

    margin: int = 16
    """Pixels around the crop that are degraded with it and cut off afterwards, so that no border is learned."""
    grey: float = 0.0
    """Share of the pictures that lose their colour before they are degraded: noisy or compressed grey files."""
    noise: Literal["none", "constant", "brownian", "bridge", "reverting"] = "constant"
    """The path's noise mode; "bridge" is that of I2SB, "reverting" that of IR-SDE. It travels with the weights."""
    eps: float = 0.01
    """Its level, in [-1, 1] units."""
    loss: Literal["l1", "l2"] = "l1"
    """Only l2 learns the conditional mean, on which the theory rests; l1 is usual in practice."""
    a: float = 1.0
    """Weight of t = 1 in p_a(t)."""

    def __post_init__(self):
        super().__post_init__()
        if self.noise != "none" and self.eps <= 0:
            raise ValueError(f"noise {self.noise!r} needs eps above 0, got {self.eps}; or say --noise none")


def noise_mode(config: IndiConfig) -> paths.NoiseMode:
    """The noise mode of the path."""
    return paths.noise_from_json({"name": config.noise, "eps": config.eps})


def inputs(config: IndiConfig) -> tuple:
    """Pictures and times, and for some networks measurements, to initialise them with."""
    image, t = jnp.zeros((1, config.crop, config.crop, 3)), jnp.ones(1)
    return (image, t, image) if getattr(config.model, "condition_on_y", False) else (image, t)


def make_pairs(config: IndiConfig, batch: dict, keys) -> tuple[jax.Array, jax.Array]:
    """A uint8 batch as (x, y) in ``[-1, 1]``; degrades it where the data is not in pairs."""
    x = loop.in_unit_range(batch["image"])
    if "measurement" in batch:
        y = loop.in_unit_range(batch["measurement"])
        if y.shape != x.shape:
            raise ValueError(f"measurements of shape {y.shape[1:3]} for pictures of {x.shape[1:3]}: enlarge them first")
        return x, y
    x = operators.some_grey(rng.fold(keys, _GREY), x, config.grey) if config.grey else x
    y = config.degradation(x, keys=rng.fold(keys, _DEGRADE))
    inner = slice(config.margin, config.margin + config.crop)
    return x[:, inner, inner], y[:, inner, inner]


def train_step(config: IndiConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step. Randomness comes from (seed, step, slot in the batch) alone."""
    pictures = {name: batch[name] for name in ("image", "measurement") if name in batch}
    model = loop.network(config)

    def loss_fn(params, pictures, keys, t):
        x, y = make_pairs(config, pictures, keys)
        conditioned = getattr(model, "condition_on_y", False)
        restorer = denoisers.restorer(functools.partial(model.apply, params), y=y if conditioned else None)
        return jnp.mean(losses.indi(restorer, x, y, rng.fold(keys, _LOSS), noise=noise_mode(config), loss=config.loss,
                                    t=t))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    t = losses.indi_times(rng.fold(rng.fold(keys, _LOSS), losses.TIME), a=config.a)  # one from each slice of the batch
    return loop.update(config, optimizer, state, loss_fn, pictures, keys, t)


def evaluation(config: IndiConfig, source):
    """Restores the same few held-out pictures every time: PSNR, its gain over the input, the pictures."""
    size = min(192, max(config.crop, 96)) // 32 * 32
    batch = next(data.evaluation_batches(source, batch_size=min(8, len(source)), crop=size + 2 * config.margin))
    keys = rng.image_keys(config.seed, batch["id"])
    x, y = jax.jit(functools.partial(make_pairs, dataclasses.replace(config, crop=size)))(
        {name: batch[name] for name in ("image", "measurement") if name in batch}, keys)

    @jax.jit
    def restore(params, y, keys):
        conditioned = getattr(config.model, "condition_on_y", False)
        restorer = denoisers.of(functools.partial(config.model.apply, params), config_to_json(config),
                                y=y if conditioned else None)
        kernel = samplers.indi(restorer, config.eval_steps, noise=noise_mode(config))
        return samplers.sample(kernel, keys, y)[0]

    def evaluate(params):
        out = restore(params, y, rng.fold(keys, _LOSS))  # other noise than that of the degradation
        shown = [np.asarray(a) for a in (y, out, x)]
        before, after = (metrics.psnr(a, shown[2]) for a in shown[:2])
        scores = {"eval_psnr": float(after.mean()), "eval_psnr_gain": float((after - before).mean())}
        return scores, [list(row) for row in zip(*shown)]

    return evaluate


COLUMNS, CAPTION = ("eval_psnr", "eval_psnr_gain"), "input, output, truth"
KEPT, FITTING = ("noise", "loss", "a"), ("noise",)


def open_data(config: IndiConfig, split: str):
    """The source of pictures; refuses a mix-up of paired data and a degradation."""
    source = data.open_source(config.data, split=split, cache=config.cache)
    common.check_pairs(config.data, paired="measurement" in source[0], degrades=config.degradation is not None)
    return source


def feed(config: IndiConfig, mesh, source) -> loop.Feed:
    """Crops, turned and mirrored at random, with a margin where they are degraded."""
    return loop.Feed(source, config.crop + 2 * config.margin * (config.degradation is not None))


def config_to_json(config: IndiConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    return common.description(config, kind="restorer", noise=paths.noise_to_json(noise_mode(config)), loss=config.loss,
                              a=config.a, range=[-1, 1], tasks=list(config.tasks), steps=config.eval_steps)


train, main = loop.train, functools.partial(loop.main, "train.indi")

if __name__ == "__main__":
    raise SystemExit(main())
