"""Figures of INDIGO and LatentINDIGO: what the invertible network makes of a picture, and how a chain goes.

Papers: You & Dragotti, INDIGO (arXiv 2306.02949) and INDIGO+ (arXiv 2501.14014); You, Siromani & Dragotti, LatentINDIGO
(arXiv 2505.12935).
"""
from typing import NamedTuple

import jax
import numpy as np

from eval import problems
from eval.command import guided_settings, write_csv
from eval.figures import drawing
from eval.measure import psnr_of
from eval.problems import Case
from eval.tables import guided
from indigo_jax import methods, restoration, samplers

OF_METHOD = {"indigo": ("decomposition", "path"), "latent-indigo": ("decomposition", "path", "drift")}


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
    @jax.jit
    def run(params, x, y):
        whole, measured, coarse, details, inverse = guided.split(method, params, x, y)
        swapped = inverse(measured, details)
        swapped = method.autoencoder(params).decode(swapped) if method.variant == "latent" else 2 * swapped - 1
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
    levels = len(found.details)
    latent = found.whole.shape[-1] != 3 or found.whole.shape != found.x.shape

    def view(a):
        return 2 * (contrast(a[picture]) if latent else a[picture]) - 1

    psnr = psnr_of(np.clip(found.swapped, -1, 1), found.x)[picture]
    cells = [(found.x[picture], "picture x", ""), (view(found.whole), "latents" if latent else "network's input", ""),
             (view(found.coarse), "coarse part c", ""), (found.y[picture], "measurement y", ""),
             (view(found.measured), "in place of c", ""),
             (found.swapped[picture], f"y with x's details\n{psnr:.1f} dB", "")]
    rows = [("", cells)] + [
        ("", [(2 * contrast(detail[picture]) - 1, f"level {levels - level}, detail {i + 1}", "")
              for i, detail in enumerate(details)]) for level, details in enumerate(found.details)]
    seen = "latents (first three channels) and details" if latent else "details"
    return drawing.strips(rows, side=1.75, title=f"{title}\n{seen}: contrast-normalised, each by its own largest "
                          "values; grey is 0")[0]


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


def _over_steps(ax, walks, values, label):
    """A curve per chain."""
    drawing.curves(ax, {walk.title: (np.arange(1, 1 + len(walk.x0)), values(walk)) for walk in walks}, "step", label)
    ax.set_ylim(bottom=0)


def draw_path(walks: list[Walk], case: Case, picture: int = 0, *, title: str = ""):
    """Estimates at chosen steps, a row per chain, and below the residual over the steps."""
    rows = [drawing.way(walk.title, "step", case.y[picture], walk.x0[:, picture], case.x[picture]) for walk in walks]
    figure, ax = drawing.strips(rows, title=title, below=2.8)
    _over_steps(ax, walks, lambda walk: walk.residual[:, picture], "residual: rms of y - c(x0)")
    return figure


def draw_drift(walks: list[Walk], title: str):
    """Mean drift of the estimates over the pictures, a line per chain."""
    figure, ax = drawing.pyplot().subplots(figsize=(6, 3.6), layout="constrained")
    _over_steps(ax, walks, lambda walk: walk.drift.mean(axis=1), "drift: |E(D(z0)) - z0| / |z0|")
    ax.set_title(title, fontsize=10)
    return figure


def draw(args, names, folder) -> None:
    """``METHOD_NAME.png``, and ``.csv`` of the numbers; see :data:`eval.figures.DRAW`."""
    name, settings, degradation = args.method, guided_settings(args), args.degradation
    pictures, method = problems.open_pictures(args.data, limit=args.limit or 3), methods.load(name, **settings)
    stem, case = name.replace("-", "_"), guided.case_of(method, pictures, degradation, args.seed)
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
    write_csv(folder / f"{stem}_path.csv", rows)
