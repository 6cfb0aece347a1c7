"""Train a diffusion prior: a network that takes the noise out of pictures at every level of a schedule.

    python -m train.diffusion --config train/configs/diffusion_faces64.py --data PICTURES --workdir RUN

With an autoencoder, frozen, what is learned is its latents (Rombach et al., CVPR 2022, arXiv 2112.10752).

Papers: Ho, Jain & Abbeel, DDPM, NeurIPS 2020 (arXiv 2006.11239); Nichol & Dhariwal, ICML 2021 (arXiv 2102.09672) for
the cosine schedule and learned variances; Salimans & Ho, ICLR 2022 (arXiv 2202.00512) for v; Liu, Gong & Liu, ICLR 2023
(arXiv 2209.03003) for flow; Karras et al., NeurIPS 2022 (arXiv 2206.00364) for edm.
"""
import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from indigo_jax import data, denoisers, losses, rng, samplers, schedules
from train import common, latent, loop
from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(RunConfig):
    """One training run of an unconditional diffusion prior, of pictures or of the latents of an autoencoder.

    The network is made in the config file by its constructor.
    """

    model: tyro.conf.Suppress[Any]
    """A linen module: ``module.apply(params, x_t, timestep)``."""
    schedule: tyro.conf.Suppress[dict]
    """Of the noise: ``schedules.to_json(NAME, argument=value, ...)``. It travels with the weights."""
    prediction: Literal["eps", "x0", "v", "flow", "edm"] = "eps"
    """What the network predicts: "flow" the velocity of a rectified flow, "edm" the F of EDM; best with the schedules
    flow and karras. It travels with the weights."""
    sigma_data: float = 0.5
    """Standard deviation of the pictures, of prediction edm. It travels with the weights."""
    learned_variance: bool = False
    """The network has twice the channels and learns the variance of the reverse steps too (prediction eps only)."""
    weighting: Literal["simple", "min_snr"] = "simple"
    """Of the levels: "simple" is 1 for all."""

    autoencoder: str | None = None
    """Weights (a name or a file) of the autoencoder whose latents are learned; None: pictures. It travels with the
    weights."""
    cache_latents: bool = False
    """Encode the central crops of all pictures, and their mirror images, once and keep them in memory."""
    crop: int = 256
    """Side of the training pictures in pixels."""
    resize: int = 0
    """Pixels to which the shorter side of each picture is first brought by averaging areas; 0 leaves it."""
    flip: bool = True
    """Mirror half of the pictures."""

    decay: Literal["cosine", "constant"] = "constant"
    weight_decay: float = 0.0
    eval_steps: int = 50
    """DDIM steps of the samples."""
    eval_samples: int = 16
    """Samples in a picture; also the number of held-out pictures whose loss is taken at each level."""

    def __post_init__(self):
        super().__post_init__()
        schedule = schedules.from_json(self.schedule)
        if self.resize and self.resize < self.crop:
            raise ValueError(f"resize {self.resize} is below crop {self.crop}: no crop fits into the resized pictures")
        if self.weighting != "simple" and self.prediction in ("flow", "edm"):
            raise ValueError(f"weighting {self.weighting} goes with eps, x0 or v; {self.prediction} has its own")
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0, got {self.sigma_data}")
        if self.learned_variance and self.prediction != "eps":
            raise ValueError(f"learned_variance goes with prediction eps, not {self.prediction}")
        if not 0 < self.eval_steps <= schedule.timesteps.shape[0]:
            raise ValueError(f"eval_steps must be 1 to {schedule.timesteps.shape[0]}, the levels of the schedule; got "
                             f"{self.eval_steps}")
        if self.cache_latents and not self.autoencoder:
            raise ValueError("cache_latents keeps the latents of an autoencoder: say which, --autoencoder NAME")


def inputs(config: DiffusionConfig) -> tuple:
    """Pictures or latents, and timesteps, to initialise the network with."""
    return jnp.zeros((1, *latent.shape(config, config.crop))), jnp.zeros(1)


def denoising_loss(config: DiffusionConfig, params, x, keys, index=None) -> jax.Array:
    """The loss of each picture (or latent) ``[B]``, at random levels or those of ``index``."""
    network, schedule = functools.partial(loop.network(config).apply, params), schedules.from_json(config.schedule)
    if config.prediction == "flow":
        return losses.flow(network, x, keys, schedule, index=index)
    if config.prediction == "edm":
        return losses.edm(network, x, keys, schedule, sigma_data=config.sigma_data, index=index)
    return losses.diffusion(network, x, keys, schedule, prediction=config.prediction, weighting=config.weighting,
                            learned_variance=config.learned_variance, index=index)


