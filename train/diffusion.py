"""Train a diffusion prior: a network that takes the noise out of pictures at every level of a schedule.

    python -m train.diffusion --config train/configs/diffusion_faces64.py --data PICTURES --workdir RUN

With an autoencoder, frozen, what is learned is its latents (Rombach et al., CVPR 2022, arXiv 2112.10752). With
``--condition y`` the network also sees the measurement, and what is sampled are pictures given it (Saharia et al., SR3,
arXiv 2104.07636, and Palette, arXiv 2111.05826): InDI's opponent, trained on the same pairs.

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
from train.indi import make_pairs
from train.run_config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(RunConfig):
    """One training run of a diffusion prior, of pictures, of the latents of an autoencoder, or of pictures given y.

    The network is made in the config file by its constructor.
    """

    model: tyro.conf.Suppress[Any]
    """A linen module: ``module.apply(params, x_t, timestep)``, and y if its ``condition_on_y`` is set."""
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

    condition: Literal["none", "y"] = "none"
    """What the network sees beside x_t: "y" is the measurement. It travels with the weights."""
    degradation: tyro.conf.Suppress[Any] = None
    """With condition y: an operator that degrades clean pictures on the device, or None for data that comes in
    pairs."""
    margin: int = 16
    """With a degradation: pixels around the crop that are degraded with it and cut off afterwards."""
    grey: float = 0.0
    """With a degradation: share of the pictures that lose their colour before they are degraded."""

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
        if self.prediction not in ("x0", "v", "flow"):
            schedules.check_signal(schedule, f"prediction {self.prediction}")
        if (self.condition == "y") != bool(getattr(self.model, "condition_on_y", False)):
            raise ValueError(f"condition {self.condition} needs a network made with condition_on_y="
                             f"{self.condition == 'y'}, as models.RestorationUNet has it")
        if self.condition == "y" and self.autoencoder:
            raise ValueError("condition y is for pictures: leave autoencoder out")
        if self.condition == "none" and self.degradation is not None:
            raise ValueError("a degradation makes pairs, which condition none has no use for: say --condition y")
        if self.cache_latents and not self.autoencoder:
            raise ValueError("cache_latents keeps the latents of an autoencoder: say which, --autoencoder NAME")


def inputs(config: DiffusionConfig) -> tuple:
    """Pictures or latents, and timesteps, and for some networks measurements, to initialise them with."""
    x = jnp.zeros((1, *latent.shape(config, config.crop)))
    return (x, jnp.zeros(1), x) if config.condition == "y" else (x, jnp.zeros(1))


def given(network, y):
    """``network(x, t, y)`` as a function of x and t; without a measurement the network as it is."""
    return network if y is None else lambda x, t: network(x, t, y)


def denoising_loss(config: DiffusionConfig, params, x, keys, index=None, y=None) -> jax.Array:
    """The loss of each picture (or latent) ``[B]``, at random levels or those of ``index``; with y given it."""
    network, schedule = functools.partial(loop.network(config).apply, params), schedules.from_json(config.schedule)
    network = given(network, y)
    if config.prediction == "flow":
        return losses.flow(network, x, keys, schedule, index=index)
    if config.prediction == "edm":
        return losses.edm(network, x, keys, schedule, sigma_data=config.sigma_data, index=index)
    return losses.diffusion(network, x, keys, schedule, prediction=config.prediction, weighting=config.weighting,
                            learned_variance=config.learned_variance, index=index)


def train_step(config: DiffusionConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step on uint8 pictures, or on latents float32. Randomness: (seed, step, slot in the batch) alone.
    """
    pictures = {name: batch[name] for name in ("image", "measurement") if name in batch}

    def loss_fn(params, pictures, keys, index):
        x, y = pictures["image"], None
        if config.condition == "y":
            x, y = make_pairs(config, pictures, keys)
        elif not config.autoencoder:
            x = loop.in_unit_range(x)
        return jnp.mean(denoising_loss(config, params, x, keys, index, y))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    schedule, time_keys = schedules.from_json(config.schedule), rng.fold(keys, losses.TIME)
    index = (losses.edm_levels(time_keys, schedule) if config.prediction == "edm" else
             losses.diffusion_levels(time_keys, schedule.timesteps.shape[0]))  # one from each slice of the batch
    return loop.update(config, optimizer, state, loss_fn, pictures, keys, index)


