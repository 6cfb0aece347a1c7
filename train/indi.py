"""Train InDI: learn F(x_t, t) ~ E[x | x_t] from pairs of clean and degraded pictures.

    python -m train.indi --config train/configs/indi_photo_small.py --data PICTURES --workdir RUN

Runs on one CPU, one GPU or a pod slice with the same command: the batch is split over all devices of all processes,
parameters are replicated. Killed at any moment and started again with the same command, it goes on from the newest
whole checkpoint and ends with the parameters of an uninterrupted run.

Paper: Delbracio & Milanfar, Inversion by Direct Iteration, TMLR 2023 (arXiv 2303.11435).
"""
import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import time
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from tqdm import tqdm

from indigo_jax import (
    checkpoints, data, denoisers, images, losses, metrics, rng, samplers, schedules, sharding, weights)
from train import common
from train.indi_config import IndiConfig

_DEGRADE, _LOSS = 0, 1  # what an image's key is folded with


class TrainState(NamedTuple):
    """Everything a step needs. ``bad_step`` is the first step whose loss was not finite, or -1."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    bad_step: jax.Array


# ------------------------------------------------------------------------------------------- model, optimiser, noise

def noise_mode(config: IndiConfig) -> schedules.NoiseMode:
    """The noise mode of the path."""
    return schedules.noise_from_json({"name": config.noise, "eps": config.eps})


def make_optimizer(config: IndiConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay."""
    warmup = min(config.warmup_steps, max(config.num_steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(config.num_steps, warmup + 1),
                                                  min(config.final_learning_rate, config.learning_rate))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm),
                       optax.adamw(schedule, weight_decay=config.weight_decay))


def init_state(config: IndiConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """Fresh state; a pure function of the seed, to be jitted."""
    image, t = jnp.zeros((1, config.crop, config.crop, 3)), jnp.ones(1)
    inputs = (image, t, image) if getattr(config.model, "condition_on_y", False) else (image, t)
    params = config.model.init(jax.random.key(config.seed), *inputs)
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params),
                      jnp.full((), -1, jnp.int32))


# ---------------------------------------------------------------------------------------------------- one step

def make_pairs(config: IndiConfig, batch: dict, keys) -> tuple[jax.Array, jax.Array]:
    """A uint8 batch as (x, y) in ``[-1, 1]``; degrades it where the data is not in pairs."""
    x = batch["image"].astype(jnp.float32) / 127.5 - 1
    if "measurement" in batch:
        y = batch["measurement"].astype(jnp.float32) / 127.5 - 1
        if y.shape != x.shape:
            raise ValueError(f"measurements of shape {y.shape[1:3]} for pictures of {x.shape[1:3]}: enlarge them first")
        return x, y
    y = config.degradation(x, keys=rng.fold(keys, _DEGRADE))
    inner = slice(config.margin, config.margin + config.crop)
    return x[:, inner, inner], y[:, inner, inner]


def train_step(config: IndiConfig, optimizer, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """One optimiser step. Randomness comes from (seed, step, slot in the batch) alone."""
    slots = jnp.arange(batch["image"].shape[0], dtype=jnp.uint32)
    step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, slots)
    x, y = make_pairs(config, batch, keys)

    def loss_fn(params):
        conditioned = getattr(config.model, "condition_on_y", False)
        restorer = denoisers.restorer(functools.partial(config.model.apply, params), y=y if conditioned else None)
        return jnp.mean(losses.indi(restorer, x, y, rng.fold(keys, _LOSS), noise=noise_mode(config), loss=config.loss,
                                    a=config.a))

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    k = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.ema, (1 + k) / (10 + k))
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
    is_bad = (state.bad_step < 0) & ~jnp.isfinite(loss)
    bad_step = jnp.where(is_bad, state.step, state.bad_step)
    return (TrainState(state.step + 1, params, ema, opt_state, bad_step),
            {"loss": loss, "grad_norm": optax.tree.norm(grads)})


# ---------------------------------------------------------------------------------------------------- evaluation

