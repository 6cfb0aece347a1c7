"""Training InDI: the same on one device and on eight, exact resume, honest stops."""
import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import checkpoints, denoisers, images, models, operators, rng, samplers, sharding, weights
from tests import networks, tiny_training
from tests.paths import ROOT
from train import common, indi, loop
from train.indi import IndiConfig

CONFIGS = sorted((ROOT / "train" / "configs").glob("indi_*.py"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small pictures with train/ and val/."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        (folder / split).mkdir()
        for i in range(count):
            smooth = np.cumsum(rng.normal(size=(40, 48, 3)), axis=1)
            pixels = np.uint8(np.clip(128 + 12 * smooth, 0, 255))
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
    return folder


def tiny(pictures, workdir, **changes):
    config = IndiConfig(
        model=models.RestorationUNet(width=8, multipliers=(1, 2), num_res_blocks=1, norm="layer"),
        degradation=operators.random_gaussian_noise((10.0, 50.0)), tasks=("denoise",), data=str(pictures),
        workdir=str(workdir), num_steps=20, batch_size=8, crop=16, margin=2, learning_rate=1e-3, warmup_steps=2,
        ema=0.9, checkpoint_every=4, log_every=1, eval_every=0, data_threads=1)
    return dataclasses.replace(config, **changes)


def logged(workdir, column="loss"):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    """20 steps on all eight virtual devices."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    state = indi.train(tiny(pictures, workdir))
    return workdir, jax.device_get(state)


def assert_same_state(a, b, tolerance=0.0):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


def test_one_device_and_eight_give_the_same_losses(pictures, uninterrupted, tmp_path):
    assert jax.device_count() == 8
    indi.train(tiny(pictures, tmp_path), mesh=sharding.data_mesh(jax.devices()[:1]))
    one, eight = logged(tmp_path), logged(uninterrupted[0])
    assert list(one) == list(range(1, 21)) == list(eight)
    np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=0, atol=1e-5)


def test_training_learns(uninterrupted):
    losses = list(logged(uninterrupted[0]).values())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_resume_is_exact(pictures, uninterrupted, tmp_path, monkeypatch):
    """Stopped in step 11 (last checkpoint: 8) and started again: the same parameters, optimiser and average."""
    put_batch, calls = sharding.put_batch, []

    def stop_in_step_11(batch, mesh):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", stop_in_step_11)
    with pytest.raises(KeyboardInterrupt):
        indi.train(tiny(pictures, tmp_path))
    assert checkpoints.latest_step(tmp_path) == 8
    assert max(logged(tmp_path)) == 10
    monkeypatch.setattr(sharding, "put_batch", put_batch)
    state = indi.train(tiny(pictures, tmp_path))
    assert_same_state(state, uninterrupted[1])
    assert logged(tmp_path) == logged(uninterrupted[0])
    assert indi.train(tiny(pictures, tmp_path)).step == 20  # nothing left to do


def test_restored_parameters_are_the_average_and_match_the_config(uninterrupted):
    workdir, state = uninterrupted
    assert_same_state(checkpoints.restore_params(workdir), state.ema)
    assert_same_state(checkpoints.restore_params(workdir, ema=False), state.params)
    config = checkpoints.read_config(workdir)
    assert config["architecture"] == "RestorationUNet" and config["arguments"]["width"] == 8
    assert config["noise"] == {"name": "constant", "eps": 0.01} and config["loss"] == "l1"
    assert config["config"]["num_steps"] == 20
    module = getattr(models, config["architecture"])(**config["arguments"])
    x = np.zeros((1, 16, 16, 3), np.float32)
    assert module.apply(checkpoints.restore_params(workdir), x, np.ones(1, np.float32)).shape == x.shape


@pytest.mark.slow  # half a minute of compilation
def test_evaluation_writes_pictures_and_scores(pictures, tmp_path):
    indi.train(tiny(pictures, tmp_path, num_steps=2, eval_every=2, eval_steps=3))
    with Image.open(tmp_path / "pictures" / "0000002.png") as picture:
        assert picture.width > 3 * 96 and np.asarray(picture).std() > 10
    assert np.isfinite(logged(tmp_path, "eval_psnr")[2])


@pytest.mark.slow  # half a minute of compilation
def test_a_loss_that_is_not_finite_stops_and_names_the_step(pictures, tmp_path):
    config = tiny(pictures, tmp_path, learning_rate=1e30, clip_norm=1e30, warmup_steps=1, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+.*Lower --learning-rate"):
        indi.train(config)
    newest = checkpoints.latest_step(tmp_path)
    assert newest is None or all(np.isfinite(leaf).all() for leaf in
                                 jax.tree.leaves(checkpoints.restore_params(tmp_path)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_picture_is_named_before_the_first_step(split, tmp_path, capsys, monkeypatch):
    folder = tiny_training.write_pictures(tmp_path / "pictures")
    for name in ("0.png", "1.png"):
        path = folder / split / name
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    monkeypatch.setattr(loop, "jit_step", lambda *args: lambda *more: pytest.fail("a step was made"))
    command = ["--config", str(ROOT / "tests" / "tiny_training.py"), "--data", str(folder),
               "--workdir", str(tmp_path / "run"), "--eval-every", "10"]
    assert indi.main(command) == 2
    assert f"{split}/0.png: a truncated or damaged PNG" in capsys.readouterr().err.splitlines()[-1]
    images.write(folder / split / "0.png", np.zeros((20, 24, 3), np.uint8))
    assert indi.main(command) == 2
    assert f"{split}/1.png: a truncated or damaged PNG" in capsys.readouterr().err.splitlines()[-1]


def test_pairs_and_degradations_do_not_mix(pictures, tmp_path):
    with pytest.raises(ValueError, match="holds no pairs"):
        indi.train(tiny(pictures, tmp_path, degradation=None))
    with pytest.raises(ValueError, match="degrades pictures itself"):
        indi.train(tiny(pictures, tmp_path, data=f"pairs:{pictures}/train,{pictures}/train"))


def test_training_on_pairs(pictures, tmp_path):
    state = indi.train(tiny(pictures, tmp_path, data=f"pairs:{pictures},{pictures}", degradation=None, num_steps=2))
    assert int(state.step) == 2 and logged(tmp_path)[2] < 0.01  # a picture paired with itself: only the noise is left


def test_a_run_is_not_continued_with_another_network(pictures, uninterrupted):
    other = models.RestorationUNet(width=16, multipliers=(1, 2), num_res_blocks=1)
    with pytest.raises(ValueError, match="give another --workdir"):
        indi.train(tiny(pictures, uninterrupted[0], model=other))


@pytest.mark.parametrize("changes, name", [(dict(eps=0.5), "noise"), (dict(loss="l2"), "loss"), (dict(a=0.3), "a")])
def test_a_run_is_not_continued_as_another_one(pictures, uninterrupted, changes, name):
    workdir = uninterrupted[0]
    before = checkpoints.read_config(workdir)
    with pytest.raises(ValueError, match=f"holds a run with {name} .*give another --workdir"):
        indi.train(tiny(pictures, workdir, num_steps=21, **changes))
    assert checkpoints.read_config(workdir) == before


def test_numbers_that_change_when_a_run_goes_on_are_said(pictures, uninterrupted, capsys):
    config = tiny(pictures, uninterrupted[0], num_steps=30, learning_rate=2e-3, seed=5)
    loop._check_same_run(config.workdir, indi.config_to_json(config), indi.KEPT)
    said = capsys.readouterr().err
    assert "goes on with num_steps 20 -> 30, learning_rate 0.001 -> 0.002, seed 0 -> 5" in said
    loop._check_same_run(config.workdir, indi.config_to_json(tiny(pictures, config.workdir)), indi.KEPT)
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_starts_from_weights(pictures, uninterrupted, tmp_path):
    file = tmp_path / "tiny.safetensors"
    weights.export(uninterrupted[0], file)
    config = tiny(pictures, tmp_path / "run", start_from=str(file), num_steps=1, learning_rate=1e-9)
    state = indi.train(config)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(uninterrupted[1].ema), strict=True):
        np.testing.assert_allclose(new, old, atol=2e-3)  # the file holds 16-bit numbers
    with pytest.raises(ValueError, match="was trained with"):
        indi.train(dataclasses.replace(config, eps=0.5, workdir=str(tmp_path / "other")))
    other = models.RestorationUNet(width=16, multipliers=(1, 2), num_res_blocks=1)
    with pytest.raises(ValueError, match="but the config trains"):
        indi.train(dataclasses.replace(config, model=other, workdir=str(tmp_path / "third")))


def test_a_denoiser_becomes_a_restorer(pictures, tmp_path):
    """Weights of another kind have no noise mode that could differ, and what was trained is a restorer again."""
    denoiser = networks.write_denoiser(tmp_path / "denoiser.safetensors")
    config = tiny(pictures, tmp_path / "run", start_from=str(denoiser), model=networks.denoiser(), num_steps=1,
                  learning_rate=1e-9, grey=0.5)
    state = indi.train(config)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(weights.load(denoiser)[1]), strict=True):
        np.testing.assert_allclose(new, old, atol=2e-3)
    weights.export(tmp_path / "run", tmp_path / "mine.safetensors")
    assert weights.load(tmp_path / "mine.safetensors", kind="restorer")[2]["kind"] == "restorer"


def test_some_pairs_lose_their_colour():
    config = tiny("none", "none", grey=0.5, degradation=operators.random_gaussian_noise((1.0, 1.0)))
    batch = {"image": np.random.default_rng(0).integers(0, 256, (32, 20, 20, 3), dtype=np.uint8)}
    x, y = indi.make_pairs(config, batch, rng.image_keys(0, range(32)))
    grey = np.asarray(jnp.all(x == x[..., :1], axis=(1, 2, 3)))
    assert 8 <= grey.sum() <= 24 and np.abs(np.asarray(y - x)).max() < 0.1


def test_a_batch_that_devices_cannot_share_is_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="12 cannot be split evenly over 8 devices: use 8 or 16"):
        indi.train(tiny(pictures, tmp_path, batch_size=12))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_documented_and_whole(path):
    module = common.load_file(str(path))
    config = module.get_config()
    for word in ("Data:", "Command:", "Hardware:", "Expect:", path.stem):
        assert word in module.__doc__, f"{path.name}: its docstring does not say {word}"
    assert json.loads(json.dumps(indi.config_to_json(config)))["architecture"] == "RestorationUNet"
    images = jax.ShapeDtypeStruct((config.batch_size, config.crop, config.crop, 3), np.float32)
    t = jax.ShapeDtypeStruct((config.batch_size,), np.float32)
    inputs = (images, t, images) if config.model.condition_on_y else (images, t)
    params = jax.eval_shape(config.model.init, jax.random.key(0), *inputs)
    assert jax.eval_shape(config.model.apply, params, *inputs).shape == images.shape


@pytest.mark.parametrize("arguments, message", [
    (["--config", "nothing.py"], "there are: "),
    (["--config", str(CONFIGS[0]), "--workdir", "run"], "--data"),
    (["--config", str(CONFIGS[0]), "--data", "no_such_folder", "--workdir", "run"], "no_such_folder"),
])
def test_bad_command_lines_end_with_one_line(arguments, message, capsys):
    try:
        code = indi.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


# ---------------------------------------------------------------------------------------------------- kill -9

_SCRIPT = """
import sys
from tests.test_train_indi import tiny
from train import indi
indi.train(tiny(sys.argv[1], sys.argv[2], checkpoint_every=1, num_steps=40))
"""


def _start(pictures, workdir):
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, str(pictures), str(workdir)], cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)


def _kill_when(process, condition, patience=300):
    end = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < end:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    assert process.poll() == 0, "the run neither finished nor met the condition"
    return False


@pytest.mark.slow
def test_killed_between_and_during_checkpoints(pictures, tmp_path):
    """kill -9 at a finished checkpoint and in mid-save, several times: the end is that of an undisturbed run."""
    reference = jax.device_get(indi.train(tiny(pictures, tmp_path / "calm", checkpoint_every=1, num_steps=40)))
    workdir = tmp_path / "killed"
    folder = workdir / "checkpoints"

    def whole(least):
        return lambda: (checkpoints.latest_step(workdir) or 0) >= least

    def saving(least):
        return lambda: whole(least)() and any("tmp" in entry.name for entry in folder.iterdir())

    kills = [_kill_when(_start(pictures, workdir), condition)
             for condition in (whole(3), saving(8), saving(14), whole(20), saving(26))]
    assert sum(kills) >= 3
    assert _start(pictures, workdir).wait() == 0
    for ema in (True, False):
        assert_same_state(checkpoints.restore_params(workdir, ema=ema), reference.ema if ema else reference.params)


@pytest.mark.parametrize("noise", ["bridge", "reverting"])
def test_the_neighbours_of_indi_are_trained_and_sampled(noise, pictures, tmp_path):
    """I2SB and IR-SDE: the noise of their paths travels with the weights, and their samplers take no other."""
    indi.train(tiny(pictures, tmp_path, noise=noise, eps=0.1, num_steps=2, warmup_steps=1, checkpoint_every=2))
    info, params = checkpoints.read_config(tmp_path), checkpoints.restore_params(tmp_path)
    module = tiny(pictures, tmp_path).model
    assert info["noise"] == {"name": noise, "eps": 0.1}
    restorer = denoisers.of(lambda x, t: module.apply(params, x, t), info)
    make = {"bridge": lambda f: samplers.i2sb(f, 3, eps=0.1), "reverting": lambda f: samplers.ir_sde(f, 3, spread=0.1)}
    y, keys = jnp.full((2, 16, 16, 3), 0.3), rng.image_keys(0, [0, 1])
    x = jax.jit(lambda y: samplers.sample(make[noise](restorer), keys, y)[0])(y)
    assert x.shape == y.shape and bool(jnp.isfinite(x).all())
    with pytest.raises(ValueError, match="the restorer was trained with"):
        next(make[other] for other in make if other != noise)(restorer)
