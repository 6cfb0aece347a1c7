"""Figures of the InDI paper, drawn anew: Fig. 1 (the toy with four modes) and Fig. 3 (perception against distortion).

    python -m eval.figures [--figure toy|perception-distortion|all] [-o FOLDER]
    python -m eval.figures --method bird --weights PRIOR [--figure iterations|kernels|levels|wrong-kernel|all]
    python -m eval.figures --method indigo|latent-indigo [--prior P] [--inn I] [--figure decomposition|path|drift|all]

toy.png                      exact restorers in the plane: paths from observations to data, one step against many
perception_distortion.png    the weights that ship, on real pictures: PSNR against LPIPS for 1 to 20 steps (without
                             LPIPS weights: against the energy of high frequencies, relative to the truth's)
strip.png                    details of the same pictures: input, N = 1, N = 10, truth
perception_distortion.csv    the numbers behind it

and those of BIRD, on a diffusion prior:

bird_iterations.png          the picture at iterations of inpainting and of blind deblurring
bird_kernels.png             kernels that blind deblurring finds, beside the true ones
bird_levels.png, .csv        step size: PSNR and time for few or many DDIM steps at equal network evaluations
bird_wrong_kernel.png, .csv  deblurring with a known kernel that is wrong: BIRD, DiffPIR, DPS, and the blind method

and those of INDIGO and LatentINDIGO (latent_indigo_*), on a diffusion prior with an invertible network:

indigo_decomposition.png     a picture, its coarse part and details, and what they and the measurement make
indigo_path.png, .csv        estimates on the way and the residual, guided beside zeta = 0
latent_indigo_drift.png      how far estimates are from what the autoencoder would say, step by step

Paper: Delbracio & Milanfar, Inversion by Direct Iteration, TMLR 2023 (arXiv 2303.11435).
"""
import pathlib
import sys
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval import bird_figures, common, indigo, indigo_figures, tables
from eval.configs import photo_degradations
from eval.drawing import COLOURS, pyplot, save
from indigo_jax import metrics, rng, samplers
from indigo_jax.schedules import NoiseMode

FIGURES = ("toy", "perception-distortion")
OF_METHOD = {"indi": FIGURES, "bird": bird_figures.FIGURES, **indigo_figures.OF_METHOD}
STEPS = (1, 2, 3, 5, 10, 20)
MODES = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
_RED = "#D7263D"


# ---------------------------------------------------------------------------------------------------- Fig. 1: the toy

class FourModes(NamedTuple):
    """Points ``x`` on four modes, each with probability 1/4, seen as ``y = diag(h) x + sigma n``.

    Attributes:
        title: for the figure.
        h: diagonal of the degradation, two numbers.
        sigma: noise of the measurement.
        noise: noise mode of the path.
    """

    title: str
    h: tuple[float, float]
    sigma: float
    noise: NoiseMode

    def observe(self, num: int, seed: int = 0):
        """``x``, ``y``: float32 ``[num, 2]``."""
        random = np.random.default_rng(seed)
        x = MODES[random.integers(0, 4, num)]
        return x, (x * self.h + self.sigma * random.normal(size=x.shape)).astype(np.float32)

    def restorer(self) -> Callable:
        """The exact ``F(x_t, t) = E[x | x_t] = sum_k softmax_k(-|x_t - m_k|^2 / (2 s^2)) c_k``, where
        ``m_k = ((1 - t) I + t H) c_k`` and ``s^2 = t^2 (sigma^2 + eps_t^2)``."""
        modes, h = jnp.asarray(MODES), jnp.asarray(self.h, jnp.float32)

        def restore(x_t, t):
            t = t[:, None, None]
            centres = ((1 - t) + t * h) * modes
            variance = (t * self.sigma) ** 2 + self.noise.std(t) ** 2
            square = jnp.sum((x_t[:, None] - centres) ** 2, axis=-1, keepdims=True)
            return jnp.sum(jax.nn.softmax(-square / (2 * variance), axis=1) * modes, axis=1)

        return restore

    def paths(self, y, num_steps: int, seed: int = 0) -> np.ndarray:
        """All states from ``x_1`` to ``x_0``, ``[num_steps + 1, B, 2]``, of observations ``y`` ``[B, 2]``."""
        kernel = samplers.indi(self.restorer(), num_steps, noise=self.noise)
        keys, y = rng.image_keys(seed, np.arange(len(y))), jnp.asarray(y, jnp.float32)
        _, info = jax.jit(lambda: samplers.sample(kernel, keys, y, trace="x"))()
        return np.concatenate([np.asarray(kernel.init(y, keys).x)[None], np.asarray(info.trace)])


