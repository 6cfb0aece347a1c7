"""Small functions of batches of arrays that every layer needs: numbers per image, norms, straight-through steps."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax.typing import Array


def per_image(value, x: Array, name: str = "value") -> Array:
    """A number or one number per image, shaped to multiply ``x``.

    Args:
        value: a number or ``[B]``.
        x: ``[B, ...]``, of any rank; the result has its dtype.
        name: what an error calls the value.

    Errors:
        ValueError for another shape.

    >>> per_image(jnp.ones(2), jnp.ones((2, 8, 8, 3))).shape
    (2, 1, 1, 1)
    """
    value = jnp.asarray(value, x.dtype)
    if value.ndim == 0:
        return value
    if value.shape != x.shape[:1]:
        raise ValueError(f"{name} must be a number or one per image [{x.shape[0]}], got shape {value.shape}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def misfit(seen: Array, y: Array) -> Array:
    """``A x - y``, of one shape: other shapes would be stretched over one another without a word.

    Errors:
        ValueError for measurements of another shape than the operator makes.

    >>> misfit(jnp.ones((1, 2)), jnp.ones((1, 2))).tolist()
    [[0.0, 0.0]]
    """
    if jnp.shape(seen) != jnp.shape(y):
        raise ValueError(f"the operator makes measurements of shape {jnp.shape(seen)} of these pictures, and y has "
                         f"{jnp.shape(y)}: start from pictures of another size, or give another operator")
    return seen - y


def square(x: Array) -> Array:
    """``|x|^2``, real, also of complex values; its gradient is finite everywhere.

    >>> square(jnp.array([3.0 + 4.0j])).tolist()
    [25.0]
    """
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def norm(x: Array) -> Array:
    """``sqrt(sum |x|^2 + 1e-12)`` of each image, ``[B, ...] -> [B]``, whose gradient at 0 is 0.

    >>> norm(2 * jnp.ones((1, 2, 2, 1))).tolist()
    [4.0]
    """
    return jnp.sqrt(jnp.sum(square(x), axis=tuple(range(1, x.ndim))) + 1e-12)


def mean_square(x: Array) -> Array:
    """The mean of ``|x|^2`` over each image, ``[B, ...] -> [B]``."""
    return jnp.mean(square(x), axis=tuple(range(1, x.ndim)))


def rms(x: Array) -> Array:
    """Root mean square of each image, ``[B, ...] -> [B]``; its gradient at 0 is not finite.

    >>> rms(2 * jnp.ones((1, 2, 2, 1))).tolist()
    [2.0]
    """
    return jnp.sqrt(mean_square(x))


def split_as(tree, x: Array):
    """The arrays ``[B, ...]`` of a tree, split over the devices as the images ``x`` ``[B, ...]`` are.

    On meshes of explicit axes (``jax.sharding.AxisType.Explicit``), where new arrays are whole; elsewhere nothing
    changes.
    """
    axis = jax.typeof(x).sharding.spec[0]
    if axis is None:
        return tree

    def split(leaf):
        return jax.sharding.reshard(leaf, jax.sharding.PartitionSpec(axis)) if leaf.ndim else leaf

    return jax.tree.map(split, tree)


def straight_through(function: Callable[[Array], Array], x: Array) -> Array:
    """``function(x)`` exactly, with the gradient of the identity.

    >>> float(jax.grad(lambda x: straight_through(jnp.round, x))(0.3))
    1.0
    """
    return jax.lax.stop_gradient(function(x)) + (x - jax.lax.stop_gradient(x))


def whole(number, name: str) -> int:
    """A whole number of at least 1; ValueError, with its name, for another."""
    if number != int(number) or number < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; got {number}")
    return int(number)
