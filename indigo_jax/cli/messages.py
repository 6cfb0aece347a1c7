"""What the commands tell: the usage error, names and reasons on one line, and the text files beside the pictures."""
import contextlib
import os
import pathlib
import secrets
import sys


class UsageError(Exception):
    """Wrong usage: one line that says what to type instead. ``prog`` is the command that was understood so far."""

    prog = None


def show(path):
    """A file name on one line, printable anywhere."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def some(names):
    """The first five names."""
    return ", ".join(map(show, names[:5])) + (", ..." if len(names) > 5 else "")


def one_line(error):
    """The message of an error, without line breaks; its type where it has none."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def write_text(path, text):
    """Write a text file, whole or not at all; says why if not. Returns whether it is there."""
    path = pathlib.Path(path)
    temporary = path.parent / f".indigo-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        print(f"indigo: {show(path)}: cannot be written ({error.strerror})", file=sys.stderr)
        return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True
