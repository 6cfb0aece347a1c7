"""What JPEG left in a picture: steps and blocks are found in the pixels alone, and restorations are held to them."""
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage
from PIL import Image
from scipy import ndimage

from indigo_jax import images, methods, metrics, operators, restoration, rng
from indigo_jax.methods.look import blur_effect
from tests import networks


def photograph(name="astronaut.png", top=100, left=150, side=192):
    path = f"{skimage.__path__[0]}/data/{name}"
    return images.read_rgb8(path)[top:top + side, left:left + side]


def coded(pixels, quality, **how):
    """What Pillow's encoder and decoder make of uint8 pixels, and the file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **how)
    file.seek(0)
    pixels = np.asarray(Image.open(file))
    file.seek(0)
    return pixels, file


def unit(pixels):
    return np.asarray(pixels, np.float32)[None] / 127.5 - 1


@pytest.fixture(scope="module")
def find():
    return jax.jit(restoration.find_jpeg)


@pytest.mark.parametrize("quality", [10, 35, 50, 75, 90])
def test_the_steps_of_a_file_are_found_in_its_pixels(find, quality):
    y, file = coded(photograph(), quality)
    trace = find(unit(y))
    assert trace.found[0] and trace.offset[0].tolist() == [0, 0]
    table = np.asarray(Image.open(file).quantization[0]).reshape(8, 8)
    np.testing.assert_array_equal(trace.steps[0], table)  # as Pillow reads them from the file


def test_blocks_are_found_where_a_crop_has_moved_them(find):
    y, _ = coded(photograph(side=200), 40)
    trace = find(unit(y[3:195, 6:198]))
    assert trace.found[0] and trace.offset[0].tolist() == [5, 2]
    np.testing.assert_array_equal(trace.steps[0], operators.jpeg_steps(40))


def test_what_was_changed_since_shows_no_trace(find):
    y, _ = coded(photograph(), 40)
    noisy = y + np.random.default_rng(0).normal(0, 4, y.shape)
    smaller = np.asarray(Image.fromarray(y).resize((170, 170)).resize((192, 192)))
    random = np.random.default_rng(1).integers(0, 256, y.shape)
    trace = find(np.concatenate([unit(noisy), unit(smaller), unit(random), unit(np.full(y.shape, 40))]))
    assert not trace.found.any() and (trace.steps == 1).all() and (trace.offset == 0).all()


def test_no_restoration_gets_worse_in_brightness_and_the_truth_stays(find):
    """The pictures that a file allows are a convex set that holds the truth: going there cannot lead away from it."""
    x = photograph()
    y, _ = coded(x, 25)
    trace = find(unit(y))
    truth = unit(x)
    keys = rng.image_keys(0, [0])
    for wrong in (truth + 0.1 * rng.normal(keys, truth), operators.gaussian_blur(2.0)(truth), unit(y)):
        held = restoration.nearest_jpeg(jnp.asarray(wrong), unit(y), trace, share=1.0)
        before, after = (np.asarray(luma(each) - luma(truth)) for each in (wrong, held))
        assert np.square(after).sum() <= np.square(before).sum() * 1.0001
        again = restoration.nearest_jpeg(held, unit(y), trace, share=1.0)
        np.testing.assert_allclose(again, held, atol=2e-5)
    rounded = operators.block_dct(127.5 * (luma(truth) + 1) - 128) / trace.steps
    given = operators.block_dct(127.5 * (luma(unit(y)) + 1) - 128) / trace.steps
    assert np.mean(np.abs(rounded - given) < 0.5 + 0.1) > 0.99  # but for the decoder's rounding
    none = trace._replace(found=jnp.array([False]))
    np.testing.assert_array_equal(restoration.nearest_jpeg(wrong, unit(y), none), wrong)


def test_coefficients_go_as_far_as_they_must_and_no_further():
    """Each to within a share of half its step of y's, in blocks that begin where the trace says."""
    random = np.random.default_rng(3)
    x, y = (jnp.asarray(random.uniform(-0.5, 0.5, (2, 24, 32, 3)), jnp.float32) for _ in range(2))
    steps = jnp.asarray(random.uniform(1, 60, (2, 8, 8)), jnp.float32)
    trace = restoration.JpegTrace(jnp.array([True, True]), steps, jnp.array([[0, 0], [3, 6]]))
    held = restoration.nearest_jpeg(x, y, trace, share=0.6)
    for i, (down, across) in enumerate(trace.offset):
        wanted, given, found = (np.asarray(operators.block_dct(jnp.roll(
            127.5 * (luma(each[i:i + 1]) + 1), (-down, -across), (1, 2)))) for each in (x, y, held))
        room = 0.3 * np.asarray(steps[i])
        np.testing.assert_allclose(found, np.clip(wanted, given - room, given + room), atol=2e-3)
    moved = np.asarray(held - x)
    np.testing.assert_allclose(moved, moved[..., :1].repeat(3, axis=-1), atol=1e-6)


