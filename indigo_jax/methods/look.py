"""``--method look``: nothing is said of what is wrong with a picture, so it is looked at."""
import copy

import jax
import numpy as np

from indigo_jax import restoration
from indigo_jax.methods.base import content_id
from indigo_jax.methods.jpeg import Jpeg, middle
from indigo_jax.methods.once import Once

_BLURRED = 0.6  # blur effect: sharp photographs have 0.2 to 0.45, sigma of 2 pixels 0.52 to 0.69
_GOOD = 10.4  # mean step below which a file is left as it is: quality 91
_NOISE = 10 / 127.5  # noise that is to go first: so much, and more than the error of the rounding


class Look(Once):
    """A picture that was a JPEG file of quality below 91 goes to :class:`Jpeg`, unless there is strong noise in it;
    every other to :class:`Once`, which finds the noise, or none. Blur is told of, not undone."""

    name = "look"
    summary = "looks for noise and for what JPEG has left, and undoes what it finds"
    when = "nothing is known of what is wrong"
    needs, cost = "nothing", "--copies, 4, and 1"
    tasks = ("auto",)

    Settings = Jpeg.Settings

    def load(self):
        super().load()
        self.jpeg = Jpeg(self.settings, task="jpeg", devices=self.devices)
        self._seen = None, False  # the last picture that was looked at

    def told(self, **settings):
        other = super().told(**settings)
        other.jpeg = self.jpeg.told(**settings)
        return other

    def was_jpeg(self, picture) -> bool:
        """Whether a picture shows what JPEG has left, and hardly any noise beside it."""
        pixels = np.asarray(picture.pixels, np.float32)
        if self.settings.sigma_255 is not None or 0 in pixels.shape:
            return False
        which = content_id(pixels), picture.jpeg_steps
        seen, answer = self._seen
        if seen != which:  # asked before a picture is begun, and when it is
            answer = self._look(pixels, picture.jpeg_steps)
            self._seen = which, answer
        return answer

    def _look(self, pixels, file_steps):
        jpeg = self.jpeg.told()
        jpeg.file_steps = file_steps
        trace = jpeg.trace(pixels)
        if not trace.found[0] or np.mean(trace.steps) < _GOOD:
            return False
        error, noise = _strengths(middle(pixels)[None], trace)
        return bool(noise[0] < max(float(error[0]), _NOISE))

    def __call__(self, picture, **how):
        if self.was_jpeg(picture):
            restored, report = self.jpeg(picture, **how)
            return restored, report._replace(note="it was a JPEG file; its artefacts were undone as by --task jpeg")
        restored, report = super().__call__(picture, **how)
        return restored, report._replace(note="; ".join(filter(None, (report.note, _told_of_blur(picture)))))

    def expected(self, picture):
        return self.jpeg.expected(picture) if self.was_jpeg(picture) else super().expected(picture)

    def smaller(self, picture):
        other = super().smaller(picture)
        if other is not None:
            other.jpeg = copy.copy(self.jpeg)
            other.jpeg.largest = other.largest
        return other


@jax.jit
def _strengths(part, trace):
    return restoration.jpeg_error(part, trace), restoration.flat_noise_level(part)


def _told_of_blur(picture):
    """A sentence where a picture looks blurred."""
    part = middle(np.asarray(picture.pixels, np.float32)).mean(axis=-1)
    if min(part.shape) < 32 or part.std() < 0.02 or blur_effect(part) < _BLURRED:
        return ""
    return "it looks blurred; --task deblur looks for the blur"


def blur_effect(x: np.ndarray, *, size: int = 11) -> float:
    """How blurred a grey picture ``[H, W]`` looks, from 0 to 1: how little of its edges goes when it is blurred again.

    Of the edges inside, along the axis for which it is most. The numbers of ``skimage.measure.blur_effect``, which
    takes a third of a second to import.

    Source: Crete, Dolmiere, Ladret & Nicolas, The blur effect, SPIE 6492 (2007).
    """
    def edges(x):  # Sobel's along the first axis, of the inside
        steps = x[2:] - x[:-2]
        return np.abs(steps[:, :-2] + 2 * steps[:, 1:-1] + steps[:, 2:])[1:, 1:]

    found = []
    for picture in (np.asarray(x, np.float64), np.asarray(x, np.float64).T):
        sums = np.cumsum(np.pad(picture, [(size // 2 + 1, size // 2), (0, 0)], "symmetric"), axis=0)
        sharp, again = edges(picture), edges((sums[size:] - sums[:-size]) / size)
        found.append(1 - np.sum(np.maximum(0, sharp - again)) / max(np.sum(sharp), 1e-30))
    return float(max(found))
