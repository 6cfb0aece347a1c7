"""``--method ddrm``: a diffusion in the operator's own basis, few calls and no gradient."""
import dataclasses

from indigo_jax import guidance, restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Ddrm(Sampled):
    """DDRM (Kawar et al. 2022), its x0 clipped; see :func:`restoration.ddrm`."""

    name = "ddrm"
    summary = "a diffusion prior and an operator whose singular values are known: few calls, no gradient"
    when = "a sharp picture is wanted in few calls; enlargement, holes and noise only"
    cost = "--steps, 20"
    needs = "--mask or --scale"
    tasks = ("sr", "inpaint", "denoise")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(20, "of the sampler; each costs a network evaluation", low=1, high=10_000)
        eta: float = flag(0.85, "share of new noise in each step", low=0, high=1)
        belief: float = flag(1.0, "how much a measured coefficient is believed where its noise is the smaller, the "
                                  "paper's eta_b", low=0, high=1, metavar="N")

    def chain(self, prior, problem, num_steps):
        return restoration.ddrm(guidance.clip_x0()(prior.denoiser), levels_of(prior, num_steps, "log_snr"),
                                problem.operator, problem.y, problem.sigma, eta=self.settings.eta,
                                eta_b=self.settings.belief, svd=restoration.isometry(problem.operator, problem.noise))
