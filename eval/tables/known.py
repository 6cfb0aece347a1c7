"""The table of BIRD against its official settings and cheap baselines: measuring with a cache, Markdown."""
import hashlib
import json
import os
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import indigo_jax
from eval import bird, common
from indigo_jax import restoration, rng, schedules

START, END = "<!-- bird:start -->", "<!-- bird:end -->"
PSNR, ALIGNED, RESIDUAL = "psnr-rgb-crop0-float", "psnr-rgb-aligned3-float", "residual-over-sigma"
_MEASURED = ("evaluations", PSNR, ALIGNED, RESIDUAL)
_ALIGNED_TASKS = ("deblur", "blind")


# ---------------------------------------------------------------------------------------------------- measuring

class Cache:
    """Measured numbers in a JSON lines file, one per picture and method, added as soon as they are there.

    A line belongs to a key: the weights, the problem's pixels and the method's whole program. A line that was torn by
    the end of a run is ignored. ``measured`` are the names of the numbers.
    """

    def __init__(self, path, measured=_MEASURED):
        self.path, self.known, self._measured = pathlib.Path(path), {}, measured
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.known[row["key"]] = {name: row[name] for name in measured}
            except (ValueError, KeyError, TypeError):
                continue
        self._torn = bool(text) and not text.endswith("\n")

    def add(self, rows: list[dict]) -> None:
        """Rows with their ``key``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + "".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        self.known.update({row["key"]: {name: row[name] for name in self._measured} for row in rows})


class _Job(NamedTuple):
    """One picture of one seed, for one method of one task."""

    row: dict
    key: str
    problem: bird.Problem
    evaluations: int


def chosen(tasks, methods) -> list[tuple[str, str]]:
    """``(task, method)`` of what was asked for; the input always.

    Args:
        tasks: of :data:`bird.TASKS`.
        methods: names, or None for all but the slow ones.
    """
    return [(task, method) for task in bird.TASKS if task in tasks for method in bird.METHODS[task]
            if method == "input" or (method not in bird.ON_REQUEST if methods is None else method in methods)]


def measure(model: common.Model, pictures: common.Pictures, pairs, seeds, cache: Cache, *,
            batch_size: int = 4) -> list[dict]:
    """One row per picture, seed, task and method: ``{"picture", "seed", "task", "method", "evaluations", PSNR, ALIGNED,
    RESIDUAL}``.

    Noise, kernels and starts come from the seed and the picture's name, so that rows do not depend on other pictures.

    Args:
        model: a diffusion prior.
        pictures: clean ones.
        pairs: from :func:`chosen`.
        seeds: numbers.
        cache: of earlier runs; what is measured is added to it.
        batch_size: pictures restored at a time.
    """
    jobs = _jobs(model, pictures, pairs, seeds)
    waiting = [job for group in jobs for job in group if job.key not in cache.known]
    total = sum(map(len, jobs))
    if len(waiting) < total:
        print(f"{total - len(waiting)} of {total} results are taken from {cache.path.name}", file=sys.stderr)
    with tqdm(total=sum(job.evaluations for job in waiting), unit="evaluation", desc="restoring",
              mininterval=1.0) as bar:
        for group in jobs:
            group = [job for job in group if job.key not in cache.known]
            if not group:
                continue
            task, method = group[0].row["task"], group[0].row["method"]
            bar.set_postfix_str(f"{task}, {method}")
            restore, size = bird.restorer(model, task, method), min(batch_size, len(group))
            for start in range(0, len(group), size):
                part = group[start:start + size]
                cache.add(_measure(restore, part, size))
                bar.update(sum(job.evaluations for job in part))
    return [{**job.row, **cache.known[job.key]} for group in jobs for job in group]


def _jobs(model, pictures, pairs, seeds):
    """A list per ``(task, method)``, of a job per picture and seed."""
    side, schedule = bird.prior_side(model), schedules.from_json(model.info["schedule"])
    problems = {}
    for task in dict.fromkeys(task for task, _ in pairs):
        problems[task] = []
        for seed in seeds:
            for name, image in zip(pictures.names, pictures.images):
                keys = rng.image_keys(seed, [rng.name_id(name)])
                problem = bird.make_problem(task, jnp.asarray(bird.to_side(image, side))[None], keys)
                problems[task].append((seed, name, problem, _digest(problem)))
    jobs = []
    for task, method in pairs:
        outline = bird.outline(schedule, task, method, problems[task][0][2])
        known = f"{model.info['sha256'][:12]} {task} {method} {outline.digest}"
        jobs.append([_Job({"picture": name, "seed": seed, "task": task, "method": method}, f"{known} {digest}", problem,
                          1 if outline.evaluations is None else outline.evaluations)
                     for seed, name, problem, digest in problems[task]])
    return jobs


def _digest(problem):
    state = hashlib.sha256()
    for array in (problem.x, problem.y, problem.sigma, jax.random.key_data(problem.keys)):
        state.update(np.asarray(array).tobytes())
    return state.hexdigest()[:12]


def _measure(restore, jobs, size):
    """Restore the pictures of ``jobs``, filled up to ``size`` (one shape, one compilation), and measure them."""
    problems = [job.problem for job in jobs] + [jobs[-1].problem] * (size - len(jobs))
    problem = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *problems)
    x, residual, evaluations = (np.asarray(found) for found in restore(problem))
    evaluations, sigma, truth = np.broadcast_to(evaluations, size), np.asarray(problem.sigma), np.asarray(problem.x)
    rows = []
    for i, job in enumerate(jobs):
        one, true = x[i:i + 1], truth[i:i + 1]
        if not np.isfinite(one).all():
            raise ValueError(f"{job.row['picture']}: {job.row['method']} of {job.row['task']} gave no finite picture")
        rows.append({"key": job.key, **job.row, "evaluations": int(evaluations[i]),
                     PSNR: float(bird.psnr_of(one, true)[0]),
                     ALIGNED: float(bird.aligned_psnr(one, true)[0]), RESIDUAL: float(residual[i] / sigma[i])})
    return rows


# ---------------------------------------------------------------------------------------------------- writing

class Summary(NamedTuple):
    """A method of a task: means over pictures and seeds; gains over the input of the same picture and seed, in dB.

    Attributes:
        evaluations, psnr, aligned, residual: means.
        gain, worst, aligned_gain, aligned_worst: mean and smallest gain.
    """

    evaluations: float
    psnr: float
    aligned: float
    residual: float
    gain: float
    worst: float
    aligned_gain: float
    aligned_worst: float


def summaries(rows: list[dict]) -> dict[str, dict[str, Summary]]:
    """``{task: {method: Summary}}``, in the order of the rows."""
    inputs = {(row["task"], row["picture"], row["seed"]): row for row in rows if row["method"] == "input"}
    groups = {}
    for row in rows:
        groups.setdefault(row["task"], {}).setdefault(row["method"], []).append(row)

    def summary(rows):
        before = [inputs[row["task"], row["picture"], row["seed"]] for row in rows]
        gains, aligned = ([row[name] - first[name] for row, first in zip(rows, before)] for name in (PSNR, ALIGNED))
        means = [float(np.mean([row[name] for row in rows])) for name in _MEASURED]
        return Summary(*means, float(np.mean(gains)), min(gains), float(np.mean(aligned)), min(aligned))

    return {task: {method: summary(group) for method, group in methods.items()} for task, methods in groups.items()}


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method; bold the best mean of a task, among those that are told no more than the rest."""
    lines = ["| task | method | network evaluations | PSNR, dB (gain) | worst picture's gain | aligned PSNR, dB (gain, "
             "worst) | residual / noise level |", "|---|---|---:|---:|---:|---:|---:|"]
    for task, methods in summaries(rows).items():
        fair = {method: found for method, found in methods.items() if (task, method) not in bird.TOLD}
        best = {name: max(getattr(found, name) for found in fair.values()) for name in ("psnr", "aligned")}
        for method, found in methods.items():
            def number(name):
                value = f"{getattr(found, name):.2f}"
                return f"**{value}**" if method in fair and getattr(found, name) == best[name] else value

            first, given = method == "input", task in _ALIGNED_TASKS
            aligned = number("aligned") if given else ""
            lines.append("| " + " | ".join([
                bird.TASKS[task] if first else "", bird.title(task, method), f"{found.evaluations:.0f}",
                number("psnr") + ("" if first else f" ({found.gain:+.2f})"), "" if first else f"{found.worst:+.2f}",
                aligned + ("" if first or not given else f" ({found.aligned_gain:+.2f}, {found.aligned_worst:+.2f})"),
                f"{found.residual:.2f}"]) + " |")
    return "\n".join(lines)


