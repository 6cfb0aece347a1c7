"""Networks ready to restore pictures of any size."""
import math
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import images, pipeline, rng, schedules
from indigo_jax.guided import program
from indigo_jax.guided.layout import Layout, lay_out
from indigo_jax.guided.settings import Settings, evaluations, resolve
from indigo_jax.typing import Key

_REFERENCE = 128 * 128  # pixels of the measurement for which zeta is meant
_LATENT_TILE = 64  # latents that the autoencoder takes in one piece, along a side
_SMALLEST = 8  # side below which an invertible network splits no further


class Report(NamedTuple):
    """What is known about a restoration beside its picture.

    Attributes:
        evaluations: network evaluations of the prior, tiles counted.
        residual, drift: as of :class:`Restored`.
        layout: see :class:`Layout`.
        guidance: zeta, as in :class:`Settings`.
        refine: learning rate of the refinement.
    """

    evaluations: int
    residual: float
    drift: float | None
    layout: Layout
    guidance: float
    refine: float


class IndigoRestoration:
    """A diffusion prior, an invertible network and perhaps an autoencoder; see :func:`load`, which checks that they
    belong together.

    Attributes:
        variant: what the invertible network sees, "pixel" or "latent"; None without an autoencoder.
        scale: how many times larger a result is than its measurement.
        info, inn_info, autoencoder_info: what travels with the weights; the last is None without.
        tile: side in pixels of the pictures that the prior has learned.
        factor: pixels per element of what the prior sees, along a side: 1, or those of a latent.
    """

    def __init__(self, prior: tuple, inn: tuple, autoencoder: tuple | None = None, *, distance: Callable | None = None):
        """Triples ``(module, params, info)`` of :func:`weights.load`; ``distance`` as of :func:`restoration.indigo`."""
        (module, params, self.info), (inn_module, inn_params, self.inn_info) = prior, inn
        space, space_params, self.autoencoder_info = autoencoder or (None, None, None)
        self.scale, self.factor = self.inn_info["scale"], 1 if space is None else space.factor
        self.variant = None if space is None else "latent" if "autoencoder" in self.inn_info else "pixel"
        learned = int(self.info.get("image_size") or getattr(module, "image_size", 64 * self.factor))
        self.tile = max(learned // self.factor, 1) * self.factor
        self._params, self._good_tiles = (params, inn_params, space_params), {self.tile}
        self._networks = program.Networks(
            module, tuple(sorted(self.info["schedule"].items())), self.info["prediction"],
            bool(self.info.get("learned_variance")), inn_module, self.scale, space, self.variant, distance)

    def bucket(self, height: int, width: int, *, same_size: bool = False, tile: int | None = None) -> tuple[int, int]:
        """Height and width of the canvas of a picture of ``height x width``: pictures of one bucket share a program."""
        return self.layout(height, width, same_size=same_size, tile=tile).canvas

    def layout(self, height: int, width: int, *, same_size: bool = False, tile: int | None = None) -> Layout:
        """Canvas and tiles of a picture of ``height x width``. Neighbouring tiles share a quarter of their side, in
        latents half of it.

        Args:
            same_size: the picture has the size of the result already.
            tile: in pixels; default: the side that the prior has learned. A smaller canvas is not cut.

        Errors:
            ValueError for a tile that the prior does not take, naming one that it does.
        """
        times, factor, inn = 1 if same_size else self.scale, self.factor, self._networks.inn
        tile, overlap = self._tile(tile)
        in_pixels = factor if self.variant == "pixel" else 1  # elements of the invertible network per one of the prior
        least = -(-_SMALLEST * (2 ** (inn.levels - 1) if self.scale > 1 else 1) // in_pixels)
        return lay_out(times * height, times * width, tile=tile, overlap=overlap, learned=self.tile // factor,
                       least=least, multiple=self.scale // math.gcd(self.scale, in_pixels), factor=factor)

    def _tile(self, tile):
        """Side and overlap of a tile in elements of the prior."""
        tile = self.tile if tile is None else tile
        if tile not in self._good_tiles:
            self._check_tile(tile)
            self._good_tiles.add(tile)
        tile //= self.factor
        return tile, tile // (4 if self.variant is None else 2)

    def _check_tile(self, tile):
        if tile < 1 or tile % self.factor:
            unit = f"the {self.factor} pixels of a latent" if self.factor > 1 else "1"
            raise ValueError(f"tile {tile} is not a positive multiple of {unit}; use {self.tile}")
        space = self._networks.autoencoder
        piece = (1, tile // self.factor, tile // self.factor, 3 if space is None else space.latent_channels)
        try:
            jax.eval_shape(self._networks.prior.apply, self._params[0], jax.ShapeDtypeStruct(piece, jnp.float32),
                           jax.ShapeDtypeStruct((1,), jnp.float32))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"tile {tile}: the prior does not take pieces of this side ({error}); use {self.tile}"
                             ) from error

    def check(self, **settings) -> None:
        """Refuse settings (see :class:`Settings`) that make no sense for these networks: ValueError."""
        settings = Settings(**settings)
        chain, _ = resolve(settings, self.variant)
        self._tile(settings.tile)
        schedule = schedules.from_json(dict(self._networks.schedule))
        program.visited(schedule, chain.steps, chain.start)

    def picture(self, picture: images.Picture, *, same_size: bool = False, estimate=None, seed: int = 0,
                sample: int = 0, **settings) -> tuple[images.Picture, Report]:
        """Restore a picture; what is not RGB of it (transparency, one grey channel) is kept.

        Right and below it is continued by reflection to fill its canvas.

        Args:
            picture: from :func:`images.read`: the measurement, ``scale`` times smaller than its result.
            same_size: it has the size of the result already. It is shrunk to the measurement (bicubic), and is the
                first estimate itself.
            estimate: a first estimate ``[H, W, 3]`` in [-1, 1] of the size of the result, as another method makes it;
                default: bicubic. The chain starts from it, and it gives the colours.
            seed, sample: of the noise, and which of its draws.
            settings: see :class:`Settings`.

        Errors:
            ValueError for an empty picture, one that is not of numbers, a result of more than
            :data:`images.MAX_PIXELS`, an estimate of another size, or settings that make no sense.
        """
        pixels, alpha, times = np.asarray(picture.pixels, np.float32), picture.alpha, 1 if same_size else self.scale
        _check_picture(pixels, times)
        height, width = (times * side for side in pixels.shape[:2])
        if estimate is not None and np.shape(estimate) != (height, width, 3):
            raise ValueError(f"the first estimate is {list(np.shape(estimate))}, the result {[height, width, 3]}")
        keys = rng.fold(rng.image_keys(seed, [pipeline.content_id(pixels)]), sample)
        if alpha is not None:
            pixels = images.fill_hidden(pixels, alpha)
        layout = self.layout(*pixels.shape[:2], same_size=same_size, tile=settings.get("tile"))

        def fill(array, times):
            padding = [(0, side // times - length) for side, length in zip(layout.canvas, array.shape)]
            return np.pad(array, [*padding, (0, 0)], "symmetric")[None]

        found = self.batch(fill(pixels, times), keys, same_size=same_size, **settings,
                           estimate=None if estimate is None else fill(np.asarray(estimate, np.float32), 1))
        restored = np.asarray(found.x)[0, :height, :width]
        if picture.grey:
            restored = np.broadcast_to(restored.mean(axis=-1, keepdims=True), restored.shape)
        if alpha is not None and times == 1:
            restored = np.where(alpha[..., None] > 0, restored, picture.pixels)
        elif alpha is not None:
            alpha = images.resize_alpha(alpha, height, width)
        chain, guidance = resolve(Settings(**settings), self.variant)
        report = Report(evaluations(chain) * layout.rows * layout.columns, float(found.residual[0]),
                        None if found.drift is None else float(found.drift[0]), layout, guidance, chain.refine)
        return picture._replace(pixels=restored, alpha=alpha), report

    def batch(self, pictures, keys: Key, *, same_size: bool = False, estimate=None, **settings) -> program.Restored:
        """Restore pictures of one size by the program that :meth:`picture` calls. It runs where they lie: spread over
        devices with :func:`sharding.put_batch`, all of them work.

        Args:
            pictures: ``[B, h, w, 3]`` in [-1, 1], of the size of a :meth:`bucket` divided by the scale, or with
                ``same_size`` of a bucket; the caller pads.
            keys: one per image ``[B]``, from :func:`rng.image_keys`.
            same_size, estimate, settings: as for :meth:`picture`; the estimate ``[B, H, W, 3]``.

        Errors:
            ValueError for other sizes, or settings that make no sense.
        """
        settings = Settings(**settings)
        chain, guidance = resolve(settings, self.variant)
        height, width = pictures.shape[1:3]
        times = 1 if same_size else self.scale
        canvas = self.bucket(height, width, same_size=same_size, tile=settings.tile)
        if canvas != (times * height, times * width):
            raise ValueError(f"pictures of {height} x {width} fill no canvas; pad them to {canvas[0] // times} x "
                             f"{canvas[1] // times}")
        tile = self._tile(settings.tile)
        side = _LATENT_TILE if settings.tile is None else tile[0]
        zeta = guidance * math.sqrt(math.prod(canvas) / self.scale**2 / _REFERENCE)
        return program.restore(self._params, keys, jnp.asarray(pictures, jnp.float32), estimate, np.float32(zeta),
                               networks=self._networks, chain=chain, same_size=same_size,
                               tiles=program.Tiles(tile, (side, side // 4)))


def _check_picture(pixels, times):
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"a picture is [H, W, 3] with at least one pixel, not {list(pixels.shape)}")
    height, width = (times * side for side in pixels.shape[:2])
    if height * width > images.MAX_PIXELS:
        raise ValueError(f"{times} times larger it has {width} x {height} pixels, more than the limit of "
                         f"{images.MAX_PIXELS:,}")
    if not np.isfinite(pixels).all():
        raise ValueError("the picture holds NaN or infinity")
