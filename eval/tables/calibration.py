"""Whether samplers of posteriors draw from the posterior: their mean and spread where it is known exactly."""
import re

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval.measure import Cache, markdown
from eval.posteriors import Mixture, matrix, smooth_covariance
from eval.problems import digest
from eval.tables.posterior_samplers import LINES, SIGMA, WHOLE, Line, Problem
from indigo_jax import operators, rng, samplers

SIDE, DRAWS = 8, 512
MEASURED = ("mean error", "std ratio", "least", "largest", "first mode")
STD, CORNER = 0.3, 0.1  # of the Gaussian pictures
MODE_STD, MODE_CORNER, BUMP = 0.12, 0.3, 0.35  # of the mixture: a mode's pictures, what tells the modes apart


def problems(seed: int) -> list[Problem]:
    """The Gaussian under three operators, and the mixture with a hole where its modes differ."""
    shape, hole = (SIDE, SIDE, 1), np.ones((SIDE, SIDE), np.float32)
    hole[2:6, 2:6] = 0
    row = np.sin(np.pi * (np.arange(SIDE) + 0.5) / SIDE)**4
    bump = BUMP * np.outer(row, row).ravel()
    gaussian = Mixture(np.ones(1), np.zeros((1, SIDE**2)), smooth_covariance(SIDE, STD, CORNER), shape)
    mixture = Mixture(np.array([0.6, 0.4]), np.stack([bump, -bump]), smooth_covariance(SIDE, MODE_STD, MODE_CORNER),
                      shape)

    def problem(number, title, prior, operator):
        random = np.random.default_rng([seed, number])
        a = matrix(operator, shape)
        y = a @ prior.draw(1, random)[0]
        y = y + SIGMA * random.standard_normal(len(y)) * (np.abs(a).sum(axis=1) > 0)
        measured = jnp.asarray(y.reshape(jax.eval_shape(operator, jnp.zeros((1, *shape))).shape), jnp.float32)
        return Problem(title, prior, prior.posterior(a, y, SIGMA), operator,
                       jnp.repeat(measured, DRAWS, axis=0), prior.denoiser(WHOLE))

    return [problem(1, "Gaussian, average pooling", gaussian, operators.average_pool(2)),
            problem(3, "two modes, inpainting", mixture, operators.inpaint(hole)),
            problem(2, "Gaussian, inpainting", gaussian, operators.inpaint(hole)),
            problem(0, "Gaussian, blur", gaussian, _periodic_blur())]


def _periodic_blur():
    """Of a Gaussian kernel of standard deviation 1, on a torus, with its singular values in Hartley's real basis."""
    f = np.fft.fftfreq(SIDE)
    gain = np.exp(-2 * np.pi**2 * (f[:, None]**2 + f**2))[..., None].astype(np.float32)

    def hartley(x):
        spectrum = jnp.fft.fft2(x, axes=(1, 2), norm="ortho")
        return spectrum.real - spectrum.imag

    def blur(x):
        return hartley(gain * hartley(x))

    return operators.linear(blur, blur, svd=(gain, hartley, hartley))


def program(problem: Problem, line: Line, seed: int):
    """A sampler's program, traced, and its arguments: keys of :data:`DRAWS` results, and what they start from."""
    keys = rng.image_keys(seed, np.arange(DRAWS))
    nothing = jnp.zeros((DRAWS, SIDE, SIDE, 1))
    start = rng.normal(rng.init_keys(keys), nothing)
    if line.starts_from == "estimate":
        start = operators.base.adjoint_of(problem.operator, nothing)(problem.y)
    run = jax.jit(lambda keys, start: samplers.sample(line.make(problem), keys, start)[0])
    return run.trace(keys, start), (keys, start)


def draws(problem: Problem, line: Line, seed: int) -> np.ndarray:
    """Results of a sampler ``[DRAWS, D]``."""
    traced, arguments = program(problem, line, seed)
    return np.asarray(traced.lower().compile()(*arguments), np.float64).reshape(DRAWS, -1)


