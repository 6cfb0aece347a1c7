"""Two-dimensional wavelets by lifting: lazy (polyphase), Haar, 5/3 and 9/7; exact inverses, any size.

A lifting step adds to the odd samples something made of the even ones, or the other way round. Whatever it adds, the
inverse subtracts: so every split here has an inverse, at any size and at every border.
"""
import math

import jax.numpy as jnp

from indigo_jax.typing import Array

_LIFTS = {  # (what is changed, weight of the two neighbours), in order; Haar has one neighbour
    "lazy": (),
    "haar": (("odd", -1.0), ("even", 0.5)),
    "5/3": (("odd", -0.5), ("even", 0.25)),
    "9/7": (("odd", -1.586134342059924), ("even", -0.052980118572961),
            ("odd", 0.882911075530934), ("even", 0.443506852043971)),
}
_LOW_GAIN = {"9/7": 1.230174104914001}  # of the lifting steps alone, on a constant; 1 for the others
NAMES = tuple(_LIFTS)


def split(x: Array, name: str = "lazy", *, scaling: str = "energy", undecimated: bool = False,
          dilation: int = 1) -> tuple[Array, tuple[Array, Array, Array]]:
    """One level: ``x -> (coarse, (d1, d2, d3))``, the low-pass picture and three pictures of details.

    Along columns and then along rows: ``odd += a (even_n + even_{n+1})``, ``even += b (odd_{n-1} + odd_n)``, with the
    weights of the wavelet and samples repeated by mirror symmetry beyond the border.

    Args:
        x: pictures ``[B, H, W, C]``, any range; sides from 1.
        name: ``"lazy"`` (no filter: the four phases of the pixel grid), ``"haar"``, ``"5/3"`` or ``"9/7"``.
        scaling: ``"energy"``: a constant is doubled, Haar is orthonormal (on even sides), 5/3 and 9/7 nearly so.
            ``"mean"``: a constant stays; the transform is of determinant 1 (9/7: on even sides). The lazy split has no
            scaling.
        undecimated: keep every pixel of all four pictures: each has the size of ``x`` (four times the numbers).
        dilation: distance of neighbours, for the levels of the undecimated transform: 1, 2, 4, ...

    Returns:
        The coarse picture ``[B, ceil(H/2), ceil(W/2), C]`` (even rows of even columns) and the details: odd rows of
        even columns, even rows of odd columns, odd rows of odd columns. At odd sides the odd ones are smaller by one;
        at a side of 1 they are empty. Undecimated: all ``[B, H, W, C]``.

    Errors:
        ValueError for an unknown name or scaling, or a dilation of the decimated transform.

    Source: Daubechies and Sweldens 1998; the coefficients of JPEG 2000.

    >>> coarse, (d1, d2, d3) = split(jnp.ones((1, 4, 4, 1)), "5/3")
    >>> round(float(coarse[0, 0, 0, 0]), 5), float(jnp.abs(d3).max())
    (2.0, 0.0)
    """
    arguments = _arguments(name, scaling, undecimated, dilation)
    even, odd = _split_axis(x, 2, *arguments)
    coarse, d1 = _split_axis(even, 1, *arguments)
    d2, d3 = _split_axis(odd, 1, *arguments)
    return coarse, (d1, d2, d3)


def merge(coarse: Array, details: tuple[Array, Array, Array], name: str = "lazy", *, scaling: str = "energy",
          undecimated: bool = False, dilation: int = 1) -> Array:
    """Inverse of :func:`split`, with the same arguments: ``(coarse, (d1, d2, d3)) -> x``.

    Undecimated pictures that no split has made are first brought to the nearest ones by averaging: each pixel is the
    mean of what the phases say.

    Errors:
        ValueError as :func:`split`, or for sizes that belong to no picture.
    """
    arguments = _arguments(name, scaling, undecimated, dilation)
    d1, d2, d3 = details
    (height, width), (odd_height, odd_width) = coarse.shape[1:3], d3.shape[1:3]
    fits = d1.shape[1:3] == (odd_height, width) and d2.shape[1:3] == (height, odd_width)
    steps = (0,) if undecimated else (0, 1)
    if not fits or height - odd_height not in steps or width - odd_width not in steps:
        raise ValueError(f"coarse {coarse.shape} and details {[d.shape for d in details]} are not of one picture")
    even = _merge_axis(coarse, d1, 1, *arguments)
    odd = _merge_axis(d2, d3, 1, *arguments)
    return _merge_axis(even, odd, 2, *arguments)


