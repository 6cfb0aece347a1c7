"""What all figures share: matplotlib where it is installed, colours, files."""
import pathlib

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


def show(ax, image, title: str, below: str = "") -> None:
    """A picture in [0, 1] with a line of text above and below."""
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title, fontsize=8)
    ax.set_xlabel(below, fontsize=8, labelpad=2)
    ax.set(xticks=(), yticks=())


def save(figure, path) -> None:
    """Write a figure as PNG, whole or not at all, and forget it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        pyplot().close(figure)
    print(path)
