"""NIQE: a second program of its features in scipy, known distributions, official values, and what is refused."""
import csv
import importlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, special, stats

from indigo_jax import metrics
from tests.paths import SHARED, needs_shared

MODULE = importlib.import_module("indigo_jax.metrics.niqe")
NAMES = ("I03", "I04", "I06", "I08", "I19")


def picture(seed=0, shape=(96, 192), blur=1.0):
    """Textured, nowhere flat, ``[H, W, 3]`` uint8."""
    random = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(random.standard_normal((*shape, 3)), (blur, blur, 0))
    return np.clip(128 + 40 * x / x.std(), 5, 250).astype(np.uint8)


def scipy_luma(x):
    return np.floor(x @ [0.298936021293776, 0.587043074451121, 0.114020904255103] + 0.5)


def scipy_fit(values):
    """Shape, left and right width by moments, one root search instead of a table."""
    left, right = (np.sqrt(np.mean(values[side] ** 2)) for side in (values < 0, values > 0))
    skew = left / right
    wanted = np.mean(np.abs(values)) ** 2 / np.mean(values ** 2) * (skew ** 3 + 1) * (skew + 1) / (skew ** 2 + 1) ** 2

    def ratio(a):
        return np.exp(2 * special.gammaln(2 / a) - special.gammaln(1 / a) - special.gammaln(3 / a))

    low, high = 0.2, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) < wanted else (low, middle)
    shape = round(low * 1000) / 1000  # the official table has three decimals
    scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    return shape, left * scale, right * scale


