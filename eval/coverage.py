"""Whether the spread of several samples tells how far from the truth their mean is."""
import jax
import numpy as np
from jax.scipy.special import betainc

WITHIN = (1, 2)  # spreads
NAMES = ("rmse-255", "spread-255", "spread-over-rmse", *(f"within-{k}" for k in WITHIN))


def coverage(samples: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Samples of one picture ``[K, H, W, C]`` in [-1, 1], not rounded, against its truth ``[H, W, C]``.

    ``rmse-255`` and ``spread-255``: root mean squares of the error of the mean of the samples and of
    ``s = std sqrt(1 + 1 / K)``, the standard deviation with K - 1 in its denominator; both over all values, in grey
    values of 255. The factor is the error of a mean of only K. ``spread-over-rmse``: the one by the other; 1 is right,
    less is too sure. ``within-k``: share of values whose error is at most ``k s``; see :func:`expected`.

    Errors:
        ValueError for fewer than two samples, or another shape of the truth.
    """
    samples, truth = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if len(samples) < 2 or samples.shape[1:] != truth.shape:
        raise ValueError(f"at least two samples of the shape of the truth {list(truth.shape)}, got "
                         f"{list(samples.shape)}")
    spread = samples.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(samples))
    error = np.abs(samples.mean(axis=0) - truth)
    rmse, width = (float(127.5 * np.sqrt(np.mean(values**2))) for values in (error, spread))
    shares = [float(np.mean(error <= k * spread)) for k in WITHIN]
    return dict(zip(NAMES, (rmse, width, width / rmse if rmse else np.inf, *shares)))


def expected(count: int) -> tuple[float, ...]:
    """What ``within-k`` is if truth and ``count`` samples are draws from one Gaussian for each value: the law of the
    ratio is Student's with ``count - 1`` degrees of freedom; 0.683 and 0.954 for very many.

    >>> [round(share, 3) for share in expected(8)], [round(share, 3) for share in expected(100_000)]
    ([0.649, 0.914], [0.683, 0.954])
    """
    degrees = float(count - 1)
    with jax.enable_x64():
        return tuple(1 - float(betainc(degrees / 2, 0.5, degrees / (degrees + k**2))) for k in map(float, WITHIN))
