"""Blind deblurring: a diffusion prior guesses the sharp picture, least squares the kernel, in turn."""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import operators, rng
from indigo_jax.arrays import rms
from indigo_jax.restoration.kernel_estimate import FAMILIES, estimate_kernel, noise_level
from indigo_jax.samplers.base import Info, in_float32, own_keys
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator


class BlindState(NamedTuple):
    """What the next step needs.

    Attributes:
        x: the noisy picture ``x_t`` ``[B, H, W, C]``; after the last step the result.
        denoised: the prior's newest guess of the sharp picture.
        blur_kernel: one per image ``[B, size, size]``; with a grid ``[B, rows * columns, size, size]``.
    """

    x: Array
    denoised: Array
    blur_kernel: Array


class Walks(NamedTuple):
    """How :func:`blind_em` goes up and down between noise and picture.

    Attributes:
        rounds: how often the kernel is fitted.
        steps: network evaluations before each fit.
        final: those of the last walk, from pure noise; 0: none, where the kernel alone is wanted.
        highest: where the first round begins, as a share of the schedule; the last begins at 0.2.
        temper: noise levels of the likelihood in the first and the last round, geometric in between.
        renoise: how much of the noise is new in each step (``sqrt(zeta)`` of DiffPIR).
    """

    rounds: int = 6
    steps: int = 8
    final: int = 50
    highest: float = 250 / 299
    temper: tuple[float, float] = (0.2, 0.05)
    renoise: float = 0.85

    @property
    def evaluations(self) -> int:
        """Of the network."""
        return self.rounds * self.steps + self.final


class _Plan(NamedTuple):
    """One row per network evaluation."""

    index: np.ndarray  # into the schedule
    next_alpha_bar: np.ndarray
    sigma: np.ndarray  # of the tempered likelihood; 0: the true one
    first: np.ndarray  # of a walk: noise the newest guess up to this level before
    scratch: np.ndarray  # start from pure noise
    update: np.ndarray  # re-estimate the kernel afterwards


