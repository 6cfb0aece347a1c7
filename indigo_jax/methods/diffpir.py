"""``--method diffpir``: half-quadratic splitting along a diffusion, for a known linear operator."""
import dataclasses

from indigo_jax import restoration
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Problem, Sampled, SampledSettings, levels_of


class Diffpir(Sampled):
    """DiffPIR (Zhu et al. 2023) from pure noise; see :func:`restoration.diffpir`."""

    name = "diffpir"
    summary = "a diffusion prior and a known operator: one sharp sample"
    when = "the damage is known and a sharp picture of what the prior has learned is wanted"
    cost = "--steps, 50"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(SampledSettings):
        steps: int = flag(50, "of the sampler; each costs a network evaluation (ct: twice as many)", low=1, high=10_000)
        zeta: float | None = flag(None, "share of new noise in each step (default: 0.7225; ct: 1)", low=0, high=1)

    def chain(self, prior, problem, num_steps):
        return chain(prior, problem, num_steps, self._zeta)

    @property
    def num_steps(self):
        return self.settings.steps * (2 if self.task == "ct" else 1)

    @property
    def _zeta(self):
        zeta = self.settings.zeta
        return (1.0 if self.task == "ct" else 0.7225) if zeta is None else zeta


def chain(prior, problem: Problem, num_steps: int, zeta: float):
    """DiffPIR's kernel for a problem: ``num_steps`` evaluations."""
    return restoration.diffpir(prior.denoiser, levels_of(prior, num_steps), problem.operator, problem.y, problem.sigma,
                               zeta=zeta)
