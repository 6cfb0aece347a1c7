"""``--method pnp-flow``: a step towards the measurement, new noise, and a denoising, in turn."""
import dataclasses

from indigo_jax import restoration
from indigo_jax.methods.estimates import Estimated, squared_norm
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownSettings, levels_of


class PnpFlow(Estimated):
    """PnP-Flow (Martin et al. 2025), its steps in units of ``1 / |A|^2``; see :func:`restoration.pnp_flow`."""

    name = "pnp-flow"
    summary = "a flow or diffusion prior and a known operator: one picture by denoising over and over"
    when = "the opponent of the papers; a smooth picture without gradient of the network"
    cost = "--steps, 50, times --draws"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        steps: int = flag(50, "times of the flow; each costs --draws network evaluations", low=1, high=10_000)
        draws: int = flag(1, "noises of each step, of which the mean is taken; 5 in the paper", low=1, high=1000)
        rate: float = flag(1.0, "the longest step towards the measurement", low=0, high=2, metavar="N")
        power: float = flag(0.5, "of the time, by which steps grow shorter, the paper's alpha", low=0, high=10,
                            metavar="N")

    def chain(self, prior, problem, num_steps):
        settings = self.settings
        return restoration.pnp_flow(prior.denoiser, levels_of(prior, num_steps), problem.operator, problem.y,
                                    rate=settings.rate / squared_norm(problem), power=settings.power,
                                    num_draws=settings.draws)

    def evaluations(self, solved):
        return super().evaluations(solved) * self.settings.draws
