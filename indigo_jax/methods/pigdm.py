"""``--method pigdm``: a diffusion guided by the pseudo-inverse, through the network's gradient."""
import dataclasses

from indigo_jax import restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.solvers import Guided, GuidedSettings


class Pigdm(Guided):
    """PiGDM (Song et al. 2023); see :func:`restoration.pigdm`."""

    name = "pigdm"
    summary = "a diffusion prior and a known operator: a draw from what may have been, one variance for all pixels"
    when = "several draws are wanted that differ where the picture does not tell; differentiates the network"
    cost = "--steps, 50, each about three times as long"
    effort = 3.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(GuidedSettings):
        steps: int = flag(50, "of the sampler; each costs a network evaluation and its gradient", low=1, high=10_000)
        prior_std: float = flag(0.5, "spread of the prior's pictures, in [-1, 1] units; the paper has 1", low=1e-3,
                                high=1e3, metavar="N")

    def chain(self, prior, problem, num_steps):
        levels, sampler = self.moved(prior, num_steps)
        return restoration.pigdm(prior.denoiser, levels, problem.operator, problem.y, problem.sigma,
                                 prior_std=self.settings.prior_std, clip=True, sampler=sampler)
