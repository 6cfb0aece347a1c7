"""FID and KID: closed forms of Gaussians, singular covariances, streams and shards, the definition of the kernel."""
import numpy as np
import pytest
import scipy.linalg

from indigo_jax import metrics
from indigo_jax.metrics import Statistics


def gaussian(seed, width, rank=None):
    random = np.random.default_rng(seed)
    root = random.standard_normal((width, rank or width))
    return Statistics(random.standard_normal(width), root @ root.T)


def test_fid_of_commuting_covariances_is_closed_form():
    """``|m|^2 + sum (sqrt(a_i) - sqrt(b_i))^2`` in any common basis."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((12, 12)))[0]
    a, b, shift = random.uniform(0.1, 9, 12), random.uniform(0.1, 9, 12), random.standard_normal(12)
    a[:4] = 0  # singular
    expected = shift @ shift + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    found = metrics.fid(Statistics(np.zeros(12), basis * a @ basis.T), Statistics(shift, basis * b @ basis.T))
    assert found == pytest.approx(expected, rel=1e-12)


def test_fid_of_general_covariances_is_that_of_the_matrix_root():
    a, b = gaussian(1, 9), gaussian(2, 9)
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov + b.cov - 2 * root.real)
    assert metrics.fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.fid(a, b) == pytest.approx(metrics.fid(b, a), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_a_set_has_no_distance_from_itself_even_if_singular(rank):
    a = gaussian(3, 30, rank)
    assert abs(metrics.fid(a, a)) < 1e-10 * np.trace(a.cov)
    features = np.random.default_rng(4).standard_normal((rank + 1, 30))
    assert abs(metrics.fid(features, features)) < 1e-12
    moved = metrics.fid(features, features + 0.5)
    assert moved == pytest.approx(30 * 0.25, rel=1e-12)


@pytest.mark.parametrize("count_a, count_b", [(5, 7), (40, 6), (50, 60)])
def test_features_and_their_statistics_agree(count_a, count_b):
    random = np.random.default_rng(5)
    a, b = random.standard_normal((count_a, 16)), 2 * random.standard_normal((count_b, 16)) + 1
    of_statistics = metrics.fid(*map(metrics.feature_statistics, (a, b)))
    assert metrics.fid(a, b) == pytest.approx(of_statistics, rel=1e-9)
    assert metrics.fid(metrics.feature_statistics(a), b) == pytest.approx(of_statistics, rel=1e-9)


def test_samples_come_near_the_distance_of_their_gaussians():
    random = np.random.default_rng(6)
    a, b = random.standard_normal((40000, 3)), random.standard_normal((40000, 3)) * [1, 2, 3] + [1, 0, 0]
    assert metrics.fid(a, b) == pytest.approx(1 + 0 + 1 + 4, rel=0.02)


def test_streams_and_shards_are_the_whole():
    """Also far from zero, where sums of squares lose every digit."""
    x = np.random.default_rng(7).standard_normal((53, 6)) + 1e6
    batches = (x[i:i + 7] for i in range(0, 53, 7))
    found = metrics.feature_statistics(batches)
    shards = metrics.merge_statistics(*(metrics.feature_statistics(x[i::8]) for i in range(8)))
    for each in (found, shards, metrics.feature_statistics(x)):
        assert each.count == 53
        np.testing.assert_allclose(each.mean, x.mean(axis=0), rtol=1e-15)
        np.testing.assert_allclose(each.cov, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-9)


def slow_kid(a, b):
    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y)) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    return (sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
            + sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
            - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m))


def test_kid_is_its_definition():
    random = np.random.default_rng(8)
    a, b = random.standard_normal((6, 4)), random.standard_normal((9, 4)) + 0.5
    assert metrics.kid(a, b) == (pytest.approx(slow_kid(a, b), rel=1e-12), 0.0)


def test_kid_of_means_in_closed_form():
    """In one dimension ``E (x y + 1)^3`` is a sum of products of moments: 0 between equal, known between shifted."""
    random = np.random.default_rng(9)
    a, b = random.standard_normal((3000, 1)), random.standard_normal((3000, 1)) + 1
    moments_a, moments_b = np.array([1, 0, 1, 0]), np.array([1, 1, 2, 4])  # of N(0, 1) and N(1, 1)
    expected = np.sum([1, 3, 3, 1] * (moments_a - moments_b) ** 2)
    found = metrics.kid(a, b, subsets=40, subset_size=300)
    assert found.mean == pytest.approx(expected, rel=0.1) and found.std > 0
    assert metrics.kid(a, b, subsets=40, subset_size=300) == found
    same = metrics.kid(a[::2], a[1::2], subsets=40, subset_size=300)
    assert abs(same.mean) < 0.05 * expected


def test_bad_features_are_refused(tmp_path):
    good = np.random.default_rng(10).standard_normal((5, 4))
    spoiled = good.copy()
    spoiled[3, 1] = np.nan
    for call, message in (
            (lambda: metrics.fid(good, good[:, :3]), "4 and 3 numbers"),
            (lambda: metrics.kid(good, good[:, :3]), "4 and 3 numbers"),
            (lambda: metrics.fid(good, good[:1]), "at least 2"), (lambda: metrics.kid(good[:1], good), "at least 2"),
            (lambda: metrics.fid(good, spoiled), "row 3"), (lambda: metrics.feature_statistics([]), "no features"),
            (lambda: metrics.fid(good, metrics.feature_statistics(good[:1])), "one picture"),
            (lambda: metrics.merge_statistics(Statistics(np.zeros(2), np.eye(2))), "counts"),
            (lambda: metrics.fid(good, Statistics(np.zeros(4), -np.eye(4))), "eigenvalue"),
            (lambda: metrics.fid(good, Statistics(np.zeros(4), np.triu(np.ones((4, 4))))), "symmetric"),
            (lambda: metrics.kid(good, good, subset_size=1), "subset of two")):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="check the path"):
        metrics.load_statistics(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=good)
    with pytest.raises(ValueError, match="mu and sigma"):
        metrics.load_statistics(tmp_path / "other.npz")
    np.savez(tmp_path / "good.npz", mu=good.mean(0), sigma=np.cov(good, rowvar=False))
    assert metrics.fid(good, metrics.load_statistics(tmp_path / "good.npz")) == pytest.approx(0, abs=1e-12)
