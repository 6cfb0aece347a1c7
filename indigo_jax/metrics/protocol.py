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
from indigo_jax.metrics.lpips_networks import NETWORKS, network_of
from indigo_jax.metrics.ms_ssim import ms_ssim
from indigo_jax.metrics.niqe import NiqeModel, default_niqe, niqe
from indigo_jax.metrics.psnr import psnr
from indigo_jax.metrics.ssim import ssim

_OF_PIXELS = {"psnr": psnr, "ssim": ssim, "ms-ssim": ms_ssim}
_LPIPS_NAMES = {f"lpips-{network}-v0.1": network for network in NETWORKS}
_SPACE = {"rgb": "rgb", "y": "y-bt601", "gray": "gray-bt601full"}
_PATTERN = re.compile(r"(psnr|ssim|ms-ssim)-(rgb|y-bt601|gray-bt601full)-crop(0|[1-9][0-9]{0,5})-(u8|float)(-yu8)?")
_NIQE_SPACE = {"gray": "gray", "y": "y-bt601"}
_NIQE_PATTERN = re.compile(r"niqe-([a-z0-9]+)-(gray|y-bt601)-crop(0|[1-9][0-9]{0,5})")
ALIASES = {"psnr": "psnr-rgb-crop0-u8", "ssim": "ssim-rgb-crop0-u8", "lpips": "lpips-alex-v0.1",
           "ms-ssim": "ms-ssim-rgb-crop0-u8", "niqe": "niqe-bsds400-gray-crop0"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a number is measured; call it on two image batches to measure it.

    The name is ``<psnr|ssim|ms-ssim>-<rgb|y-bt601|gray-bt601full>-crop<border>-<u8|float>``, with ``-yu8`` at the end
    where the luma is rounded as well, or ``lpips-<alex|squeeze|vgg>-v0.1`` (RGB, whole image, as given), or
    ``niqe-<parameters>-<gray|y-bt601>-crop<border>``, of the first image alone, whose luma is always rounded.

    Attributes:
        metric: ``"psnr"``, ``"ssim"``, ``"ms-ssim"``, ``"lpips"`` or ``"niqe"``.
        channel, border, round_uint8, round_luma: see :func:`indigo_jax.metrics.psnr`; at their defaults for LPIPS,
            where they have no meaning.
        params: LPIPS weights, which tell the network; ``None`` reads AlexNet's by
            :func:`indigo_jax.metrics.load_lpips` at each call. Or NIQE's parameters; ``None`` takes
            :func:`indigo_jax.metrics.default_niqe`. No part of the protocol's identity.
        fitted: the name of NIQE's parameters or of LPIPS's network, which is part of it.

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
    fitted: str = dataclasses.field(default="", init=False, repr=False)

    def __post_init__(self):
        if self.metric not in (*_OF_PIXELS, "lpips", "niqe"):
            raise ValueError(f"unknown metric {self.metric!r}; use {', '.join(_OF_PIXELS)}, lpips or niqe")
        if not isinstance(self.border, int):
            raise ValueError(f"border is a number of pixels, 0 or more, got {self.border!r}")
        check_settings(channel=self.channel, border=self.border, round_luma=self.round_luma)
        if self.metric == "lpips" and (self.channel, self.border, self.round_uint8) != ("rgb", 0, True):
            raise ValueError("lpips is measured on whole RGB images as given: it takes no channel, border or rounding")
        if self.metric == "lpips":
            object.__setattr__(self, "fitted", "alex" if self.params is None else network_of(self.params))
        if self.metric == "niqe":
            if self.channel not in _NIQE_SPACE or not self.round_uint8:
                raise ValueError("niqe is measured on a rounded luma: use channel='gray' or 'y', and round_uint8=True")
            object.__setattr__(self, "fitted", (default_niqe() if self.params is None else self.params).name)

    @property
    def name(self) -> str:
        """The whole protocol in one word; :func:`by_name` reads it back."""
        if self.metric == "lpips":
            return f"lpips-{self.fitted}-v0.1"
        if self.metric == "niqe":
            return f"niqe-{self.fitted}-{_NIQE_SPACE[self.channel]}-crop{self.border}"
        rounding = ("u8" if self.round_uint8 else "float") + ("-yu8" if self.round_luma else "")
        return f"{self.metric}-{_SPACE[self.channel]}-crop{self.border}-{rounding}"

    @property
    def higher_is_better(self) -> bool:
        """True for PSNR, SSIM and MS-SSIM, False for LPIPS and NIQE, which are distances."""
        return self.metric in _OF_PIXELS

    @property
    def needs_reference(self) -> bool:
        """False for NIQE, which looks at the first image alone."""
        return self.metric != "niqe"

    def __call__(self, a, b=None, visible=None) -> np.ndarray:
        """Measure: images ``[B, H, W, 3]`` (float in ``[-1, 1]`` or uint8) twice ``-> float64 [B]``.

        ``visible``, bool ``[B, H, W]``, says which pixels count, of PSNR and SSIM; the others measure whole images.
        """
        if self.metric == "niqe":
            return niqe(a, self.params, channel=self.channel, border=self.border)
        if self.metric == "lpips":
            return np.asarray(lpips(a, b, load_lpips() if self.params is None else self.params), np.float64)
        hidden = {} if self.metric == "ms-ssim" else {"visible": visible}
        return _OF_PIXELS[self.metric](a, b, channel=self.channel, border=self.border, round_uint8=self.round_uint8,
                                       round_luma=self.round_luma, **hidden)


def by_name(name: str, *, lpips_params: Any = None, niqe_parameters: NiqeModel | None = None) -> Protocol:
    """The protocol of a name, ready to be called; ``by_name(p.name) == p``.

    Args:
        name: as in :class:`Protocol`, or alone ``psnr``, ``ssim``, ``ms-ssim`` (``-rgb-crop0-u8``), ``lpips``
            (``-alex-v0.1``) or ``niqe``: the rounded grey under the parameters that are given, without any
            ``niqe-bsds400-gray-crop0``.
        lpips_params: weights for LPIPS; ``None`` loads them now, by :func:`indigo_jax.metrics.load_lpips`.
        niqe_parameters: for NIQE; ``None`` takes :func:`indigo_jax.metrics.default_niqe`.

    Errors:
        ValueError: no such protocol, or NIQE or LPIPS by other parameters than the name says; FileNotFoundError: LPIPS
            without weights.

    >>> by_name("psnr-y-bt601-crop4-u8")
    Protocol(metric='psnr', channel='y', border=4, round_uint8=True, round_luma=False)
    """
    if name == "niqe":
        return Protocol("niqe", channel="gray", params=niqe_parameters)
    name = ALIASES.get(name, name)
    if network := _LPIPS_NAMES.get(name):
        protocol = Protocol("lpips", params=load_lpips(network=network) if lpips_params is None else lpips_params)
        if protocol.fitted != network:
            raise ValueError(f"{name} is measured by the network {network}, and the weights given are of "
                             f"{protocol.fitted}; see metrics.load_lpips")
        return protocol
    if match := _NIQE_PATTERN.fullmatch(name):
        channel = "y" if match[2] != "gray" else "gray"
        protocol = Protocol("niqe", channel=channel, border=int(match[3]), params=niqe_parameters)
        if protocol.fitted != match[1]:
            raise ValueError(f"{name} is measured under the parameters {match[1]}, and those given are "
                             f"{protocol.fitted}; see metrics.load_niqe")
        return protocol
    match = _PATTERN.fullmatch(name)
    if not match or (match[2] == "rgb" and match[5]):
        raise ValueError(f"unknown metric {name!r}; use psnr, ssim, ms-ssim, lpips, niqe, or a whole protocol such as "
                         "psnr-rgb-crop0-u8, psnr-y-bt601-crop4-u8, ssim-gray-bt601full-crop0-u8-yu8, "
                         f"{', '.join(_LPIPS_NAMES)}, {ALIASES['niqe']}")
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
