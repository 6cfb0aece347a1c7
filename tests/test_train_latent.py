"""Training in latents: the same losses on encoded pictures, kept latents, weights that say whose latents they know."""
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

from indigo_jax import (checkpoints, data, denoisers, images, losses, models, operators, rng, samplers, schedules,
                        sharding, weights)
from indigo_jax.weights import latents
from tests.paths import ROOT
from tests.tiny_training import numbers, write_pictures
from train import common, diffusion, inn, latent, loop, plan_programs
from train.diffusion import DiffusionConfig
from train.inn import InnConfig

TINY = dict(latent_channels=2, channels=4, levels=1, num_blocks=1, pool_channels=0, scaling_factor=0.5)
UNET = models.LatentUNet((4,), (False,), 0, num_heads=1, context_dim=0, in_channels=2, out_channels=2, num_groups=4)
INN = models.GuidanceINN(channels=2, offset=0.0, levels=1, lifting_steps=1, width=8, cond_dim=4, num_blocks=1,
                         cond_width=4, encoder_channels=4, encoder_blocks=1)


def write_autoencoder(path, seed=0, **arguments):
    """A weights file of an untrained autoencoder, TINY but for the arguments."""
    arguments = {**TINY, **arguments}
    module = models.TinyAutoencoder(**arguments)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.factor, module.factor, 3)))
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: np.float32(random.normal(size=leaf.shape)
                                                  * np.prod(leaf.shape[:-1]) ** -0.5), shapes)
    weights.save(path, params, {"architecture": "TinyAutoencoder", "arguments": arguments, "name": path.stem})
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write_autoencoder(tmp_path_factory.mktemp("weights") / "ours.safetensors")


def prior(pictures, autoencoder, workdir, **changes):
    config = DiffusionConfig(
        model=UNET, autoencoder=autoencoder, schedule=schedules.to_json("cosine", num_timesteps=20), prediction="v",
        data=str(pictures), workdir=str(workdir), num_steps=30, batch_size=8, crop=16, learning_rate=1e-2,
        warmup_steps=2, ema=0.5, checkpoint_every=30, log_every=1, eval_every=30, eval_steps=3, eval_samples=3,
        data_threads=1)
    return dataclasses.replace(config, **changes)


def splitter(pictures, autoencoder, workdir, **changes):
    config = InnConfig(
        model=INN, autoencoder=autoencoder, degradation=operators.average_pool(2), data=str(pictures),
        workdir=str(workdir), num_steps=30, batch_size=8, crop=16, margin=2, learning_rate=1e-2, warmup_steps=1,
        ema=0.5, checkpoint_every=10, log_every=1, eval_every=30, data_threads=1)
    return dataclasses.replace(config, **changes)


def one_device():
    return sharding.data_mesh(jax.devices()[:1])


def logged(workdir, column="loss"):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(scope="module")
def trained(pictures, ours, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prior")
    return workdir, jax.device_get(diffusion.train(prior(pictures, ours, workdir, eval_every=0), mesh=one_device()))


def random_pixels(side, count=8):
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), np.uint8)


# ---------------------------------------------------------------- the prior

def test_the_first_loss_of_a_run_is_that_of_diffusion_on_encoded_pictures(pictures, ours, trained):
    """Before the first step the network says 0, so that no second network is needed."""
    config = prior(pictures, ours, "run")
    batch = next(iter(data.pipeline(diffusion.open_data(config, "train"), batch_size=8, crop=16, seed=0, num_threads=0,
                                    augment="flip")))
    space = latents.load(ours)

    @jax.jit
    def loss(pixels):
        z = space.autoencoder.encode(pixels / 127.5 - 1)
        zero = losses.diffusion(lambda x_t, t: jnp.zeros_like(x_t), z, loop.step_keys(0, jnp.int32(0), 8),
                                schedules.cosine(20), prediction="v")
        return z, jnp.mean(zero)

    z, wanted = loss(batch["image"].astype(np.float32))
    assert z.shape == (8, 8, 8, 2) and float(z.std()) > 0.05
    np.testing.assert_allclose(logged(trained[0])[1], wanted, rtol=1e-5)


