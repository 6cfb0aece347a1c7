"""What a step of LatentINDIGO costs, guided by a network of pixels, of latents or not at all; see eval.benchmark.

FLOPs and bytes are those of the compiled step for one picture: the compiler's count, with loops (over tiles, over
lifting steps) counted as often as they run (:mod:`train.plan_hlo`). See :data:`NOTES` for what is not in it.
"""
import collections
import functools
import itertools
import re
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.speed.measuring import memory, random_arrays, run_seconds, scaled
from indigo_jax import denoisers, models, restoration, rng, samplers, schedules, tiles
from train import plan_hlo, plan_traffic

VARIANTS = ("none", "pixel", "latent")
SIZES, TIMED = (256, 512, 1024, 2048), (256,)
TILE = 64  # latents; those of the diffusion network share a half with their neighbours, the decoder's a quarter
PARTS = ("network", "decoder", "inn")
COLUMNS = (("variant", "variant", "s"), ("networks", "networks", "s"), ("gradient", "gradient", "s"),
           ("size", "size", "d"), ("flops_per_step", "GFLOP/step", scaled(1e9)),
           *((f"{part}_flops", part, scaled(1e9)) for part in (*PARTS, "unnamed")),
           ("peak_bytes", "peak MB", scaled(1e6)), ("seconds", "s/step", ".3g"),
           ("compile_seconds", "compile s", ".3g"))
NOTES = (f"none: plain DDIM; diffusion network and decoder in tiles of {TILE} latents, invertible networks whole",
         "GFLOP/step: loops counted as often as they run; then convolutions and matrix products of each part, and "
         "those that the compiler has left without a name (of attention)",
         "once for a picture, and not in it: E(y), F(y), the last D(z); nor what a regulariser does every fifth step")


class Networks(NamedTuple):
    """The networks of a benchmark; ``pixel`` and ``latent`` are invertible ones, ``runs`` says whether to time any."""

    name: str
    unet: Any
    autoencoder: Any
    pixel: Any
    latent: Any
    runs: bool = True


SMALL = Networks(
    "small", models.LatentUNet((64, 96, 128), (False, True, True), 1, num_heads=4, context_dim=0, in_channels=8,
                               out_channels=8, convolution="flipped"),
    models.TinyAutoencoder(latent_channels=8, pool_channels=0, convolution="flipped"),
    models.GuidanceINN(reversible=True, convolution="flipped"),
    models.GuidanceINN(channels=8, offset=0.0, reversible=True, convolution="flipped"))
LARGE = Networks("Stable Diffusion", models.LatentUNet(context_dim=0), models.AutoencoderKL(),
                 models.GuidanceINN(reversible=True), models.GuidanceINN(channels=4, offset=0.0, reversible=True),
                 runs=False)


def latent_indigo(args) -> list[Callable[[], dict]]:
    """Functions that make a row each.

    Args:
        args: ``sizes``, ``time`` (the sizes of which to run a step, too), ``gradient``, ``large``, ``repeats``,
            ``seconds``.

    Errors:
        ValueError for a size that the networks do not take.
    """
    networks = LARGE if args.large else SMALL
    multiple = networks.autoencoder.factor * 2**networks.latent.levels
    for size in args.sizes:
        if size % multiple:
            raise ValueError(f"--sizes {size}: not a multiple of {multiple}")
    return [functools.partial(row, networks, variant, size, gradient=args.gradient, timed=size in args.time,
                              repeats=args.repeats, seconds=args.seconds)
            for size, variant in itertools.product(args.sizes, VARIANTS)]


def row(networks: Networks, variant: str, size: int, *, gradient: str = "full", tile: int = TILE, timed: bool = False,
        repeats: int = 5, seconds: float = 20.0) -> dict:
    """Compile a step, read its text and, where ``timed``, run it: as :func:`eval.speed.measuring.measure`."""
    function, arguments = guided_step(networks, variant, size, gradient=gradient, tile=tile)
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds, text, device = time.perf_counter() - began, compiled.as_text(), jax.devices()[0]
    times = []
    if timed and networks.runs:
        times, _ = run_seconds(compiled, random_arrays(arguments), repeats=repeats, seconds=seconds)
    reason = None if times else ("compiled for shapes, never run" if not networks.runs else
                                 f"not asked for: --time {size}")
    return {"benchmark": "latent-indigo", "variant": variant, "networks": networks.name, "gradient": gradient,
            "size": size, "tile": tile, "batch": 1,
            "flops_per_step": compiled.cost_analysis()["flops"] * plan_traffic.read(text).repeats[0],
            **{f"{part}_flops": count for part, count in parts(text).items()}, **memory(compiled),
            "seconds": min(times, default=None), "seconds_reason": reason, "compile_seconds": compile_seconds,
            "repeats": len(times), "device_count": 1, "device_kind": device.device_kind, "platform": device.platform,
            "jax_version": jax.__version__}


