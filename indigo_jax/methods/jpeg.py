"""``--method jpeg``: a picture that was a JPEG file, restored among those that the file allows."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, restoration, samplers, tiles
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.once import Once, denoise_once

_PART, _SMALLEST = 512, 16  # sides of the part in which the trace is looked for
_SHARE = 0.6  # of half a step; see restoration.nearest_jpeg
_STRONG = 75.0  # mean step from which on the restorer helps: quality 38
_LEVEL = 1.3  # noise level that the denoiser is told, over the error of the rounding that is measured


class Jpeg(Once):
    """A denoiser at the level of what the rounding of coefficients has left, averaged with a network that has learned
    strong artefacts where they are; then each coefficient is moved to where the file's rounding allows it. The steps
    are found from the file or from the pixels. A picture that shows none goes through that network alone."""

    name = "jpeg"
    summary = "a denoiser at the level of the artefacts, held to what the file's rounding allows"
    when = "a picture was a JPEG file, of any quality; no harm is done to good ones"
    needs, cost = "nothing", "--copies, 4, and 1"
    tasks = ("jpeg",)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(Once.Settings):
        restorer: str = flag("indi-photo", "the network for strong artefacts; see: indigo weights list",
                             metavar="NAME|PATH", file="weights")

    def load(self):
        super().load()
        self.networks["restorer"] = base.open_restorer(self.settings.restorer, "jpeg")

    def __call__(self, picture, **how):
        if picture.jpeg_steps is None:
            return super().__call__(picture, **how)
        other = self.told()
        other.file_steps = picture.jpeg_steps
        return super(Jpeg, other).__call__(picture, **how)

    file_steps: tuple | None = None

    def _pieces(self, height, width):
        return None  # blocks do not begin where pieces do

    def trace(self, pixels) -> restoration.JpegTrace:
        """The trace of one picture ``[H, W, 3]``, by the table of its file where there is one that fits."""
        part = jnp.asarray(middle(pixels)[None], jnp.float32)
        if min(part.shape[1:3]) < _SMALLEST:
            return restoration.JpegTrace(jnp.zeros(1, bool), jnp.ones((1, 8, 8)), jnp.zeros((1, 2), jnp.int32))
        if self.file_steps is not None:
            steps = np.asarray(self.file_steps, np.float32).reshape(8, 8)
            found = _find(part, jnp.asarray(np.stack([steps, steps.T])))
            if found.found[0]:
                return found
        return _find(part, None)

    def given(self, pixels, fill):
        trace = self.trace(pixels)
        return {"sigma": jnp.float32(0 if self.settings.sigma_255 is None else self.settings.sigma_255 / 127.5),
                "trace": jax.tree.map(lambda leaf: leaf[0], trace)}

    def estimated(self, y):
        trace = restoration.find_jpeg(y)
        return {"trace": trace, "sigma": jnp.zeros(len(y))}

    def solve(self, params, y, keys, *, plan, given):
        trace = jax.tree.map(lambda leaf, ndim: jnp.broadcast_to(leaf, (len(y), *leaf.shape[leaf.ndim - ndim:])),
                             given["trace"], restoration.JpegTrace(0, 2, 1))
        sigma = jnp.broadcast_to(given["sigma"], y.shape[:1])
        sigma = jnp.where(sigma > 0, sigma, _LEVEL * restoration.jpeg_error(y, trace))
        module = self.networks["restorer"].module
        restorer = denoisers.of(tiles.by_plan(functools.partial(module.apply, params[1]), plan),
                                self.networks["restorer"].info)
        direct = samplers.sample(samplers.indi(restorer, 1, noise=restorer.noise), keys, y)[0]
        prior = base.prior(self.networks["prior"], params[0], plan)
        prior = prior._replace(denoiser=denoisers.mirrored(prior.denoiser, self._copies(y.shape[1:])))
        problem = self.problem(y, keys, plan, {"sigma": jnp.maximum(sigma, 1e-4)})
        weight = jnp.where(jnp.mean(trace.steps, axis=(1, 2)) > _STRONG, 0.5, 0.0)
        weight = jnp.where(trace.found, weight, 1.0)[:, None, None, None]
        mixed = weight * direct + (1 - weight) * denoise_once(prior, problem)
        x = restoration.nearest_jpeg(mixed, y, trace, share=_SHARE)
        return base.Solved(jnp.clip(y + self.settings.strength * (x - y), -1, 1))

    def evaluations(self, solved):
        return self._copies(solved.x.shape[1:]) + 1


def middle(pixels: np.ndarray) -> np.ndarray:
    """At most 512 x 512 pixels of a picture, from its middle: blocks begin where they do in the whole, and few sizes
    come of many."""
    cuts = []
    for side in pixels.shape[:2]:
        size = min(_PART, side // 32 * 32 or side)
        start = (side - size) // 16 * 8
        cuts.append(slice(start, start + size))
    return pixels[tuple(cuts)]


@jax.jit
def _find(part, candidates):
    return restoration.find_jpeg(part, candidates)
