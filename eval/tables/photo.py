"""The table of a network that restores directly: fixed degradations, several numbers of steps, Markdown."""
import json
import pathlib
from typing import Iterable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import problems
from eval.configs import photo_degradations
from eval.measure import about, grouped, lpips_of, markdown, mean
from eval.problems import Degradation, Pictures
from indigo_jax import methods, metrics, rng, tiles

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
_ALL = "mean of the tasks"
_SHOWN = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 4), "lpips": ("LPIPS", 4)}  # title, decimals


class Result(NamedTuple):
    """One picture: ``num_steps`` is 0 for the degraded input; ``image`` and ``truth`` are uint8 ``[H, W, 3]``."""

    name: str
    degradation: Degradation
    num_steps: int
    image: np.ndarray
    truth: np.ndarray


def restorations(weights: str, pictures: Pictures, degradations: tuple[Degradation, ...], steps, *, batch_size: int = 4,
                 seed: int = 0, spacing: str = "uniform") -> Iterator[Result]:
    """Every picture under every degradation: the input, then its restoration by InDI with each number of steps.

    The key of a picture comes from ``seed`` and its name, so the results do not depend on the other pictures.

    Args:
        weights: name or file of a network that restores directly.
        pictures: clean ones.
        degradations: at least one.
        steps: numbers of them.
        batch_size: degradations of a picture restored at a time, at most.
        seed, spacing: of the keys; of the times.
    """
    restore = {num_steps: methods.load("indi", weights=weights, steps=num_steps, spacing=spacing)
               for num_steps in steps}
    degradations = tuple(degradations)
    batch_size = -(-len(degradations) // -(-len(degradations) // batch_size))  # as few chunks, evenly filled
    chunks = [slice(i, i + batch_size) for i in range(0, len(degradations), batch_size)]
    with tqdm(total=len(pictures.names) * len(chunks) * sum(steps), unit="step", desc="restoring",
              mininterval=1.0) as bar:
        for name, truth in zip(pictures.names, pictures.images):
            key = rng.image_keys(seed, [rng.name_id(name)])
            inputs = np.asarray(problems.degrade(degradations, truth, key[0]))
            yield from (Result(name, *rest, truth) for rest in zip(degradations, [0] * len(inputs), inputs))
            plan = tiles.Plan(truth.shape[:2], truth.shape[:2], 0)  # the network sees the whole
            for chunk in chunks:
                rows = degradations[chunk]
                keys = jnp.concatenate([row.keys(key) for row in _filled(rows, batch_size)])
                y = problems.from_uint8(np.stack(_filled(list(inputs[chunk]), batch_size)))
                for num_steps in steps:
                    found = restore[num_steps].run(y, rng.fold(keys, problems.SAMPLE), plan, {})
                    outputs = np.asarray(problems.to_uint8(found.x))
                    bar.update(num_steps)
                    yield from (Result(name, row, num_steps, image, truth) for row, image in zip(rows, outputs))


def _filled(rows, size):
    """``rows`` with the last one repeated up to ``size``: one shape, one compilation."""
    return [*rows, *[rows[-1]] * (size - len(rows))]


def protocols(lpips: str | None) -> list[metrics.Protocol]:
    """PSNR, SSIM and, with a file of weights, LPIPS."""
    return list(filter(None, (metrics.by_name("psnr"), metrics.by_name("ssim"), lpips_of(lpips))))


def measure(results: Iterable[Result], measures) -> list[dict]:
    """One row per picture: ``{"picture", "task", "variant", "steps", protocol name: float, ...}``; steps 0: the input.

    Args:
        results: pictures with their truth.
        measures: callables ``(a, b) -> [B]`` with a ``name``.
    """
    rows = []
    for result in results:
        try:
            scores = {measure.name: float(measure(result.image[None], result.truth[None])[0]) for measure in measures}
        except ValueError as error:
            raise ValueError(f"{result.name}: {error}") from error
        rows.append({"picture": result.name, "task": result.degradation.task, "variant": result.degradation.variant,
                     "steps": result.num_steps, **scores})
    return rows


def means(rows: list[dict], name: str) -> dict[str, dict[int, float]]:
    """``{task: {steps: float64 mean over pictures and variants}}`` of one protocol, in the order of the rows."""
    return {task: {steps: mean(group, name) for steps, group in by_steps.items()}
            for task, by_steps in grouped(rows, "task", "steps").items()}


def to_markdown(rows: list[dict], measures) -> str:
    """One line per task and metric, then the mean of the tasks; the best number of each is bold.

    PSNR also shows its gain over the input.
    """
    table = {measure.name: means(rows, measure.name) for measure in measures}
    tasks = list(table[measures[0].name])
    if len(tasks) > 1:
        for by_task in table.values():
            by_task[_ALL] = {n: float(np.mean([by_task[task][n] for task in tasks])) for n in by_task[tasks[0]]}
        tasks.append(_ALL)
    steps = [steps for steps in next(iter(table[measures[0].name].values())) if steps]
    lines = []
    for task in tasks:
        variants = list(dict.fromkeys(row["variant"] for row in rows if row["task"] == task and row["variant"]))
        label = f"{task} ({', '.join(variants)})" if variants else task
        for measure in measures:
            values = table[measure.name][task]
            title, decimals = _SHOWN[measure.metric]
            best = (max if measure.higher_is_better else min)(values.values())
            cells = [f"**{values[n]:.{decimals}f}**" if values[n] == best else f"{values[n]:.{decimals}f}"
                     for n in (0, *steps)]
            if measure.metric == "psnr":
                cells[1:] = [f"{cell} ({values[n] - values[0]:+.2f})" for cell, n in zip(cells[1:], steps)]
            lines.append([label if measure is measures[0] else "", title, *cells])
    return markdown(["task", "metric", "input", *(f"N = {n}" for n in steps)], lines)


def _provenance(network, pictures, measures, command):
    """What was measured, on what, how, and the command: no date, no machine."""
    info, count = network.info, sum(leaf.size for leaf in jax.tree.leaves(network.params))
    trained = f", {info['num_steps']:,} steps in its last training run" if info.get("num_steps") else ""
    return "\n".join([
        f"`{info.get('name', 'unnamed')}` ({count:,} parameters{trained}, sha256 `{info.get('sha256', 'none')[:12]}`) "
        f"on {about(pictures)}.",
        "Means over pictures (and over the variants in brackets) in float64; inputs and results are rounded to 8 bits. "
        "Protocols: " + ", ".join(f"`{measure.name}`" for measure in measures) + ".",
        "N is the number of steps, in brackets the gain over the input, bold the best of a line. The input of "
        "super-resolution is the bicubic enlargement.",
        f"Written by `{command}`."])


def references(pictures: Pictures, tasks=None) -> list[str]:
    """Published numbers for these pictures, with their source, for scale; of some tasks only."""
    lines = []
    for path in sorted(REFERENCE.glob("*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["data"] == pictures.label.lower() and (tasks is None or known["task"] in tasks):
            values = ", ".join(f"{name} {value}" for name, value in known["values"].items())
            lines.append(f"For scale: {known['task']}, {known['metric']}: {values} ({known['note']}; "
                         f"{known['source']}).")
    return lines


def table(args, pictures, path, command: str):
    """As :data:`eval.tables.TABLES` has it; keeps no .jsonl."""
    measures, network = protocols(args.lpips), methods.base.open_network(args.weights, "restorer")
    found = restorations(args.weights, pictures, photo_degradations.get_config(), sorted(set(args.steps)),
                         batch_size=args.batch, seed=args.seed, spacing=args.spacing)
    rows = measure(found, measures)
    notes = [_provenance(network, pictures, measures, command), *references(pictures, {row["task"] for row in rows})]
    return network.info.get("name"), rows, "\n\n".join([to_markdown(rows, measures), *notes])
