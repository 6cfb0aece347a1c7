"""A picture degraded on purpose, with all that its file held."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import images, rng
from indigo_jax.methods.base import content_id


def degrade(picture: images.Picture, operator, *, seed: int = 0) -> images.Picture:
    """``y = A(x)`` of a picture with all that its file held; a grey picture is degraded as one channel.

    Args:
        picture: from :func:`images.read`.
        operator: an operator, or a function of ``(keys [1], height, width)`` that makes one.
        seed: of the noise, together with :func:`content_id`.
    """
    pixels, alpha = picture.pixels, picture.alpha
    keys = rng.image_keys(seed, [content_id(pixels)])
    height, width = pixels.shape[:2]
    if not hasattr(operator, "stochastic"):
        operator = operator(keys, height, width)
    if alpha is not None:
        pixels = images.fill_hidden(pixels, alpha)
    y = np.asarray(_measure(operator, jnp.asarray(pixels[None, ..., :1] if picture.grey else pixels[None]), keys))[0]
    y = np.broadcast_to(y, y.shape[:2] + (3,))
    if alpha is not None and y.shape == pixels.shape:
        y = np.where(alpha[..., None] > 0, y, picture.pixels)
    elif alpha is not None:
        alpha = images.resize_alpha(alpha, *y.shape[:2])
    return picture._replace(pixels=y, alpha=alpha)


@jax.jit
def _measure(operator, x, keys):
    return operator(x, keys=keys)