def _arguments(name, scaling, undecimated, dilation):
    """``(lifts, gains of low and high, dilation or None)``."""
    if name not in _LIFTS:
        raise ValueError(f"unknown wavelet {name!r}; there are {', '.join(NAMES)}")
    if scaling not in ("energy", "mean"):
        raise ValueError(f"scaling must be 'energy' or 'mean', got {scaling!r}")
    if dilation < 1 or (dilation > 1 and not undecimated):
        raise ValueError(f"dilation must be 1, or more with undecimated=True; got {dilation}")
    low, high = 1 / _LOW_GAIN.get(name, 1.0), _LOW_GAIN.get(name, 1.0)
    if scaling == "energy" and name != "lazy":
        low, high = low * math.sqrt(2), high / math.sqrt(2)
    if scaling == "energy" and undecimated:
        low, high = low / math.sqrt(2), high / math.sqrt(2)
    return name, (low, high), dilation if undecimated else None


def _split_axis(x, axis, name, gains, dilation):
    """Low and high of one axis."""
    if dilation is None:
        even, odd = _every_second(x, axis, 0), _every_second(x, axis, 1)
    else:
        even, odd = x, _shift(x, axis, dilation)
    for part, weight in _LIFTS[name]:
        even, odd = _lift(even, odd, axis, name, part, weight, dilation)
    return even * gains[0], odd * gains[1]


def _merge_axis(low, high, axis, name, gains, dilation):
    """Inverse of :func:`_split_axis`."""
    even, odd = low / gains[0], high / gains[1]
    for part, weight in reversed(_LIFTS[name]):
        even, odd = _lift(even, odd, axis, name, part, -weight, dilation)
    return _interleave(even, odd, axis) if dilation is None else _average(even, odd, axis, dilation)


def _lift(even, odd, axis, name, part, weight, dilation):
    """One lifting step; a side of one pixel has nothing to be lifted with."""
    if not odd.shape[axis]:
        return even, odd
    if dilation is not None:
        before, after = (_shift(odd, axis, -2 * dilation), odd), (even, _shift(even, axis, 2 * dilation))
    else:
        before, after = _around(odd, axis, even.shape[axis]), _after(even, axis, odd.shape[axis])
    if part == "odd":
        return even, odd + weight * (after[0] if name == "haar" else after[0] + after[1])
    return even + weight * (before[1] if name == "haar" else before[0] + before[1]), odd


def _cut(x, axis, start, stop):
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _every_second(x, axis, phase):
    return x[(slice(None),) * axis + (slice(phase, None, 2),)]


def _around(odd, axis, length):
    """``odd_{n-1}`` and ``odd_n`` for the ``length`` even samples, the border ones repeated."""
    padded = jnp.concatenate([_cut(odd, axis, 0, 1), odd, _cut(odd, axis, -1, None)], axis)
    return _cut(padded, axis, 0, length), _cut(padded, axis, 1, length + 1)


def _after(even, axis, length):
    """``even_n`` and ``even_{n+1}`` for the ``length`` odd samples, the border one repeated."""
    padded = jnp.concatenate([even, _cut(even, axis, -1, None)], axis)
    return _cut(even, axis, 0, length), _cut(padded, axis, 1, length + 1)


def _interleave(even, odd, axis):
    pad = [(0, 0)] * even.ndim
    pad[axis] = (0, even.shape[axis] - odd.shape[axis])
    pairs = jnp.stack([even, jnp.pad(odd, pad)], axis + 1)
    shape = list(even.shape)
    shape[axis] *= 2
    return _cut(pairs.reshape(shape), axis, 0, even.shape[axis] + odd.shape[axis])


def _shift(x, axis, offset):
    """``x_{n + offset}``, mirrored at the border pixels."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (max(-offset, 0), max(offset, 0))
    start = max(offset, 0)
    return _cut(jnp.pad(x, pad, mode="reflect"), axis, start, start + x.shape[axis])


def _average(even, odd, axis, dilation):
    """``x_n = (even_n + odd_{n-s}) / 2``, and ``even_n`` where no pixel is ``s`` before."""
    if even.shape[axis] <= dilation:
        return even
    inner = (_cut(even, axis, dilation, None) + _cut(odd, axis, 0, -dilation)) / 2
    return jnp.concatenate([_cut(even, axis, 0, dilation), inner], axis)
