"""BIRD beside its paper's opponents at equal evaluations: damage known, unknown, and known wrongly; one prior for all
photographs, that of slices for tomography.
"""
import functools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval import baselines, problems
from eval.measure import (
    ALIGNED, PSNR, Cache, Group, about, aligned_psnr, grouped, markdown, mean, measure, psnr_of)
from indigo_jax import denoisers, guidance, operators, restoration, rng, schedules, tiles
from indigo_jax.methods import base, bird, estimates, known
from indigo_jax.typing import Array

STEPS, SIZE, SIGMA = 100, 9, 0.02  # evaluations of each line; side of the kernels; noise but of denoising
EXAMPLES = 2048  # kernels that BlindDPS knows
TASKS = {"motion": "blind deblurring, 9x9 motion", "gaussian": "blind deblurring, Gaussian of 1.5 px",
         "wrong": "9x9 motion, told its mirror image", "sr8": "8x super-resolution, mean of 8x8",
         **{task: problems.TASKS[task] for task in ("denoise", "inpaint", "ct")}}
BLIND = ("motion", "gaussian")
SLICES, KERNELS = "ellipses64", "kernels9"  # the prior of tomography, that of BlindDPS's kernels
MEASURED = ("evaluations", PSNR, ALIGNED)


class Periodic:
    """Blur by the softmax of logits with a border that goes round, as Fourier's basis has it."""

    def init(self, keys):
        return operators.blind_blur(SIZE).init(keys)["logits"]

    def __call__(self, x, logits):
        return operators.blur(self.kernel(logits), boundary="periodic")(x)

    def kernel(self, logits):
        """``[B, SIZE, SIZE]``."""
        return operators.blind_blur(SIZE).kernel({"logits": logits})


@functools.cache
def kernel_examples(task: str) -> np.ndarray:
    """Kernels of the task's own kind as pictures, none of them those of a case: ``[EXAMPLES, SIZE, SIZE, 1]``."""
    with jax.ensure_compile_time_eval():  # numbers, also where a program is traced that needs them
        keys = rng.image_keys(1_000_003, np.arange(EXAMPLES))
        if task == "gaussian":
            drawn = jax.vmap(lambda width: operators.gaussian_kernel(width, SIZE))(rng.uniform(keys, 0.5, 3.0))
        else:
            drawn = operators.motion_kernel(keys, size=SIZE, length=float(SIZE))
        return np.asarray(restoration.picture_of(drawn))


def make(task: str, x: Array, keys) -> problems.Case:
    """The case of a task of :data:`TASKS`."""
    if task in ("denoise", "inpaint", "ct"):
        return problems.make(task, x, keys)
    if task in ("motion", "wrong"):
        return problems.make("blind", x, keys)
    own, given = rng.fold(keys, rng.name_id(task)), {"sigma": jnp.full(len(x), SIGMA)}
    if task == "gaussian":
        given["kernel"] = jnp.broadcast_to(operators.gaussian_kernel(1.5, SIZE), (len(x), SIZE, SIZE))
    seen = (operators.average_pool(8) if task == "sr8" else operators.blur(given["kernel"]))(x)
    return problems.Case(x, seen + SIGMA * rng.normal(rng.fold(own, 0), seen), rng.fold(own, 1), given)


def problem_of(task: str, case: problems.Case) -> known.Problem:
    """With the operator as a method is told it; in blind tasks the true one, which only the measuring looks at."""
    given, side = case.given, case.y.shape[1]
    if task == "ct":
        return problems.problem_of(task, case)
    if task == "sr8":
        side = 8 * side
        operator = operators.average_pool(8)
    elif task == "inpaint":
        operator = operators.inpaint(given["mask"])
    elif task == "denoise":
        operator = operators.compose()
    else:
        operator = operators.blur(given["kernel"][:, :, ::-1] if task == "wrong" else given["kernel"])
    return known.Problem(operator, case.y, case.keys, given["sigma"], (side, side, 3))


class Line(NamedTuple):
    """A method: its name and settings, evaluations, the tasks that it does, ``restore(prior, problem, task) -> x``."""

    title: str
    evaluations: int
    tasks: tuple[str, ...]
    restore: Callable


def _levels(prior, num_steps=STEPS):
    return known.levels_of(prior, num_steps, "log_snr")


def _clipped(prior):
    return guidance.clip_x0(schedule=prior.schedule)(prior.denoiser)


def _unknown(problem):
    return problem._replace(operator=operators.blind_blur(SIZE))


def _first(prior, problem, task):
    return operators.upsample(8)(problem.y) if task == "sr8" else baselines.first(task, problem)


def _total_variation(prior, problem, task):
    return baselines.total_variation(task, problem)


