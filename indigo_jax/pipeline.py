"""From a picture to its restoration: padding, tiles, keys, devices. What the command line and the demo run.

The bytes of a result depend on the picture, the weights and the knobs alone: each picture is one program call with a
key of its own, drawn from its content, so neither its folder nor the number of devices matters.
"""
import collections
import concurrent.futures
import functools
import hashlib
import threading
from typing import Callable, Iterable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, images, operators, rng, samplers, schedules, weights
from indigo_jax.typing import Array, Params

MAX_TILE = 1024  # pixels a side that go through the network in one piece; about 1.5 GB with the bundled one
_OVERLAP = 96  # pixels that neighbouring tiles share, of which the middle half is blended
_FINE, _COARSE = 64, 128  # sides are rounded up to multiples of these, so that few programs are compiled
_SMALLEST_TILE = 64


class Plan(NamedTuple):
    """How a picture is laid out: a canvas of ``rows`` x ``columns`` tiles that share ``overlap`` pixels.

    Attributes:
        rows, columns: number of tiles.
        height, width: of one tile.
        overlap: pixels (rows, columns) shared by neighbours; 0 where there is only one.
    """

    rows: int
    columns: int
    height: int
    width: int
    overlap: tuple[int, int]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the whole, at least those of the picture."""
        return (self.rows * (self.height - self.overlap[0]) + self.overlap[0],
                self.columns * (self.width - self.overlap[1]) + self.overlap[1])


def plan(height: int, width: int, tile: int | None = None) -> Plan:
    """The layout of a picture of ``height`` x ``width`` pixels.

    Sides of at most ``tile`` pixels are rounded up to one of few sizes; longer ones are split into equal tiles.

    Args:
        tile: the largest side of a tile, at least 64; multiples of 64 are used. Default :data:`MAX_TILE`.

    Errors:
        ValueError for a smaller tile.

    >>> plan(321, 481)
    Plan(rows=1, columns=1, height=384, width=512, overlap=(0, 0))
    >>> plan(2000, 3000)
    Plan(rows=3, columns=4, height=768, width=832, overlap=(96, 96))
    """
    tile = MAX_TILE if tile is None else tile
    if tile != int(tile) or tile < _SMALLEST_TILE:
        raise ValueError(f"tile must be a whole number of at least {_SMALLEST_TILE} pixels, got {tile}")
    tile = int(tile) // _FINE * _FINE
    (rows, tall, above), (columns, wide, beside) = _split(height, tile), _split(width, tile)
    return Plan(rows, columns, tall, wide, (above, beside))


def _split(side, tile):
    """Number of tiles, their size, what they share, along one side."""
    if side <= tile:
        return 1, min(_up(side, _FINE if side <= 4 * _FINE else _COARSE), tile), 0
    overlap = min(_OVERLAP, tile // 4)
    count = -(-(side - overlap) // (tile - overlap))
    return count, _up(-(-(side - overlap) // count) + overlap, _FINE), overlap


def _up(number, multiple):
    return -(-number // multiple) * multiple


def tiled(apply_fn: Callable, layout: Plan) -> Callable:
    """``apply_fn(x_t, t, ...)`` evaluated tile by tile and blended, as one function of the whole canvas.

    Only the network is cut into tiles, never the walk or its noise: every step sees the whole picture. In an overlap
    the outer quarters belong to one tile alone and the weights change linearly between, so that no network output
    nearer than a quarter of the overlap to a cut is used.

    Args:
        apply_fn: ``(x_t [B, h, w, C], t [B], ...) -> [B, h, w, D]``; further arguments are images, too.
        layout: from :func:`plan`; the images are of its canvas.
    """
    if layout.rows == layout.columns == 1:
        return apply_fn
    down = _blend(layout.rows, layout.height, layout.overlap[0])
    across = _blend(layout.columns, layout.width, layout.overlap[1])
    places = np.stack(np.meshgrid(np.arange(layout.rows), np.arange(layout.columns), indexing="ij"), -1).reshape(-1, 2)

    def whole(x_t: Array, t: Array, *others: Array) -> Array:
        piece = [jax.ShapeDtypeStruct((image.shape[0], layout.height, layout.width, image.shape[3]), image.dtype)
                 for image in (x_t, *others)]
        channels = jax.eval_shape(apply_fn, piece[0], t, *piece[1:]).shape[-1]  # twice as many with a learned variance

        def one(canvas, place):
            top = place[0] * (layout.height - layout.overlap[0])
            left = place[1] * (layout.width - layout.overlap[1])
            zero = jnp.zeros_like(top)

            def cut(image):
                size = (image.shape[0], layout.height, layout.width, image.shape[3])
                return jax.lax.dynamic_slice(image, (zero, top, left, zero), size)

            weight = jnp.asarray(down)[place[0], :, None, None] * jnp.asarray(across)[place[1], :, None]
            out = cut(canvas) + weight * apply_fn(cut(x_t), t, *map(cut, others))
            return jax.lax.dynamic_update_slice(canvas, out, (zero, top, left, zero)), None

        start = jnp.zeros((*x_t.shape[:3], channels), x_t.dtype)
        return jax.lax.scan(one, start, jnp.asarray(places, jnp.int32))[0]

    return whole


def _blend(count, size, overlap):
    """Weights ``[count, size]`` of the tiles along one side; they sum to 1 at every pixel of the canvas."""
    weight = np.ones((count, size), np.float32)
    if overlap:
        margin = overlap // 4
        ramp = np.clip((np.arange(overlap) - margin + 0.5) / (overlap - 2 * margin), 0, 1).astype(np.float32)
        weight[1:, :overlap] = ramp
        weight[:-1, size - overlap:] = 1 - ramp
    return weight


@functools.partial(jax.jit, static_argnames=("module", "noise", "steps", "layout"))
def _restore(params, keys, y, *, module, noise, steps, layout):
    """One picture ``[1, H, W, 3]`` of the size of the canvas; compiled once per layout, number of steps and device."""
    network = tiled(functools.partial(module.apply, params), layout)
    restorer = denoisers.restorer(network, noise=noise, y=y if module.condition_on_y else None)
    kernel = samplers.indi(restorer, schedules.indi_times(steps), noise=noise)
    x, _ = samplers.sample(kernel, keys, y)
    return jnp.clip(x, -1.0, 1.0)


class Restoration:
    """A network ready to restore pictures of any size; see :func:`load`.

    Attributes:
        module: the linen module.
        info: what travels with its weights: tasks, noise mode, sha256, ...
        devices: where it runs; calls name one of them.
    """

    def __init__(self, module, params: Params, info: dict, *, devices=None):
        self.module, self.info = module, info
        self.noise = schedules.noise_from_json(info["noise"])
        self.devices = list(jax.local_devices() if devices is None else devices)
        self._params, self._placed, self._lock = params, {}, threading.Lock()

    def __call__(self, pixels, *, steps: int = 1, seed: int = 0, image_id: int | None = None, sample: int = 0,
                 tile: int | None = None, device=None) -> np.ndarray:
        """Restore one picture by InDI on the uniform time grid.

        Args:
            pixels: ``[H, W, 3]`` float in [-1, 1], any size from 1 x 1.
            steps: of the sampler; one gives the least mean squared error, more are sharper.
            seed: of the noise.
            image_id: whose noise; default :func:`content_id`, so that a picture alone gives what it gives in a folder.
            sample: 0, 1, 2, ...: independent draws.
            tile: see :func:`plan`.
            device: default the first one.

        Returns:
            float32 ``[H, W, 3]`` in [-1, 1].

        Errors:
            ValueError for another shape, values that are not numbers, or a tile below 64.
        """
        pixels = np.asarray(pixels, np.float32)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ValueError(f"a picture is [H, W, 3], not {list(pixels.shape)}")
        if not np.isfinite(pixels).all():
            raise ValueError("the picture holds NaN or infinity")
        height, width = pixels.shape[:2]
        layout = plan(height, width, tile)
        padding = [(0, after - size) for size, after in zip((height, width), layout.canvas)] + [(0, 0)]
        canvas = np.pad(pixels, padding, "reflect")
        device = self.devices[0] if device is None else device
        with jax.default_device(device):
            keys = rng.fold(rng.image_keys(seed, [content_id(pixels) if image_id is None else image_id]), sample)
            x = _restore(self._on(device), keys, jnp.asarray(canvas[None]), module=self.module, noise=self.noise,
                         steps=steps, layout=layout)
            return np.asarray(x)[0, :height, :width]

    def picture(self, picture: images.Picture, *, scale: int | None = None, steps: int = 1, seed: int = 0,
                sample: int = 0, tile: int | None = None, device=None) -> images.Picture:
        """Restore a picture with all that its file held.

        A grey picture stays grey (the mean of the restored channels), transparency is kept, and so are the colours
        under fully transparent pixels; the network sees their surroundings instead.

        Args:
            picture: from :func:`images.read`.
            scale: enlarge by this whole factor first (bicubic), for super-resolution.
            steps, seed, sample, tile, device: as in a call.

        Errors:
            ValueError, as a call; for a result larger than :data:`images.MAX_PIXELS`.
        """
        device = self.devices[0] if device is None else device
        pixels, alpha = picture.pixels, picture.alpha
        image_id = content_id(pixels)
        if alpha is not None:
            pixels = images.fill_hidden(pixels, alpha)
        if scale not in (None, 1):
            height, width = pixels.shape[0] * scale, pixels.shape[1] * scale
            if height * width > images.MAX_PIXELS:
                raise ValueError(f"{scale} times larger it has {width} x {height} pixels, more than the limit of "
                                 f"{images.MAX_PIXELS:,}; use a smaller scale")
            with jax.default_device(device):
                pixels = np.clip(np.asarray(operators.upsample(scale)(jnp.asarray(pixels[None])))[0], -1, 1)
            alpha = None if alpha is None else images.resize_alpha(alpha, height, width)
        restored = self(pixels, steps=steps, seed=seed, image_id=image_id, sample=sample, tile=tile, device=device)
        if picture.grey:
            restored = np.broadcast_to(restored.mean(axis=-1, keepdims=True), restored.shape)
        if alpha is not None and restored.shape == picture.pixels.shape:
            restored = np.where(alpha[..., None] > 0, restored, picture.pixels)
        return picture._replace(pixels=restored, alpha=alpha)

    def _on(self, device):
        with self._lock:
            if device not in self._placed:
                self._placed[device] = jax.device_put(self._params, device)
            return self._placed[device]


def load(name_or_path, *, devices=None) -> Restoration:
    """The restoration by named weights or a weights file; see :func:`weights.load`. A diffusion prior is refused."""
    module, params, info = weights.load(name_or_path)
    if "schedule" in info:
        raise weights.WeightsError(f"{name_or_path}: a diffusion prior; use --method bird")
    if "noise" not in info:
        what = "an invertible network" if "scale" in info else "an autoencoder"
        raise weights.WeightsError(f"{name_or_path}: {what}, which restores nothing by itself; see: "
                                   "indigo weights list")
    return Restoration(module, params, info, devices=devices)


def degrade(picture: images.Picture, operator, *, seed: int = 0) -> images.Picture:
    """``y = A(x)`` of a picture with all that its file held; a grey picture is degraded as one channel.

    Args:
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


def content_id(pixels: np.ndarray) -> int:
    """A picture's id for :func:`rng.image_keys`: a hash of its size and pixels, whatever it is called.

    >>> content_id(np.zeros((2, 3, 3))) == content_id(np.zeros((3, 2, 3)))
    False
    """
    pixels = np.ascontiguousarray(pixels, "<f4")
    return rng.name_id(f"{pixels.shape} {hashlib.sha256(pixels).hexdigest()}")


def over_devices(function: Callable, items: Iterable, devices) -> Iterator[tuple]:
    """Run ``function(item, device)`` for each item, on the devices in turn, a few ahead of whoever takes the results.

    Yields:
        ``(item, future)`` in the order of the items; ``future.result()`` is the result or raises what was raised.
    """
    devices = list(devices)
    pool = concurrent.futures.ThreadPoolExecutor(len(devices), thread_name_prefix="indigo")
    waiting = collections.deque()
    try:
        for i, item in enumerate(items):
            waiting.append((item, pool.submit(function, item, devices[i % len(devices)])))
            if len(waiting) > len(devices):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:  # whoever takes the results has gone
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=False)