def compare(x: np.ndarray, exact: Mixture) -> dict:
    """Draws ``[N, D]`` against their posterior.

    ``mean error``: root mean square over pixels, in units of the posterior's standard deviation. ``std ratio``: of the
    standard deviations about the mean of one's own mode, root mean square over pixels, ours by the exact one; ``least``
    and ``largest``: the same along the axes of the exact covariance. ``first mode``: share of the likeliest mode.
    """
    modes = exact.modes(x)
    about = np.concatenate([x[modes == k] - x[modes == k].mean(axis=0) for k in np.unique(modes)])
    values, axes = np.linalg.eigh(exact.covariance)
    ratios = np.sqrt(np.mean((about @ axes)**2, axis=0) / values)
    return {"mean error": float(np.sqrt(np.mean((x.mean(axis=0) - exact.mean)**2)) / exact.spread),
            "std ratio": float(np.sqrt(np.mean(about**2) / np.mean(values))),
            "least": float(ratios.min()), "largest": float(ratios.max()), "first mode": float(np.mean(modes == 0))}


def table(args, pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`. Numbers of the same program and problem come
    from .jsonl."""
    cache, rows = Cache(path.with_suffix(".jsonl"), MEASURED), []
    for case, line in tqdm([(case, line) for case in problems(args.seed) for line in LINES], mininterval=1.0):
        traced, arguments = program(case, line, args.seed)
        key = digest(re.sub("0x[0-9a-f]+", "", str(traced.jaxpr.jaxpr)), *map(np.asarray, traced.jaxpr.consts))
        if key not in cache.known:
            x = np.asarray(traced.lower().compile()(*arguments), np.float64).reshape(DRAWS, -1)
            cache.add([{"key": key, **compare(x, case.posterior)}])
        rows.append({"problem": case.title, "sampler": line.title, "settings": line.settings,
                     "evaluations": line.evaluations, **cache.known[key], "exact": float(case.posterior.weights[0])})
    return "calibration", rows, to_markdown(rows, command)


def to_markdown(rows: list[dict], command: str) -> str:
    """A table per problem; bold a mean within 0.1 and a spread within 10 %."""
    parts = []
    for title in dict.fromkeys(row["problem"] for row in rows):
        group = [row for row in rows if row["problem"] == title]
        two = group[0]["exact"] < 1
        columns = ["sampler", "settings", "evaluations", "mean error", "std ratio", "least, largest axis"]
        lines = []
        for row in group:
            good = row["mean error"] <= 0.1, abs(row["std ratio"] - 1) <= 0.1
            cells = [row["sampler"], row["settings"], str(row["evaluations"]), f"{row['mean error']:.2f}",
                     f"{row['std ratio']:.2f}", f"{row['least']:.2f}, {row['largest']:.2f}"]
            cells[3:5] = [f"**{cell}**" if near else cell for cell, near in zip(cells[3:5], good)]
            lines.append(cells + [f"{row['first mode']:.2f}"] * two)
        columns += [f"first mode, {group[0]['exact']:.2f}"] * two
        parts += [f"## {title}", markdown(columns, lines)]
    return "\n\n".join([*parts, _NOTES, f"Written by `{command}`."])


_NOTES = " ".join(f"""{DRAWS} draws given one measurement, pictures of {SIDE} x {SIDE} pixels of one channel, noise of
standard deviation {SIGMA}, and the exact denoiser of the prior: no network, so whatever differs from the posterior is
the sampler's own.
Schedule: `linear()` of 1000 levels, of which 100 (DDRM: as many as evaluations) of spacing "log_snr" are visited; by
DPS, PSLD and RED-diff all, by BIRD 5 of "linspace", half-quadratic splitting takes its own. Gaussian pictures have
spread {STD} and spectrum 1 / (f^2 + {CORNER}^2) on a torus; the two modes, 0.6 and 0.4 of the prior, spread
{MODE_STD} (corner {MODE_CORNER}) about plus and minus a bump of height {BUMP} in the middle. Blur: Gaussian, standard
deviation 1, on a torus; average pooling by 2; the hole: the middle 4 x 4 pixels. "p true": told the spread of the
prior; what is not named has its default. PSLD and ReSample work on latents: an orthonormal Haar transform stands for
the autoencoder, so that nothing is lost and the posterior is the same. Evaluations: of the denoiser; PiGDM and DPS
also differentiate it once, TMPD twice. Mean error: root mean square over pixels in units of the posterior's standard
deviation; 1 / sqrt({DRAWS}) = {DRAWS**-0.5:.2f} is chance. Std ratio: the sampler's by the exact, 1 is right, below 1
is too sure; within the modes where there are two. Least, largest axis: the same along the axes of the exact
covariance, 0.92 and 1.08 or so by chance. First mode: share of the draws, in the head of the column the exact one.
DDNM takes the measurement for exact: the pseudo-inverse of a blur multiplies the noise wherever the blur leaves next
to nothing. Bold: a mean within 0.1, a spread within 10 %.""".split())