TOYS = (
    FourModes("noise\n$y = x + n$,  $\\sigma = 1$", (1.0, 1.0), 1.0, samplers.no_noise()),
    FourModes("missing information\n$y = (x_1, 0)$\nconstant $\\epsilon = 0.1$", (1.0, 0.0), 0.0,
              samplers.constant_noise(0.1)),
    FourModes("missing information\n$y = (x_1, 0)$\nBrownian $\\epsilon = 0.1$", (1.0, 0.0), 0.0,
              samplers.brownian_noise(0.1)),
)


def nearest_mode(points) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest mode and the distance to it, ``[B]`` each, of points ``[B, 2]``."""
    distance = np.linalg.norm(np.asarray(points)[:, None] - MODES, axis=-1)
    return distance.argmin(axis=1), distance.min(axis=1)


def observations(toy: FourModes, num: int = 24) -> np.ndarray:
    """Where the drawn paths start: spread over a circle where the measurement is noisy, else drawn."""
    if not toy.sigma:
        return toy.observe(num)[1]
    angle = 2 * np.pi * np.arange(num) / num + 0.1
    return 1.9 * np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def draw_toy(steps=(1, 5, 50), *, num_scored: int = 10_000):
    """Fig. 1: one row per :data:`TOYS`, one column per number of steps."""
    plt = pyplot()
    limits = [2.4 if toy.sigma else 1.5 for toy in TOYS]
    figure, axes = plt.subplots(len(TOYS), len(steps), figsize=(3.3 * len(steps) + 1.2, 1.42 * sum(limits) + 1),
                                sharex=True, sharey="row", squeeze=False, layout="constrained",
                                gridspec_kw={"height_ratios": limits})
    for row, toy, limit in zip(axes, TOYS, limits):
        x, y = toy.observe(num_scored, seed=1)
        cloud = np.asarray(toy.paths(y[:400], 1)[0])
        row[0].set_ylabel(toy.title, fontsize=11, labelpad=12)
        for ax, num_steps in zip(row, steps):
            restored = toy.paths(y, num_steps)[-1]
            _draw_paths(ax, cloud, toy.paths(observations(toy), num_steps), limit)
            error = np.mean(np.sum((restored - x) ** 2, axis=-1))
            on = np.mean(nearest_mode(restored)[1] < 0.05)
            ax.text(0.5, 0.015, f"E$|\\hat x - x|^2$ = {error:.2f},  {100 * on:.0f} % on a mode", fontsize=9,
                    ha="center", va="bottom", transform=ax.transAxes,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    for ax, num_steps in zip(axes[0], steps):
        ax.set_title("N = 1: the regression $E[x|y]$" if num_steps == 1 else f"N = {num_steps} steps", fontsize=12)
    figure.suptitle("InDI with the exact restorer: paths from observations (dark dots) to the four modes of the data "
                    "(stars);\none step gives their mean (red), many steps end on them", fontsize=12)
    return figure


def _draw_paths(ax, cloud, paths, limit):
    ax.scatter(*cloud.T, s=5, color="0.82", linewidths=0, zorder=1)
    mode, _ = nearest_mode(paths[-1])
    one_step = len(paths) == 2
    for k in range(paths.shape[1]):
        colour = "0.45" if one_step else COLOURS[mode[k]]
        ax.plot(*paths[:, k].T, color=colour, linewidth=0.9, alpha=0.9, zorder=2)
        ax.plot(*paths[0, k], marker="o", markersize=3, color="0.25", zorder=3)
        ax.plot(*paths[-1, k], marker="o", markersize=5, color=_RED if one_step else colour, zorder=5)
    ax.plot(*MODES.T, "*", markersize=15, color="white", markeredgecolor="black", zorder=4)
    ax.set(xlim=(-2.4, 2.4), ylim=(-limit, limit), aspect="equal", xticks=(-2, -1, 0, 1, 2),
           yticks=(-2, -1, 0, 1, 2) if limit > 2 else (-1, 0, 1))
    ax.tick_params(labelsize=8)
    ax.grid(color="0.93", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)


# ---------------------------------------------------------------------------------------------- Fig. 3: real pictures

class HighFrequencies:
    """Energy of the grey picture at high frequencies, relative to the true picture's: the stand-in for a perceptual
    distance where there are no LPIPS weights. 1 is right, less is blurred, more is noisy."""

    name = "high-frequency-energy-ratio"
    metric = "high frequencies"

    def __call__(self, a, b) -> np.ndarray:
        """uint8 ``[B, H, W, 3]`` twice ``-> float64 [B]``; ``b`` is the truth."""
        return self.energy(a) / np.maximum(self.energy(b), 1e-12)

    @staticmethod
    def energy(image) -> np.ndarray:
        """Mean power of the (Hann-windowed) grey picture at frequencies above 0.25 per pixel."""
        grey = np.asarray(image, np.float64) @ (0.299, 0.587, 0.114)
        grey = grey - grey.mean(axis=(1, 2), keepdims=True)
        height, width = grey.shape[1:]
        window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
        return np.mean(np.abs(np.fft.fft2(grey * window))[:, frequency > 0.25] ** 2, axis=1)


def one_per_task(degradations) -> tuple[common.Degradation, ...]:
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
        rows: from :func:`eval.tables.measure`, with PSNR and ``perception``.
        perception: the protocol on the vertical axis.
        title: what was measured.
    """
    plt = pyplot()
    distortion = metrics.by_name("psnr").name
    psnr, seen = tables.means(rows, distortion), tables.means(rows, perception.name)
    labels = {row["task"]: _label(row["task"], row["variant"]) for row in rows}
    figure, axes = plt.subplots(1, len(psnr), figsize=(3.1 * len(psnr), 3.7), squeeze=False, layout="constrained")
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