def scipy_features(plane, block=96):
    """``[N, 36]``, block after block, from the paper's equations with scipy's filters."""
    found = []
    for scale in (1, 2):
        offsets = np.arange(-3, 4)
        window = np.exp(-(offsets[:, None] ** 2 + offsets ** 2) / (2 * (7 / 6) ** 2))
        mean, square = (ndimage.correlate(p, window / window.sum(), mode="nearest") for p in (plane, plane ** 2))
        normal = (plane - mean) / (np.sqrt(np.abs(square - mean ** 2)) + 1)
        rows = []
        for top in range(0, plane.shape[0], block // scale):
            for side in range(0, plane.shape[1], block // scale):
                part = normal[top:top + block // scale, side:side + block // scale]
                shape, left, right = scipy_fit(part)
                row = [shape, (left + right) / 2]
                for dy, dx in ((0, -1), (-1, 0), (-1, -1), (1, -1)):
                    shape, left, right = scipy_fit(part * np.roll(np.roll(part, dy, 0), dx, 1))
                    mean_of_pairs = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
                    row += [shape, mean_of_pairs, left, right]
                rows.append(row)
        found.append(rows)
        plane = scipy_half(scipy_half(plane).T).T
    return np.concatenate(found, axis=1)


def scipy_half(plane):
    """Every second row of a cubic spline filter of twice its usual width, between the rows, mirrored at the edge."""
    def keys(t):
        t = abs(t)
        return 1.5 * t**3 - 2.5 * t**2 + 1 if t <= 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0

    rows = []
    for i in range(len(plane) // 2):
        places = range(2 * i - 5, 2 * i + 8)
        weights = np.array([keys((2 * i + 0.5 - j) / 2) for j in places])
        mirrored = [-1 - j if j < 0 else 2 * len(plane) - 1 - j if j >= len(plane) else j for j in places]
        rows.append(weights @ plane[mirrored] / weights.sum())
    return np.array(rows)


def test_features_are_those_of_a_second_program():
    x = picture()
    found = metrics.niqe_features(x[None])
    assert found.shape == (1, 2, 36)
    np.testing.assert_allclose(found[0], scipy_features(scipy_luma(x)), rtol=2e-3, atol=2e-3)  # a step of the table
    assert np.median(np.abs(found[0] - scipy_features(scipy_luma(x)))) < 1e-9


def test_the_distance_is_eq_10():
    x, model = picture(1, (192, 200)), metrics.default_niqe()
    features = metrics.niqe_features(x[None])[0]
    assert features.shape == (4, 36)
    centred = features - features.mean(axis=0)
    difference = model.mean - features.mean(axis=0)
    expected = np.sqrt(difference @ np.linalg.solve((model.cov + centred.T @ centred / 3) / 2, difference))
    found = metrics.niqe(np.stack([x, picture(2, (192, 200))]))
    assert found.shape == (2,) and found.dtype == np.float64
    assert found[0] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(metrics.niqe(x[None]), metrics.niqe(x[None, :, :192]))  # what fills no block is cut
    wide = np.pad(x, ((4, 4), (4, 4), (0, 0)))
    np.testing.assert_array_equal(metrics.niqe(wide[None], border=4), found[:1])
    np.testing.assert_allclose(metrics.niqe(x[None].astype(np.float32) / np.float32(127.5) - np.float32(1)), found[:1])
    assert metrics.niqe(x[None], channel="y") != found[:1]
    grey = np.repeat(x[..., :1], 3, axis=2)
    np.testing.assert_array_equal(metrics.niqe(grey[None]), metrics.niqe(grey[None, ..., :1]))


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_the_fit_finds_the_distribution_it_was_drawn_from(shape):
    """Left and right halves of generalised Gaussians with the widths 1 and 3, drawn as often as they are wide."""
    random = np.random.default_rng(3)
    draws = np.abs(stats.gennorm.rvs(shape, size=400_000, random_state=random))
    values = np.where(random.uniform(size=draws.size) < 0.25, -draws, 3 * draws)
    found = [float(each[0]) for each in MODULE._asymmetric(values.reshape(1, 400, 1000))]
    np.testing.assert_allclose(found, [shape, 1.0, 3.0], rtol=0.02)


def test_more_noise_and_more_blur_are_worse():
    from skimage import data
    clean = data.astronaut()[:288, :288]
    random, softened = np.random.default_rng(4), [ndimage.gaussian_filter(clean, (s, s, 0)) for s in (1, 2)]
    noisy = [np.clip(clean + random.normal(0, s, clean.shape), 0, 255).astype(np.uint8) for s in (10, 40)]
    best, *rest = metrics.niqe(np.stack([clean, *softened, *noisy]))
    assert best < rest[0] < rest[1] and best < rest[2] < rest[3]


def test_a_model_of_ones_own_takes_sharp_blocks_alone(tmp_path):
    sharp = [picture(seed, (96, 192)) for seed in range(5, 25)]
    mixed = [np.concatenate([x, picture(99, (96, 96), 9.0) // 4], axis=1) for x in sharp]
    features = np.concatenate([metrics.niqe_features(x[None])[0] for x in sharp])
    model = metrics.niqe_model(iter(mixed))  # one block of three is soft and left out
    np.testing.assert_allclose(model.mean, features.mean(axis=0), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(np.diag(model.cov), features.var(axis=0, ddof=1), rtol=0.3, atol=1e-4)
    with pytest.raises(ValueError, match="too few"):
        metrics.niqe_model(sharp[:3])
    np.savez(tmp_path / "ours.npz", mean=model.mean, cov=model.cov)
    np.savez(tmp_path / "official.npz", mu_prisparam=model.mean[None], cov_prisparam=model.cov)
    for name in ("ours", "official"):
        loaded = metrics.load_niqe(tmp_path / f"{name}.npz")
        assert loaded.name == model.name and len(model.name) == 8 and loaded.mean.shape == (36,)
        assert metrics.niqe(sharp[0][None], loaded) == metrics.niqe(sharp[0][None], model)


def test_the_model_that_comes_along_is_named():
    model = metrics.default_niqe()
    assert model.name == "bsds400" and np.linalg.eigvalsh(model.cov)[0] > 0


def test_flat_parts_are_left_out_and_flat_pictures_refused():
    """A block beside texture sees it across its edge; the one after it sees nothing."""
    x = picture(30, (96, 384))
    flat = x.copy()
    flat[:, 192:] = 77
    missing = np.isnan(metrics.niqe_features(flat[None])[0])
    assert missing[3].all() and not missing[:2].any()
    assert np.isfinite(metrics.niqe(flat[None])).all()
    with pytest.raises(ValueError, match="image 1: 0 of its 4 blocks"):
        metrics.niqe(np.stack([x, np.full_like(x, 77)]))


def test_bad_input_is_refused(tmp_path):
    x = picture(31)[None]
    spoiled = (x / 127.5 - 1).astype(np.float32)
    spoiled[0, 0, 0, 0] = np.nan
    for call, message in (
            (lambda: metrics.niqe(x[:, :95]), "two blocks"), (lambda: metrics.niqe(x[:, :, :96]), "two blocks"),
            (lambda: metrics.niqe(x, border=1), "border of 1"), (lambda: metrics.niqe(x, channel="rgb"), "luma"),
            (lambda: metrics.niqe(x, block=15), "even"), (lambda: metrics.niqe(spoiled), "NaN or infinity"),
            (lambda: metrics.niqe(x[0]), r"x\[None\]"),
            (lambda: metrics.niqe(x, (np.zeros(18), np.eye(18))), "36 floats"),
            (lambda: metrics.niqe(x, (np.zeros(36), -np.eye(36))), "positive diagonal"),
            (lambda: metrics.niqe_parameters({"a": np.zeros(3)}), "holds a, not")):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="check the path"):
        metrics.load_niqe(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(ValueError, match="--from niqe"):
        metrics.load_niqe(tmp_path / "text.npz")


@needs_shared
def test_our_values_run_with_the_official_ones():
    """Other parameters, so other values: they go together (0.999), and two official ones 0.05 apart change places."""
    folder = SHARED / "data" / "eval_open" / "metric_calibration"
    with open(folder / "results_official.csv", newline="") as file:
        official = next([float(row[f"{name}.bmp"]) for name in NAMES] for row in csv.DictReader(file)
                        if row["Method"] == "niqe")
    found = []
    for name in NAMES:
        with Image.open(folder / "dist_dir" / f"{name}.png", formats=["PNG"]) as opened:
            found += list(metrics.niqe(np.asarray(opened.convert("RGB"))[None]))
    np.testing.assert_allclose(found, [17.5193, 3.9216, 3.0836, 3.4355, 9.3244], atol=2e-4)
    assert np.corrcoef(found, official)[0, 1] > 0.999
    assert sorted(found[:2] + found[4:]) == [found[1], found[4], found[0]]


@needs_shared
def test_official_parameters_give_the_official_values():
    """To 0.01, but for two pictures with flat parts, where the official sign is what another program rounded."""
    folder, parameters = SHARED / "data" / "eval_open" / "metric_calibration", SHARED / "data" / "weights"
    model = metrics.load_niqe(parameters / "niqe_pris_params.npz")
    assert model.name == "official"
    with open(folder / "results_official.csv", newline="") as file:
        official = next(row for row in csv.DictReader(file) if row["Method"] == "niqe")
    for name in NAMES:
        with Image.open(folder / "dist_dir" / f"{name}.png", formats=["PNG"]) as opened:
            found, = metrics.niqe(np.asarray(opened.convert("RGB"))[None], model)
        assert abs(found - float(official[f"{name}.bmp"])) < (0.035 if name in ("I08", "I19") else 0.01)
