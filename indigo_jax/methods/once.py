"""``--method once``: noise taken out by one call of a network that knows the level."""
import dataclasses

import jax.numpy as jnp

from indigo_jax import denoisers, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownOperator, KnownSettings, Problem


class Once(KnownOperator):
    """The prior's posterior mean ``E[x | x + sigma n]``: nothing has a smaller mean squared error."""

    name = "once"
    summary = "one call of a diffusion prior at the picture's noise level"
    when = "noise alone is to go"
    needs, cost = "nothing, or --sigma-255", "1"
    tasks = ("auto", "denoise")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        weights: str = flag("photo", "the denoiser, a diffusion prior; see: indigo weights list", metavar="NAME|PATH",
                            file="weights")
        strength: float = flag(1.0, "how much of the change is made; 0 gives the picture back", low=0, high=1,
                               metavar="N")

    def estimate(self, y):
        return jnp.maximum(restoration.flat_noise_level(y), 0.005)

    def restore(self, prior, problem):
        x = denoise_once(prior, problem)
        return self.found(problem, problem.y + self.settings.strength * (x - problem.y))

    def evaluations(self, solved):
        return 1


def denoise_once(prior: denoisers.Prior, problem: Problem):
    """One network evaluation at the level where ``(1 - a) / a = sigma^2``, ``[B, H, W, 3]``, not clipped."""
    wanted = 1 / (1 + problem.sigma**2)
    index = jnp.argmin(jnp.abs(prior.schedule.alpha_bar[None] - wanted[:, None]), axis=1)
    level = jnp.sqrt(prior.schedule.alpha_bar[index])[:, None, None, None]
    return prior.denoiser(level * problem.y, prior.schedule.timesteps[index]).x0
