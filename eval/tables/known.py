"""The table of methods for a known operator, BIRD's among them, against baselines: lines of METHODS, Markdown."""
import jax
import jax.numpy as jnp
import numpy as np

from eval import problems
from eval.baselines import BASELINES
from eval.measure import (
    ALIGNED, PSNR, Cache, Group, about, aligned_psnr, grouped, markdown, mean, measure, psnr_of, weights_of)
from eval.problems import TASKS
from indigo_jax import methods, tiles
from indigo_jax.methods import METHODS, base, bird
from indigo_jax.methods.known import KnownOperator

RESIDUAL = "residual-over-sigma"
MEASURED = ("evaluations", PSNR, ALIGNED, RESIDUAL)
SCORES = {PSNR: psnr_of, ALIGNED: aligned_psnr}
LINES = {  # shown by default; any other of METHODS on request
    "inpaint": ("bird", "official", "ddnm", "diffpir"), "denoise": ("bird", "official", "once"),
    "sr": ("bird", "official", "ddnm", "diffpir"), "deblur": ("wiener", "tv", "bird", "official", "diffpir"),
    "blind": ("bird", "official", "diffpir"), "ct": ("tv", "bird")}
NAMES = tuple(dict.fromkeys([*BASELINES, "bird", "official", "ddnm", "diffpir", "once", *METHODS]))
TITLES = {"input": "input", "bird": "BIRD", "official": "BIRD, official settings", "ddnm": "DDNM",
          "diffpir": "DiffPIR", "once": "one network call", "dps": "DPS", "pigdm": "PiGDM", "tmpd": "TMPD",
          "ddrm": "DDRM", "daps": "DAPS", "reddiff": "RED-diff", "pnp-flow": "PnP-Flow",
          "hqs": "half-quadratic splitting", "indi": "InDI", "indigo": "INDIGO", "latent-indigo": "LatentINDIGO",
          "wiener": "Wiener, Gaussian differences", "tv": "total variation", ("sr", "input"): "input, bicubic",
          ("blind", "bird"): "BIRD, blind alternation", ("ct", "input"): "filtered back-projection",
          ("ct", "bird"): "DiffPIR, all noise new",
          ("blind", "diffpir"): "DiffPIR, told the true kernel"}
_SETTINGS = {("inpaint", "diffpir"): {"steps": 30}, ("sr", "diffpir"): {"steps": 30}, ("sr", "hqs"): {"shrunk": "mean"}}


def does(task: str, name: str) -> bool:
    """Whether there can be such a line of a task."""
    if name in BASELINES:
        return name == "input" or task in ("deblur", "ct") and (name, task) != ("wiener", "ct")
    return problems.task_of_methods(task) in METHODS["bird" if name == "official" else name].tasks


def is_told(task: str, name: str) -> bool:
    """Whether a method knows the kernel that the others must find."""
    return task == "blind" and issubclass(METHODS.get(name, object), KnownOperator) and METHODS[name].needs_kernel


def title(task: str, name: str) -> str:
    """A method's name in the tables."""
    return TITLES.get((task, name), TITLES.get(name, name) + (", told the true kernel" if is_told(task, name) else ""))


def chosen(tasks, names=None) -> list[tuple[str, str]]:
    """``(task, line)`` of what was asked for; the input always.

    Args:
        tasks: of :data:`problems.TASKS`.
        names: of :data:`NAMES`, or None for :data:`LINES`.
    """
    return [(task, name) for task in TASKS if task in tasks for name in NAMES
            if name == "input" or (name in LINES[task] if names is None else name in names and does(task, name))]


