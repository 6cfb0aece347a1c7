"""What the sources of pictures share: names, ids made of them, memory of what was read, a look at what can be read."""
from concurrent import futures
from typing import Callable

from indigo_jax import rng


class Pictures:
    """A source: ``len(source)`` and ``source[i] -> {"image": uint8 [h, w, 3], "id": rng.name_id(source.names[i])}``.

    Args:
        names: one per picture.
        read: ``read(i)``: what there is of picture i, at least ``{"image": uint8 [h, w, 3]}``; an "id" counts.
        text: what the source is, for its representation.
        cache: keep what was read.
        check: ``check(i)`` raises ValueError where picture i cannot be read, with little of the work; None where there
            is nothing to look at.
    """

    def __init__(self, names, read: Callable[[int], dict], text: str, *, cache: bool = False,
                 check: Callable[[int], object] | None = None):
        self.names, self._read, self._text, self._cache = list(names), read, text, {} if cache else None
        self.check = check

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        return f"Pictures({self._text}: {len(self)} pictures)"

    def __getitem__(self, index):
        element = None if self._cache is None else self._cache.get(index)
        if element is None:
            element = {"image": None, "id": rng.name_id(self.names[index])} | self._read(index)
            if self._cache is not None:
                self._cache[index] = element
        return dict(element)


def damaged(source, *, num_threads: int = 8) -> list[str]:
    """Why pictures of a source cannot be read, one line each in its order; none where it cannot look without reading.

    Files are looked at by :func:`indigo_jax.images.check`, in threads: seconds for ten thousand pictures, where a
    training would meet a damaged one after many steps.

    Args:
        source: of :func:`open_source`, or any other.
        num_threads: that look at the same time.
    """
    check = getattr(source, "check", None)
    if check is None:
        return []

    def reason(index):
        try:
            check(index)
            return ""
        except (ValueError, OSError) as error:
            return str(error)

    with futures.ThreadPoolExecutor(num_threads) as pool:
        return list(filter(None, pool.map(reason, range(len(source)))))
