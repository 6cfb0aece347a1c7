"""The table for people with damaged photographs: ``--method auto`` beside the picture as it is and what else they have.

Bundled weights, nothing tuned on the truth but the cheap methods: of those that have a knob, the best of several is
shown. Blurred pictures are cut out of larger ones, so that no border is that of a solver.
"""
import functools
from typing import Callable, NamedTuple

import jax.numpy as jnp
import numpy as np
import skimage.filters
import skimage.restoration
from tqdm import tqdm

from eval.measure import about, grouped, lpips_of, markdown, mean
from eval.problems import Pictures
from indigo_jax import images, methods, metrics, operators, restoration, rng

SIDE = 192  # of what is restored
_KERNEL = 21  # side of the blur's kernel
_BLUR_NOISE = 2.55  # of 255
OURS, INPUT = "indigo", "the picture as it is"


class Damage(NamedTuple):
    """A damaged picture, uint8 or float32 0..255 ``[h, w, 3]``.

    Attributes:
        y: what a person has.
        truth: ``[H, W, 3]``.
        settings: what the person knows, for :func:`methods.load`.
        grey: one channel.
        shifts: pixels by which every answer may lie aside, since a blur of unknown kernel says nothing of the place.
    """

    y: np.ndarray
    truth: np.ndarray
    settings: dict
    grey: bool = False
    shifts: int = 0


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
        return Damage(_eight_bits(x + sigma * noise), x, {}, kind == "grey file")
    return make


def _blurred(image, random):
    keys = rng.image_keys(int(random.integers(2**31)), [0])
    kernel = np.asarray(operators.motion_kernel(keys, size=_KERNEL, length=float(random.uniform(11, 19))))[0]
    margin = _KERNEL // 2
    y = _seen(operators.blur(kernel), _middle(image, margin))[margin:-margin, margin:-margin]
    y = _eight_bits(y + _BLUR_NOISE * random.standard_normal(y.shape))
    return Damage(y, _middle(image), {"kernel": kernel})


def _shaken(image, random):
    return _blurred(image, random)._replace(settings={}, shifts=3)


def _small(image, random):
    x = _middle(image)
    return Damage(_eight_bits(_seen(operators.downsample(4), x)), x, {})


def _compressed(image, random):
    x = _middle(image)
    return Damage(_eight_bits((_seen(operators.jpeg(10), x / 127.5 - 1) + 1) * 127.5), x, {})


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


# cheap methods: functions of (y 0..1, damage) that give one or several pictures
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


_DENOISERS = {"non-local means": _nl_means, "total variation": _total_variation}


class Task(NamedTuple):
    """A line of the table: the ``--task`` that a person says, what is wrong, how it is made, the cheap methods."""

    task: str
    title: str
    make: Callable
    cheap: dict[str, Callable]


TASKS = (
    *(Task("denoise", f"noise, sigma {sigma}", _noisy(sigma), _DENOISERS) for sigma in (5, 15, 25, 50)),
    Task("denoise", "film grain, sigma 25", _noisy(25, "grain"), _DENOISERS),
    Task("denoise", "grey file, sigma 25", _noisy(25, "grey file"), _DENOISERS),
    Task("denoise", "correlated noise, sigma 25", _noisy(25, "correlated"), _DENOISERS),
    Task("denoise", "nothing wrong", _noisy(0), {}),
    Task("deblur", "known blur, 11 to 19 px, 1 % noise", _blurred,
         {"Wiener": _deconvolved(skimage.restoration.wiener, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
          "Richardson-Lucy": _deconvolved(skimage.restoration.richardson_lucy, 10, 20, 40)}),
    Task("deblur", "unknown blur, 11 to 19 px, 1 % noise", _shaken, {"unsharp masking": _unsharp}),
    Task("sr", "4x smaller, bicubic", _small, {"bicubic": _bicubic}),
    Task("jpeg", "JPEG, quality 10", _compressed, {"total variation": _total_variation}),
    Task("inpaint", "scribbles over 5 %", _scribbled, {"biharmonic": _biharmonic}))


def measure(pictures: Pictures, *, seed: int = 0, lpips=None, tasks=TASKS) -> list[dict]:
    """One row per task, picture and method: ``{"task", "picture", "method", "psnr", "lpips"}``.

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
        for method, found in _answers(task, damage).items():
            best, shown = max(((float(psnr(one[None], truth)[0]), one) for one in map(_bytes, found)),
                              key=lambda each: each[0])
            rows.append({"task": task.title, "picture": name, "method": method, "psnr": best,
                         "lpips": None if lpips is None else float(lpips(shown[None], truth)[0])})
    return rows


def _bytes(picture):
    return _eight_bits(picture).astype(np.uint8)


_load = functools.cache(methods.load)


def _answers(task, damage):
    """``{method: pictures 0..255}``; of several the best is shown."""
    y, same_size = damage.y / 255, damage.y.shape == damage.truth.shape
    answers = {INPUT: [damage.y]} if same_size else {}
    for name, function in task.cheap.items():
        answers[name] = [255 * np.clip(one, 0, 1) for one in function(y, damage)]
    choice = methods.choose(task.task, tuple(damage.settings))
    load = methods.load if damage.settings else _load
    restore = load(choice.method, task=task.task, **damage.settings)
    restored, _ = restore(images.Picture((damage.y / 127.5 - 1).astype(np.float32), grey=damage.grey))
    answers[f"{OURS} ({choice.method})"] = [(restored.pixels + 1) * 127.5]
    shifts = range(-damage.shifts, damage.shifts + 1)
    return {name: [np.roll(one, (down, right), (0, 1)) for one in each for down in shifts for right in shifts]
            for name, each in answers.items()}


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method; bold the best of a task."""
    with_lpips = any(row["lpips"] is not None for row in rows)
    columns, lines = ["what is wrong", "method", "PSNR, dB", "worst picture against the best other"], []
    for title, by_method in grouped(rows, "task", "method").items():
        best = max(mean(each, "psnr") for each in by_method.values())
        for i, (method, each) in enumerate(by_method.items()):
            value = f"{mean(each, 'psnr'):.2f}" if np.isfinite(mean(each, "psnr")) else "identical"
            cells = [title if i == 0 else "", method, f"**{value}**" if mean(each, "psnr") == best else value, ""]
            if method.startswith(OURS):
                others = [max(row["psnr"] for row in rows) for rows in zip(*(
                    other for name, other in by_method.items() if not name.startswith(OURS)))]
                worst = min(row["psnr"] - other for row, other in zip(each, others))
                cells[-1] = f"{worst:+.2f}" if np.isfinite(worst) else ""
            if with_lpips:
                cells.append(f"{mean(each, 'lpips'):.4f}")
            lines.append(cells)
    return markdown(columns + ["LPIPS"] * with_lpips, lines)


def table(args, pictures: Pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    rows = measure(pictures, seed=args.seed, lpips=lpips_of(args.lpips))
    notes = ("`indigo restore --task ...` with the bundled weights and nothing else said but the kernel and the mask, "
             f"on the middle {SIDE} x {SIDE} of {about(pictures)}; inputs and results are rounded to 8 bits. Of the "
             "other methods (scikit-image) the best of several strengths is shown, chosen on the truth, picture by "
             "picture.")
    return "people", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
