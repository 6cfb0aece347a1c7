"""The program of a restoration: one for each canvas, chain and set of networks."""
import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from indigo_jax import denoisers, latents, operators, restoration, rng, samplers, schedules
from indigo_jax.guided.settings import Chain
from indigo_jax.typing import Array, Image, Key, Params

_PIECE = 512  # pixels of a measurement that F sees in one piece, along a side
_LARGE = 512 * 512  # pixels above which the invertible network's gradient recomputes what it needs


class Networks(NamedTuple):
    """What of the networks is part of a program.

    Attributes:
        prior, schedule, prediction, learned_variance: module and facts of the prior; the schedule as sorted items.
        inn, scale: a :class:`models.GuidanceINN`, and how many times smaller measurements are.
        autoencoder: a module; None in pixels.
        variant: "pixel" or "latent" with an autoencoder, else None.
        distance: as for :func:`restoration.indigo`.
    """

    prior: Any
    schedule: tuple
    prediction: str
    learned_variance: bool
    inn: Any
    scale: int
    autoencoder: Any = None
    variant: str | None = None
    distance: Callable | None = None


class Tiles(NamedTuple):
    """Sides of tiles and what neighbours share: of the prior, in its elements; of the autoencoder, in latents."""

    prior: tuple[int, int]
    autoencoder: tuple[int, int]


class Restored(NamedTuple):
    """What :func:`restore` gives.

    Attributes:
        x: pictures ``[B, H, W, 3]`` in [-1, 1].
        residual: root mean square of ``y - c`` of the last estimate ``[B]``, in the units of the invertible network:
            pixels in [0, 1], or latents.
        drift: :func:`restoration.manifold_drift` of the last latents ``[B]``; None without latents.
    """

    x: Image
    residual: Array
    drift: Array | None


@functools.partial(jax.jit, static_argnames=("networks", "chain", "tiles", "same_size"))
def restore(params: tuple[Params, ...], keys: Key, pictures: Image, estimate: Image | None, zeta: Array, *,
            networks: Networks, chain: Chain, tiles: Tiles, same_size: bool) -> Restored:
    """Restore pictures that fill their canvas.

    Args:
        params: of the prior, the invertible network with its encoder, and the autoencoder (None without).
        keys: one per image.
        pictures: measurements ``[B, h, w, 3]``; with ``same_size`` of the size of the result.
        estimate: ``[B, H, W, 3]``; None: bicubic, or the pictures themselves where they have the size.
        zeta: the step of the guidance, as the kernels take it.
    """
    shrunk, sized = same_size and networks.scale > 1, same_size or networks.scale == 1
    y = jnp.clip(operators.downsample(networks.scale)(pictures), -1, 1) if shrunk else pictures
    if estimate is None:
        estimate = pictures if sized else jnp.clip(operators.upsample(networks.scale)(pictures), -1, 1)
    cond = _embedding(networks.inn, params[1], y / 2 + 0.5) if chain.conditional else None
    large = estimate.shape[1] * estimate.shape[2] > _LARGE
    network = _invertible(_fast(networks.inn, **({"reversible": True} if large else {})), params[1])
    denoiser, levels = _prior(networks, params[0], chain, tiles)
    options = dict(cond=cond, scale=zeta if chain.guided else 0.0, weights=chain.weights, eta=chain.eta,
                   distance=networks.distance, gradient=chain.gradient,
                   refine=optax.adam(chain.refine) if chain.refine else None)
    if networks.variant is None:
        space, start = None, estimate
        kernel = restoration.indigo(denoiser, levels, network, y, **options)
    else:
        space = latents.from_module(_fast(networks.autoencoder), params[2], {})
        tile, overlap = tiles.autoencoder
        space = restoration.tiled_autoencoder(space.autoencoder, factor=space.factor, tile=tile, overlap=overlap)
        start = space.encode(estimate)
        kernel = restoration.latent_indigo(denoiser, levels, network, y, space, networks.variant, **options,
                                           guide_every=chain.guide_every, regularizer=chain.regularizer)
    noise = rng.normal(rng.init_keys(keys), start) if chain.from_noise else None
    x, info = samplers.sample(kernel, keys, restoration.indigo_start(levels, start, keys) if noise is None else noise)
    drift = None
    if space is not None:
        z, x = x, space.decode(x)
        drift = restoration.manifold_drift(z, space._replace(decode=lambda _: x))
    x = restoration.fix_color(x, estimate) if chain.fix_color else jnp.clip(x, -1, 1)
    return Restored(x, info.steps.residual[-1], drift)


def visited(schedule: schedules.NoiseSchedule, steps: int, start: float) -> schedules.NoiseSchedule:
    """The levels that a chain visits: evenly spaced, none with less than ``start`` of alpha_bar.

    Errors:
        ValueError for more steps than levels.

    >>> visited(schedules.linear(), 100, 0.199).timesteps[::-1][:3].tolist()
    [396.0, 392.0, 388.0]
    """
    levels = schedules.truncate(schedule, start)
    count = levels.timesteps.shape[0]
    if steps > count:
        raise ValueError(f"steps {steps}: the prior has {count} levels of noise to visit; use at most so many")
    return schedules.respace(levels, steps, "linspace" if steps > 1 else "trailing")


def _prior(networks, params, chain, tiles):
    """Denoiser and levels."""
    with jax.ensure_compile_time_eval():  # numbers, not part of the program
        schedule = schedules.from_json(dict(networks.schedule))
        levels = visited(schedule, chain.steps, chain.start)
    tile, overlap = tiles.prior
    network = functools.partial(_fast(networks.prior).apply, params)
    network = restoration.blended_tiles(network, tile=tile, overlap=overlap)
    options = {"learned_variance": True} if networks.learned_variance else {}
    return denoisers.BY_PREDICTION[networks.prediction](network, schedule, **options), levels


def _fast(module, **changes):
    """The network with the convolution whose gradient is fast in loops on a CPU: the same numbers, but for rounding."""
    if jax.default_backend() == "cpu" and hasattr(module, "convolution"):
        changes["convolution"] = "flipped"
    return module.clone(**changes) if changes else module


def _invertible(module, params):
    """The invertible network; its encoder is left out, so that refinement copies only what it changes."""
    def forward(params, x, cond):
        return module.apply(params, x, cond, method="forward")

    def inverse(params, coarse, details, cond):
        return module.apply(params, coarse, details, cond, method="inverse")

    return restoration.InvertibleNetwork(forward, inverse, {"params": {"inn": params["params"]["inn"]}})


def _embedding(module, params, y):
    """F(y) of the whole measurement in [0, 1]; of a large one the mean over pieces that cover it."""
    counts = [-(-side // _PIECE) for side in y.shape[1:3]]
    if counts == [1, 1]:
        return module.apply(params, y, method="embed")
    size = [-(-side // count) for side, count in zip(y.shape[1:3], counts)]
    starts = [np.linspace(0, side - part, count).astype(np.int32)
              for side, part, count in zip(y.shape[1:3], size, counts)]
    places = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)

    def piece(place):
        zero = jnp.zeros_like(place[0])
        cut = jax.lax.dynamic_slice(y, (zero, place[0], place[1], zero), (y.shape[0], *size, 3))
        return module.apply(params, cut, method="embed")

    return jax.lax.map(piece, jnp.asarray(places)).mean(axis=0)
