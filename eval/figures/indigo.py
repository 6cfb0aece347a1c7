"""Figures of INDIGO and LatentINDIGO: what the invertible network makes of a picture, and how a chain goes.

Papers: You & Dragotti, INDIGO (arXiv 2306.02949) and INDIGO+ (arXiv 2501.14014); You, Siromani & Dragotti, LatentINDIGO
(arXiv 2505.12935).
"""
from typing import NamedTuple

import jax
import numpy as np

from eval import problems
from eval.command import to_csv, write_text
from eval.figures import drawing
from eval.figures.bird import chosen_steps
from eval.measure import psnr_of
from eval.problems import Case, Pictures
from eval.tables import guided
from indigo_jax import methods, restoration, samplers

OF_METHOD = {"indigo": ("decomposition", "path"), "latent-indigo": ("decomposition", "path", "drift")}
FIGURES = OF_METHOD["latent-indigo"]


# ---------------------------------------------------------------------------------------------------- decomposition

class Decomposition(NamedTuple):
    """A picture in the eyes of the invertible network; all but ``x``, ``y`` and ``swapped`` in its units.

    Attributes:
        x, y: picture and measurement, in [-1, 1].
        whole: what the network takes: pixels in [0, 1], or latents.
        coarse: its coarse part.
        details: a list of levels, the coarsest first, each of three arrays.
        measured: what takes the place of the coarse part.
        swapped: the picture made of ``measured`` and the details, in [-1, 1].
    """

    x: np.ndarray
    y: np.ndarray
    whole: np.ndarray
    coarse: np.ndarray
    details: list
    measured: np.ndarray
    swapped: np.ndarray


def decompose(method: methods.Indigo, case: Case) -> Decomposition:
    """Of each picture of the case, for its own degradation: with F(y)."""
    latent, apply = method.variant == "latent", method.networks["inn"].module.apply

    @jax.jit
    def run(params, x, y):
        space = method.autoencoder(params)
        cond = apply(params[1], y / 2 + 0.5, method="embed")
        whole, measured = (space.encode(a) if latent else a / 2 + 0.5 for a in (x, y))
        coarse, details = apply(params[1], whole, cond, method="forward")
        swapped = apply(params[1], measured, details, cond, method="inverse")
        swapped = space.decode(swapped) if latent else 2 * swapped - 1
        return Decomposition(x, y, whole, coarse, details, measured, swapped)

    return jax.tree.map(np.asarray, run(method.params, case.x, case.y))


def contrast(a: np.ndarray) -> np.ndarray:
    """``[h, w, C]`` for the eye, ``[h, w, 3]`` in [0, 1]: 0 becomes grey, and the 99th percentile of absolute values
    0 or 1. Of more than three channels the first three, of fewer the first.

    >>> contrast(np.array([[[0.0], [-2.0]]]))[..., 0].tolist()
    [[0.5, 0.0]]
    """
    a = np.asarray(a, np.float64)
    a = np.repeat(a[..., :1], 3, -1) if a.shape[-1] < 3 else a[..., :3]
    return np.clip(0.5 + 0.5 * a / max(np.quantile(np.abs(a), 0.99), 1e-6), 0, 1)


def draw_decomposition(found: Decomposition, picture: int = 0, *, title: str = ""):
    """A row of pictures, then one row of details per level."""
    plt = drawing.pyplot()
    levels = len(found.details)
    figure, axes = plt.subplots(1 + levels, 6, figsize=(10.5, 2.1 * (1 + levels) + 0.5), squeeze=False,
                                layout="constrained")
    latent = found.whole.shape[-1] != 3 or found.whole.shape != found.x.shape

    def view(a):
        return contrast(a[picture]) if latent else np.clip(a[picture], 0, 1)

    psnr = psnr_of(np.clip(found.swapped, -1, 1), found.x)[picture]
    name = "latents" if latent else "network's input"
    for ax, (label, image) in zip(axes[0], (
            ("picture x", found.x[picture] / 2 + 0.5), (name, view(found.whole)), ("coarse part c", view(found.coarse)),
            ("measurement y", found.y[picture] / 2 + 0.5), ("in place of c", view(found.measured)),
            (f"y with x's details\n{psnr:.1f} dB", found.swapped[picture] / 2 + 0.5))):
        drawing.show(ax, np.clip(image, 0, 1), label)
    for level, (row, details) in enumerate(zip(axes[1:], found.details)):
        for i, (ax, detail) in enumerate(zip(row, details)):
            drawing.show(ax, contrast(detail[picture]), f"level {levels - level}, detail {i + 1}")
        for ax in row[len(details):]:
            ax.axis("off")
    seen = "latents (first three channels) and details" if latent else "details"
    figure.suptitle(f"{title}\n{seen}: contrast-normalised, each by its own largest values; grey is 0", fontsize=9)
    return figure


# ---------------------------------------------------------------------------------------------------- a chain's way

class Walk(NamedTuple):
    """A chain, step by step.

    Attributes:
        title: how it was guided.
        x0: the estimates as pictures ``[N, B, H, W, 3]`` in [-1, 1].
        residual: ``[N, B]``, rms of ``y - c(x0)``.
        drift: ``[N, B]`` of the estimates' latents; None in pixels.
    """

    title: str
    x0: np.ndarray
    residual: np.ndarray
    drift: np.ndarray | None


