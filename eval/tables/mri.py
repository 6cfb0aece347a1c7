"""The table of accelerated MRI: methods for a known operator with the prior of slices, beside those without one."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import problems
from eval.measure import PSNR, markdown, psnr_of
from indigo_jax import operators, restoration, rng, samplers, tiles
from indigo_jax.methods import base, known
from indigo_jax.typing import Array, Key

WEIGHTS, SIDE, SIGMA, COUNT, STEPS = "ellipses64", 64, 0.02, 1, 50
ACCELERATIONS, CENTRE = (4, 8), 0.08
STRENGTHS = (0.003, 0.01, 0.03, 0.1)  # of total variation
_SPREAD = 0.5 * 3**0.5  # the mean of three channels of this spread has one of 0.5


class Line(NamedTuple):
    """A method: evaluations of the network, and ``restore(prior, problem) -> x``, or several x to choose from."""

    title: str
    evaluations: int
    restore: Callable


def measured(acceleration: float, x: Array, keys: Key) -> known.Problem:
    """Columns of k-space of grey pictures ``[B, S, S, 3]`` with noise; each picture has columns of its own."""
    masks = operators.cartesian_mask(rng.fold(keys, 0), SIDE, SIDE, acceleration=acceleration, centre_fraction=CENTRE)
    operator = operators.mri(masks)
    clean = operator(x)
    y = clean + SIGMA * masks[..., None] * rng.normal(rng.fold(keys, 1), clean)
    return known.Problem(operator, y, rng.fold(keys, 2), jnp.full(len(x), SIGMA), x.shape[1:])


def zero_filled(prior, problem) -> Array:
    """Samples that were not taken count as 0."""
    return problem.operator.zero_filled(problem.y)


def total_variation(prior, problem) -> list[Array]:
    """``argmin |A x - y|^2 / 2 + strength sum |D x|`` by twenty rounds of reweighted least squares."""
    operator, start = problem.operator, problem.operator.zero_filled(problem.y)

    def differences(x):
        return jnp.stack([jnp.roll(x, -1, 1) - x, jnp.roll(x, -1, 2) - x], axis=-1)

    def flat(*parts):
        return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)

    def solved(strength):
        def reweighted(_, x):
            weight = jnp.sqrt(strength / jnp.sqrt(jnp.sum(differences(x)**2, -1, keepdims=True) + 1e-4))
            return operators.proximal(lambda x: flat(operator(x), weight * differences(x) / 3**0.5),
                                      flat(problem.y, jnp.zeros((*x.shape, 2))), x, 0.0, num_iterations=30)

        return jax.lax.fori_loop(0, 20, reweighted, start)

    return [solved(strength) for strength in STRENGTHS]


def _chain(make):
    def restore(prior, problem):
        kernel = make(prior, known.levels_of(prior, STEPS), problem)
        return samplers.sample(kernel, problem.keys, problem.noise)[0]

    return restore


def _hqs(prior, problem):
    kernel = restoration.hqs(prior.denoiser, prior.schedule, problem.operator, problem.y, problem.sigma, num_steps=30,
                             start=1.0)
    return samplers.sample(kernel, problem.keys, zero_filled(prior, problem))[0]


LINES = (
    Line("zero filling", 0, zero_filled),
    Line("total variation, best of four strengths", 0, total_variation),
    Line("half-quadratic splitting", 30, _hqs),
    Line("DDNM", STEPS, _chain(lambda prior, levels, p: restoration.ddnm(
        prior.denoiser, levels, p.operator, p.y))),
    Line("DiffPIR, all noise new", STEPS, _chain(lambda prior, levels, p: restoration.diffpir(
        prior.denoiser, levels, p.operator, p.y, p.sigma, prior_std=_SPREAD, zeta=1.0))))


def measure(pictures: problems.Pictures, seed: int, lines=LINES) -> list[dict]:
    """One row per acceleration, picture and method; of several results the best by the truth counts."""
    network = base.open_network(WEIGHTS, "prior")
    plan, (x, keys), rows = tiles.Plan((SIDE, SIDE), (SIDE, SIDE), 0), pictures.at(SIDE, seed), []
    cases = {acceleration: measured(acceleration, x, rng.fold(keys, acceleration)) for acceleration in ACCELERATIONS}
    for line in tqdm(lines, mininterval=1.0):
        @jax.jit
        def restore(params, operator, y, keys, sigma):
            prior = known.grey_prior(base.prior(network, params, plan))
            found = line.restore(prior, known.Problem(operator, y, keys, sigma, x.shape[1:]))
            return [jnp.clip(jnp.broadcast_to(one.mean(-1, keepdims=True), x.shape), -1, 1)
                    for one in (found if isinstance(found, list) else [found])]

        for acceleration, case in cases.items():
            found = restore(network.params, *case[:4])
            best = np.max([psnr_of(one, x) for one in found], axis=0)
            rows += [{"acceleration": acceleration, "picture": name, "method": line.title,
                      "evaluations": line.evaluations, PSNR: float(value)} for name, value in zip(pictures.names, best)]
    return rows


def to_markdown(rows: list[dict]) -> str:
    """One line per acceleration and method: the mean, and the picture on which it did worst against zero filling."""
    lines = []
    for acceleration in dict.fromkeys(row["acceleration"] for row in rows):
        group = [row for row in rows if row["acceleration"] == acceleration]
        by_method = {title: [row for row in group if row["method"] == title]
                     for title in dict.fromkeys(row["method"] for row in group)}
        first = [row[PSNR] for row in by_method["zero filling"]]
        means = {title: np.mean([row[PSNR] for row in each]) for title, each in by_method.items()}
        for title, each in by_method.items():
            value = f"{means[title]:.2f}"
            worst = min(row[PSNR] - before for row, before in zip(each, first))
            lines.append([f"{acceleration}x" if title == "zero filling" else "", title, str(each[0]["evaluations"]),
                          f"**{value}**" if means[title] == max(means.values()) else value,
                          "" if title == "zero filling" else f"{worst:+.2f}"])
    return markdown(["acceleration", "method", "network evaluations", "PSNR, dB", "worst picture's gain"], lines)


def table(args, pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    pictures = problems.phantoms(SIDE, COUNT)
    notes = (f"Prior `{WEIGHTS}`, {SIDE} x {SIDE} pixels: the Shepp-Logan phantom of scikit-image and {COUNT} random "
             f"of the prior's own kind, not among those that it was trained on (pixels `{pictures.digest}`). "
             f"One coil; `cartesian_mask` with {CENTRE} of the columns in the centre, columns and noise drawn for each "
             f"picture; noise of sigma {SIGMA} in [-1, 1] in real and imaginary part of each sample. DDNM has eta 0.85 "
             "and takes the measurement for exact; DiffPIR is told the noise and a spread of 0.5 of grey "
             "pictures; half-quadratic splitting begins at sigma 1. Of total variation the best of strengths "
             f"{', '.join(map(str, STRENGTHS))} is shown, chosen on the truth, picture by picture. PSNR is `{PSNR}`, "
             "clipped to the range, not rounded. Phantoms are what the prior knows; real slices are not.")
    rows = measure(pictures, args.seed)
    return "mri", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