def against_official(rows: list[dict]) -> str:
    """BIRD beside its official settings, one line per task that has both; "" without any."""
    lines = []
    for task, methods in summaries(rows).items():
        if {"bird", "official"} <= methods.keys():
            ours, theirs = methods["bird"], methods["official"]
            lines.append(f"| {bird.TASKS[task]} | {theirs.evaluations:.0f} | {ours.evaluations:.0f} | "
                         f"{ours.evaluations / theirs.evaluations:.3f} | {theirs.psnr:.2f} | {ours.psnr:.2f} | "
                         f"{ours.psnr - theirs.psnr:+.2f} |")
    head = ["| task | evaluations, official | evaluations, BIRD | ratio | PSNR, official | PSNR, BIRD | difference, dB "
            "|", "|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*head, *lines]) if lines else ""


def provenance(model: common.Model, pictures: common.Pictures, pairs, seeds, command: str) -> str:
    """What was measured, on what, with which settings, and the command: no date, no machine."""
    count, side = sum(leaf.size for leaf in jax.tree.leaves(model.params)), bird.prior_side(model)
    lines = [
        f"`{model.info.get('name', 'unnamed')}` ({count:,} parameters, sha256 `{model.info['sha256'][:12]}`) on "
        f"{len(pictures.names)} pictures (`{pictures.label}`, pixels `{pictures.digest}`, brought to {side} px), seeds "
        f"{', '.join(map(str, seeds))}, indigo_jax {indigo_jax.__version__}.",
        "Means over pictures and seeds; a gain is over the input of the same picture and seed; bold the best of a "
        f"task. PSNR is `{PSNR}`: of pictures clipped to their range but not rounded to 8 bits. Aligned: the best of "
        "all moves by at most 3 pixels, without an eighth of the side at each border.",
        "The residual is the root mean square of A(x) - y, where the kernel is unknown with that which was found. The "
        "noise has sigma 0.01 of [0, 1], but for denoising, and 0.001 of the mean along a ray for tomography; the "
        "kernels are random shakes, one per picture and seed, with the border by reflection. DDNM has eta 0.85; Wiener "
        "and total variation take differences of pixels to be Gaussian of standard deviation 0.2 and Laplacian of "
        "scale 0.1."]
    used = []
    for task, method in pairs:
        if method in ("bird", "official") and (task, method) not in (("blind", "bird"), ("ct", "bird")):
            settings = {"bird": restoration.DEFAULT, "official": restoration.OFFICIAL}[method]
            used.append(f"- {bird.title(task, method)}, {bird.TASKS[task]}: "
                        f"`{settings['deblur' if task == 'blind' else task]}`")
    return "\n\n".join(filter(None, ["\n".join(lines), "\n".join(used), f"Written by `{command}`."]))
