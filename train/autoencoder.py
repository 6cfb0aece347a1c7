"""Train a small autoencoder, whose latents diffusion priors and invertible networks then learn.

    python -m train.autoencoder --config train/configs/autoencoder_faces.py --data PICTURES --workdir RUN

Its latents are deterministic. A pull to zero mean and unit mean square lets diffusion take them as they are, with a
scaling factor of 1; noise before decoding makes near latents mean near pictures, which takes the place of the
variational part of other autoencoders.

Paper: Rombach et al., Latent diffusion models, CVPR 2022 (arXiv 2112.10752), for the idea; network: TAESD
(github.com/madebyollin/taesd), whose training is not known to us. The objective is our own.
"""
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from indigo_jax import data, metrics, models, rng, sharding
from train import common, loop
from train.run_config import RunConfig

_NOISE = 0  # what an image's key is folded with
_SHOWN, _ROWS = 8, 16  # pictures in the grid; in a batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(RunConfig):
    """One training run of a small autoencoder for latent diffusion."""

    model: tyro.conf.Suppress[Any]
    """A :class:`models.TinyAutoencoder`. Without pool branches tiles of large pictures agree with the whole."""
    perceptual: tyro.conf.Suppress[Any] = None
    """A distance ``(a, b) -> [B]`` of pictures, as LPIPS with its weights; none by default."""

    loss: Literal["l1", "l2"] = "l1"
    """Error of the pixels: mean absolute or mean squared."""
    gradient: float = 0.5
    """Weight of the mean absolute error of differences between neighbours."""
    gradient_scales: int = 2
    """At so many sizes, each half of the one before."""
    perceptual_weight: float = 0.1
    """Of ``perceptual``."""
    noise: float = 0.1
    """Standard deviation of noise on the latents before they are decoded, so that near latents mean near pictures."""
    pull: float = 0.1
    """Weight of the pull of each latent channel to zero mean and unit mean square."""
    flip: bool = True
    """Mirror half of the pictures."""

    eval_size: int = 128
    """Side of the held-out pictures in pixels."""
    eval_samples: int = 64
    """Number of held-out pictures; the first 8 are shown."""

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.model, models.TinyAutoencoder):
            raise ValueError(f"this script trains a TinyAutoencoder, not a {type(self.model).__name__}")
        for name in ("crop", "eval_size"):
            if getattr(self, name) % self.model.factor or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a multiple of the {self.model.factor} pixels per latent, got "
                                 f"{getattr(self, name)}")
        if self.gradient and (self.gradient_scales < 1 or self.crop % 2 ** (self.gradient_scales - 1)
                              or self.crop >> (self.gradient_scales - 1) < 2):
            raise ValueError(f"gradient_scales {self.gradient_scales}: crop {self.crop} cannot be halved so often")
        if min(self.gradient, self.perceptual_weight, self.noise, self.pull) < 0:
            raise ValueError("gradient, perceptual_weight, noise and pull must be at least 0")


def inputs(config: AutoencoderConfig) -> tuple:
    """A picture, to initialise the network with."""
    return jnp.zeros((1, config.crop, config.crop, 3)),


def reconstruction_error(config: AutoencoderConfig, a, b) -> jax.Array:
    """``mean |a - b|^p + gradient edge_error(a, b) + perceptual_weight distance(a, b)`` of each picture, ``[B]``."""
    error = a - b
    total = jnp.mean(jnp.abs(error) if config.loss == "l1" else error**2, axis=(1, 2, 3))
    if config.gradient:
        total = total + config.gradient * edge_error(error, scales=config.gradient_scales)
    if config.perceptual is not None:
        total = total + config.perceptual_weight * config.perceptual(a, b)
    return total


