"""Train INDIGO's invertible network: its coarse picture becomes what a degradation makes of a picture.

    python -m train.inn --config train/configs/inn_pixel.py --data PICTURES --workdir RUN

With an autoencoder E, frozen, the network splits E(x), and its coarse part becomes E(y); the encoder F of the condition
looks at the pixels of y all the same.

The network, the encoder F of its condition and the embedding that stands for "no condition" are learned together.

Papers: You and Dragotti, INDIGO (arXiv 2306.02949) and INDIGO+ (arXiv 2501.14014); You, Siromani and Dragotti,
LatentINDIGO (arXiv 2505.12935). Their training is not known to us: objective, data and schedule here are our own.
"""
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from indigo_jax import data, losses, metrics, rng
from train import common, latent, loop
from train.run_config import RunConfig

_DEGRADE, _SINGLE, _IS_SINGLE, _IS_NULL = range(4)  # what an image's key is folded with


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnConfig(RunConfig):
    """One training run of an invertible network, of pictures or latents, with the encoder of its condition."""

    model: tyro.conf.Suppress[Any]
    """A :class:`models.GuidanceINN` for pixels, or with ``offset=0`` for latents."""
    degradation: tyro.conf.Suppress[Any]
    """An operator that makes measurements of the size of the network's coarse pictures, as
    ``operators.realesrgan("kdsr", factor=4)``; for an undecimated network of the same size."""
    single: tyro.conf.Suppress[Any] = None
    """Another such operator, for some of the pictures: plain shrinking, or one degradation alone."""

    autoencoder: str | None = None
    """Weights (a name or a file) of the autoencoder whose latents the network splits: those of a picture, into those of
    its measurement and details. None: pictures. It travels with the weights."""
    margin: int = 16
    """Pixels around the crop that are degraded with it and cut off afterwards; a multiple of the scale."""
    single_share: float = 0.2
    """Share of pictures that get the degradation ``single``."""
    null_share: float = 0.1
    """Share of pictures that are trained with the learned null embedding in place of F(y)."""
    absolute: float = 0.1
    """Weight of the mean absolute error of the coarse picture beside the mean squared one."""
    swapped: float = 0.1
    """Weight of the mean absolute error of the picture made of the measurement and its own details."""
    sparse: float = 0.01
    """Weight of the mean absolute value of the details."""
    contrastive: float = 0.0
    """Weight of :func:`losses.contrastive`: F(y) is to tell the degradations of a batch apart, whatever the picture.
    Each picture is then degraded a second time, as the one beside it was."""

    @property
    def scale(self) -> int:
        """How many times a coarse picture is smaller than the picture, and so a measurement."""
        return 1 if self.model.undecimated else 2**self.model.levels

    def __post_init__(self):
        super().__post_init__()
        for name in ("single_share", "null_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("crop", "margin"):
            if getattr(self, name) % self.scale or getattr(self, name) < 0:
                raise ValueError(f"{name} must be a multiple of the scale {self.scale}, got {getattr(self, name)}")
        if self.precision not in ("network", "float32"):
            raise ValueError(f"precision {self.precision}: the network is not invertible but in float32")
        if min(self.absolute, self.swapped, self.sparse, self.contrastive) < 0:
            raise ValueError("the weights absolute, swapped, sparse and contrastive must be at least 0")
        if self.contrastive and self.accumulate > 1:
            raise ValueError("contrastive compares all pictures of a batch: it needs accumulate=1")


def inputs(config: InnConfig) -> tuple:
    """Pictures or latents, and measurements, to initialise the network with."""
    side = config.crop // config.scale
    return jnp.zeros((1, *latent.shape(config, config.crop))), jnp.zeros((1, side, side, 3))


def make_pairs(config: InnConfig, batch: dict, keys) -> tuple[jax.Array, jax.Array]:
    """A uint8 batch as clean pictures and measurements in [0, 1], the measurements ``scale`` times smaller."""
    x = loop.in_unit_range(batch["image"])
    y = _measure(config, config.degradation, x, rng.fold(keys, _DEGRADE))
    if config.single is not None:
        is_single = rng.uniform(rng.fold(keys, _IS_SINGLE)) < config.single_share
        other = _measure(config, config.single, x, rng.fold(keys, _SINGLE))
        y = jnp.where(is_single[:, None, None, None], other, y)

    def inner(pictures, scale):
        cut = slice(config.margin // scale, (config.margin + config.crop) // scale)
        return (pictures[:, cut, cut] + 1) / 2

    return inner(x, 1), inner(y, config.scale)


def _measure(config, operator, x, keys):
    y = operator(x, keys=keys)
    if y.shape[1:3] != tuple(side // config.scale for side in x.shape[1:3]):
        raise ValueError(f"the degradation makes {y.shape[1:3]} of {x.shape[1:3]}; a network of scale {config.scale} "
                         f"needs an operator with factor={config.scale}")
    return y


def make_beside(config: InnConfig, batch: dict, keys) -> jax.Array | None:
    """Measurements of other pictures, degraded as those of :func:`make_pairs`; None where nothing asks for them."""
    if not config.contrastive:
        return None
    return make_pairs(config, {"image": jnp.roll(batch["image"], 1, axis=0)}, keys)[1]


def encoder(config: InnConfig, mesh):
    """``(batch, step) -> batch``: uint8 pictures as ``{"image": E(x), "coarse": E(y), "measurement": y}``, y in [0, 1],
    drawn with the keys of the step; and ``"beside"`` of :func:`make_beside`."""
    def pairs(space, batch, step):
        keys = loop.step_keys(config.seed, step, batch["image"].shape[0])
        (x, y), beside = make_pairs(config, batch, keys), make_beside(config, batch, keys)
        encode = space.autoencoder.encode
        found = {"image": encode(2 * x - 1), "coarse": encode(2 * y - 1), "measurement": y, "beside": beside}
        return {name: value for name, value in found.items() if value is not None}

    encode = latent.program(config, mesh, pairs)
    return lambda batch, step: encode(batch, np.int32(step))


def inn_loss(config: InnConfig, params, x, y, null=None, coarse=None, beside=None) -> jax.Array:
    """The loss of each picture ``[B]``.

    Args:
        config: of the weights, and of the network.
        params: of the network.
        x, y: pictures or latents, and their measurements, as from :func:`make_pairs`.
        null: ``[B]``, which pictures get the null embedding; None: none of them.
        coarse: what the coarse part should be, if it is not y.
        beside: of :func:`make_beside`; None: nothing is contrasted.
    """
    apply = functools.partial(loop.network(config).apply, params)
    cond = apply(y, null=null, method="embed")
    loss = losses.inn(lambda x: apply(x, cond, method="forward"),
                      lambda coarse, details: apply(coarse, details, cond, method="inverse"), x,
                      y if coarse is None else coarse,
                      absolute=config.absolute, swapped=config.swapped, sparse=config.sparse)
    if beside is None:
        return loss
    return loss + config.contrastive * losses.contrastive(*(apply(seen, method="embed") for seen in (y, beside)))


def train_step(config: InnConfig, optimizer, state: loop.TrainState, batch: dict) -> tuple[loop.TrainState, dict]:
    """One optimiser step on uint8 pictures, or what :func:`encoder` makes of them.

    Randomness comes from (seed, step, slot in the batch) alone.
    """
    def loss_fn(params, batch, keys):
        if config.autoencoder:
            x, y, beside = batch["image"], batch["measurement"], batch.get("beside")
        else:
            (x, y), beside = make_pairs(config, batch, keys), make_beside(config, batch, keys)
        null = rng.uniform(rng.fold(keys, _IS_NULL)) < config.null_share
        return jnp.mean(inn_loss(config, params, x, y, null, batch.get("coarse"), beside))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    batch = {name: batch[name] for name in ("image", "coarse", "measurement", "beside") if name in batch}
    return loop.update(config, optimizer, state, loss_fn, batch, keys)


def evaluation(config: InnConfig, source):
    """The same held-out pictures every time, degraded in the same way.

    PSNR of the coarse picture against the measurement, with F(y), with the null embedding, and with F of another
    measurement: what is far below the first shows that the network listens. PSNR of the picture made of the measurement
    and the true details; the worst round trip. For latents, of what they decode to, against what E(y) or E(x) makes.
    """
    batch = next(data.evaluation_batches(source, batch_size=min(8, len(source)), crop=config.crop + 2 * config.margin))
    x, y = jax.jit(functools.partial(make_pairs, config))(
        {"image": batch["image"]}, rng.image_keys(config.seed, batch["id"]))
    whole, measured, view = x, y, lambda pictures: 2 * np.asarray(pictures) - 1
    if config.autoencoder:
        encode, view = latent.local(config)
        whole, measured = (jnp.asarray(encode(2 * a - 1)) for a in (x, y))

    @jax.jit
    def run(params, x, y, measured):
        apply = functools.partial(config.model.apply, params)
        cond = apply(y, method="embed")
        coarse, details = apply(x, cond, method="forward")
        back = apply(coarse, details, cond, method="inverse")
        null, other = (apply(x, cond, method="forward")[0] for cond in (None, jnp.roll(cond, 1, axis=0)))
        return (coarse, null, other, apply(measured, details, cond, method="inverse"), jnp.max(jnp.abs(back - x)))

    def evaluate(params):
        *parts, round_trip = run(params, whole, y, measured)
        true, wanted, coarse, null, other, swapped = map(view, (whole, measured, *parts))
        scores = [metrics.psnr(a, b).mean()
                  for a, b in ((coarse, wanted), (null, wanted), (other, wanted), (swapped, true))]
        return (dict(zip(COLUMNS, map(float, (*scores, round_trip)))),
                [list(row) for row in zip(true, wanted, coarse, swapped)])

    return evaluate


COLUMNS = ("eval_coarse_psnr", "eval_null_psnr", "eval_other_psnr", "eval_swapped_psnr", "eval_round_trip")
CAPTION = "picture, measurement, coarse, measurement with true details"
KEPT = FITTING = ("scale", "autoencoder")
open_data = loop.open_pictures


def feed(config: InnConfig, mesh, source) -> loop.Feed:
    """Crops with a margin, turned and mirrored at random; or the latents of their pairs."""
    latent.shape(config, config.crop // config.scale)  # refuses measurements without latents
    prepare = encoder(config, mesh) if config.autoencoder else None
    return loop.Feed(source, config.crop + 2 * config.margin, prepare=prepare)


def config_to_json(config: InnConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to use it rightly."""
    about = latent.description(config) if config.autoencoder else {"range": [0, 1]}
    return common.description(config, scale=config.scale, **about)


train, main = loop.train, functools.partial(loop.main, "train.inn")

if __name__ == "__main__":
    raise SystemExit(main())