class Evaluation:
    """Restores the same few held-out pictures every time: PSNR, and a picture of input | output | truth."""

    def __init__(self, config: IndiConfig, source, count: int = 8):
        size = min(192, max(config.crop, 96)) // 32 * 32 + 2 * config.margin
        batch = next(data.evaluation_batches(source, batch_size=min(count, len(source)), crop=size))
        self.keys = rng.image_keys(config.seed, batch["id"])
        eval_config = dataclasses.replace(config, crop=size - 2 * config.margin)
        self.x, self.y = jax.jit(functools.partial(make_pairs, eval_config))(
            {name: batch[name] for name in ("image", "measurement") if name in batch}, self.keys)
        conditioned = getattr(config.model, "condition_on_y", False)

        @jax.jit
        def restore(params, y, keys):
            restorer = denoisers.restorer(functools.partial(config.model.apply, params), noise=noise_mode(config),
                                          y=y if conditioned else None)
            kernel = samplers.indi(restorer, config.eval_steps, noise=noise_mode(config))
            return samplers.sample(kernel, keys, y)[0]

        self.restore = restore

    def __call__(self, params, path: pathlib.Path) -> tuple[dict, np.ndarray]:
        """Scores (PSNR of the output and its gain over the input) and the picture, also written to ``path``."""
        x, y, out = (np.asarray(a) for a in (self.x, self.y, self.restore(params, self.y, self.keys)))
        gain = metrics.psnr(out, x) - metrics.psnr(y, x)
        pixels = images.grid([[*row] for row in zip(y, out, x)])
        images.write(path, pixels)
        scores = {"eval_psnr": float(metrics.psnr(out, x).mean()), "eval_psnr_gain": float(gain.mean())}
        return scores, np.asarray(np.clip(np.round((np.asarray(pixels) + 1) * 127.5), 0, 255), np.uint8)


# ---------------------------------------------------------------------------------------------------- data

def open_data(config: IndiConfig, split: str):
    """The source of pictures; refuses a mix-up of paired data and a degradation."""
    source = data.open_source(config.data, split=split, cache=config.cache)
    paired = "measurement" in source[0]
    if paired and config.degradation is not None:
        raise ValueError(f"{config.data} holds pairs but the config degrades pictures itself: use a config without a "
                         "degradation (indi_gopro, indi_dpdd) or a folder of clean pictures")
    if not paired and config.degradation is None:
        raise ValueError(f"{config.data} holds no pairs: give --data gopro:FOLDER or --data "
                         "pairs:SHARP_FOLDER,BLURRED_FOLDER")
    return source


def config_to_json(config: IndiConfig) -> dict:
    """What is written beside the checkpoints, enough to rebuild the network and to sample from it rightly."""
    fields = {name: value for name, value in vars(config).items() if name not in ("model", "degradation")}
    return {**common.module_to_json(config.model), "noise": schedules.noise_to_json(noise_mode(config)),
            "loss": config.loss, "range": [-1, 1], "tasks": list(config.tasks), "steps": config.eval_steps,
            "degradation": str(config.degradation), "code": common.code_version(),
            "config": {**fields, "tasks": list(config.tasks)}}


# ---------------------------------------------------------------------------------------------------- the run

