"""Sizes of pictures that are a whole factor apart, though their sides are no multiples of it."""
import math


def shrunk_by(size, small) -> int | None:
    """By what whole factor a picture was shrunk: 1 for one size, None for sizes that do not fit together.

    A side that is no multiple of the factor is rounded up (as :func:`operators.downsample` does) or down; so the two
    pictures share their top left corner, and differ by less than one pixel of the smaller at the other ends.

    Args:
        size, small: sides (height, width) of both.

    >>> shrunk_by((161, 190), (41, 48)), shrunk_by((161, 190), (40, 47)), shrunk_by((161, 190), (41, 50))
    (4, 4, None)
    """
    if 0 in (*size, *small):
        return None
    for factor in sorted({max(round(side / part), 1) for side, part in zip(size, small)}):
        if all(abs(side - factor * part) < factor for side, part in zip(size, small)):
            return factor
    return None


def enlarged_by(size, enlarged, *, largest: int = 16) -> int | None:
    """The smallest factor from 2 on by which a picture of ``size``, shrunk (its sides rounded up) and enlarged again,
    gets the sides ``enlarged``; None where there is no such factor up to ``largest``.

    >>> enlarged_by((161, 190), (164, 192)), enlarged_by((160, 192), (161, 192))
    (4, None)
    """
    for factor in range(2, largest + 1):
        if all(factor * math.ceil(side / factor) == other for side, other in zip(size, enlarged)):
            return factor
    return None
