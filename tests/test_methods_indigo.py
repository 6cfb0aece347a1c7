"""Pictures of all sizes through INDIGO and LatentINDIGO, with closed-form networks; loading is in test_cli_indigo."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data, transform

from indigo_jax import images, methods, metrics, models, operators, restoration, rng, samplers, schedules, tiles
from indigo_jax.methods import base, indigo
from indigo_jax.methods.guided_chain import REGULARIZERS, resolve, visited
from indigo_jax.methods.indi import Indi
from indigo_jax.weights import latents
from tests import guided_networks
from tests.oracles import GaussianDiffusion
from tests.test_lpips import random_weights

RANDOM = np.random.default_rng(0)
SCHEDULE = schedules.to_json("linear", num_timesteps=100)
GAUSSIAN = GaussianDiffusion(0.1, 0.3)
STEPS = 4
TINY = dict(lifting_steps=0, num_blocks=0, width=2, cond_dim=2, cond_width=2, encoder_channels=2, encoder_blocks=0)
DECODED = []


@dataclasses.dataclass(frozen=True)
class Pixelwise:
    """The noise of a Gaussian prior: every pixel by itself."""

    image_size: int = 16
    out_channels: int = 3

    def apply(self, params, x, t):
        return GAUSSIAN.denoiser(schedules.from_json(SCHEDULE))(x, t).eps


@dataclasses.dataclass(frozen=True)
class Means:
    """An autoencoder: means of 2 x 2, and pixels repeated. Whatever is decoded is counted."""

    latent_channels: int = 3
    factor: int = 2
    scaling_factor: float = 1.0

    def apply(self, params, x, method):
        if method == "encode":
            return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))
        jax.debug.callback(lambda: DECODED.append(1))
        return x.repeat(2, 1).repeat(2, 2)


@dataclasses.dataclass(frozen=True)
class Grey:
    """A restorer that answers grey, for a first estimate."""

    condition_on_y = False

    def apply(self, params, x, t):
        return jnp.full_like(x, params["level"])


class GreyEstimate(Indi):
    """InDI that answers a grey level."""

    def load(self):
        info = {"kind": "restorer", "tasks": ["sr"], "noise": {"name": "none", "eps": 0.0}}
        self.networks = {"restorer": base.Network(Grey(), {"level": jnp.float32(0.0)}, info)}


def random_params(module, *inputs):
    shapes = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs),
                            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(0.1 * random.standard_normal(leaf.shape)), shapes)


@functools.cache
def inn_of(latent, options):
    """The plain split as invertible network, of scale 2."""
    module = models.GuidanceINN(levels=1, **{**TINY, **dict(options)})
    info = {"scale": 1 if module.undecimated else 2, "name": "inn", "sha256": "i" * 64,
            **({"autoencoder": {"name": "means", "sha256": "m" * 64}} if latent == "latent" else {})}
    return base.Network(module, random_params(module, (1, 16, 16, 3), (1, 8, 8, 3)), info)


def make(latent=None, image_size=16, inn=(), task="auto", **settings):
    """INDIGO, or with ``latent`` "pixel" or "latent" LatentINDIGO of that variant; counts its traces."""
    kind = methods.METHODS["latent-indigo" if latent else "indigo"]

    class Made(kind):
        traces = 0

        def load(self):
            facts = {"schedule": SCHEDULE, "prediction": "eps", "name": "prior", "sha256": "p" * 64}
            self.networks = {"prior": base.Network(Pixelwise(image_size), {}, facts),
                             "inn": inn_of(latent, tuple(inn))}
            self.space, self.variant, self.factor = None, None, 1
            if latent:
                info = {"architecture": "Means", "name": "means", "sha256": "m" * 64}
                self.networks["autoencoder"] = base.Network(Means(), {}, info)
                self.variant, self.space = latent, latents.from_module(*self.networks["autoencoder"])
                self.factor = self.space.factor
            self._finish()

        def solve(self, *arguments, **known):
            self.traces += 1
            return super().solve(*arguments, **known)

    return Made(Made.Settings(**{"steps": STEPS, "no_color_fix": True, **settings}), task=task)


@pytest.fixture(scope="module")
def tiny():
    return make()


def picture(height, width, **kinds):
    return images.Picture(RANDOM.uniform(-1, 1, (height, width, 3)).astype(np.float32), **kinds)


def batch(method, y, keys, **given):
    """Pictures that fill their canvas."""
    plan = method.plan(*(method.scale * side for side in y.shape[1:3]))
    assert plan.canvas == tuple(method.scale * side for side in y.shape[1:3])
    return method.run(y, keys, plan, given)


# ---------------------------------------------------------------------------------------------------- pictures

def test_mixed_sizes_share_programs_and_do_not_touch_one_another(tiny):
    sizes = [(1, 1), (8, 8), (9, 8), (14, 1), *((1 + 5 * i % 14, 1 + 3 * i % 8) for i in range(16))]
    pictures = [picture(*size) for size in sizes]
    before = tiny.traces
    results = [tiny(y) for y in pictures]
    canvases = {tiny.plan(2 * height, 2 * width).canvas for height, width in sizes}
    assert tiny.traces - before <= len(canvases) == 2
    for (height, width), (restored, report) in zip(sizes, results):
        assert restored.pixels.shape == (2 * height, 2 * width, 3) and np.isfinite(restored.pixels).all()
        assert report.evaluations == STEPS * report.plan.count and report.plan.count == (1 if height <= 8 else 2)
        assert report.drift is None
    again = [tiny(y)[0].pixels for y in pictures[:3]]
    jax.tree.map(np.testing.assert_array_equal, again, [restored.pixels for restored, _ in results[:3]])


def test_without_guidance_it_is_ddim_from_the_bicubic_estimate():
    y, keys = jnp.asarray(RANDOM.uniform(-1, 1, (1, 8, 8, 3)), jnp.float32), rng.image_keys(3, [5])
    levels = visited(schedules.from_json(SCHEDULE), STEPS, 0.199)
    estimate = jnp.clip(operators.upsample(2)(y), -1, 1)

    @jax.jit
    def plain(keys, estimate):
        def clipped(x, t):
            prediction = GAUSSIAN.denoiser(schedules.from_json(SCHEDULE))(x, t)
            return prediction._replace(x0=jnp.clip(prediction.x0, -1, 1))

        kernel = samplers.ddim(clipped, levels, 0.5)
        return samplers.sample(kernel, keys, restoration.indigo_start(levels, estimate, keys))[0]

    free = batch(make(guidance=0), y, keys)
    np.testing.assert_allclose(free.x, plain(keys, estimate), atol=1e-5)
    assert batch(make(guidance=30), y, keys).residual[0] < 0.9 * free.residual[0]


def test_tiles_of_a_network_of_single_pixels_change_nothing(tiny):
    y = picture(32, 8)
    many, one = tiny(y), make(tile=64)(y)
    assert many[1].plan.rows == 5 and one[1].plan.canvas == (64, 16) and one[1].plan.count == 1
    np.testing.assert_allclose(many[0].pixels, one[0].pixels, atol=1e-5)


@pytest.mark.parametrize("task", ["auto", "jpeg"])
def test_a_picture_of_its_wanted_size_is_shrunk_and_its_own_estimate(task, tiny):
    y = picture(16, 12)
    same = make(same_size=True) if task == "auto" else make(task=task)
    found, report = same(y)
    assert same.scale == 1 and found.pixels.shape == (16, 12, 3) and report.plan.canvas == (16, 16)
    whole = np.pad(y.pixels, [(0, 0), (0, 4), (0, 0)], "symmetric")[None]
    shrunk = jnp.clip(operators.downsample(2)(jnp.asarray(whole)), -1, 1)
    keys = rng.fold(rng.image_keys(0, [base.content_id(y.pixels)]), 0)
    wanted = batch(tiny, shrunk, keys, estimate=jnp.asarray(whole))
    np.testing.assert_allclose(found.pixels, wanted.x[0, :, :12], atol=1e-5)


def test_a_first_estimate_is_that_of_another_method(tiny):
    method = make()
    method.estimator = GreyEstimate(task="sr", scale=2)
    found, _ = method(picture(8, 8))
    y = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype(np.float32)
    keys = rng.fold(rng.image_keys(0, [base.content_id(y)]), 0)
    wanted = batch(tiny, jnp.asarray(y[None]), keys, estimate=jnp.zeros((1, 16, 16, 3)))
    np.testing.assert_allclose(method(images.Picture(y))[0].pixels, wanted.x[0], atol=1e-5)
    assert np.isfinite(found.pixels).all()


@pytest.mark.parametrize("variant", ["pixel", "latent"])
def test_latents_are_decoded_in_the_loop_only_for_a_network_of_pixels(variant):
    method = make(variant, regularizer="trust-region")
    DECODED.clear()
    restored, report = method(picture(5, 7))
    jax.effects_barrier()
    assert restored.pixels.shape == (10, 14, 3) and report.drift is not None and np.isfinite(report.drift)
    assert len(DECODED) == 1 if variant == "latent" else len(DECODED) > STEPS
    facts = method.facts([report])
    assert facts["variant"] == variant and facts["autoencoder"]["name"] == "means" and len(facts["drift"]) == 1
    assert facts["residual_of"] == ("latents" if variant == "latent" else "pixels from 0 to 1")


def test_facts_of_pixels(tiny):
    _, report = tiny(picture(9, 3))
    facts = tiny.facts([report, report])
    assert facts == {"steps": 4, "guidance": 3.5, "refine": 0.0, "network_evaluations": 16, "canvas": [16, 28],
                     "residual": [round(report.residual, 6)] * 2, "residual_of": "pixels from 0 to 1", "tiles": 2,
                     "inn": {"name": "inn", "sha256": "i" * 64}}
    assert tiny.line([report]).startswith("8 network evaluations in 2 tiles of 16 x 16, residual ")


def test_a_plan_is_that_of_the_prior_and_of_the_invertible_network(tiny):
    assert tiny.plan(54, 18) == tiles.Plan((64, 28), (16, 16), 4) and tiny.plan(54, 18).rows == 5
    assert make("latent").plan(20, 20) == tiles.Plan((24, 24), (16, 16), 8)


# ---------------------------------------------------------------------------------------------------- settings

@pytest.mark.parametrize("options, message", [
    (dict(tile=17), None), (dict(tile=0), "tile must be from 1 to 16384, got 0"),
    (dict(preset="fake"), "preset must be one of syn, real"),
    (dict(guidance=-1.0), "guidance must be from 0 to 1e.06, got -1.0"),
    (dict(refine=float("nan")), "refine must be from 0 to 1, got nan"),
    (dict(gradient="no"), "gradient must be one of full, truncated"),
    (dict(start=0.0), "start must be from 0.001 to 0.9999, got 0.0"),
    (dict(start=0.5, from_noise=True), "from_noise visits all levels; leave start out"),
    (dict(estimate="indi-photo", from_noise=True), "from_noise starts without a first estimate; leave estimate out"),
    (dict(steps=101), "the prior has 100 levels of noise to visit"),
    (dict(task="sr", same_size=True), "task sr enlarges; leave same_size out"),
])
def test_refusals(options, message):
    if message is None:
        make(**options)
        return
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_what_only_latents_have():
    for options, message in ((dict(tile=17), "tile 17 is not a positive multiple of the 2 pixels of a latent; use 16"),
                             (dict(regularizer="R9"), "regularizer must be one of none, penalty"),
                             (dict(guide_every=0), "guide_every must be from 1")):
        with pytest.raises(ValueError, match=message):
            make("pixel", **options)
    for name in ("regularizer", "guide_every", "autoencoder", "variant"):
        with pytest.raises(ValueError, match=f"indigo has no setting '{name}'"):
            methods.load("indigo", **{name: 1})


@pytest.fixture(scope="module")
def lpips_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "weights.npz"
    np.savez(path, **random_weights())
    return str(path)


def test_lpips_as_distance(lpips_weights, monkeypatch):
    """By a file or the environment; what it compares are pictures: the same as the metric, handed in as a function."""
    options = dict(image_size=32, steps=1, inn=(("lifting_steps", 1), ("num_blocks", 1)))
    by_file, plain = make(distance="lpips", lpips=lpips_weights, **options), make(**options)
    monkeypatch.setenv("INDIGO_LPIPS", lpips_weights)
    assert make(distance="lpips", **options).networks["lpips"].info == by_file.networks["lpips"].info
    keys, y = rng.image_keys(0, [0]), jnp.asarray(RANDOM.uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    # the weights of the energy belong to LPIPS; a norm's are smaller by as much as its gradient is larger
    assert by_file.chain.weights == (2.5, 1.0) and plain.chain.weights[0] == 2.5 and 0 < plain.chain.weights[1] < 1
    plain.chain, plain.distance = by_file.chain, functools.partial(metrics.lpips,
                                                                   params=metrics.load_lpips(lpips_weights))
    np.testing.assert_array_equal(batch(by_file, y, keys).x, batch(plain, y, keys).x)
    plan = by_file.plan(32, 32)
    report = base.Report(1, plan, residual=0.1)
    assert by_file.facts([report])["lpips"] == {"name": "lpips-alex-v0.1",
                                                "sha256": by_file.networks["lpips"].info["sha256"]}


def test_where_lpips_cannot_be_the_distance(lpips_weights, monkeypatch):
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    for latent, options, message in (
            (None, dict(distance="lpips"), "distance lpips needs its weights, .*: give lpips, an .npz file"),
            (None, dict(lpips=lpips_weights), "give distance lpips, or leave it out"),
            ("latent", dict(distance="lpips", lpips=lpips_weights), "give variant pixel, or distance norm"),
            (None, dict(distance="ssim"), "distance must be one of norm, lpips")):
        with pytest.raises(ValueError, match=message):
            make(latent, **options)
    assert list(make("pixel", distance="lpips", lpips=lpips_weights).networks) == ["prior", "inn", "autoencoder",
                                                                                   "lpips"]


def test_settings_become_numbers():
    pixels, of_latents = methods.METHODS["indigo"].Settings, methods.METHODS["latent-indigo"].Settings
    chain = resolve(pixels(), None)
    assert (chain.guidance, chain.refine, chain.regularizer) == (3.5, 0.0, None)
    np.testing.assert_allclose(chain.weights, (2.5, 0.08 / 1.4), rtol=1e-6)
    assert resolve(pixels(distance="lpips"), None).weights == (2.5, 1.0)
    chain = resolve(of_latents(preset="real", guidance=2), "latent")
    assert (chain.guidance, chain.weights, chain.refine) == (2.0, (1.0, 0.5), 0.0)
    assert chain.regularizer == restoration.LatentRegularizer(radius=1.0) and chain.evaluations == 100
    assert resolve(of_latents(regularizer="resample"), "latent").evaluations == 120
    assert resolve(of_latents(), "latent").guidance == 1.0 and resolve(of_latents(), "pixel").start == 0.5
    assert resolve(of_latents(regularizer="none"), "pixel").regularizer == REGULARIZERS["none"]
    assert resolve(pixels(from_noise=True), None).start == 1e-3


def test_levels_are_those_of_indigo_plus():
    assert visited(schedules.linear(), 100, 0.199).timesteps.tolist() == list(range(0, 400, 4))
    assert visited(schedules.linear(), 4, 0.199).timesteps.tolist() == [0, 132, 264, 396]
    assert visited(schedules.linear(), 1, 0.199).timesteps.tolist() == [396]
    assert 1e-3 <= visited(schedules.linear(), 5, 1e-3).alpha_bar[-1] < 1.1e-3
    np.testing.assert_allclose(visited(schedules.cosine(1000), 7, 0.199).alpha_bar[-1], 0.2, atol=2e-3)


# ---------------------------------------------------------------------------------------------------- slow

@pytest.mark.slow
@pytest.mark.parametrize("latent", [None, "pixel", "latent"])
def test_every_setting_changes_the_result(latent):
    y, small = picture(6, 6), (("lifting_steps", 1), ("num_blocks", 1))

    def restore(**options):
        return make(latent, inn=small, **options)(y)

    plain = restore()
    changes = [dict(guidance=30), dict(refine=0.05, guidance=0), dict(gradient="truncated", guidance=30), dict(eta=0.0),
               dict(from_noise=True), dict(start=0.6), dict(no_color_fix=False), dict(preset="real")]
    changes += [dict(unconditional=True, guidance=30)] if latent != "latent" else []
    changes += [dict(guide_every=2), *(dict(regularizer=name) for name in ("none", "penalty"))] if latent else []
    for options in changes:
        found = restore(**options)
        assert np.isfinite(found[0].pixels).all(), options
        residual = np.isfinite(found[1].residual) and found[1].residual != plain[1].residual
        assert (found[0].pixels != plain[0].pixels).any() or residual, options
    free = restore(guidance=0)
    assert restore(guidance=0, refine=0.05)[1].residual < free[1].residual


@pytest.mark.slow
@pytest.mark.parametrize("latent", [None, "pixel", "latent"])
def test_a_photograph(latent):
    method = make(latent, image_size=256, inn=(("lifting_steps", 1), ("width", 4), ("num_blocks", 1)), same_size=True,
                  steps=1, refine=1e-4)
    restored, report = method(picture(1365, 2048))
    assert restored.pixels.shape == (1365, 2048, 3) and np.isfinite(restored.pixels).all()
    assert report.plan.rows > 5 and report.plan.columns > 9


# ---------------------------------------------------------------------------------------------------- what ships

@functools.cache
def portrait(side):
    """The astronaut's face, ``[1, side, side, 3]`` in [-1, 1]."""
    face = data.astronaut()[5:205, 125:325]
    return jnp.asarray(2 * transform.resize(face, (side, side), anti_aliasing=True)[None] - 1, jnp.float32)