def train(config: IndiConfig, mesh: jax.sharding.Mesh | None = None) -> TrainState:
    """Run (or continue) a training on a mesh (default: all devices) and return its final state."""
    if not config.data or not config.workdir:
        raise ValueError("say where the pictures are and where the run goes: --data PATH --workdir FOLDER")
    workdir = pathlib.Path(config.workdir)
    mesh = sharding.data_mesh() if mesh is None else mesh
    sharding.check_batch_size(config.batch_size, mesh)

    # ---- data
    source = open_data(config, "train")
    crop = config.crop + (2 * config.margin if config.degradation is not None else 0)
    stream = data.pipeline(source, batch_size=config.batch_size, crop=crop, seed=config.seed,
                           num_threads=config.data_threads, process_index=jax.process_index(),
                           process_count=jax.process_count())
    batches = iter(stream)

    # ---- state
    optimizer = make_optimizer(config)
    init = jax.jit(functools.partial(init_state, config, optimizer), out_shardings=sharding.replicated(mesh))
    state = init()
    step_fn = jax.jit(functools.partial(train_step, config, optimizer), donate_argnums=0,
                      out_shardings=sharding.replicated(mesh))

    # ---- resume: newest whole step of parameters, optimiser, average and position in the data; or given weights
    _check_same_network(workdir, config)
    checkpoints.write_config(workdir, config_to_json(config))
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(checkpoints.manager(workdir))
        if manager.latest_step() is not None:
            restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_abstract(state, sharding.replicated(mesh))),
                data=grain.checkpoint.CheckpointRestore(batches)))
            state = TrainState(**restored["state"])
        elif config.start_from:
            state = _start_from(config, state, mesh)
        start = int(state.step)
        if start >= config.num_steps:
            print(f"{workdir} has already run its {config.num_steps} steps", file=sys.stderr)
            return state

        def save(step):
            if int(state.bad_step) >= 0:
                raise FloatingPointError(f"the loss was not finite at step {int(state.bad_step)}; the newest good "
                                         f"checkpoint is step {manager.latest_step()}. Lower --learning-rate")
            manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()),
                                                       data=grain.checkpoint.CheckpointSave(batches)))

        # ---- loop
        evaluation = Evaluation(config, _held_out(config)) if config.eval_every else None
        logger = stack.enter_context(common.Logger(
            workdir, ("loss", "grad_norm", "images_per_second", "eval_psnr", "eval_psnr_gain"), start=start))
        bar = stack.enter_context(tqdm(total=config.num_steps, initial=start, unit="step", mininterval=1.0,
                                       disable=jax.process_index() > 0))
        since, mark = time.perf_counter(), start
        for step in range(start, config.num_steps):
            state, values = step_fn(state, sharding.put_batch(next(batches), mesh))
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == config.num_steps:
                values = {name: float(value) for name, value in values.items()}
                rate = (done - mark) * config.batch_size / (time.perf_counter() - since)
                bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_s=f"{rate:.1f}")
                logger.scalars(done, {**values, "images_per_second": rate})
                since, mark = time.perf_counter(), done
                if int(state.bad_step) >= 0:
                    save(done)  # raises, naming the step
            if done % config.checkpoint_every == 0 or done == config.num_steps:
                save(done)
            if evaluation and (done % config.eval_every == 0 or done == config.num_steps):
                scores, pixels = evaluation(state.ema, workdir / "pictures" / f"{done:07d}.png")
                logger.scalars(done, scores)
                logger.picture("input, output, truth", done, pixels)
                bar.write(f"step {done}: " + ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items()))
                since, mark = time.perf_counter(), done
        manager.wait_until_finished()
    return state


def _check_same_network(workdir, config):
    """Refuse to continue a run with another network."""
    if checkpoints.latest_step(workdir) is None:
        return
    stored, wanted = checkpoints.read_config(workdir), json.loads(json.dumps(common.module_to_json(config.model)))
    if {name: stored[name] for name in wanted} != wanted:
        raise ValueError(f"{workdir} holds a run of {stored['architecture']}({stored['arguments']}), not of the "
                         f"config's {wanted['architecture']}({wanted['arguments']}): give another --workdir")


def _start_from(config, state, mesh):
    """The fresh state with parameters out of a weights file; refuses another network or noise mode."""
    module, params, info = weights.load(config.start_from)
    if module != config.model:
        raise ValueError(f"--start-from {config.start_from} holds {module!r}, but the config trains {config.model!r}")
    if schedules.noise_from_json(info["noise"]) != noise_mode(config):
        raise ValueError(f"--start-from {config.start_from} was trained with {info['noise']}; say the same with "
                         "--noise and --eps")
    params, ema = jax.device_put((params, jax.tree.map(np.copy, params)), sharding.replicated(mesh))
    return state._replace(params=params, ema=ema)


def _abstract(state, placement):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placement), state._asdict())


def _held_out(config):
    try:
        return open_data(config, "val")
    except (ValueError, FileNotFoundError):
        return open_data(config, "train")  # no held-out split: pictures of the training set, good enough to look at


def main(argv=None) -> int:
    """Command line; see the module's text."""
    config = common.config_from_command_line(argv)
    try:
        train(config)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"train.indi: {error}", file=sys.stderr)
        return 2 if not isinstance(error, FloatingPointError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
