"""Distances between two sets of pictures by their features: Frechet (FID) and kernel (KID), in float64 on the host."""
import functools
import os
import zipfile
from typing import Any, Iterable, NamedTuple

import numpy as np

from indigo_jax.typing import Array


class Statistics(NamedTuple):
    """Of a set of feature vectors.

    Attributes:
        mean: float64 ``[D]``.
        cov: float64 ``[D, D]``, divided by ``count - 1``; zero for one vector.
        count: how many there were; None where a file does not say, and such cannot be merged.
    """

    mean: np.ndarray
    cov: np.ndarray
    count: int | None = None  # type: ignore[assignment]


class Kid(NamedTuple):
    """What :func:`kid` returns.

    Attributes:
        mean: of the subsets, the kernel distance; around 0, and so below it as well, for two sets of one distribution.
        std: of the subsets; 0 where the sets were taken whole.
    """

    mean: float
    std: float


def feature_statistics(features: Array | Iterable[Array]) -> Statistics:
    """Mean and covariance of features ``[N, D]``, or of batches ``[n, D]`` one after the other, none of them kept.

    ``S <- S + S_n + (m_n - m)(m_n - m)^T N n / (N + n)`` for each batch with its own mean ``m_n`` and scatter ``S_n``:
    exact up to rounding wherever the mean lies, and the same for any cut into batches.

    Errors:
        ValueError: no vector at all, other shapes, NaN or infinity.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    >>> feature_statistics([np.array([[0.0], [2.0]]), np.array([[4.0]])])
    Statistics(mean=array([2.]), cov=array([[4.]]), count=3)
    """
    batches: Any = [features] if getattr(features, "ndim", None) == 2 else features
    parts = (_of_batch(batch) for batch in batches if len(batch))
    total = functools.reduce(_merge, parts, None)
    if total is None:
        raise ValueError("no features to take the statistics of")
    return total


def merge_statistics(*parts: Statistics) -> Statistics:
    """The statistics of several sets together, as those of the shards of one set.

    Errors:
        ValueError: none given, other widths, or a part that does not say of how many vectors it is.
    """
    if not parts or any(part.count is None for part in parts):
        raise ValueError("statistics are merged by their counts: give at least one, each with its count")
    return functools.reduce(_merge, parts)


def save_statistics(path: str | os.PathLike, statistics: Statistics, *, protocol: str) -> None:
    """Write statistics as an npz file that :func:`load_statistics` reads, and other programs too (``mu``, ``sigma``).

    Args:
        path: of the file, taken as it is.
        statistics: of the features of a set.
        protocol: by what network and resampling they came, as ``inception2015-clean``; kept in the file.
    """
    arrays: dict[str, Any] = {"mu": statistics.mean, "sigma": statistics.cov, "protocol": np.asarray(protocol)}
    if statistics.count is not None:
        arrays["count"] = np.int64(statistics.count)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_statistics(path: str | os.PathLike, *, protocol: str | None = None) -> Statistics:
    """Statistics from an npz file (never unpickled) with the arrays ``mu [D]`` and ``sigma [D, D]``, as published ones.

    Args:
        path: the file, which may also hold ``count`` and ``protocol``, see :func:`save_statistics`.
        protocol: that the file must not contradict; published files do not say theirs.

    Errors:
        FileNotFoundError: no such file; ValueError: not such a file, or one of another protocol.
    """
    given = os.fspath(path)
    try:
        with open(given, "rb") as file, np.load(file, allow_pickle=False) as archive:
            mean, cov = (np.asarray(archive[name], np.float64) for name in ("mu", "sigma"))
            count = int(archive["count"]) if "count" in archive.files else None
            said = str(archive["protocol"]) if "protocol" in archive.files else None
    except FileNotFoundError:
        raise FileNotFoundError(f"no statistics of features at {given!r}; check the path") from None
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{given!r} is not an npz file with the arrays mu and sigma: {error}") from error
    if None not in (said, protocol) and said != protocol:
        raise ValueError(f"{given!r} holds statistics by {said}, and {protocol} is wanted")
    try:
        return _checked(Statistics(mean, cov, count))
    except ValueError as error:
        raise ValueError(f"{given!r}: {error}") from error