def _bird(prior, problem, task, rate=0.1):
    knobs = bird.Optimisation(num_iterations=STEPS // 5, rate=rate)
    return bird.optimise(prior, _unknown(problem) if task in BLIND else problem, knobs).x


def _alternation(prior, problem, task):
    return bird.deblur(prior, problem, size=SIZE).x


def _dps(prior, problem, task, scale=1.0):
    return known.run(restoration.dps(_clipped(prior), _levels(prior), problem.operator, problem.y, scale), problem)


def _diffpir(prior, problem, task):
    return known.run(restoration.diffpir(prior.denoiser, known.levels_of(prior, STEPS), problem.operator, problem.y,
                                         problem.sigma, **({"zeta": 1.0} if task == "ct" else {})), problem)


def _ddrm(prior, problem, task):
    svd = ray_svd(problem.shape[0]) if task == "ct" else restoration.isometry(problem.operator, problem.noise)
    return known.run(restoration.ddrm(_clipped(prior), _levels(prior), problem.operator, problem.y, problem.sigma,
                                      svd=svd), problem)


@functools.cache
def ray_svd(side: int):
    """Of the mean along each ray of :func:`problems.make`, of pictures of three channels, without the null space."""
    with jax.ensure_compile_time_eval():  # numbers, also where a program is traced that needs them
        rays = operators.radon(operators.sparse_view_angles(problems.NUM_VIEWS), side)
        columns = np.asarray(rays(jnp.eye(side**2).reshape(side**2, side, side, 1))).reshape(side**2, -1)
    _, values, right = np.linalg.svd(columns.T / side, full_matrices=False)

    def to_basis(x):
        return jnp.sum(x, axis=3).reshape(x.shape[0], -1) @ right.T / 3**0.5

    def from_basis(c):
        return jnp.repeat((c @ right).reshape(-1, side, side, 1), 3, axis=3) / 3**0.5

    return values / np.float32(3**0.5), to_basis, from_basis


def _gdp(prior, problem, task, scale=0.5):
    blind = task in BLIND
    scale = scale if blind else scale / estimates.squared_norm(problem)
    kernel = restoration.gdp(_clipped(prior), _levels(prior), _unknown(problem).operator if blind else problem.operator,
                             problem.y, scale=scale, rate=1e-3 if blind else 0.0)
    return known.run(kernel, problem)


def _blind_dps(prior, problem, task, exact=False):
    """With the trained prior of kernels, or with the exact one of examples of the task's own kind."""
    levels = _levels(prior)
    with jax.ensure_compile_time_eval():  # numbers, not part of the program
        if exact:
            pictures = schedules.karras(1000, 0.01, 20.0)
            kernels = denoisers.from_examples(kernel_examples(task), pictures)
        else:
            network = base.open_network(KERNELS, "prior")
            trained = base.prior(network, network.params, tiles.Plan((SIZE, SIZE), (SIZE, SIZE), 0))
            kernels, pictures = _clipped(trained), trained.schedule
        own = schedules.respace(pictures, levels.timesteps.shape[0], "log_snr")
    kernel = restoration.blind_dps(_clipped(prior), levels, kernels, own, problem.y, size=SIZE,
                                   channels=1 if exact else 3, scale=1.0, kernel_scale=0.3)
    return known.run(kernel, problem)


def _gibbs(prior, problem, task):
    side, blur = problem.shape[0], Periodic()
    kernel = restoration.gibbs_ddrm(
        _clipped(prior), _levels(prior), blur, lambda logits: restoration.fourier_svd(blur.kernel(logits), side, side),
        problem.y, problem.sigma, rate=1e-2, num_langevin=10, cold=True)
    return known.run(kernel, problem)


_KNOWN = ("sr8", "denoise", "inpaint", "ct")
LINES = (
    Line("input", 0, tuple(TASKS), _first),
    Line("total variation", 0, ("ct",), _total_variation),
    Line("BIRD, rate 0.1", STEPS, (*BLIND, "wrong", *_KNOWN), _bird),
    Line("BIRD, rate 0.03", STEPS, ("inpaint",), functools.partial(_bird, rate=0.03)),
    Line("BIRD, rate 0.3", STEPS, ("inpaint",), functools.partial(_bird, rate=0.3)),
    Line("BIRD, alternation", restoration.Walks().evaluations, BLIND, _alternation),
    Line("BlindDPS, 1 and 0.3", STEPS, BLIND, _blind_dps),
    Line("BlindDPS, kernels exactly", STEPS, BLIND, functools.partial(_blind_dps, exact=True)),
    Line("GDP, scale 0.5", STEPS, (*BLIND, "wrong", *_KNOWN), _gdp),
    Line("GDP, scale 0.15", STEPS, ("inpaint",), functools.partial(_gdp, scale=0.15)),
    Line("GDP, scale 1", STEPS, ("inpaint",), functools.partial(_gdp, scale=1.0)),
    Line("GibbsDDRM, descent 0.01", STEPS, BLIND, _gibbs),
    Line("DPS, scale 1", STEPS, ("wrong", *_KNOWN), _dps),
    Line("DPS, scale 0.3", STEPS, ("inpaint",), functools.partial(_dps, scale=0.3)),
    Line("DPS, scale 3", STEPS, ("inpaint",), functools.partial(_dps, scale=3.0)),
    Line("DPS, scale 10", STEPS, ("ct",), functools.partial(_dps, scale=10.0)),
    Line("DDRM", STEPS, _KNOWN, _ddrm),
    Line("DiffPIR", STEPS, ("wrong", *_KNOWN), _diffpir))


def group(task: str, line: Line, network: base.Network, side: int) -> Group:
    """A line of a task, without cases."""
    plan = tiles.Plan((side, side), (side, side), 0)

    def restore(params, case):
        prior = base.prior(network, params, plan)
        x = line.restore(known.grey_prior(prior) if task == "ct" else prior, problem_of(task, case), task)
        return jnp.clip(x, -1.0, 1.0), {"evaluations": line.evaluations}

    return Group(f"{line.title} of {task}", restore, network.params, network.info["sha256"][:12])


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method: bold the best mean of a task."""
    lines = []
    for task, by_method in grouped(rows, "task", "method").items():
        best = {name: max(mean(each, name) for each in by_method.values()) for name in (PSNR, ALIGNED)}
        for title, each in by_method.items():
            values = {name: mean(each, name) for name in (PSNR, ALIGNED)}
            cells = [f"**{values[name]:.2f}**" if values[name] == best[name] else f"{values[name]:.2f}"
                     for name in (PSNR, ALIGNED)]
            lines.append([TASKS[task] if title == "input" else "", title, f"{each[0]['evaluations']:.0f}", cells[0],
                          cells[1] if task in BLIND else ""])
    return markdown(["task", "method", "network evaluations", "PSNR, dB", "aligned PSNR, dB"], lines)


def table(args, pictures, path, command: str):
    """As :data:`eval.tables.TABLES` has it; numbers that are known come from .jsonl."""
    networks, cases, sides = {}, {}, {}
    for task in TASKS:
        networks[task] = network = base.open_network(SLICES if task == "ct" else args.weights, "prior")
        side = sides[task] = base.side_of(network) or 64
        own = problems.phantoms(side, max(len(pictures.names) - 1, 1)) if task == "ct" else pictures
        cases[task] = [({"picture": one.names[0]}, make(task, *one.at(side, args.seed))) for one in own.singles()]
    groups = [group(task, line, networks[task], sides[task])._replace(
        cases=[({**said, "task": task, "method": line.title}, case) for said, case in cases[task]])
        for task in TASKS for line in LINES if task in line.tasks]
    rows = measure(groups, {PSNR: psnr_of, ALIGNED: aligned_psnr}, Cache(path.with_suffix(".jsonl"), MEASURED),
                   batch_size=args.batch)
    name = networks["motion"].name
    notes = (f"`{name}` on {about(pictures, sides['motion'], [args.seed])}; tomography: `{SLICES}` on the "
             f"Shepp-Logan phantom and {len(cases['ct']) - 1} random ones that it has not learned. All that do not "
             f"say otherwise have {STEPS} evaluations; BIRD, DPS and BlindDPS also differentiate the network in "
             "each. Noise has sigma 0.01 of [0, 1], but for denoising, and for tomography 0.001 of the mean along "
             f"a ray; borders are reflected. BIRD: 5 levels of its sampler, {STEPS // 5} iterations, the kernel by "
             "softmax. GDP: a step towards y in units of 1 / |A|^2; the kernel by softmax, rate 0.001. BlindDPS "
             f"has the bundled prior of kernels, `{KERNELS}`, which `train.diffusion` made of 20,000 shakes and "
             f"Gaussians; or it knows {EXAMPLES} other kernels of the task's own kind exactly "
             "(`denoisers.from_examples`). GibbsDDRM: 10 steps of descent a level, the border goes round. DPS, "
             "GDP, BlindDPS, DDRM and GibbsDDRM visit levels evenly in log-SNR. In tomography the input is "
             "filtered back-projection, DDRM has the singular values of the matrix of all rays, and DiffPIR all "
             f"its noise new. Aligned: the best of all moves by at most 3 pixels. PSNR is `{PSNR}`.")
    return f"{name}: opponents", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
