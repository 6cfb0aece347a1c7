"""Whole restorations with a diffusion prior, one function per task, with the settings that measured best.

Each is a pure function of arrays and keys, to be jitted by its caller; images in a batch do not influence each other.
``indigo restore --method bird`` and the tables call these.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import operators, rng, samplers, schedules
from indigo_jax.operators.base import square
from indigo_jax.restoration.bird import bird, bird_optimizer
from indigo_jax.restoration.blind_em import blind_em, blur_of
from indigo_jax.restoration.diffpir import diffpir
from indigo_jax.restoration.kernel_estimate import noise_level
from indigo_jax.typing import Array, Denoiser, Key, Operator

_PROX_VARIANCE = 0.1  # of the picture about the rollout, in the proximal gradient
_LAST_VARIANCE = 0.02  # the same, after the last iteration
_GRID_ERROR = 0.08  # of a grid of kernels, as noise, in [-1, 1] units
_GUESS = 1  # what the keys of the start are folded with


class Prior(NamedTuple):
    """A diffusion model: ``denoiser(x_t, t) -> Prediction`` for all levels of its ``schedule``."""

    denoiser: Denoiser
    schedule: schedules.NoiseSchedule


class BirdSettings(NamedTuple):
    """The knobs of :func:`bird` that were tuned together; see :data:`DEFAULT` and :data:`OFFICIAL`.

    Attributes:
        num_levels, spacing, alpha_bar_min: the fast sampler's levels: those of the schedule with at least
            alpha_bar_min, respaced.
        num_iterations, rate, params_rate, final: of the optimiser, see :func:`bird_optimizer`.
        clip, refresh: as for :func:`bird`.
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


_RELEASED = BirdSettings(10, "leading", 0.0, 100, 1e-3, 2e-4, 1.0, "hard")
# of the released code, for pictures of 256 px
OFFICIAL = {"deblur": _RELEASED._replace(rate=3e-3), "sr": _RELEASED,
            "denoise": _RELEASED._replace(num_iterations=200, rate=1e-2),
            "inpaint": _RELEASED._replace(num_iterations=200, rate=1e-2)}
# measured on a prior for pictures of 64 px
DEFAULT = {"deblur": BirdSettings(num_iterations=30, proximal=True),
           "sr": BirdSettings(num_iterations=30, proximal=True),
           "denoise": BirdSettings(num_iterations=100, refresh=1),
           "inpaint": BirdSettings(num_iterations=100, refresh=1, start=30)}


class Restored(NamedTuple):
    """What a task gives back.

    Attributes:
        x: pictures ``[B, H, W, C]`` in ``[-1, 1]``.
        residual: root mean square of ``A(x) - y``, per image ``[B]``.
        sigma: standard deviation of the noise in y that was assumed, ``[B]``.
        kernel: blur kernels ``[B, size, size]`` where they were unknown, else None.
        evaluations: network evaluations per image.
    """

    x: Array
    residual: Array
    sigma: Array
    kernel: Array | None
    evaluations: int


def bird_restore(prior: Prior, operator: Operator, y: Array, keys: Key, *, settings: BirdSettings, sigma,
                 image_shape=None) -> Restored:
    """BIRD with given settings, from noise of the images' keys.

    Args:
        prior: the diffusion model.
        operator: known, or with unknowns (:func:`operators.blind_blur`).
        y: measurements ``[B, ...]``.
        keys: one per image.
        settings: a value of :data:`DEFAULT` or :data:`OFFICIAL`, or another.
        sigma: noise level of y in ``[-1, 1]`` units, a number or one per image; only the proximal step needs it.
        image_shape: ``(H, W, C)`` of the pictures; default that of y.

    Errors:
        ValueError for proximal or start with an operator that has unknowns.
    """
    blind = hasattr(operator, "init")
    if blind and (settings.proximal or settings.start):
        raise ValueError("proximal and start need a known, linear operator; use deblur() where the kernel is unknown")
    sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1])
    levels = schedules.truncate(prior.schedule, settings.alpha_bar_min)
    levels = schedules.respace(levels, settings.num_levels, settings.spacing)
    optimizer = bird_optimizer(settings.rate, settings.params_rate, num_iterations=settings.num_iterations,
                               final=settings.final)

    def nearest(x0, variance):
        return operators.proximal(operator, y, x0, sigma**2 / variance)

    gradient, prox = ("prox", lambda x0: nearest(x0, _PROX_VARIANCE)) if settings.proximal else ("stop", None)
    kernel = bird(prior.denoiser, levels, operator, y, optimizer, gradient, num_iterations=settings.num_iterations,
                  clip=settings.clip, prox=prox, refresh=settings.refresh, image_shape=image_shape)

    def step(state, i):
        return kernel.step(keys, state, i)[0], None

    shape = y.shape if image_shape is None else (y.shape[0], *image_shape)
    noise = rng.normal(rng.init_keys(keys), jnp.zeros(shape))
    if settings.start:
        guess = solve(prior, operator, y, rng.fold(keys, _GUESS), sigma=sigma, image_shape=image_shape,
                      num_steps=settings.start).x
        noise = jnp.sqrt(levels.alpha_bar[-1]) * guess + jnp.sqrt(1 - levels.alpha_bar[-1]) * noise
    state, _ = jax.lax.scan(step, kernel.init(noise, keys), jnp.arange(kernel.num_steps))
    x = jnp.clip(state.x, -1.0, 1.0)
    if settings.proximal:
        x = jnp.clip(nearest(x, _LAST_VARIANCE), -1.0, 1.0)
    seen = operator(x, state.params) if blind else operator(x)
    kernels = operator.kernel(state.params) if blind and hasattr(operator, "kernel") else None
    return Restored(x, _root_mean_square(seen - y), sigma, kernels, settings.evaluations)


