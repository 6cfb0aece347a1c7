"""The table of INDIGO and LatentINDIGO: guided, refined, regularised or not, on several degradations and seeds."""
import functools
from typing import Callable

import jax.numpy as jnp
import numpy as np

from eval import problems
from eval.command import guided_settings
from eval.measure import PSNR, Cache, Group, about, grouped, lpips_of, markdown, mean, measure, psnr_of, weights_of
from eval.problems import LEARNED, Case, Pictures
from indigo_jax import arrays, methods, operators, restoration
from indigo_jax.methods.guided_chain import REGULARIZERS
from indigo_jax.typing import Array

LPIPS, RESIDUAL = "lpips-alex-v0.1", "residual"
LAST, DRIFT = "residual-of-the-chain", "manifold-drift"
MEASURED = ("evaluations", PSNR, LPIPS, RESIDUAL, LAST, DRIFT)
SEEDS, REFINE = (0, 1, 2), 5e-5
_REGULARIZERS = dict(zip(("R0", "R1", "R2", "R3", "R4"), REGULARIZERS))
TITLES = {"input": "bicubic", "free": "zeta = 0", "guided": "guided", "refined": "guided, network refined",
          "truncated": "guided, truncated gradient",
          **{name: f"guided, {name} ({rule})" for name, rule in _REGULARIZERS.items()}}
KINDS = tuple(TITLES)


def side_of(method: methods.Indigo) -> int:
    """Of the pictures: the one that the prior has learned."""
    return method.plan(method.learned, method.learned).canvas[0]


def case_of(method: methods.Indigo, pictures: Pictures, degradation: str, seed: int) -> Case:
    """All pictures as one case of :data:`problems.LEARNED`, at the side of the prior."""
    return problems.make_learned(degradation, method.scale, *pictures.at(side_of(method), seed))


def enlarged(method: methods.Indigo, y: Array) -> Array:
    """The first estimate: bicubic."""
    return jnp.clip(operators.upsample(method.scale)(y), -1, 1) if method.scale > 1 else y


def split(method: methods.Indigo, params: tuple, x: Array, y: Array) -> tuple:
    """``(x, y, coarse part of x, details of x)`` in the units of the invertible network (pixels in [0, 1], or latents),
    and its inverse ``(coarse, details) -> x``, for pictures and their measurements in [-1, 1]."""
    space, apply = method.autoencoder(params), functools.partial(method.networks["inn"].module.apply, params[1])
    cond = apply(y / 2 + 0.5, method="embed")
    x, y = (space.encode(a) if method.variant == "latent" else a / 2 + 0.5 for a in (x, y))
    return x, y, *apply(x, cond, method="forward"), functools.partial(apply, cond=cond, method="inverse")


def judge(method: methods.Indigo, params: tuple, x: Array, y: Array) -> tuple[Array, Array | None]:
    """``(residuals [B], drifts [B] or None)`` of finished pictures, by the networks as they are loaded.

    The residual is the root mean square of ``y - c(x)`` in the units of :func:`split`, the drift
    :func:`restoration.manifold_drift` of ``E(x)``.

    Args:
        method: of its networks and units.
        params: of the networks.
        x, y: pictures and their measurements.
    """
    _, measured, coarse, *_ = split(method, params, x, y)
    space = method.autoencoder(params)
    return arrays.rms(measured - coarse), space and restoration.manifold_drift(space.encode(x), space)


def restorer(method: methods.Indigo, kind: str) -> Callable:
    """``restore(params, case)`` as :mod:`eval.measure` takes it, judged."""
    def restore(params, case):
        if kind == "input":
            x, last, evaluations = enlarged(method, case.y), None, 0
        else:
            plan = method.plan(*(method.scale * side for side in case.y.shape[1:3]))
            found = method.solve(params, case.y, case.keys, plan=plan, given={})
            x, last, evaluations = found.x, found.residual, method.evaluations(found) * plan.count
        residual, drift = judge(method, params, x, case.y)
        return x, {"evaluations": evaluations, RESIDUAL: residual, LAST: last, DRIFT: drift}

    return restore