def test_a_prior_of_latents_learns(trained):
    losses = list(logged(trained[0]).values())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_evaluation_of_latents(pictures, ours, trained):
    """Its losses are those of held-out pictures' latents, its samples the decoded ones of the sampler."""
    config = prior(pictures, ours, "run")
    source, params = diffusion.open_data(config, "val"), trained[1].ema
    scores, rows = diffusion.evaluation(config, source)(params)
    pixels = loop.as_pixels(images.grid(rows))
    space, batch = latents.load(ours), next(data.evaluation_batches(source, batch_size=2, crop=16))
    z = space.autoencoder.encode(batch["image"].astype(np.float32) / 127.5 - 1)
    wanted = losses.diffusion(functools.partial(UNET.apply, params), z, rng.image_keys(0, batch["id"]),
                              schedules.cosine(20), prediction="v", index=jnp.full(2, 10))
    np.testing.assert_allclose(scores["eval_loss_0.5"], wanted.mean(), rtol=1e-4)
    schedule = schedules.respace(schedules.cosine(20), 3, "trailing")
    keys = rng.image_keys(0, np.arange(3))
    denoiser = denoisers.from_v(functools.partial(UNET.apply, params), schedule)
    x = space.autoencoder.decode(samplers.sample(samplers.ddim(denoiser, schedule), keys,
                                                 rng.normal(keys, jnp.zeros((3, 8, 8, 2))))[0])
    assert pixels.shape == (2 * 16 + 4, 2 * 16 + 4, 3) and pixels.std() > 1
    np.testing.assert_allclose(pixels[:16, :16], loop.as_pixels(x[0]), atol=1)


def test_a_run_says_whose_latents_it_knows(trained, ours, tmp_path):
    workdir, state = trained
    theirs = weights.load(ours)[2]
    assert checkpoints.read_config(workdir)["autoencoder"] == {"name": "ours", "sha256": theirs["sha256"]}
    weights.export(workdir, tmp_path / "prior.safetensors")
    module, params, info = weights.load(tmp_path / "prior.safetensors")
    assert module == UNET and info["image_size"] == 16
    latents.check_same(latents.load(ours), info)
    for new, old in zip(numbers(params), numbers(state.ema), strict=True):
        np.testing.assert_array_equal(new, old.astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match="trained in the latents of ours .* not of theirs"):
        latents.check_same(latents.load(write_autoencoder(tmp_path / "theirs.safetensors", seed=1)), info)


def test_a_run_is_not_continued_in_other_latents(pictures, trained, tmp_path):
    theirs = write_autoencoder(tmp_path / "theirs.safetensors", seed=1)
    with pytest.raises(ValueError, match="holds a run with autoencoder {'name': 'ours'.*not the config's {'name': "
                                         "'theirs'.*give another --workdir") as caught:
        diffusion.train(prior(pictures, theirs, trained[0]), mesh=one_device())
    assert "\n" not in str(caught.value)
    weights.export(trained[0], tmp_path / "prior.safetensors")
    config = prior(pictures, theirs, tmp_path / "run", start_from=str(tmp_path / "prior.safetensors"), eval_every=0)
    with pytest.raises(ValueError, match="was trained with autoencoder {'name': 'ours'"):
        diffusion.train(config, mesh=one_device())


