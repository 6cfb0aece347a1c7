"""The table of captured shakes: photographs of a shaken camera whose truth and kernels are known, as Levin et al. took
them (Understanding and evaluating blind deconvolution algorithms, CVPR 2009)."""
import pathlib
import time

import numpy as np
from tqdm import tqdm

from eval.measure import aligned_psnr, grouped, markdown, mean
from indigo_jax import images, methods

INPUT, FOUND, TOLD = "the picture as it is", "blind", "hqs, told the captured kernel"
_SHIFT = 5  # pixels by which an answer may lie aside: a blur of unknown kernel says nothing of the place


def pairs(folder: str) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """``(name, blurred, truth, kernel)`` of files ``PICTURE_KERNEL.png`` beside ``gt/PICTURE.png`` and
    ``gt/KERNEL.png``; pictures in [-1, 1] ``[H, W, 3]``, kernels of sum 1 as the files have them (of Levin's some
    are those of a correlation, some of a convolution).

    Errors:
        FileNotFoundError where there is no such file.
    """
    root, found = pathlib.Path(folder), []
    for path in sorted(root.glob("*_*.png")):
        picture, kernel = path.stem.split("_")
        taps = images.read(root / "gt" / f"{kernel}.png").pixels[..., 0] + 1.0
        found.append((path.stem, images.read(path).pixels, images.read(root / "gt" / f"{picture}.png").pixels,
                      taps / taps.sum()))
    if not found:
        raise FileNotFoundError(f"{folder} has no files PICTURE_KERNEL.png beside gt/PICTURE.png and gt/KERNEL.png")
    return found


def measure(folder: str, *, limit: int | None = None) -> list[dict]:
    """One row per picture and method: ``{"picture", "method", "psnr", "ratio", "seconds"}``. The ratio is that of the
    squared error to the one with the captured kernel."""
    rows, found = [], pairs(folder)[:limit]
    blind, indi = (methods.load(name, task="deblur") for name in ("blind", "indi"))
    for name, y, truth, kernel in tqdm(found, unit="picture"):
        known = methods.load("hqs", task="deblur", kernel=kernel.astype(np.float32), kernel_is="auto")
        answers = {INPUT: lambda picture: (picture, None), "indi": indi, FOUND: blind, TOLD: known}
        of_one = []
        for method, restore in answers.items():
            since = time.perf_counter()
            restored, _ = restore(images.Picture(y, grey=True))
            psnr = float(aligned_psnr(restored.pixels[None], truth[None], shift=_SHIFT)[0])
            of_one.append({"picture": name, "method": method, "psnr": psnr, "seconds": time.perf_counter() - since})
        rows += [{**row, "ratio": 10**((of_one[-1]["psnr"] - row["psnr"]) / 10)} for row in of_one]
    return rows


def to_markdown(rows: list[dict]) -> str:
    """A line per method: the mean, each picture, how many have an error ratio below 3."""
    names, lines = list(dict.fromkeys(row["picture"] for row in rows)), []
    for method, by_picture in grouped(rows, "method", "picture").items():
        each = [row for (row,) in by_picture.values()]
        below = sum(row["ratio"] < 3 for row in each)
        lines.append([method, f"{mean(each, 'psnr'):.2f}", f"{below} of {len(each)}",
                      *(f"{row['psnr']:.1f}" for row in each), f"{np.median([row['seconds'] for row in each]):.2g}"])
    return markdown(["method", "PSNR, dB", "error ratio below 3", *names, "seconds"], lines)


def table(args, pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    del pictures, path
    if args.data is None:
        raise ValueError("--method captured needs --data, a folder of files PICTURE_KERNEL.png and gt/")
    rows = measure(args.data, limit=args.limit)
    notes = (f"PSNR at the best of all moves by at most {_SHIFT} pixels, without an eighth of the side at each border. "
             "Error ratio: squared error over that with the captured kernel, of the same splitting. Bundled weights, "
             "nothing said but `--task deblur`. Seconds: the median, beside other work on two cores.")
    return "captured", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