def edge_error(error, *, scales: int) -> jax.Array:
    """Mean absolute difference between neighbours of an error ``[B, H, W, C]``, at its size, half of it, ...: ``[B]``.

    ``1 / scales sum_s (mean |d/dx e_s| + mean |d/dy e_s|)``, ``e_s`` the error averaged over blocks of ``2^s`` pixels.
    """
    total = 0.0
    for scale in range(scales):
        if scale:
            b, h, w, c = error.shape
            error = jnp.mean(error.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
        total = total + sum(jnp.mean(jnp.abs(jnp.diff(error, axis=axis)), axis=(1, 2, 3)) for axis in (1, 2))
    return total / scales


def moments(z) -> tuple[jax.Array, jax.Array]:
    """Mean and mean square of each channel of latents ``[B, h, w, C]``, each ``[C]``."""
    return jnp.mean(z, axis=(0, 1, 2)), jnp.mean(z**2, axis=(0, 1, 2))


def pull(z, batch_moments) -> jax.Array:
    """A picture's share ``[B]`` of ``mean_c (m_c^2 + (q_c - 1)^2)``, m and q the moments of its batch.

    The moments are constants here, and each square is its tangent at them: the mean over the batch has the value and
    the gradient of the whole, and can still be taken in microbatches.
    """
    m, q = jax.lax.stop_gradient(batch_moments)
    own_m, own_q = jnp.mean(z, axis=(1, 2)), jnp.mean(z**2, axis=(1, 2))
    return jnp.mean(m * (2 * own_m - m) + (q - 1) * (2 * (own_q - 1) - (q - 1)), axis=-1)


def autoencoder_loss(config: AutoencoderConfig, params, x, keys, batch_moments) -> jax.Array:
    """The loss of each picture ``[B]``: reconstruction from noisy latents, and the pull."""
    apply = functools.partial(loop.network(config).apply, params)
    z = apply(x, method="encode")
    noisy = z + config.noise * rng.normal(rng.fold(keys, _NOISE), z) if config.noise else z
    loss = reconstruction_error(config, apply(noisy, method="decode"), x)
    return loss + config.pull * pull(z, batch_moments) if config.pull else loss


def train_step(config: AutoencoderConfig, optimizer, state: loop.TrainState,
               batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step. Randomness comes from (seed, step, slot in the batch) alone."""
    batch_moments = None
    if config.pull:
        params = sharding.gathered(state.params, rules=config.sharding_rules)
        x = loop.in_unit_range(batch["image"])
        batch_moments = moments(loop.network(config).apply(params, x, method="encode"))

    def loss_fn(params, pixels, keys):
        return jnp.mean(autoencoder_loss(config, params, loop.in_unit_range(pixels), keys, batch_moments))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    return loop.update(config, optimizer, state, loss_fn, batch["image"], keys)


def evaluation(config: AutoencoderConfig, source):
    """The same held-out pictures every time, encoded and decoded, without noise and with it.

    PSNR of both; the largest mean of a latent channel, and the smallest and the largest standard deviation.
    """
    chosen = [source[i] for i in range(min(config.eval_samples, len(source)))]
    batches = [(batch["image"], rng.image_keys(config.seed, batch["id"]), batch["mask"]) for batch in
               data.evaluation_batches(chosen, batch_size=min(_ROWS, len(chosen)), crop=config.eval_size)]

    @jax.jit
    def reconstruct(params, pixels, keys):
        apply = functools.partial(config.model.apply, params)
        z = apply(loop.in_unit_range(pixels), method="encode")
        noisy = z + config.noise * rng.normal(rng.fold(keys, _NOISE), z)
        return z, apply(z, method="decode"), apply(noisy, method="decode")

    def evaluate(params):
        found = [[np.asarray(a)[mask] for a in (pixels, *reconstruct(params, pixels, keys))]
                 for pixels, keys, mask in batches]
        pixels, z, plain, noisy = map(np.concatenate, zip(*found))
        means, stds = z.mean(axis=(0, 1, 2)), z.std(axis=(0, 1, 2))
        values = (metrics.psnr(plain, pixels).mean(), metrics.psnr(noisy, pixels).mean(), np.abs(means).max(),
                  stds.min(), stds.max())
        rows = [list(np.clip(a[:_SHOWN], -1, 1)) for a in (np.asarray(loop.in_unit_range(pixels)), plain, noisy)]
        return dict(zip(COLUMNS, map(float, values))), rows

    return evaluate


COLUMNS = ("eval_psnr", "eval_noisy_psnr", "eval_latent_mean", "eval_latent_std_min", "eval_latent_std_max")
CAPTION = "pictures, reconstructions, those of noisy latents"
KEPT, FITTING = (), ()
open_data = loop.open_pictures


def feed(config: AutoencoderConfig, mesh, source) -> loop.Feed:
    """Crops, mirrored at random if the config says so."""
    return loop.Feed(source, config.crop, "flip" if config.flip else False)


def config_to_json(config: AutoencoderConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to use it rightly."""
    return common.description(config, loss=config.loss, range=[-1, 1])


train, main = loop.train, functools.partial(loop.main, "train.autoencoder")

if __name__ == "__main__":
    raise SystemExit(main())
