"""The file of ``--report``: what became of every input, written as it happens, there when it is whole."""
import collections
import contextlib
import json
import os
import pathlib

from indigo_jax.cli.messages import UsageError, show
from indigo_jax.cli.outputs import check_writable, temporary_name

STATUS = ("done", "skipped", "failed", "left out")


class Report:
    """Counts what became of inputs and, with a ``path``, writes a line on each into a JSON file.

    Args:
        path: the file, or None.
        head: what stands at its beginning.

    Attributes:
        counts: how many inputs there were of each status.
        facts: what stands at its end; may be changed until it is closed.
    """

    def __init__(self, path=None, head=None):
        self.counts, self.facts = collections.Counter(), {}
        self._stream = None
        if path is None:
            return
        self.path = pathlib.Path(path)
        if self.path.suffix.lower() != ".json" or self.path.is_dir():
            raise UsageError(f"--report writes JSON: name it {self.path.with_suffix('.json')}, not {path}")
        check_writable(self.path, "--report")
        self._head = head

    @property
    def is_wanted(self) -> bool:
        """Whether a file is written."""
        return hasattr(self, "path")

    def add(self, name, status: str, reason: str | None = None, **facts) -> None:
        """What became of an input: one of :data:`STATUS`."""
        self.counts[status] += 1
        if not self.is_wanted:
            return
        row = {"input": str(name), "status": status, **({"reason": reason} if reason else {}), **facts}
        self._open().write(f"{',' if self.counts.total() > 1 else ''}\n{json.dumps(row, ensure_ascii=False)}")

    def close(self) -> None:
        """Give the file its name.

        Errors:
            OSError, one line.
        """
        if not self.is_wanted:
            return
        counts = {status: self.counts[status] for status in STATUS}
        try:
            with self._open() as stream:
                stream.write(f'\n], "counts": {json.dumps(counts)}')
                stream.write("".join(f', "{name}": {json.dumps(value)}' for name, value in self.facts.items()) + "}\n")
            os.replace(self._temporary, self.path)
        except OSError as error:
            self.discard()
            raise OSError(f"{show(self.path)}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
                self._temporary.unlink()

    def _open(self):
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = temporary_name(self.path)
            self._stream = open(self._temporary, "x", encoding="utf-8", errors="backslashreplace")
            self._stream.write(json.dumps(self._head, ensure_ascii=False)[:-1] + ', "files": [')
        return self._stream
