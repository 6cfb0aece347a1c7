"""Whole restorations with a diffusion prior, one function per task, with the settings that measured best.

Each is a pure function of arrays and keys, to be jitted by its caller; images in a batch do not influence each other.
``indigo restore --method bird`` and the tables call these.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import operators, rng, samplers, schedules
from indigo_jax.restoration.bird import bird, bird_optimizer
from indigo_jax.restoration.blind_em import blind_em
from indigo_jax.restoration.diffpir import diffpir
from indigo_jax.restoration.kernel_estimate import noise_level
from indigo_jax.typing import Array, Denoiser, Key, Operator

_PROX_VARIANCE = 0.1  # of the picture about the rollout, in the proximal gradient
_LAST_VARIANCE = 0.02  # the same, after the last iteration


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

    @property
    def evaluations(self) -> int:
        """Network evaluations per image."""
        if self.refresh is None:
            return self.num_levels * self.num_iterations
        return self.refresh * max(self.num_iterations - 2, 0) + self.num_levels * min(self.num_iterations, 2)


_RELEASED = BirdSettings(10, "leading", 0.0, 100, 1e-3, 2e-4, 1.0, "hard")
# of the released code, for pictures of 256 px
OFFICIAL = {"deblur": _RELEASED._replace(rate=3e-3), "sr": _RELEASED,
            "denoise": _RELEASED._replace(num_iterations=200, rate=1e-2),
            "inpaint": _RELEASED._replace(num_iterations=200, rate=1e-2)}
# measured on a prior for pictures of 64 px
DEFAULT = {"deblur": BirdSettings(num_iterations=30, proximal=True), "sr": BirdSettings(),
           "denoise": BirdSettings(num_iterations=100, refresh=1),
           "inpaint": BirdSettings(num_iterations=100, refresh=1)}


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
        ValueError for proximal settings with an operator that has unknowns.
    """
    blind = hasattr(operator, "init")
    if settings.proximal and blind:
        raise ValueError("proximal settings need a known, linear operator; use deblur() where the kernel is unknown")
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
    state, _ = jax.lax.scan(step, kernel.init(noise, keys), jnp.arange(kernel.num_steps))
    x = jnp.clip(state.x0, -1.0, 1.0)
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
          num_steps: int = 50) -> Restored:
    """Undo a known linear operator (blur by a given kernel, super-resolution, CT): DiffPIR from pure noise.

    Args:
        prior: the diffusion model.
        operator: linear and known.
        y: measurements ``[B, ...]``.
        keys: one per image.
        sigma: noise level of y in ``[-1, 1]`` units, a number or one per image.
        image_shape: ``(H, W, C)`` of the pictures; default that of y.
        num_steps: network evaluations.
    """
    sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1])
    shape = y.shape if image_shape is None else (y.shape[0], *image_shape)
    levels = schedules.respace(prior.schedule, num_steps, "linspace")
    kernel = diffpir(prior.denoiser, levels, operator, y, sigma)
    noise = rng.normal(rng.init_keys(keys), jnp.zeros(shape))
    x = jnp.clip(samplers.sample(kernel, keys, noise)[0], -1.0, 1.0)
    return Restored(x, _root_mean_square(operator(x) - y), sigma, None, num_steps)


def deblur(prior: Prior, y: Array, keys: Key, *, size: int = 9, sigma=None, num_candidates: int = 1) -> Restored:
    """Remove blur of an unknown kernel: :func:`blind_em`, ranked by how well the result explains y.

    Args:
        prior: the diffusion model.
        y: pictures ``[B, H, W, C]``.
        keys: one per image.
        size: side of the kernel's support, odd.
        sigma: noise level in ``[-1, 1]`` units; estimated from y where None.
        num_candidates: independent restorations, of which that with the smallest residual is kept.
    """
    sigma = jnp.maximum(noise_level(y), 0.005) if sigma is None else jnp.asarray(sigma, jnp.float32)
    sigma = jnp.broadcast_to(sigma, y.shape[:1])
    kernel = blind_em(prior.denoiser, prior.schedule, y, size=size, sigma=sigma)

    def candidate(number):
        own = rng.fold(keys, number)

        def step(state, i):
            return kernel.step(rng.fold(own, i), state, i)[0], None

        state, _ = jax.lax.scan(step, kernel.init(y, own), jnp.arange(kernel.num_steps))
        return state.x, state.kernel, _root_mean_square(operators.blur(state.kernel)(state.x) - y)

    x, kernels, residual = jax.lax.map(candidate, jnp.arange(num_candidates))
    best, images = jnp.argmin(residual, axis=0), jnp.arange(y.shape[0])
    return Restored(x[best, images], residual[best, images], sigma, kernels[best, images],
                    kernel.num_steps * num_candidates)


def _root_mean_square(residual):
    return jnp.sqrt(jnp.mean(residual**2, axis=tuple(range(1, residual.ndim))))
