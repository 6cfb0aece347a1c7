"""The table of solvers: how near a chain of few evaluations comes to the end of the exact flow, and what that is worth.
"""
import functools
from typing import Callable, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from eval import problems
from eval.measure import PSNR, about, markdown, psnr_of
from eval.posteriors import Mixture, smooth_covariance
from indigo_jax import operators, restoration, rng, samplers, schedules, tiles
from indigo_jax.methods import base

WEIGHTS = "faces64"
EVALUATIONS = (10, 15, 20, 25, 50, 100)
FLOW = 500  # steps of Heun that stand for the exact flow of the network
SIDE, STD, CORNER, DRAWS = 8, 0.3, 0.1, 64  # of the Gaussian pictures
SCALE, SIGMA, SPREAD = 4, 0.02, 0.5  # of the restoration: averages of 4 x 4 pixels, noise, what PiGDM believes
_CLEAR = 1e-4  # share of the picture that is left where the chains begin


class Solver(NamedTuple):
    """A sampler without noise of its own, the spacing of its levels, and its steps for a number of evaluations."""

    title: str
    spacing: str
    make: Callable
    steps: Callable[[int], int] = lambda evaluations: evaluations


SOLVERS = (
    Solver("DDIM", "trailing", samplers.ddim),
    Solver("DDIM", "log_snr", samplers.ddim),
    Solver("Heun (EDM)", "karras", samplers.heun, lambda evaluations: (evaluations + 1) // 2),
    Solver("Heun (EDM)", "asinh", samplers.heun, lambda evaluations: (evaluations + 1) // 2),
    Solver("DPM-Solver++ 2M", "karras", samplers.dpm_solver),
    Solver("DPM-Solver++ 2M", "log_snr", samplers.dpm_solver))


def gaussian_errors(seed: int, solvers=SOLVERS, evaluations=EVALUATIONS) -> dict:
    """``{(title, spacing, evaluations): error}``: root mean square from the exact flow of Gaussian pictures, its own
    closed form, in units of their standard deviation."""
    whole = schedules.linear()
    prior = Mixture(np.ones(1), np.zeros((1, SIDE**2)), smooth_covariance(SIDE, STD, CORNER), (SIDE, SIDE, 1))
    z = np.random.default_rng(seed).standard_normal((DRAWS, SIDE, SIDE, 1)).astype(np.float32)
    values, axes = np.linalg.eigh(prior.covariance)
    noisiest = float(whole.alpha_bar[-1])
    gain = np.sqrt(values / (noisiest * values + 1 - noisiest))
    exact = (((z.reshape(DRAWS, -1) @ axes) * gain) @ axes.T).reshape(z.shape)
    keys, found = rng.image_keys(seed, np.arange(DRAWS)), {}
    for solver in solvers:
        for count in evaluations:
            kernel = solver.make(prior.denoiser(whole), schedules.respace(whole, solver.steps(count), solver.spacing))
            x = jax.jit(lambda kernel=kernel: samplers.sample(kernel, keys, z)[0])()
            found[solver.title, solver.spacing, count] = float(np.sqrt(np.mean((x - exact)**2))) / STD
    return found


def face_results(network, pictures: problems.Pictures, side: int, seed: int, solvers=SOLVERS,
                 evaluations=EVALUATIONS, flow: int = FLOW) -> dict:
    """``{(title, spacing, evaluations): (nearness, restoration)}`` of a network: PSNR of what a chain draws from noise
    against the exact flow from the same noise, and of pictures restored by PiGDM with that sampler against the truth,
    means over the pictures. Under ``None``: how near the flow by 2M comes to the flow by Heun.
    """
    x, keys = pictures.at(side, seed)
    plan, operator = tiles.Plan((side, side), (side, side), 0), operators.average_pool(SCALE)
    whole = schedules.truncate(schedules.from_json(dict(network.info["schedule"])), _CLEAR)
    start = rng.normal(rng.init_keys(keys), x)
    y = operator(x) + SIGMA * rng.normal(rng.fold(keys, problems.SAMPLE), operator(x))

    def levels(solver, count):
        return schedules.respace(whole, solver.steps(count), solver.spacing)

    @functools.partial(jax.jit, static_argnames=("make",))
    def draw(params, visited, make):
        return samplers.sample(make(base.prior(network, params, plan).denoiser, visited), keys, start)[0]

    @functools.partial(jax.jit, static_argnames=("make",))
    def restore(params, visited, make):
        kernel = restoration.pigdm(base.prior(network, params, plan).denoiser, visited, operator, y, SIGMA,
                                   prior_std=SPREAD, clip=True, sampler=make)
        return samplers.sample(kernel, keys, start)[0]

    def mean(found, truth):
        return float(np.mean(psnr_of(np.clip(found, -1, 1), np.clip(truth, -1, 1))))

    exact, other = (np.asarray(draw(network.params, schedules.respace(whole, flow, "log_snr"), make))
                    for make in (samplers.heun, samplers.dpm_solver))
    found = {None: mean(other, exact)}
    for solver in tqdm(solvers, mininterval=1.0):
        for count in evaluations:
            visited = levels(solver, count)
            found[solver.title, solver.spacing, count] = (
                mean(draw(network.params, visited, solver.make), exact),
                mean(restore(network.params, visited, solver.make), np.asarray(x)))
    return found


def to_markdown(rows: list[dict]) -> str:
    """Three tables of one line per solver and one column per number of evaluations; bold is not worse than DDIM's best
    of the largest number."""
    parts, counts = [], sorted({row["evaluations"] for row in rows})
    for column, title, digits, better in (
            ("error", "Gaussian pictures: distance to the exact flow, in standard deviations", 4, np.less_equal),
            ("nearness", f"`{WEIGHTS}` from noise: PSNR against the exact flow, dB", 2, np.greater_equal),
            ("restoration", f"`{WEIGHTS}`, {SCALE}x enlargement by PiGDM: PSNR against the truth, dB", 2,
             np.greater_equal)):
        by_line = {}
        for row in rows:
            by_line.setdefault((row["solver"], row["spacing"]), {})[row["evaluations"]] = row[column]
        last = [values[counts[-1]] for (name, _), values in by_line.items() if name == "DDIM"]
        wanted = min(last) if better is np.less_equal else max(last)
        lines = [[*line, *(f"**{values[count]:.{digits}f}**" if better(values[count], wanted) else
                           f"{values[count]:.{digits}f}" for count in counts)] for line, values in by_line.items()]
        parts += [f"### {title}", markdown(["solver", "spacing", *map(str, counts)], lines)]
    return "\n\n".join(parts)


def table(args, pictures: problems.Pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    network = base.open_network(WEIGHTS, "prior")
    side = base.side_of(network)
    errors, faces = gaussian_errors(args.seed), face_results(network, pictures, side, args.seed)
    rows = [{"solver": title, "spacing": spacing, "evaluations": count, "error": error,
             **dict(zip(("nearness", "restoration"), faces[title, spacing, count]))}
            for (title, spacing, count), error in errors.items()]
    notes = ("Columns: evaluations of the network (Heun takes two a step but for the last). No solver draws noise; all "
             "begin with the same. " f"Gaussian pictures: {SIDE} x {SIDE} pixels of standard deviation {STD}, exact "
             f"denoiser, `linear()`, {DRAWS} draws, against the closed form. Faces: `{WEIGHTS}` on "
             f"{about(pictures, side, [args.seed])}; the exact flow is Heun's with {FLOW} steps, and 2M with as many "
             f"comes to {faces[None]:.1f} dB of it. Enlargement: averages of {SCALE} x {SCALE} pixels with noise of "
             f"{SIGMA}; PiGDM also differentiates each evaluation. Bold: no worse than DDIM with "
             f"{EVALUATIONS[-1]}, with the better of its spacings. PSNR is `{PSNR}`, clipped to the range.")
    return "solvers", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
