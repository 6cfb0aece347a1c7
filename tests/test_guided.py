"""Pictures of all sizes through INDIGO and LatentINDIGO, with closed-form networks; loading is in test_cli_guided."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import guided, images, models, operators, restoration, rng, samplers, schedules, sharding
from indigo_jax.guided import layout, program, settings
from tests.oracles import GaussianDiffusion

RANDOM = np.random.default_rng(0)
SCHEDULE = schedules.to_json("linear", num_timesteps=100)
GAUSSIAN = GaussianDiffusion(0.1, 0.3)
STEPS = 4
TINY = dict(lifting_steps=0, num_blocks=0, width=2, cond_dim=2, cond_width=2, encoder_channels=2, encoder_blocks=0)


@dataclasses.dataclass(frozen=True)
class Pixelwise:
    """The noise of a Gaussian prior: every pixel by itself."""

    image_size: int = 16

    def apply(self, params, x, t):
        levels = schedules.from_json(SCHEDULE)
        return GAUSSIAN.denoiser(levels)(x, t).eps

    @property
    def out_channels(self):
        return 3


@dataclasses.dataclass(frozen=True)
class Means:
    """An autoencoder: means of 2 x 2, and pixels repeated. Whatever is decoded is counted in ``params``."""

    latent_channels: int = 3
    factor: int = 2
    scaling_factor: float = 1.0

    def apply(self, params, x, method):
        if method == "encode":
            return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))
        jax.debug.callback(lambda: DECODED.append(1))
        return x.repeat(2, 1).repeat(2, 2)


DECODED = []


def random_params(module, *inputs):
    shapes = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs),
                            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs))
    return jax.tree.map(lambda leaf: np.float32(0.1 * RANDOM.standard_normal(leaf.shape)), shapes)


def make(latent=None, image_size=16, **options):
    """With the plain split as invertible network, of scale 2."""
    inn = models.GuidanceINN(levels=1, **{**TINY, **options})
    info = {"scale": 1 if inn.undecimated else 2, **({"autoencoder": {}} if latent == "latent" else {})}
    facts = {"schedule": SCHEDULE, "prediction": "eps"}
    return guided.IndigoRestoration((Pixelwise(image_size), {}, facts),
                                    (inn, random_params(inn, (1, 16, 16, 3), (1, 8, 8, 3)), info),
                                    (Means(), {}, {}) if latent else None)


@pytest.fixture(scope="module")
def tiny():
    return make()


def picture(height, width, **kinds):
    return images.Picture(RANDOM.uniform(-1, 1, (height, width, 3)).astype(np.float32), **kinds)


def restore(network, y, **options):
    return network.picture(y, **{"steps": STEPS, "fix_color": False, **options})


# ---------------------------------------------------------------------------------------------------- layout

def test_canvases_are_few_and_hold_their_pictures():
    sides = range(1, 3000, 7)
    canvas = [layout.lay_out(side, 1, tile=64, overlap=16, learned=64, multiple=4).canvas for side in sides]
    assert {width for _, width in canvas} == {64} and len({height for height, _ in canvas}) <= 40 < 62
    for side, (height, width) in zip(sides, canvas):
        assert side <= height and height % 4 == 0 and (height == 64 or height < 1.125 * side + 48)
        assert layout.lay_out(height, width, tile=64, overlap=16, learned=64, multiple=4).canvas == (height, width)


@pytest.mark.parametrize("options, wanted", [
    (dict(tile=64), (64, 64)), (dict(tile=256), (512, 64)), (dict(tile=64, least=100, multiple=8), (536, 104)),
    (dict(tile=64, factor=8), (512, 512))])
def test_layouts(options, wanted):
    height = 500 if options != dict(tile=64) else 3
    found = layout.lay_out(height, 3, overlap=options["tile"] // 4, learned=64, **options)
    assert found.canvas == wanted


def test_tiles_are_those_that_are_computed(tiny):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    where = tiny.layout(27, 9)
    assert where == guided.Layout((64, 28), 5, 2, 16, 4)
    restoration.blended_tiles(counted, tile=16, overlap=4)(jnp.zeros((1, *where.canvas, 3)))
    jax.effects_barrier()
    assert len(calls) == where.rows * where.columns


# ---------------------------------------------------------------------------------------------------- pictures

def test_mixed_sizes_share_programs_and_do_not_touch_one_another(tiny):
    sizes = [(1, 1), (8, 8), (9, 8), (14, 1), *((1 + 5 * i % 14, 1 + 3 * i % 8) for i in range(16))]
    pictures = [picture(*size) for size in sizes]
    before = program.restore._cache_size()
    results = [restore(tiny, y) for y in pictures]
    buckets = {tiny.bucket(*size) for size in sizes}
    assert program.restore._cache_size() - before <= len(buckets) == 2
    for (height, width), (restored, report) in zip(sizes, results):
        assert restored.pixels.shape == (2 * height, 2 * width, 3) and np.isfinite(restored.pixels).all()
        tiles = report.layout.rows * report.layout.columns
        assert report.evaluations == STEPS * tiles and tiles == (1 if height <= 8 else 2) and report.drift is None
        assert report.layout.canvas == tiny.bucket(height, width)
    again = [restore(tiny, y)[0].pixels for y in pictures[:3]]
    jax.tree.map(np.testing.assert_array_equal, again, [restored.pixels for restored, _ in results[:3]])
    assert (restore(tiny, pictures[0], sample=1)[0].pixels != again[0]).any()
    assert (restore(tiny, pictures[0], seed=1)[0].pixels != again[0]).any()


def test_grey_stays_grey_and_transparency_stays(tiny):
    pixels = np.repeat(RANDOM.uniform(-1, 1, (6, 6, 1)), 3, axis=2).astype(np.float32)
    alpha = np.ones((6, 6), np.float32)
    alpha[:3] = 0
    restored, _ = restore(tiny, images.Picture(pixels, alpha=alpha, grey=True))
    np.testing.assert_array_equal(restored.pixels[..., 0], restored.pixels[..., 1])
    assert restored.alpha.shape == (12, 12) and restored.alpha[0, 0] < 0.01 < 0.99 < restored.alpha[-1, 0]


def test_without_guidance_it_is_ddim_from_the_bicubic_estimate(tiny):
    y, keys = jnp.asarray(RANDOM.uniform(-1, 1, (1, 8, 8, 3)), jnp.float32), rng.image_keys(3, [5])
    levels = program.visited(schedules.from_json(SCHEDULE), STEPS, settings.START[None])
    estimate = jnp.clip(operators.upsample(2)(y), -1, 1)

    @jax.jit
    def plain(keys, estimate):
        def clipped(x, t):
            prediction = GAUSSIAN.denoiser(schedules.from_json(SCHEDULE))(x, t)
            return prediction._replace(x0=jnp.clip(prediction.x0, -1, 1))

        kernel = samplers.ddim(clipped, levels, 0.5)
        return samplers.sample(kernel, keys, restoration.indigo_start(levels, estimate, keys))[0]

    found = tiny.batch(y, keys, steps=STEPS, guidance=0, fix_color=False)
    np.testing.assert_allclose(found.x, plain(keys, estimate), atol=1e-5)
    pulled = tiny.batch(y, keys, steps=STEPS, guidance=30, fix_color=False)
    assert pulled.residual[0] < 0.9 * found.residual[0]


def test_tiles_of_a_network_of_single_pixels_change_nothing(tiny):
    y = picture(32, 8)
    many, one = restore(tiny, y), restore(tiny, y, tile=64)
    assert many[1].layout.rows == 5 and one[1].layout == guided.Layout((64, 16), 1, 1, 64, 16)
    np.testing.assert_allclose(many[0].pixels, one[0].pixels, atol=1e-5)


def test_eight_devices_and_one_and_alone_are_the_same(tiny):
    y = RANDOM.uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
    keys, mesh = rng.image_keys(0, np.arange(8)), sharding.mesh()
    spread = sharding.put_batch({"y": y}, mesh)["y"]
    found = tiny.batch(spread, jax.device_put(keys, sharding.batch_sharding(mesh)), steps=STEPS, fix_color=False)
    assert len(found.x.sharding.device_set) == 8
    for i in (0, 7):
        alone = tiny.batch(y[i:i + 1], keys[i:i + 1], steps=STEPS, fix_color=False)
        np.testing.assert_allclose(found.x[i], alone.x[0], atol=1e-5)
        np.testing.assert_allclose(found.residual[i], alone.residual[0], rtol=1e-5)


def test_a_picture_of_its_wanted_size_is_shrunk_and_its_own_estimate(tiny):
    y = picture(16, 12)
    found, report = restore(tiny, y, same_size=True)
    assert found.pixels.shape == (16, 12, 3) and report.layout.canvas == (16, 16)
    whole = np.pad(y.pixels, [(0, 0), (0, 4), (0, 0)], "symmetric")[None]
    shrunk = jnp.clip(operators.downsample(2)(jnp.asarray(whole)), -1, 1)
    keys = rng.fold(rng.image_keys(0, [guided.restoration.pipeline.content_id(y.pixels)]), 0)
    wanted = tiny.batch(shrunk, keys, estimate=whole, steps=STEPS, fix_color=False)
    np.testing.assert_allclose(found.pixels, wanted.x[0, :, :12], atol=1e-5)


@pytest.mark.parametrize("variant", ["pixel", "latent"])
def test_latents_are_decoded_in_the_loop_only_for_a_network_of_pixels(variant):
    network = make(variant)
    DECODED.clear()
    restored, report = restore(network, picture(5, 7), regularizer="trust-region")
    jax.effects_barrier()
    assert restored.pixels.shape == (10, 14, 3) and report.drift is not None and np.isfinite(report.drift)
    assert network.variant == variant and (len(DECODED) == 1 if variant == "latent" else len(DECODED) > STEPS)


# ---------------------------------------------------------------------------------------------------- refusals

@pytest.mark.parametrize("y, options, message", [
    (np.zeros((0, 3, 3)), {}, r"at least one pixel, not \[0, 3, 3\]"),
    (np.zeros((3, 3)), {}, r"a picture is \[H, W, 3\]"),
    (np.full((3, 3, 3), np.nan), {}, "holds NaN or infinity"),
    (np.broadcast_to(np.float32(0), (1, 80_000_000, 3)), {}, "160000000 x 2 pixels, more than the limit"),
    (np.zeros((3, 3, 3)), dict(estimate=np.zeros((3, 3, 3))), r"estimate is \[3, 3, 3\], the result \[6, 6, 3\]"),
    (np.zeros((3, 3, 3)), dict(tile=0), "tile 0 is not a positive multiple of 1; use 16"),
    (np.zeros((3, 3, 3)), dict(preset="fake"), "preset must be one of syn, real"),
    (np.zeros((3, 3, 3)), dict(guidance=-1), "guidance must be a number from 0, got -1.0"),
    (np.zeros((3, 3, 3)), dict(refine=float("nan")), "refine must be a number from 0, got nan"),
    (np.zeros((3, 3, 3)), dict(regularizer="none"), "regularizer and guide_every are for latents"),
    (np.zeros((3, 3, 3)), dict(guide_every=0), "at least 1"),
    (np.zeros((3, 3, 3)), dict(gradient="no"), "gradient must be one of full, truncated"),
    (np.zeros((3, 3, 3)), dict(start=0), "start is an alpha_bar, a number from 0.001 and below 1; got 0.0"),
    (np.zeros((3, 3, 3)), dict(start=0.5, from_noise=True), "from_noise visits all levels; leave start out"),
    (np.zeros((3, 3, 3)), dict(steps=101), "the prior has 100 levels of noise to visit"),
])
def test_refusals(tiny, y, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.picture(images.Picture(y), **{"steps": STEPS, **options})


def test_what_only_latents_have(tiny):
    space = make("pixel")
    for options, message in ((dict(tile=17), "tile 17 is not a positive multiple of the 2 pixels of a latent; use 16"),
                             (dict(regularizer="R9"), "regularizer must be one of none, penalty")):
        with pytest.raises(ValueError, match=message):
            space.check(**options)
    with pytest.raises(ValueError, match="fill no canvas; pad them to 14 x 8"):
        tiny.batch(np.zeros((1, 9, 8, 3)), rng.image_keys(0, [0]))


def test_settings_become_numbers():
    chain, guidance = settings.resolve(guided.Settings(), None)
    assert (guidance, chain.weights, chain.refine, chain.regularizer) == (3.5, (2.5, 1.0), 0.0, None)
    chain, guidance = settings.resolve(guided.Settings(preset="real", guidance=2), "latent")
    assert (guidance, chain.weights, chain.refine) == (2.0, (1.0, 0.5), 5e-5)
    assert chain.regularizer == restoration.latent_regularizers.LATENT and settings.evaluations(chain) == 120
    assert settings.resolve(guided.Settings(regularizer="none"), "pixel")[0].regularizer == guided.REGULARIZERS["none"]


def test_levels_are_those_of_indigo_plus():
    assert program.visited(schedules.linear(), 100, 0.199).timesteps.tolist() == list(range(0, 400, 4))
    assert program.visited(schedules.linear(), 4, 0.199).timesteps.tolist() == [0, 132, 264, 396]
    assert program.visited(schedules.linear(), 1, 0.199).timesteps.tolist() == [396]
    assert 1e-3 <= program.visited(schedules.linear(), 5, 1e-3).alpha_bar[-1] < 1.1e-3
    np.testing.assert_allclose(program.visited(schedules.cosine(1000), 7, 0.199).alpha_bar[-1], 0.2, atol=2e-3)


# ---------------------------------------------------------------------------------------------------- slow

@pytest.mark.slow
@pytest.mark.parametrize("latent", [None, "pixel", "latent"])
def test_every_setting_changes_the_result(latent):
    network, y = make(latent, lifting_steps=1, num_blocks=1), picture(6, 6)
    plain = restore(network, y)
    changes = [dict(guidance=30), dict(refine=0.05, guidance=0), dict(gradient="truncated", guidance=30), dict(eta=0.0),
               dict(from_noise=True), dict(start=0.6), dict(fix_color=True), dict(preset="real"),
               dict(estimate=np.zeros((12, 12, 3)))]
    changes += [dict(conditional=False, guidance=30)] if latent != "latent" else []
    changes += [dict(guide_every=2), *(dict(regularizer=name) for name in ("none", "penalty"))] if latent else []
    for options in changes:
        found = restore(network, y, **options)
        assert np.isfinite(found[0].pixels).all(), options
        residual = np.isfinite(found[1].residual) and found[1].residual != plain[1].residual
        assert (found[0].pixels != plain[0].pixels).any() or residual, options
    free = restore(network, y, guidance=0)
    assert restore(network, y, guidance=0, refine=0.05)[1].residual < free[1].residual


@pytest.mark.slow
@pytest.mark.parametrize("latent", [None, "pixel", "latent"])
def test_a_photograph(latent):
    network = make(latent, image_size=256, lifting_steps=1, width=4, num_blocks=1)
    restored, report = restore(network, picture(1365, 2048), same_size=True, steps=1, refine=1e-4)
    assert restored.pixels.shape == (1365, 2048, 3) and np.isfinite(restored.pixels).all()
    assert report.layout.rows > 5 and report.layout.columns > 9
