"""Folders of pictures, alone or in pairs."""
import os
import pathlib

import numpy as np

from indigo_jax import images
from indigo_jax.data.source import Pictures


def folder(path: str | os.PathLike, *, cache: bool = False) -> Pictures:
    """A source over all pictures of a folder and its subfolders, sorted by path.

    ``source.names`` are the paths within the folder, with forward slashes: so ids stay when it moves or grows.

    Args:
        path: the folder; for what counts as a picture see :func:`indigo_jax.images.list_pictures`.
        cache: keep every decoded picture (uint8), so that each is read once.

    Errors:
        FileNotFoundError without the folder; ValueError for a folder without pictures;
        :class:`indigo_jax.images.ImageError` when a picture that is asked for cannot be read.
    """
    files = _listed(path)
    paths = list(files.values())
    return Pictures(files, lambda index: {"image": images.read_rgb8(paths[index])}, f"folder {path}", cache=cache,
                    check=lambda index: images.check(paths[index]))


def paired_folders(sharp: str | os.PathLike, blurred: str | os.PathLike, *, cache: bool = False) -> Pictures:
    """A source of pairs: the picture from one folder, its measurement from another.

    Partners have the same path within their folder; their extensions may differ. Names are those of the first folder.
    Of a picture whose sides are no multiples of the factor by which its measurement is smaller, both are cut on the
    right and below to the whole pixels that they share.

    Args:
        sharp: folder of the pictures to restore to, "image".
        blurred: folder of what is given, "measurement": uint8 ``[h', w', 3]``.
        cache: keep every decoded pair.

    Errors:
        As :func:`folder`; ValueError that lists the pictures without a partner, and those that have two.
    """
    files, measured = _listed(sharp), _listed(blurred)
    return _pairs(f"{sharp} and {blurred}", images.by_stem(files, sharp), files, images.by_stem(measured, blurred),
                  measured, cache)


def gopro(path: str | os.PathLike, *, cache: bool = False) -> Pictures:
    """A source of pairs in the layout of the GoPro data set: ``.../sharp/NAME`` beside ``.../blur/NAME``.

    ``path`` holds such pairs of folders at any depth, e.g. ``GOPRO_Large/train``; names are the paths of the sharp
    pictures within it. The rest and the errors are as for :func:`paired_folders`.
    """
    files = _listed(path)
    sharp, blur = (images.by_stem([name for name in files if pathlib.PurePosixPath(name).parent.name == side], path,
                                  lambda stem: stem.parent.parent / stem.name) for side in ("sharp", "blur"))
    if not sharp and not blur:
        raise ValueError(f"{path}: no pictures in folders named 'sharp' and 'blur'; this is not the GoPro layout")
    return _pairs(path, sharp, files, blur, files, cache)


def arrays(pictures, *, names=None, measurements=None) -> Pictures:
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
    parts = {"image": pictures} if measurements is None else {"image": pictures, "measurement": measurements}
    parts = {key: [_checked(*pair) for pair in zip(values, names)] for key, values in parts.items()}
    return Pictures(names, lambda index: {key: values[index] for key, values in parts.items()}, "arrays")


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


def _pairs(path, sharp, files, blurred, measurements, cache):
    """The source of partners: those of ``{stem: name}`` twice, with the paths ``{name: path}`` of each side."""
    alone = sorted(sharp[stem] for stem in sharp.keys() - blurred.keys())
    orphans = sorted(blurred[stem] for stem in blurred.keys() - sharp.keys())
    if alone or orphans:
        said = [f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
                for names, kind in ((alone, "sharp without a blurred one"), (orphans, "blurred without a sharp one"))
                if names]
        raise ValueError(f"{path}: pictures without a partner of the same name: {'; '.join(said)}")
    paths = [(files[sharp[stem]], measurements[blurred[stem]]) for stem in sorted(sharp)]
    return Pictures([sharp[stem] for stem in sorted(sharp)],
                    lambda index: _read_pair(*paths[index]), f"pairs in {path}", cache=cache,
                    check=lambda index: _shared(*paths[index], *map(images.check, paths[index])))


def _read_pair(sharp, blurred):
    """The area that both pictures show, from the top left."""
    image, measurement = images.read_rgb8(sharp), images.read_rgb8(blurred)
    factor, height, width = _shared(sharp, blurred, image.shape[:2], measurement.shape[:2])
    return {"image": image[:height * factor, :width * factor], "measurement": measurement[:height, :width]}


def _shared(sharp, blurred, size, small):
    """The factor between two sizes, and the sides of what both show, in pixels of the smaller; names the files of
    sizes that do not fit."""
    factor = images.shrunk_by(size, small)
    height, width = (0 if factor is None else min(side // factor, part) for side, part in zip(size, small))
    if not factor or not height or not width:
        raise ValueError(f"{sharp}: {size[1]} x {size[0]} pixels, but its partner {blurred} has {small[1]} x "
                         f"{small[0]}; they must be of one size, or differ by a whole factor, up to one pixel of the "
                         "smaller")
    return factor, height, width
