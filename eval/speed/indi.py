"""What InDI costs: its sampler, a training step, the gradient of a rollout; see :mod:`eval.benchmark`."""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from eval.speed.measuring import Program, flops, parameter_count, random_arrays, scaled, shapes
from indigo_jax import models, operators, rng, samplers, sharding

COLUMNS = (("task", "task", "s"), ("network", "network", "s"), ("parameters", "params", ",d"),
           ("batch", "batch", "d"), ("image_size", "size", "d"), ("num_steps", "steps", "d"),
           ("convolution", "conv", "s"), ("remat", "remat", ""), ("images_per_second", "images/s", ".3g"),
           ("run_seconds_min", "min s", ".4g"), ("run_seconds_median", "median s", ".4g"),
           ("compile_seconds", "compile s", ".3g"), ("flops_per_image", "GFLOP/image", scaled(1e9)),
           ("peak_bytes", "peak MB", scaled(1e6)))


def _inputs(module, size, batch):
    """Random parameters, pictures and keys, placed on the devices."""
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    y = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    return (jax.device_put(random_arrays(shapes(module)), sharding.replicated(mesh)),
            *jax.device_put((y, rng.image_keys(0, np.arange(batch))), sharding.batch_sharding(mesh)))


def rollout(module, params, y, keys, *, num_steps: int, remat: bool = False):
    """InDI from y with ``num_steps`` steps."""
    kernel = samplers.indi(functools.partial(module.apply, params), num_steps)
    return samplers.sample(kernel, keys, y, remat=remat)[0]


def _sample(module, size, batch, num_steps):
    params, y, keys = _inputs(module, size, batch)
    operations = num_steps * flops(module.apply, params, y, jnp.ones(batch))
    return jax.jit(functools.partial(rollout, module, num_steps=num_steps)), (params, y, keys), operations


def _rollout_gradient(module, size, batch, num_steps, remat):
    """Gradient of the restored pictures with respect to the measurement."""
    params, y, keys = _inputs(module, size, batch)

    def total(y, params, keys):
        return jnp.sum(rollout(module, params, y, keys, num_steps=num_steps, remat=remat) ** 2)

    plain, t = module.clone(convolution="plain"), jnp.ones(batch)  # of the other one XLA would also count dead code
    forward = flops(plain.apply, params, y, t)
    both = flops(jax.grad(lambda y, params: jnp.sum(plain.apply(params, y, t) ** 2)), y, params)
    operations = num_steps * (both + forward * remat)
    return jax.jit(jax.grad(total)), (y, params, keys), operations


def _train_step(module, size, batch):
    """``train.indi``'s own step: degradation on the device, loss, gradient, AdamW, moving average."""
    from train import indi, loop
    config = indi.IndiConfig(model=module, degradation=operators.photo_mixture(), batch_size=batch,
                             crop=size, margin=16)
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    optimizer = loop.make_optimizer(config)
    state = jax.jit(lambda: loop.init_state(config, optimizer), out_shardings=sharding.replicated(mesh))()
    side = size + 2 * config.margin
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    arguments = state, sharding.put_batch({"image": pictures}, mesh)
    step = jax.jit(functools.partial(indi.train_step, config, optimizer), donate_argnums=0,
                   out_shardings=sharding.replicated(mesh))
    return step, arguments, float(step.lower(*arguments).cost_analysis()["flops"])


def networks(large: bool) -> dict:
    """The network that ships, and those of paper-like sizes, by name."""
    try:
        from train.configs import indi_photo_small
    except ImportError as error:
        raise ImportError(f'the benchmark of training needs: pip install "indigo_jax[train]" ({error})') from error
    chosen = {"indi-photo": indi_photo_small.get_config().model, "6.5M": models.RestorationUNet(width=32)}
    return {**chosen, "26M": models.RestorationUNet(width=64)} if large else chosen


def indi(args) -> list[Program]:
    """Sampling and training for each network and size; both convolutions through a rollout, for the first network."""
    chosen, batches = networks(args.large), args.batch or [8]

    def program(task, name, make, module, size, batch, num_steps, *more, carries=False, convolution="plain",
                remat=False):
        facts = {"benchmark": "indi", "task": task, "network": name, "parameters": parameter_count(module),
                 "batch": batch, "image_size": size, "num_steps": num_steps, "convolution": convolution, "remat": remat}
        return Program(facts, functools.partial(make, module, size, batch, *more), carries)

    programs = []
    for (name, module), size, batch in itertools.product(chosen.items(), args.sizes, batches):
        programs += [program("sample", name, _sample, module, size, batch, n, n) for n in args.steps]
        programs.append(program("train_step", name, _train_step, module, size, batch, 1, carries=True))
    name, module = next(iter(chosen.items()))
    size, batch, steps = min(args.sizes), args.rollout_batch or min(batches), args.rollout_steps
    for convolution, remat in itertools.product(("plain", "flipped"), (False, True)):
        programs.append(program("rollout_gradient", name, _rollout_gradient, module.clone(convolution=convolution),
                                size, batch, steps, steps, remat, convolution=convolution, remat=remat))
    return programs
