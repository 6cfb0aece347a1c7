"""A known operator in the place of INDIGO's invertible network: what is known need not be learned."""
from indigo_jax import operators
from indigo_jax.typing import Array, InvertibleNetwork, Operator


def operator_inn(operator: Operator, *, num_iterations: int = 20) -> InvertibleNetwork:
    """An operator as the two functions that :func:`indigo` takes; for a linear one each undoes the other:

        ``g(x) = (A x, x),   g^-1(c, d) = d + A^+ (c - A d)``, of the pictures with ``A x = c`` the one nearest to d.

    INDIGO's ``|y - c|`` is then the misfit of DPS, and ``|v - u|`` how far DDNM's projection moves the estimate.

    Args:
        operator: ``A(x) -> y`` of pictures ``[B, H, W, C]`` in [-1, 1], differentiable; measurements may be complex.
        num_iterations: of conjugate gradients in the second function, see :func:`operators.proximal`.

    Returns:
        Functions of pictures in [0, 1], as a network has them: what is measured is ``A(2 x - 1) / 2 + 1/2``. There are
        no parameters and no condition.

    Errors:
        ValueError, from the second function, for an operator that is not linear.

    >>> import jax.numpy as jnp
    >>> inn = operator_inn(operators.average_pool(2))
    >>> coarse, details = inn.forward(None, jnp.ones((1, 4, 4, 3)), None)
    >>> coarse.shape, inn.inverse(None, 0 * coarse, details, None).shape
    ((1, 2, 2, 3), (1, 4, 4, 3))
    """
    def forward(params, x: Array, cond=None):
        del params, cond
        return operator(2 * x - 1) / 2 + 0.5, x

    def inverse(params, coarse: Array, details: Array, cond=None) -> Array:
        del params, cond
        if not getattr(operator, "linear", True):
            raise ValueError(f"{type(operator).__name__} is not linear, so nothing undoes it: leave that term out, "
                             "weights=(w_1, 0); or take restoration.dps")
        x = operators.proximal(operator, 2 * coarse - 1, 2 * details - 1, 0.0, num_iterations=num_iterations)
        return x / 2 + 0.5

    return InvertibleNetwork(forward, inverse)
