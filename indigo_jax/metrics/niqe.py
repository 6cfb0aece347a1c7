"""The natural image quality evaluator (NIQE): how far the statistics of one picture lie from those of good ones."""
import functools
import hashlib
import math
import os
import pathlib
import zipfile
from typing import Iterable, NamedTuple

import numpy as np

from indigo_jax.metrics.inputs import check_finite, check_settings, check_shapes, to_255
from indigo_jax.typing import Image

NUM_FEATURES = 36
_SHARPEST = 0.75  # blocks of a good picture that are at least so sharp beside its sharpest one are kept
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # of the neighbours: right, below, and the two diagonals
_SHAPES = np.arange(0.2, 10.001, 0.001)  # of the distribution, among which its fit is looked up
_NOTHING = 1e-9  # of 255: what rounding leaves of a local mean's difference where the picture is flat
_GRAY = (0.298936021293776, 0.587043074451121, 0.114020904255103)  # of MATLAB's rgb2gray: 0.299, 0.587, 0.114 and more
_NAMED = {"02e22988": "official", "ffc0f6d6": "bsds400"}  # by their digests


class NiqeModel(NamedTuple):
    """A Gaussian over the features of blocks of good pictures.

    Attributes:
        mean: float64 ``[36]``.
        cov: float64 ``[36, 36]``.
    """

    mean: np.ndarray
    cov: np.ndarray

    @property
    def name(self) -> str:
        """``official``, ``bsds400``, or the first 8 digits of the sha256 of its numbers in 32-bit floats."""
        numbers = np.concatenate([np.ravel(self.mean), np.ravel(self.cov)]).astype("<f4")
        digest = hashlib.sha256(numbers.tobytes()).hexdigest()[:8]
        return _NAMED.get(digest, digest)


def niqe(x: Image, parameters: NiqeModel | None = None, *, channel: str = "gray", border: int = 0,
         block: int = 96) -> np.ndarray:
    """NIQE of each picture, which needs no reference; smaller is better. On the host in float64.

    ``D = sqrt((m - m_x)^T ((C + C_x) / 2)^+ (m - m_x))``, where ``m_x`` and ``C_x`` are the mean and the covariance of
    36 features over the blocks of the picture, ``m`` and ``C`` those of blocks of good pictures, and ``^+`` is the
    pseudo-inverse. As in the official program the luma is rounded to whole numbers, and what does not fill a block at
    the right and lower edge is cut off. Differs from it in: a pixel that equals its local mean up to 1e-9 of 255 counts
    as equal, where there its sign, and with it the fit, is what rounding left. Under the official parameters a picture
    without flat parts agrees to 1e-9; five test pictures, some with flat parts, to 0.04.

    **Values are comparable only under the same parameters.** The default ones are fitted by the paper's recipe on 400
    photographs of BSDS500 and are not the official ones: their values run differently. For numbers to quote beside a
    paper convert the official file (``indigo weights convert niqe_modelparameters.mat --from niqe -o niqe.npz``) and
    pass ``load_niqe("niqe.npz")``.

    Args:
        x: float ``[B, H, W, 3]`` in ``[-1, 1]`` or uint8 ``[B, H, W, 3]`` (or 1 channel, taken as it is); of at least
            two blocks. Floats are clipped and rounded to 0..255 as in a picture file.
        parameters: of :func:`load_niqe` or :func:`niqe_model`; default: :func:`default_niqe`.
        channel: ``"gray"``: MATLAB's ``rgb2gray``, as the official program; ``"y"``: the luma of ``rgb2ycbcr``, as
            papers on super-resolution use.
        border: pixels cut off each side first.
        block: side of a block in pixels, even; other than 96 only with parameters that were fitted so.

    Returns:
        float64 ``[B]``.

    Errors:
        ValueError: a picture of fewer than two blocks, or with fewer than two that have any structure (it is named);
            NaN or infinity; an unknown channel; parameters of another shape.

    Source: Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
    Processing Letters 2013, eq. 1 to 10.

    >>> noise = np.random.default_rng(0).integers(0, 256, (1, 96, 288, 3)).astype(np.uint8)
    >>> bool(niqe(noise)[0] > 10)
    True
    """
    mean, cov = default_niqe() if parameters is None else _checked(*parameters, "parameters")
    values = []
    for number, plane in enumerate(_planes(x, channel, border, block)):
        features, _ = _blocks(plane, block)
        whole = features[np.isfinite(features).all(axis=1)]
        if len(whole) < 2:
            raise ValueError(f"image {number}: {len(whole)} of its {len(features)} blocks of {block} x {block} pixels "
                             "have any structure; NIQE needs two")
        difference = mean - _mean(features)
        values.append(math.sqrt(difference @ np.linalg.pinv((cov + np.cov(whole, rowvar=False)) / 2) @ difference))
    return np.array(values, np.float64)