def blind_em(denoiser: Denoiser, schedule: NoiseSchedule, y: Array, *, size: int | None = 9, sigma=None,
             seen=None, grid: tuple[int, int] = (1, 1), family: str = "free", start=None, walks: Walks = Walks(),
             prior_std: float = 0.5, num_iterations: int = 20) -> Kernel:
    """Restore pictures blurred by an unknown kernel, each by its own: alternation of a guess and a fit.

    Each round noises the newest guess of the sharp picture (at first y) up to a level that falls from round to round,
    walks down with some steps of DiffPIR under a tempered likelihood (:func:`diffpir`, with a noise level that falls,
    too), then fits the kernel to the guess (:func:`estimate_kernel`). At the end DiffPIR restores from
    pure noise with that kernel. The kernel starts as a broad Gaussian: narrow starts end in "no blur at all".

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``.
        schedule: all levels of the prior, not respaced.
        y: blurred pictures ``[B, H, W, C]`` in ``[-1, 1]``.
        size: side of the kernel, odd. None: unknown; room is made for :func:`largest_size`, of which a smaller kernel
            leaves the rest 0.
        sigma: standard deviation of the noise in y, ``[-1, 1]`` units; default: estimated from y per image, and at
            least 0.005.
        seen: ``[B, H, W]``, 1 where y was measured. The picture then lies on a canvas, at least half a kernel wider on
            every side than what was, and nothing is assumed of what lies outside; 0 there in y.
        grid: (rows, columns) of kernels, blended from one to the next by :func:`operators.patch_weights`: for blur
            that changes across the picture (:func:`operators.varying_blur`).
        family: what the kernel is: "free", "gaussian" of any width, or "motion", straight, of any length and angle;
            see :func:`family_kernels`.
        start: the first kernel: the width of a Gaussian in pixels, or kernels ``[B, size, size]``; default: 2, or 0.16
            of the side where that is unknown and the product larger.
        walks: how many, how long, how noisy.
        prior_std, num_iterations: as for :func:`diffpir`.

    Returns:
        ``Kernel(init, step, num_steps)``, one step per network evaluation; its ``x_init`` is y. State
        :class:`BlindState`; the info's ``x0`` is that after the data term, its residual that of ``k * x0 - y``.

    Errors:
        ValueError for an even size, or one that is larger than the pictures; an unknown family; a grid below 1 x 1, or
        a larger one with ``seen``.

    Source: ours, in the spirit of Fast Diffusion EM (Laroche, Almansa & Coupete 2024), with proximal data terms.
    """
    if min(grid) < 1:
        raise ValueError(f"grid must be at least 1 x 1, got {grid}")
    if seen is not None and grid != (1, 1):
        raise ValueError("a canvas has one kernel: leave out grid, or seen")
    largest, known, cells = min(y.shape[1:3]), size is not None, math.prod(grid)
    size = size if known else largest_size(*y.shape[1:3], cells=cells)
    if start is None:
        start = 2.0 if known else max(2.0, 0.16 * size)
    if size % 2 == 0 or not 1 <= size <= largest:
        raise ValueError(f"size must be odd and at most the side of the pictures, {largest}; got {size}")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    windows = None if cells == 1 else operators.patch_weights(*y.shape[1:3], *grid)
    sigma = jnp.maximum(noise_level(y), 0.005) if sigma is None else jnp.asarray(sigma, jnp.float32)
    plan, fresh = _plan(schedule, walks), walks.renoise**2

    def init(x: Array, keys) -> BlindState:
        del keys
        x = in_float32(x)
        shape = (x.shape[0], size, size) if windows is None else (x.shape[0], cells, size, size)
        first = operators.gaussian_kernel(start, size) if jnp.ndim(start) == 0 else start
        return BlindState(x, x, jnp.broadcast_to(first, shape))

    def fit(denoised, previous):
        return estimate_kernel(denoised, y, previous, windows=windows, seen=seen, family=family)

    def blur_by(blur_kernel):
        if seen is None:
            return blur_of(blur_kernel, grid, y.shape)
        return operators.compose(operators.blur(blur_kernel, boundary="periodic"), operators.inpaint(seen))

    @own_keys
    def step(keys, state: BlindState, i) -> tuple[BlindState, Info]:
        now = jax.tree.map(lambda column: jnp.asarray(column)[i], plan)
        a_t, a_s = schedule.alpha_bar[now.index], now.next_alpha_bar
        noise = rng.normal(rng.fold(keys, 0), state.x)
        raised = jnp.where(now.scratch, noise, jnp.sqrt(a_t) * state.denoised + jnp.sqrt(1 - a_t) * noise)
        x_t = jnp.where(now.first, raised, state.x)

        denoised = jnp.clip(denoiser(x_t, jnp.full(x_t.shape[:1], schedule.timesteps[now.index])).x0, -1.0, 1.0)
        left = 1 / (a_t / (1 - a_t) + 1 / prior_std**2)  # variance about the guess
        blur = blur_by(state.blur_kernel)
        rho = jnp.where(now.sigma > 0, now.sigma, sigma)**2 / left
        x0 = operators.proximal(blur, y, denoised, jnp.broadcast_to(rho, y.shape[:1]), num_iterations=num_iterations)
        x0 = jnp.clip(x0, -1.0, 1.0)
        e = (x_t - jnp.sqrt(a_t) * x0) / jnp.sqrt(1 - a_t)
        e = (1 - fresh)**0.5 * e + fresh**0.5 * rng.normal(rng.fold(keys, 1), e)
        blur_kernel = jax.lax.cond(now.update, lambda: fit(denoised, state.blur_kernel), lambda: state.blur_kernel)
        residual = rms(blur(x0) - y)
        x = jnp.sqrt(a_s) * x0 + jnp.sqrt(1 - a_s) * e
        return BlindState(x, denoised, blur_kernel), Info(schedule.timesteps[now.index], x0, residual)

    return Kernel(init, step, len(plan.index))


def largest_size(height: int, width: int, *, cells: int = 1) -> int:
    """Side of the kernels that are looked for where none is given: odd, less than half of a picture, at most 25; with
    several cells so small that all kernels of a picture together have at most 1000 taps.

    >>> largest_size(64, 80), largest_size(16, 16), largest_size(64, 64, cells=4)
    (25, 7, 15)
    """
    limit = min(25, (min(height, width) - 1) // 2, math.isqrt(1000 // cells))
    return max(1, limit - (limit + 1) % 2)


def blur_of(blur_kernel: Array, grid: tuple[int, int], shape) -> Operator:
    """The blur of pictures of ``shape`` by the kernels of a :class:`BlindState`."""
    if math.prod(grid) == 1:
        return operators.blur(blur_kernel)
    return operators.varying_blur(blur_kernel, operators.patch_weights(*shape[1:3], *grid))


def _plan(schedule, walks):
    """The levels of all rounds and of the last walk, as fractions of the schedule that were found on one of 300."""
    alpha_bar, top = np.asarray(schedule.alpha_bar), len(schedule.alpha_bar) - 1
    rows = []

    def walk(first, last, count, sigma, scratch, update):
        index = np.round(np.linspace(first, last, count)).astype(int)
        for j, k in enumerate(index):
            end = j == count - 1
            rows.append((k, 1.0 if end else alpha_bar[index[j + 1]], sigma, j == 0, scratch, update and end))

    starts = np.linspace(walks.highest, 60 / 299, walks.rounds)
    for first, sigma in zip(starts, np.geomspace(*walks.temper, walks.rounds)):
        walk(first * top, 3 / 299 * top, walks.steps, sigma, False, True)
    walk(top, 0, walks.final, 0.0, True, False)
    index, after, sigma, first, scratch, update = map(np.array, zip(*rows))
    return _Plan(index.astype(np.int32), after.astype(np.float32), sigma.astype(np.float32), first, scratch, update)
