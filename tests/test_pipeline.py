"""From a picture to its restoration: layouts, tiles, keys, what the file held, devices."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import images, operators, pipeline, rng
from tests import networks


class Shrink:
    """A network of one number: ``F(x_t, t) = a x_t``; hashable, as linen modules are."""

    condition_on_y = False

    def apply(self, params, x_t, t):
        return params["a"] * x_t


class Conditioned:
    """Sees y beside x_t, and answers y."""

    condition_on_y = True

    def apply(self, params, x_t, t, y):
        return y


MODULE = Shrink()


def restoration(a=0.5, noise=None, module=MODULE):
    noise = {"name": "none", "eps": 0.0} if noise is None else noise
    return pipeline.Restoration(module, {"a": jnp.float32(a)}, {"noise": noise, "tasks": []})


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


CONSTANT = {"name": "constant", "eps": 0.1}

# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("tile", [None, 64, 100, 256, 640])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 65), (257, 1), (1024, 1025), (2000, 3000), (1, 5000)])
def test_a_layout_covers_the_picture_with_tiles_of_few_sizes(size, tile):
    layout = pipeline.plan(*size, tile)
    largest = (tile or pipeline.MAX_TILE) // 64 * 64
    for side, count, tall, overlap, canvas in zip(size, layout[:2], layout[2:4], layout.overlap, layout.canvas):
        assert canvas == count * (tall - overlap) + overlap >= side
        assert tall % 64 == 0 and tall <= largest
        assert (overlap == 0) == (count == 1) == (side <= largest)
        assert count == 1 or canvas - side < count * 64  # no tile in vain


def test_twenty_sizes_need_few_programs():
    sizes = np.random.default_rng(1).integers(30, 250, (20, 2))
    assert len({pipeline.plan(*size) for size in sizes.tolist()}) <= 16
    sizes = np.random.default_rng(1).integers(257, 512, (20, 2))
    assert len({pipeline.plan(*size) for size in sizes.tolist()}) <= 4


@pytest.mark.parametrize("tile", [0, 63, 99.5, -64])
def test_a_tile_too_small(tile):
    with pytest.raises(ValueError, match="tile must be"):
        pipeline.plan(10, 10, tile)


# ---------------------------------------------------------------- tiles

LAYOUT = pipeline.Plan(2, 3, 20, 24, (8, 8))


def box_blur(x, t):
    """3 x 3 mean with zeros outside, as a convolution of a network sees the edge of its input."""
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return total / 9 + t[:, None, None, None]


def test_blending_weights_sum_to_one():
    for count, size, overlap in ((3, 24, 8), (2, 64, 16), (4, 832, 96)):
        total = np.zeros(count * (size - overlap) + overlap)
        for i, weight in enumerate(pipeline._blend(count, size, overlap)):
            total[i * (size - overlap):][:size] += weight
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_tiles_equal_the_whole_where_the_overlap_covers_what_a_pixel_sees():
    x = pixels(*LAYOUT.canvas)[None]
    t = jnp.full(1, 0.25)
    np.testing.assert_allclose(pipeline.tiled(box_blur, LAYOUT)(x, t), box_blur(x, t), atol=1e-6)


def test_a_wide_view_differs_only_around_the_cuts():
    def look(x, t):
        return jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)  # a statistic over the tile
    x = np.zeros((1, *LAYOUT.canvas, 3), np.float32)
    x[:, :, LAYOUT.canvas[1] // 2:] = 1
    out = np.asarray(pipeline.tiled(look, LAYOUT)(x, jnp.ones(1)))[0, 0, :, 0]
    assert (out[:14] == out[0]).all() and (out[-14:] == out[-1]).all()  # one tile alone
    assert np.abs(np.diff(out)).max() < 0.3  # blended, no seam: the tiles' answers are 0, 1/2 and 1


def test_every_other_image_argument_is_cut_as_well():
    x, y = pixels(*LAYOUT.canvas)[None], pixels(*LAYOUT.canvas, seed=1)[None]
    out = pipeline.tiled(lambda x, t, y: x + y, LAYOUT)(x, jnp.ones(1), y)
    np.testing.assert_allclose(out, x + y, atol=1e-6)


def test_tiles_of_a_network_with_more_outputs_than_inputs():
    x = jax.random.normal(jax.random.key(4), (1, *LAYOUT.canvas, 1))
    out = pipeline.tiled(lambda x, t: jnp.concatenate([x, 2 * x], -1), LAYOUT)(x, jnp.ones(1))
    np.testing.assert_allclose(out, np.concatenate([x, 2 * x], -1), atol=1e-6)


# ---------------------------------------------------------------- one picture

@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 64), (61, 64)])
def test_any_size_comes_back_at_its_size_and_only_one_program_is_compiled(size):
    before = pipeline._restore._cache_size()
    one = restoration(0.5)
    one(pixels(3, 3))
    after = pipeline._restore._cache_size()
    x = pixels(*size)
    np.testing.assert_allclose(one(x), 0.5 * x, atol=1e-6)
    assert pipeline._restore._cache_size() == after <= before + 1


def test_large_pictures_go_through_in_tiles():
    x = pixels(90, 150)
    np.testing.assert_allclose(restoration(0.5)(x, tile=64), 0.5 * x, atol=1e-6)


def test_noise_belongs_to_the_picture_the_seed_and_the_sample():
    one = restoration(1.0, CONSTANT)
    x = pixels(30, 20) * 0.5
    first = one(x)
    noise = first - x
    assert 0.09 < noise.std() < 0.11
    np.testing.assert_array_equal(first, one(x))
    for other in (one(x, seed=1), one(x, sample=1), one(x, image_id=5), one(x[::-1])[::-1]):
        assert 0.12 < (other - first).std() < 0.16  # sqrt(2) 0.1: independent
    np.testing.assert_array_equal(one(x, sample=0), first)
    np.testing.assert_array_equal(one(x, image_id=pipeline.content_id(x)), first)


def test_the_noise_of_tiles_is_that_of_the_whole_picture():
    one = restoration(1.0, CONSTANT)
    x = np.zeros((90, 150, 3), np.float32)
    noise = one(x, tile=64)
    layout = pipeline.plan(90, 150, 64)
    keys = rng.init_keys(rng.fold(rng.image_keys(0, [pipeline.content_id(x)]), 0))
    expected = 0.1 * rng.normal(keys, jnp.zeros((1, *layout.canvas, 3)))[0, :90, :150]
    np.testing.assert_allclose(noise, expected, atol=1e-6)


def test_results_are_clipped_and_steps_are_walked():
    x = pixels(8, 8)
    assert np.abs(restoration(3.0)(x)).max() == 1
    np.testing.assert_allclose(restoration(0.5)(x, steps=2), 0.375 * x, atol=1e-6)  # (1/2 + 1/4) / 2


def test_a_network_that_looks_at_the_measurement():
    x = pixels(8, 8)
    np.testing.assert_allclose(restoration(1.0, CONSTANT, Conditioned())(x), x, atol=1e-6)


@pytest.mark.parametrize("bad, message", [
    (np.zeros((4, 4)), r"not \[4, 4\]"), (np.zeros((0, 4, 3)), "not"), (np.full((4, 4, 3), np.nan), "NaN")])
def test_no_picture(bad, message):
    with pytest.raises(ValueError, match=message):
        restoration()(bad)


def test_the_real_network_runs_on_any_device_alike():
    info = {"noise": CONSTANT, "tasks": []}
    one = pipeline.Restoration(networks.module(), networks.params(), info)
    x = pixels(30, 40)
    first, last = one.devices[0], one.devices[-1]
    out = one(x, device=first)
    assert np.abs(out - x).mean() > 0.05  # the network does something
    np.testing.assert_array_equal(out, one(x, device=last))


# ---------------------------------------------------------------- what the file held

def test_grey_stays_grey():
    picture = images.Picture(np.repeat(pixels(9, 8)[..., :1], 3, axis=-1), grey=True, sixteen_bit=True)
    out = restoration(1.0, CONSTANT).picture(picture)
    assert out.grey and out.sixteen_bit
    assert (out.pixels[..., 0] == out.pixels[..., 1]).all() and (out.pixels[..., 0] == out.pixels[..., 2]).all()


def test_transparency_is_kept_and_hidden_colours_do_not_leak():
    x, alpha = np.full((8, 8, 3), 0.8, np.float32), np.ones((8, 8), np.float32)
    alpha[:, 4:] = 0
    x[:, 4:] = -1
    seen = []

    class Spy(pipeline.Restoration):
        def __call__(self, pixels, **knobs):
            seen.append(pixels)
            return super().__call__(pixels, **knobs)

    out = Spy(MODULE, {"a": jnp.float32(0.5)}, {"noise": {"name": "none"}, "tasks": []}).picture(
        images.Picture(x, alpha))
    np.testing.assert_allclose(seen[0], 0.8, atol=1e-6)
    np.testing.assert_array_equal(out.alpha, alpha)
    np.testing.assert_allclose(out.pixels[:, :4], 0.4, atol=1e-6)
    np.testing.assert_array_equal(out.pixels[:, 4:], x[:, 4:])


def test_super_resolution_enlarges_pixels_and_transparency(monkeypatch):
    picture = images.Picture(pixels(5, 7), np.ones((5, 7), np.float32))
    out = restoration(1.0).picture(picture, scale=4)
    assert out.pixels.shape == (20, 28, 3) and out.alpha.shape == (20, 28)
    bicubic = np.clip(operators.upsample(4)(jnp.asarray(picture.pixels[None])), -1, 1)[0]
    np.testing.assert_allclose(out.pixels, bicubic, atol=1e-6)
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    with pytest.raises(ValueError, match="28 x 20 pixels.*smaller scale"):
        restoration().picture(picture, scale=4)


# ---------------------------------------------------------------- degrading

def test_degrading_depends_on_content_and_seed_alone():
    picture = images.Picture(pixels(16, 16) * 0.1)
    noise = operators.gaussian_noise(sigma_255=25)
    first = pipeline.degrade(picture, noise)
    np.testing.assert_array_equal(first.pixels, pipeline.degrade(picture, noise).pixels)
    assert (first.pixels != pipeline.degrade(picture, noise, seed=1).pixels).mean() > 0.9
    assert (first.pixels - picture.pixels).std() == pytest.approx(25 / 127.5, rel=0.1)


def test_grey_pictures_get_grey_noise_of_full_strength():
    picture = images.Picture(np.zeros((32, 32, 3), np.float32), grey=True)
    y = pipeline.degrade(picture, operators.gaussian_noise(sigma_255=25)).pixels
    assert (y[..., 0] == y[..., 2]).all() and y.std() == pytest.approx(25 / 127.5, rel=0.1)


def test_operators_may_depend_on_the_picture_and_change_its_size():
    picture = images.Picture(pixels(12, 8), np.ones((12, 8), np.float32))
    y = pipeline.degrade(picture, operators.downsample(4))
    assert y.pixels.shape == (3, 2, 3) and y.alpha.shape == (3, 2)
    asked = []

    def make(keys, height, width):
        asked.append((keys.shape, height, width))
        return operators.gaussian_noise(sigma=0.0)
    np.testing.assert_array_equal(pipeline.degrade(picture, make).pixels, picture.pixels)
    assert asked == [((1,), 12, 8)]


# ---------------------------------------------------------------- devices

def test_devices_take_turns_and_results_come_in_order():
    out = [(item, future.result()) for item, future in pipeline.over_devices(
        lambda item, device: (device, 10 * item), range(7), "abc")]
    assert out == [(i, ("abc"[i % 3], 10 * i)) for i in range(7)]


def test_one_failure_is_one_items_own():
    def work(item, device):
        if item == 1:
            raise ValueError("this one")
        return item
    futures = [future for _, future in pipeline.over_devices(work, range(3), "a")]
    assert [future.exception() is None for future in futures] == [True, False, True]


def test_only_a_few_items_are_read_ahead():
    drawn = []

    def items():
        for i in range(50):
            drawn.append(i)
            yield i
    runs = pipeline.over_devices(lambda item, device: item, items(), "ab")
    next(runs)
    assert len(drawn) <= 4
    runs.close()
    assert len(drawn) <= 4
