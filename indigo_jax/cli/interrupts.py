"""Ctrl-C in a process of our own: one line and exit code 130, at whatever moment it comes.

Most of the time it is the usual ``KeyboardInterrupt``. Not inside an import, whose compiled code may crash on it; and
where it comes up in a callback, Python prints it and goes on as if nothing had happened. There the process ends at
once.
"""
import contextlib
import os
import signal
import sys
from typing import Callable

_TEXT = "interrupted; what has been written is whole, the rest is not there"
_is_heard = False
_last: list[Callable[[], None]] = []
prog = "indigo"  # the command that was understood so far


def begin() -> None:
    """Hear Ctrl-C from now on, unless it is ignored, as by ``nohup``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _heard)
        sys.unraisablehook = _unraisable


def check() -> None:
    """Raise what was heard and then lost: code that catches everything may have taken it for an error of its own."""
    if _is_heard:
        raise KeyboardInterrupt


def stop() -> None:
    """All is said, so that a late Ctrl-C has nothing to interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def before_end(do: Callable[[], None]):
    """Within this block, ``do()`` is called if the process has to end at once."""
    _last.append(do)
    try:
        yield
    finally:
        _last.remove(do)


def end() -> None:
    """Say so and end the process, without waiting for what its threads compute."""
    global _is_heard
    _is_heard = True
    for do in reversed(_last):
        with contextlib.suppress(Exception):
            do()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{line()}\n".encode())
    os._exit(130)


def line() -> str:
    """What is said."""
    return f"{prog}: {_TEXT}"


def _heard(signum, frame):
    global _is_heard
    if _is_heard or _is_importing(frame):
        end()
    _is_heard = True
    raise KeyboardInterrupt


def _is_importing(frame):
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unraisable(found):
    """What came up where nobody can catch it."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        end()
    sys.__unraisablehook__(found)
