"""What memory each method takes for one picture, beside what one call of its network takes; see
:mod:`eval.benchmark`. Programs are compiled and not run."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from eval.problems import FACTOR
from eval.speed.measuring import memory, scaled
from indigo_jax import images, methods, operators

COLUMNS = (("method", "method", "s"), ("task", "task", "s"), ("weights", "network", "s"), ("image_size", "size", "d"),
           ("tile", "tile", "d"), ("differentiated", "differentiated", str), ("peak_bytes", "peak MB", scaled(1e6)),
           ("call_bytes", "a call MB", scaled(1e6)), ("over_call", "peak/call", ".2f"))
NOTES = ("size: the side of the result; peak: of the whole program, weights, pictures and temporaries; a call: of the "
         "network on one tile, with its gradient where the method takes that, which no program can do without",)
_KERNEL = 9  # side of the blur


class _Asked(Exception):
    """Carries what a program would have been given."""


def peaks(args) -> list:
    """A row of each method, on the first of its tasks that takes a picture, for each size."""
    return [functools.partial(row, name, size) for size in args.sizes for name in methods.METHODS]


def row(name: str, size: int) -> dict:
    """The memory of a method, its bundled network and usual settings, for one picture of ``size x size`` pixels."""
    method, picture = _ready(name, size)
    function, arguments, plan = _program(method, picture)
    network = next(iter(method.networks.values()))
    differentiated = method.effort > 1
    device = jax.devices()[0]
    peak = memory(function.lower(*arguments[:3], plan=plan, given=arguments[3]).compile())["peak_bytes"]
    call = memory(_call(network, method.piece(plan), differentiated).compile())["peak_bytes"]
    return {"benchmark": "peaks", "method": name, "task": method.task, "weights": network.name, "image_size": size,
            "tile": plan.tile[0], "differentiated": differentiated, "peak_bytes": peak, "call_bytes": call,
            "over_call": peak / call, "repeats": 0, "device_count": 1, "device_kind": device.device_kind,
            "platform": device.platform, "jax_version": jax.__version__}


def _ready(name, size):
    kind = methods.METHODS[name]
    task = next(task for task in ("deblur", "auto", "denoise", "sr", "jpeg") if task in kind.tasks)
    settings = {}
    if task == "deblur" and "kernel" in kind.Settings.__dataclass_fields__ and name != "blind":
        settings["kernel"] = np.asarray(operators.gaussian_kernel(1.0, _KERNEL))
    side = size // FACTOR if task == "sr" else size
    random = np.random.default_rng(0)
    picture = images.Picture(random.uniform(-1, 1, (side, side, 3)).astype(np.float32))
    return methods.load(name, task=task, **settings), picture


def _program(method, picture):
    """The method's jitted function and what it is called with, ``(params, y, keys, given)``, and the plan."""
    def asked(y, keys, plan, given, device=None, progress=None):
        raise _Asked(y, keys, plan, given)

    method.run = asked
    try:
        method(picture)
    except _Asked as found:
        y, keys, plan, given = found.args
        return method._solve, (method.params, y, keys, given), plan
    raise AssertionError(f"{method.name} ran no program")


def _call(network, shape, differentiated):
    """The lowered program of one call."""
    def once(params, x, t):
        return network.module.apply(params, x, t)

    def gradient(params, x, t):
        return jax.grad(lambda x: jnp.sum(once(params, x, t)))(x)

    return jax.jit(gradient if differentiated else once).lower(
        network.params, np.zeros(shape, np.float32), np.ones(1, np.float32))
