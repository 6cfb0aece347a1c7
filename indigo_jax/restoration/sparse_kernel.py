"""The kernel of a blur by sparse gradients: the sharp picture is guessed as one of few edges, coarse to fine."""
import jax
import jax.numpy as jnp

from indigo_jax.restoration.kernel_estimate import centred
from indigo_jax.typing import Array

_ROUNDS = 5  # of picture and kernel at each size
_SMALLEST = 5  # pixels of the kernel at the coarsest size
_GRADIENTS, _LEAST_GRADIENTS, _DECAY = 4e-3, 1e-4, 1.1  # weight of their number: first, last, from round to round
_STIFFEST = 1e5  # of the splitting of the gradients
_KERNEL = 2.0  # weight of the sum of squares of the kernel, of gradients of pictures in 0..1
_ITERATIONS = 20  # of conjugate gradients for the kernel
_THRESHOLD, _SMALL = 0.05, 0.1  # taps below this share of the largest go; so do islands below this share of the sum


def sparse_kernel(y: Array, size: int, *, seen: Array | None = None) -> Array:
    """The blur kernels ``[B, size, size]`` of pictures ``[B, H, W, C]`` in [-1, 1], by each picture alone.

    From the size at which the kernel has five pixels to the whole, in steps of the root of two, five rounds each:

        x = argmin |k * x - y|^2 + lambda |grad x|_0,  k = argmin |k * S(grad x) - grad y|^2 + gamma |k|^2

    x by half-quadratic splitting and FFT, S keeps the strongest gradients; taps below 0.05 of the largest and islands
    below a tenth of the sum go. lambda falls from 0.004 to 0.0001.

    Args:
        y: blurred pictures; beyond what was seen anything that continues them.
        size: side of the kernels, odd, less than the side of the pictures.
        seen: ``[B, H, W]``, 1 where y was measured; only that is compared. Default: everywhere.

    Returns:
        Kernels, not negative, of sum 1, their centroid in the middle. They are those of a convolution.

    Errors:
        ValueError for an even size, or one that leaves nothing of the pictures to see.

    Source: L. Xu, S. Zheng & J. Jia, Unnatural L0 Sparse Representation for Natural Image Deblurring, CVPR 2013, for
    the model; the selection of gradients after S. Cho & S. Lee, Fast Motion Deblurring, SIGGRAPH Asia 2009. The
    numbers are ours.
    """
    if size % 2 == 0 or not 1 <= size < min(y.shape[1:3]) // 2:
        raise ValueError(f"size must be odd and less than half a side of the pictures, {y.shape[1]} x {y.shape[2]}; "
                         f"got {size}")
    seen = jnp.ones(y.shape[:3], jnp.float32) if seen is None else jnp.asarray(seen, jnp.float32)
    luma = (jnp.mean(jnp.asarray(y, jnp.float32), axis=-1) + 1) / 2
    return jax.vmap(lambda one, mask: _coarse_to_fine(one, mask, _pyramid(size)))(luma, seen)


def _pyramid(size):
    """Odd sizes of the kernel from coarse to fine, each about sqrt(2) times that before."""
    sizes = [size]
    while sizes[-1] > _SMALLEST:
        sizes.append(max(_SMALLEST, round(sizes[-1] / 2**0.5) | 1))
        sizes[-1] = min(sizes[-1], sizes[-2] - 2)
    return sizes[::-1]


def _coarse_to_fine(y, seen, sizes):
    middle = sizes[0] // 2
    kernel = jnp.zeros((sizes[0], sizes[0])).at[middle, max(middle - 1, 0):middle + 1].set(0.5)
    kernel, weight = kernel / jnp.sum(kernel), jnp.float32(_GRADIENTS)
    for size in sizes:
        if size != kernel.shape[0]:
            kernel = jnp.maximum(jax.image.resize(kernel, (size, size), "linear"), 0)
            kernel = centred(kernel / jnp.sum(kernel))
        shape = [max(size + 2, round(side * size / sizes[-1])) for side in y.shape]
        small = y if size == sizes[-1] else jax.image.resize(y, shape, "cubic")
        mask = seen if size == sizes[-1] else jax.image.resize(seen, shape, "linear")
        kernel, weight = _at_one_size(small, mask > 0.999, kernel, weight)
    return kernel


def _at_one_size(y, seen, kernel, weight):
    """Five rounds on a picture ``[H, W]``, which is made periodic by a strip that leads from its end to its begin."""
    size = kernel.shape[0]
    margin = size // 2 + 1
    inside = -jax.lax.reduce_window(-jnp.pad(seen, margin).astype(jnp.float32), -jnp.inf, jax.lax.max,
                                    (2 * margin + 1, 2 * margin + 1), (1, 1), "VALID")
    counted = jnp.pad(inside, ((0, 2 * size), (0, 2 * size)))
    y = _closed(_closed(y, 2 * size).T, 2 * size).T
    wanted = _gradients(y)

    def round_(i, carry):
        kernel, weight, least = carry
        found = _gradients(_picture(y, kernel, weight))
        strength = found[0]**2 + found[1]**2
        enough = _selection(found, strength, counted, 2 * size)
        least = jnp.where(i == 0, enough, least / _DECAY)
        kept = [jnp.where(strength >= least, gradient, 0.0) for gradient in found]
        kernel = _tidied(_kernel(kept, wanted, counted, size))
        return kernel, jnp.maximum(weight / _DECAY, _LEAST_GRADIENTS), least

    kernel, weight, _ = jax.lax.fori_loop(0, _ROUNDS, round_, (kernel, weight, jnp.float32(0)))
    return centred(kernel), weight


