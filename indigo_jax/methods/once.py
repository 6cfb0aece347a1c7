"""``--method once``: noise taken out by a network that knows the level, called once on a picture and its mirror
images."""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from indigo_jax import arrays, denoisers, restoration
from indigo_jax.methods import base, pieces
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownOperator, KnownSettings, Problem

_LARGE = 4_000_000  # pixels of a canvas from which on one copy must do
_LEAST = 0.005  # noise level, in [-1, 1] units: the rounding of a file has 0.002
_NOTHING = 1 / 127.5  # noise level below which a picture whose level was estimated stays as it is
_DITHER = 3 / 127.5  # noise that is added to see whether there was less
_TAKEN = 0.85  # of the noise level: what a denoiser takes out at the least
_ALIKE = 0.87  # of the noise level: what patches show of white noise at the least
_COLOURED = 0.125  # the same where flat blocks show texture; of noise that is equal in all channels patches show less


class Once(KnownOperator):
    """The prior's posterior mean ``E[x | x + sigma n]``: nothing has a smaller mean squared error."""

    name = "once"
    summary = "a diffusion prior called once, at the picture's noise level"
    when = "noise alone is to go"
    needs, cost = "nothing, or --sigma-255", "--copies, 4, and 1 for the level"
    tasks: ClassVar[tuple[str, ...]] = ("auto", "denoise")
    one_answer = True

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        weights: str = flag("photo", "the denoiser, a diffusion prior; see: indigo weights list", metavar="NAME|PATH",
                            file="weights")
        strength: float = flag(1.0, "how much of the change is made; 0 gives the picture back", low=0, high=1,
                               metavar="N")
        copies: int | None = flag(None, "mirror images of the picture whose results are averaged, 1, 2 or 4 (default: "
                                        "4, above 4 megapixels 1)", low=1, high=4)

    def estimate(self, y):
        return jnp.maximum(restoration.flat_noise_level(y), _LEAST)

    def restore(self, prior, problem):
        prior = prior._replace(denoiser=jax.jit(prior.denoiser))  # traced once for all calls
        if self.settings.sigma_255 is None:
            problem = problem._replace(sigma=explained(prior, problem))
        prior = prior._replace(denoiser=denoisers.mirrored(prior.denoiser, self._copies(problem.shape)))
        x = denoise_once(prior, problem)
        if self.settings.sigma_255 is None:
            x = jnp.where((problem.sigma < _NOTHING)[:, None, None, None], problem.y, x)
        return self.found(problem, problem.y + self.settings.strength * (x - problem.y))

    def report(self, solved, plan):
        report = super().report(solved, plan)
        if self.settings.sigma_255 is None and report.sigma is not None and report.sigma < _NOTHING:
            return report._replace(note="no noise was found, so it stays as it is")
        return report

    def load(self):
        super().load()
        self._levelled = {}

    def _told_the_level(self):
        """The same with one copy, whose programs, compiled once, are given the level."""
        key = self.settings, self.largest
        if key not in self._levelled:
            self._levelled[key] = self.told(sigma_255=1.0, copies=self.settings.copies or 1)
        return self._levelled[key]

    def _pieces(self, height, width):
        """The layout of a picture that is done piece by piece; None of any other."""
        reach = getattr(self.networks["prior"].module, "reach", None)
        if reach is None or height * width < pieces.LARGE:
            return None
        return pieces.layout(height, width, reach=reach, tile=self.largest)

    def restored(self, pixels, keys, device=None, progress=None):
        """Large pictures piece by piece; their noise level is that of sixteen parts of them."""
        plan = self._pieces(*pixels.shape[:2])
        if plan is None:
            return super().restored(pixels, keys, device, progress)
        sigma, evaluations, method = self.settings.sigma_255, 0, self._told_the_level()
        if sigma is None:
            _, found = super().restored(pieces.sample(pixels), keys, device, progress)
            if found.sigma < _NOTHING:
                return pixels, found
            sigma, evaluations = 127.5 * found.sigma, found.evaluations

        def run(piece):
            height, width = piece.shape[:2]
            tile = method.plan(height, width)
            room = [(0, side - length) for side, length in zip(tile.canvas, (height, width))]
            padded = jnp.pad(piece, [*room, (0, 0)], self.border)[None]
            given = {"sigma": jnp.float32(sigma / 127.5)}
            return method.run(padded, keys, tile, given, device, progress).x[0, :height, :width]

        restored, changed = pieces.restored(run, pixels, plan)
        evaluations += plan.count * method.settings.copies
        return restored, base.Report(evaluations, plan, changed, sigma / 127.5)

    def expected(self, picture):
        plan = self._pieces(*picture.pixels.shape[:2])
        if plan is None:
            return super().expected(picture)
        found = 0 if self.settings.sigma_255 is not None else super().expected(
            picture._replace(pixels=pieces.sample(picture.pixels)))[0]
        return found + plan.count * (self.settings.copies or 1), plan

    def evaluations(self, solved):
        return self._copies(solved.x.shape[1:]) + (self.settings.sigma_255 is None)

    def _copies(self, shape):
        return self.settings.copies or (4 if shape[0] * shape[1] <= _LARGE else 1)


