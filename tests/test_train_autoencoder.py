"""Training the autoencoder: its objective against numbers by hand, what a run leaves, exact resume."""
import csv
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import checkpoints, images, models, sharding, weights
from indigo_jax.weights import latents
from tests.paths import ROOT
from tests.tiny_training import numbers, write_pictures
from train import autoencoder, common, loop
from train.autoencoder import AutoencoderConfig

TINY = models.TinyAutoencoder(latent_channels=3, channels=(6, 8), levels=1, num_blocks=1, pool_channels=0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def tiny(pictures, workdir, **changes):
    config = AutoencoderConfig(
        model=TINY, data=str(pictures), workdir=str(workdir), num_steps=60, batch_size=8, crop=16, eval_size=16,
        eval_samples=2, learning_rate=1e-2, warmup_steps=2, ema=0.5, checkpoint_every=60, log_every=1, eval_every=60,
        data_threads=1, cache=True, pull=1.0)
    return dataclasses.replace(config, **changes)


def logged(workdir, column="loss"):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """60 steps on one device."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, jax.device_get(autoencoder.train(tiny(pictures, workdir), mesh=devices(1)))


def devices(count):
    return sharding.data_mesh(jax.devices()[:count])


def test_training_learns_and_its_latents_become_those_of_a_unit_scale(finished):
    workdir, _ = finished
    losses = list(logged(workdir).values())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    scores = {name: logged(workdir, name)[60] for name in autoencoder.COLUMNS}
    assert scores["eval_psnr"] >= scores["eval_noisy_psnr"] > 15
    assert scores["eval_latent_mean"] < 1 and 0.3 < scores["eval_latent_std_min"] <= scores["eval_latent_std_max"] < 2
    with Image.open(workdir / "pictures" / "0000060.png") as picture:
        assert picture.size == (2 * 16 + 4, 3 * 16 + 2 * 4) and np.asarray(picture).std() > 10


def test_evaluation_equals_numbers_by_hand(pictures, finished, monkeypatch):
    """Three pictures in two batches, the second filled up."""
    monkeypatch.setattr(autoencoder, "_ROWS", 2)
    random = np.random.default_rng(0)
    source = [{"image": random.integers(0, 256, (16, 16, 3), np.uint8), "id": i} for i in range(4)]
    config, params = tiny(pictures, "run", eval_samples=3, noise=0.0), finished[1].ema
    evaluate = autoencoder.evaluation(config, source)
    scores, rows = evaluate(params)
    pixels = loop.as_pixels(images.grid(rows))
    x = np.stack([element["image"] for element in source[:3]])
    z = TINY.apply(params, x / np.float32(127.5) - 1, method="encode")
    restored = np.clip(np.round((np.asarray(TINY.apply(params, z, method="decode"), np.float64) + 1) * 127.5), 0, 255)
    psnr = 10 * np.log10(255**2 / ((restored - x) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(scores["eval_psnr"], psnr.mean(), atol=0.01)
    assert scores["eval_noisy_psnr"] == scores["eval_psnr"]
    flat = np.asarray(z).reshape(-1, 3)
    np.testing.assert_allclose([scores[name] for name in autoencoder.COLUMNS[2:]],
                               [np.abs(flat.mean(0)).max(), flat.std(0).min(), flat.std(0).max()], rtol=1e-4)
    np.testing.assert_array_equal(pixels[:16, :16], x[0])
    assert pixels.shape == (3 * 16 + 2 * 4, 3 * 16 + 2 * 4, 3)


def test_a_run_becomes_latents(finished, tmp_path):
    workdir, state = finished
    weights.export(workdir, tmp_path / "ae.safetensors")
    space = latents.load(tmp_path / "ae.safetensors")
    assert (space.factor, space.channels) == (2, 3) and space.info["name"] == "ae" and space.info["num_steps"] == 60
    module, params, _ = weights.load(tmp_path / "ae.safetensors")
    assert module == TINY
    for ours, wanted in zip(numbers(params), numbers(state.ema), strict=True):
        np.testing.assert_array_equal(ours, wanted.astype(np.float16).astype(np.float32))


def test_pull_has_value_and_gradient_of_the_whole_batch():
    z = jnp.asarray(np.random.default_rng(0).normal(0.3, 1.5, (4, 3, 5, 2)), jnp.float32)

    def whole(z):
        m, q = z.mean((0, 1, 2)), (z**2).mean((0, 1, 2))
        return jnp.mean(m**2 + (q - 1) ** 2)

    def shared(z):
        return jnp.mean(autoencoder.pull(z, autoencoder.moments(z)))

    @jax.jit
    def both(z):
        parts = [jnp.mean(autoencoder.pull(half, autoencoder.moments(z))) for half in (z[:2], z[2:])]
        return jax.value_and_grad(shared)(z), jax.value_and_grad(whole)(z), parts

    (value, slope), (wanted, wanted_slope), halves = both(z)
    assert float(wanted) > 0.5
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted_slope, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(np.mean(halves), wanted, rtol=1e-5)


def test_edge_error_of_a_step_edge():
    """A step of height 1 in the middle of 4 columns: one of 3 differences, then, halved, the only one of 1."""
    error = np.broadcast_to(np.float32([0, 0, 1, 1])[:, None], (1, 4, 4, 2))
    np.testing.assert_allclose(autoencoder.edge_error(jnp.asarray(error), scales=1), [1 / 3], rtol=1e-6)
    np.testing.assert_allclose(autoencoder.edge_error(jnp.asarray(error), scales=2), [(1 / 3 + 1) / 2], rtol=1e-6)
    turned = jnp.asarray(error.transpose(0, 2, 1, 3))
    np.testing.assert_allclose(autoencoder.edge_error(turned, scales=2), [(1 / 3 + 1) / 2], rtol=1e-6)


def test_reconstruction_error_is_its_terms(pictures):
    a, b = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
    config = tiny(pictures, "run")
    np.testing.assert_allclose(autoencoder.reconstruction_error(config, a, b), [0.5, 0.5])
    config = tiny(pictures, "run", loss="l2", perceptual=lambda a, b: jnp.float32([1, 2]), perceptual_weight=0.1)
    np.testing.assert_allclose(autoencoder.reconstruction_error(config, a, b), [0.35, 0.45], rtol=1e-6)


@pytest.mark.parametrize("changes, words", [
    ({"crop": 15}, "crop must be a multiple of the 2 pixels per latent, got 15"), ({"eval_size": 0}, "eval_size"),
    ({"gradient_scales": 5}, "cannot be halved"), ({"noise": -1.0}, "at least 0"), ({"eval_samples": 0}, "above 0"),
    ({"model": models.AutoencoderKL()}, "trains a TinyAutoencoder, not a AutoencoderKL")])
def test_bad_configs(pictures, changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(pictures, "run", **changes)


def test_pairs_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="holds pairs"):
        autoencoder.train(tiny(pictures, tmp_path, data=f"pairs:{pictures}/train,{pictures}/train"))


def test_the_config_of_the_shipped_autoencoder():
    module = common.load_file(str(ROOT / "train" / "configs" / "autoencoder_faces.py"))
    for word in ("Data:", "Command:", "Hardware:", "Expect:", "autoencoder_faces"):
        assert word in module.__doc__
    config = module.get_config()
    assert json.loads(json.dumps(autoencoder.config_to_json(config)))["architecture"] == "TinyAutoencoder"
    assert (config.model.factor, config.model.latent_channels, config.model.scaling_factor) == (8, 8, 1.0)
    shapes = jax.eval_shape(config.model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 6 * 2**20


@pytest.mark.slow
def test_resume_is_exact_and_microbatches_are_the_same(pictures, finished, tmp_path, monkeypatch):
    put_batch, calls = sharding.put_batch, []

    def stop_in_step_27(batch, mesh):
        calls.append(1)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", stop_in_step_27)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.train(tiny(pictures, tmp_path / "a", checkpoint_every=20), mesh=devices(1))
    assert checkpoints.latest_step(tmp_path / "a") == 20
    monkeypatch.setattr(sharding, "put_batch", put_batch)
    state = autoencoder.train(tiny(pictures, tmp_path / "a"), mesh=devices(1))
    for ours, theirs in zip(numbers(state), numbers(finished[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    autoencoder.train(tiny(pictures, tmp_path / "b", accumulate=4, eval_every=0), mesh=devices(2))
    parts, whole = (list(logged(workdir).values())[:10] for workdir in (tmp_path / "b", finished[0]))
    np.testing.assert_allclose(parts, whole, atol=1e-4)


@pytest.mark.slow
def test_tiles_of_the_shipped_network_agree_with_the_whole():
    module = common.load_file(str(ROOT / "train" / "configs" / "autoencoder_faces.py")).get_config().model
    x = jax.random.uniform(jax.random.key(0), (1, 192, 64, 3), minval=-1)
    params = module.init(jax.random.key(1), x)
    whole = module.apply(params, x, method="encode")
    part = module.apply(params, x[:, 64:], method="encode")
    reach = 12  # latents: 7 convolutions at 8 pixels each, 6 and 1 at 4, 4 and 1 at 2: 94 pixels
    np.testing.assert_allclose(part[:, reach:], whole[:, 8 + reach:], atol=1e-5)
    assert np.abs(part[:, 0] - whole[:, 8]).max() > 1e-4
