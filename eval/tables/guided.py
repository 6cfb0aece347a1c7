"""The table of INDIGO and LatentINDIGO: guided, refined, regularised or not, on several degradations and seeds."""
import hashlib
import re
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import indigo_jax
from eval import bird, bird_tables, common, indigo
from indigo_jax import guided, metrics
from indigo_jax.guided import settings as guided_settings

PSNR, LPIPS, RESIDUAL = "psnr-rgb-crop0-float", "lpips-alex-v0.1", "residual"
LAST, DRIFT = "residual-of-the-chain", "manifold-drift"
MEASURED = ("evaluations", PSNR, LPIPS, RESIDUAL, LAST, DRIFT)
MARKS = {method: (f"<!-- {method}:start -->", f"<!-- {method}:end -->") for method in indigo.METHODS}
SEEDS = (0, 1, 2)
_REGULARIZERS = dict(zip(("R0", "R1", "R2", "R3", "R4"), guided.REGULARIZERS))
TITLES = {"input": "bicubic", "free": "zeta = 0", "guided": "guided", "refined": "guided, network refined",
          "truncated": "guided, truncated gradient",
          **{name: f"guided, {name} ({rule})" for name, rule in _REGULARIZERS.items()}}
KINDS = tuple(TITLES)


# ---------------------------------------------------------------------------------------------------- measuring

class Choice(NamedTuple):
    """What is measured.

    Attributes:
        degradations: of :data:`indigo.DEGRADATIONS`.
        kinds: of :data:`KINDS`; "input" always is.
        seeds: numbers.
        refine: learning rate of "refined".
        settings: of :class:`guided.Settings`, for all.
    """

    degradations: tuple[str, ...] = tuple(indigo.DEGRADATIONS)
    kinds: tuple[str, ...] = KINDS
    seeds: tuple[int, ...] = SEEDS
    refine: float = 5e-5
    settings: dict = {}

    def of(self, parts: indigo.Parts) -> dict[str, dict | None]:
        """Settings of each kind; None for the input. The regularisers are for latents."""
        own = {"input": None, "free": {"guidance": 0.0}, "guided": {}, "refined": {"refine": self.refine},
               "truncated": {"gradient": "truncated"}}
        if parts.autoencoder:
            own.update({name: {"regularizer": rule} for name, rule in _REGULARIZERS.items()})
        return {kind: None if options is None else {**self.settings, **options} for kind, options in own.items()
                if kind == "input" or kind in self.kinds}


class _Job(NamedTuple):
    row: dict
    key: str
    problem: indigo.Problem


def measure(parts: indigo.Parts, pictures: common.Pictures, choice: Choice, cache: bird_tables.Cache, *, lpips=None,
            batch_size: int = 4) -> list[dict]:
    """One row per degradation, kind, picture and seed: ``{"degradation", "kind", "picture", "seed", ...MEASURED}``.

    What is drawn comes from the seed and the picture's name. A number is taken from the cache while weights, pixels,
    settings and the whole program are the same.

    Args:
        lpips: callable ``(a, b) -> [B]``, or None.
        batch_size: pictures restored at a time.
    """
    kinds = choice.of(parts)
    jobs = _jobs(parts, pictures, choice, kinds, lpips)
    waiting = sum(job.key not in cache.known for group in jobs.values() for job in group)
    total = sum(map(len, jobs.values()))
    if waiting < total:
        print(f"{total - waiting} of {total} results are taken from {cache.path.name}", file=sys.stderr)
    judge = indigo.judge(parts)
    with tqdm(total=waiting, unit="picture", desc="restoring", mininterval=1.0) as bar:
        for kind, group in jobs.items():
            group = [job for job in group if job.key not in cache.known]
            bar.set_postfix_str(kind)
            for start in range(0, len(group), batch_size):
                part = group[start:start + batch_size]
                cache.add(_measure(parts, kinds[kind], judge, lpips, part, min(batch_size, len(group))))
                bar.update(len(part))
    order = {degradation: i for i, degradation in enumerate(choice.degradations)}
    rows = [{**job.row, **cache.known[job.key]} for group in jobs.values() for job in group]
    return sorted(rows, key=lambda row: order[row["degradation"]])


