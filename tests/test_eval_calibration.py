"""The table of calibration: its exact posteriors against brute force, its measures, its Markdown and its command."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import tables
from eval.posteriors import Mixture, matrix, smooth_covariance
from eval.tables import calibration, posterior_samplers
from eval.tables.posterior_samplers import LINES, SIGMA, WHOLE
from indigo_jax import restoration, rng, samplers

RANDOM = np.random.default_rng(0)
PLANE = Mixture(np.array([0.7, 0.3]), np.array([[0.5, 0.0], [-0.4, 0.3]]), np.array([[0.05, 0.03], [0.03, 0.08]]),
                (1, 2, 1))


def grid_law(log_density, half=4.0, count=801):
    """Mean and covariance of a density in the plane, by a sum over a grid."""
    axis = np.linspace(-half, half, count)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log = log_density(x)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ x
    return mean, (x - mean).T @ (weight[:, None] * (x - mean))


def log_prior(x):
    left = x[:, None] - PLANE.means
    inner = np.einsum("nki,ij,nkj->nk", left, np.linalg.inv(PLANE.covariance), left)
    return np.log(np.exp(-0.5 * inner) @ PLANE.weights)


def law(mixture):
    left = mixture.means - mixture.mean
    return mixture.mean, mixture.covariance + left.T @ (mixture.weights[:, None] * left)


def test_the_posterior_of_a_mixture_is_that_of_a_grid():
    a, y, sigma = np.array([[1.0, 0.5]]), np.array([0.1]), 0.3
    exact = PLANE.posterior(a, y, sigma)
    assert 0.2 < exact.weights[0] < 0.9 and abs(exact.weights.sum() - 1) < 1e-12
    wanted = grid_law(lambda x: log_prior(x) - 0.5 * np.sum((x @ a.T - y)**2, axis=1) / sigma**2)
    for found, other in zip(law(exact), wanted):
        np.testing.assert_allclose(found, other, atol=1e-6)
    assert abs(exact.spread - np.sqrt(np.trace(wanted[1]) / 2)) < 1e-6


@pytest.mark.parametrize("k", [100, 400, 800])
def test_the_denoiser_of_a_mixture_is_that_of_a_grid(k):
    x_t, a = np.array([[0.3, -0.2], [-0.9, 0.4]]), float(WHOLE.alpha_bar[k])
    found = PLANE.denoiser(WHOLE)(jnp.asarray(x_t, jnp.float32).reshape(2, 1, 2, 1), WHOLE.timesteps[jnp.array([k, k])])
    for i in range(2):
        wanted, _ = grid_law(lambda x: log_prior(x) - 0.5 * np.sum((x_t[i] - np.sqrt(a) * x)**2, axis=1) / (1 - a))
        np.testing.assert_allclose(np.ravel(found.x0[i]), wanted, atol=1e-4)
    np.testing.assert_allclose(a**0.5 * found.x0 + (1 - a)**0.5 * found.eps, x_t.reshape(2, 1, 2, 1), atol=1e-5)


def test_draws_and_modes():
    x = PLANE.draw(20_000, RANDOM)
    for found, wanted in zip((x.mean(0), np.cov(x.T)), law(PLANE)):
        np.testing.assert_allclose(found, wanted, atol=0.01)
    apart = PLANE._replace(covariance=0.01 * np.eye(2))
    np.testing.assert_array_equal(apart.modes(apart.means), [0, 1])


def test_the_covariance_of_smooth_pictures():
    covariance = smooth_covariance(6, 0.3, 0.1)
    np.testing.assert_allclose(np.diag(covariance), 0.09)
    assert np.linalg.eigvalsh(covariance).min() > 0
    picture = covariance[0].reshape(6, 6)
    np.testing.assert_allclose(picture[1:], picture[:0:-1], atol=1e-12)  # a torus
    assert picture[0, 0] > picture[0, 1] > picture[0, 2] > picture[0, 3]


def test_exact_draws_are_found_right_and_wrong_ones_wrong():
    prior = Mixture(np.array([0.7, 0.3]), np.array([[0.5, 0, 0], [-0.5, 0, 0]]), np.diag([0.01, 0.02, 0.03]), (1, 3, 1))
    x = prior.draw(50_000, RANDOM)
    found = calibration.compare(x, prior)
    assert found["mean error"] < 0.02 and abs(found["first mode"] - 0.7) < 0.01
    np.testing.assert_allclose([found[name] for name in ("std ratio", "least", "largest")], 1, atol=0.02)
    narrow = prior.mean + 0.5 * (x - prior.mean)
    assert abs(calibration.compare(narrow, prior)["std ratio"] - 0.5) < 0.02
    shifted = calibration.compare(x + prior.spread, prior)
    assert abs(shifted["mean error"] - 1) < 0.02
    turned = calibration.compare(np.where(np.arange(3) == 2, 1.5, 1) * x, prior)
    np.testing.assert_allclose([turned["least"], turned["largest"]], [1, 1.5], atol=0.03)


def test_the_problems_are_what_they_say():
    for case in calibration.problems(1):
        a = matrix(case.operator, case.prior.shape)
        again = case.prior.posterior(a, np.ravel(case.y[0]).astype(np.float64), SIGMA)
        np.testing.assert_allclose(again.means, case.posterior.means, atol=1e-5)
        assert case.y.shape[0] == calibration.DRAWS and case.posterior.spread < case.prior.spread


def test_the_exact_score_draws_from_the_posterior(monkeypatch):
    """The yardstick: what the solver alone makes wrong."""
    monkeypatch.setattr(calibration, "DRAWS", 512)
    case = calibration.problems(0)[1]
    for line in LINES[:2]:
        found = calibration.compare(calibration.draws(case, line, 0), case.posterior)
        assert found["mean error"] < 0.15 and abs(found["std ratio"] - 1) < 0.08, line
        assert abs(found["first mode"] - case.posterior.weights[0]) < 0.05


def test_two_samplers_are_calibrated_and_one_is_not(monkeypatch):
    monkeypatch.setattr(calibration, "DRAWS", 512)
    case = calibration.problems(0)[0]
    by_name = {(line.title, line.settings): line for line in LINES}
    ratios = [calibration.compare(calibration.draws(case, by_name[name], 0), case.posterior)["std ratio"] for name in (
        ("PiGDM", "p true, eta 1"), ("DAPS", "p true, mean, exact draws"), ("half-quadratic splitting", "8 steps"))]
    np.testing.assert_allclose(ratios[:2], 1, atol=0.1)
    assert ratios[2] < 0.1


@pytest.mark.parametrize("gluing", [0.0, 0.5])
def test_latents_that_are_turned_pictures_change_nothing(monkeypatch, gluing):
    """Without noise of its own, and without its second term, PSLD is DPS in other axes."""
    monkeypatch.setattr(calibration, "DRAWS", 3)
    case, levels = calibration.problems(0)[0], posterior_samplers.levels(20)
    keys, start = rng.image_keys(0, np.arange(3)), np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    psld = posterior_samplers.in_latents(case, lambda denoiser: restoration.psld(
        denoiser, levels, case.operator, case.y, posterior_samplers.HAAR, scale=0.3, gluing=gluing, eta=0.0))
    dps = restoration.dps(case.denoiser, levels, case.operator, case.y, 0.3,
                          sampler=lambda denoiser, schedule: samplers.ddim(denoiser, schedule, 0.0))
    one, other = (jax.jit(lambda kernel=kernel: samplers.sample(kernel, keys, start)[0])() for kernel in (psld, dps))
    difference = float(jnp.abs(one - other).max())
    assert difference < 1e-4 if gluing == 0 else difference > 1e-2


def test_the_command_writes_its_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(calibration, "DRAWS", 8)
    monkeypatch.setattr(calibration, "LINES", LINES[-1:])
    assert tables.main(["--method", "calibration", "--seed", "3", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "calibration.md").read_text()
    assert text in "# Results of calibration\n\n" + capsys.readouterr().out and text.count("\n## ") == 4
    assert "half-quadratic splitting" in text and "python -m eval.tables --method calibration --seed 3`" in text
    assert len((tmp_path / "calibration.csv").read_text().splitlines()) == 5
    assert tables.main(["--method", "calibration", "--data", "x", "-o", str(tmp_path)]) == 2
    assert "--data is for" in capsys.readouterr().err


def test_bold_is_what_is_near():
    row = {"problem": "p", "sampler": "s", "settings": "", "evaluations": 1, "least": 1, "largest": 1, "first mode": 1,
           "exact": 1.0}
    text = calibration.to_markdown([{**row, "std ratio": ratio, "mean error": error}
                                    for ratio, error in ((1.05, 0.05), (1.2, 0.05), (0.95, 0.3))], "c")
    assert "| **0.05** | **1.05** |" in text and "| **0.05** | 1.20 |" in text and "| 0.30 | **0.95** |" in text
