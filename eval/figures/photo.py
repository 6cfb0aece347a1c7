"""Fig. 3 of the InDI paper: perception against distortion, on real pictures, and details of them."""
import pathlib

import numpy as np

from eval import problems
from eval.command import write_csv
from eval.configs import photo_degradations
from eval.figures import toy
from eval.figures.drawing import COLOURS, pyplot, save, strips
from eval.measure import lpips_of
from eval.problems import Degradation
from eval.tables.photo import Result, means, measure, restorations
from indigo_jax import methods, metrics

FIGURES = ("toy", "perception-distortion")
STEPS = (1, 2, 3, 5, 10, 20)


class HighFrequencies:
    """Energy of the grey picture at high frequencies, relative to the true picture's: the stand-in for a perceptual
    distance where there are no LPIPS weights. 1 is right, less is blurred, more is noisy."""

    name = "high-frequency-energy-ratio"
    metric = "high frequencies"

    def __call__(self, a, b) -> np.ndarray:
        """uint8 ``[B, H, W, 3]`` twice ``-> float64 [B]``; ``b`` is the truth."""
        return _high_frequencies(a) / np.maximum(_high_frequencies(b), 1e-12)


def _high_frequencies(image):
    """Mean power of the (Hann-windowed) grey picture at frequencies above 0.25 per pixel."""
    grey = np.asarray(image, np.float64) @ (0.299, 0.587, 0.114)
    grey = grey - grey.mean(axis=(1, 2), keepdims=True)
    height, width = grey.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return np.mean(np.abs(np.fft.fft2(grey * window))[:, frequency > 0.25] ** 2, axis=1)


def one_per_task(degradations) -> tuple[Degradation, ...]:
    """One degradation of each task, of several variants the middle one; of the motion blurs only the straight ones."""
    tasks = {}
    for degradation in degradations:
        if "shake" not in degradation.task:
            tasks.setdefault(degradation.task, []).append(degradation)
    return tuple(variants[len(variants) // 2] for variants in tasks.values())


def _label(task: str, variant: str) -> str:
    return f"{task}, {variant}" if variant else task


def draw_perception_distortion(rows: list[dict], perception, title: str):
    """Fig. 3: one panel per task; each point is a number of steps.

    Args:
        rows: from :func:`eval.tables.photo.measure`, with PSNR and ``perception``.
        perception: the protocol on the vertical axis.
        title: what was measured.
    """
    distortion = metrics.by_name("psnr").name
    psnr, seen = means(rows, distortion), means(rows, perception.name)
    labels = {row["task"]: _label(row["task"], row["variant"]) for row in rows}
    figure, axes = pyplot().subplots(1, len(psnr), figsize=(3.1 * len(psnr), 3.7), squeeze=False, layout="constrained")
    for i, (ax, task) in enumerate(zip(axes[0], psnr)):
        steps = sorted(n for n in psnr[task] if n)
        x, y = [psnr[task][n] for n in steps], [seen[task][n] for n in steps]
        ax.plot(x, y, "-o", color=COLOURS[i % len(COLOURS)], markersize=6, linewidth=1.5)
        for k, n in enumerate(steps):
            left = x[k] == max(x)
            ax.annotate(f"N = {n}" if n == 1 else f"{n}", (x[k], y[k]), textcoords="offset points", fontsize=9,
                        xytext=(-6 if left else 6, 5), ha="right" if left else "left")
        ax.set(xlim=_span(x, 0.6), ylim=_span(y, 0.04))
        ax.set_title(f"{labels[task]}\ninput: {psnr[task][0]:.2f} dB, {seen[task][0]:.3f}", fontsize=10)
        ax.set_xlabel("PSNR, dB  (less distortion →)", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.92", linewidth=0.6)
    label = "LPIPS  (↓ looks better)" if perception.metric == "lpips" else (
        "energy of high frequencies\nrelative to the truth  (1 is right)")
    axes[0, 0].set_ylabel(label, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _span(values, least: float) -> tuple[float, float]:
    """Limits of an axis: with room around the values, and never so close that rounding looks like an effect."""
    middle, half = (min(values) + max(values)) / 2, max(0.65 * (max(values) - min(values)), least / 2)
    return middle - half, middle + half


def draw_strip(results: list[Result], steps=(1, 10), *, size: int = 96):
    """Details of pictures: one row per task with input, restorations and truth, each task from another picture."""
    names = list(dict.fromkeys(result.name for result in results))
    found = {(result.degradation.task, result.name, result.num_steps): result for result in results}
    rows = []
    for i, task in enumerate(dict.fromkeys(result.degradation.task for result in results)):
        name = names[i % len(names)]
        here = [found[task, name, n] for n in (0, *steps)]
        truth, window = here[0].truth, detail(here[0].truth, size)
        cells = [(result.image[window], f"N = {result.num_steps}" if result.num_steps else "input",
                  f"{metrics.psnr(result.image[window][None], truth[window][None])[0]:.2f} dB") for result in here]
        rows.append((_label(task, here[0].degradation.variant).replace(", ", ",\n"),
                     [*cells, (truth[window], "truth", pathlib.PurePath(name).stem)]))
    return strips(rows, side=2.1)[0]


def detail(image, size: int) -> tuple[slice, slice]:
    """The square of at most ``size`` pixels (on a grid of 16) with the strongest edges of a picture ``[H, W, 3]``."""
    grey = np.asarray(image, np.float64).mean(axis=-1)
    height, width = min(size, grey.shape[0]), min(size, grey.shape[1])
    edges = np.zeros_like(grey)
    edges[1:, 1:] = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    corners = [(top, left) for top in range(0, grey.shape[0] - height + 1, 16)
               for left in range(0, grey.shape[1] - width + 1, 16)]
    top, left = max(corners, key=lambda corner: edges[corner[0]:corner[0] + height, corner[1]:corner[1] + width].sum())
    return slice(top, top + height), slice(left, left + width)


def draw(args, names, folder) -> None:
    """The figures and the numbers behind them; see :data:`eval.figures.DRAW`."""
    if "toy" in names:
        save(toy.draw_toy(), folder / "toy.png")
    if "perception-distortion" not in names:
        return
    perception = lpips_of(args.lpips) or HighFrequencies()
    pictures = problems.open_pictures(args.data, limit=args.limit, crop=args.crop)
    info = methods.base.open_network(args.weights, "restorer").info
    steps = sorted({1, *args.steps})
    results = list(restorations(args.weights, pictures, one_per_task(photo_degradations.get_config()), steps,
                                batch_size=args.batch, seed=args.seed, spacing=args.spacing))
    rows = measure(results, [metrics.by_name("psnr"), perception])
    title = (f"{info.get('name', 'InDI')}: perception against distortion for {steps[0]} to {steps[-1]} steps "
             f"(means over {len(pictures.names)} pictures of {pictures.label}, central {args.crop} px)")
    write_csv(folder / "perception_distortion.csv", rows)
    save(draw_perception_distortion(rows, perception, title), folder / "perception_distortion.png")
    shown = [1, 10] if 10 in steps else [1, steps[-1]]
    save(draw_strip(results, tuple(dict.fromkeys(shown))), folder / "strip.png")
