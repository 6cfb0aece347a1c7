"""``--method reddiff``: a picture that is optimised, with the network's error as its regulariser."""
import dataclasses

import jax.numpy as jnp

from indigo_jax import restoration
from indigo_jax.methods.estimates import Estimated, squared_norm
from indigo_jax.methods.flags import flag
from indigo_jax.methods.known import KnownSettings, levels_of

_SPREAD = 0.5  # of pictures in [-1, 1]


class Reddiff(Estimated):
    """RED-diff (Mardani et al. 2023) with Adam, its steps falling to nothing; see :func:`restoration.reddiff`.

    The weight is that of Bayes' rule for pictures of spread 1/2, ``(sigma / (|A| / 2))^2``, the operator scaled to
    ``|A| = 1``: the paper's 0.25 is for its own scale of the data term.
    """

    name = "reddiff"
    summary = "a diffusion prior and a known operator: one picture by optimisation, no gradient of the network"
    when = "the opponent of the papers"
    cost = "--steps, 100"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(KnownSettings):
        steps: int = flag(100, "of the optimiser; each costs a network evaluation", low=1, high=10_000)
        rate: float = flag(0.1, "first step of Adam, in [-1, 1] units", low=1e-6, high=1, metavar="N")
        prior_weight: float | None = flag(None, "of the prior against the measurement (default: by the noise level)",
                                          low=0, high=1e6, metavar="N")

    def chain(self, prior, problem, num_steps):
        import optax  # takes a moment, and other methods do without it
        size = squared_norm(problem)[:, None, None, None]
        root = jnp.sqrt(size)
        weight = self.settings.prior_weight
        if weight is None:
            weight = (jnp.maximum(problem.sigma, 1e-3) / _SPREAD)**2 / size.reshape(-1)
        levels = levels_of(prior, num_steps)
        rates = optax.cosine_decay_schedule(self.settings.rate, levels.timesteps.shape[0])
        return restoration.reddiff(prior.denoiser, levels, lambda x: problem.operator(x) / root, problem.y / root,
                                   optax.adam(rates, b1=0.9, b2=0.99), weight=weight)