def train_step(config: DiffusionConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step on uint8 pictures, or on latents float32. Randomness: (seed, step, slot in the batch) alone.
    """
    def loss_fn(params, x, keys, index):
        x = x if config.autoencoder else loop.in_unit_range(x)
        return jnp.mean(denoising_loss(config, params, x, keys, index))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    schedule, time_keys = schedules.from_json(config.schedule), rng.fold(keys, losses.TIME)
    index = (losses.edm_levels(time_keys, schedule) if config.prediction == "edm" else
             losses.diffusion_levels(time_keys, schedule.timesteps.shape[0]))  # one from each slice of the batch
    return loop.update(config, optimizer, state, loss_fn, batch["image"], keys, index)


def evaluation(config: DiffusionConfig, source):
    """A grid of samples from the same noise every time (DDIM), and the loss of held-out pictures at fixed levels, and
    its mean. Of a prior of latents the samples are decoded."""
    count = config.eval_samples
    batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)), crop=config.crop))
    x, keys = loop.in_unit_range(jnp.asarray(batch["image"])), rng.image_keys(config.seed, batch["id"])
    autoencoder = latent.local(config) if config.autoencoder else None
    x = jnp.asarray(autoencoder.encode(x)) if autoencoder else x
    sample_keys = rng.image_keys(config.seed, np.arange(count))
    start = rng.normal(sample_keys, jnp.zeros((count, *latent.shape(config, config.crop))))

    whole = schedules.from_json(config.schedule)
    # The noisiest level of a cosine schedule holds no picture at all, and x0 cannot be told from eps there.
    spacing = "leading" if config.prediction == "eps" else "trailing"
    schedule = schedules.respace(whole, config.eval_steps, spacing)

    @jax.jit
    def sample(params, start):
        prior = denoisers.of(functools.partial(config.model.apply, params), vars(config), clip=not config.autoencoder)
        return samplers.sample(samplers.ddim(prior.denoiser, schedule), sample_keys, start)[0]

    @jax.jit
    def loss(params, x, index):
        return jnp.mean(denoising_loss(config, params, x, keys, jnp.full(x.shape[:1], index)))

    def evaluate(params):
        at_levels = {f"eval_loss_{level}": float(loss(params, x, jnp.int32(level * whole.timesteps.shape[0])))
                     for level in LEVELS}
        out = sample(params, start)
        out = np.clip(np.asarray(autoencoder.decode(out) if autoencoder else out), -1, 1)
        columns = math.ceil(count ** 0.5)
        rows = [list(out[i:i + columns]) for i in range(0, count, columns)]
        return {"eval_loss": sum(at_levels.values()) / len(at_levels), **at_levels}, rows

    return evaluate


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # as shares of the schedule
COLUMNS, CAPTION = ("eval_loss", *(f"eval_loss_{level}" for level in LEVELS)), "samples"
KEPT = ("schedule", "prediction", "learned_variance", "sigma_data", "autoencoder")  # what weights are good for
FITTING = ("schedule", "prediction", "sigma_data", "autoencoder")


def open_data(config: DiffusionConfig, split: str):
    """The source of pictures, resized if the config says so; refuses pairs."""
    source = loop.open_pictures(config, split, cache=not config.resize)
    return data.resized(source, config.resize, cache=config.cache) if config.resize else source


def feed(config: DiffusionConfig, mesh, source) -> loop.Feed:
    """Crops, or their latents, made anew in every step or kept."""
    if config.cache_latents:
        return loop.Feed(latent.KeptLatents(config, source, crop=config.crop, flip=config.flip), None, False)
    prepare = latent.encoder(config, mesh) if config.autoencoder else None
    return loop.Feed(source, config.crop, "flip" if config.flip else False, prepare)


def config_to_json(config: DiffusionConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    edm = {"sigma_data": config.sigma_data} if config.prediction == "edm" else {}
    return common.description(config, schedule=config.schedule, prediction=config.prediction, **edm,
                              learned_variance=config.learned_variance, weighting=config.weighting, range=[-1, 1],
                              image_size=config.crop, **latent.description(config))


train, main = loop.train, functools.partial(loop.main, "train.diffusion")

if __name__ == "__main__":
    raise SystemExit(main())
