"""PSNR, SSIM, protocols and score tables: closed forms, an independent slow SSIM, scikit-image, official values."""
import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from indigo_jax import metrics
from tests.paths import SHARED, needs_shared

PAIRS = ("I03", "I04", "I06", "I08", "I19")


def random_pair(seed=0, shape=(2, 24, 31, 3), spread=40):
    """Two uint8 batches, the second the first plus noise."""
    random = np.random.default_rng(seed)
    a = random.integers(0, 256, shape)
    b = np.clip(a + random.integers(-spread, spread + 1, shape), 0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def as_float(x):
    return (x.astype(np.float32) / np.float32(127.5)) - np.float32(1.0)


def slow_ssim(x, y):
    """SSIM of two planes in 0..255 by the definition: one explicit 11 x 11 weighted window at a time."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5 ** 2))
    window /= window.sum()
    c1, c2, values = 6.5025, 58.5225, []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i:i + 11, j:j + 11], y[i:i + 11, j:j + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append((2 * mean_p * mean_q + c1) * (2 * covariance + c2)
                          / ((mean_p ** 2 + mean_q ** 2 + c1) * (var_p + var_q + c2)))
    return np.mean(values)


# --- PSNR


@pytest.mark.parametrize("step", [1, 2, 16, 255])
def test_psnr_of_a_constant_difference_is_closed_form(step):
    a = np.zeros((2, 5, 7, 3), np.uint8)
    value = metrics.psnr(a, a + np.uint8(step))
    assert value.dtype == np.float64 and value.shape == (2,)
    np.testing.assert_allclose(value, 20 * np.log10(255 / step), rtol=1e-14, atol=1e-12)


def test_psnr_equals_scikit_image():
    a, b = random_pair()
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b)]
    np.testing.assert_allclose(metrics.psnr(a, b), expected, rtol=1e-13)


def test_psnr_is_symmetric_and_per_image():
    a, b = random_pair(1)
    np.testing.assert_array_equal(metrics.psnr(a, b), metrics.psnr(b, a))
    np.testing.assert_array_equal(metrics.psnr(a, b)[1:], metrics.psnr(a[1:], b[1:]))


def test_identical_images():
    a, _ = random_pair()
    assert np.isposinf(metrics.psnr(a, a)).all()
    assert (metrics.ssim(a, a) == 1.0).all()
    assert np.isposinf(np.asarray(metrics.psnr_jax(jnp.asarray(as_float(a)), jnp.asarray(as_float(a))))).all()


def test_border_cuts_every_side():
    a, b = random_pair(2)
    for measure in (metrics.psnr, metrics.ssim):
        np.testing.assert_array_equal(measure(a, b, border=4), measure(a[:, 4:-4, 4:-4], b[:, 4:-4, 4:-4]))
    spoiled = b.copy()
    spoiled[:, :3], spoiled[:, -3:], spoiled[:, :, :3], spoiled[:, :, -3:] = 0, 0, 0, 0
    np.testing.assert_array_equal(metrics.psnr(a, b, border=3), metrics.psnr(a, spoiled, border=3))
    assert (metrics.psnr(a, b, border=2) != metrics.psnr(a, spoiled, border=2)).all()


@pytest.mark.parametrize("colour, limited, full", [
    ((255, 255, 255), 235.0, 255.0), ((0, 0, 0), 16.0, 0.0), ((255, 0, 0), 81.481, 76.245),
    ((0, 255, 0), 144.553, 149.685), ((0, 0, 255), 40.966, 29.07)])
def test_luma_is_bt601(colour, limited, full):
    """Against a mid grey of known luma the difference is the luma itself."""
    a = np.full((1, 4, 4, 3), 128, np.uint8)
    b = np.broadcast_to(np.uint8(colour), (1, 4, 4, 3))
    grey = 16 + 219 * 128 / 255
    np.testing.assert_allclose(metrics.psnr(a, b, channel="y"), 20 * np.log10(255 / abs(limited - grey)), rtol=1e-12)
    np.testing.assert_allclose(metrics.psnr(a, b, channel="gray"), 20 * np.log10(255 / abs(full - 128)), rtol=1e-12)
    np.testing.assert_allclose(metrics.psnr(a, b, channel="y", round_luma=True),
                               20 * np.log10(255 / abs(round(limited) - round(grey))), rtol=1e-12)


def test_rounding_is_to_the_nearest_of_256_values():
    a = np.zeros((1, 4, 4, 3), np.uint8)
    below, above = (np.full((1, 4, 4, 3), v / 127.5 - 1, np.float32) for v in (1.49, 1.51))
    np.testing.assert_allclose(metrics.psnr(a, below), 20 * np.log10(255 / 1), rtol=1e-12)
    np.testing.assert_allclose(metrics.psnr(a, above), 20 * np.log10(255 / 2), rtol=1e-12)
    np.testing.assert_allclose(metrics.psnr(a, above, round_uint8=False), 20 * np.log10(255 / 1.51), atol=1e-4)


def test_rounding_clips_and_floats_are_taken_as_given():
    black, beyond = np.full((1, 4, 4, 3), -1.0, np.float32), np.full((1, 4, 4, 3), -1.5, np.float32)
    assert np.isposinf(metrics.psnr(black, beyond)).all()
    np.testing.assert_allclose(metrics.psnr(black, beyond, round_uint8=False), 20 * np.log10(2 / 0.5), rtol=1e-12)


@pytest.mark.parametrize("channel", ["rgb", "y", "gray"])
def test_every_byte_survives_the_float_range(channel):
    a = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    b = a[:, ::-1]
    for measure in (metrics.psnr, metrics.ssim):
        expected = measure(a, b, channel=channel)
        np.testing.assert_array_equal(measure(as_float(a), as_float(b), channel=channel), expected)
        np.testing.assert_array_equal(measure(jnp.asarray(as_float(a)), b, channel=channel), expected)


def test_half_precision_is_accepted():
    a, b = random_pair(3)
    half = [jnp.asarray(as_float(x), jnp.bfloat16) for x in (a, b)]
    np.testing.assert_array_equal(metrics.psnr(*half), metrics.psnr(*(np.asarray(x, np.float32) for x in half)))


def test_one_channel_is_measured_as_it_is():
    a, b = random_pair(4)
    triple = [x[..., :1].repeat(3, axis=3) for x in (a, b)]
    for measure in (metrics.psnr, metrics.ssim):
        np.testing.assert_allclose(measure(a[..., :1], b[..., :1]), measure(*triple), rtol=1e-13)


@pytest.mark.parametrize("border, round_uint8", [(0, False), (3, True)])
def test_psnr_jax_agrees_under_jit(border, round_uint8):
    a, b = (as_float(x) for x in random_pair(5))
    b = b + np.float32(0.003)
    measure = jax.jit(lambda x, y: metrics.psnr_jax(x, y, border=border, round_uint8=round_uint8))
    expected = metrics.psnr(a, b, border=border, round_uint8=round_uint8)
    np.testing.assert_allclose(measure(a, b), expected, atol=1e-4)


def test_psnr_jax_refuses_shapes():
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr_jax(x, x[:, :4])
    with pytest.raises(ValueError, match="leaves nothing"):
        metrics.psnr_jax(x, x, border=4)


# --- SSIM


def test_ssim_equals_the_definition_on_odd_sizes():
    a, b = random_pair(6, (1, 13, 18, 3))
    expected = np.mean([slow_ssim(a[0, ..., c].astype(float), b[0, ..., c].astype(float)) for c in range(3)])
    np.testing.assert_allclose(metrics.ssim(a, b), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 11, 11, 3), (2, 40, 57, 3), (1, 150, 23, 3)])
def test_ssim_equals_scikit_image(shape):
    a, b = random_pair(7, shape, spread=90)
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    expected = [structural_similarity(x.astype(float), y.astype(float), channel_axis=-1, **settings)
                for x, y in zip(a, b)]
    np.testing.assert_allclose(metrics.ssim(a, b), expected, rtol=1e-11)
    luma = [16 + x.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255 for x in (a, b)]
    expected = [structural_similarity(x, y, **settings) for x, y in zip(*luma)]
    np.testing.assert_allclose(metrics.ssim(a, b, channel="y"), expected, rtol=1e-11)


def test_ssim_of_flat_images_is_the_luminance_term():
    a, b = np.full((1, 12, 12, 3), 60, np.uint8), np.full((1, 12, 12, 3), 200, np.uint8)
    expected = (2 * 60 * 200 + 6.5025) / (60 ** 2 + 200 ** 2 + 6.5025)
    np.testing.assert_allclose(metrics.ssim(a, b), expected, rtol=1e-9)


def test_ssim_of_a_negative_is_negative():
    a, _ = random_pair(8)
    assert (metrics.ssim(a, 255 - a) < -0.5).all()


@pytest.mark.parametrize("height, width, border", [(10, 30, 0), (30, 10, 0), (1, 1, 0), (14, 30, 2)])
def test_ssim_refuses_images_smaller_than_its_window(height, width, border):
    a = np.zeros((1, height, width, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        metrics.ssim(a, a, border=border)


# --- official values


def read(*parts):
    with Image.open(SHARED.joinpath("data", "eval_open", "metric_calibration", *parts), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB"))


@needs_shared
def test_official_psnr_and_ssim():
    """The official PSNR is in RGB, the official SSIM on the rounded full-range luma; each alone fits, no other does."""
    with open(SHARED / "data" / "eval_open" / "metric_calibration" / "results_official.csv", newline="") as file:
        official = {row["Method"]: [float(row[f"{name}.bmp"]) for name in PAIRS] for row in csv.DictReader(file)}
    a, b = (np.stack([read(folder, f"{name}.png") for name in PAIRS]) for folder in ("ref_dir", "dist_dir"))
    np.testing.assert_allclose(metrics.by_name("psnr-rgb-crop0-u8")(a, b), official["psnr"], atol=5.001e-3)
    np.testing.assert_allclose(
        metrics.by_name("ssim-gray-bt601full-crop0-u8-yu8")(a, b), official["ssim"], atol=5.001e-5)
    assert np.abs(metrics.psnr(a, b, channel="y") - official["psnr"]).max() > 1
    assert np.abs(metrics.ssim(a[:2], b[:2]) - official["ssim"][:2]).max() > 0.01


# --- refusals


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
def test_bad_input_is_refused(measure):
    a, b = (as_float(x) for x in random_pair(9))
    with pytest.raises(ValueError, match="differ in shape.*never resize"):
        measure(a, b[:, 1:])
    with pytest.raises(ValueError, match="differ in shape"):
        measure(a, b[:1])  # no broadcasting
    with pytest.raises(ValueError, match=r"x\[None\]"):
        measure(a[0], b[0])
    with pytest.raises(ValueError, match="B, H, W, 3"):
        measure(a[..., :2], b[..., :2])
    with pytest.raises(ValueError, match="int64"):
        measure(a.astype(np.int64), b.astype(np.int64))
    with pytest.raises(ValueError, match="unknown channel 'Y'"):
        measure(a, b, channel="Y")
    with pytest.raises(ValueError, match="1 channel"):
        measure(a[..., :1], b[..., :1], channel="y")
    with pytest.raises(ValueError, match="no luma to round"):
        measure(a, b, round_luma=True)
    with pytest.raises(ValueError, match="leaves nothing"):
        measure(a, b, border=12)
    with pytest.raises(ValueError, match="0 or more"):
        measure(a, b, border=-1)
    for bad in (np.nan, np.inf):
        spoiled = b.copy()
        spoiled[1, 2, 3, 0] = bad
        with pytest.raises(ValueError, match="image 1 of b holds NaN or infinity"):
            measure(a, spoiled)
        with pytest.raises(ValueError, match="image 1 of a holds NaN or infinity"):
            measure(spoiled, b, border=5)


# --- protocols and scores


NAMES = [f"{metric}-{space}" for metric in ("psnr", "ssim") for space in (
    "rgb-crop0-u8", "rgb-crop3-float", "y-bt601-crop4-u8", "y-bt601-crop0-u8-yu8", "gray-bt601full-crop2-float",
    "gray-bt601full-crop0-float-yu8")]


@pytest.mark.parametrize("name", NAMES)
def test_names_read_back_and_measure(name):
    protocol = metrics.by_name(name)
    assert protocol.name == name and metrics.by_name(protocol.name) == protocol and protocol.higher_is_better
    a, b = random_pair(10)
    measure = getattr(metrics, protocol.metric)
    expected = measure(a, b, channel="y" if "-y-" in name else "gray" if "-gray-" in name else "rgb",
                       border=int(name.split("crop")[1][0]), round_uint8="-u8" in name, round_luma="-yu8" in name)
    np.testing.assert_array_equal(protocol(a, b), expected)


def test_short_names_are_whole_protocols():
    assert metrics.by_name("psnr").name == "psnr-rgb-crop0-u8"
    assert metrics.by_name("ssim").name == "ssim-rgb-crop0-u8"
    assert set(metrics.ALIASES) == {"psnr", "ssim", "ms-ssim", "lpips", "niqe"}


@pytest.mark.parametrize("name", [
    "", "PSNR", "psnr-y", "psnr-y-bt601-crop4", "psnr-rgb-crop0-u8-yu8", "psnr-rgb-crop-1-u8", "psnr-rgb-crop04-u8",
    "mse-rgb-crop0-u8", "lpips-vgg19-v0.1", "psnr-rgb-crop0-u8 "])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="unknown metric .*psnr-y-bt601-crop4-u8"):
        metrics.by_name(name)


@pytest.mark.parametrize("settings", [
    dict(metric="mse"), dict(metric="psnr", channel="luma"), dict(metric="psnr", border=-1),
    dict(metric="psnr", border=1.5), dict(metric="ssim", round_luma=True), dict(metric="lpips", border=4)])
def test_impossible_protocols_are_refused(settings):
    with pytest.raises(ValueError):
        metrics.Protocol(**settings)


def test_unlike_scores_do_not_meet():
    rgb, luma = metrics.Score(30.0, "psnr-rgb-crop0-u8"), metrics.Score(31.5, "psnr-y-bt601-crop4-u8")
    for attempt in (lambda: rgb - luma, lambda: rgb < luma, lambda: rgb <= luma, lambda: rgb > luma,
                    lambda: rgb >= luma, lambda: max(rgb, luma), lambda: sorted([luma, rgb])):
        with pytest.raises(ValueError, match="unlike protocols"):
            attempt()
    with pytest.raises(ValueError, match="only with another Score"):
        assert rgb < 31.0
    better = metrics.Score(30.5, rgb.protocol)
    assert better - rgb == 0.5 and max(rgb, better) is better and better >= rgb and not better <= rgb
    assert float(rgb) == 30.0 and rgb != luma


def test_require_same():
    psnr = metrics.by_name("psnr")
    metrics.require_same(psnr, "psnr-rgb-crop0-u8", "psnr")
    with pytest.raises(ValueError, match="psnr-rgb-crop0-u8 and psnr-rgb-crop0-float are unlike"):
        metrics.require_same(psnr, psnr, metrics.by_name("psnr-rgb-crop0-float"))


def test_score_pairs_rows_and_mean():
    small, large = random_pair(11, (2, 12, 12, 3)), random_pair(12, (2, 20, 16, 3))
    pairs = ((name, batch[0][0], batch[1][0]) for name, batch in (("a.png", small), ("b.png", large)))
    scores = metrics.score_pairs(pairs, ["ssim", metrics.by_name("psnr-y-bt601-crop2-u8")])
    assert [list(row) for row in scores.rows] == [["name", "ssim-rgb-crop0-u8", "psnr-y-bt601-crop2-u8"]] * 2
    assert [row["name"] for row in scores.rows] == ["a.png", "b.png"]
    expected = [metrics.psnr(*batch, channel="y", border=2)[0] for batch in (small, large)]
    assert [row["psnr-y-bt601-crop2-u8"] for row in scores.rows] == expected
    mean = scores.mean["psnr-y-bt601-crop2-u8"]
    assert mean.protocol == "psnr-y-bt601-crop2-u8" and mean.value == pytest.approx(np.mean(expected), rel=1e-15)


def test_score_pairs_refuses():
    a, b = (x[0] for x in random_pair(13, (1, 12, 12, 3)))
    with pytest.raises(ValueError, match="no image pair"):
        metrics.score_pairs([], ["psnr"])
    with pytest.raises(ValueError, match="each once"):
        metrics.score_pairs([("a", a, b)], ["psnr", "psnr-rgb-crop0-u8"])
    with pytest.raises(ValueError, match="each once, got none"):
        metrics.score_pairs([("a", a, b)], [])
    with pytest.raises(ValueError, match="second.png: the two image batches differ"):
        metrics.score_pairs([("first.png", a, b), ("second.png", a, b[1:])], ["psnr"])
    with pytest.raises(ValueError, match="two images"):
        metrics.score_pairs([("a", np.stack([a, a]), np.stack([b, b]))], ["psnr"])


def test_an_identical_pair_makes_the_mean_infinite():
    a, b = (x[0] for x in random_pair(14, (1, 12, 12, 3)))
    assert metrics.score_pairs([("a", a, b), ("b", a, a)], ["psnr"]).mean["psnr-rgb-crop0-u8"].value == np.inf


def test_compare_tables():
    a, b = (x[0] for x in random_pair(15, (1, 12, 12, 3)))
    near = np.uint8(0.5 * a + 0.5 * b)
    first, second = (metrics.score_pairs([("a", a, x)], ["psnr", "ssim"]) for x in (b, near))
    assert metrics.compare(first, first) == {"psnr-rgb-crop0-u8": 0.0, "ssim-rgb-crop0-u8": 0.0}
    assert all(value > 0 for value in metrics.compare(first, second).values())
    with pytest.raises(ValueError, match="unlike protocols"):
        metrics.compare(first, metrics.score_pairs([("a", a, b)], ["psnr", "ssim-y-bt601-crop0-u8"]))
    with pytest.raises(ValueError, match="other images"):
        metrics.compare(first, metrics.score_pairs([("b", a, b)], ["psnr", "ssim"]))
