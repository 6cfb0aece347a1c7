"""``--method ddnm``: a diffusion whose every estimate agrees with a measurement without noise."""
import dataclasses

from indigo_jax import guidance, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Ddnm(Sampled):
    """DDNM (Wang, Yu & Zhang 2023), its x0 clipped; see :func:`restoration.ddnm`."""

    name = "ddnm"
    summary = "a diffusion prior and a known operator, all of the picture believed"
    when = "the picture has no noise and what is there must stay as it is"
    cost = "--steps, 30"
    tasks = ("sr", "inpaint", "deblur")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(30, "of the sampler; each costs a network evaluation", low=1, high=10_000)
        eta: float = flag(0.85, "share of new noise in each step, of DDIM", low=0, high=1)

    def chain(self, prior, problem, num_steps):
        return restoration.ddnm(guidance.clip_x0()(prior.denoiser), levels_of(prior, num_steps), problem.operator,
                                problem.y, eta=self.settings.eta)
