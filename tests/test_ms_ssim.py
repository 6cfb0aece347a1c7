"""MS-SSIM: its definition window by window, official values of its scales, and what is refused."""
import csv
import importlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity

from indigo_jax import metrics
from tests.paths import SHARED, needs_shared

MODULE = importlib.import_module("indigo_jax.metrics.ms_ssim")
NAMES = ("I03", "I04", "I06", "I08", "I19")
EXPONENTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def pair(seed=0, shape=(2, 163, 180, 3), spread=60):
    random = np.random.default_rng(seed)
    a = random.integers(40, 216, shape)
    return a.astype(np.uint8), np.clip(a + random.integers(-spread, spread + 1, shape), 0, 255).astype(np.uint8)


def contrast(x, y):
    """SSIM without its luminance, by scipy's Gaussian."""
    def blur(z):
        return ndimage.gaussian_filter(z, 1.5, truncate=3.4)[5:-5, 5:-5]

    covariance = blur(x * y) - blur(x) * blur(y)
    return np.mean((2 * covariance + 58.5225) / (blur(x * x) - blur(x) ** 2 + blur(y * y) - blur(y) ** 2 + 58.5225))


def slow(x, y):
    x, y, factors = x.astype(float), y.astype(float), []
    for scale in range(5):
        if scale == 4:
            factors.append(structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                                 data_range=255))
        else:
            factors.append(contrast(x, y))
        x, y = (np.pad(z, [(0, side % 2) for side in z.shape], mode="edge") for z in (x, y))
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean(axis=(1, 3)) for z in (x, y))
    return np.prod(np.array(factors) ** EXPONENTS)


def test_it_is_its_definition():
    a, b = pair()
    expected = [np.mean([slow(x[..., c], y[..., c]) for c in range(3)]) for x, y in zip(a, b)]
    np.testing.assert_allclose(metrics.ms_ssim(a, b), expected, rtol=1e-10)
    np.testing.assert_array_equal(metrics.by_name("ms-ssim")(a, b), metrics.ms_ssim(a, b))
    assert metrics.ms_ssim(a, a).tolist() == [1.0, 1.0]
    assert metrics.by_name("ms-ssim-y-bt601-crop1-u8").name == "ms-ssim-y-bt601-crop1-u8"


def test_opposites_are_nought_and_small_pictures_refused():
    a, _ = pair(1)
    assert metrics.ms_ssim(a, 255 - a).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="161 x 161 pixels, got 160 x 176 after cutting a border of 2"):
        metrics.ms_ssim(*np.zeros((2, 1, 164, 180, 3), np.uint8), border=2)


@needs_shared
def test_official_values_are_the_weighted_sum_of_its_scales():
    """So each scale is right; the paper's product is another number of the same terms."""
    folder = SHARED / "data" / "eval_open" / "metric_calibration"
    with open(folder / "results_official.csv", newline="") as file:
        official = next([float(row[f"{name}.bmp"]) for name in NAMES] for row in csv.DictReader(file)
                        if row["Method"] == "ms_ssim")
    found = []
    for name in NAMES:
        x, y = (np.asarray(Image.open(folder / side / f"{name}.png", formats=["PNG"]).convert("RGB"))
                for side in ("ref_dir", "dist_dir"))
        x, y = (np.rint(z @ [0.299, 0.587, 0.114]) for z in (x, y))
        *finer, coarsest = MODULE._scales(x, y)
        terms = [rest for _, rest in finer] + [coarsest[0]]
        found.append(EXPONENTS @ terms / EXPONENTS.sum())
    np.testing.assert_allclose(found, official, atol=5.1e-5)
