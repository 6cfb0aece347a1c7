"""The table for people with damaged photographs: ``--method auto`` beside the picture as it is and what else they have.

Bundled weights, nothing tuned on the truth but the other methods: of those that have a knob, the best of several is
shown. Blurred pictures are cut out of larger ones, so that no border is that of a solver. With the extra ``compare``
there are BM3D (told the true level) and OpenCV beside scikit-image.
"""
import functools
import importlib.util
import time
from typing import Callable, NamedTuple

import jax.numpy as jnp
import numpy as np
import skimage.filters
import skimage.restoration
from PIL import Image
from tqdm import tqdm

from eval.baselines import total_variation
from eval.measure import about, grouped, lpips_of, markdown, mean
from eval.problems import Pictures
from indigo_jax import images, methods, metrics, operators, restoration, rng
from indigo_jax.methods.known import Problem

SIDE = 192  # of what is restored
_KERNEL = 21  # side of the blur's kernel
_BLUR_NOISE = 2.55  # of 255
_HOLE = 32  # side of the torn square
OURS, INPUT = "indigo", "the picture as it is"


class Damage(NamedTuple):
    """A damaged picture, uint8 or float32 0..255 ``[h, w, 3]``.

    Attributes:
        y: what a person has.
        truth: ``[H, W, 3]``.
        settings: what the person knows, for :func:`methods.load`.
        grey: one channel.
        shifts: pixels by which every answer may lie aside, since a blur of unknown kernel says nothing of the place.
        sigma: of the noise, of 255; BM3D is told, and total variation of a blur.
    """

    y: np.ndarray
    truth: np.ndarray
    settings: dict
    grey: bool = False
    shifts: int = 0
    sigma: float = 0.0


def _eight_bits(x):
    return np.clip(np.round(x), 0, 255)


def _seen(operator, picture):
    """What an operator makes of one picture."""
    return np.asarray(operator(jnp.asarray(picture[None], jnp.float32)))[0]


