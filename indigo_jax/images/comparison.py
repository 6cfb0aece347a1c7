"""Pictures beside one another, to be looked at."""
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from indigo_jax.images.picture import to_float


def side_by_side(pictures, labels=None, *, gap: int = 4) -> np.ndarray:
    """Pictures in a row, to compare before with after.

    Args:
        pictures: arrays ``[h, w, 3]`` float in [-1, 1] (or ``[h, w]``, ``[h, w, 1]``). Those of at most half the
            largest height and width are enlarged by a whole factor, so that each pixel stays a square.
        labels: one text above each, or None.
        gap: white pixels between them.

    Returns:
        float32 ``[H, W, 3]`` in [-1, 1].

    >>> before, after = np.zeros([2, 3, 3]), np.zeros([4, 6, 3])
    >>> side_by_side([before, after], gap=1).shape
    (4, 13, 3)
    """
    return grid([pictures], labels, gap=gap)


def side_by_side_size(height: int, width: int, columns: int, *, gap: int = 4) -> tuple[int, int]:
    """Height and width of :func:`side_by_side` with labels, of so many pictures of at most ``height x width``.

    >>> pictures = [np.zeros([30, 20, 3])] * 2
    >>> side_by_side(pictures, ["before", "after"]).shape[:2] == side_by_side_size(30, 20, 2)
    True
    """
    size = _text_size(height)
    return size + size // 2 + height, columns * (width + gap) - gap


def grid(rows, labels=None, *, gap: int = 4) -> np.ndarray:
    """Rows of pictures, all in cells of one size; ``labels`` stand above the first row. See :func:`side_by_side`."""
    rows = [[_rgb(picture) for picture in row] for row in rows]
    if not rows or not all(rows):
        raise ValueError("a grid needs at least one row, and each row at least one picture")
    columns = max(len(row) for row in rows)
    if labels is not None and len(labels) != columns:
        raise ValueError(f"{len(labels)} labels for {columns} columns; give one for each")
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    canvas = np.ones([len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3], np.float32)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            factor = min(height // picture.shape[0], width // picture.shape[1])
            picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = i * (height + gap), j * (width + gap)
            canvas[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    if labels is None:
        return canvas
    return np.concatenate([_labels(labels, canvas.shape[1], width + gap, height), canvas])


def _rgb(picture):
    picture = np.asarray(picture, np.float32)
    picture = picture[..., None] if picture.ndim == 2 else picture
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise ValueError(f"a picture is [H, W, 3], [H, W, 1] or [H, W], not {list(picture.shape)}")
    return np.broadcast_to(np.clip(picture, -1, 1), picture.shape[:2] + (3,))


def _text_size(height):
    return int(np.clip(height // 12, 10, 40))


def _labels(labels, width, step, height):
    size = _text_size(height)
    strip = Image.new("L", (width, size + size // 2), 255)
    draw = ImageDraw.Draw(strip)
    for j, label in enumerate(labels):
        draw.text((j * step + 2, 0), label, fill=0, font=ImageFont.load_default(size))
    return np.repeat(to_float(np.asarray(strip))[..., None], 3, axis=-1)
