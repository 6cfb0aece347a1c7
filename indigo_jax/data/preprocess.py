"""From a source of pictures to batches: shuffle, crop, flip, batch.

There are no degradations here. They run on the device, inside the train step, with keys made of (seed, step, slot of
the picture in the batch), so that the host only moves uint8 pictures and a resumed run degrades them in the same way.
"""
import functools
import sys
from typing import Iterator

import numpy as np


def pipeline(source, *, batch_size: int, crop: int | None, seed: int, augment: bool | str = True, repeat: bool = True,
             num_threads: int = 4, rows=None):
    """An endless, shuffled, resumable stream of training batches.

    Picture ``p`` of the stream depends on ``seed`` and ``p`` alone: a new order in each epoch, a random crop, and one
    of the eight symmetries of the square, the same for the picture and its measurement. Batch ``k`` holds the
    pictures ``k * batch_size ...``, and each process asks for its rows of it; so the batch of all processes together is
    the same for any number of them. The state of an iterator is the same on all processes, and good for any number.

    Args:
        source: ``len(source)`` and ``source[i] -> {"image": uint8 [h, w, 3], "id": int}``, optionally with
            ``"measurement"``: uint8, as large as the picture or smaller by a whole factor (super-resolution pairs).
        batch_size: pictures per step over all processes together.
        crop: side of the square crop in pixels; smaller pictures are reflect-padded on the right and below. None
            keeps the pictures whole; they must all be of one size then (and square, to be rotated).
        seed: 0 ... 2**32 - 1.
        augment: True (flips and rotations by 90 degrees), "flip" (left-right only: faces) or False.
        repeat: go on for ever; otherwise one epoch, without the pictures that do not fill a batch.
        num_threads: batches prepared at a time; 0 prepares each when it is asked for.
        rows: which rows of each batch this process gets, numbers from 0 (:func:`sharding.process_rows`); default: all.

    Returns:
        A ``grain.IterDataset`` of ``{"image": uint8 [b, crop, crop, 3], "id": uint32 [b]}``, optionally with
        "measurement" ``[b, crop / factor, crop / factor, 3]``, ``b = len(rows)``. Its iterators have
        ``get_state()`` and ``set_state(state)``; the state is the number of batches consumed.

    Errors:
        ImportError without grain; ValueError for numbers that do not fit together, naming them.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError('the training pipeline needs grain: pip install "indigo_jax[train]"') from error
    rows = range(max(batch_size, 0)) if rows is None else rows
    _check(source, batch_size, crop, seed, augment, rows)
    stream = grain.MapDataset.source(_Shuffled(source, seed, repeat)).seed(seed).random_map(_Augment(crop, augment))
    batches = grain.MapDataset.source(_Batches(stream, batch_size, rows))
    if not len(batches):
        raise ValueError(f"{len(source)} pictures do not fill one batch of {batch_size}: use a smaller batch_size, or "
                         "repeat=True")
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads))


def evaluation_batches(source, *, batch_size: int, crop: int | None = None) -> Iterator[dict]:
    """Every picture once, in order, in batches of one shape with a mask.

    A batch that is not full is filled up with copies of its last picture, where ``mask`` is False. Pictures of another
    size start a new batch.

    Args:
        source: as for :func:`pipeline`.
        batch_size: rows of each batch.
        crop: side of the central square crop (smaller pictures are reflect-padded); None keeps whole pictures.

    Yields:
        ``{"image": uint8 [B, h, w, 3], "id": uint32 [B], "mask": bool [B]}``, optionally with "measurement".

    >>> source = [{"image": np.zeros([4, 4, 3], np.uint8), "id": i} for i in range(3)]
    >>> [batch["mask"].tolist() for batch in evaluation_batches(source, batch_size=2)]
    [[True, True], [True, False]]
    """
    _check_sizes(batch_size, crop)
    rows = []
    for index in range(len(source)):
        row = _crop(source[index], crop, lambda room: room // 2)
        if rows and (len(rows) == batch_size or _shapes(row) != _shapes(rows[0])):
            yield _masked(rows, batch_size)
            rows = []
        rows.append(row)
    if rows:
        yield _masked(rows, batch_size)


class _Shuffled:
    """Epoch after epoch of a source, each in an order of its own.

    (``grain``'s own shuffle computes each index by a cipher that needs milliseconds for sources of a few hundred.)
    """

    def __init__(self, source, seed, repeat):
        self._source, self._length = source, sys.maxsize if repeat else len(source)
        self._order = functools.lru_cache(maxsize=4)(  # a thread may still be at the end of the last epoch
            lambda epoch: np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(source)))

    def __len__(self):
        return self._length

    def __getitem__(self, position):
        epoch, index = divmod(position, len(self._source))
        return self._source[int(self._order(epoch)[index])]


class _Augment:
    """Random crop and symmetry of one element; all random numbers come from the generator that grain hands in."""

    def __init__(self, crop, augment):
        self._size, self._augment = crop, augment

    def __call__(self, element, generator):
        element = _crop(element, self._size, lambda room: int(generator.integers(room + 1)))
        if not self._augment:
            return element
        flip, turns = generator.integers(2), generator.integers(4) if self._augment is True else 0
        return {key: value if key == "id" else np.rot90(value[:, ::-1] if flip else value, turns)
                for key, value in element.items()}


class _Batches:
    """Batch ``k`` of this process: its rows of the elements ``k * batch_size ... (k + 1) * batch_size``."""

    def __init__(self, stream, batch_size, rows):
        self._stream, self._batch_size, self._rows = stream, batch_size, [int(row) for row in rows]

    def __len__(self):
        return len(self._stream) // self._batch_size

    def __getitem__(self, k):
        return _stack([self._stream[k * self._batch_size + row] for row in self._rows])


def _crop(element, size, choose):
    """Cut ``size x size``, starting at ``choose(room)`` in 0 ... room, from the picture and from its measurement."""
    image, measurement = element["image"], element.get("measurement")
    factor = 1 if measurement is None else _factor(image, measurement, element["id"])
    if size is None:
        return element
    if size % factor:
        raise ValueError(f"crop {size} is not a multiple of {factor}, by which the measurements are smaller")
    size = size // factor
    top = factor * choose(max(image.shape[0] // factor - size, 0))
    left = factor * choose(max(image.shape[1] // factor - size, 0))
    cut = {"image": _window(image, top, left, size * factor), "id": element["id"]}
    if measurement is not None:
        cut["measurement"] = _window(measurement, top // factor, left // factor, size)
    return cut


def _window(image, top, left, size):
    image = image[top:top + size, left:left + size]
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    return np.pad(image, [(0, size - height), (0, size - width), (0, 0)], mode="reflect")


def _factor(image, measurement, name):
    factor = max(image.shape[0] // max(measurement.shape[0], 1), 1)
    if image.shape != (measurement.shape[0] * factor, measurement.shape[1] * factor, 3):
        raise ValueError(f"picture {name}: the image is {image.shape} and its measurement {measurement.shape}; they "
                         "must be of one size, or differ by a whole factor")
    return factor


def _shapes(row):
    return [np.shape(value) for value in row.values()]


def _stack(rows):
    if any(_shapes(row) != _shapes(rows[0]) for row in rows):
        sizes = sorted({"x".join(map(str, row["image"].shape[:2])) for row in rows})
        raise ValueError(f"pictures of different sizes ({', '.join(sizes)}) cannot share a batch: give a crop")
    return {key: np.stack([row[key] for row in rows]) if key != "id" else
            np.array([row["id"] for row in rows], np.uint32) for key in rows[0]}


def _masked(rows, batch_size):
    batch = _stack(rows + [rows[-1]] * (batch_size - len(rows)))
    return {**batch, "mask": np.arange(batch_size) < len(rows)}


def _check_sizes(batch_size, crop):
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    if crop is not None and crop < 1:
        raise ValueError(f"crop is {crop}; it must be at least 1, or None for whole pictures")


def _check(source, batch_size, crop, seed, augment, rows):
    if not len(source):
        raise ValueError("the source has no pictures")
    _check_sizes(batch_size, crop)
    outside = [int(row) for row in rows if not 0 <= row < batch_size]
    if outside or not len(rows):
        raise ValueError(f"rows {outside} are not in a batch of {batch_size}" if outside else "rows are none at all")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; it must be in 0 ... 2**32 - 1")
    if augment not in (True, False, "flip"):
        raise ValueError(f"augment is {augment!r}; it is True, 'flip' or False")
