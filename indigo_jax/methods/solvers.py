"""The setting ``--sampler``: what goes on with the estimates of a guided chain, where a method leaves that open."""
import dataclasses
import functools
from typing import Callable, ClassVar, NamedTuple

from indigo_jax import denoisers, samplers
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import Sampled, SampledSettings, levels_of


class Solver(NamedTuple):
    """A value of ``--sampler``.

    Attributes:
        make: ``make(eta) -> sampler``.
        spacing: of its levels, as for :func:`levels_of`; "": the method's own.
        calls: of the network at each level but the least, where it is one.
    """

    make: Callable[[float], samplers.Sampler]
    spacing: str = ""
    calls: int = 1

    def evaluations(self, num_levels: int) -> int:
        """Of the network, in a chain of so many levels."""
        return 1 + self.calls * (num_levels - 1)


SOLVERS = {
    "ddim": Solver(lambda eta: functools.partial(samplers.ddim, eta=eta)),
    "dpm-solver": Solver(lambda eta: functools.partial(samplers.dpm_solver, eta=eta), "log_snr"),
    "heun": Solver(lambda eta: samplers.heun, "asinh", calls=2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedSettings(SampledSettings):
    """What methods take whose guided estimates any sampler can go on with."""

    sampler: str = flag("ddim", "what goes on with each estimate; dpm-solver (DPM-Solver++ 2M) and heun are of second "
                                "order: 20 to 25 --steps draw what ddim draws in 100", choices=tuple(SOLVERS))
    eta: float | None = flag(None, "share of new noise in each step (default: 1 of ddim, 0 of dpm-solver; heun has "
                                   "none)", low=0, high=1, metavar="N")


class Guided(Sampled):
    """A sampled method whose kernel takes a ``sampler``; :meth:`moved` has it and its levels."""

    Settings = GuidedSettings
    spacing: ClassVar[str] = "log_snr"  # of ddim's levels
    usual_eta: ClassVar[float] = 1.0

    def load(self):
        super().load()
        if self.settings.sampler == "heun" and self.settings.eta:
            raise ValueError("sampler heun draws no noise of its own: leave eta out, or use ddim or dpm-solver")

    @property
    def solver(self) -> Solver:
        """That of the settings."""
        return SOLVERS[self.settings.sampler]

    def moved(self, prior: denoisers.Prior, num_steps: int):
        """``(schedule, sampler)`` of a chain of at most so many evaluations."""
        eta = self.settings.eta
        if eta is None:
            eta = self.usual_eta if self.settings.sampler == "ddim" else 0.0
        return levels_of(prior, self._levels(num_steps), self.solver.spacing or self.spacing), self.solver.make(eta)

    def at_most(self, num_steps):
        return self.solver.evaluations(super().at_most(self._levels(num_steps)))

    def _levels(self, num_steps):
        return max(1, (num_steps - 1) // self.solver.calls + 1)
