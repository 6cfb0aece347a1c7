"""How fast a convolution and its gradients are on this machine, way by way; see :mod:`eval.benchmark`.

The rule of :func:`models.convolutions.best_way` was fitted to this table.
"""
import functools
import statistics

import jax
import numpy as np

from eval.speed.measuring import interleaved
from indigo_jax.models import convolutions

# (side, channels in, channels out) of kernels of 3 x 3: of the networks that are trained on a CPU, and larger ones
SHAPES = ((32, 12, 48), (32, 48, 48), (32, 96, 48), (16, 96, 96), (16, 240, 96), (8, 144, 144), (8, 288, 144),
          (32, 64, 64), (16, 128, 128), (8, 160, 160), (32, 48, 12), (64, 48, 48), (64, 64, 64), (128, 32, 32))
_OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
_WAYS = ("forward", "input", "own", *convolutions.WAYS)


def _rate(value):
    return format(value / 1e9, ".0f")


COLUMNS = (("image_size", "side", "d"), ("inputs", "in", "d"), ("outputs", "out", "d"), ("batch", "batch", "d"),
           *((f"{way}_flops_per_second", way, _rate) for way in _WAYS), ("rule", "rule", "s"),
           ("rule_over_best", "rule/best", ".2f"), ("gradient_over_forward", "gradient/3 fwd", ".2f"),
           ("plain_over_forward", "plain", ".2f"))
NOTES = ("GFLOP/s of the least of the runs, which take turns: forward, gradient for the input (flipped kernel), and "
         "for the kernel the compiler's own and ours",
         "gradient/3 fwd: forward and both gradients with the way of the rule, over three forwards; plain: with the "
         "compiler's own",
         "seconds are those of the processor (all threads), so that other work on the machine counts little")


def convolution(args) -> list:
    """One row for each shape."""
    return [functools.partial(row, *shape, batch=(args.batch or [8])[0], repeats=args.repeats, seconds=args.seconds)
            for shape in SHAPES]


def row(side: int, inputs: int, outputs: int, *, batch: int, repeats: int, seconds: float) -> dict:
    """The seconds of every way for pictures of ``side`` and a kernel of 3 x 3."""
    random = np.random.default_rng(0)
    x, cotangent = (jax.device_put(random.standard_normal((batch, side, side, channels), np.float32))
                    for channels in (inputs, outputs))
    kernel = jax.device_put(random.standard_normal((3, 3, inputs, outputs), np.float32))

    def forward(x, kernel, cotangent):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **_OPTIONS)

    def for_input(x, kernel, cotangent):
        return forward(cotangent, jax.numpy.flip(kernel, (0, 1)).swapaxes(2, 3), None)

    def own(x, kernel, cotangent):
        return jax.vjp(lambda k: forward(x, k, None), kernel)[1](cotangent)[0]

    def ours(way):
        return lambda x, kernel, cotangent: convolutions.WAYS[way](x, cotangent, (3, 3))

    functions = {"forward": forward, "input": for_input, "own": own, **{way: ours(way) for way in convolutions.WAYS}}
    compiled = {name: jax.jit(function).lower(x, kernel, cotangent).compile() for name, function in functions.items()}
    times = interleaved({name: functools.partial(program, x, kernel, cotangent) for name, program in compiled.items()},
                        repeats=repeats, seconds=seconds)
    least = {name: min(values) for name, values in times.items()}
    operations = 2 * 9 * batch * side**2 * inputs * outputs
    rule = convolutions.best_way(x.shape, kernel.shape)
    both = least["forward"] + least["input"]
    return {"benchmark": "convolution", "image_size": side, "inputs": inputs, "outputs": outputs, "batch": batch,
            **{f"{name}_flops_per_second": operations / value for name, value in least.items()},
            **{f"{name}_seconds_min": value for name, value in least.items()},
            **{f"{name}_seconds_median": statistics.median(values) for name, values in times.items()},
            "rule": rule, "rule_over_best": least[rule] / min(least[way] for way in ("own", *convolutions.WAYS)),
            "gradient_over_forward": (both + least[rule]) / (3 * least["forward"]),
            "plain_over_forward": (both + least["own"]) / (3 * least["forward"]), "repeats": len(times["forward"]),
            "device_count": 1, "platform": jax.default_backend(), "device_kind": jax.devices()[0].device_kind,
            "jax_version": jax.__version__}
