"""JPEG against what Pillow writes and reads back."""
import importlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

from indigo_jax import operators

ASTRONAUT = data.astronaut()
jpeg = importlib.import_module("indigo_jax.operators.jpeg")  # the file; the package's name is the function


def _psnr(a, b):
    return 10 * np.log10(255 ** 2 / max(np.mean((np.float64(a) - np.float64(b)) ** 2), 1e-12))


def _pillow(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=["JPEG"]) as read:
        return np.asarray(read)


def _ours(picture, quality):
    x = jnp.asarray(picture, jnp.float32).reshape(1, *picture.shape[:2], -1) / 127.5 - 1.0
    levels = (np.asarray(operators.jpeg(quality)(x))[0] + 1.0) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    return np.round(levels).astype(np.uint8).reshape(picture.shape)


@pytest.mark.parametrize("quality", [1, 5, 10, 20, 35, 49, 50, 51, 75, 90, 95, 100])
def test_same_picture_as_pillow_at_every_quality(quality):
    picture = ASTRONAUT[60:203, 150:317]  # 143 x 167: no multiple of 16
    theirs, ours = _pillow(picture, quality), _ours(picture, quality)
    assert abs(_psnr(ours, picture) - _psnr(theirs, picture)) < 0.02
    assert _psnr(ours, theirs) > 48.0
    assert np.mean(np.abs(np.int32(ours) - theirs) > 2) < 0.015


@pytest.mark.parametrize("quality", [1, 7, 25, 50, 63, 90, 100])
def test_the_tables_are_those_that_pillow_writes(quality):
    """Number by number: one wrong number of 64 hardly changes a picture."""
    buffer = io.BytesIO()
    Image.fromarray(ASTRONAUT[:16, :16]).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=["JPEG"]) as read:
        theirs = [np.reshape(read.quantization[index], (8, 8)) for index in (0, 1)]
    for ours, wanted in zip(jpeg._tables(jnp.float32(quality)), theirs):
        np.testing.assert_array_equal(ours, wanted)


def test_colours_there_and_back():
    """BT.601 in full range: from its two constants, and one matrix is the other's inverse."""
    red, blue = 0.299, 0.114
    luma = np.array([red, 1 - red - blue, blue])
    to = np.stack([luma, (np.array([0, 0, 1]) - luma) / (2 - 2 * blue), (np.array([1, 0, 0]) - luma) / (2 - 2 * red)])
    np.testing.assert_allclose(jpeg._TO_YCC, to, atol=1e-6)
    np.testing.assert_allclose(jpeg._TO_RGB, np.linalg.inv(to), atol=1e-6)
    np.testing.assert_allclose(jpeg._DCT @ jpeg._DCT.T, np.eye(8), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (33, 20), (3, 40), (17, 4)], ids=str)
def test_odd_and_tiny_pictures_as_pillow(size):
    picture = np.ascontiguousarray(ASTRONAUT[100:100 + size[0], 230:230 + size[1]])
    theirs, ours = _pillow(picture, 40), _ours(picture, 40)
    assert np.abs(np.int32(ours) - theirs).max() <= 3


def test_strong_colours_test_the_chroma_path():
    rows, columns = np.mgrid[:64, :64]
    picture = np.stack([255 * (rows // 9 % 2), 255 * (columns // 7 % 2), 255 * ((rows + columns) // 11 % 2)], -1)
    picture = picture.astype(np.uint8)
    for quality in (30, 85):
        theirs, ours = _pillow(picture, quality), _ours(picture, quality)
        assert abs(_psnr(ours, picture) - _psnr(theirs, picture)) < 0.1
        assert _psnr(ours, theirs) > 40.0


@pytest.mark.parametrize("quality", [10, 80])
def test_grey_pictures_as_pillow(quality):
    picture = data.camera()[100:150, 200:271]
    theirs, ours = _pillow(picture, quality), _ours(picture, quality)
    assert _psnr(ours, theirs) > 45.0 and abs(_psnr(ours, picture) - _psnr(theirs, picture)) < 0.05


def test_flat_pictures_stay_flat():
    for level in (0, 128, 255):
        picture = np.full((7, 5, 3), level, np.uint8)
        assert np.abs(np.int32(_ours(picture, 50)) - level).max() <= 1


def test_quality_per_image():
    picture = ASTRONAUT[100:132, 200:232]
    x = jnp.asarray(np.stack([picture, picture]), jnp.float32) / 127.5 - 1.0
    both = operators.jpeg(jnp.array([8.0, 80.0]))(x)
    for i, quality in enumerate((8, 80)):
        assert _psnr(127.5 * both[i], 127.5 * operators.jpeg(quality)(x[:1])[0]) > 55.0
    assert _psnr(both[1], x[1]) > _psnr(both[0], x[0]) + 5


def test_the_gradient_points_the_right_way():
    """Straight-through: the gradient of the distance to a target, stepped along, brings the output nearer to it."""
    target = jnp.asarray(ASTRONAUT[None, 100:132, 200:232], jnp.float32) / 127.5 - 1.0

    def loss(x):
        return jnp.mean((operators.jpeg(50)(x) - target) ** 2)

    step = jax.jit(jax.value_and_grad(loss))
    x = 0.5 * target
    first, gradient = step(x)
    assert np.isfinite(gradient).all() and np.mean(np.asarray(gradient) != 0) > 0.9
    for _ in range(5):
        x = x - 0.2 * x.size * step(x)[1]
    assert step(x)[0] < 0.3 * first


def test_values_outside_the_range_are_clipped():
    x = jnp.full((1, 8, 8, 3), 3.0)
    np.testing.assert_allclose(operators.jpeg(90)(x), 1.0, atol=1e-6)


@pytest.mark.parametrize("quality", [0, 101, float("nan"), -5])
def test_bad_quality_is_refused(quality):
    with pytest.raises(ValueError, match="quality"):
        operators.jpeg(quality)


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match="channels"):
        operators.jpeg(50)(jnp.zeros((1, 8, 8, 2)))
    with pytest.raises(ValueError, match="one per image"):
        operators.jpeg(jnp.array([10.0, 20.0]))(jnp.zeros((3, 8, 8, 3)))
