"""Data sets prepared by tensorflow-datasets, read without tensorflow.

Random access needs files in the array_record format: prepare a data set once with
``tfds.builder(name).download_and_prepare(file_format="array_record")``. Nothing is downloaded here.
"""
import io
import os
import pathlib

import numpy as np

from indigo_jax import images
from indigo_jax.data.source import Pictures

_RANDOM_ACCESS = ("array_record", "parquet")


def tfds(name: str, *, split: str = "train", data_dir: str | os.PathLike | None = None, image_key: str | None = None,
         measurement_key: str | None = None, cache: bool = False) -> Pictures:
    """A source over one split of a prepared tensorflow-datasets data set; its names are "name/split/number".

    Args:
        name: as in tensorflow-datasets: "celeb_a", "div2k/bicubic_x4"; with ":1.0.0" for a version that is not the
            newest.
        split: any split expression of tensorflow-datasets: "train", "validation", "train[:90%]", "all".
        data_dir: where data sets were prepared; None: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        image_key: the feature with the pictures; None: "image", else "hr" (with "lr" as the measurement), else the
            only picture there is.
        measurement_key: the feature with the measurements; None: as said above.
        cache: keep every decoded picture.

    Errors:
        ImportError without tensorflow-datasets, and when only tfrecord files exist and tensorflow is missing;
        FileNotFoundError when nothing is prepared under that name; ValueError for an unknown split or feature.
    """
    try:
        import tensorflow_datasets as library
    except ImportError as error:
        raise ImportError('tfds data sets need tensorflow-datasets: pip install "indigo_jax[tfds]"') from error
    builder = library.builder_from_directory(_directory(name, data_dir, library))
    keys = [key for key, feature in builder.info.features.items() if _has_pictures(feature, library)]
    if not keys:
        raise ValueError(f"tfds:{name}: no pictures in it; its features are {', '.join(builder.info.features)}")
    image_key, measurement_key = _choose(keys, name, image_key, measurement_key)
    try:
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(f"tfds:{name}: no split {split!r}; it has {', '.join(builder.info.splits)}") from error
    encoded = [key for key in keys if isinstance(builder.info.features[key], library.features.Image)]
    records = _records(builder, name, split, {key: library.decode.SkipDecoding() for key in encoded}, keys, library)
    if not len(records):
        raise ValueError(f"tfds:{name}: the split {split!r} is empty")
    features = {"image": image_key} | ({"measurement": measurement_key} if measurement_key else {})
    names = [f"{name}/{split}/{i}" for i in range(len(records))]

    def read(index):
        record = records[index]
        return {key: _rgb8(record[feature], f"{names[index]}:{feature}") for key, feature in features.items()}

    return Pictures(names, read, f"tfds:{name}/{split}", cache=cache)


def _has_pictures(feature, library):
    """Pictures, or arrays that are such: uint8 ``[H, W, 1 or 3]``."""
    return isinstance(feature, library.features.Image) or (
        type(feature) is library.features.Tensor and len(feature.shape) == 3 and feature.shape[-1] in (1, 3)
        and np.dtype(feature.np_dtype) == np.uint8)


def _rgb8(record, name):
    if isinstance(record, np.ndarray) and record.ndim == 3:
        return np.ascontiguousarray(np.broadcast_to(record, (*record.shape[:2], 3)))
    return images.read_rgb8(io.BytesIO(record), name=name)


def _directory(name, data_dir, library):
    """The folder of the newest (or the named) prepared version."""
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    base, _, version = name.partition(":")
    found = sorted((file.parent for file in (root / base).glob("*/dataset_info.json")),
                   key=lambda folder: [int(part) if part.isdigit() else -1 for part in folder.name.split(".")])
    if version:
        found = [folder for folder in found if folder.name == version]
    if found:
        return found[-1]
    configs = sorted(file.parent.parent.name for file in (root / base).glob("*/*/dataset_info.json"))
    if configs and not version:
        raise ValueError(f"tfds:{name}: choose one of its variants: " + ", ".join(f"{base}/{c}" for c in set(configs)))
    raise FileNotFoundError(
        f"tfds:{name}: not prepared in {root}; run  python -c \"import tensorflow_datasets as t; t.builder('{base}', "
        f"data_dir='{root}').download_and_prepare(file_format='array_record')\"")


def _choose(keys, name, image_key, measurement_key):
    if image_key is None:
        image_key = next((key for key in ("image", "hr") if key in keys), keys[0] if len(keys) == 1 else None)
        if image_key is None:
            raise ValueError(f"tfds:{name}: several pictures per example; choose image_key from {', '.join(keys)}")
        if image_key == "hr" and measurement_key is None and "lr" in keys:
            measurement_key = "lr"
    for key in (image_key, measurement_key):
        if key is not None and key not in keys:
            raise ValueError(f"tfds:{name}: no pictures under {key!r}; choose from {', '.join(keys)}")
    return image_key, measurement_key


def _records(builder, name, split, decoders, keys, library):
    """Something with a length and examples by number, pictures still encoded."""
    formats = {format_.value for format_ in builder.info.available_file_formats()}
    if formats & set(_RANDOM_ACCESS):
        return builder.as_data_source(split=split, decoders=decoders)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"tfds:{name}: prepared as {', '.join(sorted(formats))} only, which needs tensorflow to read: prepare it "
            "again with download_and_prepare(file_format='array_record') in another data_dir, or pip install tensorflow"
        ) from error
    examples = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    return [{key: example[key] for key in keys} for example in library.as_numpy(examples)]
