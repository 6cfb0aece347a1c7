"""``--method dps``: ancestral sampling, pulled towards the measurement through the network's gradient."""
import dataclasses

from indigo_jax import guidance, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Dps(Sampled):
    """DPS (Chung et al. 2023), its x0 clipped; see :func:`restoration.dps`."""

    name = "dps"
    summary = "a diffusion prior and a known operator; differentiates the network"
    when = "the opponent of the papers; slow"
    cost = "--steps, 100, each three to five times as long"
    effort = 4.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(100, "of the sampler; each costs a network evaluation and its gradient", low=1, high=10_000)
        guidance: float = flag(1.0, "length of a step towards the measurement, the paper's zeta'", low=0, high=1e6,
                               metavar="N")

    def chain(self, prior, problem, num_steps):
        denoiser = guidance.clip_x0(schedule=prior.schedule)(prior.denoiser)
        return restoration.dps(denoiser, levels_of(prior, num_steps), problem.operator, problem.y,
                               self.settings.guidance)
