"""``--method bird``: the initial noise of a fast sampler optimised, together with what is unknown of the damage."""
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import arrays, denoisers, operators, restoration, rng, schedules
from indigo_jax.methods import base, diffpir
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownOperator, KnownSettings, Problem, run
from indigo_jax.restoration.blind_em import blur_of

_PROX_VARIANCE = 0.1  # of the picture about the rollout, in the proximal gradient
_LAST_VARIANCE = 0.02  # the same, after the last iteration
_GRID_ERROR = 0.08  # of a grid of kernels, as noise, in [-1, 1] units
_GUESS = 1  # what the keys of the start are folded with


class Optimisation(NamedTuple):
    """The knobs of :func:`restoration.bird` that were tuned together; see :data:`DEFAULT` and :data:`OFFICIAL`.

    Attributes:
        num_levels, spacing, alpha_bar_min: the fast sampler's levels: those of the schedule with at least
            alpha_bar_min, respaced.
        num_iterations, rate, params_rate, final: of the optimiser, see :func:`restoration.bird_optimizer`.
        clip: as for :func:`restoration.bird`.
        refresh: as for :class:`restoration.Reuse`; None: nothing is reused.
        proximal: take the proximal step as the gradient, and one more after the last iteration.
        start: z begins as the noise of a picture, that of DiffPIR with so many evaluations; 0: as pure noise.
    """

    num_levels: int = 5
    spacing: str = "linspace"
    alpha_bar_min: float = 0.0225
    num_iterations: int = 60
    rate: float = 0.1
    params_rate: float = 0.01
    final: float = 0.05
    clip: str = "straight_through"
    refresh: int | None = None
    proximal: bool = False
    start: int = 0

    @property
    def evaluations(self) -> int:
        """Network evaluations per image."""
        if self.refresh is None:
            return self.start + self.num_levels * self.num_iterations
        whole = min(self.num_iterations, 2)  # the first and the last
        return self.start + self.num_levels * whole + self.refresh * (self.num_iterations - whole)


_RELEASED = Optimisation(10, "leading", 0.0, 100, 1e-3, 2e-4, 1.0, "hard")
# of the released code, for pictures of 256 px
OFFICIAL = {"deblur": _RELEASED._replace(rate=3e-3), "sr": _RELEASED,
            "denoise": _RELEASED._replace(num_iterations=200, rate=1e-2),
            "inpaint": _RELEASED._replace(num_iterations=200, rate=1e-2)}
# measured on a prior for pictures of 64 px
DEFAULT = {"deblur": Optimisation(num_iterations=30, proximal=True),
           "sr": Optimisation(num_iterations=30, proximal=True),
           "denoise": Optimisation(num_iterations=100, refresh=1),
           "inpaint": Optimisation(num_iterations=100, refresh=1, start=30)}


class Bird(KnownOperator):
    """BIRD (Chihaoui et al. 2024); blur of an unknown kernel by alternation, see :func:`restoration.blind_em`."""

    name = "bird"
    summary = "a diffusion prior, its noise optimised; finds unknown blur, too"
    when = "blur of an unknown kernel, on pictures of the kind that the prior has learned; to compare with the paper"
    needs, cost = "nothing, or as diffpir", "98 to 150; official settings 1,000 to 2,000"
    tasks = ("deblur", "nonuniform", "sr", "denoise", "inpaint", "ct")
    needs_kernel = False

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        preset: str = flag("fast", "settings that were measured with small priors, or those of the released code",
                           choices=("fast", "official"))
        kernel_size: int | None = flag(None, "side of the unknown kernel, odd (default: unknown, up to 25)", low=3,
                                       high=63, tasks=("deblur", "nonuniform"), metavar="PIXELS")
        kernel_family: str = flag("free", "what is known of the kernel: motion is straight",
                                  choices=("free", "gaussian", "motion"), tasks=("deblur",))
        grid: tuple[int, int] = flag((2, 2), "how many kernels, 1 to 8 of each (default: 2x2)", tasks=("nonuniform",),
                                     metavar="ROWSxCOLUMNS", file="grid")
        candidates: int = flag(1, "of so many tries the one that explains the picture best", low=1, high=64,
                               tasks=("deblur", "nonuniform"), metavar="N")

    def load(self):
        settings = self.settings
        if settings.kernel is not None and (settings.kernel_size, settings.kernel_family, settings.candidates) != (
                None, "free", 1):
            raise ValueError("a kernel says what the blur is; leave kernel_size, kernel_family and candidates out")
        if (settings.kernel_size or 1) % 2 == 0:
            raise ValueError(f"kernel_size must be odd; use {settings.kernel_size + 1}, not {settings.kernel_size}")
        if min(settings.grid) < 1 or max(settings.grid) > 8:
            raise ValueError(f"a grid has 1 to 8 rows and columns of kernels, not {settings.grid[0]} x "
                             f"{settings.grid[1]}")
        super().load()

    def restore(self, prior, problem):
        settings = self.settings
        if self.task == "ct":
            kernel = diffpir.chain(prior, problem, self.at_most(100), 1.0)
            return self.found(problem, run(kernel, problem))
        if problem.operator is None and settings.preset == "official":
            size = settings.kernel_size or 41
            problem = problem._replace(operator=operators.blind_blur(size, form="mlp"))
        if problem.operator is None:
            return deblur(prior, problem, size=settings.kernel_size, num_candidates=settings.candidates,
                          grid=settings.grid if self.task == "nonuniform" else (1, 1), family=settings.kernel_family)
        return (inpaint if self.task == "inpaint" else optimise)(prior, problem, self.optimisation)

    @property
    def optimisation(self) -> Optimisation:
        """The knobs of the task."""
        return {"fast": DEFAULT, "official": OFFICIAL}[self.settings.preset][self.task]

    def evaluations(self, solved):
        if self.task == "ct":
            return self.at_most(100)
        if self.task in ("deblur", "nonuniform") and self.settings.kernel is None and self.settings.preset == "fast":
            return 98 * self.settings.candidates
        return self.optimisation.evaluations


