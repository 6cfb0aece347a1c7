"""Missing pixels: masks and the operator that applies them."""
import math

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.operators.blur import gaussian_blur
from indigo_jax.operators.proximal import proximal
from indigo_jax.typing import Array, Key


@base.operator(linear=True)
class Inpaint(base.Applied):
    """See :func:`inpaint`."""
    mask: Array

    def _apply(self, x: Array) -> Array:
        shape = self.mask.shape
        if shape[1:3] != x.shape[1:3] or shape[0] not in (1, x.shape[0]) or shape[3] not in (1, x.shape[3]):
            raise ValueError(f"inpaint: a mask of {shape} does not fit images of {x.shape}")
        return x * self.mask.astype(x.dtype)


def inpaint(mask) -> Inpaint:
    """``y = mask x``: pixels with mask 1 are observed, the others become 0 (mid grey).

    Args:
        mask: ``[H, W]``, ``[H, W, 1]``, or one per image ``[B, H, W]``, ``[B, H, W, 1]`` (the last is the only way to
            give one per image to images of width 1); values in ``[0, 1]``, booleans allowed.

    >>> inpaint(jnp.array([[1.0, 0.0]]))(jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 0.0]
    """
    mask = base.check_number(mask, "mask", 0.0, 1.0)
    if mask.ndim == 2:
        mask = mask[None, :, :, None]
    elif mask.ndim == 3:
        mask = mask[None] if mask.shape[2] == 1 else mask[..., None]
    if mask.ndim != 4:
        raise ValueError(f"a mask is [H, W], [B, H, W] or [B, H, W, 1]; got shape {mask.shape}")
    return Inpaint(mask)


def box_mask(height: int, width: int, *, top: int, left: int, box_height: int, box_width: int) -> Array:
    """A mask ``[height, width]`` that is 0 inside one box and 1 outside.

    >>> float(box_mask(4, 4, top=1, left=1, box_height=2, box_width=2).sum())
    12.0
    """
    mask = np.ones((height, width), np.float32)
    mask[max(top, 0):top + box_height, max(left, 0):left + box_width] = 0.0
    return jnp.asarray(mask)


def random_box_mask(keys: Key, height: int, width: int, *, box_height: int, box_width: int) -> Array:
    """One box of missing pixels at a random place per image: keys ``[B]`` -> masks ``[B, height, width, 1]``."""
    if not (1 <= box_height <= height and 1 <= box_width <= width):
        raise ValueError(f"a box of {box_height} x {box_width} does not fit into {height} x {width}")

    def one(key):
        top = jax.random.randint(jax.random.fold_in(key, 0), (), 0, height - box_height + 1)
        left = jax.random.randint(jax.random.fold_in(key, 1), (), 0, width - box_width + 1)
        row, column = jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left
        missing = (row >= 0) & (row < box_height) & (column >= 0) & (column < box_width)
        return 1.0 - missing.astype(jnp.float32)[..., None]

    return jax.vmap(one)(keys)


def random_pixel_mask(keys: Key, height: int, width: int, *, observed: float | Array = 0.5) -> Array:
    """Each pixel observed with probability ``observed``: keys ``[B]`` -> masks ``[B, height, width, 1]``."""
    observed = base.check_number(observed, "observed", 0.0, 1.0)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (height, width, 1)))(keys)
    return (draw < observed).astype(jnp.float32)


def random_stroke_mask(keys: Key, height: int, width: int, *, strokes: int = 6,
                       thickness: tuple[float, float] = (1.0, 8.0)) -> Array:
    """Strokes of a pen across the picture are missing: keys ``[B]`` -> masks ``[B, height, width, 1]``.

    Args:
        keys: one per image.
        height, width: of the pictures.
        strokes: how many; each is a straight line between two points, one of which the next begins at or, as often
            as not, somewhere else.
        thickness: least and most, in pixels, drawn per image in constant ratio.
    """
    rows, columns = jnp.arange(height, dtype=jnp.float32)[:, None, None], jnp.arange(width, dtype=jnp.float32)[:, None]
    side = jnp.array([height, width], jnp.float32)

    def one(key):
        places, jumps, radius = jax.random.split(key, 3)
        ends = jax.random.uniform(places, (2, strokes, 2)) * side
        joined = jax.random.bernoulli(jumps, shape=(strokes, 1))
        start, end = jnp.where(joined, jnp.roll(ends[1], 1, axis=0), ends[0]), ends[1]
        along = end - start  # [strokes, 2]
        y, x = rows - start[:, 0], columns - start[:, 1]
        t = jnp.clip((y * along[:, 0] + x * along[:, 1]) / jnp.maximum(jnp.sum(along**2, -1), 1e-6), 0, 1)
        distance = jnp.hypot(y - t * along[:, 0], x - t * along[:, 1]).min(axis=-1)
        low, high = (math.log(each / 2) for each in thickness)
        return (distance > jnp.exp(jax.random.uniform(radius, (), minval=low, maxval=high)))[..., None]

    return jax.vmap(one)(keys).astype(jnp.float32)


def smooth_fill(y: Array, seen: Array, *, num_iterations: int = 60, order: int = 2) -> Array:
    """Pictures whose unseen parts continue what is around them: ``argmin |laplacian(x)|^2``, x being y where seen.

    The cheap answer to a hole, and where better ones begin. By conjugate gradients from the weighted means of the
    neighbourhood: strokes of some pixels are found to a grey value or so, wide holes are left smoother than the least.

    Args:
        y: pictures ``[B, H, W, C]``; what is unseen of them is not looked at.
        seen: ``[B, H, W, 1]``, 1 (seen) or 0.
        num_iterations: of conjugate gradients.
        order: 2 continues slopes as well, best for strokes; 1, ``argmin |differences of x|^2``, is flatter, which errs
            less deep inside wide holes.

    Errors:
        ValueError for another order.

    Source: biharmonic inpainting (Damelin & Hoang, arXiv 1707.03334) over the pixels' five-point Laplacian.
    """
    near = gaussian_blur(4.0)
    known = seen * y
    around = near(known) / jnp.maximum(near(jnp.broadcast_to(seen, y.shape)), 1e-4)

    if order not in _ROUGHNESS:
        raise ValueError(f"order is 1 or 2, not {order}")
    roughness = _ROUGHNESS[order]

    def rough(u):
        return roughness((1 - seen) * u)

    return known + (1 - seen) * proximal(rough, -roughness(known), around, 0.0, num_iterations=num_iterations)


def _differences(x):
    return jnp.concatenate([jnp.diff(x, axis=1, append=x[:, -1:]), jnp.diff(x, axis=2, append=x[:, :, -1:])], axis=-1)


def _laplacian(x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 4 * x


_ROUGHNESS = {1: _differences, 2: _laplacian}  # by order