def test_kept_latents_are_those_of_pictures_and_mirror_images(pictures, ours, monkeypatch):
    monkeypatch.setattr(latent, "_ROWS", 4)  # 7 pictures: the last batch is filled up
    config = prior(pictures, ours, "run", cache_latents=True)
    source = diffusion.open_data(config, "train")
    kept = latent.KeptLatents(config, source, crop=16, flip=True)
    assert len(kept) == 14 and len(latent.KeptLatents(config, source, crop=16, flip=False)) == 7
    encode = latents.load(ours).autoencoder.encode
    for i in (0, 5, 13):
        element = source[i % 7]
        x = element["image"][2:18, 4:20][None] / np.float32(127.5) - 1
        z = encode(jnp.asarray(x[:, :, ::-1] if i >= 7 else x))[0]
        assert kept[i]["id"] == element["id"]
        np.testing.assert_allclose(kept[i]["image"], z, atol=1e-5)
    batch = next(iter(data.pipeline(kept, batch_size=8, crop=None, seed=0, augment=False, num_threads=0)))
    assert batch["image"].shape == (8, 8, 8, 2) and batch["image"].dtype == np.float32


def test_what_does_not_fit_is_refused(pictures, ours, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="takes pictures of sides that 2 divides, not 15"):
        diffusion.train(prior(pictures, ours, tmp_path, crop=15))
    with pytest.raises(ValueError, match="takes pictures of sides that 2 divides, not 7"):
        inn.train(splitter(pictures, ours, tmp_path, crop=14))
    with pytest.raises(ValueError, match="cache_latents keeps the latents of an autoencoder"):
        prior(pictures, None, tmp_path, cache_latents=True)
    with pytest.raises(ValueError, match="latents .B, h, w, 2. are needed"):
        wide = write_autoencoder(tmp_path / "wide.safetensors", latent_channels=4)
        diffusion.train(prior(pictures, wide, tmp_path / "run"), mesh=one_device())
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path))
    arguments = ["--config", str(ROOT / "train" / "configs" / "diffusion_latent_faces.py"), "--data", str(pictures),
                 "--workdir", str(tmp_path / "run"), "--autoencoder", "nobodys-weights"]
    assert diffusion.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("train.diffusion: nobodys-weights: no weights of this name") and printed.count("\n") == 1


# ---------------------------------------------------------------- the invertible network

def test_pairs_of_latents_and_their_loss(pictures, ours):
    """An untrained network is its split: every second latent, and the rest."""
    config, pixels = splitter(pictures, ours, "run"), jnp.asarray(random_pixels(20))
    batch = inn.encoder(config, one_device())({"image": pixels}, 5)
    x = np.asarray(pixels, np.float32)[:, 2:18, 2:18] / 255
    y = x.reshape(8, 8, 2, 8, 2, 3).mean((2, 4))
    encode = jax.jit(latents.load(ours).autoencoder.encode)
    z, z_y = (np.asarray(encode(2 * a - 1)) for a in (x, y))
    for name, wanted in (("measurement", y), ("image", z), ("coarse", z_y)):
        np.testing.assert_allclose(batch[name], wanted, atol=1e-5)
    assert z.shape == (8, 8, 8, 2) and z_y.shape == (8, 4, 4, 2)

    optimizer, error = loop.make_optimizer(config), np.abs(z[:, ::2, ::2] - z_y)
    state = jax.jit(functools.partial(loop.init_state, config, optimizer))()
    details = np.abs(np.stack([z[:, i::2, j::2] for i, j in ((0, 1), (1, 0), (1, 1))]))
    wanted = (error**2).mean() + 0.1 * error.mean() + 0.1 * error.mean() / 4 + 0.01 * details.mean()
    loss = jax.jit(lambda params, batch: inn.inn_loss(config, params, batch["image"], batch["measurement"], None,
                                                      batch["coarse"]).mean())
    np.testing.assert_allclose(loss(state.params, batch), wanted, rtol=1e-4)


