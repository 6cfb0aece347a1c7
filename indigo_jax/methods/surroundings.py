"""What lies beyond the border of a blurred picture and was blurred into it, for priors that have no room for it."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import operators, restoration, rng, samplers, tiles
from indigo_jax.methods import base
from indigo_jax.typing import Array

PRIOR, STEPS = "photo", 8  # takes any size
_ERROR = 0.4  # root mean square of what is found beyond the border, in [-1, 1] units; measured: 0.1 is worse


def came_in(pixels: np.ndarray, kernel: np.ndarray, sigma: float, canvas: tuple[int, int], margin: int, device=None
            ) -> tuple[np.ndarray, np.ndarray]:
    """What pixels beyond a canvas have added to a blurred picture, and how far its pixels are to be trusted then.

    A prior of one size fills its canvas with the picture. What was blurred in from beyond is found by a prior that
    takes any size (:func:`restoration.hqs` with :data:`PRIOR`, on a canvas larger by the margin), and can be taken off:
    what is left is a blur of a picture with zeros around it.

    Args:
        pixels: the blurred picture ``[h, w, 3]`` in [-1, 1], at the top left of the canvas.
        kernel: ``[h, w]``.
        sigma: of the noise, in [-1, 1] units.
        canvas: ``(H, W)``.
        margin: pixels of room around the canvas, at least half of the kernel.
        device: where it is worked out; default: jax's.

    Returns:
        ``(added, trusted)``: ``[H, W, 3]``, 0 beyond the picture; ``[H, W]`` in [0, 1]: 0 beyond the picture, inside
        ``sigma`` over the noise of a pixel of which a share m came from beyond, ``sqrt(sigma^2 + (m e)^2)`` with
        the error e of what was found.
    """
    height, width = pixels.shape[:2]
    room = tuple(slice(margin, margin + side) for side in canvas)
    outside = np.ones((1, *(side + 2 * margin for side in canvas), 1), np.float32)
    seen = np.zeros_like(outside)
    outside[:, *room] = 0
    seen[:, margin:margin + height, margin:margin + width] = 1
    network = _prior()
    plan = base.plan_of(network, *outside.shape[1:3])
    sides = tuple(zip((margin, margin), (full - margin - side for full, side in zip(plan.canvas, (height, width)))))
    y = np.pad(pixels, [*sides, (0, 0)], "symmetric")[None]
    with jax.default_device(device):
        larger = [(0, 0), *((0, full - side) for full, side in zip(plan.canvas, outside.shape[1:3])), (0, 0)]
        found = _found(network.params, jnp.asarray(y, jnp.float32), jnp.asarray(np.pad(seen, larger)),
                       jnp.asarray(kernel, jnp.float32), jnp.float32(sigma), plan=plan)
        found = np.asarray(found)[:, :outside.shape[1], :outside.shape[2]]
        blur = operators.blur(kernel, boundary="zero")
        added = np.asarray(blur(jnp.asarray(found * outside)))[0][room]
        share = np.asarray(blur(jnp.asarray(outside)))[0][room][..., 0]
    sigma = max(sigma, 1e-3)
    inside = seen[0][room]
    return added * inside, sigma / np.sqrt(sigma**2 + (share * _ERROR)**2) * inside[..., 0]


_prior = functools.cache(functools.partial(base.open_network, PRIOR, "prior"))


@functools.partial(jax.jit, static_argnames="plan")
def _found(params, y: Array, seen: Array, kernel: Array, sigma: Array, *, plan: tiles.Plan) -> Array:
    """A first estimate of the picture and what surrounds it, on the plan's canvas."""
    prior = base.prior(_prior(), params, plan)
    where = operators.inpaint(seen)
    operator = operators.compose(operators.blur(kernel, boundary="periodic"), where)
    kernel_of_chain = restoration.hqs(prior.denoiser, prior.schedule, operator, where(y), sigma, num_steps=STEPS)
    return jnp.clip(samplers.sample(kernel_of_chain, rng.image_keys(0, [0]), y)[0], -1, 1)