def inpaint(prior: Prior, y: Array, mask: Array, keys: Key, *, sigma=0.02,
            settings: BirdSettings = DEFAULT["inpaint"]) -> Restored:
    """Fill what was not observed by BIRD; where it was, the result is y, but for what its noise level leaves open.

    Args:
        prior: the diffusion model.
        y: pictures ``[B, H, W, C]``.
        mask: ``[H, W]`` or ``[B, H, W]``; 1 where y was observed, 0 where it is to be filled.
        keys: one per image.
        sigma: noise level of y in ``[-1, 1]`` units; the default is 2.5 of 255.
        settings: of BIRD.
    """
    operator = operators.inpaint(mask)
    y = operator(y)
    found = bird_restore(prior, operator, y, keys, settings=settings, sigma=sigma)
    x = jnp.clip(operators.proximal(operator, y, found.x, found.sigma**2 / _LAST_VARIANCE), -1.0, 1.0)
    return found._replace(x=x, residual=_root_mean_square(operator(x) - y))


def denoise_once(prior: Prior, y: Array, *, sigma=None) -> Restored:
    """One network evaluation at the level where ``(1 - a) / a = sigma^2``: the posterior mean of the prior."""
    sigma = noise_level(y) if sigma is None else jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1])
    wanted = 1 / (1 + sigma**2)
    index = jnp.argmin(jnp.abs(prior.schedule.alpha_bar[None] - wanted[:, None]), axis=1)
    level = jnp.sqrt(prior.schedule.alpha_bar[index])[:, None, None, None]
    x = jnp.clip(prior.denoiser(level * y, prior.schedule.timesteps[index]).x0, -1.0, 1.0)
    return Restored(x, _root_mean_square(x - y), sigma, None, 1)


def solve(prior: Prior, operator: Operator, y: Array, keys: Key, *, sigma, image_shape=None,
          num_steps: int = 50, zeta: float = 0.7225) -> Restored:
    """Undo a known linear operator (blur by a given kernel, super-resolution, CT): DiffPIR from pure noise.

    Args:
        prior: the diffusion model.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        keys: one per image.
        sigma: noise level of y in ``[-1, 1]`` units, a number or one per image.
        image_shape: ``(H, W, C)`` of the pictures; default that of y.
        num_steps: network evaluations.
        zeta: share of new noise in each step, see :func:`diffpir`.
    """
    sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1])
    shape = y.shape if image_shape is None else (y.shape[0], *image_shape)
    levels = schedules.respace(prior.schedule, num_steps, "linspace")
    kernel = diffpir(prior.denoiser, levels, operator, y, sigma, zeta=zeta)
    noise = rng.normal(rng.init_keys(keys), jnp.zeros(shape))
    x = jnp.clip(samplers.sample(kernel, keys, noise)[0], -1.0, 1.0)
    return Restored(x, _root_mean_square(operator(x) - y), sigma, None, num_steps)


