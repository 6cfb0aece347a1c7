"""Progress inside pictures, and the estimate before long work."""
import contextlib
import math
import sys
import threading

from indigo_jax.cli.messages import UsageError

LONG = {"cpu": 1.2e13}  # parameters x pixels x calls of a picture with progress: from about six seconds on two cores
_LONG_ELSEWHERE = 1e14
_MEASURED = 5.0  # times as much in all: from there on the time is estimated
_ASKED = 600  # seconds from which on it is said


class Calls:
    """A second bar below that of the pictures: calls of the network in those that are being done."""

    def __init__(self):
        self._bar, self._lock, self._running = None, threading.Lock(), 0

    @contextlib.contextmanager
    def of_picture(self, total: int):
        """While a picture of so many calls is done: a function to be called at each."""
        from tqdm import tqdm
        told = [0]
        with self._lock:
            if self._bar is None:
                self._bar = tqdm(total=0, unit="call", desc="in this picture", file=sys.stderr, disable=None,
                                 leave=False, position=1)
            self._running += 1
            self._grow(total, 0)

        def tick():
            with self._lock:
                told[0] += 1
                if told[0] <= total:
                    self._bar.update()

        try:
            yield tick
        finally:
            with self._lock:
                self._running -= 1
                self._grow(-total, -min(told[0], total))

    def _grow(self, total, done):
        self._bar.total, self._bar.n = self._bar.total + total, self._bar.n + done
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def is_long(method, picture) -> bool:
    """Whether a picture takes so long that its calls are to be told; the same for the same picture, whatever the time.

    Programs that tell are not kept between runs, so short ones do not.
    """
    return _work(method, picture) >= LONG.get(method.devices[0].platform, _LONG_ELSEWHERE)


def _work(method, picture):
    import jax
    calls, plan = method.expected(picture)
    size = sum(leaf.size for leaf in jax.tree.leaves(method.params[0]))
    return size * math.prod(method.piece(plan)[1:3]) * calls * method.effort


def warn(method, picture, pictures: int, samples: int, yes: bool, say) -> None:
    """Measure a call of the network before work that may be long, say how long it will take, ask on a terminal.

    Args:
        method: with its networks.
        picture: the first.
        pictures: how many, at most; taken to be as large as the first.
        samples: of each.
        yes: do not ask.
        say: prints a line.

    Errors:
        UsageError for the answer no.
    """
    times = pictures * samples / min(len(method.devices), pictures)
    limit = LONG.get(method.devices[0].platform, _LONG_ELSEWHERE)
    if _work(method, picture) * times < _MEASURED * limit:
        return
    calls, plan = method.expected(picture)
    seconds = method.seconds(plan)
    if seconds is None or seconds * calls * times < _ASKED:
        return
    of = f"{pictures} pictures" if pictures > 1 else "1 picture"
    of += f" of {samples} samples" if samples > 1 else ""
    text = f"about {duration(seconds * calls * times)}: {of}, {calls} network calls each, {seconds:.2g} s a call"
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        say(f"note: {text}")
        return
    print(f"{text}; go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done; fewer --steps, a smaller picture or another --method take less")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(1500), duration(9000), duration(400_000)
    ('25 minutes', '2.5 hours', '4.6 days')
    """
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
