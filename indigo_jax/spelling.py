"""What a mistyped word may have meant."""
import difflib
from typing import Iterable


def near(word, choices: Iterable[str], *, least: float = 0.6) -> str:
    """" (did you mean 'prior'?)" with the nearest of the choices, for the middle of an error; "" where none is near.

    Args:
        word: what was typed; anything.
        choices: words that are known.
        least: share of the letters that agree, of :func:`difflib.get_close_matches`, upper and lower case alike.

    >>> near("priors", ["restorer", "prior"]), near("oracle", ["restorer", "prior"])
    (" (did you mean 'prior'?)", '')
    """
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=least)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""