def _jobs(parts, pictures, choice, kinds, lpips):
    """``{kind: [job, ...]}``."""
    problems = []
    for name in choice.degradations:
        for seed in choice.seeds:
            for picture, image in zip(pictures.names, pictures.images):
                one = common.Pictures("", [picture], [image])
                problem = indigo.problem_of(parts, one, name, seed)
                problems.append(({"degradation": name, "seed": seed, "picture": picture}, problem, _digest(problem)))
    jobs = {}
    for kind, options in kinds.items():
        program = "" if options is None else _program(parts, options, problems[0][1])
        known = f"{parts.digest} {kind} {program} {'' if lpips is None else 'lpips'}"
        jobs[kind] = [_Job({**row, "kind": kind}, f"{known} {digest}", problem) for row, problem, digest in problems]
    return jobs


def _program(parts, options, problem):
    """Digits that tell programs apart: of everything that is computed, and of zeta."""
    traced = jax.make_jaxpr(lambda y, keys: parts.restoration.batch(y, keys, **options))(problem.y, problem.keys)
    zeta = guided_settings.resolve(guided.Settings(**options), parts.restoration.variant)[1]
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)) + f" {zeta}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(problem):
    state = hashlib.sha256()
    for array in (problem.x, problem.y, jax.random.key_data(problem.keys)):
        state.update(np.asarray(array).tobytes())
    return state.hexdigest()[:12]


def _measure(parts, options, judge, lpips, jobs, size):
    """Restore the pictures of ``jobs``, filled up to ``size`` (one shape, one compilation), and measure them."""
    problems = [job.problem for job in jobs] + [jobs[-1].problem] * (size - len(jobs))
    problem = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *problems)
    if options is None:
        x, last, evaluations = indigo.enlarged(parts, problem.y), None, 0
    else:
        found = parts.restoration.batch(problem.y, problem.keys, **options)
        x, last = found.x, np.asarray(found.residual)
        chain, _ = guided_settings.resolve(guided.Settings(**options), parts.restoration.variant)
        layout = parts.restoration.layout(*problem.y.shape[1:3])
        evaluations = guided_settings.evaluations(chain) * layout.rows * layout.columns
    residual, drift = judge(x, problem.y)
    x, truth, rows = np.asarray(x), np.asarray(problem.x), []
    for i, job in enumerate(jobs):
        one, true = x[i:i + 1], truth[i:i + 1]
        if not np.isfinite(one).all():
            raise ValueError(f"{job.row['picture']}: {TITLES[job.row['kind']]} gave no finite picture")
        rows.append({"key": job.key, **job.row, "evaluations": evaluations, PSNR: float(bird.psnr_of(one, true)[0]),
                     LPIPS: None if lpips is None else float(lpips(one, true)[0]), RESIDUAL: float(residual[i]),
                     LAST: None if last is None else float(last[i]), DRIFT: None if drift is None else float(drift[i])})
    return rows


# ---------------------------------------------------------------------------------------------------- writing

