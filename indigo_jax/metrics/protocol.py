"""The protocol of a measurement, and numbers that remember theirs.

A PSNR in RGB and a PSNR on the luma of the same two pictures differ by more than most papers improve. So every
number here carries how it was measured in its name, and numbers of unlike names are not compared.
"""
import dataclasses
import re
from operator import ge, gt, le, lt, sub
from typing import Any

import numpy as np

from indigo_jax.metrics.inputs import check_settings
from indigo_jax.metrics.lpips import load_lpips, lpips
from indigo_jax.metrics.psnr import psnr
from indigo_jax.metrics.ssim import ssim

_LPIPS_NAME = "lpips-alex-v0.1"
_SPACE = {"rgb": "rgb", "y": "y-bt601", "gray": "gray-bt601full"}
_PATTERN = re.compile(r"(psnr|ssim)-(rgb|y-bt601|gray-bt601full)-crop(0|[1-9][0-9]{0,5})-(u8|float)(-yu8)?")
ALIASES = {"psnr": "psnr-rgb-crop0-u8", "ssim": "ssim-rgb-crop0-u8", "lpips": _LPIPS_NAME}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a number is measured; call it on two image batches to measure it.

    The name is ``<psnr|ssim>-<rgb|y-bt601|gray-bt601full>-crop<border>-<u8|float>``, with ``-yu8`` at the end where the
    luma is rounded as well, or ``lpips-alex-v0.1`` (RGB, whole image, as given).

    Attributes:
        metric: ``"psnr"``, ``"ssim"`` or ``"lpips"``.
        channel, border, round_uint8, round_luma: see :func:`indigo_jax.metrics.psnr`; at their defaults for LPIPS,
            where they have no meaning.
        params: LPIPS weights; ``None`` reads them by :func:`indigo_jax.metrics.load_lpips` at each call. No part of
            the protocol's identity.

    Errors:
        ValueError: an unknown metric or channel, a negative border, a rounded luma without luma, settings for LPIPS.

    >>> Protocol("psnr", channel="y", border=4).name
    'psnr-y-bt601-crop4-u8'
    >>> image = np.zeros((1, 16, 16, 3), np.uint8)
    >>> Protocol("ssim")(image, image).tolist()
    [1.0]
    """

    metric: str
    channel: str = "rgb"
    border: int = 0
    round_uint8: bool = True
    round_luma: bool = False
    params: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.metric not in ("psnr", "ssim", "lpips"):
            raise ValueError(f"unknown metric {self.metric!r}; use psnr, ssim or lpips")
        if not isinstance(self.border, int):
            raise ValueError(f"border is a number of pixels, 0 or more, got {self.border!r}")
        check_settings(channel=self.channel, border=self.border, round_luma=self.round_luma)
        if self.metric == "lpips" and (self.channel, self.border, self.round_uint8) != ("rgb", 0, True):
            raise ValueError("lpips is measured on whole RGB images as given: it takes no channel, border or rounding")

    @property
    def name(self) -> str:
        """The whole protocol in one word; :func:`by_name` reads it back."""
        if self.metric == "lpips":
            return _LPIPS_NAME
        rounding = ("u8" if self.round_uint8 else "float") + ("-yu8" if self.round_luma else "")
        return f"{self.metric}-{_SPACE[self.channel]}-crop{self.border}-{rounding}"

    @property
    def higher_is_better(self) -> bool:
        """True for PSNR and SSIM, False for LPIPS, a distance."""
        return self.metric != "lpips"

    def __call__(self, a, b) -> np.ndarray:
        """Measure: images ``[B, H, W, 3]`` (float in ``[-1, 1]`` or uint8) twice ``-> float64 [B]``."""
        if self.metric == "lpips":
            return np.asarray(lpips(a, b, load_lpips() if self.params is None else self.params), np.float64)
        measure = psnr if self.metric == "psnr" else ssim
        return measure(a, b, channel=self.channel, border=self.border, round_uint8=self.round_uint8,
                       round_luma=self.round_luma)


def by_name(name: str, *, lpips_params: Any = None) -> Protocol:
    """The protocol of a name, ready to be called; ``by_name(p.name) == p``.

    Args:
        name: as in :class:`Protocol`; ``psnr``, ``ssim`` and ``lpips`` alone mean ``psnr-rgb-crop0-u8``,
            ``ssim-rgb-crop0-u8`` and ``lpips-alex-v0.1``.
        lpips_params: weights for LPIPS; ``None`` loads them now, by :func:`indigo_jax.metrics.load_lpips`.

    Errors:
        ValueError: no such protocol; FileNotFoundError: LPIPS without weights.

    >>> by_name("psnr-y-bt601-crop4-u8")
    Protocol(metric='psnr', channel='y', border=4, round_uint8=True, round_luma=False)
    """
    name = ALIASES.get(name, name)
    if name == _LPIPS_NAME:
        return Protocol("lpips", params=load_lpips() if lpips_params is None else lpips_params)
    match = _PATTERN.fullmatch(name)
    if not match or (match[2] == "rgb" and match[5]):
        raise ValueError(f"unknown metric {name!r}; use psnr, ssim, lpips, or a whole protocol such as "
                         "psnr-rgb-crop0-u8, psnr-y-bt601-crop4-u8, ssim-gray-bt601full-crop0-u8-yu8, "
                         f"{_LPIPS_NAME}")
    channel = {space: channel for channel, space in _SPACE.items()}[match[2]]
    return Protocol(match[1], channel=channel, border=int(match[3]), round_uint8=match[4] == "u8",
                    round_luma=match[5] is not None)


def _of_values(function):
    return lambda self, other: function(self.value, self._other(other))


@dataclasses.dataclass(frozen=True)
class Score:
    """A number with the name of its protocol: subtracts from and orders against scores of the same protocol only.

    ``a == b`` is an ordinary question (same number by the same protocol) and never refused; ``float(a)`` leaves
    the protocol behind on purpose.

    Errors:
        ValueError: ``a - b``, ``a < b`` ... of unlike protocols.

    >>> Score(30.5, "psnr-rgb-crop0-u8") - Score(30.0, "psnr-rgb-crop0-u8")
    0.5
    >>> Score(30.5, "psnr-rgb-crop0-u8") > Score(31.9, "psnr-y-bt601-crop4-u8")
    Traceback (most recent call last):
    ...
    ValueError: psnr-rgb-crop0-u8 and psnr-y-bt601-crop4-u8 are unlike protocols; measure both by the same one
    """

    value: float
    protocol: str

    def _other(self, other):
        if not isinstance(other, Score):
            raise ValueError(f"a score by {self.protocol} compares only with another Score, not with {other!r}")
        require_same(self.protocol, other.protocol)
        return other.value

    def __float__(self):
        return float(self.value)

    __sub__, __lt__, __le__, __gt__, __ge__ = map(_of_values, (sub, lt, le, gt, ge))


def require_same(first, *others) -> None:
    """Refuse unlike protocols, given as :class:`Protocol` or as names.

    Errors:
        ValueError: names the first two that differ.
    """
    first, *others = (p.name if isinstance(p, Protocol) else ALIASES.get(p, p) for p in (first, *others))
    for other in others:
        if other != first:
            raise ValueError(f"{first} and {other} are unlike protocols; measure both by the same one")
