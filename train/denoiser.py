"""Train a denoiser that is told the noise level: the prior of photographs, for any size of picture.

    python -m train.denoiser --config train/configs/denoiser_photo.py --data PICTURES --workdir RUN

``D(x + sigma n, sigma) ~ E[x | x + sigma n]`` over levels from below one grey value to pure noise. Every sampler takes
it through :func:`indigo_jax.denoisers.from_sigma`.

Papers: Zhang et al., DRUNet, TPAMI 2021 (arXiv 2008.13751) for the network told the level; Karras et al., EDM, NeurIPS
2022 (arXiv 2206.00364) for denoisers as priors. Loss and mixture of noises are ours.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from indigo_jax import data, losses, metrics, operators, rng, schedules
from train import common, loop
from train.run_config import RunConfig

_NOISE, _GREY, _ROUND, _HOLES, _SEEN = range(5)  # what an image's key is folded with
_FILL = 16  # iterations of the cheap filling that holes begin with
UNSEEN = 1.0  # the level that the network is told there, in [-1, 1] units (our choice)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserConfig(RunConfig):
    """One training run of a denoiser. The network is made in the config file by its constructor."""

    sigma_min: float = 0.004
    """Least noise, standard deviation in [-1, 1] units."""
    sigma_middle: float = 0.6
    """Below it lie ``share`` of the levels, log-uniform; the rest lies above, log-uniform too."""
    sigma_max: float = 10.0
    """Most noise: nothing of the picture is left."""
    share: float = 0.75
    """Of the levels below ``sigma_middle``."""
    noises: tyro.conf.Suppress[tuple[tuple[str, float], ...]] = (("white", 1.0),)
    """Kinds of noise and their probabilities, see ``operators.photo_noise``."""
    grey: float = 0.0
    """Share of the pictures without colour; their noise is equal in all channels."""
    rounded: float = 0.0
    """Share of the noisy pictures that are clipped and rounded to 8 bits, as files are (below ``sigma_middle``)."""
    holes: float = 0.0
    """Share of the pictures of which parts are unseen: strokes, boxes, single pixels. They hold
    :func:`operators.smooth_fill`, and their level says so."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_middle < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min}, sigma_middle {self.sigma_middle}, sigma_max "
                             f"{self.sigma_max}: they must be above 0 and in this order")


def inputs(config: DenoiserConfig) -> tuple:
    """Pictures and levels, to initialise the network with."""
    return jnp.zeros((1, config.crop, config.crop, 3)), jnp.ones(1)


def seen_parts(keys, height: int, width: int):
    """Masks ``[B, height, width, 1]`` of what was seen: strokes (60 %), a box (20 %), single pixels (20 %) are not."""
    kind, share = rng.uniform(rng.fold(keys, 0)), rng.uniform(rng.fold(keys, 1))
    strokes = operators.random_stroke_mask(rng.fold(keys, 2), height, width)
    box = operators.random_box_mask(rng.fold(keys, 2), height, width, box_height=height // 5, box_width=width // 5)
    pixels = jax.vmap(jax.random.uniform, (0, None))(rng.fold(keys, 2), (height, width, 1))
    kind, share = kind[:, None, None, None], share[:, None, None, None]
    return jnp.where(kind < 0.6, strokes > 0, jnp.where(kind < 0.8, box > 0, pixels > 0.9 * share))


def make_noisy(config: DenoiserConfig, x, keys, sigma):
    """Clean pictures, noisy ones, and what the network is told of their level ``[B, H, W, 1]``."""
    x = operators.some_grey(rng.fold(keys, _GREY), x, config.grey)
    is_grey = jnp.all(x == x[..., :1], axis=(1, 2, 3))[:, None, None, None]
    noise, level = operators.photo_noise(rng.fold(keys, _NOISE), x, dict(config.noises))
    noise = jnp.where(is_grey, noise[..., :1], noise)
    noisy = x + sigma[:, None, None, None] * noise
    as_file = jnp.clip(jnp.round((noisy + 1) * 127.5), 0, 255) / 127.5 - 1
    is_file = (rng.uniform(rng.fold(keys, _ROUND)) < config.rounded) & (sigma < config.sigma_middle)
    noisy, level = jnp.where(is_file[:, None, None, None], as_file, noisy), sigma[:, None, None, None] * level
    if config.holes:
        whole = rng.uniform(rng.fold(keys, _HOLES)) >= config.holes
        seen = seen_parts(rng.fold(keys, _SEEN), *x.shape[1:3]) | whole[:, None, None, None]
        filled = operators.smooth_fill(noisy, seen.astype(noisy.dtype), num_iterations=_FILL)
        noisy, level = jnp.where(seen, noisy, filled), jnp.where(seen, level, UNSEEN)
    return x, noisy, level


def train_step(config: DenoiserConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step on uint8 pictures. Randomness comes from (seed, step, slot in the batch) alone."""
    def loss_fn(params, pictures, keys, sigma):
        x, noisy, level = make_noisy(config, loop.in_unit_range(pictures), keys, sigma)
        told = jnp.sqrt(jnp.mean(level**2, axis=(1, 2, 3)))
        apply = functools.partial(loop.network(config).apply, params)
        return jnp.mean(losses.denoising(apply, x, noisy, told, level))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    sigma = losses.noise_levels(rng.fold(keys, losses.TIME), config.sigma_min, config.sigma_middle, config.sigma_max,
                                share=config.share)
    return loop.update(config, optimizer, state, loss_fn, batch["image"], keys, sigma)


def evaluation(config: DenoiserConfig, source):
    """PSNR of held-out pictures at fixed levels of white noise, and their mean; pictures at sigma 25."""
    batch = next(data.evaluation_batches(source, batch_size=min(12, len(source)), crop=192))
    x = loop.in_unit_range(jnp.asarray(batch["image"]))
    noise = rng.normal(rng.image_keys(config.seed, batch["id"]), x)

    @jax.jit
    def denoise(params, noisy, sigma):
        return config.model.apply(params, noisy, jnp.full(noisy.shape[:1], sigma))

    def evaluate(params):
        scores = {}
        for level in LEVELS:
            noisy = x + level / 127.5 * noise
            out = denoise(params, noisy, level / 127.5)
            scores[f"eval_psnr_{level}"] = float(metrics.psnr(jnp.clip(out, -1, 1), x).mean())
            if level == 25:
                rows = [[np.clip(np.asarray(a), -1, 1) for a in row] for row in zip(noisy[:4], out[:4], x[:4])]
        return {"eval_psnr": sum(scores.values()) / len(scores), **scores}, rows

    return evaluate


LEVELS = (5, 15, 25, 50)  # of 255
COLUMNS = ("eval_psnr", *(f"eval_psnr_{level}" for level in LEVELS))
CAPTION = "noisy, denoised, clean"
KEPT, FITTING = ("schedule", "prediction"), ()
open_data = loop.open_pictures


def feed(config: DenoiserConfig, mesh, source) -> loop.Feed:
    """Crops, turned and mirrored at random."""
    return loop.Feed(source, config.crop)


def config_to_json(config: DenoiserConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    schedule = schedules.to_json("geometric", num_timesteps=1000, sigma_min=config.sigma_min,
                                 sigma_max=config.sigma_max)
    return common.description(config, schedule=schedule, prediction="sigma", range=[-1, 1])


train, main = loop.train, functools.partial(loop.main, "train.denoiser")

if __name__ == "__main__":
    raise SystemExit(main())
