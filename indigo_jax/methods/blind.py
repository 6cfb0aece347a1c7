"""``--method blind``: blur of an unknown kernel, found on a part of the picture, then undone."""
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, operators, restoration, samplers, tiles
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.hqs import Hqs

_PART = 320  # side of the part on which the kernel is looked for, at most; even
_SIZE = 25  # of the kernel, where nothing is known of it
_ROUNDS, _STEPS = 3, 8  # of picture and kernel with the denoiser; network evaluations of each
_ERROR = 3 / 127.5  # of the kernel that is found, as noise, in [-1, 1] units
_WHITE, _TOO_WHITE = 0.995, 0.03  # a wrong kernel makes contrasts that no picture holds: so many more values near 1
_BELIEVED = 1.1  # times the noise and this error: what a picture may leave unexplained; right kernels leave 0.6 to 0.8


class Blind(Hqs):
    """A first kernel from the picture alone, as one of few edges (:func:`restoration.sparse_kernel`), on its middle;
    there three rounds of :func:`restoration.hqs` with the kernel and of :func:`restoration.estimate_kernel` with its
    result; at last hqs on the whole. Where the kernel does not explain the picture, or makes contrasts of it that no
    picture holds, a network that restores directly takes its place: less, and no harm (:class:`Indi`)."""

    name = "blind"
    summary = "a denoiser finds the blur of a photograph and undoes it"
    when = "the whole picture is blurred alike, as by a shaken camera, and the kernel is unknown"
    needs = "nothing; better with --kernel-size"
    cost = f"{_ROUNDS * _STEPS} on the middle {_PART} x {_PART} pixels, then --steps, 8, and 1"
    tasks = ("deblur",)
    one_answer = True
    needs_kernel = False

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(Hqs.Settings):
        kernel_size: int | None = flag(None, f"no more than so many pixels wide is the kernel, odd (default: {_SIZE})",
                                       low=3, high=63, tasks=("deblur",), metavar="PIXELS")
        restorer: str = flag("indi-photo", "the network for pictures of which no kernel is found; see: indigo weights "
                                           "list", metavar="NAME|PATH", file="weights")

    def load(self):
        if self.settings.kernel is not None:
            raise ValueError("the kernel is given, so nothing is to be found: use --method hqs")
        if self._size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; use {self._size + 1}, not {self._size}")
        super().load()
        if base.side_of(self.networks["prior"]) is not None:
            raise ValueError(f"{self.info.get('name')} knows pictures of one size; blind needs a denoiser of any, as "
                             "photo: use --method bird, or other weights")
        self.networks["restorer"] = base.open_restorer(self.settings.restorer, "deblur")

    @property
    def _size(self):
        return self.settings.kernel_size or _SIZE

    def solve(self, params, y, keys, *, plan, given):
        rows, columns = (slice((side - _PART) // 2, (side + _PART) // 2) if side > _PART else slice(None)
                         for side in plan.canvas)
        seen = jnp.broadcast_to(given["seen"], y.shape[:3])[:, rows, columns]
        sigma = jnp.sqrt(given["sigma"]**2 + _ERROR**2)
        kernel = self.find(params[0], y[:, rows, columns], seen, sigma, keys)
        solved = super().solve(params, y, keys, plan=plan, given={**given, "kernel": kernel, "sigma": sigma})
        whole = jnp.broadcast_to(given["seen"], y.shape[:3])[..., None]

        def share(x):
            ends = jnp.where(jnp.abs(x) >= _WHITE, whole, 0.0)
            return jnp.sum(ends, axis=(1, 2, 3)) / (3 * jnp.sum(whole, axis=(1, 2, 3)))

        believed = (solved.residual <= _BELIEVED * sigma) & (share(solved.x) - share(y) <= _TOO_WHITE)
        believed = believed[:, None, None]
        return solved._replace(x=jnp.where(believed[..., None], solved.x, self._directly(params[1], y, plan)),
                               kernel=jnp.where(believed, kernel, _no_blur(kernel)))

    def _directly(self, params, y, plan):
        """By the restorer, in one call: InDI's only step, without the noise that it begins with."""
        module, _, info = self.networks["restorer"]
        restorer = denoisers.of(tiles.by_plan(functools.partial(module.apply, params), plan), info)
        return jnp.clip(restorer(y, jnp.ones(y.shape[:1])), -1, 1)

    def report(self, solved, plan):
        report = super().report(solved, plan)
        if np.any(solved.kernel != _no_blur(solved.kernel)):
            return report
        return report._replace(note=f"no kernel was found that explains the picture, so {self.settings.restorer} "
                                    "restored it; try --kernel-size")

    def find(self, params, y, seen, sigma, keys):
        """The kernels ``[B, size, size]`` of pictures.

        Args:
            params: of the denoiser.
            y: as :meth:`solve`'s, or a part of it ``[B, H, W, 3]``.
            seen: ``[B, H, W]``, 1 where y was measured.
            sigma: of the noise and of what a kernel may err, ``[B]`` or a number.
            keys: one per image.
        """
        edge = self._size // 2 + 1  # what lies nearer to the cut of y than half a kernel does not count
        inside = (seen > 0).astype(y.dtype) * jnp.zeros(y.shape[1:3]).at[edge:-edge, edge:-edge].set(1.0)
        module, _, info = self.networks["prior"]
        prior = denoisers.of(functools.partial(module.apply, params), info)
        kernel = restoration.sparse_kernel(y, self._size, seen=inside)
        for _ in range(_ROUNDS):
            blur = operators.compose(operators.blur(kernel, boundary="periodic"), operators.inpaint(inside))
            splitting = restoration.hqs(prior.denoiser, prior.schedule, blur, inside[..., None] * y, sigma,
                                        num_steps=_STEPS)
            sharp, _ = samplers.sample(splitting, keys, y)
            kernel = restoration.estimate_kernel(sharp, y, kernel, seen=inside)
        there = jnp.isfinite(jnp.sum(kernel, axis=(1, 2), keepdims=True))
        return jnp.where(there, kernel, _no_blur(kernel))  # where too little was seen to find anything

    def margin(self):
        return self.around(self._size)

    def evaluations(self, solved):
        return _ROUNDS * _STEPS + super().evaluations(solved) + 1

    def all_evaluations(self, solved, plan):
        """The kernel is looked for on one part."""
        return _ROUNDS * _STEPS + (super().evaluations(solved) + 1) * plan.count


def _no_blur(kernel):
    """Of the shape of kernels ``[B, size, size]``, one that leaves pictures as they are."""
    middle = kernel.shape[-1] // 2
    return jnp.zeros_like(kernel).at[:, middle, middle].set(1.0)
