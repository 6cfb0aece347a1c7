"""Folders of pictures, alone or in pairs."""
import os
import pathlib

import numpy as np

from indigo_jax import images, rng


class PictureFiles:
    """Random access to picture files by name, alone or with their measurements."""

    def __init__(self, names, files, measurements=None, *, cache=False):
        self.names, self._files, self._measurements = list(names), files, measurements
        self._ids = [rng.name_id(name) for name in self.names]
        self._cache = [None] * len(self.names) if cache else None

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        return f"PictureFiles({len(self)} {'pictures' if self._measurements is None else 'pairs'})"

    def __getitem__(self, index):
        element = None if self._cache is None else self._cache[index]
        if element is None:
            element = {"image": images.read_rgb8(self._files[index]), "id": self._ids[index]}
            if self._measurements is not None:
                element["measurement"] = images.read_rgb8(self._measurements[index])
            if self._cache is not None:
                self._cache[index] = element
        return dict(element)


def folder(path: str | os.PathLike, *, cache: bool = False) -> PictureFiles:
    """A source over all pictures of a folder and its subfolders, sorted by path.

    Args:
        path: the folder; for what counts as a picture see :func:`indigo_jax.images.list_pictures`.
        cache: keep every decoded picture (uint8), so that each is read once.

    Returns:
        A source of ``{"image": uint8 [h, w, 3], "id": int}``. ``source.names`` are the paths within the folder, with
        forward slashes; ``id = rng.name_id(name)``, so it stays when the folder moves or grows.

    Errors:
        FileNotFoundError without the folder; ValueError for a folder without pictures;
        :class:`indigo_jax.images.ImageError` when a picture that is asked for cannot be read.
    """
    files = _listed(path)
    return PictureFiles(files, list(files.values()), cache=cache)


def paired_folders(sharp: str | os.PathLike, blurred: str | os.PathLike, *, cache: bool = False) -> PictureFiles:
    """A source of pairs: the picture from one folder, its measurement from another.

    Partners have the same path within their folder; their extensions may differ.

    Args:
        sharp: folder of the pictures to restore to, "image".
        blurred: folder of what is given, "measurement".
        cache: keep every decoded pair.

    Returns:
        A source of ``{"image": uint8 [h, w, 3], "id": int, "measurement": uint8 [h', w', 3]}``; ``names`` and ids are
        those of the first folder.

    Errors:
        As :func:`folder`; ValueError that lists the pictures without a partner, and those that have two.
    """
    images_, measurements = _listed(sharp), _listed(blurred)
    by_stem, partners = _by_stem(images_, sharp), _by_stem(measurements, blurred)
    _complain(f"{sharp} and {blurred}", by_stem, partners)
    order = sorted(by_stem)
    return PictureFiles([by_stem[stem] for stem in order], [images_[by_stem[stem]] for stem in order],
                        [measurements[partners[stem]] for stem in order], cache=cache)


def gopro(path: str | os.PathLike, *, cache: bool = False) -> PictureFiles:
    """A source of pairs in the layout of the GoPro data set: ``.../sharp/NAME`` beside ``.../blur/NAME``.

    Args:
        path: a folder that holds such pairs of folders at any depth, e.g. ``GOPRO_Large/train``.
        cache: keep every decoded pair.

    Returns:
        As :func:`paired_folders`; names are the paths of the sharp pictures within ``path``.

    Errors:
        As :func:`paired_folders`.
    """
    files = _listed(path)
    sides = {"sharp": {}, "blur": {}}
    for name in files:
        parts = pathlib.PurePosixPath(name).parts
        if len(parts) > 1 and parts[-2] in sides:
            stem = "/".join(parts[:-2] + (pathlib.PurePosixPath(name).stem,))
            if stem in sides[parts[-2]]:
                raise ValueError(f"{path}: {sides[parts[-2]][stem]} and {name} differ in the extension only; keep one")
            sides[parts[-2]][stem] = name
    sharp, blur = sides["sharp"], sides["blur"]
    if not sharp and not blur:
        raise ValueError(f"{path}: no pictures in folders named 'sharp' and 'blur'; this is not the GoPro layout")
    _complain(path, sharp, blur)
    order = sorted(sharp)
    return PictureFiles([sharp[stem] for stem in order], [files[sharp[stem]] for stem in order],
                        [files[blur[stem]] for stem in order], cache=cache)


def arrays(pictures, *, names=None, measurements=None) -> PictureFiles:
    """A source over pictures that are already in memory.

    Args:
        pictures: uint8 ``[n, h, w, 3]`` or a list of uint8 ``[h, w, 3]``.
        names: one per picture, for the ids; "0", "1", ... where None.
        measurements: as ``pictures``, or None.

    Errors:
        ValueError for other shapes or dtypes, or lengths that differ.
    """
    names = [str(i) for i in range(len(pictures))] if names is None else list(names)
    if len(names) != len(pictures) or (measurements is not None and len(measurements) != len(pictures)):
        raise ValueError("pictures, names and measurements differ in length")
    source = PictureFiles(names, None, measurements, cache=True)
    for index, name in enumerate(names):
        element = {"image": _checked(pictures[index], name), "id": rng.name_id(name)}
        if measurements is not None:
            element["measurement"] = _checked(measurements[index], name)
        source._cache[index] = element
    return source


def _checked(picture, name):
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture {name}: {picture.dtype} {list(picture.shape)} is not uint8 [h, w, 3]")
    return picture


def _listed(path):
    """{path within the folder: path}, sorted."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give a folder of pictures")
    files = {file.relative_to(path).as_posix(): file for file in images.list_pictures(path)}
    if not files:
        raise ValueError(f"{path}: no pictures in this folder (looked for {', '.join(images.EXTENSIONS)}, any depth)")
    return files


def _by_stem(names, path):
    stems = {}
    for name in names:
        stem = str(pathlib.PurePosixPath(name).with_suffix(""))
        if stem in stems:
            raise ValueError(f"{path}: {stems[stem]} and {name} differ in the extension only; keep one of them")
        stems[stem] = name
    return stems


def _complain(path, images_, measurements):
    alone = sorted(images_[stem] for stem in images_.keys() - measurements.keys())
    orphans = sorted(measurements[stem] for stem in measurements.keys() - images_.keys())
    if alone or orphans:
        said = [f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
                for names, kind in ((alone, "sharp without a blurred one"), (orphans, "blurred without a sharp one"))
                if names]
        raise ValueError(f"{path}: pictures without a partner of the same name: {'; '.join(said)}")