def reconstruct(prior: Prior, radon: Operator, sinogram: Array, keys: Key, *, sigma=None, channels: int = 3,
                num_steps: int = 100) -> Restored:
    """Tomography from few views: :func:`solve`, with a prior of pictures in which -1 is air and 1 the densest matter.

    ``y = A((x + 1) / 2)`` is divided by the side of the pictures, so that residual and sigma are those of the mean
    along a ray, in the units of x; A sees the mean of the channels, and each denoised picture is made grey. All noise
    is new in each step, which is 0.8 dB better on a phantom of 20 views than :func:`diffpir`'s default share.

    Args:
        prior: the diffusion model.
        radon: from :func:`operators.radon`; gives the size of the pictures.
        sinogram: ``[B, detectors, angles, 1]``, sums of densities in ``[0, 1]`` along the rays.
        keys: one per image.
        sigma: noise level of the sinogram in its own units; estimated where None.
        channels: of the prior.
        num_steps: network evaluations; no more than the schedule has levels.
    """
    def mean_along_rays(x):
        return radon(jnp.mean(x, axis=-1, keepdims=True)) / radon.size

    def grey(x_t, t):
        prediction = prior.denoiser(x_t, t)
        return prediction._replace(x0=jnp.broadcast_to(jnp.mean(prediction.x0, -1, keepdims=True), x_t.shape))

    sigma = jnp.maximum(sinogram_noise(sinogram), 1e-3 * radon.size) if sigma is None else jnp.asarray(sigma)
    shape = (radon.size, radon.size, channels)
    y = 2 * sinogram / radon.size - mean_along_rays(jnp.ones((1, *shape)))
    return solve(prior._replace(denoiser=grey), mean_along_rays, y, keys, sigma=2 * sigma / radon.size,
                 image_shape=shape, num_steps=min(num_steps, prior.schedule.timesteps.shape[0]), zeta=1.0)


def sinogram_noise(sinogram: Array) -> Array:
    """Standard deviation of white noise in sinograms ``[B, detectors, angles, C]`` -> ``[B]``, in their units.

    The median absolute third difference along the detectors over ``0.6745 sqrt(20)``: projections are smooth.

    >>> sinogram_noise(jnp.zeros((2, 8, 3, 1))).tolist()
    [0.0, 0.0]
    """
    if sinogram.shape[1] < 4:
        return jnp.zeros(sinogram.shape[0], sinogram.dtype)
    rough = jnp.abs(jnp.diff(sinogram, n=3, axis=1)).reshape(sinogram.shape[0], -1)
    return jnp.median(rough, axis=1) / (0.6745 * 20**0.5)


def deblur(prior: Prior, y: Array, keys: Key, *, size: int | None = None, sigma=None, num_candidates: int = 1,
           grid: tuple[int, int] = (1, 1), family: str = "free") -> Restored:
    """Remove blur of an unknown kernel: :func:`blind_em`, ranked by how well the result explains y.

    Args:
        prior: the diffusion model.
        y: pictures ``[B, H, W, C]``.
        keys: one per image.
        size: side of the kernel's support, odd; None where it is unknown.
        sigma: noise level in ``[-1, 1]`` units; estimated from y where None.
        num_candidates: independent restorations, of which that with the smallest residual is kept.
        grid, family: as for :func:`blind_em`; with a grid the kernels are ``[B, rows * columns, size, size]``, and the
            picture need not explain y better than to 0.08: a few kernels only come near to a blur that changes.
    """
    sigma = jnp.maximum(noise_level(y), 0.005) if sigma is None else jnp.asarray(sigma, jnp.float32)
    sigma = jnp.broadcast_to(sigma, y.shape[:1])
    near = sigma if math.prod(grid) == 1 else jnp.sqrt(sigma**2 + _GRID_ERROR**2)
    kernel = blind_em(prior.denoiser, prior.schedule, y, size=size, sigma=near, grid=grid, family=family)

    def candidate(number):
        own = rng.fold(keys, number)

        def step(state, i):
            return kernel.step(rng.fold(own, i), state, i)[0], None

        state, _ = jax.lax.scan(step, kernel.init(y, own), jnp.arange(kernel.num_steps))
        return state.x, state.kernel, _root_mean_square(blur_of(state.kernel, grid, y.shape)(state.x) - y)

    x, kernels, residual = jax.lax.map(candidate, jnp.arange(num_candidates))
    best = jnp.argmin(residual, axis=0)
    x, residual, kernels = jax.tree.map(  # per image: an index over images would gather them on every device
        lambda each: jax.vmap(lambda own, k: own[k], in_axes=(1, 0))(each, best), (x, residual, kernels))
    return Restored(x, residual, sigma, kernels, kernel.num_steps * num_candidates)


def _root_mean_square(residual):
    return jnp.sqrt(jnp.mean(square(residual), axis=tuple(range(1, residual.ndim))))
