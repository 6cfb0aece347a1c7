"""Several samples of one picture: what is written of them, what their spread is called, how it is held to the truth."""
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from eval import coverage
from eval.posteriors import Mixture, matrix, smooth_covariance
from indigo_jax import cli, denoisers, images, methods, operators, rng, schedules
from indigo_jax.methods import spread
from indigo_jax.methods.known import Problem
from tests import fake_method, guided_networks

RANDOM = np.random.default_rng(0)


# ---------------------------------------------------------------- mean and spread

def test_the_spread_of_gaussian_samples_is_their_standard_deviation():
    wanted = np.linspace(0.01, 0.1, 40, dtype=np.float32)[None, :, None]
    draws = 0.2 + wanted * RANDOM.standard_normal((400, 30, 40, 3)).astype(np.float32)
    found = spread.spread_of([images.Picture(one, mode="RGBA") for one in draws])
    np.testing.assert_allclose(found.map.mean(axis=0), 127.5 * wanted[0, :, 0], rtol=0.02)
    np.testing.assert_allclose(found.mean.pixels, draws.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.map, 127.5 * np.sqrt(draws.var(axis=0, ddof=1).mean(axis=-1)), rtol=1e-4)
    assert found.rms == pytest.approx(127.5 * np.sqrt(np.mean(wanted**2)), rel=0.01) and found.mean.mode == "RGBA"
    shown = (found.shown.pixels[..., 0] + 1) * 127.5
    np.testing.assert_allclose(shown, np.minimum(spread.LEVEL * found.map, 255), atol=1e-3)


def test_a_spread_needs_two():
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        spread.spread_of([images.Picture(np.zeros((2, 2, 3), np.float32))])


# ---------------------------------------------------------------- the command line