def draw_strip(results: list[common.Result], steps=(1, 10), *, size: int = 96):
    """Details of pictures: one row per task with input, restorations and truth, each task from another picture."""
    plt = pyplot()
    names = list(dict.fromkeys(result.name for result in results))
    tasks = list(dict.fromkeys(result.degradation.task for result in results))
    found = {(result.degradation.task, result.name, result.num_steps): result for result in results}
    columns = [0, *steps]
    figure, axes = plt.subplots(len(tasks), len(columns) + 1, squeeze=False, layout="constrained",
                                figsize=(2.3 * (len(columns) + 1), 2.45 * len(tasks)))
    for i, (row, task) in enumerate(zip(axes, tasks)):
        here = [found[task, names[i % len(names)], n] for n in columns]
        truth = here[0].truth
        window = detail(truth, size)
        for ax, result in zip(row, here):
            ax.imshow(result.image[window], interpolation="nearest")
            psnr = metrics.psnr(result.image[window][None], truth[window][None])[0]
            ax.set_xlabel(f"{psnr:.2f} dB", fontsize=9, labelpad=2)
        row[-1].imshow(truth[window], interpolation="nearest")
        row[-1].set_xlabel(pathlib.PurePath(names[i % len(names)]).stem, fontsize=9, labelpad=2)
        row[0].set_ylabel(_label(task, here[0].degradation.variant).replace(", ", ",\n"), fontsize=9)
    for ax, title in zip(axes[0], ["input", *(f"N = {n}" for n in steps), "truth"]):
        ax.set_title(title, fontsize=11)
    for ax in axes.flat:
        ax.set(xticks=(), yticks=())
    return figure


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


