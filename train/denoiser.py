"""Train a denoiser that is told the noise level: the prior of photographs, for any size of picture.

    python -m train.denoiser --config train/configs/denoiser_photo.py --data PICTURES --workdir RUN

``D(x + sigma n, sigma) ~ E[x | x + sigma n]`` over levels from below one grey value to pure noise. Every sampler takes
it through :func:`indigo_jax.denoisers.from_sigma`.

Runs on one CPU, one GPU or a pod slice with the same command, and goes on after an interruption, as ``train.diffusion``
does.

Papers: Zhang et al., DRUNet, TPAMI 2021 (arXiv 2008.13751) for the network told the level; Karras et al., EDM, NeurIPS
2022 (arXiv 2206.00364) for denoisers as priors. Loss and mixture of noises are ours.
"""
import dataclasses
import functools
import pathlib
import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from indigo_jax import data, denoisers, images, losses, metrics, operators, rng, schedules, sharding
from train import common, loop
from train.run_config import RunConfig

_NOISE, _GREY, _ROUND, _HOLES, _SEEN = range(5)  # what an image's key is folded with
_FILL = 16  # iterations of the cheap filling that holes begin with


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
    """Share of the pictures of which parts are unseen: strokes, boxes, single pixels; see ``denoisers.UNSEEN``."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after the warm-up."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_middle < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min}, sigma_middle {self.sigma_middle}, sigma_max "
                             f"{self.sigma_max}: they must be above 0 and in this order")


# ---------------------------------------------------------------------------------------------------- one step

def make_optimizer(config: DenoiserConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and the config's decay."""
    return loop.make_optimizer(config, decay=config.decay)


def init_state(config: DenoiserConfig, optimizer: optax.GradientTransformation) -> loop.TrainState:
    """Fresh state; a pure function of the seed, to be jitted."""
    x = jnp.zeros((1, config.crop, config.crop, 3))
    return loop.fresh_state(config.model.init(jax.random.key(config.seed), x, jnp.ones(1)), optimizer)


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
        noisy, level = jnp.where(seen, noisy, filled), jnp.where(seen, level, denoisers.UNSEEN)
    return x, noisy, level


def train_step(config: DenoiserConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step on uint8 pictures. Randomness comes from (seed, step, slot in the batch) alone."""
    model = loop.network(config)

    def loss_fn(params, pictures, keys, sigma):
        x, noisy, level = make_noisy(config, loop.in_unit_range(pictures), keys, sigma)
        told = jnp.sqrt(jnp.mean(level**2, axis=(1, 2, 3)))
        return jnp.mean(losses.denoising(functools.partial(model.apply, params), x, noisy, told, level))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    sigma = losses.noise_levels(rng.fold(keys, losses.TIME), config.sigma_min, config.sigma_middle, config.sigma_max,
                                share=config.share)
    return loop.update(config, optimizer, state, loss_fn, batch["image"], keys, sigma)


# ---------------------------------------------------------------------------------------------------- evaluation

class Evaluation:
    """PSNR of held-out pictures at fixed levels of white noise, and a picture of noisy | denoised | clean at 25."""

    levels = (5, 15, 25, 50)  # of 255
    columns = ("eval_psnr", *(f"eval_psnr_{level}" for level in levels))
    caption = "noisy, denoised, clean"

    def __init__(self, config: DenoiserConfig, source, count: int = 12):
        batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)), crop=192))
        self.x = loop.in_unit_range(jnp.asarray(batch["image"]))
        self.noise = rng.normal(rng.image_keys(config.seed, batch["id"]), self.x)

        @jax.jit
        def denoise(params, noisy, sigma):
            return config.model.apply(params, noisy, jnp.full(noisy.shape[:1], sigma))

        self.denoise = denoise

    def __call__(self, params, path: pathlib.Path) -> tuple[dict, np.ndarray]:
        """Scores, and the picture, also written to ``path``."""
        scores = {}
        for level in self.levels:
            noisy = self.x + level / 127.5 * self.noise
            out = self.denoise(params, noisy, level / 127.5)
            scores[f"eval_psnr_{level}"] = float(metrics.psnr(jnp.clip(out, -1, 1), self.x).mean())
            if level == 25:
                rows = [[np.clip(np.asarray(a), -1, 1) for a in row] for row in zip(noisy[:4], out[:4], self.x[:4])]
        pixels = images.grid(rows)
        images.write(path, pixels)
        return {"eval_psnr": sum(scores.values()) / len(scores), **scores}, loop.as_pixels(pixels)

    def describe(self, scores: dict) -> str:
        """The scores in one line."""
        return ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())


# ---------------------------------------------------------------------------------------------------- the run

def open_data(config: DenoiserConfig, split: str):
    """The source of pictures; refuses pairs."""
    return loop.open_pictures(config, split, "a denoiser learns from pictures alone")


def config_to_json(config: DenoiserConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    fields = {name: value for name, value in vars(config).items() if name != "model"}
    schedule = schedules.to_json("geometric", num_timesteps=1000, sigma_min=config.sigma_min,
                                 sigma_max=config.sigma_max)
    holes = {"unseen": denoisers.UNSEEN} if config.holes else {}
    return {**common.module_to_json(config.model), "schedule": schedule, "prediction": "sigma", "range": [-1, 1],
            **holes, "code": common.code_version(), "config": fields}


def train(config: DenoiserConfig, mesh: jax.sharding.Mesh | None = None) -> loop.TrainState:
    """Run (or continue) a training on a mesh (default: all devices) and return its final state."""
    mesh = sharding.mesh(fsdp=config.fsdp) if mesh is None else mesh
    loop.check(config, mesh)
    source, optimizer = open_data(config, "train"), make_optimizer(config)
    return loop.run(
        config, mesh=mesh, source=source, crop=config.crop,
        init_state=functools.partial(init_state, config, optimizer),
        train_step=functools.partial(train_step, config, optimizer),
        description=config_to_json(config), identity=("architecture", "arguments", "schedule", "prediction"),
        start_from=lambda state, mesh: loop.state_from_weights(config, state, mesh, lambda info: None),
        evaluation=lambda: Evaluation(config, loop.held_out(functools.partial(open_data, config))),
        columns=Evaluation.columns)


def main(argv=None) -> int:
    """Command line; see the module's text."""
    return loop.main("train.denoiser", train, argv)


if __name__ == "__main__":
    sys.exit(main())
