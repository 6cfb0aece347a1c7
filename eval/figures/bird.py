"""Figures of BIRD on a diffusion prior: its iterations, the kernels that it finds, its step size, a wrong known kernel.

Paper: Chihaoui, Lemkhenter & Favaro, Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024
(arXiv 2405.19572).
"""
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from tqdm import tqdm

from eval import problems
from eval.command import write_csv
from eval.figures import drawing
from eval.measure import aligned_psnr, grouped, psnr_of
from eval.problems import Case, Pictures
from eval.tables import known
from indigo_jax import denoisers, methods, restoration, samplers
from indigo_jax.methods import base, bird

FIGURES = ("iterations", "kernels", "levels", "wrong-kernel")
LEVELS, EVALUATIONS = (2, 3, 5, 10, 20), 100
ROTATIONS, WIDTHS = (0.0, 15.0, 30.0, 45.0), (0.0, 0.7, 1.4)  # degrees; standard deviation of a blur, pixels
WRONG_METHODS = ("bird", "diffpir", "dps")


def case_of(network: base.Network, pictures: Pictures, task: str, seed: int) -> Case:
    """All pictures as one case, at the side of the prior."""
    return problems.make(task, *pictures.at(known.side_of(network), seed))


def _prior(network, params):
    return denoisers.of(functools.partial(network.module.apply, params), network.info)


class Walk(NamedTuple):
    """Pictures on the way: ``x0`` ``[N, B, S, S, 3]``, one per iteration or network evaluation."""

    title: str
    unit: str
    case: Case
    x0: np.ndarray


def walk(network: base.Network, case: Case, task: str) -> Walk:
    """Inpainting: BIRD's picture after every iteration, with the default settings but from pure noise. Else the picture
    after every network evaluation of the blind alternation."""
    @jax.jit
    def run(params, case):
        prior = _prior(network, params)
        if task == "inpaint":
            problem = problems.problem_of(task, case)
            kernel, start = bird.begun(prior, problem, bird.DEFAULT[task]._replace(start=0))
        else:
            kernel, start = restoration.blind_em(*prior, case.y, size=None), case.y
        return samplers.sample(kernel, case.keys, start, trace="x0")[1].trace

    title, unit = ("BIRD: inpainting", "iteration") if task == "inpaint" else ("blind deblurring", "evaluation")
    return Walk(title, unit, case, np.asarray(run(network.params, case.unseen)))


def draw_iterations(walks: list[Walk], picture: int = 0):
    """A row per walk: the measurement, the picture on the way, the truth."""
    return drawing.strips([drawing.way(walk.title, walk.unit, walk.case.y[picture], walk.x0[:, picture],
                                       walk.case.x[picture]) for walk in walks])[0]


def draw_kernels(weights: str, case: Case):
    """A row per picture: blurred, restored and true picture, the kernel that was found beside the true one."""
    method = methods.load("bird", task="deblur", weights=weights)
    found = method.run(case.y, case.keys, method.plan(*case.y.shape[1:3]), method.estimated(case.y))
    kernels, true = same_side(np.asarray(found.kernel), np.asarray(case.given["kernel"]))
    scores = [aligned_psnr(np.clip(x, -1, 1), case.x) for x in (case.y, found.x)]
    rows = [("", [(case.y[i], "blurred", f"{scores[0][i]:.1f} dB"), (found.x[i], "restored", f"{scores[1][i]:.1f} dB"),
                  (case.x[i], "truth", ""),
                  (kernels[i], "kernel found", f"distance {np.abs(kernels[i] - true[i]).sum():.2f}"),
                  (true[i], "true kernel", "")]) for i in range(len(true))]
    return drawing.strips(rows, title="blind deblurring: PSNR shift-aligned; distance of kernels: sum of absolute "
                          "differences, 0 to 2")[0]