def evaluation(config: DiffusionConfig, source):
    """A grid of samples from the same noise every time (DDIM), and the loss of held-out pictures at fixed levels, and
    its mean. Of a prior of latents the samples are decoded; of one given y there is one of each held-out picture."""
    count = config.eval_samples if config.condition == "none" else min(config.eval_samples, len(source))
    batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)), crop=_fed(config)))
    x, keys, y = loop.in_unit_range(jnp.asarray(batch["image"])), rng.image_keys(config.seed, batch["id"]), None
    if config.condition == "y":
        x, y = jax.jit(functools.partial(make_pairs, config))(
            {name: batch[name] for name in ("image", "measurement") if name in batch}, keys)
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
        prior = denoisers.of(functools.partial(config.model.apply, params), vars(config), clip=not config.autoencoder,
                             y=y)
        return samplers.sample(samplers.ddim(prior.denoiser, schedule), sample_keys, start)[0]

    @jax.jit
    def loss(params, x, index):
        return jnp.mean(denoising_loss(config, params, x, keys, jnp.full(x.shape[:1], index), y))

    def evaluate(params):
        at_levels = {f"eval_loss_{level}": float(loss(params, x, jnp.int32(level * whole.timesteps.shape[0])))
                     for level in LEVELS}
        out = sample(params, start)
        out = np.clip(np.asarray(autoencoder.decode(out) if autoencoder else out), -1, 1)
        if y is not None:
            shown = [np.clip(np.asarray(a), -1, 1) for a in (y, out, x)]
            return {"eval_loss": sum(at_levels.values()) / len(at_levels), **at_levels}, list(map(list, zip(*shown)))
        columns = math.ceil(count ** 0.5)
        rows = [list(out[i:i + columns]) for i in range(0, count, columns)]
        return {"eval_loss": sum(at_levels.values()) / len(at_levels), **at_levels}, rows

    return evaluate


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # as shares of the schedule
COLUMNS, CAPTION = ("eval_loss", *(f"eval_loss_{level}" for level in LEVELS)), "samples"
FITTING = ("schedule", "prediction", "sigma_data", "autoencoder", "condition")
KEPT = (*FITTING, "learned_variance")  # what weights are good for


def open_data(config: DiffusionConfig, split: str):
    """The source of pictures, resized if the config says so; refuses pairs, but with condition y."""
    if config.condition == "y":
        source = data.open_source(config.data, split=split, cache=config.cache)
        common.check_pairs(config.data, paired="measurement" in source[0], degrades=config.degradation is not None)
        return source
    source = loop.open_pictures(config, split, cache=not config.resize)
    return data.resized(source, config.resize, cache=config.cache) if config.resize else source


def feed(config: DiffusionConfig, mesh, source) -> loop.Feed:
    """Crops, or their latents, made anew in every step or kept."""
    if config.cache_latents:
        return loop.Feed(latent.KeptLatents(config, source, crop=config.crop, flip=config.flip), None, False)
    prepare = latent.encoder(config, mesh) if config.autoencoder else None
    return loop.Feed(source, _fed(config), "flip" if config.flip else False, prepare)


def _fed(config):
    """Side of the pictures that are read: those to be degraded have a margin."""
    return config.crop + 2 * config.margin * (config.degradation is not None)


def config_to_json(config: DiffusionConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    own = {"sigma_data": config.sigma_data} if config.prediction == "edm" else {}
    own |= {"condition": config.condition} if config.condition != "none" else {}
    found = common.description(config, schedule=config.schedule, prediction=config.prediction, **own,
                               learned_variance=config.learned_variance, weighting=config.weighting, range=[-1, 1],
                               image_size=config.crop, **latent.description(config))
    return {name: fact for name, fact in found.items() if name != "degradation" or config.degradation is not None}


train, main = loop.train, functools.partial(loop.main, "train.diffusion")

if __name__ == "__main__":
    raise SystemExit(main())