def _middle(image, margin=0):
    top, left = ((side - SIDE) // 2 - margin for side in image.shape[:2])
    return image[top:top + SIDE + 2 * margin, left:left + SIDE + 2 * margin].astype(np.float64)


def _noisy(sigma, kind="white"):
    def make(image, random):
        x = _middle(image)
        if kind == "grey file":
            x = np.repeat(np.round(x @ [[0.299], [0.587], [0.114]]), 3, axis=2)
        noise = random.standard_normal(x.shape)
        if kind in ("grain", "grey file"):
            noise = np.repeat(noise[..., :1], 3, axis=2)
        if kind == "correlated":
            noise = _seen(operators.gaussian_blur(0.6), noise)
            noise = noise / noise.std()
        return Damage(_eight_bits(x + sigma * noise), x, {}, kind == "grey file", sigma=sigma)
    return make


def _blurred(image, random, noise=_BLUR_NOISE):
    keys = rng.image_keys(int(random.integers(2**31)), [0])
    kernel = np.asarray(operators.motion_kernel(keys, size=_KERNEL, length=float(random.uniform(11, 19))))[0]
    margin = _KERNEL // 2
    y = _seen(operators.blur(kernel), _middle(image, margin))[margin:-margin, margin:-margin]
    y = _eight_bits(y + noise * random.standard_normal(y.shape))
    return Damage(y, _middle(image), {"kernel": kernel}, sigma=noise)


def _shaken(image, random):
    return _blurred(image, random)._replace(settings={}, shifts=3)


def _small(image, random):
    x = _middle(image)
    return Damage(_eight_bits(_seen(operators.downsample(4), x)), x, {})


def _compressed(quality):
    def make(image, random):
        x = _middle(image)
        return Damage(_eight_bits((_seen(operators.jpeg(quality), x / 127.5 - 1) + 1) * 127.5), x, {})
    return make


def _scribbled(image, random):
    """Random strokes over 5 % of the picture, painted white."""
    x, kept = _middle(image), np.ones((SIDE, SIDE), np.float32)
    while kept.mean() > 0.95:
        start, angle = random.uniform(0, SIDE, 2), random.uniform(0, 2 * np.pi)
        for t in np.arange(0, random.uniform(20, 80), 0.5):
            row, column = (start + t * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            angle += random.normal(0, 0.05)
            kept[max(row - 1, 0):max(row + 2, 0), max(column - 1, 0):max(column + 2, 0)] = 0
    return Damage(np.where(kept[..., None] > 0, x, 255.0), x, {"mask": kept})


def _torn(image, random):
    """A square somewhere, painted white."""
    x, kept = _middle(image), np.ones((SIDE, SIDE), np.float32)
    top, left = random.integers(0, SIDE - _HOLE, 2)
    kept[top:top + _HOLE, left:left + _HOLE] = 0
    return Damage(np.where(kept[..., None] > 0, x, 255.0), x, {"mask": kept})


# other methods: functions of (y 0..1, damage) that give one or several pictures
def _bm3d(y, damage):
    import bm3d
    if damage.grey:
        return [np.repeat(bm3d.bm3d(y[..., 0], damage.sigma / 255)[..., None], 3, axis=2)]
    return [bm3d.bm3d_rgb(y, damage.sigma / 255)]


def _opencv_nl_means(y, damage):
    import cv2
    return [cv2.fastNlMeansDenoisingColored(_bytes(255 * y), None, strength, strength) / 255
            for strength in (3, 10, 20)]


def _opencv_inpaint(kind):
    def fill(y, damage):
        import cv2
        hole = (damage.settings["mask"] == 0).astype(np.uint8)
        return [cv2.inpaint(_bytes(255 * y), hole, 3, getattr(cv2, f"INPAINT_{kind}")) / 255]
    return fill


def _edge_tapered(y, damage):
    """Wiener's filter of a picture whose border was blended with its own periodic blur, against ringing."""
    kernel = damage.settings["kernel"]
    blurred = _seen(operators.blur(kernel, boundary="periodic"), y)
    down, across = (np.minimum(1, (0.5 + np.minimum(np.arange(side), np.arange(side)[::-1])) / _KERNEL)
                    for side in y.shape[:2])
    share = (down[:, None] * across)[..., None]
    return _deconvolved(skimage.restoration.wiener, *_WIENER)(share * y + (1 - share) * blurred, damage)


def _total_variation_deconvolution(y, damage):
    operator = operators.blur(damage.settings["kernel"])
    sigma = jnp.array([damage.sigma / 127.5])
    problem = Problem(operator, jnp.asarray(2 * y[None] - 1, jnp.float32), None, sigma, y.shape)
    return [(np.asarray(total_variation("deblur", problem))[0] + 1) / 2]


def _lanczos(y, damage):
    larger = Image.fromarray(_bytes(255 * y)).resize(damage.truth.shape[1::-1], Image.Resampling.LANCZOS)
    return _unsharp(np.asarray(larger) / 255, damage)


def _nl_means(y, damage):
    sigma = float(restoration.noise_level(jnp.asarray(y[None], jnp.float32))[0])
    return [skimage.restoration.denoise_nl_means(y, h=factor * sigma, sigma=sigma, fast_mode=True, patch_size=5,
                                                 patch_distance=6, channel_axis=2) for factor in (0.6, 0.9)]


def _total_variation(y, damage):
    return [skimage.restoration.denoise_tv_chambolle(y, weight, channel_axis=2) for weight in (0.02, 0.05, 0.1, 0.2)]


def _deconvolved(solve, *strengths):
    def cheap(y, damage):
        return [np.stack([solve(y[..., c], damage.settings["kernel"], strength) for c in range(3)], axis=2)
                for strength in strengths]
    return cheap


def _bicubic(y, damage):
    return [(_seen(operators.upsample(4), 2 * y - 1) + 1) / 2]


def _unsharp(y, damage):
    return [skimage.filters.unsharp_mask(y, radius, amount, channel_axis=2)
            for radius in (1, 2, 4) for amount in (1, 2)]


def _biharmonic(y, damage):
    return [skimage.restoration.inpaint_biharmonic(y, damage.settings["mask"] == 0, channel_axis=2)]


_WIENER = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_BM3D = {"BM3D": _bm3d} if importlib.util.find_spec("bm3d") else {}
_OPENCV = importlib.util.find_spec("cv2") is not None
_DENOISERS = {"non-local means": _nl_means, "total variation": _total_variation,
              **({"OpenCV's non-local means": _opencv_nl_means} if _OPENCV else {}), **_BM3D}
_FILLERS = {"biharmonic": _biharmonic, **({"OpenCV, Telea": _opencv_inpaint("TELEA"),
                                           "OpenCV, Navier-Stokes": _opencv_inpaint("NS")} if _OPENCV else {})}
_SHARPENERS = {"Wiener": _deconvolved(skimage.restoration.wiener, *_WIENER), "Wiener, edges tapered": _edge_tapered,
               "Richardson-Lucy": _deconvolved(skimage.restoration.richardson_lucy, 10, 20, 40),
               "total variation": _total_variation_deconvolution}


class Task(NamedTuple):
    """A line of the table: the ``--task`` that a person says, what is wrong, how it is made, the cheap methods."""

    task: str
    title: str
    make: Callable
    cheap: dict[str, Callable]


TASKS = (
    *(Task("denoise", f"noise, sigma {sigma}", _noisy(sigma), _DENOISERS) for sigma in (5, 10, 15, 25, 50)),
    Task("denoise", "film grain, sigma 25", _noisy(25, "grain"), _DENOISERS),
    Task("denoise", "grey file, sigma 25", _noisy(25, "grey file"), _DENOISERS),
    Task("denoise", "correlated noise, sigma 25", _noisy(25, "correlated"), _DENOISERS),
    Task("denoise", "nothing wrong", _noisy(0), {}),
    Task("auto", "nothing wrong, nothing said", _noisy(0), {}),
    Task("deblur", "known blur, 11 to 19 px, 1 % noise", _blurred, _SHARPENERS),
    Task("deblur", "known blur, 11 to 19 px, 3 % noise", functools.partial(_blurred, noise=3 * _BLUR_NOISE),
         _SHARPENERS),
    Task("deblur", "unknown blur, 11 to 19 px, 1 % noise", _shaken, {"unsharp masking": _unsharp}),
    Task("sr", "4x smaller, bicubic", _small, {"bicubic": _bicubic, "Lanczos, unsharp": _lanczos}),
    Task("jpeg", "JPEG, quality 10", _compressed(10), {"total variation": _total_variation}),
    Task("jpeg", "JPEG, quality 75", _compressed(75), {"total variation": _total_variation}),
    *(Task("auto", f"JPEG, quality {quality}, nothing said", _compressed(quality),
           {"total variation": _total_variation}) for quality in (30, 90)),
    Task("inpaint", "scribbles over 5 %", _scribbled, _FILLERS),
    Task("inpaint", f"a hole of {_HOLE} x {_HOLE} px", _torn, _FILLERS))


def measure(pictures: Pictures, *, seed: int = 0, lpips=None, tasks=TASKS) -> list[dict]:
    """One row per task, picture and method: ``{"task", "picture", "method", "psnr", "lpips", "seconds"}``.

    Of a method with several strengths the seconds are those of one; what is compiled for the first picture counts.

    Args:
        pictures: clean ones of at least 220 px a side.
        seed: of all damage, together with the name of the picture and the task.
        lpips: callable ``(a, b) -> [B]`` of uint8, or None.
        tasks: of :data:`TASKS`.
    """
    rows, psnr = [], metrics.by_name("psnr")
    jobs = [(task, name, image) for task in tasks for name, image in zip(pictures.names, pictures.images)]
    for task, name, image in tqdm(jobs, unit="picture", mininterval=1.0):
        damage = task.make(image, np.random.default_rng([seed, rng.name_id(f"{name} {task.title}")]))
        truth = _bytes(damage.truth)[None]
        for method, (found, seconds) in _answers(task, damage).items():
            best, shown = max(((float(psnr(one[None], truth)[0]), one) for one in map(_bytes, found)),
                              key=lambda each: each[0])
            rows.append({"task": task.title, "picture": name, "method": method, "psnr": best,
                         "lpips": None if lpips is None else float(lpips(shown[None], truth)[0]),
                         "seconds": seconds})
    return rows


def _bytes(picture):
    return _eight_bits(picture).astype(np.uint8)


_load = functools.cache(methods.load)


def restored(task: Task, damage: Damage) -> tuple[str, list[np.ndarray], float]:
    """What ``--method auto`` makes of it: its name, the picture (0..255, a list of one), the seconds."""
    choice = methods.choose(task.task, tuple(damage.settings))
    load = methods.load if damage.settings else _load
    restore = load(choice.method, task=task.task, **damage.settings)
    since = time.perf_counter()
    found, _ = restore(images.Picture((damage.y / 127.5 - 1).astype(np.float32), grey=damage.grey))
    return f"{OURS} ({choice.method})", [(found.pixels + 1) * 127.5], time.perf_counter() - since


def _answers(task, damage):
    """``{method: (pictures 0..255, seconds for one)}``; of several the best is shown."""
    y, same_size = damage.y / 255, damage.y.shape == damage.truth.shape
    answers = {INPUT: ([damage.y], 0.0)} if same_size else {}
    for name, function in task.cheap.items():
        since = time.perf_counter()
        found = function(y, damage)
        answers[name] = [255 * np.clip(one, 0, 1) for one in found], (time.perf_counter() - since) / len(found)
    name, found, seconds = restored(task, damage)
    answers[name] = found, seconds
    shifts = range(-damage.shifts, damage.shifts + 1)
    moves = [(down, right) for down in shifts for right in shifts]
    return {name: ([np.roll(one, move, (0, 1)) for one in found for move in moves], seconds)
            for name, (found, seconds) in answers.items()}


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method; bold the best of a task."""
    with_lpips = any(row["lpips"] is not None for row in rows)
    columns, lines = ["what is wrong", "method", "PSNR, dB", "worst picture against the best other"], []
    for title, by_method in grouped(rows, "task", "method").items():
        best = max(mean(each, "psnr") for each in by_method.values())
        for i, (method, each) in enumerate(by_method.items()):
            value = _shown(each)
            cells = [title if i == 0 else "", method, f"**{value}**" if mean(each, "psnr") == best else value, ""]
            if method.startswith(OURS):
                others = [max(row["psnr"] for row in rows) for rows in zip(*(
                    other for name, other in by_method.items() if not name.startswith(OURS)))]
                worst = min(row["psnr"] - other for row, other in zip(each, others))
                cells[-1] = f"{worst:+.2f}" if np.isfinite(worst) else ""
            if with_lpips:
                cells.append(f"{mean(each, 'lpips'):.4f}")
            lines.append([*cells, f"{np.median([row['seconds'] for row in each]):.2g}"])
    return markdown([*columns, *["LPIPS"] * with_lpips, "seconds"], lines)


def _shown(rows):
    """The mean PSNR; of pictures that came back as they were, how many."""
    finite = [row for row in rows if np.isfinite(row["psnr"])]
    same = f"{len(rows) - len(finite)} of {len(rows)} identical" if len(finite) < len(rows) else ""
    return "; ".join(filter(None, (f"{mean(finite, 'psnr'):.2f}" if finite else "", same)))


def table(args, pictures: Pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    rows = measure(pictures, seed=args.seed, lpips=lpips_of(args.lpips))
    notes = ("`indigo restore --task ...` with the bundled weights and nothing else said but the kernel and the mask, "
             f"on the middle {SIDE} x {SIDE} of {about(pictures)}; inputs and results are rounded to 8 bits. Of the "
             "other methods (scikit-image, OpenCV, and BM3D told the true level) the best of several strengths is "
             "shown, chosen on the truth, picture by picture. Seconds: the median, beside other work on two cores.")
    return "people", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
