"""The table of spreads: several samples of each picture by the methods that draw, held against the true error."""
import jax
import numpy as np
from tqdm import tqdm

from eval import problems
from eval.coverage import NAMES, WITHIN, coverage, expected
from eval.measure import PSNR, Cache, about, grouped, markdown, mean, program_digest, psnr_of
from eval.problems import TASKS, digest
from eval.tables import known
from indigo_jax import rng
from indigo_jax.methods import base

WEIGHTS, SAMPLES = "faces64", 8
LINES = ("ddnm", "diffpir", "pigdm", "tmpd")
STEPS = {"ddnm": 20, "diffpir": 20, "pigdm": 20, "tmpd": 20, "dps": 50}  # else the method's own
MEASURED = ("evaluations", "psnr of one", "psnr of the mean", *NAMES)


def lines(tasks, names=LINES, prior=WEIGHTS):
    """``(task, name, group)`` of every line; see :func:`known.line`."""
    for task in tasks:
        for name in names:
            if known.does(task, name):
                settings = {"steps": STEPS[name]} if name in STEPS else {}
                yield task, name, known.line(task, name, prior, **settings)


def samples_of(group, case: problems.Case, count: int):
    """``(restorations [K, B, S, S, 3] in [-1, 1], numbers)``; the keys of the k-th are folded with k."""
    restore = jax.jit(group.restore)
    found = [restore(group.params, case.unseen._replace(keys=rng.fold(case.keys, np.uint32(k)))) for k in range(count)]
    return np.stack([np.asarray(x) for x, _ in found]), found[0][1]


def measure(chosen, pictures: problems.Pictures, cache: Cache, *, side: int, seed: int = 0,
            count: int = SAMPLES) -> list[dict]:
    """One row per task, method and picture; what the cache knows is taken from there."""
    rows = []
    for task, name, group in tqdm(list(chosen), unit="line", mininterval=1.0):
        case = problems.make(task, *pictures.at(side, seed))
        key = " ".join([group.weights, str(count), program_digest(group.restore, group.params, case.unseen), digest(
            *jax.tree.leaves(case._replace(keys=jax.random.key_data(case.keys))))])
        keys = [f"{key} {picture}" for picture in pictures.names]
        if not all(each in cache.known for each in keys):
            x, numbers = samples_of(group, case, count)
            evaluations = np.broadcast_to(np.asarray(numbers["evaluations"]), len(keys))
            truth = np.asarray(case.x)
            cache.add([{"key": each, "evaluations": evaluations[i].item(),
                        "psnr of one": float(psnr_of(x[0, i:i + 1], truth[i:i + 1])[0]),
                        "psnr of the mean": float(psnr_of(x[:, i].mean(axis=0)[None], truth[i:i + 1])[0]),
                        **coverage(x[:, i], truth[i])} for i, each in enumerate(keys)])
        rows += [{"task": task, "method": name, "picture": picture, **cache.known[each]}
                 for picture, each in zip(pictures.names, keys)]
    return rows


def to_markdown(rows: list[dict], count: int = SAMPLES) -> str:
    """A line per task and method; the ratio is that of the root mean squares over all pictures."""
    heads = [f"within {k} (calibrated: {share:.1%})" for k, share in zip(WITHIN, expected(count))]
    out = []
    for task, by_method in grouped(rows, "task", "method").items():
        for i, (name, each) in enumerate(by_method.items()):
            rmse, width = (float(np.sqrt(np.mean([row[column]**2 for row in each])))
                           for column in ("rmse-255", "spread-255"))
            out.append([TASKS[task] if i == 0 else "", known.title(task, name), f"{mean(each, 'evaluations'):.0f}",
                        f"{mean(each, 'psnr of one'):.2f}", f"{mean(each, 'psnr of the mean'):.2f}", f"{rmse:.1f}",
                        f"{width:.1f}", f"{width / rmse:.2f}", *(f"{mean(each, f'within-{k}'):.1%}" for k in WITHIN)])
    return markdown(["task", "method", "evaluations of a sample", "PSNR of a sample, dB", "of their mean, dB",
                     "error of the mean", "spread", "spread / error", *heads], out)


def table(args, pictures: problems.Pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    side = known.side_of(base.open_network(WEIGHTS, "prior"))
    cache = Cache(path.with_suffix(".jsonl"), MEASURED)
    rows = measure(lines(args.tasks, args.methods or LINES), pictures, cache, side=side, seed=args.seed)
    shown = dict.fromkeys(row["method"] for row in rows)
    steps = ", ".join(f"{known.TITLES[name]} {STEPS.get(name, 'its own')}" for name in shown)
    notes = (f"The spread of each method, not of what may have been: {SAMPLES} samples of `{WEIGHTS}` for each of "
             f"{about(pictures, side, [args.seed])}. Error of the mean of the samples, and spread times "
             f"sqrt(1 + 1/{SAMPLES}) since the mean is one of {SAMPLES}: root mean squares over all values, in grey "
             "values of 255; within 1 and 2: share of values whose error is at most so many spreads, and in brackets "
             "that of a Gaussian posterior drawn from exactly, for so few samples (68.3 % and 95.4 % for very many). "
             "A ratio below 1 is too sure. Also a sampler that draws from Gaussian posteriors as it should has here "
             "the errors of a small network beside its own. Of a picture with a hole nine "
             f"tenths are seen. Steps: {steps}. Standard deviation with K - 1. PSNR is `{PSNR}`.")
    return "coverage", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
