"""What an iteration of BIRD costs: time, memory, operations; see :mod:`eval.benchmark`."""
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.speed import twins
from eval.speed.measuring import (
    Program, flops, interleaved, measure, parameter_count, peak_share, random_arrays, scaled, shapes)
from indigo_jax import denoisers, models, operators, restoration, rng, schedules, sharding


class Mode(NamedTuple):
    """One way to run BIRD.

    Attributes:
        num_levels: of the fast sampler.
        gradient, clip: as for :func:`restoration.bird`.
        refresh: as for :class:`restoration.Reuse`; None: nothing is reused.
        num_iterations: that it is usually run for.
        evaluations: of the network per iteration; forward passes.
    """

    num_levels: int
    gradient: str
    clip: str
    refresh: int | None
    num_iterations: int

    @property
    def evaluations(self) -> int:
        return self.num_levels if self.refresh is None else self.refresh


MODES = {"official": Mode(10, "stop", "hard", None, 100), "default": Mode(5, "stop", "straight_through", None, 60),
         "refresh": Mode(5, "stop", "straight_through", 1, 100), "exact": Mode(10, "exact", "hard", None, 100)}
SMALL = models.DDPMUNet(channels=32, multipliers=(1, 1, 2, 2), attention_resolutions=(16,), image_size=64)
LARGE = models.DDPMUNet()
# (parameters, side, mode, batch): lowest and highest seconds per iteration seen
PEER = "released torch code (torch 2.13, float32, 1 or 2 threads of two shared CPU cores; exact: a checkpoint per step)"
PEER_SECONDS = {(1_790_659, 64, "official", 1): (0.160, 0.307), (1_790_659, 64, "official", 4): (0.921, 0.921),
                (1_790_659, 64, "exact", 1): (0.613, 0.967), (1_790_659, 64, "exact", 4): (1.63, 1.63),
                (113_673_219, 256, "official", 1): (62.7, 62.7)}
_RATES = 3e-3, 2e-4  # of z and of the kernel's network
NOTES = (f"peer s: seconds per iteration of the {PEER}",
         "of peer's: with --against torch, official mode, both in turns in one run, least seconds of the processor; "
         "peer s is then that of torch here (eval/speed/twins.py)",
         "GFLOP/image: of the network, per iteration; of peak: their share of what the device can do, - where its kind "
         "is not known",
         "images/s: finished pictures, for the usual number of iterations of the mode")


def _seconds(pair):
    low, high = pair
    return f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}"


COLUMNS = (("mode", "mode", "s"), ("network", "network", "s"), ("dtype", "dtype", "s"),
           ("parameters", "params", ",d"), ("batch", "batch", "d"), ("image_size", "size", "d"),
           ("num_levels", "levels", "d"), ("evaluations_per_iteration", "evals", "d"),
           ("seconds_per_iteration", "s/iteration", ".4g"), ("peer_seconds_per_iteration", "peer s", _seconds),
           ("over_peer", "of peer's", ".2f"),
           ("images_per_second", "images/s", ".3g"), ("compile_seconds", "compile s", ".3g"),
           ("flops_per_image", "GFLOP/image", scaled(1e9)), ("peak_bytes", "peak MB", scaled(1e6)),
           ("peak_share", "of peak", ".1%"))


def bird(args) -> list:
    """Iterations of blind deblurring in each mode, for batches of pictures; ``--large``: the network of CelebA-HQ."""
    if args.large:
        cases = [("celeba-hq", LARGE.clone(dtype=dtype), 256, ["official", "default"])
                 for dtype in (jnp.bfloat16, jnp.float32)]
    else:
        cases = [("ch 32", SMALL, size, list(MODES)) for size in args.sizes]
    programs = []
    for (network, module, size, modes), batch in itertools.product(cases, args.batch or [1, 4]):
        for mode in modes:
            own = program(network, module, mode, size=size, batch=batch, num_iterations=args.iterations)
            beside = "torch" in args.against and mode == "official" and module.dtype == jnp.float32
            programs.append(functools.partial(_beside_torch, own, module, args) if beside else own)
    return programs


