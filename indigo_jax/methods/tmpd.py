"""``--method tmpd``: a diffusion guided with the variance that the network itself tells of each pixel."""
import dataclasses

from indigo_jax import restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.solvers import Guided, GuidedSettings


class Tmpd(Guided):
    """TMPD (Boys et al. 2023); see :func:`restoration.tmpd`."""

    name = "tmpd"
    summary = "a diffusion prior and a known operator: a draw from what may have been, a variance for each pixel"
    when = "as pigdm, nothing assumed of the spread of pictures; differentiates the network twice"
    cost = "--steps, 50, each about five times as long"
    effort = 5.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(GuidedSettings):
        steps: int = flag(50, "of the sampler; each costs a network evaluation and two gradients", low=1, high=10_000)

    def chain(self, prior, problem, num_steps):
        levels, sampler = self.moved(prior, num_steps)
        return restoration.tmpd(prior.denoiser, levels, problem.operator, problem.y, problem.sigma, clip=True,
                                sampler=sampler)
