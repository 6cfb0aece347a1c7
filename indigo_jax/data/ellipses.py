"""Random phantoms of ellipses, drawn when asked for: pictures to train a prior for tomography on."""
import numpy as np

from indigo_jax.data.drawn import Drawn, of_split

MIN_SIZE = 16


class EllipsePhantoms(Drawn):
    """A source of random phantoms in the manner of Shepp and Logan: grey ellipses in a body, most within a skull.

    Pictures are uint8 ``[size, size, 3]``, grey.
    Picture i depends on (seed, start + i) alone; its shapes do not depend on the size. It is 0 outside the inscribed
    circle, whatever symmetry of the square is applied to it, so that no ray of :func:`indigo_jax.operators.radon`
    misses any of it.

    Args:
        count: how many pictures.
        size: their side in pixels, at least 16.
        seed: 0 ... 2**32 - 1.
        start: number of the first one.
        cache: keep every picture that was drawn (3 bytes per pixel).

    Errors:
        ValueError for numbers out of range; IndexError for a picture that it does not have.

    >>> EllipsePhantoms(2, 32, 0)[1]["image"].shape
    (32, 32, 3)
    """

    def __init__(self, count: int, size: int, seed: int, *, start: int = 0, cache: bool = False):
        super().__init__("ellipses", count, size, seed, start, least=MIN_SIZE, cache=cache,
                         draw=lambda seed, number, size: _draw(_ellipses(seed, number), size))


def open_ellipses(size: str, split: str, cache: bool) -> EllipsePhantoms:
    """``ellipses:SIZE``: 20,000 pictures to train on and 200 others for validation, all of seed 0."""
    if not (size.isascii() and size.isdigit() and int(size) >= MIN_SIZE):
        raise ValueError(f"ellipses:{size}: give the side of the pictures, a whole number of at least {MIN_SIZE}, "
                         "as ellipses:64")
    return EllipsePhantoms(size=int(size), cache=cache, **of_split(split))


def _ellipses(seed, number):
    """(body, additions): rows of (grey, x, y, semi-axis, semi-axis, angle), the unit disc being the field of view.

    The body is painted first, each ellipse over the one before; the grey of the additions is added inside it.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    uniform = generator.uniform
    axes = uniform(0.55, 0.95, 2)
    reach, turn, direction = uniform(0.0, 1.0), uniform(0.0, np.pi), uniform(0.0, 2.0 * np.pi)
    shift = reach * (0.95 - axes.max()) * np.array([np.cos(direction), np.sin(direction)])
    body = [[uniform(0.1, 0.9), *shift, *axes, turn]]
    if generator.random() < 0.75:  # a bright skull about darker tissue
        body = [[uniform(0.6, 1.0), *shift, *axes, turn],
                [uniform(0.1, 0.5), *shift, *(axes - uniform(0.02, 0.12)), turn]]
    additions = []
    for _ in range(generator.integers(2, 15)):
        radius, around = np.sqrt(uniform(0.0, 0.7)) * axes.min(), uniform(0.0, 2.0 * np.pi)
        semi = 0.02 * (0.4 / 0.02) ** uniform(0.0, 1.0, 2)
        grey = uniform(0.05, 0.4) * (1 if generator.random() < 0.5 else -1)
        additions.append([grey, shift[0] + radius * np.cos(around), shift[1] + radius * np.sin(around), *semi,
                          uniform(0.0, np.pi)])
    return np.array(body), np.array(additions)


def _cover(ellipses, size):
    """How much of each pixel lies inside each ellipse, nearly: ``[n, size, size]`` in ``[0, 1]``."""
    half = size / 2.0
    y, x = (np.mgrid[:size, :size] + 0.5) / half - 1.0
    _, x0, y0, a, b, angle = (column[:, None, None] for column in ellipses.T)
    u = ((x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)) / a
    v = ((y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)) / b
    level = np.sqrt(u**2 + v**2) + 1e-9
    slope = np.sqrt((u / a) ** 2 + (v / b) ** 2) / level + 1e-9  # of the level
    return np.clip(0.5 - half * (level - 1.0) / slope, 0.0, 1.0)  # distance to the edge in pixels


def _draw(ellipses, size):
    body, additions = ellipses
    grey = np.zeros((size, size))
    for cover, ellipse in zip(_cover(body, size), body):
        grey += cover * (ellipse[0] - grey)
    inside = _cover(body[-1:], size)[0]
    grey += inside * np.tensordot(additions[:, 0], _cover(additions, size), axes=1)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2.0
    grey[x**2 + y**2 > (size / 2.0 - 0.75) ** 2] = 0.0
    return np.repeat(np.round(255.0 * np.clip(grey, 0.0, 1.0)).astype(np.uint8)[..., None], 3, axis=2)
