"""The noise of photographs as a random field of known size, for networks that are told how strong it is."""
import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.operators import kernels
from indigo_jax.operators.blur import Blur
from indigo_jax.typing import Array, Key

KINDS = ("white", "equal", "mixed", "correlated", "signal")
_KIND, _WHITE, _SHARED, _WIDTH, _SHARE, _GREY = range(6)  # what a key is folded with
_SIDE = 7  # of the kernels that correlate neighbours


def photo_noise(keys: Key, x: Array, probabilities: dict[str, float] | None = None) -> tuple[Array, Array]:
    """One kind of noise for each picture, drawn from its key, of unit strength.

    ============== =============================================================================================
    ``white``      independent in pixels and channels
    ``equal``      the same in all channels: a noisy grey file, film grain
    ``mixed``      equal and independent parts in a random share: luma and chroma noise
    ``correlated`` blurred a little (0.35 to 1.1 pixels): demosaiced or resized after the noise came in; equal in
                   all channels in half of them
    ``signal``     stronger where the picture is bright, as counted photons: variance in proportion to
                   ``0.1 + (x + 1) / 2``
    ============== =============================================================================================

    Args:
        keys: one per picture ``[B]``.
        x: clean pictures ``[B, H, W, 3]`` in ``[-1, 1]``.
        probabilities: of the kinds (divided by their sum); default: white only.

    Returns:
        ``(n, level)``: the noise ``[B, H, W, 3]``, and its standard deviation ``[B, H, W, 1]`` as a map: 1 but for
        ``signal``, where it follows the picture and is 1 in the root mean square.

    Errors:
        ValueError for an unknown kind.

    Source: our choice of what the noise of files looks like; no paper's.
    """
    probabilities = {"white": 1.0} if probabilities is None else probabilities
    unknown = sorted(set(probabilities) - set(KINDS))
    if unknown or not sum(probabilities.values()) > 0:
        raise ValueError(f"unknown kinds of noise {unknown}; there are {', '.join(KINDS)}" if unknown
                         else "at least one probability must be above 0")
    used = [kind for kind in KINDS if probabilities.get(kind)]
    edges = jnp.cumsum(jnp.asarray([probabilities[kind] for kind in used]))
    index = jnp.searchsorted(edges / edges[-1], rng.uniform(rng.fold(keys, _KIND)))
    pick = jax.nn.one_hot(jnp.minimum(index, len(used) - 1), len(used))
    fields = [_field(kind, keys, x) for kind in used]
    return tuple(sum(pick[:, i, None, None, None] * part for i, part in enumerate(parts)) for parts in zip(*fields))


def _field(kind, keys, x):
    """The noise and its level."""
    white = rng.normal(rng.fold(keys, _WHITE), x)
    shared = jnp.broadcast_to(rng.normal(rng.fold(keys, _SHARED), x[..., :1]), x.shape)
    share, one = rng.uniform(rng.fold(keys, _SHARE))[:, None, None, None], jnp.ones_like(x[..., :1])
    if kind == "equal":
        return shared, one
    if kind == "mixed":
        return jnp.sqrt(share) * shared + jnp.sqrt(1 - share) * white, one
    if kind == "correlated":
        kernel = kernels.gaussian_kernel(rng.uniform(rng.fold(keys, _WIDTH), 0.35, 1.1), _SIDE)
        kernel = kernel / jnp.sqrt(jnp.sum(kernel**2, axis=(1, 2), keepdims=True))  # keeps the variance
        return Blur(kernel, boundary="periodic")(jnp.where(share < 0.5, shared, white)), one
    if kind == "signal":
        light = jnp.sqrt(0.1 + jnp.clip(0.5 * (jnp.mean(x, axis=-1, keepdims=True) + 1), 0, 1))
        level = light / jnp.sqrt(jnp.mean(light**2, axis=(1, 2, 3), keepdims=True))
        return white * level, level
    return white, one


def some_grey(keys: Key, x: Array, share: float) -> Array:
    """A ``share`` of the pictures without colour, as grey files are read: luma (Rec. 601) in all channels."""
    luma = x @ jnp.asarray([[0.299], [0.587], [0.114]], x.dtype)
    is_grey = rng.uniform(rng.fold(keys, _GREY)) < share
    return jnp.where(is_grey[:, None, None, None], luma, x)
