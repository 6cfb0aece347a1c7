"""Transparency: the colours below it, and its size beside an enlarged picture."""
import numpy as np
from PIL import Image


def fill_hidden(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Replace the colours that nobody sees (alpha 0) by those of their visible surroundings.

    Files store anything under transparent pixels, often black; a network that blurs or sharpens across the edge would
    draw a halo from it. Visible pixels stay as they are. (Push-pull: fill from half the resolution, recursively.)

    Args:
        pixels: float ``[H, W, 3]``.
        alpha: float ``[H, W]`` in [0, 1].

    Returns:
        float32 ``[H, W, 3]``; unchanged where everything is visible, or nothing.

    >>> pixels = np.array([[[0.5, 0.0, 0.5], [-1.0, -1.0, -1.0]]])
    >>> fill_hidden(pixels, np.array([[1.0, 0.0]]))[0, 1].tolist()
    [0.5, 0.0, 0.5]
    """
    pixels, weight = np.asarray(pixels, np.float32), (np.asarray(alpha) > 0).astype(np.float32)[..., None]
    if weight.all() or not weight.any():
        return pixels
    return np.where(weight > 0, pixels, _pull(pixels * weight, weight))


def to_measure(restored, reference):
    """Two pictures as they are compared: what nobody sees of the reference is the same in both.

    Args:
        restored, reference: :class:`indigo_jax.images.Picture` of one size. What is hidden is told by the reference's
            alpha, or by that of the restored picture where the reference has none.

    Returns:
        The pixels of both, and bool ``[H, W]``, which of them are seen; None where all are, or sizes differ.
    """
    alpha = restored.alpha if reference.alpha is None else reference.alpha
    a, b = restored.pixels, reference.pixels
    if alpha is None or a.shape != b.shape or (np.asarray(alpha) > 0).all():
        return a, b, None
    visible = np.asarray(alpha) > 0
    b = fill_hidden(b, visible)
    return np.where(visible[..., None], a, b), b, visible


def resize_alpha(alpha: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize transparency ``[h, w]`` to ``[height, width]`` (bicubic, clipped to [0, 1]) beside an enlarged picture."""
    image = Image.fromarray(np.asarray(alpha, np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)), 0.0, 1.0)


def _pull(pixels, weight):
    """Weighted means over 2 x 2 blocks, filled recursively, brought back to this size."""
    height, width = weight.shape[:2]
    if height == width == 1:
        return pixels
    both = np.pad(np.concatenate([pixels, weight], axis=-1), [(0, height % 2), (0, width % 2), (0, 0)])
    sums = both[::2, ::2] + both[1::2, ::2] + both[::2, 1::2] + both[1::2, 1::2]
    coarse_weight = (sums[..., -1:] > 0).astype(np.float32)
    coarse = sums[..., :-1] / np.maximum(sums[..., -1:], 1)
    if not coarse_weight.all():
        coarse = np.where(coarse_weight > 0, coarse, _pull(coarse, coarse_weight))
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
