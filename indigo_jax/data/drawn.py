"""Pictures that the program draws when they are asked for: what all kinds of them share."""
from typing import Callable

import numpy as np

from indigo_jax.data.source import Pictures

NUM_VAL, NUM_TRAIN = 200, 20_000  # of a kind, of seed 0


class Drawn(Pictures):
    """A source whose picture i depends on (seed, start + i) alone.

    Args:
        kind: its name in specs and errors, as "ellipses".
        count: how many pictures.
        size: their side in pixels, at least ``least``.
        seed: 0 ... 2**32 - 1.
        start: number of the first one.
        least: the smallest size.
        draw: ``draw(seed, number, size)``: uint8 ``[size, size, 3]``.
        cache: keep every picture that was drawn.

    Errors:
        ValueError for numbers out of range; IndexError for a picture that it does not have.
    """

    def __init__(self, kind: str, count: int, size: int, seed: int, start: int, *, least: int,
                 draw: Callable[[int, int, int], np.ndarray], cache: bool = False):
        for name, value, low in (("count", count, 1), ("size", size, least), ("seed", seed, 0), ("start", start, 0)):
            if int(value) != value or value < low:
                raise ValueError(f"{kind}: {name} is {value}; it must be a whole number, at least {low}")
        if seed >= 2**32:
            raise ValueError(f"{kind}: seed is {seed}; it must be in 0 ... 2**32 - 1")
        size, seed, numbers = int(size), int(seed), range(int(start), int(start) + int(count))
        super().__init__([f"{kind}/{seed}/{number}" for number in numbers],
                         lambda index: {"image": draw(seed, numbers[index], size)},
                         f"{kind} of {size} x {size}, seed {seed}", cache=cache)


def of_split(split: str) -> dict[str, int]:
    """``count``, ``seed`` and ``start`` of "train", "val" or "all" of a kind: 200 to validate, then 20,000 others."""
    start, end = {"val": (0, NUM_VAL), "train": (NUM_VAL, NUM_VAL + NUM_TRAIN), "all": (0, NUM_VAL + NUM_TRAIN)}[split]
    return {"count": end - start, "seed": 0, "start": start}