def begun(prior: denoisers.Prior, problem: Problem, knobs: Optimisation):
    """Of :func:`optimise`, what comes before the first iteration: the kernel, and the noise where it starts."""
    operator, keys = problem.operator, problem.keys
    levels = schedules.truncate(prior.schedule, knobs.alpha_bar_min)
    levels = schedules.respace(levels, knobs.num_levels, knobs.spacing)
    optimizer = restoration.bird_optimizer(knobs.rate, knobs.params_rate, num_iterations=knobs.num_iterations,
                                           final=knobs.final)
    gradient = (lambda x0: _nearest(problem, x0, _PROX_VARIANCE)) if knobs.proximal else "stop"
    kernel = restoration.bird(prior.denoiser, levels, operator, problem.y, optimizer, gradient, clip=knobs.clip,
                              num_iterations=knobs.num_iterations,
                              reuse=restoration.Reuse(knobs.refresh) if knobs.refresh else None)
    z = problem.noise
    if knobs.start:
        own = problem._replace(keys=rng.fold(keys, _GUESS))
        guess = jnp.clip(run(diffpir.chain(prior, own, knobs.start, 0.7225), own), -1.0, 1.0)
        z = jnp.sqrt(levels.alpha_bar[-1]) * guess + jnp.sqrt(1 - levels.alpha_bar[-1]) * z
    return kernel, z


def _nearest(problem, x0, variance):
    """The picture near x0 that explains the measurement."""
    return operators.proximal(problem.operator, problem.y, x0, problem.sigma**2 / variance)


def optimise(prior: denoisers.Prior, problem: Problem, knobs: Optimisation) -> base.Solved:
    """BIRD with given settings, from noise of the images' keys.

    Args:
        prior: the diffusion model.
        problem: its operator known, or with unknowns (:func:`operators.blind_blur`); only the proximal step needs
            sigma.
        knobs: a value of :data:`DEFAULT` or :data:`OFFICIAL`, or another.

    Errors:
        ValueError for proximal or start with an operator that has unknowns.
    """
    operator, keys = problem.operator, problem.keys
    blind = hasattr(operator, "init")
    if blind and (knobs.proximal or knobs.start):
        raise ValueError("proximal and start need a known, linear operator; use deblur() where the kernel is unknown")
    kernel, z = begun(prior, problem, knobs)

    def step(state, i):
        return kernel.step(keys, state, i)[0], None

    state, _ = jax.lax.scan(step, kernel.init(z, keys), jnp.arange(kernel.num_steps))
    x = jnp.clip(state.x, -1.0, 1.0)
    if knobs.proximal:
        x = jnp.clip(_nearest(problem, x, _LAST_VARIANCE), -1.0, 1.0)
    seen = operator(x, state.params) if blind else operator(x)
    found = operator.kernel(state.params) if blind and hasattr(operator, "kernel") else None
    return base.Solved(x, problem.left(seen), problem.sigma, found)


def inpaint(prior: denoisers.Prior, problem: Problem, knobs: Optimisation) -> base.Solved:
    """:func:`optimise`, then what was observed as it is, but for what its noise level leaves open."""
    x = jnp.clip(_nearest(problem, optimise(prior, problem, knobs).x, _LAST_VARIANCE), -1.0, 1.0)
    return base.Solved(x, problem.residual(x), problem.sigma)


def deblur(prior: denoisers.Prior, problem: Problem, *, size: int | None = None, num_candidates: int = 1,
           grid: tuple[int, int] = (1, 1), family: str = "free") -> base.Solved:
    """Remove blur of an unknown kernel: :func:`restoration.blind_em`, ranked by how well the result explains y.

    Args:
        prior: the diffusion model.
        problem: pictures ``[B, H, W, C]``; its operator is not looked at.
        size: side of the kernel's support, odd; None where it is unknown.
        num_candidates: independent restorations, of which that with the smallest residual is kept.
        grid, family: as for :func:`restoration.blind_em`; with a grid the kernels are
            ``[B, rows * columns, size, size]``, and the picture need not explain y better than to 0.08: a few kernels
            only come near to a blur that changes.
    """
    y, sigma = problem.y, problem.sigma
    near = sigma if math.prod(grid) == 1 else jnp.sqrt(sigma**2 + _GRID_ERROR**2)
    kernel = restoration.blind_em(prior.denoiser, prior.schedule, y, size=size, sigma=near, grid=grid, family=family)

    def candidate(number):
        own = rng.fold(problem.keys, number)

        def step(state, i):
            return kernel.step(own, state, i)[0], None

        state, _ = jax.lax.scan(step, kernel.init(y, own), jnp.arange(kernel.num_steps))
        blur = blur_of(state.blur_kernel, grid, y.shape)
        return state.x, state.blur_kernel, arrays.rms(blur(state.x) - y)

    x, found, residual = jax.lax.map(candidate, jnp.arange(num_candidates))
    best = jnp.argmin(residual, axis=0)
    x, residual, found = jax.tree.map(  # per image: an index over images would gather them on every device
        lambda each: jax.vmap(lambda own, k: own[k], in_axes=(1, 0))(each, best), (x, residual, found))
    return base.Solved(x, residual, sigma, found)