def summaries(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """``{degradation: {kind: {number: mean over pictures and seeds, "gain": of PSNR over zeta = 0, "spread": standard
    deviation of the seeds' mean gains}}}``; None where there is nothing."""
    found = {}
    for name, kinds in grouped(rows, "degradation", "kind").items():
        free = {(row["picture"], row["seed"]): row[PSNR] for row in kinds.get("free", ())}
        found[name] = {kind: {**{number: mean(group, number) for number in MEASURED},
                              **_gain(group, free)} for kind, group in kinds.items()}
    return found


def _gain(group, free):
    if not free:
        return {"gain": None, "spread": None}
    means = [np.mean([row[PSNR] - free[row["picture"], seed] for row in group if row["seed"] == seed])
             for seed in dict.fromkeys(row["seed"] for row in group)]
    return {"gain": float(np.mean(means)), "spread": float(np.std(means))}


def to_markdown(rows: list[dict]) -> str:
    """One line per degradation and kind; columns without any number are left out."""
    columns = [("network evaluations", "evaluations", ".0f"), ("PSNR, dB", PSNR, ".2f"), ("LPIPS", LPIPS, ".4f"),
               ("residual", RESIDUAL, ".4f"), ("of the chain", LAST, ".4f"), ("drift", DRIFT, ".4f")]
    columns = [column for column in columns if any(row[column[1]] is not None for row in rows)]
    lines = []
    for name, kinds in summaries(rows).items():
        for kind, found in kinds.items():
            cells = ["" if found[key] is None else format(found[key], form) for _, key, form in columns]
            if found["gain"] is not None and kind != "free":
                cells[1] += f" ({found['gain']:+.2f} ± {found['spread']:.2f})"
            label = f"{name}: {LEARNED[name]}" if kind == next(iter(kinds)) else ""
            lines.append([label, TITLES[kind], *cells])
    return markdown(["degradation", "method", *(title for title, *_ in columns)], lines)


def _provenance(method, pictures, seeds, refine, settings, command):
    """What was measured, on what, with which settings, and the command: no date, no machine."""
    names = [f"`{network.info.get('name', 'unnamed')}` (sha256 `{network.info['sha256'][:12]}`)"
             for network in method.networks.values()]
    unit = "latents" if method.variant == "latent" else "pixels in [0, 1]"
    lines = [f"{', '.join(names)} on {about(pictures, side_of(method), seeds)}.",
             "Means over pictures and seeds; in brackets the mean gain over the same chain with zeta = 0, picture by "
             f"picture, ± its standard deviation over the seeds. PSNR is `{PSNR}`: clipped, not rounded to 8 bits.",
             f"Residual: the root mean square of y - c(x), in {unit}, of the finished picture and the network as "
             "loaded; of the chain: of its last estimate, before colours are fixed, with the network as refined."]
    if "autoencoder" in method.networks:
        lines.append("Drift: |E(D(z)) - z| / |z| of the finished picture's z = E(x).")
    used = {name: value for name, value in settings.items() if name not in method.networks}
    return "\n\n".join(["\n".join(lines), f"Settings are those of `indigo restore`{f' ({used})' if used else ''}; the "
                        f"refinement's learning rate is {refine:g}.", f"Written by `{command}`."])


def table(args, pictures, path, command: str):
    """As :data:`eval.tables.TABLES` has it: a row per degradation, kind, picture and seed.

    What is drawn comes from the seed and the picture's name. Numbers that are known come from .jsonl, while weights,
    pixels, settings and the whole program are the same.
    """
    settings = {**guided_settings(args), **({"no_color_fix": True} if args.raw_colors else {})}
    own = {"input": {}, "free": {"guidance": 0.0}, "guided": {}, "refined": {"refine": args.refine},
           "truncated": {"gradient": "truncated"}}
    if args.method == "latent-indigo":
        own.update({name: {"regularizer": rule} for name, rule in _REGULARIZERS.items()})
    made = {kind: methods.load(args.method, **{**settings, **options}) for kind, options in own.items()
            if kind == "input" or kind in args.kinds}
    method, seeds = made["input"], list(dict.fromkeys(args.seeds or SEEDS))
    cases = [({"degradation": name, "seed": seed, "picture": one.names[0]}, case_of(method, one, name, seed))
             for name in args.degradations for seed in seeds for one in pictures.singles()]
    groups = [Group(TITLES[kind], restorer(each, kind), each.params, weights_of(each),
                    [({**said, "kind": kind}, case) for said, case in cases]) for kind, each in made.items()]
    rows = measure(groups, {PSNR: psnr_of, LPIPS: lpips_of(args.lpips)}, Cache(path.with_suffix(".jsonl"), MEASURED),
                   batch_size=args.batch)
    rows.sort(key=lambda row: args.degradations.index(row["degradation"]))
    body = [to_markdown(rows), _provenance(method, pictures, seeds, args.refine, settings, command)]
    return method.info.get("name"), rows, "\n\n".join(body)
