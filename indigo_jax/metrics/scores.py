"""Tables of scores: one row per image, a float64 mean, and a comparison that refuses unlike tables."""
from typing import Iterable, NamedTuple

import numpy as np

from indigo_jax.metrics.protocol import Protocol, Score, by_name


class Scores(NamedTuple):
    """What :func:`score_pairs` returns.

    Attributes:
        rows: one dict per image, in the order given: ``{"name": name, protocol name: float, ...}``.
        mean: ``{protocol name: Score}``, the float64 mean over all rows. ``inf`` (identical images under PSNR) makes
            the mean ``inf``: nothing is left out in silence.
    """

    rows: list[dict]
    mean: dict[str, Score]


def score_pairs(pairs: Iterable, protocols: Iterable[Protocol | str]) -> Scores:
    """Measure image pairs one by one.

    Args:
        pairs: ``(name, a, b)`` with images ``[H, W, 3]`` (or ``[1, H, W, 3]``), float in ``[-1, 1]`` or uint8; sizes
            may differ from pair to pair. NIQE is of a alone, so the reference is b. Or ``(name, a, b, visible)`` with
            bool ``[H, W]``, the pixels that count. Read lazily, one pair at a time.
        protocols: protocols or their names, each once.

    Returns:
        :class:`Scores`.

    Errors:
        ValueError: no pair, no protocol, a protocol twice, or a pair that cannot be measured (named).

    >>> black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 10, np.uint8)
    >>> scores = score_pairs([("one.png", black, grey)], ["psnr"])
    >>> scores.rows[0]["name"], round(scores.rows[0]["psnr-rgb-crop0-u8"], 4)
    ('one.png', 28.1308)
    """
    known = [by_name(p) if isinstance(p, str) else p for p in protocols]
    names = [p.name for p in known]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"name at least one metric, each once, got {', '.join(names) or 'none'}")
    rows = []
    for name, a, b, *visible in pairs:
        a, b = (x[None] if x.ndim == 3 else x for x in (a, b))
        if a.shape[0] != 1 or b.shape[0] != 1:
            raise ValueError(f"{name}: one pair is two images [H, W, 3], got {tuple(a.shape)} and {tuple(b.shape)}")
        counts = visible[0][None] if visible and visible[0] is not None else None
        try:
            rows.append({"name": name, **{p.name: float(p(a, b, counts)[0]) for p in known}})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not rows:
        raise ValueError("no image pair to measure")
    mean = {n: Score(float(np.mean([row[n] for row in rows], dtype=np.float64)), n) for n in names}
    return Scores(rows, mean)


def compare(first: Scores, second: Scores) -> dict[str, float]:
    """Differences of the means, ``second - first``, by protocol.

    Errors:
        ValueError: the tables were measured by unlike protocols or on other images.
    """
    if set(first.mean) != set(second.mean):
        raise ValueError(f"unlike protocols: {', '.join(sorted(first.mean))} against {', '.join(sorted(second.mean))}; "
                         "measure both by the same ones")
    if sorted(row["name"] for row in first.rows) != sorted(row["name"] for row in second.rows):
        raise ValueError("the two tables are about other images; measure both on the same ones")
    return {name: second.mean[name] - score for name, score in first.mean.items()}
