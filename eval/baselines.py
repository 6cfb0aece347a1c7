"""Restorations without a network: the measurement as a picture, the Wiener filter, total variation.

Each is ``baseline(task, problem) -> x`` of a problem with a known, linear operator; x is not clipped.
"""
from typing import Callable

import jax
import jax.numpy as jnp

from eval import problems
from indigo_jax import operators
from indigo_jax.methods.known import Problem
from indigo_jax.typing import Array

_SMOOTH, _LAPLACE = 0.2, 0.1  # spread of a picture's differences: standard deviation; scale of a Laplacian


def first(task: str, problem: Problem) -> Array:
    """The measurement as a picture: enlarged bicubically, or by filtered back-projection."""
    if task == "ct":
        sums = problems.ray_sums(problem.operator, problem.y, problem.shape[0])
        densities = operators.filtered_backprojection(sums, operators.sparse_view_angles(problem.y.shape[2]))
        return jnp.repeat(2 * densities - 1, 3, axis=-1)
    return operators.upsample(problems.FACTOR)(problem.y) if task == "sr" else problem.y


def wiener(task: str, problem: Problem) -> Array:
    """``argmin |A x - y|^2 / sigma^2 + |D x|^2 / s^2``, D the differences: the Wiener filter for pictures with Gaussian
    differences, with exact borders."""
    return _smooth(problem, first(task, problem), problem.sigma[:, None, None, None] / _SMOOTH)


def total_variation(task: str, problem: Problem) -> Array:
    """``argmin |A x - y|^2 / (2 sigma^2) + sum |D x| / b`` by nine rounds of reweighted least squares."""
    sigma = problem.sigma[:, None, None, None]

    def reweighted(_, x):
        length = jnp.sqrt(jnp.sum(_differences(x)**2, axis=0))
        return _smooth(problem, x, sigma / jnp.sqrt(_LAPLACE * (length + 0.01)))

    return jax.lax.fori_loop(0, 9, reweighted, first(task, problem))


BASELINES: dict[str, Callable] = {"input": first, "wiener": wiener, "tv": total_variation}


def _smooth(problem, x, weight):
    """``argmin |A x - y|^2 + |weight D x|^2`` by conjugate gradients from x."""
    def rows(*parts):
        return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)

    def seen(x):
        return rows(problem.operator(x), *(weight * _differences(x)))

    nothing = jnp.zeros_like(x)
    return operators.proximal(seen, rows(problem.y, nothing, nothing), x, 0.0, num_iterations=50)


def _differences(x):
    """Differences downwards and to the right, 0 at the border: ``[2, B, H, W, C]``."""
    return jnp.stack([jnp.diff(x, axis=1, append=x[:, -1:]), jnp.diff(x, axis=2, append=x[:, :, -1:])])