@pytest.mark.slow
def test_an_invertible_network_of_latents_learns_and_becomes_weights(pictures, ours, tmp_path):
    workdir = tmp_path / "run"
    inn.train(splitter(pictures, ours, workdir), mesh=one_device())
    losses = list(logged(workdir).values())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    scores = {name: logged(workdir, name)[30] for name in inn.COLUMNS}
    assert scores["eval_round_trip"] < 1e-5 and np.isfinite(list(scores.values())).all()
    with Image.open(workdir / "pictures" / "0000030.png") as picture:
        assert picture.size == (4 * 16 + 3 * 4, 2 * 16 + 4) and np.asarray(picture).std() > 1
    weights.export(workdir, tmp_path / "inn.safetensors")
    module, _, info = weights.load(tmp_path / "inn.safetensors")
    assert module == INN and info["scale"] == 2 and "range" not in info
    latents.check_same(latents.load(ours), info)
    theirs = write_autoencoder(tmp_path / "theirs.safetensors", seed=1)
    with pytest.raises(ValueError, match="holds a run with autoencoder"):
        inn.train(splitter(pictures, theirs, workdir), mesh=one_device())


# ---------------------------------------------------------------- both

@pytest.mark.slow
@pytest.mark.parametrize("script, make, changes", [
    (diffusion, prior, {}), (diffusion, prior, {"cache_latents": True}), (inn, splitter, {})])
def test_resume_is_exact_and_one_device_equals_eight(script, make, changes, pictures, ours, tmp_path, monkeypatch):
    put_batch, calls = sharding.put_batch, []

    def stop_in_step_17(batch, mesh):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    config = make(pictures, ours, tmp_path / "a", eval_every=0, num_steps=20, checkpoint_every=10, **changes)
    wanted = script.train(dataclasses.replace(config, workdir=str(tmp_path / "whole")), mesh=one_device())
    monkeypatch.setattr(sharding, "put_batch", stop_in_step_17)
    with pytest.raises(KeyboardInterrupt):
        script.train(config, mesh=one_device())
    monkeypatch.setattr(sharding, "put_batch", put_batch)
    for resumed, whole in zip(numbers(script.train(config, mesh=one_device())), numbers(wanted), strict=True):
        np.testing.assert_array_equal(resumed, whole)
    script.train(dataclasses.replace(config, workdir=str(tmp_path / "eight")))
    one, eight = (list(logged(tmp_path / name).values())[:10] for name in ("a", "eight"))
    np.testing.assert_allclose(one, eight, atol=1e-4)


@pytest.mark.parametrize("name", ["diffusion_latent_faces", "inn_latent"])
def test_configs_are_documented_and_need_no_weights_to_be_read(name):
    module = common.load_file(str(ROOT / "train" / "configs" / f"{name}.py"))
    for word in ("Data:", "Command:", "Hardware:", "Expect:", name):
        assert word in module.__doc__
    assert module.get_config().autoencoder == "autoencoder-faces"


@pytest.mark.slow
@pytest.mark.parametrize("name, what", [("diffusion_latent_faces", "train"), ("diffusion_latent_faces", "sample"),
                                        ("inn_latent", "train")])
def test_programs_of_the_configs_fit(name, what, tmp_path):
    """Traced, with a stand-in for the autoencoder that ships: 8 pixels per latent, 8 channels."""
    module = common.load_file(str(ROOT / "train" / "configs" / f"{name}.py"))
    stand_in = write_autoencoder(tmp_path / "ae.safetensors", latent_channels=8, levels=3)
    config = dataclasses.replace(module.get_config(), autoencoder=stand_in)
    script = loop.script(config)
    assert json.loads(json.dumps(script.config_to_json(config)))["autoencoder"]["name"] == "ae"
    program = plan_programs.make(config, jax.devices()[:1], what)
    result = jax.eval_shape(program.jitted, *program.arguments)
    if what == "sample":
        assert result.shape == (16, 16, 16, 8)
    else:
        assert 2 * sum(leaf.size for leaf in jax.tree.leaves(result[0].params)) < 12 * 2**20
    with pytest.raises(ValueError, match="has no such program"):
        plan_programs.make(config, jax.devices()[:1], "bird")