def fid(a: Array | Statistics, b: Array | Statistics) -> float:
    """Squared Frechet distance of the Gaussians of two sets of features.

    ``d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``. With ``C = L L^T`` the trace of the root is the sum of
    the singular values of ``L_a^T L_b``; L comes from the centred features themselves where they are fewer than their
    width, else from the eigenvalues of C, so that singular covariances lose no digits.

    The value depends on the number of pictures: it is biased upwards, by several units at 2,000 and far more below.
    Compare only values of as many pictures, and say how many.

    Args:
        a, b: features ``[N, D]`` of at least two pictures each, or :class:`Statistics` of them.

    Errors:
        ValueError: unlike widths, fewer than two vectors, NaN or infinity, a covariance that is none.

    Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
    2017, eq. 6. Differs from the reference in: no 1e-6 is added to singular covariances.

    >>> round(fid(Statistics(np.zeros(2), np.eye(2)), Statistics(np.array([3.0, 4.0]), 4.0 * np.eye(2))), 9)
    27.0
    """
    (mean_a, root_a, trace_a), (mean_b, root_b, trace_b) = _gaussian(a), _gaussian(b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features of {mean_a.size} and {mean_b.size} numbers are not of one network")
    shared = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum() if root_a.size and root_b.size else 0.0
    return float(np.sum((mean_a - mean_b) ** 2) + trace_a + trace_b - 2.0 * shared)


def kid(a: Array, b: Array, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> Kid:
    """Kernel distance of two sets of features: the unbiased squared MMD under ``k(x, y) = (x.y / D + 1)^3``.

    ``mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j)``, which has no bias whatever the
    number of pictures is.

    Args:
        a, b: features ``[N, D]``, at least two each.
        subsets: how many random subsets are taken, unless both sets are taken whole.
        subset_size: vectors of each set in a subset, none twice; at most as many as the smaller set has. Two sets of at
            most so many vectors are taken whole, once.
        seed: of the subsets.

    Errors:
        ValueError: unlike widths, fewer than two vectors, NaN or infinity, no subset.

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, eq. 4 and section 4.
    """
    a, b = _features(a, "a", 2), _features(b, "b", 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} numbers are not of one network")
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KID needs at least one subset of two, got {subsets} of {subset_size}")
    if max(len(a), len(b)) <= subset_size:
        return Kid(_discrepancy(a, b), 0.0)
    random, size = np.random.default_rng(seed), min(len(a), len(b), subset_size)
    values = [_discrepancy(*(x[random.choice(len(x), size, replace=False)] for x in (a, b))) for _ in range(subsets)]
    return Kid(float(np.mean(values)), float(np.std(values)))


def _discrepancy(a, b):
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def within(x):
        values = kernel(x, x)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2.0 * kernel(a, b).mean())


def _features(x, name, least):
    x = np.asarray(x)
    if x.ndim != 2 or len(x) < least or x.shape[1] < 1:
        raise ValueError(f"{name}: features are [N, D] with N at least {least}, got {x.shape}")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: NaN or infinity among the features, in row {int(np.argmin(np.isfinite(x).all(1)))}")
    return x


def _of_batch(batch):
    x = _features(batch, "features", 1)
    mean = x.mean(axis=0)
    return Statistics(mean, (x - mean).T @ (x - mean) / max(len(x) - 1, 1), len(x))


def _merge(a, b):
    if a is None:
        return b
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and {b.mean.size} numbers are not of one network")
    count, step = a.count + b.count, b.mean - a.mean
    scatter = (a.cov * (a.count - 1) + b.cov * (b.count - 1)
               + np.outer(step, step) * (a.count * b.count / count))
    return Statistics(a.mean + step * (b.count / count), scatter / (count - 1), count)


def _gaussian(given):
    """Mean, a root L of the covariance, and its trace."""
    if not isinstance(given, Statistics):
        x = _features(given, "features", 2)
        if len(x) <= x.shape[1]:
            mean = x.mean(axis=0)
            root = (x - mean).T / np.sqrt(len(x) - 1)
            return mean, root, np.sum(root ** 2)
        given = feature_statistics(x)
    mean, cov, _ = _checked(given)
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -1e-6 * max(values[-1], 1e-300):
        raise ValueError(f"a covariance with the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}: it is none")
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return mean, vectors[:, kept] * np.sqrt(values[kept]), np.trace(cov)


def _checked(statistics):
    mean, cov = np.asarray(statistics.mean, np.float64), np.asarray(statistics.cov, np.float64)
    if mean.ndim != 1 or cov.shape != (mean.size,) * 2 or not mean.size:
        raise ValueError(f"statistics are a mean [D] and a covariance [D, D], got {mean.shape} and {cov.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("NaN or infinity among the statistics")
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-9 * np.abs(cov).max()):
        raise ValueError("a covariance that is not symmetric")
    if statistics.count is not None and statistics.count < 2:
        raise ValueError("statistics of one picture have no covariance; give at least two")
    return Statistics(mean, cov, statistics.count)
