"""Train a diffusion prior: a network that takes the noise out of pictures at every level of a schedule.

    python -m train.diffusion --config train/configs/diffusion_faces64.py --data PICTURES --workdir RUN

With an autoencoder, frozen, what is learned is its latents (Rombach et al., CVPR 2022, arXiv 2112.10752).

Runs on one CPU, one GPU or a pod slice with the same command: the batch is split over all devices of all processes,
parameters are replicated (or split, with --fsdp). Killed at any moment and started again with the same command, on any
number of devices and processes, it goes on from the newest whole checkpoint and ends with the parameters of an
uninterrupted run.

Papers: Ho, Jain & Abbeel, DDPM, NeurIPS 2020 (arXiv 2006.11239); Nichol & Dhariwal, ICML 2021 (arXiv 2102.09672) for
the cosine schedule and learned variances; Salimans & Ho, ICLR 2022 (arXiv 2202.00512) for v; Liu, Gong & Liu, ICLR 2023
(arXiv 2209.03003) for flow; Karras et al., NeurIPS 2022 (arXiv 2206.00364) for edm.
"""
import dataclasses
import functools
import math
import pathlib
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from indigo_jax import data, denoisers, images, losses, rng, samplers, schedules, sharding
from train import common, latent, loop
from train.run_config import RunConfig

_IDENTITY = ("architecture", "arguments", "schedule", "prediction", "learned_variance",
             "sigma_data", "autoencoder")  # what weights are good for


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
    """Of the learning rate after the warm-up."""
    weight_decay: float = 0.0
    """AdamW's."""
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
        if not self.eval_samples > 0:
            raise ValueError(f"eval_samples must be above 0, got {self.eval_samples}")


# ---------------------------------------------------------------------------------------------------- one step

def make_optimizer(config: DiffusionConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and the config's decay."""
    return loop.make_optimizer(config, decay=config.decay)


def init_state(config: DiffusionConfig, optimizer: optax.GradientTransformation) -> loop.TrainState:
    """Fresh state; a pure function of the seed, to be jitted."""
    x = jnp.zeros((1, *latent.shape(config, config.crop)))
    return loop.fresh_state(config.model.init(jax.random.key(config.seed), x, jnp.zeros(1)), optimizer)


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


# ---------------------------------------------------------------------------------------------------- evaluation

class Evaluation:
    """A grid of samples from the same noise every time (DDIM), and the loss of held-out pictures at fixed levels.

    Of a prior of latents the samples are decoded.
    """

    levels = (0.05, 0.25, 0.5, 0.75, 0.95)  # as shares of the schedule
    columns = ("eval_loss", *(f"eval_loss_{level}" for level in levels))
    caption = "samples"

    def __init__(self, config: DiffusionConfig, source):
        count = config.eval_samples
        batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)), crop=config.crop))
        self.x = loop.in_unit_range(jnp.asarray(batch["image"]))
        self.autoencoder = latent.local(config) if config.autoencoder else None
        if self.autoencoder:
            self.x = jnp.asarray(self.autoencoder.encode(self.x))
        self.keys = rng.image_keys(config.seed, batch["id"])
        sample_keys = rng.image_keys(config.seed, np.arange(count))
        self.start = rng.normal(sample_keys, jnp.zeros((count, *latent.shape(config, config.crop))))

        whole = schedules.from_json(config.schedule)
        # The noisiest level of a cosine schedule holds no picture at all, and x0 cannot be told from eps there.
        spacing = "leading" if config.prediction == "eps" else "trailing"
        schedule = schedules.respace(whole, config.eval_steps, spacing)

        @jax.jit
        def sample(params, start):
            prior = denoisers.of(functools.partial(config.model.apply, params), vars(config),
                                 clip=not config.autoencoder)
            return samplers.sample(samplers.ddim(prior.denoiser, schedule), sample_keys, start)[0]

        @jax.jit
        def loss(params, x, index):
            return jnp.mean(denoising_loss(config, params, x, self.keys, jnp.full(x.shape[:1], index)))

        self.sample, self.loss, self.count = sample, loss, whole.timesteps.shape[0]

    def __call__(self, params, path: pathlib.Path) -> tuple[dict, np.ndarray]:
        """Scores (the loss at each level and their mean) and the picture, also written to ``path``."""
        at_levels = {f"eval_loss_{level}": float(self.loss(params, self.x, jnp.int32(level * self.count)))
                     for level in self.levels}
        out = self.sample(params, self.start)
        out = np.clip(np.asarray(self.autoencoder.decode(out) if self.autoencoder else out), -1, 1)
        columns = math.ceil(len(out) ** 0.5)
        pixels = images.grid([list(out[i:i + columns]) for i in range(0, len(out), columns)])
        images.write(path, pixels)
        return {"eval_loss": sum(at_levels.values()) / len(at_levels), **at_levels}, loop.as_pixels(pixels)

    def describe(self, scores: dict) -> str:
        """The scores in one line."""
        return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


# ---------------------------------------------------------------------------------------------------- the run

def open_data(config: DiffusionConfig, split: str):
    """The source of pictures, resized if the config says so; refuses pairs."""
    source = loop.open_pictures(config, split, "a prior learns from pictures alone", cache=not config.resize)
    return data.resized(source, config.resize, cache=config.cache) if config.resize else source


def config_to_json(config: DiffusionConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    fields = {name: value for name, value in vars(config).items() if name != "model"}
    return {**common.module_to_json(config.model), "schedule": config.schedule, "prediction": config.prediction,
            "learned_variance": config.learned_variance, "weighting": config.weighting, "range": [-1, 1],
            **({"sigma_data": config.sigma_data} if config.prediction == "edm" else {}),
            "image_size": config.crop, **latent.description(config), "code": common.code_version(), "config": fields}


def train(config: DiffusionConfig, mesh: jax.sharding.Mesh | None = None) -> loop.TrainState:
    """Run (or continue) a training on a mesh (default: all devices) and return its final state."""
    mesh = sharding.mesh(fsdp=config.fsdp) if mesh is None else mesh
    loop.check(config, mesh)
    source, optimizer = open_data(config, "train"), make_optimizer(config)
    latent.shape(config, config.crop)
    feed = dict(source=source, crop=config.crop, augment="flip" if config.flip else False)
    if config.cache_latents:
        kept = latent.KeptLatents(config, source, crop=config.crop, flip=config.flip)
        feed = dict(source=kept, crop=None, augment=False)
    elif config.autoencoder:
        feed["prepare"] = latent.encoder(config, mesh)
    return loop.run(
        config, mesh=mesh, **feed,
        init_state=functools.partial(init_state, config, optimizer),
        train_step=functools.partial(train_step, config, optimizer),
        description=config_to_json(config), identity=_IDENTITY,
        start_from=functools.partial(_start_from, config),
        evaluation=lambda: Evaluation(config, loop.held_out(functools.partial(open_data, config))),
        columns=Evaluation.columns)


def _start_from(config, state, mesh):
    def check_info(info):
        wanted = {"schedule": config.schedule, "prediction": config.prediction, "autoencoder": None,
                  **({"sigma_data": config.sigma_data} if config.prediction == "edm" else {}),
                  **latent.description(config)}
        for name, value in wanted.items():
            if info.get(name) != value:
                raise ValueError(f"--start-from {config.start_from} was trained with {name} {info.get(name)}, the "
                                 f"config says {value}")

    return loop.state_from_weights(config, state, mesh, check_info)


def main(argv=None) -> int:
    """Command line; see the module's text."""
    return loop.main("train.diffusion", train, argv)


if __name__ == "__main__":
    sys.exit(main())
