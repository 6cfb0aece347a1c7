"""Training in the latents of a frozen autoencoder: what a batch becomes before the step, and latents that are kept.

The autoencoder has a program of its own, which hands latents to that of the step: no gradient reaches it, and its
weights are no part of the state.
"""
import functools
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from indigo_jax import data, sharding, weights
from indigo_jax.typing import Autoencoder
from indigo_jax.weights import latents
from train import loop

_ROWS = 32  # encoded at a time, to be kept


@functools.lru_cache(maxsize=1)
def _load(name_or_path):
    with jax.ensure_compile_time_eval():  # arrays, also where a program that is being traced asks first
        module, params, info = weights.load(name_or_path)
    return module, params, latents.from_module(module, params, info)


def shape(config, side: int) -> tuple[int, int, int]:
    """``(height, width, channels)`` of what a network learns of pictures of ``side`` pixels: of them, or their latents.

    Errors:
        ValueError for a side that is no multiple of the pixels per latent.
    """
    if not getattr(config, "autoencoder", None):
        return side, side, 3
    _, _, found = _load(config.autoencoder)
    if side % found.factor:
        raise ValueError(f"{config.autoencoder} takes pictures of sides that {found.factor} divides, not {side}")
    return side // found.factor, side // found.factor, found.channels


def description(config) -> dict:
    """For ``config.json``: ``{"autoencoder": {"name", "sha256"}}``; of pixels nothing."""
    return {"autoencoder": latents.identity(_load(config.autoencoder)[2])} if config.autoencoder else {}


def program(config, mesh: Mesh, function: Callable) -> Callable:
    """``function(space, *arguments)`` compiled as a function of the arguments, with the autoencoder's weights another.

    Args:
        mesh: over which the results are split, as batches.
    """
    module, params, found = _load(config.autoencoder)
    params = jax.device_put(params, sharding.replicated(mesh))

    @functools.partial(jax.jit, out_shardings=sharding.batch_sharding(mesh))
    def call(params, *arguments):
        return function(latents.from_module(module, params, found.info), *arguments)

    return functools.partial(call, params)


def encoder(config, mesh: Mesh) -> Callable:
    """``(batch, step) -> batch``: its uint8 pictures as latents float32, as :class:`loop.Feed` has it."""
    encode = program(config, mesh, lambda found, pixels: found.autoencoder.encode(loop.in_unit_range(pixels)))
    return lambda batch, step: {**batch, "image": encode(batch["image"])}


def local(config) -> Autoencoder:
    """The autoencoder for one process by itself: compiled, with numpy arrays for results."""
    one = sharding.data_mesh(jax.local_devices()[:1])
    encode = program(config, one, lambda found, x: found.autoencoder.encode(x))
    decode = program(config, one, lambda found, z: found.autoencoder.decode(z))
    return Autoencoder(lambda x: np.asarray(encode(jax.device_get(x))),
                       lambda z: np.asarray(decode(jax.device_get(z))))


class KeptLatents:
    """A source of the latents of all pictures of a source, then of all their mirror images; encoded at once.

    ``source[i] -> {"image": float32 [h, w, C], "id": int}``, for :func:`data.pipeline` without crops and symmetries.

    Args:
        source: of pictures, of which the central square of ``crop`` pixels is taken.
        flip: with mirror images; otherwise without.
    """

    def __init__(self, config, source, *, crop: int, flip: bool):
        encode, plain, mirrored, self._ids = local(config).encode, [], [], []
        for batch in data.evaluation_batches(source, batch_size=min(_ROWS, len(source)), crop=crop):
            mask, x = batch["mask"], loop.in_unit_range(jnp.asarray(batch["image"]))
            plain.append(encode(x)[mask])
            if flip:
                mirrored.append(encode(x[:, :, ::-1])[mask])
            self._ids += batch["id"][mask].tolist()
        self._latents = np.concatenate(plain + mirrored)

    def __len__(self):
        return len(self._latents)

    def __getitem__(self, index):
        return {"image": self._latents[index], "id": self._ids[index % len(self._ids)]}