# ---------------------------------------------------------------------------------------------------- command line

def _real_pictures(args, folder):
    perception = metrics.by_name("lpips", lpips_params=metrics.load_lpips(args.lpips)) if args.lpips else (
        HighFrequencies())
    pictures = common.open_pictures(args.data, limit=args.limit, crop=args.crop)
    model = common.load_model(args.weights)
    steps = sorted({1, *args.steps})
    results = list(common.restorations(model, pictures, one_per_task(photo_degradations.get_config()), steps,
                                       batch_size=args.batch, seed=args.seed, spacing=args.spacing))
    rows = tables.measure(results, [metrics.by_name("psnr"), perception])
    title = (f"{model.info.get('name', 'InDI')}: perception against distortion for {steps[0]} to {steps[-1]} steps "
             f"(means over {len(pictures.names)} pictures of {pictures.label}, central {args.crop} px)")
    common.write_text(folder / "perception_distortion.csv", tables.to_csv(rows))
    save(draw_perception_distortion(rows, perception, title), folder / "perception_distortion.png")
    shown = [1, 10] if 10 in steps else [1, steps[-1]]
    save(draw_strip(results, tuple(dict.fromkeys(shown))), folder / "strip.png")


def _guided(args, folder):
    parts = indigo.load(args.method, args.prior, args.inn, args.autoencoder)
    options = {"steps": args.chain_steps, "guidance": args.guidance, "start": args.start}
    options = {name: value for name, value in options.items() if value is not None}
    pictures = common.open_pictures(args.data, limit=args.limit or 3)
    names = OF_METHOD[args.method] if args.figure == "all" else [args.figure]
    indigo_figures.draw(parts, args.method, pictures, folder, names, degradation=args.degradation, seed=args.seed,
                        **options)


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = common.Parser(prog="eval.figures", description=__doc__)
    parser.add_argument("--method", choices=tuple(OF_METHOD), default="indi", help="default: indi")
    parser.add_argument("--figure", default="all",
                        choices=(*FIGURES, *bird_figures.FIGURES, *indigo_figures.FIGURES, "all"),
                        help="one of the method's; default: all")
    parser.add_argument("-o", "--output", default=str(common.RESULTS), metavar="FOLDER",
                        help="where the pictures go; default: eval/results")
    common.add_model_arguments(parser)
    parser.add_argument("--steps", type=common.whole, nargs="+", default=list(STEPS), metavar="N",
                        help=f"indi: numbers of steps; default: {' '.join(map(str, STEPS))}")
    parser.add_argument("--crop", type=common.whole, default=256, metavar="PX",
                        help="indi: use the central square of at most this side; default: 256")
    common.add_guided_arguments(parser)
    parser.add_argument("--degradation", choices=tuple(indigo.DEGRADATIONS), default="plain",
                        help="indigo: default: plain")
    args = parser.parse_args(argv)
    if args.figure not in (*OF_METHOD[args.method], "all"):
        other = next(method for method, names in OF_METHOD.items() if args.figure in names)
        parser.error(f"--figure {args.figure} is one of --method {other}")
    folder = pathlib.Path(args.output)

    def work():
        if args.method == "bird":
            model = common.load_model(args.weights, method="bird")
            pictures = common.open_pictures(args.data, limit=args.limit or 3)
            bird_figures.draw(model, pictures, folder, OF_METHOD["bird"] if args.figure == "all" else [args.figure],
                              seed=args.seed)
            return
        if args.method in indigo.METHODS:
            _guided(args, folder)
            return
        if args.figure in ("toy", "all"):
            save(draw_toy(), folder / "toy.png")
        if args.figure in ("perception-distortion", "all"):
            _real_pictures(args, folder)

    return common.run(parser, work)


if __name__ == "__main__":
    sys.exit(main())
