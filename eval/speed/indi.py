"""What InDI costs: its sampler, a training step, the gradient of a rollout; see :mod:`eval.benchmark`."""
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.speed.measuring import Program, flops, parameter_count, random_parameters, scaled, shapes
from indigo_jax import models, operators, rng, samplers, sharding

COLUMNS = (("task", "task", "s"), ("network", "network", "s"), ("parameters", "params", ",d"),
           ("batch", "batch", "d"), ("image_size", "size", "d"), ("num_steps", "steps", "d"),
           ("convolution", "conv", "s"), ("remat", "remat", ""), ("images_per_second", "images/s", ".3g"),
           ("run_seconds_min", "min s", ".4g"), ("run_seconds_median", "median s", ".4g"),
           ("compile_seconds", "compile s", ".3g"), ("flops_per_image", "GFLOP/image", scaled(1e9)),
           ("peak_bytes", "peak MB", scaled(1e6)))


class Setting(NamedTuple):
    """A network and its inputs, placed on the devices."""

    module: Any
    params: Any
    y: jax.Array
    keys: jax.Array


def setting(module, *, size: int, batch: int) -> Setting:
    """Random parameters and pictures: speed does not depend on the values."""
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    params = jax.device_put(random_parameters(shapes(module)), sharding.replicated(mesh))
    y = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    place = sharding.batch_sharding(mesh)
    return Setting(module, params, jax.device_put(y, place),
                   jax.device_put(rng.image_keys(0, np.arange(batch)), place))


def rollout(module, params, y, keys, *, num_steps: int, remat: bool = False):
    """InDI from y with ``num_steps`` steps."""
    kernel = samplers.indi(functools.partial(module.apply, params), num_steps)
    return samplers.sample(kernel, keys, y, remat=remat)[0]


def _sample(module, size, batch, num_steps):
    module, params, y, keys = setting(module, size=size, batch=batch)
    operations = num_steps * flops(module.apply, params, y, jnp.ones(batch))
    return jax.jit(functools.partial(rollout, module, num_steps=num_steps)), (params, y, keys), operations


def _rollout_gradient(module, size, batch, num_steps, remat):
    """Gradient of the restored pictures with respect to the measurement."""
    inputs = setting(module, size=size, batch=batch)

    def total(y, params, keys):
        return jnp.sum(rollout(module, params, y, keys, num_steps=num_steps, remat=remat) ** 2)

    plain, t = module.clone(convolution="plain"), jnp.ones(batch)  # of the other one XLA would also count dead code
    forward = flops(plain.apply, inputs.params, inputs.y, t)
    both = flops(jax.grad(lambda y, params: jnp.sum(plain.apply(params, y, t) ** 2)), inputs.y, inputs.params)
    operations = num_steps * (both + forward * remat)
    return jax.jit(jax.grad(total)), (inputs.y, inputs.params, inputs.keys), operations


def _train_step(module, size, batch):
    """``train.indi``'s own step: degradation on the device, loss, gradient, AdamW, moving average."""
    from train import indi
    config = indi.IndiConfig(model=module, degradation=operators.photo_mixture(), batch_size=batch,
                             crop=size, margin=16)
    mesh = sharding.data_mesh()
    sharding.check_batch_size(batch, mesh)
    optimizer = indi.make_optimizer(config)
    template = jax.eval_shape(functools.partial(indi.init_state, config, optimizer))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    state = state._replace(params=random_parameters(template.params), ema=random_parameters(template.ema),
                           bad_step=np.full((), -1, np.int32))
    state = jax.device_put(state, sharding.replicated(mesh))
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
    programs, chosen, batches = [], networks(args.large), args.batch or [8]
    for name, module in chosen.items():
        for size, batch in itertools.product(args.sizes, batches):
            facts = {"benchmark": "indi", "network": name, "parameters": parameter_count(module), "batch": batch,
                     "image_size": size, "convolution": "plain", "remat": False}
            programs += [Program({"task": "sample", **facts, "num_steps": n},
                                 functools.partial(_sample, module, size, batch, n)) for n in args.steps]
            programs.append(Program({"task": "train_step", **facts, "num_steps": 1},
                                    functools.partial(_train_step, module, size, batch), carries=True))
    name, module = next(iter(chosen.items()))
    size, batch = min(args.sizes), args.rollout_batch or min(batches)
    for convolution in ("plain", "flipped"):
        for remat in (False, True):
            facts = {"benchmark": "indi", "task": "rollout_gradient", "network": name,
                     "parameters": parameter_count(module), "batch": batch, "image_size": size,
                     "convolution": convolution, "remat": remat, "num_steps": args.rollout_steps}
            programs.append(Program(facts, functools.partial(_rollout_gradient, module.clone(convolution=convolution),
                                                             size, batch, args.rollout_steps, remat)))
    return programs
