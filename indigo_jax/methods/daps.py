"""``--method daps``: whole pictures drawn from what a level and the measurement tell, noised anew to the next one."""
import dataclasses

from indigo_jax import guidance, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Daps(Sampled):
    """DAPS (Zhang et al. 2024), its x0 clipped and its draws exact; see :func:`restoration.daps`."""

    name = "daps"
    summary = "a diffusion prior and a known operator: a draw from what may have been, no gradient of the network"
    when = "several draws are wanted that differ where the picture does not tell"
    cost = "--steps, 50"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(50, "of the sampler; each costs a network evaluation", low=1, high=10_000)
        prior_std: float = flag(0.5, "spread of the prior's pictures, in [-1, 1] units", low=1e-3, high=1e3,
                                metavar="N")

    def chain(self, prior, problem, num_steps):
        return restoration.daps(guidance.clip_x0()(prior.denoiser), levels_of(prior, num_steps, "log_snr"),
                                problem.operator, problem.y, problem.sigma, prior_std=self.settings.prior_std)
