"""The data term of a linear operator, solved: proximal steps and back-projection by conjugate gradients."""
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax.operators import base
from indigo_jax.typing import Array

_ARRIVED = 1e-12  # of the squared residual at the start: what float32 can resolve
_NOTHING = 1e-30  # a squared residual that is 0 for every picture


def proximal(operator: Callable[[Array], Array], y: Array, x0: Array, rho, *, num_iterations: int = 20) -> Array:
    """``argmin_x |A x - y|^2 + rho |x - x0|^2`` by conjugate gradients on ``(A*A + rho) x = A*y + rho x0``, from x0.

    Each image has its own step lengths, so that images do not couple, and stays as it is once its squared residual is
    1e-12 of that at the start: allowing more iterations than are needed does no harm. Few of them regularise by
    themselves. Differentiable in y, x0 and rho through the iterations, so exactly only where these have converged; not
    where x0 solves the problem already (the derivative by y then is 0, as no iteration is made).

    Args:
        operator: linear; any function of images will do, as ``lambda x: A(x, params)``. Its own ``adjoint`` is used if
            it has one, else it must be differentiable (:func:`operators.linear` makes such a function of any).
        y: measurements ``[B, ...]``, real or complex.
        x0: pictures ``[B, H, W, C]``. If they are real, so is the solution, whatever y is.
        rho: ``sigma^2 / v`` for noise of standard deviation sigma in y and a variance v about x0; a number or one per
            image. 0 gives the ``x`` nearest to x0 among those nearest to y: ``x0 + A^+ (y - A x0)``.
        num_iterations: of conjugate gradients, at most.

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
    correct = operator.closed_form(rho) if hasattr(operator, "closed_form") else None
    if correct is not None:
        found = correct(y - operator(x0))
        return x0 + (found if jnp.iscomplexobj(x0) else jnp.real(found))
    adjoint = base.adjoint_of(operator, x0)

    def dot(a, b):
        product = a * b if not jnp.iscomplexobj(a) else jnp.real(jnp.conj(a) * b)
        return jnp.sum(product, axis=tuple(range(1, a.ndim)), keepdims=True)

    def body(_, carry):
        x, r, p, rr = carry
        q = adjoint(operator(p)) + rho.astype(p.dtype) * p
        pq = dot(p, q)
        going = (rr > enough) & (pq > 0)
        # the inner where keeps the derivative of what is not used finite
        alpha = jnp.where(going, rr / jnp.where(going, pq, 1.0), 0.0)
        x, r = x + alpha.astype(x.dtype) * p, r - alpha.astype(r.dtype) * q
        new = dot(r, r)
        beta = jnp.where(going, new / jnp.where(going, rr, 1.0), 0.0)
        return x, r, r + beta.astype(r.dtype) * p, new

    r = adjoint(y - operator(x0))  # A*y + rho x0 - (A*A + rho) x0
    rr = dot(r, r)
    enough = jax.lax.stop_gradient(jnp.maximum(_ARRIVED * rr, _NOTHING))
    return jax.lax.fori_loop(0, num_iterations, body, (x0, r, r, rr))[0]
