"""Peak signal-to-noise ratio."""
import jax.numpy as jnp
import numpy as np

from indigo_jax.metrics.inputs import pair_255, weights_of
from indigo_jax.typing import Array, Image


def psnr(a: Image, b: Image, *, channel: str = "rgb", border: int = 0, round_uint8: bool = True,
         round_luma: bool = False, visible=None) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, in dB, computed on the host in float64.

    ``PSNR = 10 log10(255^2 / mean((a - b)^2))``, the mean over all pixels and channels of one image.

    Args:
        a, b: float ``[B, H, W, 3]`` in ``[-1, 1]`` or uint8 ``[B, H, W, 3]``, in either order; on the host or a device.
        channel: ``"rgb"``: the channels as they are; ``"y"``: BT.601 luma in the limited range,
            ``16 + (65.481 R + 128.553 G + 24.966 B) / 255``, as in papers on super-resolution; ``"gray"``: BT.601 luma
            in the full range, ``0.299 R + 0.587 G + 0.114 B``.
        border: pixels cut off each side (papers on super-resolution cut the scale factor).
        round_uint8: clip to 0..255 and round first, as a picture file does. ``False`` measures the floats as given,
            neither clipped nor rounded.
        round_luma: round the luma too, as MATLAB's ``rgb2ycbcr`` and ``rgb2gray`` do on uint8 (BasicSR does not).
        visible: bool ``[B, H, W]``, the pixels that count; None: all.

    Returns:
        float64 ``[B]``. Identical images have ``inf`` (not a cap such as 80 or 100 dB, which would be mistaken for
        a measurement).

    Errors:
        ValueError: unlike shapes (nothing is resized), NaN or infinity, an impossible border, an unknown channel.

    Differs from the reference in: BasicSR's torch version adds 1e-8 to the error and so ends at 80 dB; on two
    different 8-bit images the two agree.

    >>> a, b = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)
    >>> b[0] = 1
    >>> psnr(a, b).round(4).tolist()
    [48.1308, inf]
    """
    counts = weights_of(visible, a, border)
    a, b = pair_255(a, b, channel=channel, border=border, round_uint8=round_uint8, round_luma=round_luma)
    error = np.mean((a - b) ** 2, axis=(1, 2, 3)) if counts is None else [
        np.mean((x - y)[inside] ** 2) for x, y, inside in zip(a, b, counts)]
    return np.array([10.0 * np.log10(255.0 ** 2 / e) if e > 0 else np.inf for e in error], np.float64)


def psnr_jax(a: Image, b: Image, *, border: int = 0, round_uint8: bool = False) -> Array:
    """RGB PSNR of each image in float32, for use inside ``jit``: within about 1e-4 dB of :func:`psnr`.

    ``PSNR = 10 log10(4 / mean((a - b)^2))``: 4 is the squared range of ``[-1, 1]``.

    Args:
        a, b: float ``[B, H, W, C]`` in ``[-1, 1]``.
        border: pixels cut off each side.
        round_uint8: clip and round to the 256 values of a picture file first (its gradient is zero).

    Returns:
        float32 ``[B]``; identical images have ``inf``, NaN stays NaN (values cannot be refused inside ``jit``).

    Errors:
        ValueError: unlike shapes, or a border that leaves nothing.

    >>> float(psnr_jax(jnp.zeros((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 0.2)).round(3)[0])
    20.0
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"psnr_jax takes two batches [B, H, W, C] of one shape, got {a.shape} and {b.shape}")
    if border < 0 or 2 * border >= min(a.shape[1:3]):
        raise ValueError(f"border={border} leaves nothing of images of {a.shape[1]} x {a.shape[2]} pixels")

    def prepare(x):
        x = x[:, border:x.shape[1] - border, border:x.shape[2] - border].astype(jnp.float32)
        return jnp.rint((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5) / 127.5 - 1.0 if round_uint8 else x

    error = jnp.mean(jnp.square(prepare(a) - prepare(b)), axis=(1, 2, 3))
    return 10.0 * jnp.log10(4.0 / error)
