"""Plans of tiles, and what is computed in them against a slow sum by hand and against the whole."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import tiles
from indigo_jax.tiles import Plan, blended, by_plan, plan, tiled_autoencoder
from indigo_jax.typing import Autoencoder

X = jax.random.normal(jax.random.key(0), (2, 11, 6, 3))
LAYOUT = Plan((32, 56), (20, 24), 8)  # 2 x 3 tiles


def double(x):
    return x.repeat(2, 1).repeat(2, 2)


def halve(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


# ---------------------------------------------------------------- plans

OPTIONS = {"a side that is learned": dict(tile=64, overlap=16, learned=64, multiple=4),
           "any size": dict(tile=1024, overlap=96, learned=64),
           "small pieces of any size": dict(tile=128, overlap=32, learned=64),
           "latents": dict(tile=16, overlap=8, learned=16, factor=8)}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_canvases_are_few_and_hold_their_pictures(options):
    sides, factor = range(1, 3000, 7), options.get("factor", 1)
    step = factor * (options["learned"] if options["tile"] > options["learned"] else options["tile"]
                     - options["overlap"])
    canvases = [plan(side, 1, **options).canvas for side in sides]
    assert {width for _, width in canvases} == {factor * options["learned"]}
    assert len({height for height, _ in canvases}) <= 16 + 8 * np.log2(max(3000 / step / 16, 1)) + 8
    for side, (height, width) in zip(sides, canvases):
        assert side <= height and height % (factor * options.get("multiple", 1)) == 0
        assert height == factor * options["learned"] or height < 1.125 * side + step
        assert plan(height, width, **options).canvas == (height, width)


@pytest.mark.parametrize("tile", [64, 128, 256, 1024])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 65), (257, 1), (1024, 1025), (2000, 3000), (1, 5000)])
def test_tiles_cover_the_canvas_and_none_is_in_vain(size, tile):
    layout = plan(*size, tile=tile, overlap=min(96, tile // 4), learned=64)
    for side, length, count, canvas in zip(size, layout.tile, (layout.rows, layout.columns), layout.canvas):
        starts = tiles.starts(canvas, length, layout.overlap)
        assert len(starts) == count and starts[0] == 0 and starts[-1] + length == canvas >= side
        assert all(b - a <= length - layout.overlap for a, b in zip(starts, starts[1:]))
        assert length <= tile and (count == 1) == (canvas <= tile)
        assert count == 1 or length + (count - 2) * (length - layout.overlap) < canvas  # fewer would not do


def test_twenty_sizes_need_few_programs():
    random, options = np.random.default_rng(1), dict(tile=1024, overlap=96, learned=64)
    for low, high in ((30, 250), (257, 512)):
        assert len({plan(*size, **options) for size in random.integers(low, high, (40, 2)).tolist()}) <= 16


@pytest.mark.parametrize("options, wanted", [
    (dict(tile=64), (64, 64)), (dict(tile=256), (512, 64)), (dict(tile=64, least=100, multiple=8), (536, 104)),
    (dict(tile=64, factor=8), (512, 512))])
def test_canvases_of_known_sizes(options, wanted):
    height = 500 if options != dict(tile=64) else 3
    assert plan(height, 3, overlap=options["tile"] // 4, learned=64, **options).canvas == wanted


@pytest.mark.parametrize("layout", [plan(27, 9, tile=16, overlap=4, learned=16), LAYOUT, Plan((16, 16), (16, 16), 4)])
def test_a_plan_counts_the_tiles_that_are_computed(layout):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    by_plan(counted, layout)(jnp.zeros((1, *layout.canvas, 3)))
    jax.effects_barrier()
    assert len(calls) == layout.rows * layout.columns == layout.count


# ---------------------------------------------------------------- the blend

def by_hand(function, x, starts, tile, overlap, margin, ratio):
    """Starts (rows, columns); output pixel by output pixel in float64."""
    def line(begin, side, made):
        from_cut = (np.arange(made) + 0.5) / ratio - margin  # in elements of x
        rise = np.clip(from_cut / (overlap - 2 * margin), 0, 1)
        return (rise if begin else 1) * (rise[::-1] if begin + tile < side else 1) * np.ones(made)

    total, weight = 0.0, 0.0
    for top in starts[0]:
        for left in starts[1]:
            out = np.asarray(function(x[:, top:top + tile, left:left + tile]), np.float64)
            own = np.outer(line(top, x.shape[1], out.shape[1]), line(left, x.shape[2], out.shape[2]))
            around = [(0, 0)] + [(start * ratio, (side - tile - start) * ratio)
                                 for start, side in zip((top, left), x.shape[1:3])] + [(0, 0)]
            total += np.pad(out * own[..., None], around)
            weight += np.pad(own[None, ..., None], around)
    return total / weight


@pytest.mark.parametrize("overlap, margin, starts", [(1, 0, ((0, 3, 6, 7), (0, 2))), (2, 0, ((0, 2, 4, 6, 7), (0, 2)))])
def test_the_sum_is_the_formula_and_the_last_tile_ends_at_the_border(overlap, margin, starts):
    def moved(x):  # differs with the place in the tile
        return double(jnp.cumsum(x, axis=1) + x.mean((1, 2), keepdims=True))

    out = jax.jit(blended(moved, tile=4, overlap=overlap))(X)
    np.testing.assert_allclose(out, by_hand(moved, X, starts, 4, overlap, margin, 2), atol=1e-5)


@pytest.mark.parametrize("side, size, overlap, margin", [
    (56, 24, 8, 2), (112, 64, 16, 4), (2400, 832, 96, 24), (11, 4, 2, 1), (29, 8, 6, 0), (20, 8, 0, 0)])
def test_weights_sum_to_one_and_none_is_given_near_a_cut(side, size, overlap, margin):
    line = tiles._line(side, size, size, overlap, margin)
    total = np.zeros(side)
    for begin, weight in zip(line.place, line.weights):
        total[begin:begin + size] += weight
        assert begin == 0 or not weight[:margin].any()
        assert begin + size == side or not weight[size - margin:].any()
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("sides", [(11, 6), (4, 9), (3, 2), (4, 4)])
def test_a_function_of_single_pixels_is_that_of_the_whole_and_a_constant_stays(sides):
    def pixelwise(x, t):
        return jnp.concatenate([x**2 * t[:, None, None, None], jnp.full_like(x, 0.7)], -1)

    x, t = jax.random.normal(jax.random.key(1), (2, *sides, 3)), jnp.asarray([1.0, 2.0])
    out = jax.jit(blended(pixelwise, tile=4, overlap=2))(x, t)
    np.testing.assert_allclose(out, pixelwise(x, t), atol=4e-6)


def box_blur(x, t):
    """3 x 3 mean with zeros outside, as a convolution of a network sees the edge of its input."""
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return total / 9 + t[:, None, None, None]


def test_tiles_equal_the_whole_where_the_margin_covers_what_a_pixel_sees():
    x = jax.random.normal(jax.random.key(2), (1, *LAYOUT.canvas, 3))
    t = jnp.full(1, 0.25)
    for margin in (None, 1, 4):
        out = jax.jit(by_plan(box_blur, LAYOUT._replace(margin=margin)))(x, t)
        np.testing.assert_allclose(out, box_blur(x, t), atol=1e-6)
    assert np.abs(jax.jit(by_plan(box_blur, LAYOUT._replace(margin=0)))(x, t) - box_blur(x, t)).max() > 1e-2


def test_a_wide_view_differs_only_around_the_cuts():
    def look(x, t):
        return jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)  # a statistic over the tile
    x = np.zeros((1, *LAYOUT.canvas, 3), np.float32)
    x[:, :, LAYOUT.canvas[1] // 2:] = 1
    out = np.asarray(by_plan(look, LAYOUT)(x, jnp.ones(1)))[0, 0, :, 0]
    assert (out[:14] == out[0]).all() and (out[-14:] == out[-1]).all()  # one tile alone
    assert np.abs(np.diff(out)).max() < 0.3  # blended, no seam: the tiles' answers are 0, 1/2 and 1


def test_every_other_image_argument_is_cut_as_well():
    x, y = jax.random.normal(jax.random.key(3), (2, 1, *LAYOUT.canvas, 3))
    out = by_plan(lambda x, t, y: x + y, LAYOUT)(x, jnp.ones(1), y)
    np.testing.assert_allclose(out, x + y, atol=1e-6)


def test_tiles_of_a_network_with_more_outputs_than_inputs():
    x = jax.random.normal(jax.random.key(4), (1, *LAYOUT.canvas, 1))
    out = by_plan(lambda x, t: jnp.concatenate([x, 2 * x], -1), LAYOUT)(x, jnp.ones(1))
    np.testing.assert_allclose(out, np.concatenate([x, 2 * x], -1), atol=1e-6)


def test_a_plan_in_pixels_of_a_network_of_latents():
    layout = plan(40, 20, tile=4, overlap=2, learned=4, factor=4)
    assert layout == Plan((40, 24), (16, 16), 8) and layout.count == 8
    z = jax.random.normal(jax.random.key(5), (1, 10, 6, 2))
    seen = []
    out = by_plan(lambda z: seen.append(z.shape) or 2 * z, layout, factor=4)(z)
    np.testing.assert_allclose(out, 2 * z, atol=1e-6)
    assert set(seen) == {(1, 4, 4, 2)}


def test_gradients_are_those_of_the_whole():
    def loss(function):
        return lambda x, w: jnp.sum(function(x, w) ** 3)

    def pixelwise(x, w):
        return double(jnp.sin(w * x))

    w = jnp.float32(0.7)
    wanted = jax.jit(jax.grad(loss(pixelwise), (0, 1)))(X, w)
    found = jax.jit(jax.grad(loss(blended(pixelwise, tile=4, overlap=2)), (0, 1)))(X, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


def test_an_autoencoder_in_tiles():
    encode, decode = map(jax.jit, tiled_autoencoder(Autoencoder(halve, double), factor=2, tile=4, overlap=2))
    pictures = jax.random.normal(jax.random.key(1), (1, 18, 12, 3))
    np.testing.assert_allclose(encode(pictures), halve(pictures), atol=2e-6)
    np.testing.assert_allclose(decode(X), double(X), atol=2e-6)


def test_memory_depends_on_the_tile():
    """The function needs 64 numbers per pixel, also for its gradient."""
    def convolve(x, channels):
        kernel = jnp.ones((3, 3, x.shape[3], channels))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def wide(x):
        return convolve(jnp.tanh(convolve(x, 64)), 1)

    def bytes_of(function, side, grad):
        call = jax.grad(lambda x: function(x).sum()) if grad else function
        picture = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        return jax.jit(call).lower(picture).compile().memory_analysis().temp_size_in_bytes

    for grad in (False, True):
        small, large = (bytes_of(blended(wide, tile=16, overlap=8), side, grad) for side in (32, 128))
        assert large - small < 4 * 12 * (128**2 - 32**2)  # a few images of one channel
        assert large < bytes_of(wide, 128, grad) / 8


@pytest.mark.parametrize("call, words", [
    (lambda: blended(double, tile=4, overlap=4), "less than the tile of 4"),
    (lambda: blended(double, tile=4, overlap=-1), "got -1"),
    (lambda: blended(double, tile=4, overlap=2, margin=2), "half of the overlap of 2, got 2"),
    (lambda: blended(halve, tile=4, overlap=1)(jnp.ones((1, 8, 8, 3))), "must be multiples of 2")])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