def niqe_features(x: Image, *, channel: str = "gray", border: int = 0, block: int = 96) -> np.ndarray:
    """The 36 features of each block of each picture: ``[B, N, 36]``, blocks row by row.

    Eighteen at full size, then eighteen at half: the shape and the width of the normalised luma, then shape, mean, left
    width and right width of the products of neighbours to the right, below, and on both diagonals. Those of a block
    without structure are NaN.

    Args:
        x, channel, border, block: as in :func:`niqe`.

    Errors:
        ValueError: as :func:`niqe`.
    """
    return np.stack([_blocks(plane, block)[0] for plane in _planes(x, channel, border, block)])


def niqe_model(pictures: Iterable[Image], *, channel: str = "gray", block: int = 96) -> NiqeModel:
    """Parameters of your own, from good pictures by the paper's recipe (section II-C, with T = 0.75).

    Of each picture those blocks are kept whose mean local deviation is more than 0.75 of that of its sharpest block.

    Args:
        pictures: ``[H, W, 3]``, of any sizes, float in ``[-1, 1]`` or uint8; read one by one.
        channel, block: as in :func:`niqe`.

    Errors:
        ValueError: a picture smaller than two blocks, or fewer than 37 blocks in all: too few for a covariance.
    """
    kept = []
    for picture in pictures:
        for plane in _planes(picture[None], channel, 0, block):
            features, sharpness = _blocks(plane, block)
            kept.append(features[sharpness > _SHARPEST * sharpness.max()])
    features = np.concatenate(kept) if kept else np.zeros((0, NUM_FEATURES))
    whole = features[np.isfinite(features).all(axis=1)]
    if len(whole) <= NUM_FEATURES:
        raise ValueError(f"{len(whole)} sharp blocks in these pictures are too few for a covariance of {NUM_FEATURES} "
                         f"features; give more pictures: {NUM_FEATURES + 1} blocks at the least, better hundreds")
    return NiqeModel(_mean(features), np.cov(whole, rowvar=False))


def load_niqe(path: str | os.PathLike) -> NiqeModel:
    """Parameters from an npz file (never unpickled): ``mean [36]``, ``cov [36, 36]``.

    Arrays of the names ``mu_prisparam``, ``cov_prisparam`` (or ``mu_pris_param``, ``cov_pris_param``), as the official
    file and its copies have them, are taken as well.

    Errors:
        FileNotFoundError: no such file; ValueError: not an npz file, or not such parameters.
    """
    given = os.fspath(path)
    try:
        with open(given, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except FileNotFoundError:
        raise FileNotFoundError(f"no NIQE parameters at {given!r}; check the path") from None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{given!r} is not an npz file of plain arrays: {error}; of a .mat make one by "
                         "indigo weights convert FILE.mat --from niqe -o niqe.npz") from error
    return niqe_parameters(arrays, given)


def niqe_parameters(arrays: dict[str, np.ndarray], source: str = "the file") -> NiqeModel:
    """Parameters among named arrays, checked; see :func:`load_niqe`.

    Errors:
        ValueError: missing, of another shape, not finite, or a covariance that is none.
    """
    for mean, cov in (("mean", "cov"), ("mu_prisparam", "cov_prisparam"), ("mu_pris_param", "cov_pris_param")):
        if mean in arrays and cov in arrays:
            return _checked(arrays[mean], arrays[cov], source)
    raise ValueError(f"{source}: no parameters of NIQE: it holds {', '.join(sorted(arrays)[:6]) or 'nothing'}, not "
                     "mean and cov, or mu_prisparam and cov_prisparam")


@functools.cache
def default_niqe() -> NiqeModel:
    """The parameters ``bsds400`` that come with the package, of 400 photographs of BSDS500; see ``niqe-bsds400.md``."""
    return load_niqe(pathlib.Path(__file__).with_name("niqe-bsds400.npz"))


def _checked(mean, cov, source):
    mean, cov = np.asarray(mean), np.asarray(cov)
    if mean.size != NUM_FEATURES or cov.shape != (NUM_FEATURES,) * 2 or {mean.dtype.kind, cov.dtype.kind} != {"f"}:
        raise ValueError(f"{source}: NIQE has a mean of {NUM_FEATURES} floats and their covariance, got {mean.dtype} "
                         f"{mean.shape} and {cov.dtype} {cov.shape}")
    mean, cov = mean.reshape(-1).astype(np.float64), cov.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(f"{source}: NaN or infinity among the parameters of NIQE")
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-9) or cov.diagonal().min() <= 0:
        raise ValueError(f"{source}: the covariance of NIQE's parameters is not symmetric with a positive diagonal")
    return NiqeModel(mean, cov)