def _closed(y, length):
    """Rows more, from the last one to the first, so that the picture has no step where it repeats."""
    share = (jnp.arange(1, length + 1) / (length + 1))[:, None]
    return jnp.concatenate([y, (1 - share) * y[-1:] + share * y[:1]])


def _gradients(x):
    return jnp.roll(x, -1, 1) - x, jnp.roll(x, -1, 0) - x


def _spectrum(kernel, shape):
    size = kernel.shape[0]
    padded = jnp.zeros(shape, kernel.dtype).at[:size, :size].set(kernel)
    return jnp.fft.rfft2(jnp.roll(padded, (-(size // 2), -(size // 2)), (0, 1)))


def _picture(y, kernel, weight):
    """``argmin |k * x - y|^2 + weight |grad x|_0`` by half-quadratic splitting."""
    blur, seen = _spectrum(kernel, y.shape), jnp.fft.rfft2(y)
    across, down = (jnp.fft.rfft2(jnp.zeros(y.shape).at[at].set(1.0).at[0, 0].add(-1.0)) for at in ((0, -1), (-1, 0)))
    data, power = jnp.conj(blur) * seen, jnp.abs(blur)**2
    rough = jnp.abs(across)**2 + jnp.abs(down)**2

    def body(carry):
        x, stiffness = carry
        right, below = _gradients(x)
        kept = right**2 + below**2 >= weight / stiffness
        right, below = jnp.where(kept, right, 0.0), jnp.where(kept, below, 0.0)
        pulled = jnp.conj(across) * jnp.fft.rfft2(right) + jnp.conj(down) * jnp.fft.rfft2(below)
        whole = data + stiffness.astype(data.dtype) * pulled
        x = jnp.fft.irfft2(whole / (power + stiffness * rough).astype(data.dtype), y.shape)
        return x, 2 * stiffness

    return jax.lax.while_loop(lambda carry: carry[1] < _STIFFEST, body, (y, 2 * weight))[0]


def _selection(gradients, strength, counted, number):
    """The least strength of which each of four directions has so many gradients."""
    direction = jnp.floor((jnp.arctan2(gradients[1], gradients[0]) + jnp.pi) / (jnp.pi / 4)).astype(jnp.int32) % 4
    ranked = [jnp.sort(jnp.where((direction == k) & (counted > 0), strength, 0.0).ravel())[-number] for k in range(4)]
    return jnp.min(jnp.stack(ranked))


def _kernel(gradients, wanted, counted, size):
    """``argmin |k * gradients - wanted|^2 + gamma |k|^2`` over kernels of a size, by conjugate gradients."""
    shape, spectra = wanted[0].shape, [jnp.fft.rfft2(gradient) for gradient in gradients]

    def correlate(fields):
        total = sum(jnp.conj(spectrum) * jnp.fft.rfft2(counted * field) for spectrum, field in zip(spectra, fields))
        return jnp.roll(jnp.fft.irfft2(total, shape), (size // 2, size // 2), (0, 1))[:size, :size]

    def normal(kernel):
        blur = _spectrum(kernel, shape)
        return correlate([jnp.fft.irfft2(spectrum * blur, shape) for spectrum in spectra]) + _KERNEL * kernel

    start = jnp.full((size, size), 1 / size**2)
    return jax.scipy.sparse.linalg.cg(normal, correlate(wanted), start, maxiter=_ITERATIONS, tol=1e-4)[0]


def _tidied(kernel):
    """Without small taps and small islands; of sum 1."""
    kernel = jnp.where(kernel < _THRESHOLD * jnp.max(kernel), 0.0, kernel)
    kernel = kernel / jnp.maximum(jnp.sum(kernel), 1e-12)
    there, count = kernel > 0, kernel.size
    first = jnp.where(there, jnp.arange(1, count + 1).reshape(kernel.shape), 0)

    def spread(_, label):
        return jnp.where(there, jax.lax.reduce_window(label, 0, jax.lax.max, (3, 3), (1, 1), "SAME"), 0)

    label = jax.lax.fori_loop(0, 3 * kernel.shape[0], spread, first)
    sums = jnp.zeros(count + 1).at[label.ravel()].add(kernel.ravel())
    kernel = jnp.where(sums[label] < _SMALL, 0.0, kernel)
    return kernel / jnp.maximum(jnp.sum(kernel), 1e-12)