@pytest.fixture
def restore(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(methods.METHODS, "fake", fake_method.Fake)
    pixels = RANDOM.uniform(-0.9, 0.9, (20, 30, 3)).astype(np.float32)
    images.write("in/a.png", pixels)

    def run(*argv):
        capsys.readouterr()
        code = cli.main(["restore", *map(str, argv), "--method", "fake"])
        return (code, *(text.splitlines() for text in capsys.readouterr()))
    return run


def test_samples_are_written_with_their_mean_and_their_spread(restore):
    code, out, _ = restore("in", "-o", "out", "--samples", 3, "--report", "r.json")
    assert code == 0
    assert {file.name for file in pathlib.Path("out").glob("*.png")} == {
        "a-1.png", "a-2.png", "a-3.png", "a-mean.png", "a-spread.png"}
    draws = np.stack([images.read(f"out/a-{i}.png").pixels for i in (1, 2, 3)])
    np.testing.assert_allclose(images.read("out/a-mean.png").pixels, draws.mean(axis=0), atol=1.01 / 127.5)
    map_ = images.read("out/a-spread.png")
    assert map_.grey and map_.pixels.shape == (20, 30, 3)
    # the fake method's samples are one grey value apart: a standard deviation of one, shown as 8
    np.testing.assert_allclose((map_.pixels + 1) * 127.5, spread.LEVEL, atol=1e-3)
    row, = json.loads(pathlib.Path("r.json").read_text())["files"]
    assert row["mean"] == "out/a-mean.png" and row["spread_map"] == "out/a-spread.png"
    assert row["spread"] == "spread of this method" and row["spread_255"] == pytest.approx(1.0, abs=1e-3)


def test_the_line_says_whose_spread_it_is(restore):
    code, out, _ = restore("in/a.png", "-o", "b.png", "--samples", 3)
    assert code == 0 and "spread of this method 1.00 of 255" in out[0]
    assert pathlib.Path("b-mean.png").exists() and pathlib.Path("b-spread.png").exists()
    assert "spread" not in restore("in/a.png", "-o", "c.png")[1][0]


def test_a_lost_map_is_made_again_and_what_is_there_is_not(restore):
    assert restore("in", "-o", "out", "--samples", 2)[0] == 0
    assert restore("in", "-o", "out", "--samples", 2)[1][0].startswith("nothing to do")
    before = pathlib.Path("out/a-spread.png").read_bytes()
    pathlib.Path("out/a-spread.png").unlink()
    assert restore("in", "-o", "out", "--samples", 2)[0] == 0
    assert pathlib.Path("out/a-spread.png").read_bytes() == before


def test_mean_and_spread_overwrite_no_input_and_no_other_result(restore):
    images.write("in/a-mean.png", np.zeros((4, 4, 3), np.float32))
    code, _, err = restore("in/a.png", "in/a-mean.png", "-o", "in", "--samples", 2)
    assert code == 2 and "would overwrite an INPUT" in err[0]
    code, _, err = restore("in/a.png", "-o", "out/a.png", "--samples", 2, "--compare", "out/a-spread.png")
    assert code == 2 and "is where a result goes" in err[0]


# ---------------------------------------------------------------- against a Gaussian posterior

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return guided_networks.write_prior(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def gaussian_posterior(count=384, side=8, sigma=0.1, std=0.3):
    """A smooth Gaussian seen through average pooling: the prior, the problem with ``count`` keys, the posterior."""
    shape = (side, side, 1)
    law = Mixture(np.ones(1), np.zeros((1, side**2)), smooth_covariance(side, std, 0.1), shape)
    operator, random = operators.average_pool(2), np.random.default_rng(1)
    a = matrix(operator, shape)
    y = a @ law.draw(1, random)[0] + sigma * random.standard_normal(len(a))
    schedule = schedules.linear()
    measured = jnp.broadcast_to(jnp.asarray(y.reshape(1, side // 2, side // 2, 1), jnp.float32),
                                (count, side // 2, side // 2, 1))
    given = Problem(operator, measured, rng.image_keys(0, np.arange(count)), jnp.full(count, sigma), shape)
    return denoisers.Prior(law.denoiser(schedule), schedule), given, law.posterior(a, y, sigma)


@pytest.mark.slow
@pytest.mark.parametrize("name, settings, low, high", [
    ("pigdm", {"prior_std": 0.3}, 0.9, 1.0), ("tmpd", {}, 0.9, 1.0), ("daps", {"prior_std": 0.3}, 0.95, 1.05),
    ("pigdm", {"prior_std": 0.3, "sampler": "dpm-solver", "steps": 20}, 0.95, 1.0), ("ddnm", {}, 0.5, 0.8)])
def test_the_spread_of_methods_with_an_exact_denoiser(weights, name, settings, low, high):
    """As the command line has them: within 10 % of the exact one, but for DDNM, which takes the measurement for exact.
    A network is no exact denoiser, so that :data:`spread.NAME` says no more of any."""
    prior, given, exact = gaussian_posterior()
    method = methods.load(name, task="sr", scale=2, weights=weights, **settings)
    x = np.asarray(method.restore(prior, given).x, np.float64).reshape(given.y.shape[0], -1)
    ratio = np.sqrt(np.mean(x.var(axis=0)) / np.mean(np.diag(exact.covariance)))
    assert low < ratio < high


# ---------------------------------------------------------------- coverage

@pytest.mark.parametrize("count", [2, 4, 16])
def test_draws_of_the_posterior_cover_the_truth_as_expected(count):
    draws = 0.1 * RANDOM.standard_normal((count + 1, 100, 100, 3)) * np.linspace(0.5, 2, 100)[:, None]
    found = coverage.coverage(draws[1:], draws[0])
    for share, wanted in zip((found["within-1"], found["within-2"]), coverage.expected(count)):
        assert abs(share - wanted) < 0.01
    assert abs(found["spread-over-rmse"] - 1) < 0.03
    assert found["spread-255"] == pytest.approx(found["spread-over-rmse"] * found["rmse-255"])


def test_a_sampler_that_is_too_sure_covers_less():
    truth = 0.1 * RANDOM.standard_normal((60, 60, 3))
    found = coverage.coverage(0.05 * RANDOM.standard_normal((16, 60, 60, 3)), truth)
    assert found["within-1"] < 0.45 and found["within-2"] < 0.75 and abs(found["spread-over-rmse"] - 0.5) < 0.03
    certain = coverage.coverage(np.zeros((4, 60, 60, 3)), truth)
    assert certain["within-2"] == 0.0 and certain["spread-over-rmse"] == 0.0


def test_coverage_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least two samples"):
        coverage.coverage(np.zeros((1, 2, 2, 3)), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="shape of the truth"):
        coverage.coverage(np.zeros((4, 2, 2, 3)), np.zeros((3, 2, 3)))
