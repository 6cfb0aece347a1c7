"""Structural similarity."""
import numpy as np

from indigo_jax.metrics.inputs import pair_255, weights_of
from indigo_jax.typing import Image

_WINDOW = 11
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
_STRIP = 64  # output rows at a time: keeps the working set small on large pictures


def ssim(a: Image, b: Image, *, channel: str = "rgb", border: int = 0, round_uint8: bool = True,
         round_luma: bool = False, visible=None) -> np.ndarray:
    """Mean structural similarity of each image, computed on the host in float64.

    ``SSIM = (2 m_a m_b + C1)(2 c_ab + C2) / ((m_a^2 + m_b^2 + C1)(v_a + v_b + C2))`` with means, (population)
    variances and covariance under an 11 x 11 Gaussian window of sigma 1.5, ``C1 = (0.01 255)^2``,
    ``C2 = (0.03 255)^2``; averaged over the windows that lie wholly inside the image, then over channels. The
    image is not reduced first.

    Args:
        a, b: float ``[B, H, W, 3]`` in ``[-1, 1]`` or uint8 ``[B, H, W, 3]``, in either order; on the host or a device.
        channel, border, round_uint8, round_luma: as in :func:`indigo_jax.metrics.psnr`. ``"rgb"`` is the mean of
            the three channels' values.
        visible: bool ``[B, H, W]``: windows count whose middle pixel does; None: all.

    Returns:
        float64 ``[B]`` in ``[-1, 1]``. Identical images have exactly 1.

    Errors:
        ValueError: unlike shapes (nothing is resized), NaN or infinity, fewer than 11 pixels on a side (after the
            border is cut), an unknown channel.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004,
    eq. 13 and section III-C. Equal to scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)`` (which cuts the same 5 pixels off its map) and to BasicSR.
    Differs from the reference in: the later MATLAB script reduces large images before measuring; this does not.

    >>> a = np.full((1, 16, 16, 3), 100, np.uint8)
    >>> ssim(a, a).tolist(), ssim(a, a + np.uint8(50)).round(4).tolist()
    ([1.0], [0.9231])
    """
    counts = weights_of(visible, a, border)
    a, b = pair_255(a, b, channel=channel, border=border, round_uint8=round_uint8, round_luma=round_luma)
    if min(a.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs at least {_WINDOW} x {_WINDOW} pixels, got {a.shape[1]} x {a.shape[2]}"
                         + (f" after cutting a border of {border}" if border else ""))
    half, channels = _WINDOW // 2, range(a.shape[3])
    if counts is None:
        counts = np.ones(a.shape[:3], bool)
    counts = counts[:, half:-half, half:-half]
    if not counts.any(axis=(1, 2)).all():
        raise ValueError(f"no pixel is visible {half} pixels away from the sides: there is no window to measure")
    return np.array([np.mean([_plane(x[..., c], y[..., c], inside) for c in channels])
                     for x, y, inside in zip(a, b, counts)], np.float64)


def _plane(x, y, counts):
    """SSIM of one channel ``[H, W]`` in 0..255, strip by strip, over the windows ``[H - 10, W - 10]`` that count."""
    rows, total = x.shape[0] - _WINDOW + 1, 0.0
    for top in range(0, rows, _STRIP):
        end = min(top + _STRIP, rows)
        strip = slice(top, end + _WINDOW - 1)
        values = _map(np.ascontiguousarray(x[strip]), np.ascontiguousarray(y[strip]))
        total += (values * counts[top:end]).sum()
    return total / np.count_nonzero(counts)


def _map(x, y):
    luminance, contrast = terms(x, y)
    return luminance * contrast


def terms(x, y):
    """The two factors of SSIM at every window that lies inside two planes in 0..255: luminance, contrast."""
    mean_x, mean_y = _blur(x), _blur(y)
    square_x, square_y, product = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    variances = (_blur(x * x) - square_x) + (_blur(y * y) - square_y)
    covariance = _blur(x * y) - product
    return (2.0 * product + _C1) / (square_x + square_y + _C1), (2.0 * covariance + _C2) / (variances + _C2)


def _blur(x):
    """The 11 x 11 Gaussian, separably, on the valid region: ``[h, w] -> [h - 10, w - 10]``."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / 1.5) ** 2)
    weights /= weights.sum()
    rows, columns = x.shape[0] - _WINDOW + 1, x.shape[1] - _WINDOW + 1
    x = sum(w * x[i:i + rows] for i, w in enumerate(weights))
    return sum(w * x[:, i:i + columns] for i, w in enumerate(weights))