def luma(x):
    return jnp.asarray(x) @ jnp.asarray([0.299, 0.587, 0.114])


def test_the_error_of_the_rounding_is_measured(find):
    x = photograph()
    for quality in (10, 50, 90):
        y, _ = coded(x, quality)
        true = float(np.sqrt(np.mean(np.square(luma(unit(y)) - luma(unit(x))))))
        assert 0.65 < float(restoration.jpeg_error(unit(y), find(unit(y)))[0]) / true < 1.15


def test_small_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        restoration.find_jpeg(np.zeros((1, 15, 40, 3)))


@pytest.fixture(scope="module")
def shipped():
    return methods.load("jpeg", task="jpeg", copies=1)


@pytest.mark.parametrize("quality", [10, 50, 85])
def test_bundled_weights_restore_files_of_every_quality(shipped, quality):
    psnr = metrics.by_name("psnr")
    x = photograph("chelsea.png", 60, 120, 128)
    y, _ = coded(x, quality)
    restored, report = shipped(images.Picture(unit(y)[0]))
    found = np.clip(np.round((restored.pixels + 1) * 127.5), 0, 255).astype(np.uint8)
    assert psnr(found[None], x[None])[0] > psnr(y[None], x[None])[0] + 0.25
    assert report.evaluations == 2


def test_the_table_of_a_file_counts_before_the_pixels(shipped):
    table = list(np.random.default_rng(0).integers(20, 40, 64))
    y, file = coded(photograph(side=96), 50, qtables=[table, table])
    picture = images.read(file)
    assert list(picture.jpeg_steps) == table
    assert not shipped.trace(picture.pixels).found[0]  # no quality of libjpeg has it
    knowing = shipped.told()
    knowing.file_steps = picture.jpeg_steps
    np.testing.assert_array_equal(knowing.trace(picture.pixels).steps[0].ravel(), table)
    assert not shipped.trace(picture.pixels[:12]).found[0]


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return methods.load("look", weights=networks.write_denoiser(folder / "denoiser.safetensors"), copies=1,
                        restorer=networks.write_weights(folder / "restorer.safetensors"))


def test_a_picture_is_looked_at(look):
    x = photograph(side=128)
    file, _ = coded(x, 30)
    noisy = x + np.random.default_rng(0).normal(0, 20, x.shape)
    blurred = np.asarray(operators.gaussian_blur(3.0)(unit(x)))[0]
    _, report = look(images.Picture(unit(file)[0]))
    assert "JPEG" in report.note and look.expected(images.Picture(unit(file)[0]))[0] == report.evaluations == 2
    assert "JPEG" not in look(images.Picture(unit(noisy)[0]))[1].note
    assert "--task deblur" in look(images.Picture(blurred))[1].note
    good, _ = coded(x, 95)
    assert not look.was_jpeg(images.Picture(unit(good)[0]))
    noisy_file, _ = coded(np.clip(noisy, 0, 255).astype(np.uint8), 85)
    assert not look.was_jpeg(images.Picture(unit(noisy_file)[0]))  # its noise is to go


def test_a_job_depends_on_both_networks():
    for name in ("jpeg", "look"):
        method = methods.METHODS[name]
        named = method.named_weights(method.Settings(), method.tasks[0])
        assert named == {"weights": "photo", "restorer": "indi-photo"}


def test_a_restorer_that_knows_no_jpeg_is_refused(tmp_path):
    other = networks.write_weights(tmp_path / "other.safetensors", tasks=["deblur"])
    with pytest.raises(ValueError, match="not trained for jpeg"):
        methods.load("jpeg", task="jpeg", restorer=other)


def test_a_picture_is_looked_at_once(look, monkeypatch):
    x, other = (images.Picture(unit(photograph(side=side))[0]) for side in (128, 96))
    answers, calls = [look.was_jpeg(x), look.was_jpeg(other)], []
    inner = type(look)._look
    monkeypatch.setattr(type(look), "_look", lambda *given: calls.append(given) or inner(*given))
    assert [look.was_jpeg(x), look.was_jpeg(x._replace(pixels=x.pixels.copy())), look.was_jpeg(other)] == [
        answers[0], answers[0], answers[1]]
    assert len(calls) == 2  # of x and of the other, not again of x
    look.was_jpeg(other._replace(jpeg_steps=(8,) * 64))
    assert len(calls) == 3  # a table of its file is another question


def test_the_blur_effect_is_scikit_images():
    for shape, sigma in (((40, 33), 0), ((64, 97), 1), ((120, 96), 3)):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        x = ndimage.gaussian_filter(x, sigma) if sigma else x
        assert blur_effect(x) == pytest.approx(skimage.measure.blur_effect(x), abs=1e-6)