def line(task: str, name: str, prior: str, **settings) -> Group:
    """A line of the table, without cases: of METHODS, of :data:`BASELINES`, or BIRD with the released code's settings.

    Args:
        task: of :data:`problems.TASKS`.
        name: of :data:`NAMES`.
        prior: weights of the diffusion prior; methods without one take their own default.
        settings: of the method.
    """
    whole = f"{title(task, name)} of {task}"
    if name in BASELINES:
        def baseline(params, case):
            problem = problems.problem_of(task, case)
            x = jnp.clip(BASELINES[name](task, problem), -1.0, 1.0)
            return x, {"evaluations": 0, RESIDUAL: problem.residual(x) / problem.sigma}

        return Group(whole, baseline, (), "")
    method = _load(task, name, prior, settings)

    def restore(params, case):
        problem = problems.problem_of(task, case)
        blind = task == "blind" and not is_told(task, name)
        given = method.estimated(case.y) if blind else problems.all_given(task, case)
        side = problem.shape[0]
        plan = tiles.Plan((side, side), (side, side), 0) if method.takes_any_size else method.plan(side, side)
        found = method.solve(params, method.enlarged(case.y), case.keys, plan=plan, given=given)
        residual = problem.residual(found.x) if found.kernel is None else found.residual
        return found.x, {"evaluations": method.evaluations(found) * plan.count, RESIDUAL: residual / problem.sigma}

    return Group(whole, restore, method.params, weights_of(method))


def _load(task, name, prior, settings):
    name, settings = ("bird", {"preset": "official", **settings}) if name == "official" else (name, settings)
    settings = {**_SETTINGS.get((task, name), {}), **settings}
    if issubclass(METHODS[name], KnownOperator):
        settings["weights"] = prior
        one = np.ones((1, 1), np.float32)  # stands for those of the cases
        if task == "inpaint":
            settings["mask"] = one
        elif task in ("deblur", "blind") and METHODS[name].needs_kernel:
            settings["kernel"] = one
        elif task == "blind" and settings.get("preset") == "official":
            settings["kernel_size"] = problems.KERNEL_SIZE
    scale = problems.FACTOR if task == "sr" else None
    return methods.load(name, task=problems.task_of_methods(task), scale=scale, **settings)


def side_of(network: base.Network) -> int:
    """Side of the pictures that a prior has learned."""
    return base.side_of(network) or 64


