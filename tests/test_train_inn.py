"""Training the invertible network: it learns the degradation, stays invertible, resumes exactly, refuses nonsense."""
import csv
import dataclasses
import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import checkpoints, models, operators, sharding
from train import inn
from train.inn import InnConfig

TINY = models.GuidanceINN(levels=1, lifting_steps=1, width=8, cond_dim=4, num_blocks=1, cond_width=4,
                          encoder_channels=4, encoder_blocks=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small pictures with train/ and val/."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        (folder / split).mkdir()
        for i in range(count):
            noise = 128 + 50 * random.normal(size=(24, 28, 3))
            Image.fromarray(np.uint8(np.clip(noise, 0, 255))).save(folder / split / f"{i}.png")
    return folder


def tiny(pictures, workdir, **changes):
    config = InnConfig(
        model=TINY, degradation=operators.average_pool(2), single=operators.downsample(2, method="nearest"),
        single_share=0.0, data=str(pictures), workdir=str(workdir), num_steps=80, batch_size=8, crop=16, margin=2,
        learning_rate=1e-2, warmup_steps=1, ema=0.5, checkpoint_every=20, log_every=1, eval_every=80, data_threads=1)
    return dataclasses.replace(config, **changes)


def logged(workdir, column="loss"):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, jax.device_get(inn.train(tiny(pictures, workdir)))


def test_training_learns_the_degradation_and_stays_invertible(pictures, finished):
    workdir, state = finished
    losses = list(logged(workdir).values())
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:2])
    scores = {name: logged(workdir, name)[80] for name in inn.COLUMNS}
    assert scores["eval_round_trip"] < 1e-5
    assert scores["eval_coarse_psnr"] > 20 and scores["eval_swapped_psnr"] > 20
    with Image.open(workdir / "pictures" / "0000080.png") as picture:
        assert picture.width == 4 * 16 + 3 * 4 and np.asarray(picture).std() > 10


def test_a_run_says_what_its_weights_are_for(finished):
    workdir, state = finished
    config = checkpoints.read_config(workdir)
    assert config["architecture"] == "GuidanceINN" and config["scale"] == 2 and config["range"] == [0, 1]
    assert config["arguments"].pop("dtype") == "float32"
    assert getattr(models, config["architecture"])(**config["arguments"]) == TINY
    params = checkpoints.restore_params(workdir)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert set(params["params"]) == {"inn", "encoder"} and "null_condition" in params["params"]["inn"]


def test_pairs_have_their_margins_cut_and_their_shares(pictures):
    config = tiny(pictures, "run", single_share=0.5)
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8))
    keys = jax.random.split(jax.random.key(1), 8)
    x, y = jax.jit(functools.partial(inn.make_pairs, config))({"image": pixels}, keys)
    np.testing.assert_allclose(x, np.asarray(pixels)[:, 2:18, 2:18] / 255, atol=1e-6)
    means, corners = x.reshape(8, 8, 2, 8, 2, 3).mean((2, 4)), np.asarray(config.single(x))
    single = np.abs(y - corners).max((1, 2, 3)) < 1e-5
    assert 0 < single.sum() < 8
    np.testing.assert_allclose(y[~single], means[~single], atol=1e-5)


def test_the_null_embedding_learns_where_it_is_used(pictures):
    params = jax.jit(TINY.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 4, 4, 3)))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # away from the identity, where no condition matters
    config, x = tiny(pictures, "run", swapped=0.0, sparse=0.0), jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    gradient = jax.jit(jax.grad(lambda params, null: inn.inn_loss(config, params, x, x[:, ::2, ::2], null).sum()))
    for null in (True, False):
        g = gradient(params, jnp.full(2, null))["params"]
        size = [float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(part)))
                for part in (g["inn"]["null_condition"], g["encoder"])]
        assert (size[0] > 0) == null and (size[1] > 0) == (not null)


def test_what_lies_beside_is_degraded_alike(pictures):
    """Of another picture, by the same draw; and no picture of a batch stands alone."""
    marks = operators.mixture([operators.average_pool(2), operators.downsample(2, method="nearest")], [1.0, 1.0])
    config, keys = tiny(pictures, "run", degradation=marks, contrastive=0.1), jax.random.split(jax.random.key(1), 8)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
    beside = inn.make_beside(config, {"image": jnp.asarray(pixels)}, keys)
    chosen = np.asarray(marks.choice(jax.vmap(lambda key: jax.random.fold_in(key, inn._DEGRADE))(keys)))
    assert 0 < chosen.sum() < 8
    for y, image, which in zip(beside, np.roll(pixels, 1, axis=0), chosen):
        want = marks.operators[which](jnp.asarray(image[None], jnp.float32) / 255)[0, 1:-1, 1:-1]
        np.testing.assert_allclose(y, want, atol=1e-6)
    assert inn.make_beside(tiny(pictures, "run"), {"image": jnp.asarray(pixels)}, keys) is None


def test_contrast_reaches_the_encoder_alone(pictures):
    params = jax.jit(TINY.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 4, 4, 3)))
    x, y = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3)), jax.random.uniform(jax.random.key(2), (4, 4, 4, 3))

    def gradient(contrastive):
        config = tiny(pictures, "run", contrastive=contrastive)
        return jax.grad(lambda params: inn.inn_loss(config, params, x, y, beside=y[::-1] ** 2).sum())(params)["params"]

    with_it, without = gradient(1.0), gradient(0.0)
    for name, equal in (("inn", True), ("encoder", False)):
        pairs = zip(*(jax.tree.leaves(each[name]) for each in (with_it, without)))
        assert all(np.allclose(a, b, atol=1e-6) for a, b in pairs) == equal


@pytest.mark.parametrize("changes, words", [
    ({"margin": 3}, "multiple of the scale 2"), ({"null_share": 1.5}, "null_share"), ({"sparse": -1.0}, "at least 0"),
    ({"contrastive": 0.1, "accumulate": 2}, "accumulate=1")])
def test_configs_that_make_no_sense(pictures, changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(pictures, "run", **changes)


def test_data_and_degradations_that_do_not_fit(pictures, tmp_path):
    with pytest.raises(ValueError, match="factor=2"):
        inn.train(tiny(pictures, tmp_path, degradation=operators.average_pool(4)))
    with pytest.raises(ValueError, match="holds pairs"):
        inn.train(tiny(pictures, tmp_path, data=f"pairs:{pictures},{pictures}"))


def test_the_config_has_the_published_network():
    config = importlib.import_module("train.configs.inn_pixel").get_config()
    shapes = jax.eval_shape(config.model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 16, 16, 3)))
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes["params"].items()}
    assert count["inn"] == 488_960 + 128 and 200_000 < count["encoder"] < 300_000
    assert config.scale == 4 and config.degradation.factor == 4


@pytest.mark.slow
def test_resume_is_exact_and_one_device_equals_eight(pictures, finished, tmp_path, monkeypatch):
    put_batch, calls = sharding.put_batch, []

    def stop_in_step_27(batch, mesh):
        calls.append(1)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", stop_in_step_27)
    with pytest.raises(KeyboardInterrupt):
        inn.train(tiny(pictures, tmp_path / "a"))
    monkeypatch.setattr(sharding, "put_batch", put_batch)
    state = inn.train(tiny(pictures, tmp_path / "a"))
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(finished[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    inn.train(tiny(pictures, tmp_path / "b"), mesh=sharding.data_mesh(jax.devices()[:1]))
    one, eight = (list(logged(workdir).values())[:15] for workdir in (tmp_path / "b", finished[0]))
    np.testing.assert_allclose(one, eight, atol=1e-5)  # later, Adam makes rounding errors grow
