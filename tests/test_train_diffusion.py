"""Training a diffusion prior: the same on one device and on eight, exact resume, weights that can be loaded again."""
import csv
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import checkpoints, data, denoisers, methods, models, operators, schedules, sharding, weights
from tests.paths import ROOT
from train import common, diffusion
from train.diffusion import DiffusionConfig

CONFIGS = [path for path in sorted((ROOT / "train" / "configs").glob("diffusion_*.py")) if "latent" not in path.stem]
MODEL = dict(channels=8, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(), image_size=16, num_groups=4,
             patch_size=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small smooth pictures with train/ and val/."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        (folder / split).mkdir()
        for i in range(count):
            smooth = np.cumsum(rng.normal(size=(32, 40, 3)), axis=1)
            Image.fromarray(np.uint8(np.clip(128 + 12 * smooth, 0, 255))).save(folder / split / f"{i}.png")
    return folder


def tiny(pictures, workdir, **changes):
    config = DiffusionConfig(
        model=models.DDPMUNet(**MODEL), schedule=schedules.to_json("cosine", num_timesteps=20), prediction="v",
        data=str(pictures), workdir=str(workdir), num_steps=20, batch_size=8, crop=16, resize=16, learning_rate=3e-3,
        warmup_steps=2, ema=0.9, checkpoint_every=4, log_every=1, eval_every=20, eval_steps=4, eval_samples=3,
        data_threads=1, cache=True)
    return dataclasses.replace(config, **changes)


def logged(workdir, column="loss"):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    """20 steps on all eight virtual devices."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, jax.device_get(diffusion.train(tiny(pictures, workdir)))


def assert_same_state(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow  # the loop is that of train.indi, whose tests do the same
def test_one_device_and_eight_give_the_same_losses(pictures, uninterrupted, tmp_path):
    assert jax.device_count() == 8
    config = tiny(pictures, tmp_path, eval_every=0)
    diffusion.train(config, mesh=sharding.data_mesh(jax.devices()[:1]))
    one, eight = logged(tmp_path), logged(uninterrupted[0])
    assert list(one) == list(range(1, 21)) == list(eight)
    np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=0, atol=1e-5)


def test_training_learns(uninterrupted):
    losses = list(logged(uninterrupted[0]).values())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_evaluation_writes_samples_and_losses(uninterrupted):
    workdir = uninterrupted[0]
    with Image.open(workdir / "pictures" / "0000020.png") as picture:
        assert picture.size == (36, 36) and np.asarray(picture).std() > 10  # 2 x 2 cells of 16, one of them empty
    at_levels = [logged(workdir, f"eval_loss_{level}")[20] for level in diffusion.LEVELS]
    assert np.isfinite(at_levels).all()
    np.testing.assert_allclose(logged(workdir, "eval_loss")[20], np.mean(at_levels), rtol=1e-5)


@pytest.mark.slow
def test_resume_is_exact(pictures, uninterrupted, tmp_path, monkeypatch):
    """Stopped in step 11 (last checkpoint: 8) and started again: the same parameters, optimiser and average."""
    put_batch, calls = sharding.put_batch, []

    def stop_in_step_11(batch, mesh):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", stop_in_step_11)
    config = tiny(pictures, tmp_path, eval_every=0)
    with pytest.raises(KeyboardInterrupt):
        diffusion.train(config)
    assert checkpoints.latest_step(tmp_path) == 8
    monkeypatch.setattr(sharding, "put_batch", put_batch)
    assert_same_state(diffusion.train(config), uninterrupted[1])
    assert logged(tmp_path) == logged(uninterrupted[0])


def test_a_run_becomes_weights_that_load(pictures, uninterrupted, tmp_path):
    workdir, state = uninterrupted
    file = tmp_path / "tiny.safetensors"
    weights.export(workdir, file)
    module, params, info = weights.load(file)
    assert module == models.DDPMUNet(**MODEL)
    assert info["prediction"] == "v" and info["learned_variance"] is False and info["num_steps"] == 20
    assert info["image_size"] == 16 and info["name"] == "tiny" and str(pictures) not in json.dumps(info)
    np.testing.assert_array_equal(schedules.from_json(info["schedule"]).alpha_bar, schedules.cosine(20).alpha_bar)
    for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(new, np.asarray(old).astype(np.float16).astype(np.float32))
    assert info["kind"] == "prior"
    with pytest.raises(weights.WeightsError, match="a diffusion prior of pictures .for --method bird"):
        methods.load("indi", weights=file)

    config = tiny(pictures, tmp_path / "fine", start_from=str(file))
    with pytest.raises(ValueError, match="trained with prediction v, the config says eps"):
        diffusion.train(dataclasses.replace(config, prediction="eps"))
    with pytest.raises(ValueError, match="but the config trains"):
        diffusion.train(dataclasses.replace(config, model=models.DDPMUNet(**{**MODEL, "channels": 16})))


@pytest.mark.parametrize("prediction, schedule", [("flow", "flow"), ("edm", "karras")])
def test_flows_and_edm_are_trained_and_travel(prediction, schedule, pictures, tmp_path):
    config = tiny(pictures, tmp_path / "run", prediction=prediction, num_steps=2, eval_every=2, sigma_data=0.4,
                  schedule=schedules.to_json(schedule, num_timesteps=20))
    diffusion.train(config)
    weights.export(config.workdir, tmp_path / "tiny.safetensors")
    module, params, info = weights.load(tmp_path / "tiny.safetensors")
    assert info["prediction"] == prediction and info.get("sigma_data") == (0.4 if prediction == "edm" else None)
    network = functools.partial(module.apply, params)
    prior, x = denoisers.of(network, info), jnp.ones((2, 16, 16, 3))
    options = {"sigma_data": 0.4} if prediction == "edm" else {}
    wanted = denoisers.BY_PREDICTION[prediction](network, prior.schedule, **options)(x, prior.schedule.timesteps[3:5])
    np.testing.assert_array_equal(prior.denoiser(x, prior.schedule.timesteps[3:5]).x0, wanted.x0)
    with pytest.raises(ValueError, match="goes with eps, x0 or v"):
        dataclasses.replace(config, weighting="min_snr")
    ends = schedules.to_json("linear", num_timesteps=20, beta_end=1.0)  # nothing of the picture at the noisiest level
    assert dataclasses.replace(config, prediction="v", schedule=ends).schedule == ends
    with pytest.raises(ValueError, match="prediction eps needs some of it"):
        dataclasses.replace(config, prediction="eps", schedule=ends)


def conditional(pictures, workdir):
    return tiny(pictures, workdir, prediction="flow", num_steps=3, eval_every=3, condition="y", resize=0,
                model=models.RestorationUNet(width=8, multipliers=(1,), num_res_blocks=1, condition_on_y=True),
                degradation=operators.random_gaussian_noise((10.0, 50.0)), margin=2, learning_rate=0.1,
                schedule=schedules.to_json("flow", num_timesteps=20, time_scale=1.0))


def test_a_diffusion_given_y_is_trained_and_travels(pictures, tmp_path):
    config = conditional(pictures, tmp_path / "run")
    diffusion.train(config)
    with Image.open(tmp_path / "run" / "pictures" / "0000003.png") as picture:
        assert picture.size == (3 * 16 + 2 * 4, 3 * 16 + 2 * 4)  # measurement, sample, truth of three
    weights.export(config.workdir, tmp_path / "tiny.safetensors")
    module, params, info = weights.load(tmp_path / "tiny.safetensors")
    assert info["condition"] == "y" and module == config.model


def test_a_diffusion_given_y_sees_the_measurement_and_is_no_prior(pictures, tmp_path):
    config = conditional(pictures, tmp_path)
    info = json.loads(json.dumps(diffusion.config_to_json(config)))
    shapes = jax.eval_shape(lambda: config.model.init(jax.random.key(0), *diffusion.inputs(config)))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.1 * random.standard_normal(leaf.shape)).astype(np.float32), shapes)
    y, network = jnp.zeros((2, 16, 16, 3)).at[1].set(0.5), functools.partial(config.model.apply, params)
    prior = denoisers.of(network, info, y=y)
    x_t, t = jnp.ones((2, 16, 16, 3)), prior.schedule.timesteps[jnp.array([3, 3])]
    found = jax.jit(prior.denoiser)(x_t, t).x0
    given = denoisers.from_flow(lambda x, t: network(x, t, y), prior.schedule)
    np.testing.assert_allclose(found, jax.jit(given)(x_t, t).x0, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(ValueError, match="a diffusion of pictures given a measurement, no prior for known operators"):
        denoisers.of(network, info)
    with pytest.raises(ValueError, match="a prior of pictures alone: leave y out"):
        denoisers.of(network, {**info, "condition": "none"}, y=y)
    with pytest.raises(ValueError, match="condition none needs a network made with condition_on_y=False"):
        dataclasses.replace(config, condition="none", degradation=None)
    with pytest.raises(ValueError, match="say --condition y"):
        tiny(pictures, tmp_path, degradation=config.degradation)


def test_a_run_is_not_continued_as_another(pictures, uninterrupted):
    with pytest.raises(ValueError, match="holds a run with prediction v, not the config's x0: give another --workdir"):
        diffusion.train(tiny(pictures, uninterrupted[0], prediction="x0"))
    with pytest.raises(ValueError, match="holds a run of DDPMUNet"):
        diffusion.train(tiny(pictures, uninterrupted[0], model=models.DDPMUNet(**{**MODEL, "num_groups": 8})))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_names_the_step(pictures, tmp_path):
    config = tiny(pictures, tmp_path, learning_rate=1e30, clip_norm=1e30, warmup_steps=1, eval_every=0)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+.*Lower --learning-rate"):
        diffusion.train(config)


def test_pairs_and_batches_that_cannot_be_shared_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="holds pairs"):
        diffusion.train(tiny(pictures, tmp_path, data=f"pairs:{pictures}/train,{pictures}/train"))
    with pytest.raises(ValueError, match="12 cannot be split evenly"):
        diffusion.train(tiny(pictures, tmp_path, batch_size=12))


@pytest.mark.parametrize("changes, message", [
    (dict(schedule={"name": "quadratic"}), "unknown schedule 'quadratic'; known: linear"),
    (dict(schedule={"name": "cosine"}), "num_timesteps"),
    (dict(schedule={"name": "linear", "num_timesteps": 0}), "at least 1"),
    (dict(resize=8), "resize 8 is below crop 16"),
    (dict(learned_variance=True), "goes with prediction eps, not v"),
    (dict(eval_steps=21), "eval_steps must be 1 to 20"),
    (dict(num_steps=0), "num_steps must be above 0"),
    (dict(ema=1.0), "ema must be in"),
])
def test_bad_configs(changes, message, pictures, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny(pictures, tmp_path, **changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_documented_and_whole(path):
    module = common.load_file(str(path))
    config = module.get_config()
    for word in ("Data:", "Command:", "Hardware:", "Expect:", path.stem):
        assert word in module.__doc__, f"{path.name}: its docstring does not say {word}"
    assert json.loads(json.dumps(diffusion.config_to_json(config)))["prediction"] == config.prediction
    images, t, *y = jax.eval_shape(lambda: diffusion.inputs(config))
    params = jax.eval_shape(config.model.init, jax.random.key(0), images, t, *y)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    loss = jax.eval_shape(lambda *a: diffusion.denoising_loss(config, *a), params, images, keys, None, *y)
    assert loss.shape == (1,) and loss.dtype == jnp.float32


def test_resized_pictures_are_area_averages():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    source = data.resized([{"image": pixels, "id": 3}], 4, cache=True)
    means = pixels.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert source[0]["id"] == 3 and len(source) == 1
    assert source[0]["image"] is source[0]["image"]
    np.testing.assert_allclose(source[0]["image"], means, atol=1.01)  # Pillow rounds after each direction
    assert data.resized([{"image": pixels, "id": 3}], 16)[0]["image"].shape == (16, 24, 3)
    with pytest.raises(ValueError, match="pairs are not resized"):
        data.resized([{"image": pixels, "measurement": pixels, "id": 3}], 4)[0]