def guided_step(networks: Networks, variant: str, size: int, *, gradient: str = "full", tile: int = TILE) -> tuple:
    """``(function, shapes of its arguments)``: a step of :func:`restoration.latent_indigo` in the middle of a chain,
    for one picture of ``size`` pixels a side.

    Args:
        variant: "pixel", "latent", or "none": a step of DDIM.
        gradient: as for the kernel.
        tile: side of a tile, in latents.
    """
    unet, autoencoder = networks.unet, networks.autoencoder
    inn = networks.pixel if variant == "pixel" else networks.latent
    side, factor = size // autoencoder.factor, autoencoder.factor
    coarse = (size if variant == "pixel" else side) // 2**inn.levels
    schedule = schedules.respace(schedules.linear(), 50)

    def step(params, z, measured, cond, keys):
        network = _named("network", functools.partial(unet.apply, params["network"]))
        denoiser = denoisers.from_v(tiles.blended(network, tile=tile, overlap=tile // 2), schedule)
        if variant == "none":
            kernel = samplers.ddim(denoiser, schedule, 0.5)
        else:
            decode = _named("decoder", functools.partial(autoencoder.apply, params.get("decoder"), method="decode"))
            space = restoration.Autoencoder(lambda y: measured,  # E(y), from before the chain
                                            tiles.blended(decode, tile=tile, overlap=tile // 4))
            calls = (_named("inn", functools.partial(inn.apply, method=method)) for method in ("forward", "inverse"))
            network = restoration.InvertibleNetwork(*calls, params["inn"])
            kernel = restoration.latent_indigo(
                denoiser, schedule, network, 2 * measured - 1, space, variant, cond=cond, gradient=gradient,
                regularizer=restoration.LatentRegularizer(radius=1.0))
        return kernel.step(keys, kernel.init(z, keys), jnp.int32(25))[0].x

    def params():
        picture, key = jnp.zeros((1, 8 * factor, 8 * factor, 3)), jax.random.key(0)
        made = {"network": unet.init(key, jnp.zeros((1, 8, 8, unet.in_channels)), jnp.zeros(1))}
        if variant != "none":
            made["inn"] = inn.init(key, jnp.zeros((1, 8, 8, inn.channels)), picture)
        if variant == "pixel":
            made["decoder"] = autoencoder.init(key, picture)
        return made

    def arguments():
        return (params(), jnp.zeros((1, side, side, unet.in_channels)), jnp.zeros((1, coarse, coarse, inn.channels)),
                jnp.zeros((1, inn.cond_dim)), rng.image_keys(0, np.arange(1)))

    return step, jax.eval_shape(arguments)


def _named(part, function):
    """``function`` whose operations carry the name of a part in the compiled program's text."""
    def call(*arguments):
        with jax.named_scope(f"part_{part}"):
            return function(*arguments)

    return call


def parts(text: str) -> dict[str, float]:
    """Operations of the convolutions and matrix products of each of :data:`PARTS`, and of those without a name."""
    computations, entry = plan_hlo.parse(text)
    shapes = {name: {each.name: each.shape for each in body} for name, body in computations.items()}
    found = collections.Counter({part: 0.0 for part in (*PARTS, "unnamed")})
    for computation, each, times in plan_hlo.walk(computations, entry, 1):
        for name, inner in plan_hlo.inside(computations, computation, each):
            part = re.search(rf"part_({'|'.join(PARTS)})\b", f"{inner.attributes} {each.attributes}")
            found[part[1] if part else "unnamed"] += plan_hlo.products(inner, shapes[name]) * times
    return dict(found)


def notes(rows: list[dict]) -> list[str]:
    """:data:`NOTES`, and what the rows say of latents against pixels, and of small pictures against large ones."""
    found = {(row["variant"], row["size"]): row for row in rows}
    sizes = sorted({row["size"] for row in rows})
    lines = []
    for size in sizes:
        if {("pixel", size), ("latent", size)} <= found.keys():
            flops, peak = (found["pixel", size][key] / found["latent", size][key]
                           for key in ("flops_per_step", "peak_bytes"))
            lines.append(f"{size} px: the network of latents needs {flops:.3g} times fewer FLOPs and {peak:.3g} times "
                         "less memory than that of pixels")
    for variant in ("pixel", "latent"):
        if len(sizes) > 1 and all((variant, size) in found for size in sizes):
            growth = found[variant, sizes[-1]]["peak_bytes"] / found[variant, sizes[0]]["peak_bytes"]
            since = f", {found[variant, sizes[-1]]['peak_bytes'] / found[variant, 512]['peak_bytes']:.3g} times that " \
                "at 512 px" if 512 in sizes[1:-1] else ""
            lines.append(f"{variant}: peak memory at {sizes[-1]} px is {growth:.3g} times that at {sizes[0]} px{since}")
    return [*NOTES, *lines]
