"""From a picture to its restoration with a diffusion prior: sizes, tiles, keys. What ``--method bird`` runs.

As in :mod:`indigo_jax.pipeline`, each picture is one program call with a key drawn from its content.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, images, operators, pipeline, restoration, rng, schedules, weights
from indigo_jax.typing import Params

TASKS = ("deblur", "nonuniform", "sr", "denoise", "inpaint")  # of pictures; and :meth:`PriorRestoration.sinogram`
DEFAULT_GRID = (2, 2)  # of unknown kernels, for blur that changes across the picture
_CLEAN = 2.5 / 127.5  # noise of a good photograph
_NETWORK = ("module", "schedule", "prediction", "learned_variance", "layout")
_FIXED = (*_NETWORK, "task", "size", "scale", "candidates", "grid", "family")


class Report(NamedTuple):
    """What is known about a restoration beside its picture.

    Attributes:
        evaluations: network evaluations, tiles counted.
        residual: root mean square of ``A(x) - y`` in ``[-1, 1]`` units.
        sigma: noise level that was assumed, the same units.
        kernel: the blur kernel that was found ``[size, size]``, for nonuniform ``[cells, size, size]`` row by row; or
            None.
        layout: see :func:`pipeline.plan`.
    """

    evaluations: int
    residual: float
    sigma: float
    kernel: np.ndarray | None
    layout: pipeline.Plan


class PriorRestoration:
    """A diffusion prior ready to restore pictures; see :func:`load`.

    Attributes:
        module: the linen module.
        info: what travels with its weights: schedule, prediction, image size, sha256, ...
        image_size: side of the pictures that it has learned.
    """

    def __init__(self, module, params: Params, info: dict):
        self.module, self.params, self.info = module, params, info
        self.image_size = int(info.get("image_size") or getattr(module, "image_size", 64))

    def picture(self, picture: images.Picture, task: str, *, mask=None, kernel=None, sigma=None, scale: int = 4,
                size: int | None = None, candidates: int = 1, grid: tuple[int, int] = DEFAULT_GRID,
                family: str = "free", seed: int = 0, sample: int = 0) -> tuple[images.Picture, Report]:
        """Restore a picture; what is not RGB of it (transparency, one grey channel) is kept.

        The network sees pieces of the side it has learned: a smaller picture is continued by reflection, a larger one
        is cut into overlapping tiles in every network call, while the operator, its unknowns and the noise belong to
        the whole.

        Args:
            picture: from :func:`images.read`.
            task: of :data:`TASKS`.
            mask: for inpaint: ``[H, W]``, 1 where the picture is to be kept, 0 where it is to be filled.
            kernel: for deblur: the blur kernel ``[h, w]`` where it is known.
            sigma: noise level in ``[-1, 1]`` units; default: estimated from the picture, but 2.5 / 127.5 for inpaint.
            scale: for sr: how many times larger; one pixel is taken as the mean of ``scale x scale``.
            size: for deblur, nonuniform: side of the unknown kernel's support, odd; default: unknown.
            candidates: for deblur, nonuniform: of so many restorations the one that explains the picture best.
            grid: for nonuniform: rows and columns of kernels.
            family: for deblur: "free", "gaussian" or "motion", if that is known of the kernel.
            seed, sample: of the noise, and which of its draws.

        Errors:
            ValueError for an unknown task, a mask or a kernel that is missing, does not fit or belongs to another
            task.
        """
        if task not in TASKS:
            raise ValueError(f"a diffusion prior does {', '.join(TASKS)}; not {task!r}")
        if (mask is None) == (task == "inpaint"):
            raise ValueError("inpaint needs a mask, white = the area to fill" if mask is None
                             else f"a mask is for inpaint, not for {task}")
        if kernel is not None and task != "deblur":
            raise ValueError(f"a kernel is for deblur, not for {task}")
        if min(grid) < 1 or max(grid) > 8:
            raise ValueError(f"a grid has 1 to 8 rows and columns of kernels, not {grid[0]} x {grid[1]}")
        pixels, alpha = picture.pixels, picture.alpha
        height, width = pixels.shape[:2]
        if mask is not None and mask.shape != (height, width):
            raise ValueError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {width} x {height}")
        keys = rng.fold(rng.image_keys(seed, [pipeline.content_id(pixels)]), sample)
        if alpha is not None:
            pixels = images.fill_hidden(pixels, alpha)
        factor = scale if task == "sr" else 1
        layout = self.plan(height * factor, width * factor, multiple=factor)
        canvas = tuple(side // factor for side in layout.canvas)

        def fill(array):
            padding = [(0, canvas[0] - height), (0, canvas[1] - width)] + [(0, 0)] * (array.ndim - 2)
            return jnp.asarray(np.pad(array, padding, "symmetric")[None], jnp.float32)

        if sigma is None:
            sigma = _CLEAN if task == "inpaint" else _estimated_noise(pixels)
        found = _restore(self.params, keys, fill(np.asarray(pixels, np.float32)), jnp.float32(sigma),
                         None if mask is None else fill(np.asarray(mask, np.float32)),
                         None if kernel is None else jnp.asarray(kernel, jnp.float32), task=task, size=size,
                         scale=scale, candidates=candidates, grid=tuple(grid) if task == "nonuniform" else (1, 1),
                         family=family, **self._network(layout))
        restored = np.asarray(found.x)[0, :height * factor, :width * factor]
        if picture.grey:
            restored = np.broadcast_to(restored.mean(axis=-1, keepdims=True), restored.shape)
        if alpha is not None and factor == 1:
            restored = np.where(alpha[..., None] > 0, restored, picture.pixels)
        elif alpha is not None:
            alpha = images.resize_alpha(alpha, height * factor, width * factor)
        return picture._replace(pixels=restored, alpha=alpha), _report(found, layout)

    def sinogram(self, values, angles=None, *, sigma=None, seed: int = 0,
                 sample: int = 0) -> tuple[images.Picture, Report]:
        """Reconstruct a slice from its sums along parallel rays: :func:`restoration.reconstruct`.

        The picture has as many pixels a side as there are detectors. Around it, and so wherever a smaller one is
        filled up to the side that the network has learned, is air.

        Args:
            values: ``[detectors, angles]``, as :func:`skimage.transform.radon` makes them of densities in ``[0, 1]``.
            angles: in degrees; default: evenly spaced over 180.
            sigma: noise level of the mean along a ray, densities being in ``[-1, 1]``; default: estimated.
            seed, sample: of the noise, and which of its draws.

        Returns:
            The picture, grey: -1 is a density of 0, 1 one of 1. The report's residual is as sigma.

        Errors:
            ValueError, as :func:`check_sinogram`.
        """
        values, angles = check_sinogram(values, angles)
        detectors = values.shape[0]
        keys = rng.fold(rng.image_keys(seed, [pipeline.content_id(values)]), sample)
        layout = self.plan(detectors, detectors)
        side = max(layout.canvas)
        before = side // 2 - detectors // 2
        padded = np.pad(values, [(before, side - detectors - before), (0, 0)])
        if sigma is None:
            noise = max(float(restoration.tasks.sinogram_noise(jnp.asarray(values)[None, :, :, None])[0]), 1e-3 * side)
        else:
            noise = sigma * side / 2
        found = _reconstruct(self.params, keys, jnp.asarray(padded[None, :, :, None]), operators.radon(angles, side),
                             jnp.float32(noise), **self._network(layout))
        inside = slice(before, before + detectors)
        grey = np.asarray(found.x)[0, inside, inside].mean(axis=-1, keepdims=True)
        return images.Picture(np.repeat(grey, 3, axis=2), grey=True, mode="L"), _report(found, layout)

    def _network(self, layout):
        """What of the network is part of the program."""
        return dict(module=self.module, schedule=tuple(sorted(self.info["schedule"].items())),
                    prediction=self.info["prediction"], learned_variance=bool(self.info.get("learned_variance")),
                    layout=layout)

    def plan(self, height: int, width: int, *, multiple: int = 1) -> pipeline.Plan:
        """Tiles of the prior's side that share a quarter; ``multiple`` must divide the canvas."""
        side, overlap = self.image_size, self.image_size // 4
        if side % multiple or overlap % multiple:
            raise ValueError(f"scale {multiple} does not divide a quarter of the prior's side of {side} pixels; use 2, "
                             "4 or another power of two")
        rows, columns = (max(1, -(-(length - overlap) // (side - overlap))) for length in (height, width))
        return pipeline.Plan(rows, columns, side, side, (overlap if rows > 1 else 0, overlap if columns > 1 else 0))


def _report(found, layout):
    return Report(int(found.evaluations) * layout.rows * layout.columns, float(found.residual[0]),
                  float(found.sigma[0]), None if found.kernel is None else np.asarray(found.kernel[0]), layout)


def check_sinogram(values, angles=None) -> tuple[np.ndarray, np.ndarray]:
    """A sinogram as float32 ``[detectors, angles]`` and its angles in degrees, evenly spaced over 180 where None.

    Errors:
        ValueError for another number of axes, values that are no finite numbers or larger than densities in ``[0, 1]``
        can give, angles that do not fit, and what looks transposed: all projections of one slice have the same sum.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or min(values.shape) < 1 or values.shape[0] < 2:
        raise ValueError(f"a sinogram is a 2-D array of numbers, [detectors, angles], this is {values.dtype} "
                         f"{list(values.shape)}")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the sinogram holds NaN or infinity")
    detectors, count = values.shape
    if detectors**2 > images.MAX_PIXELS:
        raise ValueError(f"{detectors} detectors make a picture of more than {images.MAX_PIXELS:,} pixels; is the "
                         "sinogram [detectors, angles]?")
    transpose = "it must be [detectors, angles], as scikit-image's; save sinogram.T instead"
    if angles is None:
        angles = operators.sparse_view_angles(count)
    angles = np.asarray(angles)
    if angles.dtype.kind not in "biuf" or angles.ndim != 1 or not np.isfinite(angles).all():
        raise ValueError(f"angles are a list of finite numbers, in degrees; got {angles.dtype} {list(angles.shape)}")
    if len(angles) != count:
        raise ValueError(f"the sinogram has {count} columns for {len(angles)} angles"
                         + (f": {transpose}" if len(angles) == detectors else ""))
    sums = values.sum(axis=0), values.sum(axis=1)
    spread, other = (np.std(each) / (np.abs(np.mean(each)) + 1e-6) for each in sums)
    if spread > 0.2 and spread > 5 * other:
        raise ValueError(f"the projections of a slice have the same sum at every angle; this sinogram's rows do, its "
                         f"columns do not: {transpose}")
    if values.max() > 1.1 * detectors:
        raise ValueError(f"densities from 0 to 1 sum to at most {detectors} along a ray through {detectors} pixels, "
                         f"this one goes to {values.max():.4g}; divide it by the density that white stands for")
    return values, angles.astype(np.float64)


def _prior(params, module, schedule, prediction, learned_variance, layout):
    with jax.ensure_compile_time_eval():  # numbers, not part of the program
        levels = schedules.from_json(dict(schedule))

    def network(x, t):
        return module.apply(params, x, t)

    options = {"learned_variance": True} if learned_variance else {}
    denoiser = denoisers.BY_PREDICTION[prediction](pipeline.tiled(network, layout), levels, **options)
    return restoration.Prior(denoiser, levels)


@functools.partial(jax.jit, static_argnames=_NETWORK)
def _reconstruct(params, keys, y, radon, sigma, **network):
    return restoration.reconstruct(_prior(params, **network), radon, y, keys, sigma=sigma)


@functools.partial(jax.jit, static_argnames=_FIXED)
def _restore(params, keys, y, sigma, mask, kernel, *, task, size, scale, candidates, grid, family, layout, **network):
    prior = _prior(params, layout=layout, **network)
    if task == "inpaint":
        return restoration.inpaint(prior, y, mask, keys, sigma=sigma)
    if task == "denoise":
        return restoration.bird_restore(prior, operators.compose(), y, keys, settings=restoration.DEFAULT["denoise"],
                                        sigma=sigma)
    if task == "sr":
        return restoration.bird_restore(prior, operators.average_pool(scale), y, keys, sigma=sigma,
                                        settings=restoration.DEFAULT["sr"], image_shape=(*layout.canvas, 3))
    if kernel is not None:
        return restoration.bird_restore(prior, operators.blur(kernel), y, keys, settings=restoration.DEFAULT["deblur"],
                                        sigma=sigma)
    return restoration.deblur(prior, y, keys, size=size, sigma=sigma, num_candidates=candidates, grid=grid,
                              family=family)


def _estimated_noise(pixels):
    return max(float(restoration.noise_level(jnp.asarray(pixels[None], jnp.float32))[0]), 0.005)


def load(name_or_path) -> PriorRestoration:
    """The prior by named weights or a weights file; see :func:`weights.load`.

    Errors:
        :class:`weights.WeightsError`, also for a network that is no diffusion prior.
    """
    module, params, info = weights.load(name_or_path)
    if "schedule" not in info:
        what = ("a network for --method indi" if "noise" in info else "an invertible network" if "scale" in info
                else "an autoencoder")
        raise weights.WeightsError(f"{name_or_path}: not a diffusion prior but {what}; see: indigo weights list")
    if "autoencoder" in info or info["architecture"] == "LatentUNet":
        raise weights.WeightsError(f"{name_or_path}: a prior of latents, not of pictures; it is for --method "
                                   "latent-indigo")
    return PriorRestoration(module, params, info)
