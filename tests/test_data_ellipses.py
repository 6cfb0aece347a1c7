"""Random ellipse phantoms: the same picture for the same seed and number, inside the circle, splits apart."""
import itertools

import numpy as np
import pytest

from indigo_jax import data, rng


def disc(size):
    row, column = np.mgrid[:size, :size] - size // 2
    return row**2 + column**2 <= (size // 2) ** 2


def test_items_are_grey_pictures_with_ids():
    source = data.EllipsePhantoms(12, 32, 5)
    assert len(source) == len(source.names) == 12
    elements = [source[i] for i in range(12)]
    for i, element in enumerate(elements):
        image = element["image"]
        assert set(element) == {"image", "id"} and image.dtype == np.uint8 and image.shape == (32, 32, 3)
        assert element["id"] == rng.name_id(source.names[i])
        assert (image == image[:, :, :1]).all() and image.max() > 20
    assert len({element["image"].tobytes() for element in elements}) == 12
    with pytest.raises(IndexError):
        source[12]


def test_a_picture_depends_on_seed_and_number_alone():
    source, again = data.EllipsePhantoms(30, 32, 5), data.EllipsePhantoms(3, 32, 5, start=10, cache=True)
    for _ in range(2):  # drawn, and kept
        np.testing.assert_array_equal(again[2]["image"], source[12]["image"])
    assert again[2]["id"] == source[12]["id"] and again.names[2] == source.names[12]
    other = data.EllipsePhantoms(30, 32, 6)
    assert not np.array_equal(other[12]["image"], source[12]["image"]) and other[12]["id"] != source[12]["id"]


def test_the_shapes_do_not_depend_on_the_size():
    small, large = (data.EllipsePhantoms(4, size, 0) for size in (48, 144))
    for i in range(4):
        pooled = large[i]["image"][..., 0].reshape(48, 3, 48, 3).mean(axis=(1, 3))
        apart = np.abs(pooled - small[i]["image"][..., 0])
        assert apart.mean() < 3 and np.quantile(apart, 0.9) < 12


@pytest.mark.parametrize("size", [16, 33, 64])
def test_zero_outside_the_circle_in_every_orientation(size):
    source = data.EllipsePhantoms(20, size, 1)
    for i, turns in itertools.product(range(20), range(4)):
        image = np.rot90(source[i]["image"][..., 0], turns)
        assert not image[~disc(size)].any() and not image[:, ::-1][~disc(size)].any()


def test_phantoms_vary_in_area_and_have_bright_skulls():
    images = np.stack([data.EllipsePhantoms(60, 32, 2)[i]["image"][..., 0] for i in range(60)]) / 255
    assert (images >= 0.55).any(axis=(1, 2)).mean() > 0.6
    covered = (images > 0.02).mean(axis=(1, 2))
    assert covered.min() > 0.1 and covered.std() > 0.05 and covered.max() < np.pi / 4 + 0.02


def test_open_source_splits_do_not_overlap():
    train, val, whole = (data.open_source("ellipses:24", split=split) for split in ("train", "val", "all"))
    assert not set(train.names) & set(val.names) and set(train.names) | set(val.names) == set(whole.names)
    assert len(train) == 20_000 and len(val) == 200 and len(whole) == 20_200
    assert train[0]["image"].shape == (24, 24, 3)
    assert not {val[i]["image"].tobytes() for i in range(40)} & {train[i]["image"].tobytes() for i in range(40)}
    assert [batch["image"].shape for batch in itertools.islice(data.evaluation_batches(val, batch_size=4), 2)] == [
        (4, 24, 24, 3)] * 2


def test_batches_for_training():
    pytest.importorskip("grain", reason='needs pip install "indigo_jax[train]"')
    source = data.open_source("ellipses:16")
    batch = next(iter(data.pipeline(source, batch_size=2, crop=None, seed=0, num_threads=0)))
    assert batch["image"].shape == (2, 16, 16, 3) and batch["image"].dtype == np.uint8


@pytest.mark.parametrize("make, words", [
    (lambda: data.open_source("ellipses:"), "ellipses:: give the side"),
    (lambda: data.open_source("ellipses:big"), "ellipses:big: give the side"),
    (lambda: data.open_source("ellipses:-64"), "give the side"),
    (lambda: data.open_source("ellipses:15"), "at least 16"),
    (lambda: data.open_source("ellipses:64.npz"), "give the side"),
    (lambda: data.open_source("ellipses:64", split="test"), "unknown split 'test'"),
    (lambda: data.EllipsePhantoms(1, 8, 0), "size is 8"),
    (lambda: data.EllipsePhantoms(1, 64.5, 0), "size is 64.5"),
    (lambda: data.EllipsePhantoms(0, 64, 0), "count is 0"),
    (lambda: data.EllipsePhantoms(1, 64, -1), "seed is -1"),
    (lambda: data.EllipsePhantoms(1, 64, 2**32), "seed is"),
    (lambda: data.EllipsePhantoms(1, 64, 0, start=-1), "start is -1"),
])
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
