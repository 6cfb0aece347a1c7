"""The pictures of a folder: told by what they are, and nothing that is a picture left out in silence."""
import os
import pathlib
import stat
from typing import NamedTuple

from indigo_jax.images import kinds
from indigo_jax.images.picture import EXTENSIONS, ImageError, show

_ALIASES = (".apng", ".jfif", ".jif", ".jpe", ".mpo", ".pjp", ".pjpeg")  # never opened here, refused by name when read


class Listing(NamedTuple):
    """What is in a folder.

    Attributes:
        pictures: to be read, sorted by path. One that turns out to be none is refused by name when it is read.
        left_out: ``(path, why)``, sorted, of pictures of other formats; ``why`` is one line with the name.
    """

    pictures: list[pathlib.Path]
    left_out: list[tuple[pathlib.Path, str]]


def find_pictures(path, *, exclude=None, extensions=EXTENSIONS) -> Listing:
    """The picture files of a folder and of its subfolders; a file gives itself.

    A file with a picture's extension counts as one and is not opened; any other is judged by its first bytes. Names
    that begin with a dot are passed over. Links to folders are not followed, so a loop of links ends: they are left
    out, and so are pipes and devices with a picture's name.

    Args:
        path: a folder or a file.
        exclude: a folder inside it to pass over, where the results go; None or elsewhere passes over nothing.
        extensions: of other files than pictures: these alone are found, in any case, and nothing is opened.

    Errors:
        :class:`ImageError` when there is nothing at ``path``, a folder in it cannot be read, or ``exclude`` is the
        folder itself.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return Listing([path], [])
    if not path.is_dir():
        raise ImageError(f"{show(path)}: no such file or folder; check the path")
    exclude = None if exclude is None else pathlib.Path(exclude).resolve()
    if exclude == path.resolve():
        raise ImageError(f"{show(path)}: the results cannot go into the folder that is read; choose another folder")
    listing, of_pictures = Listing([], []), tuple(extensions) == EXTENSIONS
    for folder, folders, files in os.walk(path, onerror=_unreadable):
        folder = pathlib.Path(folder)
        folders[:] = [name for name in folders
                      if not name.startswith(".") and (exclude is None or (folder / name).resolve() != exclude)]
        listing.left_out.extend((folder / name, f"{show(folder / name)}: a link to a folder, left out; give it as an "
                                                "input of its own") for name in folders
                                if of_pictures and (folder / name).is_symlink())
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or not (of_pictures or suffix in extensions):
                continue
            if not of_pictures or suffix in EXTENSIONS + _ALIASES:
                if _is_special(folder / name):
                    listing.left_out.append((folder / name, f"{show(folder / name)}: a pipe or a device, left out"))
                else:
                    listing.pictures.append(folder / name)
                continue
            is_picture, reason = _judge(folder / name)
            if is_picture:
                listing.pictures.append(folder / name)
            elif reason:
                listing.left_out.append((folder / name, f"{show(folder / name)}: {reason}"))
    listing.pictures.sort(key=lambda file: file.relative_to(path).parts)
    listing.left_out.sort(key=lambda pair: pair[0].relative_to(path).parts)
    return listing


def list_pictures(path, *, exclude=None, extensions=EXTENSIONS) -> list[pathlib.Path]:
    """The pictures of :func:`find_pictures` alone."""
    return find_pictures(path, exclude=exclude, extensions=extensions).pictures


def by_stem(names, folder, place=lambda stem: stem) -> dict[str, str]:
    """``{name without extension: name}``, where ``place`` may change what stands on the left.

    Errors:
        ValueError for two names in the ``folder`` that differ in the extension only.
    """
    stems: dict[str, str] = {}
    for name in names:
        stem = str(place(pathlib.PurePosixPath(name).with_suffix("")))
        if stem in stems:
            raise ValueError(f"{show(folder)}: {stems[stem]} and {name} differ in the extension only; keep one of them")
        stems[stem] = name
    return stems


def _judge(file):
    """Whether a file is a picture to be read, and else why a picture is left out (None: it is no picture)."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return False, None
        with open(file, "rb") as stream:
            head = stream.read(kinds.HEAD)
    except OSError as error:
        _, words = kinds.kind_in_folder(b"", file.name)
        return False, f"{words or 'a file'} that cannot be opened ({error.strerror}); check its permissions"
    is_picture, words = kinds.kind_in_folder(head, file.name)
    return is_picture, words and f"{words}, left out; {kinds.advice(words)}"


def _is_special(file):
    """Whether reading might never end. What is not there is told of by whoever reads it."""
    try:
        return not stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return False


def _unreadable(error):
    raise ImageError(f"{show(error.filename)}: the folder cannot be read ({error.strerror}); check its permissions")
