"""What all figures share: matplotlib where it is installed, colours, rows of pictures, curves, files."""
import io
import pathlib

import numpy as np

from eval import command
from eval.measure import psnr_of

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # distinct for the colour-blind, too


def pyplot():
    """``matplotlib.pyplot``, without a screen.

    Errors:
        ImportError that names the extra to install.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "indigo_jax[train]"') from error
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot


def chosen_steps(count: int, shown: int = 7) -> list[int]:
    """At most ``shown`` of ``1 .. count``, denser at the beginning, both ends among them.

    >>> chosen_steps(100)
    [1, 2, 5, 10, 22, 46, 100]
    """
    return sorted({int(round(step)) for step in np.geomspace(1, count, shown)})


def way(title: str, unit: str, measured, x0, truth) -> tuple:
    """A row for :func:`strips`: the measurement, estimates on the way with their PSNR, the truth.

    Args:
        title: of the row.
        unit: what is counted.
        measured, x0, truth: in [-1, 1]; ``[h, w, 3]``, ``[N, H, W, 3]``, ``[H, W, 3]``.
    """
    def below(x):
        return f"{psnr_of(np.clip(x, -1, 1)[None], truth[None])[0]:.1f} dB" if x.shape == truth.shape else ""

    shown = [(measured, "measured"), *((x0[step - 1], f"{unit} {step}") for step in chosen_steps(len(x0)))]
    return title, [(x, name, below(x)) for x, name in shown] + [(truth, "truth", "")]


def strips(rows, *, title: str = "", side: float = 1.55, below: float = 0.0):
    """A figure with rows of pictures, and its axes below them, or None.

    Args:
        rows: ``(label, [(image, title, text below), ...])`` each; images float ``[H, W, 3]`` in [-1, 1], uint8
            ``[H, W, 3]``, or kernels ``[n, n]``.
        title: of the figure.
        side: of a picture, inches.
        below: height of the axes below, inches; 0 for none.
    """
    columns = max(len(cells) for _, cells in rows)
    figure = pyplot().figure(figsize=(side * columns, (side + 0.4) * len(rows) + below), layout="constrained")
    grid = figure.add_gridspec(len(rows) + bool(below), columns, height_ratios=[1] * len(rows) + [1.3] * bool(below))
    for row, (label, cells) in enumerate(rows):
        for column, (image, above, text) in enumerate(cells):
            ax = figure.add_subplot(grid[row, column])
            image = np.asarray(image)
            in_range = image.ndim == 3 and image.dtype != np.uint8
            ax.imshow(np.clip(image / 2 + 0.5, 0, 1) if in_range else image, cmap="magma", interpolation="nearest")
            ax.set_title(above, fontsize=8)
            ax.set_xlabel(text, fontsize=8, labelpad=2)
            ax.set_ylabel("" if column else label, fontsize=8)
            ax.set(xticks=(), yticks=())
    figure.suptitle(title, fontsize=9)
    return figure, figure.add_subplot(grid[-1, :]) if below else None


def curves(ax, lines, x_label: str, y_label: str, *, dashed: str = "") -> None:
    """Lines ``{name: (x, y)}``, each in its colour, with legend and names of the axes; ``dashed`` names one of them."""
    for (name, points), colour in zip(lines.items(), COLOURS):
        ax.plot(*points, "--" if name == dashed else "-", color=colour, label=name, linewidth=1.4, marker=".")
    ax.set_xlabel(x_label, fontsize=9)
    ax.set_ylabel(y_label, fontsize=9)
    ax.legend(fontsize=8)
    ax.grid(color="0.92", linewidth=0.6)


def save(figure, path) -> None:
    """Write a figure as PNG, or as the JPEG that its name says, whole or not at all, and forget it."""
    content = io.BytesIO()
    if pathlib.Path(path).suffix == ".jpg":
        figure.savefig(content, format="jpg", dpi=120, pil_kwargs={"quality": 90})
    else:
        figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    pyplot().close(figure)
    command.write(path, content.getvalue())
    print(path)
