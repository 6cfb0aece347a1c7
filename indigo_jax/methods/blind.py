"""``--method blind``: blur of an unknown kernel, found by a denoiser on a part of the picture, then undone."""
import dataclasses
import functools

import jax
import jax.numpy as jnp

from indigo_jax import denoisers, operators, restoration, rng, schedules
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.hqs import Hqs
from indigo_jax.restoration import kernel_estimate

_PART = 320  # side of the part on which the kernel is looked for, at most; even
_SIZE = 25  # of the kernel, where nothing is known of it
_COARSE = restoration.Walks(final=0)  # at half the size
_FINE = restoration.Walks(rounds=3, final=0, highest=0.5, temper=(0.1, 0.05))
_COARSE_DRAWS, _FINE_DRAWS = 0, 1  # what an image's keys are folded with
_FLAT = 0.4  # width of the first kernel, of its side
_ERROR = 3 / 127.5  # of the kernel that is found, as noise, in [-1, 1] units


class Blind(Hqs):
    """A kernel by :func:`restoration.blind_em` on the middle of the picture, first at half its size and from an almost
    flat kernel, then at its size from what was found; :func:`restoration.hqs` with it on the whole."""

    name = "blind"
    summary = "a denoiser finds the blur of a photograph and undoes it"
    when = "the whole picture is blurred alike, as by a shaken camera, and the kernel is unknown"
    needs = "nothing; better with --kernel-size"
    cost = f"{_COARSE.evaluations // 4 + _FINE.evaluations} on the middle {_PART} x {_PART} pixels, then --steps, 8"
    tasks = ("deblur",)
    needs_kernel = False

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(Hqs.Settings):
        kernel_size: int | None = flag(None, f"no more than so many pixels wide is the kernel, odd (default: {_SIZE})",
                                       low=3, high=63, tasks=("deblur",), metavar="PIXELS")

    def load(self):
        if self.settings.kernel is not None:
            raise ValueError("the kernel is given, so nothing is to be found: use --method hqs")
        if self._size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; use {self._size + 1}, not {self._size}")
        super().load()
        if base.side_of(self.networks["prior"]) is not None:
            raise ValueError(f"{self.info.get('name')} knows pictures of one size; blind needs a denoiser of any, as "
                             "photo: use --method bird, or other weights")

    @property
    def _size(self):
        return self.settings.kernel_size or _SIZE

    def solve(self, params, y, keys, *, plan, given):
        rows, columns = (slice((side - _PART) // 2, (side + _PART) // 2) if side > _PART else slice(None)
                         for side in plan.canvas)
        seen = jnp.broadcast_to(given["seen"], y.shape[:3])[:, rows, columns]
        kernel = self.find(self._prior(params[0]), y[:, rows, columns], seen, keys)
        sigma = jnp.sqrt(given["sigma"]**2 + _ERROR**2)
        solved = super().solve(params, y, keys, plan=plan, given={**given, "kernel": kernel, "sigma": sigma})
        return solved._replace(kernel=kernel)

    def find(self, prior: denoisers.Prior, y, seen, keys):
        """The kernels ``[B, size, size]`` of pictures ``[B, H, W, 3]`` of even sides.

        Args:
            prior: over the levels of a diffusion.
            y: as :meth:`solve`'s, or a part of it.
            seen: ``[B, H, W]``, 1 where y was measured.
            keys: one per image.
        """
        size = self._size
        half = size // 2 | 1
        half += 2 if half > 3 else 0  # room for what the coarse picture does not tell
        small, small_seen = operators.average_pool(2)(y), operators.average_pool(2)(seen[..., None])[..., 0] > 0.999
        coarse = _alternate(prior, small, small_seen, rng.fold(keys, _COARSE_DRAWS), half, _FLAT * half, _COARSE)
        shift = jnp.full(2, size / 2 - half)
        start = jax.vmap(lambda kernel: jax.image.scale_and_translate(
            kernel, (size, size), (0, 1), jnp.full(2, 2.0), shift, method="linear"))(coarse)
        start = start / jnp.sum(start, axis=(1, 2), keepdims=True)
        return _alternate(prior, y, seen > 0, rng.fold(keys, _FINE_DRAWS), size, start, _FINE)

    def _prior(self, params):
        """The network over the levels of a diffusion, in which the walks are counted, up to the noisiest it knows."""
        network = self.networks["prior"]
        function = functools.partial(network.module.apply, params)
        if network.info["prediction"] != "sigma":
            return denoisers.of(function, network.info)
        with jax.ensure_compile_time_eval():
            learned = schedules.from_json(network.info["schedule"])
            schedule = schedules.truncate(schedules.linear(), float(learned.alpha_bar[-1]))
        return denoisers.Prior(denoisers.from_sigma(function, schedule), schedule)

    def margin(self):
        return self._size // 2 + 8

    def evaluations(self, solved):
        return _COARSE.evaluations + _FINE.evaluations + super().evaluations(solved)


def _alternate(prior, y, seen, keys, size, start, walks):
    """The kernel that :func:`restoration.blind_em` finds. What lies nearer to the cut of y than half a kernel does not
    count."""
    edge = size // 2 + 1
    inside = jnp.zeros(y.shape[1:3]).at[edge:-edge, edge:-edge].set(1.0)
    seen = seen.astype(y.dtype) * inside
    kernel = restoration.blind_em(prior.denoiser, prior.schedule, y * seen[..., None], size=size, seen=seen,
                                  sigma=0.0, start=start, walks=walks)

    def step(state, i):
        return kernel.step(keys, state, i)[0], None

    found = jax.lax.scan(step, kernel.init(y, keys), jnp.arange(kernel.num_steps))[0].blur_kernel
    found = jax.vmap(lambda each: kernel_estimate.centred(connected(each)))(found)
    sharp = jnp.zeros((size, size)).at[size // 2, size // 2].set(1.0)  # where too little was seen to find anything
    return jnp.where(jnp.isfinite(jnp.sum(found, axis=(1, 2), keepdims=True)), found, sharp)


def connected(kernel):
    """Of a kernel ``[h, w]`` what hangs together with its largest tap, over gaps of one tap; the rest is mostly texture
    that repeats. Divided by its sum."""
    there = (kernel > 0).astype(kernel.dtype)

    def grow(_, kept):
        return there * jax.lax.reduce_window(kept, 0.0, jax.lax.max, (5, 5), (1, 1), "SAME")

    kept = jax.lax.fori_loop(0, max(kernel.shape), grow, (kernel >= jnp.max(kernel)).astype(kernel.dtype))
    return kept * kernel / jnp.sum(kept * kernel)