def denoise_once(prior: denoisers.Prior, problem: Problem):
    """One network evaluation at the level where ``(1 - a) / a = sigma^2``, ``[B, H, W, 3]``, not clipped."""
    wanted = 1 / (1 + problem.sigma**2)
    index = jnp.argmin(jnp.abs(prior.schedule.alpha_bar[None] - wanted[:, None]), axis=1)
    level = jnp.sqrt(prior.schedule.alpha_bar[index])[:, None, None, None]
    return prior.denoiser(level * problem.y, prior.schedule.timesteps[index]).x0


def explained(prior, problem):
    """The noise level ``[B]`` of pictures of which the flattest blocks show ``problem.sigma``.

    Told the right level, the network takes out almost that much. Where it takes out less than 0.85 of it, the flattest
    blocks were not flat, and it is what was taken out. Patches know it better (:func:`restoration.patch_noise_level`)
    if their noise is white, and either the blocks were not flat or both say nearly the same: where flat blocks show
    more than patches of all channels do, the noise may be equal in all channels.

    A picture without noise has nothing that could be called white. So patches are also asked with noise of 3 of 255
    added: where they show hardly more than that, the level is what is more, but no less than :func:`_grain_level`,
    since grain is equal in all channels.
    """
    taken = arrays.rms(problem.y - denoise_once(prior, problem))
    textured = taken < _TAKEN * problem.sigma
    level = jnp.where(textured, taken, problem.sigma)
    patches, white = restoration.patch_noise_level(problem.y)
    agree = patches > jnp.where(textured, _COLOURED, _ALIKE) * problem.sigma
    level = jnp.where(white & agree, patches, level)
    added = _DITHER * jax.random.normal(jax.random.key(0), problem.y.shape[1:])
    patches, white = restoration.patch_noise_level(problem.y + added)
    own = jnp.sqrt(jnp.maximum(patches**2 - _DITHER**2, 0))
    bound = jnp.maximum(own, _grain_level(jnp.mean(problem.y, axis=-1)))
    level = jnp.where(white & (own < _DITHER), jnp.minimum(bound, level), level)
    return jnp.maximum(level, _LEAST)


def _grain_level(y):
    """The noise level ``[B]`` of grey pictures ``[B, H, W]`` by Haar's diagonal details of the two finest scales.

    Of noise both have the same size (its median tells it: Donoho and Johnstone 1994), of a photograph, whose spectrum
    falls as 1 / f, the coarser ones twice that: what solves both is the noise.
    """
    sizes = []
    for _ in range(2):
        rows, columns = (side // 2 * 2 for side in y.shape[1:])
        a, b, c, d = (y[:, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1))
        sizes.append(jnp.median(jnp.abs(a - b - c + d) / 2, axis=(1, 2)) / 0.6745)
        y = (a + b + c + d) / 2
    fine, coarse = sizes
    return jnp.sqrt(jnp.maximum(4 * fine**2 - coarse**2, 0) / 3)
