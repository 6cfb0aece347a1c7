"""``--method tmpd``: a diffusion guided with the variance that the network itself tells of each pixel."""
import dataclasses

from indigo_jax import restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Tmpd(Sampled):
    """TMPD (Boys et al. 2023); see :func:`restoration.tmpd`."""

    name = "tmpd"
    summary = "a diffusion prior and a known operator: a draw from what may have been, a variance for each pixel"
    when = "as pigdm, nothing assumed of the spread of pictures; differentiates the network twice"
    cost = "--steps, 50, each about five times as long"
    effort = 5.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(50, "of the sampler; each costs a network evaluation and two gradients", low=1, high=10_000)
        eta: float = flag(1.0, "share of new noise in each step, of DDIM", low=0, high=1)

    def chain(self, prior, problem, num_steps):
        return restoration.tmpd(prior.denoiser, levels_of(prior, num_steps, "log_snr"), problem.operator, problem.y,
                                problem.sigma, eta=self.settings.eta, clip=True)
