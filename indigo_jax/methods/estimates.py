"""What the methods share that improve on a first estimate, and give one picture instead of a draw."""
import math

import jax
import jax.numpy as jnp

from indigo_jax import arrays, denoisers, operators, samplers
from indigo_jax.methods.known import KnownOperator, Problem
from indigo_jax.operators import base as linear
from indigo_jax.typing import Array, Kernel

_SPREAD = 0.5  # of pictures in [-1, 1]


class Estimated(KnownOperator):
    """From Wiener's estimate onwards; a subclass has :meth:`chain` and the setting ``steps``."""

    def chain(self, prior: denoisers.Prior, problem: Problem, num_steps: int) -> Kernel:
        """A kernel that starts at an estimate and takes so many steps, or as many as the prior has levels."""
        raise NotImplementedError

    def restore(self, prior, problem):
        kernel = self.chain(prior, problem, self.settings.steps)
        return self.found(problem, samplers.sample(kernel, problem.keys, first_estimate(problem))[0])

    def evaluations(self, solved):
        return self.at_most(self.settings.steps)


def first_estimate(problem: Problem) -> Array:
    """The mean of white pictures of spread 1/2 given the measurement: ``[B, H, W, C]``."""
    nothing = jnp.zeros((problem.y.shape[0], *problem.shape))
    return operators.proximal(problem.operator, problem.y, nothing, (jnp.maximum(problem.sigma, 1e-3) / _SPREAD)**2)


def squared_norm(problem: Problem, num_iterations: int = 8) -> Array:
    """``|A|^2`` of each image ``[B]``, by power iterations from a bright picture: from below, within some percent."""
    wave = jnp.cos(jnp.arange(math.prod(problem.shape), dtype=jnp.float32)).reshape(problem.shape)
    probe = jnp.broadcast_to(1 + 0.1 * wave, (problem.y.shape[0], *problem.shape))
    adjoint = linear.adjoint_of(problem.operator, probe)

    def larger(_, v):
        v = adjoint(problem.operator(v))
        return v / arrays.per_image(jnp.maximum(arrays.rms(v), 1e-12), v)

    v = jax.lax.fori_loop(0, num_iterations, larger, probe)
    return arrays.rms(adjoint(problem.operator(v))) / arrays.rms(v)