def walk(method: methods.Indigo, case: Case, title: str) -> Walk:
    """Run a chain and keep all its estimates; ``title`` is that of the result."""
    plan = method.plan(*case.x.shape[1:3])

    @jax.jit
    def run(params, y, keys):
        kernel, start, _ = method.begun(params, y, keys, plan=plan, given={})
        _, info = samplers.sample(kernel, keys, start, trace="x0")
        space = method.autoencoder(params)
        if space is None:
            return info.trace, info.steps.residual, None
        return jax.lax.map(space.decode, info.trace), info.steps.residual, jax.lax.map(
            lambda z: restoration.manifold_drift(z, space), info.trace)

    return Walk(title, *jax.tree.map(np.asarray, run(method.params, case.y, case.keys)))


def draw_path(walks: list[Walk], case: Case, picture: int = 0, *, title: str = ""):
    """Estimates at chosen steps, a row per chain, and below the residual over the steps."""
    plt = drawing.pyplot()
    steps = chosen_steps(len(walks[0].x0))
    columns = len(steps) + 2
    figure = plt.figure(figsize=(1.55 * columns, 1.95 * len(walks) + 2.8), layout="constrained")
    grid = figure.add_gridspec(len(walks) + 1, columns, height_ratios=[1] * len(walks) + [1.3])
    truth = np.asarray(case.x)[picture]
    for row, each in enumerate(walks):
        shown = [("measurement", np.asarray(case.y)[picture])]
        shown += [(f"step {step}", each.x0[step - 1, picture]) for step in steps] + [("truth", truth)]
        for column, (label, x) in enumerate(shown):
            ax, x = figure.add_subplot(grid[row, column]), np.clip(x, -1, 1)
            below = f"{psnr_of(x[None], truth[None])[0]:.1f} dB" if "step" in label else ""
            drawing.show(ax, x / 2 + 0.5, label, below)
            if column == 0:
                ax.set_ylabel(each.title, fontsize=8)
    _curves(figure.add_subplot(grid[len(walks), :]), [(each.title, each.residual[:, picture]) for each in walks],
            "residual: rms of y - c(x0)")
    figure.suptitle(title, fontsize=10)
    return figure


def draw_drift(walks: list[Walk], title: str):
    """Mean drift of the estimates over the pictures, a line per chain."""
    plt = drawing.pyplot()
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    _curves(ax, [(each.title, each.drift.mean(axis=1)) for each in walks], "drift: |E(D(z0)) - z0| / |z0|")
    ax.set_title(title, fontsize=10)
    return figure


def _curves(ax, curves, label):
    for (name, values), colour in zip(curves, drawing.COLOURS):
        ax.plot(np.arange(1, 1 + len(values)), values, color=colour, label=name, linewidth=1.4)
    ax.set_xlabel("step", fontsize=9)
    ax.set_ylabel(label, fontsize=9)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    ax.grid(color="0.92", linewidth=0.6)


# ---------------------------------------------------------------------------------------------------- all of them

def draw(name: str, pictures: Pictures, folder, names=None, *, degradation: str = "plain", seed: int = 0,
         **settings) -> None:
    """Draw some of ``OF_METHOD[name]`` into a folder: ``indigo_NAME.png``, with ``.csv`` where there are numbers.

    Args:
        name: of the method.
        pictures: clean ones.
        folder: where the figures go.
        names: of figures; default all.
        degradation: of :data:`problems.LEARNED`.
        seed: of all noise.
        settings: of the method, for all chains.
    """
    names, method = OF_METHOD[name] if names is None else names, methods.load(name, **settings)
    stem, case = name.replace("-", "_"), guided.case_of(method, pictures, degradation, seed)
    where = f"{pictures.label}, {degradation}: {problems.LEARNED[degradation]}"
    if "decomposition" in names:
        figure = draw_decomposition(decompose(method, case), title=f"the invertible network, {where}")
        drawing.save(figure, folder / f"{stem}_decomposition.png")
    if not {"path", "drift"} & set(names):
        return

    def other(title, **changes):
        return walk(methods.load(name, **{**settings, **changes}), case, title)

    walks = [walk(method, case, "guided"), other("zeta = 0", guidance=0.0)]
    if "path" in names:
        figure = draw_path(walks, case, title=f"{name}: estimates on the way, {where}")
        drawing.save(figure, folder / f"{stem}_path.png")
    if "drift" in names:
        walks.insert(1, other("guided, no regulariser", regularizer="none"))
        drawing.save(draw_drift(walks, f"{name}, {len(pictures.names)} pictures of {where}"),
                     folder / f"{stem}_drift.png")
    rows = [{"chain": each.title, "step": step + 1, "picture": picture, "residual": float(each.residual[step, i]),
             "drift": "" if each.drift is None else float(each.drift[step, i])}
            for each in walks for step in range(len(each.x0)) for i, picture in enumerate(pictures.names)]
    write_text(folder / f"{stem}_path.csv", to_csv(rows))
