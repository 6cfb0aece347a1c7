"""Blur that changes across the picture: a few kernels, blended from pixel to pixel."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.operators.blur import blur
from indigo_jax.typing import Array


@base.operator(linear=True)
class VaryingBlur(base.Applied):
    """See :func:`varying_blur`."""
    kernels: Array
    weights: Array
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

    def _apply(self, x: Array) -> Array:
        weights = self.weights.astype(x.dtype)
        if weights.shape[-2:] != x.shape[1:3] or weights.ndim == 4 and weights.shape[0] != x.shape[0]:
            raise ValueError(f"varying_blur: weights of shape {weights.shape} do not fit images of shape {x.shape}")

        def one(kernel):
            return blur(kernel, boundary=self.boundary, correlate=self.correlate)(x)

        blurred = jax.vmap(one, in_axes=-3)(self.kernels)  # [R, B, H, W, C]
        weights = jnp.moveaxis(weights if weights.ndim == 4 else weights[None], 1, 0)
        return jnp.sum(weights[..., None] * blurred, axis=0)


def varying_blur(kernels, weights, *, boundary: str = "reflect", correlate: bool = False) -> VaryingBlur:
    """Spatially varying blur of low rank: ``y = sum_r w_r (k_r * x)``, the weights after the convolutions.

    Output pixel p gathers its surroundings with the kernel ``sum_r w_r(p) k_r``: kernels are interpolated, brightness
    is kept (a flat picture stays flat) and no value leaves the range of x. Efficient filter flow (Hirsch et al. 2010)
    weights before, ``sum_r k_r * (w_r x)``: each source point scatters, and a flat picture changes where the kernels
    do. That is the adjoint of this operator with ``correlate`` negated, up to what happens at the boundary.

    Args:
        kernels: ``[R, h, w]``, or per image ``[B, R, h, w]``; each of sum 1 within 1e-3. May be traced (not checked).
        weights: ``[R, H, W]``, or per image ``[B, R, H, W]``; sum 1 over R at every pixel within 1e-3, as
            :func:`patch_weights` makes them. May be traced (then not checked).
        boundary, correlate: as for :func:`blur`.

    Errors:
        ``ValueError`` for other shapes, numbers that are not finite, kernels or weights that do not sum to 1, an
        unknown boundary; when called, for pictures of another size than the weights.

    >>> A = varying_blur(jnp.full((4, 3, 3), 1 / 9), patch_weights(8, 6, 2, 2))
    >>> A(jnp.ones((1, 8, 6, 3))).shape
    (1, 8, 6, 3)
    """
    kernels, weights = jnp.asarray(kernels, jnp.float32), jnp.asarray(weights, jnp.float32)
    for name, array in (("kernels", kernels), ("weights", weights)):
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise ValueError(f"{name} are [R, rows, columns], or [B, R, rows, columns] for a set per image; "
                             f"got shape {array.shape}")
    if kernels.shape[-3] != weights.shape[-3]:
        raise ValueError(f"as many weights as kernels, please: got {weights.shape[-3]} and {kernels.shape[-3]}")
    if kernels.ndim == weights.ndim == 4 and kernels.shape[0] != weights.shape[0]:
        raise ValueError(f"kernels for {kernels.shape[0]} images, but weights for {weights.shape[0]}")
    blur(kernels.reshape(-1, *kernels.shape[-2:]), boundary=boundary)  # checks the boundary and every kernel
    base.check_sums(weights, "stack of weights", -3)
    return VaryingBlur(kernels, weights, boundary, correlate)


def patch_weights(height: int, width: int, rows: int, columns: int) -> Array:
    """Bilinear hats on a grid of patches: a partition of unity for :func:`varying_blur`.

    ``w_ij(p) = max(0, 1 - |u(p) - i|) max(0, 1 - |v(p) - j|)``, u and v in patches from the centre of the first; beyond
    the outermost centres they are constant. Non-negative; what varies linearly with the position is met exactly.

    Returns:
        ``[rows * columns, height, width]``, row by row, sum 1 at every pixel.

    Errors:
        ``ValueError`` for a size or number of patches below 1.

    >>> patch_weights(4, 4, 1, 2)[0, 0].tolist()
    [1.0, 0.75, 0.25, 0.0]
    """
    if min(height, width, rows, columns) < 1:
        raise ValueError(f"sizes and numbers of patches must be at least 1, got {(height, width, rows, columns)}")

    def hats(length, count):
        place = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
        return np.maximum(1.0 - np.abs(place - np.arange(count)[:, None]), 0.0)

    weights = hats(height, rows)[:, None, :, None] * hats(width, columns)[None, :, None, :]
    return jnp.asarray(weights.reshape(rows * columns, height, width), jnp.float32)
