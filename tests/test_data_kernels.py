"""Random blur kernels as pictures: the same for the same seed and number, of both kinds, splits apart, trainable."""
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import data, operators, restoration, rng


def test_items_are_grey_pictures_with_ids():
    source = data.BlurKernels(12, 9, 5)
    assert len(source) == len(source.names) == 12
    for i in range(12):
        element = source[i]
        image = element["image"]
        assert set(element) == {"image", "id"} and image.dtype == np.uint8 and image.shape == (9, 9, 3)
        assert element["id"] == rng.name_id(source.names[i])
        assert (image == image[:, :, :1]).all() and image.max() == 255
    assert len({source[i]["image"].tobytes() for i in range(12)}) == 12
    with pytest.raises(IndexError):
        source[12]


def test_a_picture_depends_on_seed_and_number_alone():
    source, again = data.BlurKernels(1020, 9, 5), data.BlurKernels(30, 9, 5, start=990)
    for number in (990, 999, 1000, 1019):  # on both sides of what is drawn as one
        np.testing.assert_array_equal(again[number - 990]["image"], source[number]["image"])
        assert again[number - 990]["id"] == source[number]["id"]
    assert not np.array_equal(data.BlurKernels(1, 9, 6)[0]["image"], source[0]["image"])


def test_the_even_ones_are_shakes_and_the_odd_ones_gaussians():
    size, source = 9, data.BlurKernels(400, 9, 0)
    images = np.stack([source[i]["image"][..., 0] for i in range(400)]).astype(float)
    round_ones = images[1::2]
    for turned in (round_ones[:, ::-1], round_ones[:, :, ::-1], round_ones.transpose(0, 2, 1)):
        np.testing.assert_array_equal(turned, round_ones)
    assert (images[::2] != images[::2, :, ::-1]).any((1, 2)).all()
    # the width of a Gaussian, from a pixel and its neighbour; where both are well above the rounding
    neighbour = round_ones[:, 4, 5] / 255
    width = (-0.5 / np.log(neighbour[neighbour > 0.1]))**0.5
    assert width.min() > 0.45 and width.max() < size / 3 + 0.1 and width.max() > 2.8
    offsets = np.arange(size) - 4
    shakes = images[::2] / images[::2].sum((1, 2), keepdims=True)
    for axis in (1, 2):  # the centre of mass is the centre
        centre = shakes.sum(axis) @ offsets
        assert abs(centre).max() < 0.1
    reach = np.hypot(*np.meshgrid(offsets, offsets))
    farthest = np.max(reach * (shakes > 0.002), axis=(1, 2))
    assert farthest.min() < 2.5 and farthest.max() > 3.9


def test_it_is_the_picture_of_the_kernels_that_operators_draw():
    keys = rng.image_keys(3, [0])
    length = rng.uniform(rng.fold(keys, 1), 3.0, 7)
    kernel = operators.motion_kernel(rng.fold(keys, 0), size=7, length=length)
    image = data.BlurKernels(1, 7, 3)[0]["image"]
    np.testing.assert_array_equal(image, np.repeat(np.round(127.5 * (restoration.picture_of(kernel)[0] + 1)), 3, -1))
    found = restoration.kernel_of(jnp.asarray(image[None], jnp.float32) / 127.5 - 1)
    np.testing.assert_allclose(found, kernel, atol=2e-3)


def test_open_source_splits_do_not_overlap():
    train, val, whole = (data.open_source("kernels:7", split=split) for split in ("train", "val", "all"))
    assert not set(train.names) & set(val.names) and set(train.names) | set(val.names) == set(whole.names)
    assert len(train) == 20_000 and len(val) == 200 and len(whole) == 20_200
    shakes = [{source[i]["image"].tobytes() for i in range(0, 80, 2)} for source in (val, train)]
    assert not shakes[0] & shakes[1]
    assert [batch["image"].shape for batch in itertools.islice(data.evaluation_batches(val, batch_size=4), 2)] == [
        (4, 7, 7, 3)] * 2


@pytest.mark.parametrize("make, words", [
    (lambda: data.open_source("kernels:"), "kernels:: give the side"),
    (lambda: data.open_source("kernels:8"), "an odd number"),
    (lambda: data.open_source("kernels:3"), "at least 5"),
    (lambda: data.open_source("kernels:9", split="test"), "unknown split 'test'"),
    (lambda: data.BlurKernels(1, 8, 0), "must be odd: 9"),
    (lambda: data.BlurKernels(1, 3, 0), "size is 3"),
    (lambda: data.BlurKernels(0, 9, 0), "count is 0"),
    (lambda: data.BlurKernels(1, 9, -1), "seed is -1"),
    (lambda: data.BlurKernels(1, 9, 2**32), "seed is"),
    (lambda: data.BlurKernels(1, 9, 0, start=-1), "start is -1"),
])
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
