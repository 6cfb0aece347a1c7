"""``--method ddnm``: a diffusion whose every estimate agrees with a measurement without noise."""
import dataclasses

from indigo_jax import guidance, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.solvers import Guided, GuidedSettings

_ROUNDED = 0.004  # what rounding to 8 bits leaves as noise, and as much again


class Ddnm(Guided):
    """DDNM (Wang, Yu & Zhang 2023), its x0 clipped; see :func:`restoration.ddnm`."""

    name = "ddnm"
    summary = "a diffusion prior and a known operator, all of the picture believed"
    when = "the picture has no noise and what is there must stay as it is"
    cost = "--steps, 30"
    tasks = ("sr", "inpaint", "deblur")
    spacing = "linspace"
    usual_eta = 0.85

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(GuidedSettings):
        steps: int = flag(30, "of the sampler; each costs a network evaluation", low=1, high=10_000)
        eta: float | None = flag(None, "share of new noise in each step (default: 0.85 of ddim, 0 of dpm-solver; heun "
                                       "has none)", low=0, high=1, metavar="N")

    def report(self, solved, plan):
        report = super().report(solved, plan)
        if self.task != "deblur" or report.sigma <= _ROUNDED:
            return report
        return report._replace(note=f"ddnm takes y for exact, and undoing a blur multiplies its noise (about "
                                    f"{report.sigma * 127.5:.1f} of 255): use --method hqs")

    def chain(self, prior, problem, num_steps):
        levels, sampler = self.moved(prior, num_steps)
        return restoration.ddnm(guidance.clip_x0()(prior.denoiser), levels, problem.operator, problem.y,
                                sampler=sampler)
