"""From a picture to its restoration, whatever the method: layouts, tiles, keys, what the file held, degrading."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import images, methods, operators, paths, rng, schedules, sharding
from indigo_jax.methods import base
from indigo_jax.methods.degrading import degrade
from indigo_jax.methods.indi import Indi
from tests import networks

RESTORER = {"kind": "restorer", "tasks": [], "sha256": ""}
CONSTANT = {"name": "constant", "eps": 0.1}


class Shrink:
    """A network of one number: ``F(x_t, t) = a x_t``."""

    condition_on_y = False

    def apply(self, params, x_t, t):
        return params["a"] * x_t


class Conditioned:
    """Sees y beside x_t, and answers y."""

    condition_on_y = True

    def apply(self, params, x_t, t, y):
        return y


def restoration(a=0.5, noise=None, module=None, task="auto", scale=None, **settings):
    """InDI with one of these networks; counts how often its program is traced."""
    info = {**RESTORER, "noise": {"name": "none", "eps": 0.0} if noise is None else noise, "tasks": ["sr"]}

    class Tiny(Indi):
        traces = 0

        def load(self):
            self.networks = {"restorer": base.Network(module or Shrink(), {"a": jnp.float32(a)}, info)}

        def solve(self, *arguments, **known):
            self.traces += 1
            return super().solve(*arguments, **known)

    return Tiny(Tiny.Settings(**settings), task=task, scale=scale)


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def restored(method, x, **which):
    return method(images.Picture(x), **which)[0].pixels


# ---------------------------------------------------------------- layouts

def network(module, **info):
    return base.Network(module, {}, info)


ANY_SIZE = network(networks.module(), kind="restorer")
TOLD = network(networks.denoiser(), kind="prior")
LEARNED = network(Shrink(), kind="prior", image_size=64)


@pytest.mark.parametrize("size", [(1, 1), (300, 65), (1025, 2000)])
def test_a_network_for_any_size_is_cut_by_its_reach(size):
    reach = networks.denoiser().reach
    for tile, which in ((None, TOLD), (256, TOLD), (None, ANY_SIZE), (256, ANY_SIZE)):
        layout, largest = base.plan_of(which, *size, tile=tile), tile or 1024
        assert max(layout.tile) <= largest and all(a >= b for a, b in zip(layout.canvas, size))
        assert all(side % 64 == 0 for side in (*layout.canvas, *layout.tile))
        if which is TOLD:
            assert layout.overlap == min(2 * reach, largest // 2) and layout.margin == layout.overlap // 2
        else:
            assert layout.overlap == min(96, largest // 4) and layout.margin is None


def test_tiles_of_a_network_that_is_told_the_level_begin_where_its_blocks_do():
    module = networks.denoiser()
    layout = base.plan_of(TOLD, 1300, 1300, tile=256)
    assert layout.count > 9
    assert (layout.tile[0] - layout.overlap) % module.multiple == 0 and layout.canvas[0] % module.multiple == 0


def test_a_network_that_has_learned_one_side_is_given_that():
    assert base.side_of(LEARNED) == 64 and base.side_of(ANY_SIZE) is None and base.side_of(TOLD) is None
    assert base.plan_of(LEARNED, 3, 5).tile == base.plan_of(LEARNED, 300, 500).tile == (64, 64)
    assert base.plan_of(LEARNED, 300, 500, multiple=4).overlap == 16
    with pytest.raises(ValueError, match="scale 3 does not divide a quarter of the prior's side of 64 pixels; use 2"):
        base.plan_of(LEARNED, 3, 5, multiple=3)


@pytest.mark.parametrize("tile", [0, 63, 99.5, -64])
def test_a_tile_too_small(tile):
    with pytest.raises(ValueError, match="tile must be a whole number of at least 64 pixels, got"):
        base.plan_of(ANY_SIZE, 10, 10, tile=tile)


# ---------------------------------------------------------------- one picture

@pytest.mark.parametrize("task, scale, times", [("auto", None, 1), ("sr", 2, 2), ("sr", None, 4)])
def test_any_size_comes_back_at_its_size_and_only_one_program_is_compiled(task, scale, times):
    one = restoration(0.5, task=task, scale=scale)
    for size in ((1, 1), (7, 5), (1, 64 // times), (61 // times, 64 // times)):
        x = pixels(*size)
        wanted = x if times == 1 else np.clip(operators.upsample(times)(jnp.asarray(x[None])), -1, 1)[0]
        np.testing.assert_allclose(restored(one, x), 0.5 * wanted, atol=1e-6)
    assert one.traces == 1


def test_large_pictures_go_through_in_tiles():
    x = pixels(90, 150)
    out, report = restoration(0.5, tile=64)(images.Picture(x))
    np.testing.assert_allclose(out.pixels, 0.5 * x, atol=1e-6)
    assert report.plan.count == 6 and report.evaluations == 6


def test_noise_belongs_to_the_picture_the_seed_and_the_sample():
    one = restoration(1.0, CONSTANT)
    x = pixels(30, 20) * 0.5
    first = restored(one, x)
    assert 0.09 < (first - x).std() < 0.11
    np.testing.assert_array_equal(first, restored(one, x))
    for other in (restored(one, x, seed=1), restored(one, x, sample=1), restored(one, x[::-1])[::-1]):
        assert 0.12 < (other - first).std() < 0.16  # sqrt(2) 0.1: independent
    np.testing.assert_array_equal(restored(one, x, sample=0), first)


def test_the_noise_of_tiles_is_that_of_the_whole_picture():
    one = restoration(1.0, CONSTANT, tile=64)
    x = np.zeros((90, 150, 3), np.float32) + np.array([0, 0, 1e-7], np.float32)  # not grey, which would stay so
    keys = rng.init_keys(rng.fold(rng.image_keys(0, [base.content_id(x)]), 0))
    expected = 0.1 * rng.normal(keys, jnp.zeros((1, *one.plan(90, 150).canvas, 3)))[0, :90, :150]
    np.testing.assert_allclose(restored(one, x), expected, atol=1e-6)


def test_an_id_is_that_of_the_content():
    x = pixels(4, 6)
    assert base.content_id(x) == base.content_id(x.copy()) == base.content_id(np.asfortranarray(x))
    assert len({base.content_id(a) for a in (x, x[::-1], x.reshape(6, 4, 3), x + 1e-6)}) == 4


def test_results_are_clipped_and_steps_are_walked():
    x = pixels(8, 8)
    assert np.abs(restored(restoration(3.0), x)).max() == 1
    np.testing.assert_allclose(restored(restoration(0.5, steps=2), x), 0.375 * x, atol=1e-6)  # (1/2 + 1/4) / 2


def test_the_grid_of_times():
    """At every spacing the last time is 0 and the first 1: one step is the same on all."""
    x = pixels(8, 8)
    one, many = ([restored(restoration(0.5, steps=steps, spacing=spacing), x) for spacing in paths.SPACINGS]
                 for steps in (1, 3))
    assert all((other == one[0]).all() for other in one)
    assert len({float(other.std()) for other in many}) == len(paths.SPACINGS)


def test_a_network_that_looks_at_the_measurement():
    x = pixels(8, 8)
    np.testing.assert_allclose(restored(restoration(1.0, CONSTANT, Conditioned()), x), x, atol=1e-6)


def test_a_task_that_the_weights_have_not_learned(tmp_path):
    path = networks.write_weights(tmp_path / "net.safetensors", tasks=["denoise"])
    with pytest.raises(ValueError, match="were not trained for sr; use auto or one of denoise, or other weights"):
        methods.load("indi", task="sr", weights=path)
    assert methods.load("indi", task="denoise", weights=path).task == "denoise"


def test_methods_that_are_not_there():
    with pytest.raises(ValueError, match="unknown method 'brid'; there are indi, once"):
        methods.load("brid")


# ---------------------------------------------------------------- what the file held

@pytest.mark.parametrize("grey", [True, False])  # False: grey stored as RGB
def test_grey_stays_grey(grey):
    picture = images.Picture(np.repeat(pixels(9, 8)[..., :1], 3, axis=-1), grey=grey, sixteen_bit=True)
    out, _ = restoration(1.0, CONSTANT)(picture)
    assert out.grey == grey and out.sixteen_bit
    assert (out.pixels[..., 0] == out.pixels[..., 1]).all() and (out.pixels[..., 0] == out.pixels[..., 2]).all()


def test_transparency_is_kept_and_hidden_colours_do_not_leak():
    x, alpha = np.full((8, 8, 3), 0.8, np.float32), np.ones((8, 8), np.float32)
    alpha[:, 4:] = 0
    x[:, 4:] = -1
    one, seen = restoration(0.5), []
    run = one.run
    one.run = lambda y, *others: seen.append(np.asarray(y)) or run(y, *others)
    out, _ = one(images.Picture(x, alpha))
    np.testing.assert_allclose(seen[0], 0.8, atol=1e-6)
    np.testing.assert_array_equal(out.alpha, alpha)
    np.testing.assert_allclose(out.pixels[:, :4], 0.4, atol=1e-6)
    np.testing.assert_array_equal(out.pixels[:, 4:], x[:, 4:])


def test_super_resolution_enlarges_pixels_and_transparency(monkeypatch):
    picture = images.Picture(pixels(5, 7), np.ones((5, 7), np.float32))
    one = restoration(1.0, task="sr")
    out, _ = one(picture)
    assert out.pixels.shape == (20, 28, 3) and out.alpha.shape == (20, 28)
    bicubic = np.clip(operators.upsample(4)(jnp.asarray(picture.pixels[None])), -1, 1)[0]
    np.testing.assert_allclose(out.pixels, bicubic, atol=1e-6)
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    with pytest.raises(ValueError, match="4 times larger it has 28 x 20 pixels.*smaller scale"):
        one(picture)
    with pytest.raises(ValueError, match="the picture has 28 x 20 pixels, more than the limit of 500; use pieces"):
        restoration()(out)


# ---------------------------------------------------------------- devices

def test_a_batch_is_spread_over_devices_and_stays_there():
    one, mesh = restoration(0.5), sharding.data_mesh()
    y = np.stack([pixels(64, 64, seed) for seed in range(8)])
    solve = jax.jit(functools.partial(one.solve, plan=one.plan(64, 64), given={}))
    out = solve(one.params, sharding.put_batch({"y": y}, mesh)["y"], rng.image_keys(0, np.arange(8))).x
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(out, 0.5 * y, atol=1e-6)


def test_a_report_of_many_samples_and_its_line():
    one = restoration(0.5, steps=3, tile=64)
    reports = [one(images.Picture(pixels(90, 20)), sample=sample)[1] for sample in range(2)]
    assert one.facts(reports) == {"steps": 3, "network_evaluations": 12, "tiles": 2}
    assert one.line(reports) == "3 steps" and one.warning(images.Picture(pixels(90, 20))) is None
    solved = base.Solved(jnp.zeros((1, 2, 2, 3)), jnp.array([0.02]), jnp.array([0.01]))
    reports = [methods.Restoration.report(one, solved, one.plan(90, 20))]
    assert methods.Restoration.line(one, reports) == (
        "6 network evaluations in 2 tiles of 64 x 64, residual 2.5 of 255 (noise 1.3)")


# ---------------------------------------------------------------- what auto takes

OWNERS = {"indi": {"weights", "steps"}, "once": {"weights"}, "hqs": {"weights", "kernel", "mask"},
          "bird": {"weights", "kernel_size"}}


@pytest.mark.parametrize("task, flags, wanted", [
    ("auto", (), "look"), ("deblur", (), "blind"), ("deblur", ("kernel",), "hqs"), ("denoise", (), "once"),
    ("sr", (), "hqs"), ("jpeg", (), "jpeg"), ("inpaint", ("mask",), "hqs"), ("nonuniform", (), "indi"),
    ("ct", (), "diffpir")])
def test_auto_takes_what_measured_best(task, flags, wanted):
    choice = methods.choose(task, flags)
    assert choice.method == wanted and choice.why and task in methods.METHODS[wanted].tasks


def test_auto_takes_a_method_that_takes_what_is_given():
    assert methods.choose("denoise", ["steps"], OWNERS).method == "indi"
    choice = methods.choose("deblur", ["kernel_size"], OWNERS)
    assert choice == ("bird", "it is the first that takes --kernel-size")
    assert methods.choose("denoise", ["weights"], OWNERS).method == "once"
    with pytest.raises(ValueError, match="no method takes all of --kernel-size, --steps"):
        methods.choose("deblur", ["steps", "kernel_size"], OWNERS)


# ---------------------------------------------------------------- degrading

def test_degrading_depends_on_content_and_seed_alone():
    picture = images.Picture(pixels(16, 16) * 0.1)
    noise = operators.gaussian_noise(sigma_255=25)
    first = degrade(picture, noise)
    np.testing.assert_array_equal(first.pixels, degrade(picture, noise).pixels)
    assert (first.pixels != degrade(picture, noise, seed=1).pixels).mean() > 0.9
    assert (first.pixels - picture.pixels).std() == pytest.approx(25 / 127.5, rel=0.1)


def test_grey_pictures_get_grey_noise_of_full_strength():
    picture = images.Picture(np.zeros((32, 32, 3), np.float32), grey=True)
    y = degrade(picture, operators.gaussian_noise(sigma_255=25)).pixels
    assert (y[..., 0] == y[..., 2]).all() and y.std() == pytest.approx(25 / 127.5, rel=0.1)


def test_operators_may_depend_on_the_picture_and_change_its_size():
    picture = images.Picture(pixels(12, 8), np.ones((12, 8), np.float32))
    y = degrade(picture, operators.downsample(4))
    assert y.pixels.shape == (3, 2, 3) and y.alpha.shape == (3, 2)
    asked = []

    def make(keys, height, width):
        asked.append((keys.shape, height, width))
        return operators.gaussian_noise(sigma=0.0)
    np.testing.assert_array_equal(degrade(picture, make).pixels, picture.pixels)
    assert asked == [((1,), 12, 8)]


# ---------------------------------------------------------------- the prior in tiles

def test_a_prior_in_tiles_is_that_of_the_whole_where_its_margin_is_the_reach():
    module = networks.denoiser()
    params = networks.denoiser_params(module)
    one = base.Network(module, params, {"schedule": schedules.to_json("geometric", num_timesteps=10),
                                        "prediction": "sigma"})
    layout = base.plan_of(TOLD, 250, 100, tile=192)
    assert layout.count == 2 and layout.margin == module.reach
    x = jax.random.normal(jax.random.key(0), (1, *layout.canvas, 3))
    tiled, whole = (base.prior(one, params, which) for which in (layout, layout._replace(tile=layout.canvas)))
    t = tiled.schedule.timesteps[4:5]
    np.testing.assert_allclose(jax.jit(tiled.denoiser)(x, t).x0, jax.jit(whole.denoiser)(x, t).x0, atol=1e-5)
