"""Training a denoiser that is told the noise level: its noise, its loss, its weights."""
import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import methods, rng, schedules, sharding, weights
from tests import networks
from tests.paths import ROOT
from tests.tiny_training import numbers, write_pictures
from train import common, denoiser
from train.denoiser import DenoiserConfig


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def tiny(pictures, workdir, **changes):
    config = DenoiserConfig(
        model=networks.denoiser(num_res_blocks=1), noises=(("white", 0.6), ("equal", 0.2), ("signal", 0.2)), grey=0.3,
        rounded=0.3, data=str(pictures), workdir=str(workdir), num_steps=200, batch_size=8, crop=16, learning_rate=1e-2,
        warmup_steps=2, ema=0.9, checkpoint_every=100, log_every=1, eval_every=200, data_threads=1, cache=True)
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """200 steps on one device."""
    workdir = tmp_path_factory.mktemp("run")
    mesh = sharding.data_mesh(jax.devices()[:1])
    return workdir, jax.device_get(denoiser.train(tiny(pictures, workdir), mesh=mesh))


def logged(workdir, column="loss"):
    with (workdir / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


def test_training_learns_and_is_evaluated_at_known_levels(finished):
    workdir, _ = finished
    losses = list(logged(workdir).values())
    assert len(losses) == 200 and np.mean(losses[-40:]) < 0.9 * np.mean(losses[:20])
    scores = {name: logged(workdir, name)[200] for name in denoiser.COLUMNS}
    assert scores["eval_psnr"] == pytest.approx(np.mean([scores[f"eval_psnr_{level}"] for level in (5, 15, 25, 50)]),
                                                abs=1e-3)
    assert scores["eval_psnr_50"] > 20 * np.log10(255 / 50) + 0.8  # better than the noisy picture
    with Image.open(workdir / "pictures" / "0000200.png") as picture:
        assert np.asarray(picture).std() > 10


def test_a_run_becomes_a_prior_that_restores(pictures, finished, tmp_path):
    workdir, state = finished
    weights.export(workdir, tmp_path / "mine.safetensors")
    module, params, info = weights.load(tmp_path / "mine.safetensors", kind="prior")
    assert module == networks.denoiser() and info["prediction"] == "sigma" and info["num_steps"] == 200
    assert str(pictures) not in json.dumps(info) and info["kind"] == "prior"
    levels = schedules.from_json(info["schedule"])
    sigma = np.sqrt(1 / np.asarray(levels.alpha_bar[jnp.array([0, -1])], np.float64) - 1)
    np.testing.assert_allclose(sigma, [0.004, 10.0], rtol=2e-2)
    for new, old in zip(numbers(params), numbers(state.ema), strict=True):
        np.testing.assert_array_equal(new, old.astype(np.float16).astype(np.float32))
    method = methods.load("once", task="denoise", weights=tmp_path / "mine.safetensors")
    assert method.takes_any_size and method.info["sha256"] == info["sha256"]


def test_what_the_network_is_told_is_what_was_added(pictures):
    config = tiny(pictures, "run", rounded=0.0, grey=0.5, noises=(("white", 0.5), ("signal", 0.5)))
    keys, sigma = rng.image_keys(0, np.arange(64)), jnp.full(64, 0.2)
    clean = jax.random.uniform(jax.random.key(0), (64, 32, 32, 3), minval=-1.0)
    x, noisy, level = jax.jit(lambda x, keys: denoiser.make_noisy(config, x, keys, sigma))(clean, keys)
    np.testing.assert_allclose(float(jnp.std((noisy - x) / level)), 1.0, atol=0.02)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(level**2, axis=(1, 2, 3))), 0.2, rtol=1e-4)
    grey = np.asarray((x == x[..., :1]).all((1, 2, 3)))
    assert 0.3 < grey.mean() < 0.7
    noisy = np.asarray(noisy)[grey]
    np.testing.assert_allclose(noisy, np.broadcast_to(noisy[..., :1], noisy.shape), atol=1e-6)


def test_some_noisy_pictures_are_as_files_have_them(pictures):
    config = tiny(pictures, "run", rounded=1.0, grey=0.0, noises=(("white", 1.0),))
    keys, x = rng.image_keys(0, np.arange(4)), jnp.full((4, 16, 16, 3), 0.9)
    for sigma, is_file in ((0.3, True), (0.7, False)):  # not above sigma_middle
        noisy = np.asarray(denoiser.make_noisy(config, x, keys, jnp.full(4, sigma))[1])
        values = (noisy + 1) * 127.5
        assert (np.abs(values - np.round(values)).max() < 1e-3 and np.abs(noisy).max() <= 1) == is_file


def test_what_is_unseen_is_filled_and_the_network_is_told_so(pictures):
    config = tiny(pictures, "run", rounded=0.0, grey=0.0, holes=0.5, noises=(("white", 1.0),))
    keys, x = rng.image_keys(0, np.arange(64)), jnp.full((64, 32, 32, 3), 0.9)
    _, noisy, level = denoiser.make_noisy(config, x, keys, jnp.full(64, 0.05))
    unseen = np.asarray(level[..., 0] == denoiser.UNSEEN)
    np.testing.assert_allclose(level[~unseen], 0.05, rtol=1e-5)
    assert np.abs(np.asarray(noisy) - 0.9).max() < 0.3  # where it was seen, and where it is filled from there
    assert np.std(np.asarray(noisy)[unseen]) < 0.8 * 0.05
    shares = unseen.mean((1, 2))
    assert 0.3 < (shares > 0).mean() < 0.7 and 0.03 < shares[shares > 0].mean() < 0.4


def test_a_step_is_the_same_on_one_device_and_on_eight(pictures, tmp_path):
    losses = []
    for count in (1, 8):
        config = tiny(pictures, tmp_path / str(count), num_steps=2, checkpoint_every=2, eval_every=0)
        denoiser.train(config, mesh=sharding.data_mesh(jax.devices()[:count]))
        losses.append(list(logged(tmp_path / str(count)).values()))
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("changes", [dict(sigma_min=0.0), dict(sigma_middle=20.0), dict(sigma_max=0.1)])
def test_levels_out_of_order(pictures, changes):
    with pytest.raises(ValueError, match="they must be above 0 and in this order"):
        tiny(pictures, "run", **changes)


def test_a_run_is_not_continued_with_other_levels(pictures, finished):
    with pytest.raises(ValueError, match="holds a run with schedule"):
        denoiser.train(tiny(pictures, finished[0], sigma_max=20.0), mesh=sharding.data_mesh(jax.devices()[:1]))


def test_the_shipped_config_is_documented_and_whole():
    module = common.load_file(str(ROOT / "train" / "configs" / "denoiser_photo.py"))
    config = module.get_config()
    for word in ("Data:", "Command:", "Hardware:", "Expect:", "denoiser_photo"):
        assert word in module.__doc__
    assert isinstance(config, DenoiserConfig) and sum(share for _, share in config.noises) == pytest.approx(1.0)
    assert json.loads(json.dumps(denoiser.config_to_json(config)))["prediction"] == "sigma"
