"""The convolution switch: the same convolution with the gradients that a compiler leaves slow on a CPU."""
from typing import Callable

import jax
import jax.numpy as jnp
from jax import lax

from indigo_jax.typing import Array


def conv_flipped_gradient(lhs, rhs, window_strides, padding, *, lhs_dilation=None, rhs_dilation=None,
                          feature_group_count=1, batch_group_count=1, **options):
    """``jax.lax.conv_general_dilated`` with gradients of its own on a CPU: the same numbers, but for rounding.

    The gradient for the input is an ordinary convolution with a flipped kernel: XLA:CPU runs the usual one inside
    ``lax.scan`` several times too slowly. That for the kernel is the matrix products of :func:`best_way`: the usual
    one is several times slower than the forward pass. Where it is lowered for another device, that one stays.

    Applies to stride-1, undilated, ungrouped NHWC convolutions with odd kernels and ``SAME`` padding; anything else
    falls through to the plain one. It defines a ``custom_vjp`` and so blocks forward-mode differentiation: that is why
    it is a switch. The result itself is bit for bit the plain one's.
    """
    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, window_strides, padding, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count, batch_group_count=batch_group_count, **options)

    height, width = rhs.shape[:2]
    same = padding == "SAME" or tuple(map(tuple, padding)) == ((height // 2,) * 2, (width // 2,) * 2)
    simple = (lhs.ndim == 4 and same and height % 2 and width % 2 and set(window_strides) == {1}
              and set(lhs_dilation or (1,)) == {1} and set(rhs_dilation or (1,)) == {1}
              and feature_group_count == batch_group_count == 1)
    if not simple:
        return plain(lhs, rhs)

    @jax.custom_vjp
    def convolve(x, kernel):
        return plain(x, kernel)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(residuals, cotangent):
        def compilers(x, kernel, cotangent):
            return jax.vjp(plain, x, kernel)[1](cotangent)

        def ours(x, kernel, cotangent):
            grad_x = plain(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3)).astype(x.dtype)
            way = best_way(x.shape, kernel.shape)
            if way == "own":
                return grad_x, jax.vjp(lambda k: plain(x, k), kernel)[1](cotangent)[0]
            return grad_x, WAYS[way](x, cotangent, (height, width), options.get("precision")).astype(kernel.dtype)

        return lax.platform_dependent(*residuals, cotangent, cpu=ours, default=compilers)

    convolve.defvjp(forward, backward)
    return convolve(lhs, rhs)


_CACHE = 400_000  # bytes of the input and the cotangent that are worked on at a time, for a core's own cache


def best_way(x_shape, kernel_shape) -> str:
    """The name in :data:`WAYS`, or ``"own"`` for the compiler's, of the gradient for a kernel that is fastest on a CPU.

    Args:
        x_shape: of the input, ``[B, H, W, I]``.
        kernel_shape: ``[h, w, I, O]``.

    A rule fitted to the measurements of ``python -m eval.benchmark convolution``.
    """
    places, inputs, outputs = kernel_shape[0] * kernel_shape[1], *kernel_shape[2:]
    if places == 1 or x_shape[0] * x_shape[1] * x_shape[2] < 64:
        return "own"
    return "patches" if min(inputs, outputs) < 32 else "dots"


def by_dots(x: Array, cotangent: Array, size: tuple[int, int], precision=None) -> Array:
    """The gradient for a kernel: a matrix product for each place of it, of the shifted input and the cotangent.

    Args:
        x: input ``[B, H, W, I]``.
        cotangent: of the result, ``[B, H, W, O]``.
        size: of the kernel.
        precision: of the products.

    Returns:
        ``[h, w, I, O]``, in float32 or better.
    """
    def products(shifts, cotangent):
        # without the barrier the compiler fuses shift and product into a slow loop
        return [_product(lax.optimization_barrier(shifted), cotangent, precision) for shifted in shifts]

    return jnp.stack(_over_strips(products, x, cotangent, size)).reshape(*size, x.shape[-1], cotangent.shape[-1])


def by_patches(x: Array, cotangent: Array, size: tuple[int, int], precision=None) -> Array:
    """As :func:`by_dots`, in one matrix product: of all shifts of the one with fewer channels, and the other."""
    inputs, outputs = x.shape[-1], cotangent.shape[-1]

    def products(shifts, other):
        return [_product(lax.optimization_barrier(jnp.concatenate(shifts, -1)), other, precision)]

    if inputs <= outputs:
        return _over_strips(products, x, cotangent, size)[0].reshape(*size, inputs, outputs)
    # as the cotangent sees the places of a kernel, they are backwards
    product = _over_strips(products, cotangent, x, size)[0].reshape(*size, outputs, inputs)
    return jnp.flip(product, (0, 1)).swapaxes(2, 3)


WAYS: dict[str, Callable] = {"dots": by_dots, "patches": by_patches}


def _over_strips(products, shifted, fixed, size):
    """Sums of ``products(shifts, strip)`` over strips of rows: ``shifts`` of one picture batch, as each place of a
    kernel of ``size`` sees it, row by row, and the same strip of the other."""
    batch, height, width = fixed.shape[:3]
    padded = jnp.pad(shifted, ((0, 0), *((side // 2,) * 2 for side in size), (0, 0)))

    def strip(first, rows):
        there = lax.dynamic_slice_in_dim(padded, first, rows + size[0] - 1, axis=1)
        shifts = [there[:, i:i + rows, j:j + width] for i in range(size[0]) for j in range(size[1])]
        return products(shifts, lax.dynamic_slice_in_dim(fixed, first, rows, axis=1))

    mesh = jax.sharding.get_abstract_mesh()
    bytes_of_row = batch * width * (shifted.shape[-1] + fixed.shape[-1]) * fixed.dtype.itemsize
    rows = max((n for n in range(1, height + 1) if not height % n and n * bytes_of_row <= _CACHE), default=1)
    if rows == height or (mesh is not None and mesh.size > 1):  # devices would add up their parts in every turn
        return strip(0, height)
    sums = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), jax.eval_shape(lambda: strip(0, rows)))
    return lax.fori_loop(0, height // rows, lambda i, sums: jax.tree.map(jnp.add, sums, strip(i * rows, rows)), sums)


def _product(a, b, precision):
    """``a^T b``, of ``[..., M]`` and ``[..., N]``, summed over all pixels: ``[M, N]``, in float32 or better."""
    return lax.dot_general(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), (((0,), (0,)), ((), ())),
                           precision=precision, preferred_element_type=a.dtype if a.dtype.itemsize > 4 else jnp.float32)


CONVOLUTIONS: dict[str, Callable] = {"plain": lax.conv_general_dilated, "flipped": conv_flipped_gradient}