def program(network: str, module, name: str, *, size: int, batch: int, num_iterations: int) -> Program:
    """A row: ``num_iterations`` iterations of the mode ``name``, from the second one on, in one compiled program."""
    mode = MODES[name]
    parameters, devices = parameter_count(module), math.gcd(batch, jax.device_count())
    peer = PEER_SECONDS.get((parameters, size, name, batch))
    facts = {"benchmark": "bird", "mode": name, "network": network, "parameters": parameters,
             "dtype": jnp.dtype(module.dtype).name, "batch": batch, "image_size": size, "num_levels": mode.num_levels,
             "evaluations_per_iteration": mode.evaluations, "gradient": mode.gradient, "num_iterations": num_iterations,
             "usual_iterations": mode.num_iterations, "device_count": devices, "peer": peer and PEER,
             "peer_seconds_per_iteration": peer and list(peer)}

    def derive(row):
        seconds = row["run_seconds_min"] / num_iterations
        return {"seconds_per_iteration": seconds, "over_peer": None,
                "images_per_second": batch / (seconds * mode.num_iterations),
                "peak_share": peak_share(row["flops_per_image"] * batch / seconds, row["dtype"], row["device_kind"],
                                         devices)}

    return Program(facts, functools.partial(_iterations, module, mode, size, batch, num_iterations, devices),
                   derive=derive)


def _iterations(module, mode, size, batch, num_iterations, devices):
    """The kernel network of the released code, of 13 x 13 taps at 64 px and 41 x 41 at 256 px."""
    operator, schedule = _operator(size), _levels(mode)
    optimizer = restoration.bird_optimizer(*_RATES, final=1.0)
    network = module.clone(convolution="flipped") if mode.gradient == "exact" else module

    def run(params, keys, unknowns, z, y):
        denoiser = denoisers.from_eps(functools.partial(network.apply, params), schedule)
        kernel = restoration.bird(denoiser, schedule, operator, y, optimizer, mode.gradient, clip=mode.clip,
                                  reuse=mode.refresh and restoration.Reuse(mode.refresh),
                                  num_iterations=num_iterations + 2)
        state, info = jax.lax.scan(lambda state, i: kernel.step(keys, state, i), kernel.init(z, keys, unknowns),
                                   jnp.arange(1, num_iterations + 1))
        return state.z, state.params, state.x, info.loss

    mesh = sharding.data_mesh(jax.devices()[:devices])
    random = np.random.default_rng(0)
    z, y = (random.standard_normal((batch, size, size, 3), np.float32) for _ in range(2))
    keys = rng.image_keys(0, np.arange(batch))
    params = jax.device_put(random_arrays(shapes(module)), sharding.replicated(mesh))
    arguments = params, *jax.device_put((keys, operator.init(keys), z, np.clip(y / 2, -1, 1)),
                                        sharding.batch_sharding(mesh))
    return jax.jit(run), arguments, mode.evaluations * _flops_of_one(module, params, z, mode.gradient == "exact")


def _operator(size):
    return operators.blind_blur(13 if size < 128 else 41, form="mlp", boundary="zero", correlate=True)


def _levels(mode):
    return schedules.respace(schedules.linear(), mode.num_levels, "linspace")


def _beside_torch(program: Program, module, args) -> dict:
    """The row of a program, with torch's seconds for an iteration of the same, both in turns."""
    row = measure(program, repeats=1, seconds=0.0)
    function, arguments, _ = program.make()
    compiled = function.lower(*arguments).compile()
    params, _, unknowns, z, y = arguments
    start, step = twins.bird(module, twins.parameters(params), _levels(MODES[row["mode"]]), y, unknowns, _RATES)
    state = start(z)
    times = interleaved({"ours": lambda: compiled(*arguments),
                         "torch": lambda: [step(state) for _ in range(row["num_iterations"])]},
                        repeats=args.repeats, seconds=args.seconds)
    each = {name: [value / row["num_iterations"] for value in values] for name, values in times.items()}
    least = {name: min(values) for name, values in each.items()}
    return {**row, "seconds_per_iteration": least["ours"], "over_peer": least["ours"] / least["torch"],
            "images_per_second": row["batch"] / (least["ours"] * row["usual_iterations"]),
            "repeats": len(each["ours"]), "peer": f"torch {twins.torch().__version__}, the same run",
            "peer_seconds_per_iteration": [least["torch"], max(each["torch"])]}


def _flops_of_one(module, params, z, differentiated):
    """XLA's count for one network evaluation; forward again and backward where it is differentiated."""
    def backward(z, params):
        return jnp.sum(module.apply(params, z, jnp.ones(z.shape[0]))**2)

    once = flops(module.apply, params, z, jnp.ones(z.shape[0]))
    return once + flops(jax.grad(backward), z, params) if differentiated else once
