"""The run itself, the same for every training script: state, optimiser step, resume, loop, checkpoints, logs.

Runs on one CPU, one GPU or a pod slice with the same command: the batch is split over all devices of all processes,
parameters are replicated (or split, with --fsdp); see :mod:`indigo_jax.sharding`. Killed at any moment and started
again with the same command, on any number of devices and processes, a run goes on from the newest whole checkpoint and
ends with the parameters of an uninterrupted one.

A script is the module that its config's class is in. It has:

    inputs(config)                               arrays that the network is initialised with
    train_step(config, optimizer, state, batch)  -> (state, values), made with :func:`update`
    evaluation(config, source)                   -> evaluate; ``evaluate(params) -> (scores, rows)`` looks at averaged
                                                 parameters, always on the same pictures and noise; rows of pictures
                                                 float ``[H, W, 3]`` in [-1, 1]
    COLUMNS, CAPTION                             names of the scores; what the rows show
    open_data(config, split)                     the pictures, as :func:`open_pictures`
    feed(config, mesh, source)                   what is read of them: :class:`Feed`
    config_to_json(config)                       what config.json will hold, made with :func:`common.description`
    KEPT, FITTING                                names in it, beside the network: what a run may not change when it is
                                                 continued; what weights to start from must have been trained with
"""
import contextlib
import functools
import json
import pathlib
import sys
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from indigo_jax import checkpoints, data, images, sharding, weights
from train import common, distributed
from train.run_config import RunConfig
from train.saving import Saver, Stop

_EXPENSIVE = ("conv_general_dilated", "dot_general")  # what the backward pass should not compute again
# what a run may change when it is continued, but not silently
_SAID = ("num_steps", "batch_size", "learning_rate", "final_learning_rate", "warmup_steps", "weight_decay", "ema",
         "crop", "data", "seed", "decay")
_LARGE_CROP = 48  # pixels of a side below which compiling takes more than such gradients save


class TrainState(NamedTuple):
    """Everything a step needs. ``bad_step`` is the first step whose loss or gradient was not finite, or -1."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    bad_step: jax.Array


class Feed(NamedTuple):
    """What a run reads.

    Attributes:
        source: of the pictures.
        crop, augment: see :func:`data.pipeline`.
        prepare: ``prepare(batch, step) -> batch``: what a frozen network makes of a batch on the devices before the
            step of that number, from 0.
    """

    source: Any
    crop: int | None
    augment: bool | str = True
    prepare: Callable | None = None


def script(config):
    """The module that trains a config: the one that its class is in."""
    return sys.modules[type(config).__module__]


def make_optimizer(config: RunConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and the config's decay."""
    warmup = min(config.warmup_steps, max(config.num_steps // 10, 1))
    if config.decay == "constant":
        schedule = optax.linear_schedule(0.0, config.learning_rate, warmup)
    else:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, warmup, max(config.num_steps, warmup + 1),
            min(config.final_learning_rate, config.learning_rate))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm),
                       optax.adamw(schedule, weight_decay=config.weight_decay))


