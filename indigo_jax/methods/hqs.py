"""``--method hqs``: a known operator undone with a few calls of a denoiser; the least error, not a sample."""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from indigo_jax import operators, restoration, samplers
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownOperator, KnownSettings

_BLURRED = 0.2  # first level where a blur is undone
_HOLE, _LEAST_IN_HOLES = 0.1, 0.03  # first and last level where holes are filled already, in [-1, 1] units
_EDGE = (0.5, 0.5, 0.0)  # shares by the edge of a hole: of the network, of biharmonic and of harmonic continuation
_DEEP = (0.3, 0.3, 0.4)  # the same far inside
_DEPTH = 2  # pixels from what is seen over which the first give way to the second
_WINDOW = 5  # pixels, of which the least and the largest value are continued into a hole as its bounds
_SMOOTHED = 200  # iterations of that continuation
_LARGE = 1024  # side of the part of a picture that is enough to see its noise
_COMPRESSED = 2 / 127.5  # noise below which frequencies may have lost it to compression
_ROUNDED = 1 / 127.5 / 12**0.5  # noise of a clean picture of 8 bits


class Hqs(KnownOperator):
    """Half-quadratic splitting (DPIR, Zhang et al. 2021); see :func:`restoration.hqs`.

    The border is honest: a blurred picture lies on a canvas that is larger by the kernel, and only what lies inside has
    been measured. Nothing outside is assumed.
    """

    name = "hqs"
    summary = "a denoiser and a known operator: the least error in a few calls"
    when = "the damage is known and fidelity counts: known blur, enlargement, holes"
    cost = "--steps, 8 (inpaint: 10)"
    tasks: ClassVar[tuple[str, ...]] = ("deblur", "sr", "inpaint", "denoise")
    border, one_answer = "symmetric", True

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        weights: str = flag("photo", "the denoiser, a diffusion prior; see: indigo weights list", metavar="NAME|PATH",
                            file="weights")
        steps: int | None = flag(None, "network evaluations (default: 8; inpaint: 10)", low=1, high=1000)
        shrunk: str = flag("bicubic", "how the picture was made of a larger one: bicubic, or by the means of squares",
                           choices=("bicubic", "mean"), tasks=("sr",))

    def estimate(self, y):
        return jnp.maximum(restoration.flat_noise_level(y), 0.005)

    def margin(self):
        return 0 if self.settings.kernel is None else self.around(max(self.settings.kernel.shape))

    def given(self, pixels, fill):
        known = super().given(pixels, fill)
        if self.settings.sigma_255 is None and self.task == "inpaint":
            known["sigma"] = self.estimate(jnp.asarray(pixels[None], jnp.float32))[0]
        if self.settings.sigma_255 is None and self.task == "deblur" and "kernel" in known:
            known["sigma"] = _not_texture(known["sigma"], pixels, self.settings.kernel)
        if self.settings.sigma_255 is None and self.task == "sr":  # so small a picture has no flat parts to see it by
            known["sigma"] = jnp.float32(_ROUNDED)
        return known

    def problem(self, y, keys, plan, given):
        problem = super().problem(y, keys, plan, given)
        if self.scale > 1 and self.settings.shrunk == "bicubic":
            return problem._replace(operator=operators.downsample(self.scale))
        return problem

    def solve(self, params, y, keys, *, plan, given):
        prior = base.prior(self.networks["prior"], params[0], plan)
        problem = self.problem(y, keys, plan, given)
        first, sigma, start = y, problem.sigma, _BLURRED if self.task == "deblur" else 0.384
        if self.scale > 1:
            first = jnp.clip(operators.upsample(self.scale)(y), -1, 1)
        if self.task == "inpaint":
            first = operators.smooth_fill(y, given["mask"][..., None])
            sigma, start = jnp.maximum(sigma, _LEAST_IN_HOLES), _HOLE
        kernel = restoration.hqs(prior.denoiser, prior.schedule, problem.operator, problem.y, sigma,
                                 num_steps=self._steps, start=start)
        x, _ = samplers.sample(kernel, keys, first)
        if self.task == "inpaint":
            seen = given["mask"][..., None]
            x = jnp.where(seen > 0, y, _calmer_inside(x, y, seen))  # what is there stays as it is
        return self.found(problem._replace(seen=given.get("mask", problem.seen)), x)

    @property
    def _steps(self):
        return self.settings.steps or (10 if self.task == "inpaint" else 8)

    def evaluations(self, solved):
        return self._steps


def _not_texture(sigma, pixels, kernel):
    """The noise level, or less, where frequencies of which the kernel has left nothing show less; not below what
    compression may have brought them to."""
    if any(taps > side for taps, side in zip(kernel.shape, pixels.shape)):
        return sigma
    part = pixels[None, :_LARGE, :_LARGE]
    shown = restoration.blurred_noise_level(jnp.asarray(part, jnp.float32), jnp.asarray(kernel, jnp.float32))
    return jnp.minimum(sigma, jnp.maximum(shown[0], _COMPRESSED))


def _calmer_inside(x, y, seen):
    """A mean of three that err differently: the network, a continuation in slopes and a flat one, which counts most
    far inside, where nothing is known. Neither of the others goes beyond what the surroundings continue to: a network
    far from all that is seen drifts, slopes swing."""
    sloping = operators.smooth_fill(y, seen, num_iterations=_SMOOTHED, order=2)
    flat, low, high = jnp.split(operators.smooth_fill(
        jnp.concatenate([y, *_range(y, seen)], -1), seen, num_iterations=_SMOOTHED, order=1), 3, -1)
    near = _near(seen)
    return sum((near * edge + (1 - near) * deep) * jnp.clip(one, low, high)
               for one, edge, deep in zip((x, sloping, flat), _EDGE, _DEEP))


def _range(y, seen):
    """The least and the largest value of what is seen in the ``_WINDOW`` about each pixel that is seen; else 0."""
    def best(first, choose):
        values = jnp.where(seen > 0, y, first)
        found = jax.lax.reduce_window(values, first, choose, (1, _WINDOW, _WINDOW, 1), (1, 1, 1, 1), "SAME")
        return jnp.where(seen > 0, found, 0.0)

    return best(jnp.inf, jax.lax.min), best(-jnp.inf, jax.lax.max)


def _near(seen):
    """``exp(-depth / _DEPTH)`` where nothing is seen ``[B, H, W, 1]``, depth in pixels from the edge of the hole to the
    middle of each, diagonals like sides; else 1."""
    def grow(_, near):
        best = jax.lax.reduce_window(near, 0.0, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        return jnp.maximum(seen, jnp.exp(-1 / _DEPTH) * best)

    steps = jax.lax.fori_loop(0, 5 * _DEPTH, grow, seen)
    return jnp.maximum(seen, jnp.exp(0.5 / _DEPTH) * steps)
