"""Train INDIGO's invertible network: its coarse picture becomes what a degradation makes of a picture.

    python -m train.inn --config train/configs/inn_pixel.py --data PICTURES --workdir RUN

The network, the encoder F of its condition and the embedding that stands for "no condition" are learned together.
Runs on one CPU, one GPU or a pod slice with the same command. Killed at any moment and started again with the same
command, on any number of devices and processes, it goes on from the newest whole checkpoint and ends with the
parameters of an uninterrupted run.

Papers: You and Dragotti, INDIGO (arXiv 2306.02949) and INDIGO+ (arXiv 2501.14014). Their training is not known to us:
objective, data and schedule here are our own.
"""
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from indigo_jax import data, images, losses, metrics, rng, sharding
from train import common, loop
from train.inn_config import InnConfig
from train.loop import TrainState

_DEGRADE, _SINGLE, _IS_SINGLE, _IS_NULL = range(4)  # what an image's key is folded with
_IDENTITY = ("architecture", "arguments", "scale")


def make_optimizer(config: InnConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay."""
    return loop.make_optimizer(config)


def init_state(config: InnConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """Fresh state; a pure function of the seed, to be jitted."""
    x, y = (jnp.zeros((1, side, side, 3)) for side in (config.crop, config.crop // config.scale))
    return loop.fresh_state(config.model.init(jax.random.key(config.seed), x, y), optimizer)


# ---------------------------------------------------------------------------------------------------- one step

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


def inn_loss(config: InnConfig, params, x, y, null=None) -> jax.Array:
    """The loss of each picture ``[B]``; with the null embedding where ``null`` ``[B]`` says so."""
    apply = functools.partial(loop.network(config).apply, params)
    cond = apply(y, null=null, method="embed")
    return losses.inn(lambda x: apply(x, cond, method="forward"),
                      lambda coarse, details: apply(coarse, details, cond, method="inverse"), x, y,
                      absolute=config.absolute, swapped=config.swapped, sparse=config.sparse)


def train_step(config: InnConfig, optimizer, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """One optimiser step. Randomness comes from (seed, step, slot in the batch) alone."""
    def loss_fn(params, pixels, keys):
        x, y = make_pairs(config, {"image": pixels}, keys)
        null = rng.uniform(rng.fold(keys, _IS_NULL)) < config.null_share
        return jnp.mean(inn_loss(config, params, x, y, null))

    keys = loop.step_keys(config.seed, state.step, batch["image"].shape[0])
    return loop.update(config, optimizer, state, loss_fn, batch["image"], keys)


# ---------------------------------------------------------------------------------------------------- evaluation

class Evaluation:
    """The same held-out pictures every time, degraded in the same way.

    PSNR of the coarse picture against the measurement, with F(y) and with the null embedding; PSNR of the picture made
    of the measurement and the true details; the worst round trip.
    """

    columns = ("eval_coarse_psnr", "eval_null_psnr", "eval_swapped_psnr", "eval_round_trip")
    caption = "picture, measurement, coarse, measurement with true details"

    def __init__(self, config: InnConfig, source, count: int = 8):
        batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)),
                                             crop=config.crop + 2 * config.margin))
        keys = rng.image_keys(config.seed, batch["id"])
        self.x, self.y = jax.jit(functools.partial(make_pairs, config))({"image": batch["image"]}, keys)

        @jax.jit
        def evaluate(params, x, y):
            apply = functools.partial(config.model.apply, params)
            cond = apply(y, method="embed")
            coarse, details = apply(x, cond, method="forward")
            back = apply(coarse, details, cond, method="inverse")
            return (coarse, apply(x, method="forward")[0], apply(y, details, cond, method="inverse"),
                    jnp.max(jnp.abs(back - x)))

        self.evaluate = evaluate

    def __call__(self, params, path: pathlib.Path) -> tuple[dict, np.ndarray]:
        """Scores and the picture, also written to ``path``."""
        coarse, null, swapped, round_trip = self.evaluate(params, self.x, self.y)
        x, y, coarse, null, swapped = (2 * np.asarray(a) - 1 for a in (self.x, self.y, coarse, null, swapped))
        pixels = images.grid([[*row] for row in zip(x, y, coarse, swapped)])
        images.write(path, pixels)
        scores = [metrics.psnr(a, b).mean() for a, b in ((coarse, y), (null, y), (swapped, x))]
        return dict(zip(self.columns, [*map(float, scores), float(round_trip)])), loop.as_pixels(pixels)

    def describe(self, scores: dict) -> str:
        """The scores in one line."""
        return ", ".join(f"{name} {value:.2g}" if name == "eval_round_trip" else f"{name} {value:.2f} dB"
                         for name, value in scores.items())


# ---------------------------------------------------------------------------------------------------- the run

def open_data(config: InnConfig, split: str):
    """The source of clean pictures; refuses pairs."""
    source = data.open_source(config.data, split=split, cache=config.cache)
    if "measurement" in source[0]:
        raise ValueError(f"{config.data} holds pairs; this training degrades pictures itself: give a folder or a pack "
                         "of clean ones")
    return source


def config_to_json(config: InnConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to use it rightly."""
    fields = {name: value for name, value in vars(config).items() if name not in ("model", "degradation", "single")}
    return {**common.module_to_json(config.model), "scale": config.scale, "range": [0, 1],
            "degradation": str(config.degradation), "single": str(config.single), "code": common.code_version(),
            "config": fields}


def train(config: InnConfig, mesh: jax.sharding.Mesh | None = None) -> TrainState:
    """Run (or continue) a training on a mesh (default: all devices) and return its final state."""
    mesh = sharding.mesh(fsdp=config.fsdp) if mesh is None else mesh
    loop.check(config, mesh)
    source, optimizer = open_data(config, "train"), make_optimizer(config)
    return loop.run(
        config, mesh=mesh, source=source, crop=config.crop + 2 * config.margin,
        init_state=functools.partial(init_state, config, optimizer),
        train_step=functools.partial(train_step, config, optimizer),
        description=config_to_json(config), identity=_IDENTITY, start_from=functools.partial(_start_from, config),
        evaluation=lambda: Evaluation(config, loop.held_out(functools.partial(open_data, config))),
        columns=Evaluation.columns)


def _start_from(config, state, mesh):
    def check_info(info):
        if info.get("scale") != config.scale:
            raise ValueError(f"--start-from {config.start_from} was trained for scale {info.get('scale')}, the config "
                             f"says {config.scale}")

    return loop.state_from_weights(config, state, mesh, check_info)


def main(argv=None) -> int:
    """Command line; see the module's text."""
    return loop.main("train.inn", train, argv)


if __name__ == "__main__":
    sys.exit(main())
