"""``--method once``: noise taken out by a network that knows the level, called once on a picture and its mirror
images."""
import dataclasses

import jax.numpy as jnp

from indigo_jax import arrays, denoisers, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownOperator, KnownSettings, Problem

_LARGE = 4_000_000  # pixels of a canvas from which on one copy must do
_LEAST = 0.005  # noise level, in [-1, 1] units: the rounding of a file has 0.002
_TAKEN = 0.85  # of the noise level: what a denoiser takes out at the least


class Once(KnownOperator):
    """The prior's posterior mean ``E[x | x + sigma n]``: nothing has a smaller mean squared error."""

    name = "once"
    summary = "a diffusion prior called once, at the picture's noise level"
    when = "noise alone is to go"
    needs, cost = "nothing, or --sigma-255", "--copies, 4, and 1 for the level"
    tasks = ("auto", "denoise")

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
        if self.settings.sigma_255 is None:
            problem = problem._replace(sigma=explained(prior, problem))
        prior = prior._replace(denoiser=denoisers.mirrored(prior.denoiser, self._copies(problem.shape)))
        x = denoise_once(prior, problem)
        return self.found(problem, problem.y + self.settings.strength * (x - problem.y))

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
    """The noise level ``[B]``, less where the estimate was that of texture.

    Told the right level, the network takes out almost that much. Where it takes out less than 0.85 of it, the flattest
    blocks of the picture were not flat.
    """
    taken = arrays.rms(problem.y - denoise_once(prior, problem))
    return jnp.where(taken < _TAKEN * problem.sigma, jnp.maximum(taken, _LEAST), problem.sigma)