def same_side(*kernels):
    """Kernels ``[B, n, n]`` of odd sides, with zeros around those that are smaller."""
    side = max(kernel.shape[-1] for kernel in kernels)
    borders = [(side - kernel.shape[-1]) // 2 for kernel in kernels]
    return [np.pad(kernel, [(0, 0), (n, n), (n, n)]) for kernel, n in zip(kernels, borders)]


def measure_levels(network: base.Network, case: Case) -> list[dict]:
    """Inpainting with rollouts of few or many steps at equal network evaluations: ``{"levels", "iterations",
    "evaluations", "psnr", "seconds"}``, the mean over pictures and the time for all of them, without compiling."""
    rows = []
    for count in tqdm(LEVELS, desc="levels"):
        knobs = bird.DEFAULT["inpaint"]._replace(num_levels=count, refresh=None,
                                                 num_iterations=max(EVALUATIONS // count, 1))

        def run(params, case):
            return bird.inpaint(_prior(network, params), problems.problem_of("inpaint", case), knobs).x

        program = jax.jit(run).lower(network.params, case.unseen).compile()
        start = time.perf_counter()
        x = np.asarray(program(network.params, case.unseen))
        rows.append({"levels": count, "iterations": knobs.num_iterations, "evaluations": knobs.evaluations,
                     "psnr": float(psnr_of(x, case.x).mean()), "seconds": time.perf_counter() - start})
    return rows


def draw_levels(rows: list[dict], title: str):
    """PSNR and time over the number of DDIM steps in a rollout."""
    figure, ax = drawing.pyplot().subplots(figsize=(5.2, 3.6), layout="constrained")
    x = range(len(rows))
    ax.plot(x, [row["psnr"] for row in rows], "-o", color=drawing.COLOURS[0])
    ax.set_xticks(x, [f"{row['levels']}\n({row['iterations']} iterations)" for row in rows], fontsize=8)
    ax.set_xlabel("DDIM steps of a rollout, at equal network evaluations", fontsize=9)
    ax.set_ylabel("PSNR, dB", color=drawing.COLOURS[0])
    low, high = (bound(row["psnr"] for row in rows) for bound in (min, max))
    ax.set_ylim(low - 0.25 - 0.1 * (high - low), high + 0.25 + 0.1 * (high - low))  # rounding is no effect
    other = ax.twinx()
    other.plot(x, [row["seconds"] for row in rows], "--s", color=drawing.COLOURS[4], markersize=4)
    other.set_ylim(0, 1.3 * max(row["seconds"] for row in rows))
    other.set_ylabel("seconds for all pictures", color=drawing.COLOURS[4])
    ax.set_title(title, fontsize=10)
    ax.grid(color="0.92", linewidth=0.6)
    return figure


def spoiled(kernels: np.ndarray, *, rotation: float = 0.0, width: float = 0.0) -> np.ndarray:
    """Kernels ``[B, n, n]`` rotated by degrees and blurred by a Gaussian of ``width`` pixels, of sum 1 again."""
    out = []
    for kernel in np.asarray(kernels, np.float64):
        kernel = scipy.ndimage.rotate(kernel, rotation, reshape=False, order=1) if rotation else kernel
        kernel = scipy.ndimage.gaussian_filter(kernel, width, mode="constant") if width else kernel
        out.append(np.maximum(kernel, 0) / np.maximum(kernel, 0).sum())
    return np.asarray(out, np.float32)


def measure_wrong_kernel(weights: str, case: Case) -> list[dict]:
    """Deblurring with a known kernel that is wrong, beside the blind method, which is told none: ``{"error", "amount",
    "method", "psnr"}``, shift-aligned means over the pictures; ``error`` is "rotation" or "width"."""
    amounts = [("rotation", amount) for amount in ROTATIONS] + [("width", amount) for amount in WIDTHS]

    def scorer(task, name):
        line = known.line(task, name, weights)
        program = jax.jit(line.restore)
        return lambda case: float(aligned_psnr(program(line.params, case.unseen)[0], case.x).mean())

    scorers, told_none = {name: scorer("deblur", name) for name in WRONG_METHODS}, scorer("blind", "bird")(case)
    right, rows = {name: score(case) for name, score in scorers.items()}, []
    for error, amount in tqdm(amounts, desc="wrong kernel"):
        kernel = jnp.asarray(spoiled(case.given["kernel"], **{error: amount}))
        wrong = case._replace(given={**case.given, "kernel": kernel})
        found = {name: score(wrong) if amount else right[name] for name, score in scorers.items()}
        rows += [{"error": error, "amount": amount, "method": name, "psnr": psnr}
                 for name, psnr in {**found, "blind": told_none}.items()]
    return rows


def draw_wrong_kernel(rows: list[dict], title: str):
    """A panel per error of the kernel, a line per method."""
    labels = {"rotation": "kernel rotated by, degrees", "width": "kernel widened by a Gaussian of, pixels"}
    blind = "blind (told no kernel)"
    errors = grouped(rows, "error", "method")
    figure, axes = drawing.pyplot().subplots(1, len(errors), figsize=(4.2 * len(errors), 3.6), sharey=True,
                                             squeeze=False, layout="constrained")
    for ax, (error, by_method) in zip(axes[0], errors.items()):
        lines = {blind if method == "blind" else known.title("deblur", method):
                 zip(*((row["amount"], row["psnr"]) for row in group)) for method, group in by_method.items()}
        drawing.curves(ax, lines, labels[error], "PSNR, shift-aligned, dB", dashed=blind)
    figure.suptitle(title, fontsize=10)
    return figure


def draw(args, names, folder) -> None:
    """``bird_NAME.png``, with ``bird_NAME.csv`` where there are numbers; see :data:`eval.figures.DRAW`."""
    network = base.open_network(args.weights, "prior")
    pictures = problems.open_pictures(args.data, limit=args.limit or 3)
    where = f"{len(pictures.names)} pictures of {pictures.label}"
    if "iterations" in names:
        first = pictures.singles()[0]
        walks = [walk(network, case_of(network, first, task, args.seed), task) for task in ("inpaint", "blind")]
        drawing.save(draw_iterations(walks), folder / "bird_iterations.png")
    if "kernels" in names:
        figure = draw_kernels(args.weights, case_of(network, pictures, "blind", args.seed))
        drawing.save(figure, folder / "bird_kernels.png")
    if "levels" in names:
        rows = measure_levels(network, case_of(network, pictures, "inpaint", args.seed))
        write_csv(folder / "bird_levels.csv", rows)
        drawing.save(draw_levels(rows, f"BIRD, inpainting, {where}"), folder / "bird_levels.png")
    if "wrong-kernel" in names:
        rows = measure_wrong_kernel(args.weights, case_of(network, pictures, "deblur", args.seed))
        write_csv(folder / "bird_wrong_kernel.csv", rows)
        figure = draw_wrong_kernel(rows, f"deblurring with a wrong kernel, {where}")
        drawing.save(figure, folder / "bird_wrong_kernel.png")
