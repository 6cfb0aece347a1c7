"""What is done already: one line of JSON a picture, in a hidden file in the output folder that is only appended to.

A line says which files were made, and its key of what: the input's content, all settings, the weights, the version of
the code. Lines are written after their files. A process that is killed leaves at most half a line, which nobody reads;
several processes may append to one file at once.
"""
import dataclasses
import functools
import hashlib
import json
import os
import pathlib

from indigo_jax import __version__
from indigo_jax.cli.outputs import hash_file

NAME = ".indigo-manifest.jsonl"
_HEAD = b'{"key": "'
_DIGITS = 64  # of a key


class Manifest:
    """The file of one output folder; it need not be there. Of each line only a place is kept in memory."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / NAME
        self._places: dict[bytes, int] = {}
        self._read = 0

    def find(self, key: str) -> dict | None:
        """The newest record of a key, also of what another process has appended since; None where there is none."""
        self._look()
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        try:
            with open(self.path, "rb") as stream:
                stream.seek(place)
                record = json.loads(stream.readline())
            return record if record["key"] == key and isinstance(record["outputs"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_done(self, key: str, files) -> dict | None:
        """The record of a key if all of its files are there as they were written; else None."""
        record = self.find(key)
        if record is None:
            return None
        try:
            same = all(record["outputs"].get(self._relative(file)) == hash_file(file) for file in files)
        except OSError:
            return None
        return record if same else None

    def add(self, key: str, digests: dict, **facts) -> None:
        """Append a record.

        Args:
            key: from :func:`key_of`.
            digests: ``{file: its sha256}`` of all that was made.
            facts: whatever else is to be found again.

        Errors:
            OSError.
        """
        outputs = {self._relative(file): digest for file, digest in digests.items()}
        line = json.dumps({"key": key, "outputs": outputs, **facts}).encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, b"\n" + line + b"\n")  # in one piece; the first break ends what a killed process left
        finally:
            os.close(file)

    def _relative(self, file):
        return os.path.relpath(file, self.folder)

    def _look(self):
        """Read on from where reading ended."""
        try:
            if os.stat(self.path).st_size <= self._read:
                return
            with open(self.path, "rb") as stream:
                stream.seek(self._read)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    if line.startswith(_HEAD) and line.endswith(b"}\n"):
                        try:
                            key = bytes.fromhex(line[len(_HEAD):len(_HEAD) + _DIGITS].decode())
                        except ValueError:
                            key = b""
                        self._places[key] = self._read
                    self._read += len(line)
        except OSError:
            return


def key_of(*facts) -> str:
    """The sha256 of what a result depends on, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_digest).encode()).hexdigest()


def settings_of(method, settings, task: str, **more) -> dict:
    """What the results of a method depend on beside the picture; nothing is loaded, no device is started.

    Args:
        method: of ``methods.METHODS``.
        settings: of it.
        task: one of its tasks.
        more: further facts, numbers and names.

    Errors:
        :class:`weights.WeightsError` for weights that are not there.
    """
    from indigo_jax import weights
    from indigo_jax.methods.flags import flags_of
    networks = {}
    for role, name in method.named_weights(settings, task).items():
        path, promised = weights.find(name)
        networks[role] = promised or hash_file(path)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name, (_, known) in flags_of(settings).items():
        if known.file == "weights":
            del values[name]
    return {"method": method.name, "task": task, "settings": values, "weights": networks, "code": code_version(),
            **more}


@functools.cache
def code_version() -> str:
    """The version of the package, with a digest of its sources, which a development version is known by."""
    import indigo_jax
    root, digest = pathlib.Path(indigo_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if "cli" not in path.relative_to(root).parts:
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def _digest(value):
    """Arrays, and whatever else JSON does not know, as text."""
    if hasattr(value, "tobytes"):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return repr(value)