def init_state(config: RunConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; a pure function of the seed, to be jitted."""
    params = config.model.init(jax.random.key(config.seed), *script(config).inputs(config))
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params),
                      jnp.full((), -1, jnp.int32))


def step_keys(seed: int, step: jax.Array, count: int) -> jax.Array:
    """Keys ``[count]`` of a step's pictures: they come from (seed, step, slot in the batch) alone."""
    slots = jnp.arange(count, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(jax.random.key(seed), step), slots)


def in_unit_range(pixels: jax.Array) -> jax.Array:
    """uint8 as float32 in ``[-1, 1]``."""
    return pixels.astype(jnp.float32) / 127.5 - 1


def network(config: RunConfig):
    """The config's network with its switches for precision and memory, and with the convolution whose gradients are
    fast on a CPU (on other devices they are the compiler's own) where crops are not small; the parameters are the same
    float32 ones."""
    changes = {"convolution": "flipped"} if hasattr(config.model, "convolution") and config.crop >= _LARGE_CROP else {}
    if config.precision != "network":
        changes["dtype"] = jnp.dtype(config.precision)
    if config.remat == "blocks":
        changes["remat"] = True
    return config.model.clone(**changes) if changes else config.model


def update(config: RunConfig, optimizer, state: TrainState, loss_fn: Callable, *batch) -> tuple[TrainState, dict]:
    """One optimiser step on ``loss_fn(params, *batch)``, and the moving average of the parameters.

    ``batch``: trees whose arrays (keys too) all begin with the batch. The loss must be a mean over it and without
    anything else that its pictures share, so that it can be taken in ``config.accumulate`` microbatches; levels or
    times that are drawn for the batch as a whole belong into ``batch``.
    """
    return applied(config, optimizer, state, *_value_and_grad(config, loss_fn, state.params, batch))


def applied(config: RunConfig, optimizer, state: TrainState, loss, grads) -> tuple[TrainState, dict]:
    """What :func:`update` does with a loss and its gradient."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    k = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.ema, (1 + k) / (10 + k))
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
    grad_norm = optax.tree.norm(grads)
    is_bad = (state.bad_step < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
    bad_step = jnp.where(is_bad, state.step, state.bad_step)
    return TrainState(state.step + 1, params, ema, opt_state, bad_step), {"loss": loss, "grad_norm": grad_norm}


def _value_and_grad(config, loss_fn, params, batch):
    """Loss and gradient, from one pass or the mean of those of the microbatches."""
    def whole(params, *batch):
        return loss_fn(sharding.gathered(params, rules=config.sharding_rules), *batch)

    if config.remat == "convolutions":
        whole = jax.checkpoint(whole, policy=lambda primitive, *_, **__: primitive.name in _EXPENSIVE)
    if config.accumulate == 1:
        return jax.value_and_grad(whole)(params, *batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(whole)(params, *part)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, jax.tree.map(lambda rows: _microbatches(rows, config.accumulate), batch))
    return jax.tree.map(lambda value: value / config.accumulate, total)


def _microbatches(rows, parts):
    """``[B, ...] -> [parts, B / parts, ...]``; every part has rows of every device, so that nothing moves."""
    rows = jnp.swapaxes(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 0, 1)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh is None or mesh.empty:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(None, mesh.axis_names))


def jit_step(train_step: Callable, mesh: Mesh, shardings) -> Callable:
    """``train_step(state, batch)`` compiled for a mesh: the state stays where it is (and is given up)."""
    def step(state, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return train_step(state, batch)

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))


def train(config: RunConfig, mesh: Mesh | None = None) -> TrainState:
    """Run (or continue) the training of a config and return its final state.

    Args:
        config: of a script.
        mesh: from :func:`sharding.mesh`, default: of all devices; batches are split over all of it.

    Errors:
        ValueError for what does not fit together, FileNotFoundError for data that is not there, FloatingPointError for
        a loss that is not finite.
    """
    if not config.data or not config.workdir:
        raise ValueError("say where the pictures are and where the run goes: --data PATH --workdir FOLDER")
    mesh = sharding.mesh(fsdp=config.fsdp) if mesh is None else mesh
    sharding.check_batch_size(config.batch_size, mesh, parts=config.accumulate)
    trainer, workdir, optimizer = script(config), pathlib.Path(config.workdir), make_optimizer(config)

    # ---- data: each process reads its rows of every batch
    source = _whole(trainer.open_data(config, "train"))
    fresh = functools.partial(init_state, config, optimizer)
    shardings = sharding.parameter_shardings(jax.eval_shape(fresh), mesh, rules=config.sharding_rules)
    source, crop, augment, prepare = trainer.feed(config, mesh, source)
    batches = iter(data.pipeline(
        source, batch_size=config.batch_size, crop=crop, seed=config.seed, augment=augment,
        num_threads=config.data_threads, rows=sharding.process_rows(config.batch_size, mesh)))

    # ---- state
    state = jax.jit(fresh, out_shardings=shardings)()
    step_fn = jit_step(functools.partial(trainer.train_step, config, optimizer), mesh, shardings)

    # ---- resume: newest whole step of parameters, optimiser, average and position in the data; or given weights
    description, columns = trainer.config_to_json(config), trainer.COLUMNS
    _check_same_run(workdir, description, trainer.KEPT)
    if config.best_by and config.best_by.removeprefix("-") not in columns:
        raise ValueError(f"best_by names {config.best_by.removeprefix('-')!r}; the scores are {', '.join(columns)}")
    checkpoints.write_config(workdir, description)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(Stop())
        saver = stack.enter_context(Saver(workdir, keep_best=config.keep_best, best_by=config.best_by))
        if saver.step is not None:
            restored, position = saver.restore(state._asdict())
            state = TrainState(**restored)
            batches.set_state(position)
        elif config.start_from:
            state = _state_from_weights(config, state, description, trainer.FITTING)
        start = int(state.step)
        if start >= config.num_steps:
            print(f"{workdir} has already run its {config.num_steps} steps", file=sys.stderr)
            return state

        def save(step):
            if int(state.bad_step) >= 0:
                saver.announce(wait=True)
                raise FloatingPointError(f"the loss or its gradient was not finite at step {int(state.bad_step)}; the "
                                         f"newest good checkpoint is step {saver.step}. Lower --learning-rate")
            saver.save(step, state._asdict(), batches.get_state())

        # ---- loop
        is_first, evaluate, logger = jax.process_index() == 0, None, None
        if is_first:
            evaluate = config.eval_every and trainer.evaluation(config, held_out(config))
            logger = common.Logger(workdir, ("loss", "grad_norm", "images_per_second", *columns), start=start)
            stack.callback(logger.close)
        bar = stack.enter_context(tqdm(total=config.num_steps, initial=start, unit="step", mininterval=1.0,
                                       disable=not is_first))
        saver.say = functools.partial(bar.write, file=sys.stderr)
        since, mark = time.perf_counter(), start
        for step in range(start, config.num_steps):
            batch = sharding.put_batch(next(batches), mesh)
            state, values = step_fn(state, prepare(batch, step) if prepare else batch)
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == config.num_steps:
                values = {name: float(value) for name, value in values.items()}
                rate = (done - mark) * config.batch_size / (time.perf_counter() - since)
                bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_s=f"{rate:.1f}")
                if logger:
                    logger.scalars(done, {**values, "images_per_second": rate})
                since, mark = time.perf_counter(), done
                if int(state.bad_step) >= 0:
                    save(done)  # raises, naming the step
            saver.announce()
            stopped = stop(done)
            if done % config.checkpoint_every == 0 or done == config.num_steps or stopped:
                save(done)
            if config.eval_every and not stopped and (done % config.eval_every == 0 or done == config.num_steps):
                is_whole = mesh.shape.get("fsdp", 1) == jax.process_count() == 1
                averages = state.ema if is_whole else sharding.gather(state.ema)  # all processes together
                scores = {}
                if evaluate:
                    scores, rows = evaluate(averages)
                    pixels = as_pixels(images.grid(rows))
                    images.write(workdir / "pictures" / f"{done:07d}.png", pixels)
                    logger.scalars(done, scores)
                    logger.picture(trainer.CAPTION, done, pixels)
                    bar.write(f"step {done}: {_text(scores)}")
                saver.save_best(done, state._asdict(), scores)
                since, mark = time.perf_counter(), done
            if stopped:
                break
        saver.announce(wait=True)
        if done < config.num_steps and is_first:
            bar.write(f"stopped by SIGTERM after step {done} of {config.num_steps}: the same command goes on",
                      file=sys.stderr)
    return state


def _text(scores):
    return ", ".join(f"{name} {value:.2f} dB" if "psnr" in name else f"{name} {value:.4g}"
                     for name, value in scores.items())


def _check_same_run(workdir, description, kept):
    """Refuse to continue a run with another network, or with other facts of those that are kept."""
    if checkpoints.latest_step(workdir) is None:
        return
    stored, wanted = checkpoints.read_config(workdir), json.loads(json.dumps(description))
    if any(stored.get(name) != wanted[name] for name in ("architecture", "arguments")):
        raise ValueError(f"{workdir} holds a run of {stored['architecture']}({stored['arguments']}), not of the "
                         f"config's {wanted['architecture']}({wanted['arguments']}): give another --workdir")
    for name in kept:
        if stored.get(name) != wanted.get(name):
            raise ValueError(f"{workdir} holds a run with {name} {stored.get(name)}, not the config's "
                             f"{wanted.get(name)}: give another --workdir")
    before, now = stored.get("config", {}), wanted.get("config", {})
    changed = [f"{name} {before[name]} -> {now.get(name)}" for name in _SAID
               if name in before and before[name] != now.get(name)]
    if changed and jax.process_index() == 0:
        print(f"{workdir}: goes on with {', '.join(changed)}; the learning rate is that of the new numbers at this "
              "step", file=sys.stderr)


def _state_from_weights(config, state, description, fitting):
    """The fresh state with parameters out of the file ``config.start_from``; refuses those of another network."""
    module, params, info = weights.load(config.start_from)
    if module != config.model:
        raise ValueError(f"--start-from {config.start_from} holds {module!r}, but the config trains {config.model!r}")
    for name in fitting:
        if name in info and info[name] != description.get(name):  # weights of another kind have no such thing
            raise ValueError(f"--start-from {config.start_from} was trained with {name} {info.get(name)}, the config "
                             f"says {description.get(name)}")
    placed = jax.tree.map(lambda leaf, fresh: jax.device_put(leaf, fresh.sharding), params, state.params)
    return state._replace(params=placed, ema=jax.tree.map(jnp.copy, placed))


def open_pictures(config: RunConfig, split: str, *, cache: bool = True):
    """The source of the config's clean pictures, kept in memory if config and ``cache`` say so.

    Errors:
        ValueError for pairs.
    """
    source = data.open_source(config.data, split=split, cache=config.cache and cache)
    if "measurement" in source[0]:
        raise ValueError(f"{config.data} holds pairs, and this training takes clean pictures alone: give a folder or a "
                         "pack of them")
    return source


def held_out(config: RunConfig):
    """The source of the split "val", or without it pictures of the training set, good enough to look at.

    Errors:
        ValueError for pictures that are there and cannot be read.
    """
    try:
        return _whole(script(config).open_data(config, "val"))
    except images.ImageError:
        raise
    except (ValueError, FileNotFoundError):
        return script(config).open_data(config, "train")


def _whole(source):
    """The source, of which every process sees as many pictures and can read each; else all of them stop here.

    Errors:
        ImageError that names damaged pictures, ValueError for unlike numbers of them.
    """
    reasons = data.damaged(source)
    for reason in reasons[1:6]:
        print(reason, file=sys.stderr)
    found = multihost_utils.process_allgather(np.asarray([len(source), len(reasons)], np.int32)).reshape(-1, 2)
    if reasons:
        raise images.ImageError(reasons[0] + f" ({len(reasons)} such in {len(source)} pictures)" * (len(reasons) > 1))
    if found[:, 1].any():
        raise images.ImageError("another process cannot read some of the pictures and says which")
    counts = np.unique(found[:, 0])
    if len(counts) > 1:
        raise ValueError(f"the processes see {' and '.join(map(str, counts))} pictures: give all the same --data")
    return source


def as_pixels(picture) -> np.ndarray:
    """``[H, W, 3]`` in ``[-1, 1]`` as uint8."""
    return np.asarray(np.clip(np.round((np.asarray(picture) + 1) * 127.5), 0, 255), np.uint8)


def main(name: str, argv=None) -> int:
    """Command line of a script: the exit code, and one line for whatever is wrong."""
    arguments = distributed.from_command_line(name, argv)
    try:
        train(common.config_from_command_line(arguments, program=name, kind=RunConfig))
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    return 0