def _planes(x, channel, border, block):
    """Lumas ``[H, W]`` of whole numbers in 0..255, cut to whole blocks."""
    x = np.asarray(x)
    check_shapes(x, x)
    check_settings(channel=channel, border=border, round_luma=channel != "rgb")
    if channel == "rgb":
        raise ValueError("NIQE is measured on a luma: use channel='gray' or 'y'")
    if block < 8 or block % 2:
        raise ValueError(f"block is an even number of pixels, at least 8, got {block!r}")
    check_finite("x", x)
    rows, columns = ((side - 2 * border) // block for side in x.shape[1:3])
    if rows * columns < 2 or min(rows, columns) < 1:
        raise ValueError(f"NIQE needs at least two blocks of {block} x {block} pixels, got {x.shape[1]} x {x.shape[2]}"
                         + (f" less a border of {border}" if border else ""))
    x = to_255(x, "y" if channel == "y" and x.shape[3] == 3 else "rgb", border, True, False)
    if x.shape[3] == 3:
        x = x @ np.array(_GRAY)[:, None]
    return np.floor(x[:, :rows * block, :columns * block, 0] + 0.5)


def _blocks(plane, block):
    """Features ``[N, 36]`` and sharpness ``[N]`` of the blocks of a luma."""
    normalised, deviation = _normalise(plane)
    full = _features(_cut(normalised, block))
    half = _features(_cut(_normalise(_halve(plane))[0], block // 2))
    return np.concatenate([full, half], axis=1), _cut(deviation, block).mean(axis=(1, 2))


def _cut(plane, block):
    rows, columns = plane.shape[0] // block, plane.shape[1] // block
    return plane.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(-1, block, block)


def _normalise(plane):
    """Eq. 1: the luma less its local mean, by its local deviation + 1; and that deviation."""
    mean = _blur(plane)
    deviation = np.sqrt(np.abs(_blur(plane * plane) - mean * mean))
    difference = plane - mean
    return np.where(np.abs(difference) < _NOTHING, 0.0, difference) / (deviation + 1.0), deviation


def _blur(plane):
    """A 7 x 7 Gaussian of sigma 7/6; beyond the edge the last pixel goes on."""
    weights = np.exp(-0.5 * (np.arange(-3, 4) / (7.0 / 6.0)) ** 2)
    return _separably(np.pad(plane, 3, mode="edge"), weights / weights.sum(), 1)


def _halve(plane):
    """MATLAB's ``imresize(plane, 0.5)`` of even sides: Keys' cubic over 8 pixels, mirrored at the edge."""
    distance = np.abs(np.arange(-3.5, 4.0)) / 2.0
    weights = np.where(distance <= 1.0, 1.5 * distance ** 3 - 2.5 * distance ** 2 + 1.0,
                       -0.5 * distance ** 3 + 2.5 * distance ** 2 - 4.0 * distance + 2.0)
    return _separably(np.pad(plane, 3, mode="symmetric"), weights / weights.sum(), 2)


def _separably(plane, weights, step):
    for _ in range(2):
        size = (plane.shape[0] - len(weights)) // step + 1
        plane = sum(w * plane[i:i + step * size:step] for i, w in enumerate(weights)).T
    return plane


def _features(blocks):
    """Eq. 2 to 8 of normalised blocks ``[N, b, b]``: ``[N, 18]``; beyond a block's edge its other side goes on."""
    shape, left, right = _asymmetric(blocks)
    features = [shape, (left + right) / 2.0]
    for shift in _SHIFTS:
        shape, left, right = _asymmetric(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * _gamma(2.0 / shape) / _gamma(1.0 / shape), left, right]
    return np.stack(features, axis=1)


def _asymmetric(blocks):
    """An asymmetric generalised Gaussian by moments (eq. 4 to 6): shape, left and right width, each ``[N]``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        square = np.square(blocks)
        left, right = (np.sqrt(np.sum(square, axis=(1, 2), where=side) / np.sum(side, axis=(1, 2)))
                       for side in (blocks < 0, blocks > 0))
        skew = left / right
        ratio = np.mean(np.abs(blocks), axis=(1, 2)) ** 2 / np.mean(square, axis=(1, 2))
        ratio = ratio * (skew ** 3 + 1.0) * (skew + 1.0) / (skew ** 2 + 1.0) ** 2
    known = np.isfinite(ratio)
    shape = _SHAPES[_nearest(_ratios(), np.where(known, ratio, 0.0))]
    scale = np.sqrt(_gamma(1.0 / shape) / _gamma(3.0 / shape))
    return (np.where(known, value, np.nan) for value in (shape, left * scale, right * scale))


@functools.cache
def _ratios():
    """``Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a))`` of all shapes."""
    return _gamma(2.0 / _SHAPES) ** 2 / (_gamma(1.0 / _SHAPES) * _gamma(3.0 / _SHAPES))


def _nearest(ascending, values):
    above = np.clip(np.searchsorted(ascending, values), 1, len(ascending) - 1)
    return above - (values - ascending[above - 1] <= ascending[above] - values)


_gamma = np.vectorize(lambda x: math.gamma(x) if math.isfinite(x) else math.nan, otypes=[np.float64])


def _mean(features):
    """By feature, over the blocks in which it is a number."""
    known = np.isfinite(features)
    return np.sum(features, axis=0, where=known) / np.sum(known, axis=0)
