"""The data term of a linear operator, solved: proximal steps and back-projection by conjugate gradients."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax.operators import base
from indigo_jax.typing import Array


def proximal(operator: Callable[[Array], Array], y: Array, x0: Array, rho, *, num_iterations: int = 20) -> Array:
    """``argmin_x |A x - y|^2 + rho |x - x0|^2`` by conjugate gradients on ``(A'A + rho) x = A'y + rho x0``, from x0.

    Each image has its own step lengths, so that images do not couple. Few iterations regularise by themselves.

    Args:
        operator: linear; any function of images will do, as ``lambda x: A(x, params)``.
        y: measurements ``[B, ...]``.
        x0: pictures ``[B, H, W, C]``.
        rho: ``sigma^2 / v`` for noise of standard deviation sigma in y and a variance v about x0; a number or one per
            image. 0 gives the ``x`` nearest to x0 among those nearest to y: ``x0 + A^+ (y - A x0)``.
        num_iterations: of conjugate gradients.

    Returns:
        ``[B, H, W, C]``.

    Errors:
        ValueError for negative rho, or y of another shape than ``A x0``.

    >>> from indigo_jax.operators import inpaint
    >>> A = inpaint(jnp.array([[1.0, 0.0]]))
    >>> proximal(A, jnp.ones((1, 1, 2, 1)), jnp.zeros((1, 1, 2, 1)), 1.0).ravel().tolist()
    [0.5, 0.0]
    """
    rho = base.per_image(base.check_number(rho, "rho", 0.0), x0, "rho")
    seen = jax.eval_shape(operator, x0).shape
    if seen != y.shape:
        raise ValueError(f"proximal: pictures of shape {x0.shape} give measurements {seen}, got {y.shape}")
    transpose = jax.linear_transpose(operator, x0)

    def dot(a, b):
        return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)

    def ratio(a, b):  # 0 where the solution is already reached
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)

    def body(_, carry):
        x, r, p, rr = carry
        q = transpose(operator(p))[0] + rho * p
        alpha = ratio(rr, dot(p, q))
        x, r = x + alpha * p, r - alpha * q
        new = dot(r, r)
        return x, r, r + ratio(new, rr) * p, new

    r = transpose(y - operator(x0))[0]  # A'y + rho x0 - (A'A + rho) x0
    return jax.lax.fori_loop(0, num_iterations, body, (x0, r, r, dot(r, r)))[0]
