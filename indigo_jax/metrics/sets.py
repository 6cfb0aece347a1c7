"""The protocols of sets of pictures: FID and KID by the network and the resampling in their names."""
import dataclasses
import re
from typing import Callable, NamedTuple

import numpy as np

from indigo_jax.metrics.frechet import Statistics, fid, kid
from indigo_jax.metrics.inception_input import RESIZES, inception_input
from indigo_jax.typing import Array, Image

_PATTERN = re.compile(r"(fid|kid)(?:-([a-z0-9]+)-(clean|legacy))?")
_NAMED = {"6726825d": "inception2015"}  # by the first 8 digits of the sha256 of the file it was converted from
USUAL_COUNT = 10_000  # pictures, below which the bias of FID is large


class FeatureNetwork(NamedTuple):
    """What measures a set.

    Attributes:
        name: ``inception2015`` for the usual weights, else 8 digits.
        apply: ``float32 [B, 299, 299, 3] -> [B, D]``, of :func:`metrics.inception_input`.
    """

    name: str
    apply: Callable

    def features(self, x: Image, *, resize: str = "clean") -> np.ndarray:
        """Features ``[B, D]`` of pictures ``[B, H, W, 3]``, float in ``[-1, 1]`` or uint8."""
        return np.asarray(self.apply(inception_input(x, resize=resize)))


def feature_network(module, params, info: dict) -> FeatureNetwork:
    """The network that :func:`weights.load` has read, compiled, and named by what it was converted from."""
    import jax
    sources = (info.get("source") or {}).get("sha256") or {}
    known = [_NAMED[each[:8]] for each in sources.values() if each[:8] in _NAMED]
    return FeatureNetwork(known[0] if known else str(info.get("sha256", "unnamed"))[:8],
                          jax.jit(lambda x: module.apply(params, x)))


@dataclasses.dataclass(frozen=True)
class SetProtocol:
    """How two sets of pictures are measured: ``<fid|kid>-<network>-<clean|legacy>``.

    Attributes:
        metric: ``"fid"`` or ``"kid"``.
        network: the name of a :class:`FeatureNetwork`.
        resize: as for :func:`metrics.inception_input`.

    >>> SetProtocol("fid", "inception2015").name
    'fid-inception2015-clean'
    """

    metric: str
    network: str
    resize: str = "clean"

    def __post_init__(self):
        if self.metric not in ("fid", "kid") or self.resize not in RESIZES:
            raise ValueError(f"unknown protocol {self.name!r}; use fid or kid, {' or '.join(RESIZES)}")

    @property
    def name(self) -> str:
        """The whole protocol in one word."""
        return f"{self.metric}-{self.network}-{self.resize}"

    def __call__(self, a: Array, b: Array | Statistics) -> float:
        """The distance of features ``[N, D]`` of two sets; of KID the mean. FID takes b's statistics as well."""
        if self.metric == "fid":
            return fid(a, b)
        if isinstance(b, Statistics):
            raise ValueError("KID compares pictures one by one, of which statistics tell nothing: give the pictures")
        return kid(a, b).mean


def is_of_sets(name: str) -> bool:
    """Whether a name means FID or KID.

    >>> is_of_sets("fid"), is_of_sets("kid-inception2015-legacy"), is_of_sets("psnr")
    (True, True, False)
    """
    return _PATTERN.fullmatch(name) is not None


def set_by_name(name: str, network: FeatureNetwork) -> SetProtocol:
    """The protocol of a name: ``fid`` and ``kid`` alone mean the network that is given and the clean resampling.

    Errors:
        ValueError: no such protocol, or one of another network.
    """
    match = _PATTERN.fullmatch(name)
    if not match:
        raise ValueError(f"unknown metric of sets {name!r}; use fid, kid, or a whole protocol such as "
                         "fid-inception2015-clean, kid-inception2015-legacy")
    if match[2] not in (None, network.name):
        raise ValueError(f"{name} is measured by the network {match[2]}, and the one given is {network.name}")
    return SetProtocol(match[1], network.name, match[3] or "clean")
