"""Several sources as one, each repeated as often as its share asks."""
import numpy as np


class JoinedPictures:
    """See :func:`joined`."""

    def __init__(self, sources, repeats):
        if any(repeat < 1 for repeat in repeats):
            raise ValueError(f"repeats are {list(repeats)}; each must be at least 1")
        self._sources = list(sources)
        lengths = [len(source) for source in self._sources]
        order = [(which, index) for which, repeat in enumerate(repeats) for _ in range(repeat)
                 for index in range(lengths[which])]
        self._order = np.asarray(order, np.int32)
        self.names = [str(self._sources[which].names[index]) for which, index in order]

    def __len__(self):
        return len(self._order)

    def __repr__(self):
        return f"JoinedPictures({', '.join(map(repr, self._sources))}: {len(self)} pictures)"

    def __getitem__(self, index):
        which, row = self._order[index]
        return self._sources[which][int(row)]


def joined(sources, repeats) -> JoinedPictures:
    """One source that has every picture of each of the ``sources``, ``repeats[i]`` times those of the i-th.

    >>> class Two(list):
    ...     names = ["a", "b"]
    >>> source = joined([Two("xy"), Two("z")], [1, 2])
    >>> len(source), source[3]
    (4, 'z')
    """
    return JoinedPictures(sources, repeats)