def summaries(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """``{degradation: {kind: {number: mean over pictures and seeds, "gain": of PSNR over zeta = 0, "spread": standard
    deviation of the seeds' mean gains}}}``; None where there is nothing."""
    groups = {}
    for row in rows:
        groups.setdefault(row["degradation"], {}).setdefault(row["kind"], []).append(row)
    found = {}
    for name, kinds in groups.items():
        free = {(row["picture"], row["seed"]): row[PSNR] for row in kinds.get("free", ())}
        found[name] = {kind: {**{number: _mean([row[number] for row in group]) for number in MEASURED},
                              **_gain(group, free)} for kind, group in kinds.items()}
    return found


def _mean(values):
    return None if None in values else float(np.mean(values))


def _gain(group, free):
    if not free:
        return {"gain": None, "spread": None}
    by_seed = {}
    for row in group:
        by_seed.setdefault(row["seed"], []).append(row[PSNR] - free[row["picture"], row["seed"]])
    means = [float(np.mean(gains)) for gains in by_seed.values()]
    return {"gain": float(np.mean(means)), "spread": float(np.std(means))}


def to_markdown(rows: list[dict]) -> str:
    """One line per degradation and kind; columns without any number are left out."""
    columns = [("network evaluations", "evaluations", ".0f"), ("PSNR, dB", PSNR, ".2f"), ("LPIPS", LPIPS, ".4f"),
               ("residual", RESIDUAL, ".4f"), ("of the chain", LAST, ".4f"), ("drift", DRIFT, ".4f")]
    columns = [column for column in columns if any(row[column[1]] is not None for row in rows)]
    lines = ["| degradation | method | " + " | ".join(title for title, *_ in columns) + " |",
             "|---|---|" + "---:|" * len(columns)]
    for name, kinds in summaries(rows).items():
        for kind, found in kinds.items():
            cells = ["" if found[key] is None else format(found[key], form) for _, key, form in columns]
            if found["gain"] is not None and kind != "free":
                cells[1] += f" ({found['gain']:+.2f} ± {found['spread']:.2f})"
            label = f"{name}: {indigo.DEGRADATIONS[name]}" if kind == next(iter(kinds)) else ""
            lines.append(f"| {label} | {TITLES[kind]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(parts: indigo.Parts, pictures: common.Pictures, choice: Choice, command: str) -> str:
    """What was measured, on what, with which settings, and the command: no date, no machine."""
    names = [f"`{part.info.get('name', 'unnamed')}` (sha256 `{part.info['sha256'][:12]}`)"
             for part in (parts.prior, parts.inn, parts.autoencoder) if part]
    unit = "latents" if parts.restoration.variant == "latent" else "pixels in [0, 1]"
    lines = [f"{', '.join(names)} on {len(pictures.names)} pictures (`{pictures.label}`, pixels `{pictures.digest}`, "
             f"brought to {parts.side} px), seeds {', '.join(map(str, choice.seeds))}, indigo_jax "
             f"{indigo_jax.__version__}.",
             "Means over pictures and seeds; in brackets the mean gain over the same chain with zeta = 0, picture by "
             f"picture, ± its standard deviation over the seeds. PSNR is `{PSNR}`: clipped, not rounded to 8 bits.",
             f"Residual: the root mean square of y - c(x), in {unit}, of the finished picture and the network as "
             "loaded; of the chain: of its last estimate, before colours are fixed, with the network as refined."]
    if parts.autoencoder:
        lines.append("Drift: |E(D(z)) - z| / |z| of the finished picture's z = E(x).")
    chosen = f" ({choice.settings})" if choice.settings else ""
    return "\n\n".join(["\n".join(lines), f"Settings are those of `indigo restore`{chosen}; the refinement's learning "
                        f"rate is {choice.refine:g}.", f"Written by `{command}`."])


def run(args, pictures, path, command: str):
    """What :mod:`eval.tables` calls: the name, the rows, the Markdown. Numbers that are known come from .jsonl."""
    parts = indigo.load(args.method, args.prior, args.inn, args.autoencoder)
    settings = {"steps": args.chain_steps, "guidance": args.guidance, "start": args.start,
                "fix_color": False if args.raw_colors else None}
    choice = Choice(tuple(args.degradations), tuple(args.kinds), tuple(dict.fromkeys(args.seeds or SEEDS)), args.refine,
                    {name: value for name, value in settings.items() if value is not None})
    lpips = metrics.by_name("lpips", lpips_params=metrics.load_lpips(args.lpips)) if args.lpips else None
    rows = measure(parts, pictures, choice, bird_tables.Cache(path.with_suffix(".jsonl"), MEASURED), lpips=lpips,
                   batch_size=args.batch)
    return parts.prior.info.get("name"), rows, "\n\n".join([to_markdown(rows),
                                                            provenance(parts, pictures, choice, command)])
