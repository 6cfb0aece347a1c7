"""What a blurred picture and a guess of the sharp one say: the kernel by least squares, the noise by wavelets."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import operators
from indigo_jax.typing import Array

FAMILIES = ("free", "gaussian", "motion")
_LARGEST = 2**25  # numbers in one array of shifted pictures


@jax.jit
def noise_level(y: Array) -> Array:
    """Standard deviation of white noise in pictures ``[B, H, W, C]`` -> ``[B]``, in the units of y.

    The median absolute value of the finest diagonal Haar coefficients, over 0.6745 (Donoho & Johnstone 1994). Texture
    makes it too large; in blurred pictures there is hardly any at this scale. Rounding to 8 bits alone gives 0.002.

    >>> noise_level(jnp.zeros((2, 8, 8, 3))).tolist()
    [0.0, 0.0]
    """
    h, w = y.shape[1] // 2 * 2, y.shape[2] // 2 * 2
    if not h * w:  # one row or column: nothing to see it by
        return jnp.zeros(y.shape[0], y.dtype)
    a, b, c, d = (y[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    diagonal = jnp.abs(a - b - c + d) / 2
    return jnp.median(diagonal.reshape(y.shape[0], -1), axis=1) / 0.6745


def estimate_kernel(x: Array, y: Array, previous: Array, *, windows=None, seen=None, family: str = "free",
                    strength: float = 0.02, threshold: float = 0.05, num_iterations: int = 300) -> Array:
    """The blur kernel between a sharp picture and a blurred one, on the simplex.

    ``argmin_k |D (k * x) - D y|^2 + lambda |k - previous|^2`` with k >= 0, sum 1; D are horizontal and vertical
    differences, ``lambda = strength tr(A'A) / taps``. By FISTA (Beck & Teboulle 2009); then taps below ``threshold``
    of the largest are dropped and the centroid is moved to the centre by whole pixels. With windows, all kernels of a
    picture at once: ``sum_r w_r (k_r * x)`` in place of ``k * x``.

    Args:
        x: sharp pictures ``[B, H, W, C]``.
        y: blurred pictures, as x: ``blur(k, boundary="reflect")(x)`` plus noise.
        previous: kernels ``[B, h, w]``, odd sides, no larger than the pictures; with windows ``[B, R, h, w]``.
        windows: ``[R, H, W]``, as for :func:`operators.varying_blur`; default: one kernel for the whole picture.
        seen: ``[B, H, W]``, 1 where y was measured; what lies outside is not compared. Default: everywhere.
        family: "free", or the best of :func:`family_kernels`, in each cell the same.
        strength, threshold, num_iterations: as above.

    Returns:
        Kernels like ``previous``.
    """
    def one(x, y, previous, seen):
        shape = previous.shape
        gram, right = _normal_equations(x, y, shape, windows, seen)
        weight = strength * jnp.trace(gram) / previous.size
        gram = gram + weight * jnp.eye(previous.size)
        right = right + weight * previous.ravel()
        if family != "free":
            return _best_of_family(gram, right, shape, family)
        kernels = _simplex_least_squares(gram, right, previous, num_iterations)
        return jax.vmap(lambda kernel: _tidied(kernel, threshold))(kernels.reshape(-1, *shape[-2:])).reshape(shape)

    return jax.vmap(one, (0, 0, 0, None if seen is None else 0))(x, y, previous, seen)


def _tidied(kernel, threshold):
    kernel = jnp.where(kernel < threshold * jnp.max(kernel), 0.0, kernel)
    return centred(kernel / jnp.sum(kernel))


def _normal_equations(x, y, shape, windows, seen):
    """``A'A`` and ``A'Dy`` of ``A k = D (k * x)`` for one picture, strip by strip where it is too large."""
    *cells, h, w = shape
    rows, columns, channels = y.shape
    taps = h * w * (cells[0] if cells else 1)
    padded = jnp.pad(x, ((h // 2, h // 2), (w // 2, w // 2), (0, 0)), mode="reflect")
    strip = max(1, _LARGEST // (taps * columns * channels))
    if strip >= rows:
        return _products(_shifted(padded, rows, columns, h, w, windows), y[None], seen)
    count = -(-rows // strip)
    after = count * strip + 1 - rows  # one row more, for the differences downwards; none of these counts
    padded, y = (jnp.pad(image, ((0, after), (0, 0), (0, 0))) for image in (padded, y))
    windows = None if windows is None else jnp.pad(windows, ((0, 0), (0, after), (0, 0)))
    seen = jnp.pad(jnp.ones((rows, columns), y.dtype) if seen is None else seen, ((0, after), (0, 0)))

    def add(total, start):
        def cut(array, length, axis=0):
            return jax.lax.dynamic_slice_in_dim(array, start, length, axis)

        own = None if windows is None else cut(windows, strip + 1, 1)
        shifted = _shifted(cut(padded, strip + h), strip + 1, columns, h, w, own)
        part = _products(shifted, cut(y, strip + 1)[None], cut(seen, strip + 1), last=True)
        return jax.tree.map(jnp.add, total, part), None

    zero = jnp.zeros((taps, taps), y.dtype), jnp.zeros(taps, y.dtype)
    return jax.lax.scan(add, zero, strip * jnp.arange(count))[0]


def _shifted(padded, rows, columns, h, w, windows):
    """``[taps, rows, columns, C]``: ``k * x`` is their weighted sum."""
    def cut(top, left):
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), (rows, columns, padded.shape[2]))

    top, left = jnp.divmod(jnp.arange(h * w)[::-1], w)  # tap (m, n) sees what is (h - 1 - m, w - 1 - n) further on
    shifted = jax.vmap(cut)(top, left)
    if windows is None:
        return shifted
    return (windows[:, None, :, :, None] * shifted).reshape(-1, *shifted.shape[1:])


def _products(shifted, y, seen, *, last=False):
    a, b = _differences(shifted, seen, last), _differences(y, seen, last)[0]
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(a, a.T, precision=highest), jnp.matmul(a, b, precision=highest)


def _differences(images, seen, last):
    """Horizontal and vertical differences of ``[N, H, W, C]`` between what was seen, as rows ``[N, M]``; with ``last``
    the last row belongs to the next strip, and only what is above it is compared with it."""
    across, down = images[:, :, 1:] - images[:, :, :-1], images[:, 1:] - images[:, :-1]
    across = across[:, :-1] if last else across
    if seen is not None:
        beside = seen[:across.shape[1]]
        across = across * (beside[:, 1:] * beside[:, :-1])[..., None]
        down = down * (seen[1:] * seen[:-1])[..., None]
    return jnp.concatenate([across.reshape(len(images), -1), down.reshape(len(images), -1)], axis=1)


def _simplex_least_squares(gram, right, previous, num_iterations):
    """``argmin k'Gk / 2 - r'k`` with every kernel on the simplex, by FISTA."""
    start, taps = previous.ravel(), previous.shape[-2] * previous.shape[-1]

    def power(_, v):
        v = gram @ v
        return v / jnp.linalg.norm(v)

    direction = jax.lax.fori_loop(0, 30, power, jnp.ones_like(start) / start.size**0.5)
    lipschitz = 1.05 * direction @ (gram @ direction)

    def project(v):
        return jax.vmap(to_simplex)(v.reshape(-1, taps)).ravel()

    def body(_, carry):
        k, ahead, t = carry
        new = project(ahead - (gram @ ahead - right) / lipschitz)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + (t - 1) / t_new * (new - k), t_new

    return jax.lax.fori_loop(0, num_iterations, body, (start, start, jnp.float32(1)))[0]


def _best_of_family(gram, right, shape, family):
    """The member of a family, for each cell the same, with the smallest ``k'Gk / 2 - r'k``."""
    members = family_kernels(family, shape[-1])
    flat = jnp.tile(members.reshape(len(members), -1), right.size // (shape[-2] * shape[-1]))
    loss = jnp.sum(jnp.matmul(flat, gram, precision=jax.lax.Precision.HIGHEST) * flat, axis=1) / 2 - flat @ right
    return jnp.broadcast_to(members[jnp.argmin(loss)], shape)


def family_kernels(family: str, size: int) -> Array:
    """All kernels of a family that are tried: ``[N, size, size]``.

    "gaussian": widths from 0.3 to ``size / 4`` pixels, some 5 % apart. "motion": straight, of 1 to ``size`` pixels
    in half pixels, every 7.5 degrees.

    Errors:
        ValueError for another family.

    >>> family_kernels("gaussian", 9).shape
    (40, 9, 9)
    """
    if family == "gaussian":
        count = int(np.log(max(size / 4, 0.4) / 0.3) / np.log(1.05)) - 1
        return operators.gaussian_kernel(jnp.asarray(np.geomspace(0.3, max(size / 4, 0.4), count), jnp.float32), size)
    if family == "motion":
        length, angle = np.meshgrid(np.arange(1.0, size + 0.5, 0.5), np.deg2rad(np.arange(0.0, 180.0, 7.5)))
        length, angle = (jnp.asarray(array.ravel(), jnp.float32) for array in (length, angle))
        return operators.linear_motion_kernel(length, angle, size)
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")


def to_simplex(v: Array) -> Array:
    """The nearest point with entries >= 0 and sum 1 (Duchi et al. 2008, Fig. 1): ``[N] -> [N]``.

    >>> to_simplex(jnp.array([2.0, 0.0])).tolist()
    [1.0, 0.0]
    """
    descending = jnp.sort(v)[::-1]
    excess = (jnp.cumsum(descending) - 1) / jnp.arange(1, v.size + 1, dtype=v.dtype)
    last = jnp.sum((descending > excess).astype(jnp.int32)) - 1
    return jnp.maximum(v - excess[last], 0.0)


def centred(kernel: Array) -> Array:
    """``[h, w]`` moved by whole pixels so that its centroid lies nearest to the centre ``[h // 2, w // 2]``."""
    h, w = kernel.shape
    row = jnp.sum(kernel * jnp.arange(h, dtype=kernel.dtype)[:, None]) - h // 2
    column = jnp.sum(kernel * jnp.arange(w, dtype=kernel.dtype)) - w // 2
    shift = (-jnp.round(jnp.stack([row, column]))).astype(jnp.int32)
    moved = jnp.roll(kernel, shift, (0, 1))
    i, j = jnp.arange(h)[:, None] - shift[0], jnp.arange(w)[None] - shift[1]
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)  # what a roll would bring in from the other side is cut off
    moved = jnp.where(inside, moved, 0.0)
    return moved / jnp.sum(moved)
