"""What a blurred picture and a guess of the sharp one say: the kernel by least squares, the noise by wavelets."""
import jax
import jax.numpy as jnp

from indigo_jax.typing import Array


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


def estimate_kernel(x: Array, y: Array, previous: Array, *, strength: float = 0.02, threshold: float = 0.05,
                    num_iterations: int = 300) -> Array:
    """The blur kernel between a sharp picture and a blurred one, on the simplex.

    ``argmin_k |D (k * x) - D y|^2 + lambda |k - previous|^2`` with k >= 0, sum 1; D are horizontal and vertical
    differences, ``lambda = strength tr(A'A) / taps``. By FISTA (Beck & Teboulle 2009); then taps below ``threshold``
    of the largest are dropped and the centroid is moved to the centre by whole pixels.

    Args:
        x: sharp pictures ``[B, H, W, C]``.
        y: blurred pictures, as x: ``blur(k, boundary="reflect")(x)`` plus noise.
        previous: kernels ``[B, h, w]``, odd sides, no larger than the pictures.
        strength, threshold, num_iterations: as above.

    Returns:
        Kernels ``[B, h, w]``.
    """
    return jax.vmap(lambda x, y, k: _estimate_one(x, y, k, strength, threshold, num_iterations))(x, y, previous)


def _estimate_one(x, y, previous, strength, threshold, num_iterations):
    h, w = previous.shape
    rows, columns = y.shape[:2]
    padded = jnp.pad(x, ((h // 2, h // 2), (w // 2, w // 2), (0, 0)), mode="reflect")
    shifted = jnp.stack([padded[h - 1 - m:h - 1 - m + rows, w - 1 - n:w - 1 - n + columns]
                         for m in range(h) for n in range(w)])  # [taps, H, W, C]: k * x is their weighted sum
    a, b = _differences(shifted), _differences(y[None])[0]
    highest = jax.lax.Precision.HIGHEST
    gram, right = jnp.matmul(a, a.T, precision=highest), jnp.matmul(a, b, precision=highest)
    weight = strength * jnp.trace(gram) / (h * w)
    gram = gram + weight * jnp.eye(h * w)
    kernel = _simplex_least_squares(gram, right + weight * previous.ravel(), previous.ravel(), num_iterations)
    kernel = jnp.where(kernel < threshold * jnp.max(kernel), 0.0, kernel)
    return centred((kernel / jnp.sum(kernel)).reshape(h, w))


def _differences(images):
    """Horizontal and vertical differences of ``[N, H, W, C]``, as rows ``[N, M]``."""
    across, down = images[:, :, 1:] - images[:, :, :-1], images[:, 1:] - images[:, :-1]
    return jnp.concatenate([across.reshape(len(images), -1), down.reshape(len(images), -1)], axis=1)


def _simplex_least_squares(gram, right, start, num_iterations):
    """``argmin k'Gk / 2 - r'k`` on the simplex, by FISTA."""
    def power(_, v):
        v = gram @ v
        return v / jnp.linalg.norm(v)

    direction = jax.lax.fori_loop(0, 30, power, jnp.ones_like(start) / start.size**0.5)
    lipschitz = 1.05 * direction @ (gram @ direction)

    def body(_, carry):
        k, ahead, t = carry
        new = to_simplex(ahead - (gram @ ahead - right) / lipschitz)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + (t - 1) / t_new * (new - k), t_new

    return jax.lax.fori_loop(0, num_iterations, body, (start, start, jnp.float32(1)))[0]


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
    moved = jnp.roll(kernel, (shift[0], shift[1]), (0, 1))
    i, j = jnp.arange(h)[:, None] - shift[0], jnp.arange(w)[None] - shift[1]
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)  # what a roll would bring in from the other side is cut off
    moved = jnp.where(inside, moved, 0.0)
    return moved / jnp.sum(moved)
