"""Where results go, and how they get there: refused before anything is computed, whole or not at all."""
import contextlib
import hashlib
import os
import pathlib
import re
import secrets
import time
from typing import Any, Callable, NamedTuple

from indigo_jax.cli.messages import UsageError, show

_FOREIGN = (".gif", ".heic", ".heif", ".avif", ".jp2", ".psd", ".pdf", ".svg", ".eps", ".raw", ".exr", ".npy", ".npz")
_TEMPORARY = re.compile(r"\.indigo-(\d+)-[0-9a-f]{8}\.\w+")
_STALE = 60  # seconds without a write after which a temporary file of a process that has gone is nobody's


class Places(NamedTuple):
    """Where the results of a command go.

    Attributes:
        output: a folder, or the name of the one picture.
        samples: results of each input.
        is_folder: of ``output``.
        names: ``{input: name}`` of those whose result has another name than theirs with the extension .png.
    """

    output: pathlib.Path
    samples: int
    is_folder: bool
    names: dict[Any, str]

    def of(self, job) -> list[pathlib.Path]:
        """The files that an input becomes."""
        place = self.output / (self.names.get(job) or png(job.relative)) if self.is_folder else self.output
        if self.samples == 1:
            return [place]
        return [place.with_name(f"{place.stem}-{i + 1}{place.suffix}") for i in range(self.samples)]

    def beside(self, job) -> list[pathlib.Path]:
        """Of several samples, the files of their mean and of their spread; else none."""
        if self.samples == 1:
            return []
        first = self.of(job)[0]
        stem = first.stem.removesuffix("-1")
        return [first.with_name(f"{stem}-mean{first.suffix}"), first.with_name(f"{stem}-spread.png")]

    def all_of(self, job) -> list[pathlib.Path]:
        """All of these."""
        return [*self.of(job), *self.beside(job)]


def png(name: str) -> str:
    """``"a.jpg"`` as ``"a.png"``."""
    return f"{os.path.splitext(name)[0]}.png"


def choose_places(args, jobs, output, samples: int, flag: str, taken=()) -> Places:
    """Where each job's results go; refuses to write over an input, twice to one file, or where one cannot write.

    Args:
        args: of the command.
        jobs: see :func:`jobs.gather`.
        output: what was given.
        samples: results of each input.
        flag: that gave it, for messages.
        taken: files beside the inputs that are read, as a mask.
    """
    from indigo_jax import images
    output = pathlib.Path(output)
    is_picture = output.suffix.lower() in images.EXTENSIONS and not output.is_dir()
    single = len(args.inputs) == 1 and not pathlib.Path(args.inputs[0]).is_dir()
    if is_picture and not single:
        raise UsageError(f"{flag} {show(output)} names one picture, but INPUT may hold several; name a folder: "
                         f"{show(output.with_suffix(''))}")
    if output.exists() and not output.is_dir() and not is_picture:
        raise UsageError(f"{flag} {show(output)} is a file, but no picture name; name a folder, or a picture "
                         f"({', '.join(images.EXTENSIONS)})")
    if single and output.suffix.lower() in _FOREIGN and not output.is_dir():
        raise UsageError(f"{flag} {show(output)}: {output.suffix} cannot be written; use one of "
                         f"{', '.join(images.EXTENSIONS)}")
    places = Places(output, samples, not is_picture, {} if is_picture else _other_names(jobs))
    _refuse_clashes(places, jobs, flag, taken)
    return places


def _other_names(jobs):
    """Of files that differ in the extension only, a.png keeps its name and a.jpg becomes a.jpg.png."""
    first, names = {}, {}
    for job in jobs:
        other = first.setdefault(png(job.relative), job)
        for each in (other, job) if other is not job else ():
            if each.relative != png(each.relative):
                names[each] = f"{each.relative}.png"
    return names


def _refuse_clashes(places, jobs, flag, taken):
    folders = {}

    def spot(path):
        """A path whose folder is where it really is; a link in the place of a file would be replaced itself."""
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ".")
        return os.path.join(folders[folder], name)

    inputs, owners = {spot(path) for path in (*(job.path for job in jobs), *taken)}, {}
    for job in jobs:
        for file in places.all_of(job):
            place = spot(file)
            if place in inputs:
                raise UsageError(f"{flag} {show(file)} would overwrite an INPUT; name another file or folder")
            other = owners.setdefault(place, job)
            if other != job:
                raise UsageError(f"{show(other.path)} and {show(job.path)} would both be written to {show(file)}; "
                                 "do them in two runs, or give the folder above them as INPUT")


def refuse_shared(comparisons: Places, places: Places, jobs) -> None:
    """Refuse comparisons that would be written where a result goes."""
    written = {os.path.realpath(file) for job in jobs for file in places.all_of(job)}
    for job in jobs:
        file, = comparisons.of(job)
        if os.path.realpath(file) in written:
            raise UsageError(f"--compare {show(file)} is where a result goes; name another file or folder")


def check_writable(path, flag: str) -> None:
    """Refuse a file or folder to be made whose folder cannot be written to; nothing is left behind."""
    folder = pathlib.Path(path)
    folder = folder.parent if folder.is_file() else folder
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{flag} {show(path)}: {show(folder)} is no folder; name another place")
    try:
        probe = temporary_name(folder / "probe.tmp")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(probe)
    except FileNotFoundError as error:  # what a folder says that the system makes up, as /proc
        raise UsageError(f"{flag} {show(path)}: no files can be made in {show(folder)}; name another folder") from error
    except OSError as error:
        raise UsageError(f"{flag} {show(path)}: {show(folder)} cannot be written to ({error.strerror}); name another "
                         "folder, or change its permissions") from error


def temporary_name(target) -> pathlib.Path:
    """A hidden name in the folder of ``target``, with its extension, that no one else uses."""
    target = pathlib.Path(target)
    return target.with_name(f".indigo-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")


def write_whole(target, write: Callable[[pathlib.Path], None]) -> str:
    """Let ``write(path)`` write a file under a temporary name, which becomes ``target`` when it is whole.

    Returns:
        The sha256 of what was written, also if another process writes the same file at this moment.

    Errors:
        Those of ``write``, its message naming the target; OSError where the folder cannot be written to.
    """
    from indigo_jax import images
    temporary = temporary_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        digest = hash_file(temporary)
        os.replace(temporary, target)
    except images.ImageError as error:
        raise images.ImageError(str(error).replace(show(temporary), show(target))) from error
    except OSError as error:
        raise OSError(f"{show(target)}: cannot be written ({error.strerror or error}); check the folder and its free "
                      "space") from error
    finally:
        with contextlib.suppress(OSError):  # gone if all went well
            temporary.unlink()
    return digest


def hash_file(path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clean(folders) -> None:
    """Remove temporary files of processes that were killed, from folders of results."""
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = _TEMPORARY.fullmatch(entry.name)
                if found and time.time() - entry.stat().st_mtime > _STALE and not _is_running(int(found[1])):
                    os.unlink(entry.path)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
