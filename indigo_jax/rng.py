"""One random key per image.

The result for an image must not depend on its batch, its neighbours or the number of devices. So a key belongs to
an image, never to a batch, and is folded (never split) by what it is used for: step, sample, slot.
"""
import hashlib

import jax
import jax.numpy as jnp

from indigo_jax.typing import Array, Key

_INIT = 0x7FFFFFFF  # folded in for the start of a chain; steps use 0, 1, 2, ...


def image_keys(seed: int, ids) -> Key:
    """One key per image: ``fold_in(key(seed), id)``.

    Args:
        seed: the user's seed.
        ids: integer ids ``[B]`` (uint32) that belong to the images, not to their place in the batch; see
            :func:`name_id` for an id from a file name.

    Returns:
        Typed keys ``[B]``.

    Errors:
        ValueError for ids that are not one per image.

    >>> import numpy as np
    >>> both, second = image_keys(0, [3, 8]), image_keys(0, [8])
    >>> bool((jax.random.key_data(both)[1] == jax.random.key_data(second)[0]).all())
    True
    """
    ids = jnp.asarray(ids, jnp.uint32)
    if ids.ndim != 1:
        raise ValueError(f"ids are one number per image, as numpy.arange(4) for four; got shape {ids.shape}")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), ids)


def name_id(name: str) -> int:
    """A stable 32-bit id of a name (first four bytes of its SHA-256).

    >>> name_id("holiday/beach.png")
    4073119897
    """
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def fold(keys: Key, data) -> Key:
    """Fold one integer into every key: ``[B] -> [B]``."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def init_keys(keys: Key) -> Key:
    """Keys for whatever a chain draws before its first step: ``[B] -> [B]``."""
    return fold(keys, _INIT)


def normal(keys: Key, x: Array) -> Array:
    """Standard normal noise with the shape and dtype of ``x`` ``[B, ...]``, image by image."""
    def draw(key, image):  # drawn flat: the same numbers, and XLA compiles them several times faster
        return jax.random.normal(key, (image.size,), image.dtype).reshape(image.shape)

    return jax.vmap(draw)(keys, x)


def uniform(keys: Key, low=0.0, high=1.0) -> Array:
    """One uniform number per image: ``[B]`` float32."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, low, high))(keys)