def summaries(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """``{task: {method: numbers}}``: the means over pictures and seeds; in dB over the input of the same picture and
    seed mean and least of the PSNR, "gain" and "worst", and of the aligned one, "aligned gain" and "aligned worst"."""
    inputs = {(row["task"], row["picture"], row["seed"]): row for row in rows if row["method"] == "input"}

    def summary(rows):
        before = [inputs[row["task"], row["picture"], row["seed"]] for row in rows]
        numbers = {name: mean(rows, name) for name in MEASURED}
        for name, prefix in ((PSNR, ""), (ALIGNED, "aligned ")):
            gains = [row[name] - first[name] for row, first in zip(rows, before)]
            numbers.update({f"{prefix}gain": float(np.mean(gains)), f"{prefix}worst": min(gains)})
        return numbers

    return {task: {method: summary(group) for method, group in found.items()}
            for task, found in grouped(rows, "task", "method").items()}


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method; bold the best mean of a task, among those that are told no more than the rest."""
    lines = []
    for task, by_method in summaries(rows).items():
        fair = [method for method in by_method if not is_told(task, method)]
        best = {name: max(by_method[method][name] for method in fair) for name in (PSNR, ALIGNED)}
        for method, found in by_method.items():
            psnr, aligned = (f"**{found[name]:.2f}**" if method in fair and found[name] == best[name] else
                             f"{found[name]:.2f}" for name in (PSNR, ALIGNED))
            worst, first = "", method == "input"
            if not first:
                psnr, worst = f"{psnr} ({found['gain']:+.2f})", f"{found['worst']:+.2f}"
                aligned = f"{aligned} ({found['aligned gain']:+.2f}, {found['aligned worst']:+.2f})"
            lines.append([TASKS[task] if first else "", title(task, method), f"{found['evaluations']:.0f}", psnr, worst,
                          aligned if task in ("deblur", "blind") else "", f"{found[RESIDUAL]:.2f}"])
    return markdown(["task", "method", "network evaluations", "PSNR, dB (gain)", "worst picture's gain",
                     "aligned PSNR, dB (gain, worst)", "residual / noise level"], lines)


def against_official(rows: list[dict]) -> str:
    """BIRD beside its official settings, one line per task that has both; "" without any."""
    lines = []
    for task, by_method in summaries(rows).items():
        if {"bird", "official"} <= by_method.keys():
            ours, theirs = ((by_method[name]["evaluations"], by_method[name][PSNR]) for name in ("bird", "official"))
            lines.append(f"| {TASKS[task]} | {theirs[0]:.0f} | {ours[0]:.0f} | {ours[0] / theirs[0]:.3f} | "
                         f"{theirs[1]:.2f} | {ours[1]:.2f} | {ours[1] - theirs[1]:+.2f} |")
    head = ["| task | evaluations, official | evaluations, BIRD | ratio | PSNR, official | PSNR, BIRD | difference, dB "
            "|", "|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*head, *lines]) if lines else ""


def _provenance(prior, pictures, pairs, seeds, command):
    """What was measured, on what, with which settings, and the command: no date, no machine."""
    count = sum(leaf.size for leaf in jax.tree.leaves(prior.params))
    lines = [
        f"`{prior.info.get('name', 'unnamed')}` ({count:,} parameters, sha256 `{prior.info['sha256'][:12]}`) on "
        f"{about(pictures, side_of(prior), seeds)}.",
        "Means over pictures and seeds; a gain is over the input of the same picture and seed; bold the best of a "
        f"task. PSNR is `{PSNR}`: of pictures clipped to their range but not rounded to 8 bits. Aligned: the best of "
        "all moves by at most 3 pixels, without an eighth of the side at each border.",
        "The residual is the root mean square of A(x) - y, where the kernel is unknown with that which was found. The "
        "noise has sigma 0.01 of [0, 1], but for denoising, and 0.001 of the mean along a ray for tomography; the "
        "kernels are random shakes, one per picture and seed, with the border by reflection. DDNM has eta 0.85; Wiener "
        "and total variation take differences of pixels to be Gaussian of standard deviation 0.2 and Laplacian of "
        "scale 0.1."]
    knobs = {"bird": bird.DEFAULT, "official": bird.OFFICIAL}
    used = [f"- {title(task, name)}, {TASKS[task]}: `{knobs[name][problems.task_of_methods(task)]}`"
            for task, name in pairs if name in knobs and (task, name) not in (("blind", "bird"), ("ct", "bird"))]
    return "\n\n".join(filter(None, ["\n".join(lines), "\n".join(used), f"Written by `{command}`."]))


def table(args, pictures, path, command: str):
    """As :data:`eval.tables.TABLES` has it: a row per picture, seed, task and method; numbers that are known come from
    .jsonl.

    Noise, kernels and starts come from the seed and the picture's name, so that rows do not depend on other pictures.
    """
    prior, pairs = base.open_network(args.weights, "prior"), chosen(args.tasks, args.methods)
    seeds, side = list(dict.fromkeys(args.seeds or [args.seed])), side_of(prior)
    cases = {task: [({"picture": one.names[0], "seed": seed}, problems.make(task, *one.at(side, seed)))
                    for seed in seeds for one in pictures.singles()] for task in dict(pairs)}
    groups = [line(task, name, args.weights)._replace(
        cases=[({**said, "task": task, "method": name}, case) for said, case in cases[task]]) for task, name in pairs]
    rows = measure(groups, SCORES, Cache(path.with_suffix(".jsonl"), MEASURED), batch_size=args.batch)
    both = against_official(rows)
    body = [to_markdown(rows), both and f"BIRD against its official settings:\n\n{both}",
            _provenance(prior, pictures, pairs, seeds, command)]
    return prior.info.get("name"), rows, "\n\n".join(filter(None, body))