@pytest.mark.parametrize("name, steps, gain", [
    ("latent-indigo", 20, 0.2), ("indigo", 50, 0.5)])
@pytest.mark.slow  # a minute and two
def test_guidance_beats_the_prior_alone(name, steps, gain):
    """With the weights that ship: by decibels, and with less than half of the residual."""
    def restore(**settings):
        method = methods.load(name, steps=steps, no_color_fix=True, **settings)
        x = portrait(method.learned)
        y = operators.compose(operators.downsample(method.scale), operators.quantize())(x)
        found = batch(method, y, rng.image_keys(0, [0]))
        assert np.isfinite(found.x).all()
        return float(metrics.psnr(np.asarray(found.x), np.asarray(x))[0]), float(found.residual[0])

    (free, far), (pulled, near) = restore(guidance=0.0), restore()
    assert pulled > free + gain and near < far / 2, (free, pulled, far, near)


class Seeing:
    """An invertible network whose condition is the picture that it is shown."""

    def apply(self, params, y, method):
        assert method == "embed"
        return params["by"] * jnp.mean(y, axis=(1, 2))


@pytest.mark.parametrize("side", [8, indigo._PIECE + 100])
def test_the_condition_is_that_of_the_measurement(side):
    """Of a large picture the mean over pieces that cover it; here all pieces are alike."""
    y = jnp.broadcast_to(jnp.array([0.1, 0.4, 0.8]), (2, side, side, 3))
    np.testing.assert_allclose(indigo._embedding(Seeing(), {"by": 2.0}, y), [[0.2, 0.8, 1.6]] * 2, rtol=1e-5)


def test_the_network_is_shown_the_measurement_in_its_own_range(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(indigo, "_embedding", lambda module, params, y: told.append(np.asarray(y)))
    files = guided_networks.write_all(tmp_path)
    method = methods.load("indigo", prior=files["prior"], inn=files["same"], steps=1)
    pixels = RANDOM.uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    monkeypatch.setattr(restoration, "indigo", lambda *args, **options: None)
    plan = method.plan(16, 16)
    method.begun(method.params, jnp.asarray(pixels[None]), rng.image_keys(0, [0]), plan=plan, given={})
    np.testing.assert_allclose(told[0][0], pixels / 2 + 0.5, atol=1e-6)
