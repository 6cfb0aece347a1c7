"""Structural similarity over five scales."""
import numpy as np

from indigo_jax.metrics.inputs import pair_255
from indigo_jax.metrics.ssim import _STRIP, _WINDOW, terms
from indigo_jax.typing import Image

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first


def ms_ssim(a: Image, b: Image, *, channel: str = "rgb", border: int = 0, round_uint8: bool = True,
            round_luma: bool = False) -> np.ndarray:
    """Mean structural similarity over five scales of each image, computed on the host in float64.

    ``MS-SSIM = l_5^w_5 prod_j cs_j^w_j``: ``cs_j = mean (2 c_ab + C2) / (v_a + v_b + C2)`` at scale j, ``l_5 cs_5`` the
    mean of SSIM at the coarsest; windows and constants as in :func:`indigo_jax.metrics.ssim`. From scale to scale the
    images are averaged over 2 x 2 pixels and every second row and column is kept.

    Args:
        a, b: float ``[B, H, W, 3]`` in ``[-1, 1]`` or uint8 ``[B, H, W, 3]``, in either order; at least 161 pixels a
            side, so that a window fits at the coarsest scale.
        channel, border, round_uint8, round_luma: as in :func:`indigo_jax.metrics.ssim`.

    Returns:
        float64 ``[B]`` in ``[0, 1]``: a mean below zero at some scale, which no power has, counts as 0. Identical
        images have exactly 1.

    Errors:
        ValueError: as :func:`indigo_jax.metrics.ssim`; fewer than 161 pixels on a side.

    Source: Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003,
    eq. 7 with the exponents of section 3.2. Some programs print the sum of the same terms weighted by the exponents in
    place of their product: 0.003 more on a blurred picture.
    """
    a, b = pair_255(a, b, channel=channel, border=border, round_uint8=round_uint8, round_luma=round_luma)
    smallest = (_WINDOW - 1) * 2 ** (len(_EXPONENTS) - 1) + 1
    if min(a.shape[1:3]) < smallest:
        raise ValueError(f"MS-SSIM needs at least {smallest} x {smallest} pixels, got {a.shape[1]} x {a.shape[2]}"
                         + (f" after cutting a border of {border}" if border else ""))
    return np.array([np.mean([_plane(x[..., c], y[..., c]) for c in range(a.shape[3])]) for x, y in zip(a, b)])


def _plane(x, y):
    *finer, coarsest = _scales(x, y)
    factors = [max(value, 0.0) for value in (*(contrast for _, contrast in finer), coarsest[0])]
    return float(np.prod(np.power(factors, _EXPONENTS)))


def _scales(x, y):
    """Means of SSIM and of its part without luminance at each scale of two planes ``[H, W]`` in 0..255."""
    means = []
    for _ in _EXPONENTS:
        means.append(_means(x, y))
        x, y = _halve(x), _halve(y)
    return means


def _means(x, y):
    """Means of SSIM and of its part without luminance, strip by strip."""
    rows, columns = x.shape[0] - _WINDOW + 1, x.shape[1] - _WINDOW + 1
    whole = rest = 0.0
    for top in range(0, rows, _STRIP):
        strip = slice(top, min(top + _STRIP, rows) + _WINDOW - 1)
        luminance, contrast = terms(np.ascontiguousarray(x[strip]), np.ascontiguousarray(y[strip]))
        whole, rest = whole + (luminance * contrast).sum(), rest + contrast.sum()
    return whole / (rows * columns), rest / (rows * columns)


def _halve(x):
    """Averages over blocks of 2 x 2; an odd last row or column stands for its missing neighbour."""
    x = np.pad(x, [(0, side % 2) for side in x.shape], mode="symmetric")
    return (x[::2, ::2] + x[1::2, 1::2] + x[::2, 1::2] + x[1::2, ::2]) / 4.0
