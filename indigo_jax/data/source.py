"""What the sources of pictures share: names, ids made of them, and memory of what was read."""
from typing import Callable

from indigo_jax import rng


class Pictures:
    """A source: ``len(source)`` and ``source[i] -> {"image": uint8 [h, w, 3], "id": rng.name_id(source.names[i])}``.

    Args:
        names: one per picture.
        read: ``read(i)``: what there is of picture i, at least ``{"image": uint8 [h, w, 3]}``; an "id" counts.
        text: what the source is, for its representation.
        cache: keep what was read.
    """

    def __init__(self, names, read: Callable[[int], dict], text: str, *, cache: bool = False):
        self.names, self._read, self._text, self._cache = list(names), read, text, {} if cache else None

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
