"""What a picture becomes before Inception sees it: FID changes by whole units with the resampling."""
import numpy as np

from indigo_jax.metrics.inputs import check_finite, check_shapes, to_255
from indigo_jax.typing import Image

SIDE = 299  # pixels
RESIZES = ("clean", "legacy")


def inception_input(x: Image, *, resize: str = "clean") -> np.ndarray:
    """Pictures as the network of FID takes them: float32 ``[B, 299, 299, 3]``.

    ``"clean"``: Pillow's bicubic filter, widened when it shrinks, on floats, cut to 0..255; then ``(v - 128) / 128``.
    ``"legacy"``: bilinear between the nearest pixels however much it shrinks; then ``v / 127.5 - 1``, as pytorch-fid.
    The two give other numbers: say which beside a value.

    Args:
        x: float ``[B, H, W, 3]`` in ``[-1, 1]``, clipped and rounded to 0..255 as in a picture file, or uint8; one
            channel is repeated three times.
        resize: ``"clean"`` or ``"legacy"``.

    Errors:
        ValueError: another shape, NaN or infinity, an unknown way to resize.

    Source: Parmar, Zhang and Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022.
    """
    x = np.asarray(x)
    check_shapes(x, x)
    check_finite("x", x)
    if resize not in RESIZES:
        raise ValueError(f"unknown resize {resize!r}; use {' or '.join(RESIZES)}")
    x = to_255(x, "rgb", 0, True, False)
    x = np.stack([(_clean if resize == "clean" else _legacy)(image) for image in x])
    x = np.repeat(x, 3 // x.shape[3], axis=3)
    return ((x - 128.0) / 128.0 if resize == "clean" else x / 127.5 - 1.0).astype(np.float32)


def _clean(image):
    from PIL import Image as pictures
    planes = [pictures.fromarray(image[..., c].astype(np.float32)).resize((SIDE, SIDE), pictures.Resampling.BICUBIC)
              for c in range(image.shape[2])]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=-1), 0.0, 255.0)


def _legacy(image):
    for _ in range(2):
        size = image.shape[0]
        place = np.clip((np.arange(SIDE) + 0.5) * size / SIDE - 0.5, 0.0, size - 1.0)
        low = np.floor(place).astype(np.int64)
        high, weight = np.minimum(low + 1, size - 1), (place - low)[:, None, None]
        image = ((1.0 - weight) * image[low] + weight * image[high]).swapaxes(0, 1)
    return image
