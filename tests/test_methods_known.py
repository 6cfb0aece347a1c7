"""Pictures and sinograms through a diffusion prior where the damage is known, or a kernel is looked for."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data, transform

from indigo_jax import denoisers, images, methods, operators, rng, samplers, schedules, weights
from indigo_jax.methods import base, bird, blind, hqs, known, once
from indigo_jax.methods.once import denoise_once
from indigo_jax.methods.sinograms import sinogram, sinogram_noise
from tests import guided_networks, networks
from tests.oracles import GaussianDiffusion

SIDE = 16
RANDOM = np.random.default_rng(0)
KERNEL = np.full((3, 3), 1 / 9, np.float32)
ANGLES = operators.sparse_view_angles(6)
PHANTOM = transform.resize(data.shepp_logan_phantom(), (SIDE, SIDE), anti_aliasing=True).astype(np.float32)
SINOGRAM = np.asarray(operators.radon(ANGLES, SIDE)(PHANTOM[None, :, :, None]))[0, :, :, 0]
HOLES = np.ones((SIDE, SIDE), np.float32)
HOLES[4:8, 4:8] = 0


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Weights of a tiny prior for pictures of 16 x 16."""
    return guided_networks.write_prior(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return networks.write_denoiser(tmp_path_factory.mktemp("weights") / "denoiser.safetensors")


def picture(height, width, **kinds):
    return images.Picture(RANDOM.uniform(-1, 1, (height, width, 3)).astype(np.float32), **kinds)


def fast(monkeypatch, **changes):
    """BIRD with fewer iterations, and a look at what it was told."""
    for task, knobs in bird.DEFAULT.items():
        monkeypatch.setitem(bird.DEFAULT, task, knobs._replace(**{"num_iterations": 3, **changes}))


# ---------------------------------------------------------------- what a task means

@pytest.mark.parametrize("task, given, wanted", [
    ("denoise", {}, lambda x: x), ("sr", {}, operators.average_pool(2)),
    ("deblur", {"kernel": KERNEL}, operators.blur(KERNEL)),
    ("inpaint", {"mask": HOLES[None]}, operators.inpaint(HOLES)),
    ("deblur", {}, None), ("nonuniform", {}, None)])
def test_a_problem_of_pictures(task, given, wanted):
    x = jnp.asarray(RANDOM.uniform(-1, 1, (2, SIDE, SIDE, 3)), jnp.float32)
    y = x if wanted is None else wanted(x)
    problem = known.problem_of(task, y, rng.image_keys(0, [0, 1]), {"sigma": 0.1, **given}, (SIDE, SIDE, 3), scale=2)
    np.testing.assert_allclose(problem.sigma, [0.1, 0.1], rtol=1e-6)
    assert problem.noise.shape == x.shape and (problem.operator is None) == (wanted is None)
    if wanted is not None:
        np.testing.assert_allclose(problem.operator(x), y, atol=1e-6)
        np.testing.assert_allclose(problem.residual(x), 0, atol=1e-5)


def test_a_problem_of_rays_is_in_the_units_of_pictures():
    """The mean along a ray of a picture in [-1, 1], whatever its three channels are."""
    y = SINOGRAM[None, :, :, None]
    problem = known.problem_of("ct", jnp.asarray(y), rng.image_keys(0, [0]), {"sigma": 0.8, "angles": ANGLES},
                               (SIDE, SIDE, 3))
    x = jnp.asarray(np.repeat(2 * PHANTOM[None, :, :, None] - 1, 3, axis=-1))
    np.testing.assert_allclose(problem.residual(x), 0, atol=1e-5)
    np.testing.assert_allclose(problem.sigma, [0.1], rtol=1e-6)


# ---------------------------------------------------------------- pictures

@pytest.mark.parametrize("size, tiles", [((1, 1), 1), ((7, 5), 1), ((20, 33), 6)])
def test_holes_of_any_picture_are_filled_and_the_rest_is_kept(prior, size, tiles, monkeypatch):
    fast(monkeypatch, num_iterations=20)
    mask = np.ones(size, np.float32)
    mask[0, 0] = 0
    y = picture(*size)
    restored, report = methods.load("bird", task="inpaint", weights=prior, mask=mask)(y)
    assert restored.pixels.shape == y.pixels.shape and np.isfinite(restored.pixels).all()
    assert report.plan.count == tiles and report.evaluations == 58 * tiles
    assert float(np.sum(np.abs(restored.pixels - y.pixels) * mask[..., None])) < 0.1 * 3 * y.pixels.size


def test_the_usual_prior_is_that_of_photographs_and_of_slices_their_own():
    found = {(name, task): kind.named_weights(kind.Settings(), task)["weights"]
             for name, kind in methods.METHODS.items() if issubclass(kind, known.KnownOperator) for task in kind.tasks}
    assert found == {(name, task): "ellipses64" if task == "ct" else "photo" for name, task in found}


def test_a_hole_is_a_mean_whose_shares_change_from_its_edge_inwards():
    """Of what lies between the least and the largest value around it; what goes beyond is held there."""
    seen = np.ones((1, 40, 40, 1), np.float32)
    seen[:, 12:28, 12:28] = 0
    board = 0.5 + 0.25 * (-1.0) ** np.add.outer(np.arange(40), np.arange(40))
    y = np.where(seen > 0, board[None, :, :, None], 0.0).astype(np.float32) * np.ones(3, np.float32)
    middle, higher, drifted = (np.asarray(hqs._calmer_inside(np.full_like(y, x), y, seen)) for x in (0.5, 0.74, 9.0))
    share = ((higher - middle) / 0.24)[0, 20, :, 0]
    assert share[12] == pytest.approx(0.3 + 0.2 * np.exp(-0.25), abs=0.01)
    assert share[20] == pytest.approx(0.3 + 0.2 * np.exp(-3.75), abs=0.01)
    assert drifted[0, 12:28, 12:28].max() <= 0.751


def test_holes_begin_with_their_smooth_continuation(denoiser):
    """What was in them is not looked at; a network that changes nothing leaves the continuation."""
    ramp = np.broadcast_to(np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)[:, None, None], (SIDE, SIDE, 3))
    method = methods.load("hqs", task="inpaint", weights=denoiser, mask=HOLES, steps=2)
    module = method.networks["prior"].module
    nothing = jax.tree.map(jnp.zeros_like, method.networks["prior"].params)
    method.networks["prior"] = method.networks["prior"]._replace(module=module, params=nothing)
    restored, report = method(images.Picture(np.where(HOLES[..., None] > 0, ramp, 1.0).astype(np.float32)))
    np.testing.assert_allclose(restored.pixels, ramp, atol=1e-3)
    assert report.evaluations == 2


def test_a_kernel_is_found_from_coarse_to_fine():
    """By a denoiser that knows the pictures, of two each its own, with a border that nobody saw."""
    x = jnp.clip(operators.gaussian_blur(0.7)(jax.random.normal(jax.random.key(4), (2, 64, 72, 3))), -1, 1)
    true = jnp.stack([operators.linear_motion_kernel(length, angle, 11) for length, angle in ((9.0, 0.6), (5.0, 0.0))])
    seen = jnp.zeros((2, 64, 72)).at[:, 6:-6, 6:-6].set(1.0)
    y = seen[..., None] * operators.blur(true)(x)

    class Knowing:  # hqs shows it mirror images

        @staticmethod
        def apply(params, x_t, sigma):
            images = jnp.stack([x, x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1]])
            return images[jnp.argmin(jnp.sum((images - x_t)**2, axis=(1, 2, 3, 4)))]

    method = object.__new__(blind.Blind)
    method.settings = blind.Blind.Settings(kernel_size=11)
    method.networks = {"prior": base.Network(Knowing, None, {
        "kind": "prior", "prediction": "sigma",
        "schedule": schedules.to_json("geometric", num_timesteps=100, sigma_min=0.004, sigma_max=2.0)})}
    found = jax.jit(lambda y, keys: method.find(None, y, seen, 0.01, keys))(y, rng.image_keys(0, [0, 1]))
    assert found.shape == true.shape
    assert float(jnp.abs(found - true).sum((1, 2)).max()) < 0.35  # 2 is the largest that it can be


def test_super_resolution_enlarges_and_explains_its_input(prior, monkeypatch):
    fast(monkeypatch)
    y = images.Picture(0.3 * picture(4, 6).pixels)
    restored, report = methods.load("bird", task="sr", scale=4, weights=prior, sigma_255=1)(y)
    assert restored.pixels.shape == (16, 24, 3) and report.plan.columns == 2
    means = operators.average_pool(4)(jnp.asarray(restored.pixels[None]))[0]
    assert np.abs(means - y.pixels).mean() < 0.05


def test_a_known_kernel_and_an_unknown_one(prior):
    restored, report = methods.load("bird", task="deblur", weights=prior, kernel=KERNEL)(picture(16, 16))
    assert report.kernel is None and report.evaluations == 150
    restored, report = methods.load("bird", task="deblur", weights=prior, kernel_size=5)(picture(16, 16))
    assert report.kernel.shape == (5, 5) and report.evaluations == 98
    np.testing.assert_allclose(report.kernel.sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("task, options, shape", [
    ("deblur", {}, (7, 7)), ("nonuniform", dict(kernel_size=3, grid=(1, 2)), (2, 3, 3)),
    ("deblur", dict(kernel_size=5, kernel_family="gaussian"), (5, 5))])
def test_a_kernel_of_unknown_size_a_family_and_a_grid(prior, task, options, shape):
    restored, report = methods.load("bird", task=task, weights=prior, **options)(picture(16, 16))
    assert restored.pixels.shape == (16, 16, 3) and np.isfinite(restored.pixels).all()
    assert report.kernel.shape == shape and report.evaluations == 98
    np.testing.assert_allclose(report.kernel.sum((-2, -1)), 1.0, rtol=1e-5)
    if "kernel_family" in options:
        np.testing.assert_allclose(report.kernel, report.kernel.T, rtol=1e-4)  # the Gaussian


@pytest.mark.parametrize("name, task, given", [
    ("hqs", "inpaint", {}), ("hqs", "sr", {}), ("hqs", "denoise", {}), ("diffpir", "inpaint", {}),
    ("diffpir", "deblur", {}), ("ddnm", "inpaint", {}), ("ddnm", "deblur", {}), ("dps", "sr", {}),
    ("pigdm", "inpaint", {}), ("tmpd", "deblur", {}), ("ddrm", "inpaint", {}), ("daps", "deblur", {}),
    ("reddiff", "sr", {})])
def test_methods_and_their_tasks(name, task, given, prior, denoiser):
    """Those that the table of test_methods has not."""
    given = {**given, **({"mask": HOLES} if task == "inpaint" else {"kernel": KERNEL} if task == "deblur" else {})}
    method = methods.load(name, task=task, scale=2 if task == "sr" else None, steps=3, **given,
                          weights=denoiser if name == "hqs" else prior)
    y = picture(8, 8) if task == "sr" else picture(SIDE, SIDE)
    restored, report = method(y)
    assert restored.pixels.shape == (SIDE, SIDE, 3) and np.abs(restored.pixels).max() <= 1
    assert report.evaluations == 3 and np.isfinite(report.residual)
    if name == "ddnm" and task == "inpaint":
        np.testing.assert_allclose(restored.pixels * HOLES[..., None], y.pixels * HOLES[..., None], atol=1e-5)


@pytest.mark.parametrize("sigma_255, is_said", [(0.0, False), (5.0, True)])
def test_ddnm_says_that_it_believes_noise(prior, sigma_255, is_said):
    method = methods.load("ddnm", task="deblur", steps=2, kernel=KERNEL, weights=prior, sigma_255=sigma_255)
    _, report = method(picture(SIDE, SIDE))
    assert ("5.0 of 255): use --method hqs" in report.note) == is_said


def test_noise_is_told_or_estimated(denoiser):
    """Of what is seen, in grey values in the report."""
    x = np.tile(np.linspace(-0.5, 0.5, 64, dtype=np.float32)[:, None, None], (1, 64, 3))
    noisy = images.Picture(x + 0.1 * RANDOM.standard_normal(x.shape).astype(np.float32))
    for options, wanted in ((dict(sigma_255=25), 25), (dict(), 0.1 * 127.5)):
        method = methods.load("once", task="denoise", weights=denoiser, **options)
        reports = [method(noisy)[1]]
        assert method.facts(reports)["sigma_255"][0] == pytest.approx(wanted, rel=0.15)
    method = methods.load("diffpir", task="inpaint", weights=denoiser, mask=np.eye(64), steps=1)
    assert method.given(noisy.pixels, lambda array: array[None])["sigma"] == pytest.approx(2.5 / 127.5)


def test_the_strength_of_denoising(denoiser):
    y = picture(9, 8)
    one, half, none = (methods.load("once", task="denoise", weights=denoiser, strength=strength)(y)[0].pixels
                       for strength in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(none, y.pixels, atol=1e-6)
    inside = np.abs(one) < 1
    np.testing.assert_allclose(half[inside], (0.5 * (one + y.pixels))[inside], atol=1e-5)


def test_one_call_is_the_posterior_mean_of_a_gaussian():
    gaussian, schedule = GaussianDiffusion(0.2, 0.4), schedules.geometric(500)
    y = jnp.asarray(RANDOM.uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)
    sigma = jnp.array([0.05, 0.5])
    problem = known.Problem(operators.compose(), y, rng.image_keys(0, [0, 1]), sigma, y.shape[1:])
    x = denoise_once(denoisers.Prior(gaussian.denoiser(schedule), schedule), problem)
    share = (0.4**2 / (0.4**2 + sigma**2))[:, None, None, None]
    np.testing.assert_allclose(x, 0.2 + share * (y - 0.2), atol=5e-3)


def test_texture_that_was_taken_for_noise_is_not_taken_out():
    """A network told too much of a picture takes out less than it was told: that is the level then."""
    x = np.zeros((64, 64, 3), np.float32)
    x[::2, ::2] = 0.3  # the finest texture, everywhere

    def knowing(x_t, t):  # knows the picture; takes out what is not in it
        return denoisers.Prediction(jnp.broadcast_to(jnp.asarray(x), x_t.shape), None)

    noise = RANDOM.standard_normal((1, *x.shape)).astype(np.float32)
    schedule = schedules.geometric(500)
    for added, told, wanted in ((0.02, 0.1, 0.02), (0.1, 0.1, 0.1), (0.0, 0.1, 0.005)):
        problem = known.Problem(operators.compose(), x + added * noise, rng.image_keys(0, [0]), jnp.array([told]),
                                x.shape)
        level = once.explained(denoisers.Prior(knowing, schedule), problem)
        np.testing.assert_allclose(level, wanted, rtol=0.1)


@pytest.mark.parametrize("name", ["hqs", "diffpir", "bird"])
def test_the_border_of_a_blurred_picture_is_honest(name, denoiser, monkeypatch):
    """Beyond it nothing is assumed: a canvas that is larger by the kernel, of which the inside alone is measured."""
    fast(monkeypatch)
    kernel = np.zeros((9, 5), np.float32)
    kernel[:, 2] = 1 / 9
    steps = {} if name == "bird" else {"steps": 1}
    method = methods.load(name, task="deblur", weights=denoiser, kernel=kernel, **steps)
    assert method.margin() == 4 + 8
    seen = []
    run = method.run
    method.run = lambda y, keys, plan, given, *others: seen.append(given) or run(y, keys, plan, given, *others)
    method(picture(20, 30))
    inside = np.asarray(seen[0]["seen"])[0]
    assert inside.sum() == 20 * 30 and (inside[12:32, 12:42] == 1).all()


def test_beside_the_border_a_prior_of_one_size_trusts_less():
    """As much as the share of a pixel that has come from beyond it; nothing in the middle is doubted."""
    kernel = np.zeros((1, 5), np.float32)
    kernel[0, 1:4] = [0.5, 0.25, 0.25]
    wanted = np.ones((6, 8))
    for column, share in ((0, 0.25), (7, 0.5)):  # what lies to the left comes in with the kernel's right
        wanted[:, column] = 0.1 / np.hypot(0.1, share * known._MIRROR)
    np.testing.assert_allclose(known._trusted(kernel, 6, 8, 0.1), wanted, rtol=1e-5)


def test_what_is_left_is_that_of_what_was_measured():
    y, seen = jnp.ones((1, 4, 4, 3)), jnp.zeros((1, 4, 4)).at[:, :1].set(1.0)
    problem = known.Problem(None, seen[..., None] * y, rng.image_keys(0, [0]), jnp.ones(1), (4, 4, 3), seen)
    np.testing.assert_allclose(problem.left(0 * y), 1.0, rtol=1e-6)
    np.testing.assert_allclose(problem._replace(seen=None).left(0 * y), 0.5, rtol=1e-6)


LEANING = np.array([[0.6, 0.2, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.0]], np.float32)


def test_a_kernel_may_be_that_of_a_correlation(prior):
    """torch's, that is, turned by half a turn; auto tries both and takes what explains the picture."""
    def restore(kernel, kernel_is):
        method = methods.load("diffpir", task="deblur", weights=prior, kernel=kernel, kernel_is=kernel_is, steps=3,
                              sigma_255=5)
        restored, report = method(y)
        return restored.pixels, report

    y = picture(16, 16)
    one, two = restore(LEANING, "convolution"), restore(LEANING, "correlation")
    np.testing.assert_array_equal(two[0], restore(LEANING[::-1, ::-1], "convolution")[0])
    assert (one[0] != two[0]).any()
    best = min(one, two, key=lambda each: each[1].residual)
    found, report = restore(LEANING, "auto")
    np.testing.assert_array_equal(found, best[0])
    assert report.evaluations == 6 and report.residual == best[1].residual
    assert report.note.startswith(f"the kernel is that of a {'convolution' if best is one else 'correlation'}")
    assert report.note == report.note.strip()


def test_a_result_that_does_not_explain_its_picture_is_said(prior):
    method = methods.load("diffpir", task="denoise", weights=prior, steps=1)
    for residual, said in ((0.2, "does not explain the picture"), (0.05, "")):
        solved = methods.Solved(jnp.zeros((1, 16, 16, 3)), jnp.array([residual]), jnp.array([0.03]))
        report = method.report(solved, method.plan(16, 16))
        assert (said in report.note) and bool(report.note) == bool(said)
        assert ("note" in method.facts([report])) == bool(said) and method.line([report]).endswith(
            "was said" if said else "(noise 3.8)")


def test_how_a_picture_was_shrunk(denoiser):
    """Enlarging asks for the operator that shrank: shrunk again, the result is the picture."""
    y = jnp.asarray(0.3 * picture(32, 32).pixels[None])
    for shrunk, wanted in (("bicubic", operators.downsample(2)), ("mean", operators.average_pool(2))):
        method = methods.load("hqs", task="sr", scale=2, weights=denoiser, shrunk=shrunk, steps=1)
        problem = method.problem(y, rng.image_keys(0, [0]), method.plan(64, 64), {"sigma": 0.01})
        x = jnp.asarray(RANDOM.uniform(-1, 1, (1, 64, 64, 3)), jnp.float32)
        np.testing.assert_allclose(problem.operator(x), wanted(x), atol=1e-6)


def test_bird_starts_from_the_noise_of_a_picture():
    """After one iteration the picture is the rollout of the start: that of a restored picture explains y better."""
    gaussian, schedule = GaussianDiffusion(0.2, 0.4), schedules.respace(schedules.linear(), 50, "linspace")
    mask = (jnp.arange(16).reshape(4, 4) % 3 > 0).astype(jnp.float32)
    operator, keys = operators.inpaint(mask), rng.image_keys(0, np.arange(64))
    x = 0.2 + 0.4 * rng.normal(keys, jnp.zeros((64, 4, 4, 3)))
    prior = denoisers.Prior(gaussian.denoiser(schedule), schedule)
    left = {}
    for start in (0, 20):
        knobs = bird.Optimisation(num_iterations=1, start=start, alpha_bar_min=0.5)
        assert knobs.evaluations == 5 + start

        def optimise(operator, keys):
            problem = known.Problem(operator, operator(x), keys, jnp.full(64, 0.02), x.shape[1:])
            return bird.optimise(prior, problem, knobs)

        left[start] = float(jax.jit(lambda keys: optimise(operator, keys))(keys).residual.mean())
    assert left[20] < 0.8 * left[0]
    problem = known.Problem(operators.blind_blur(3), x, keys, jnp.full(64, 0.02), x.shape[1:])
    with pytest.raises(ValueError, match="known, linear"):
        bird.optimise(prior, problem, knobs)


def test_settings_of_the_released_program(prior):
    method = methods.load("bird", task="denoise", weights=prior, preset="official")
    assert method.optimisation == bird.OFFICIAL["denoise"] and bird.OFFICIAL["denoise"].evaluations == 2000
    assert methods.load("bird", task="sr", weights=prior, scale=2).optimisation == bird.DEFAULT["sr"]


def test_a_picture_larger_than_the_prior_has_learned_is_warned_of(prior):
    method = methods.load("diffpir", task="denoise", weights=prior)
    assert method.warning(picture(16, 16)) is None
    assert method.warning(picture(16, 20)) == ("tiny has learned pictures of 16 px; this one of 20 x 16 pixels is "
                                               "restored in 2 pieces, each as if it were such a picture")


@pytest.mark.parametrize("name, options, message", [
    ("bird", dict(task="colourise"), "bird does deblur, nonuniform, sr, denoise, inpaint, ct; not 'colourise'"),
    ("bird", dict(task="nonuniform", grid=(0, 2)), "1 to 8 rows and columns of kernels, not 0 x 2"),
    ("bird", dict(task="inpaint"), "inpaint needs a mask, a picture in which the area to fill is white"),
    ("bird", dict(task="denoise", mask=np.ones((16, 16))), "mask is for inpaint, not for denoise; leave it out"),
    ("diffpir", dict(task="denoise", kernel=np.ones((3, 3))), "kernel is for deblur, not for denoise"),
    ("bird", dict(task="deblur", kernel_size=4), "kernel_size must be odd; use 5, not 4"),
    ("bird", dict(task="deblur", kernel=KERNEL, candidates=2), "a kernel says what the blur is; leave kernel_size"),
    ("bird", dict(task="sr", scale=3), "scale 3 does not divide"),
    ("blind", dict(task="deblur", kernel=KERNEL), "the kernel is given, so nothing is to be found: use --method hqs"),
    ("blind", dict(task="deblur", kernel_size=8), "kernel_size must be odd; use 9, not 8"),
    ("blind", dict(task="deblur"), "blind needs a denoiser of any, as photo: use --method bird"),
    ("hqs", dict(task="deblur"), "hqs undoes a blur that is known: give its kernel, or use blind"),
    ("ddnm", dict(task="denoise"), "ddnm does sr, inpaint, deblur; not 'denoise'"),
])
def test_refusals(prior, name, options, message):
    with pytest.raises(ValueError, match=message):
        methods.load(name, weights=prior, **options)(picture(16, 16))


def test_a_mask_of_another_size(prior):
    with pytest.raises(ValueError, match="the mask has 4 x 3 pixels, the picture 16 x 16"):
        methods.load("bird", task="inpaint", weights=prior, mask=np.ones((3, 4)))(picture(16, 16))


def test_a_network_of_latents_is_no_prior_of_pictures(tmp_path):
    files = guided_networks.write_all(tmp_path)
    with pytest.raises(weights.WeightsError, match="a diffusion prior of latents .for --method latent-indigo., where a "
                                                   "diffusion prior of pictures is needed"):
        methods.load("diffpir", task="denoise", weights=files["latents"])


# ---------------------------------------------------------------- sinograms

@pytest.mark.parametrize("channels", [1, 3])
def test_many_views_without_noise_leave_one_picture(channels):
    """With a Gaussian prior and more rays than pixels the answer is the phantom, whatever the prior's mean."""
    schedule, size = schedules.linear(100), 8
    wide = known.grey_prior(denoisers.Prior(GaussianDiffusion(0.5, 1.0).denoiser(schedule), schedule))
    angles = operators.sparse_view_angles(24)
    density = operators.gaussian_blur(0.7)(jax.random.uniform(jax.random.key(1), (2, size, size, 1)))

    @jax.jit
    def solve(y, keys):
        problem = known.problem_of("ct", y, keys, {"sigma": 1e-3, "angles": angles}, (size, size, channels))
        kernel = methods.diffpir.chain(wide, problem, 100, 1.0)
        x = jnp.clip(samplers.sample(kernel, keys, problem.noise)[0], -1, 1)
        return x, problem.residual(x)

    x, residual = solve(operators.radon(angles, size)(density), rng.image_keys(0, [0, 1]))
    assert x.shape == (2, size, size, channels)
    assert float(jnp.sqrt(jnp.mean((x.mean(-1) - (2 * density[..., 0] - 1))**2))) < 0.06
    assert float(residual.max()) < 2e-3


def test_the_noise_of_smooth_projections_is_found():
    wave = np.sin(np.linspace(0, 6, 128))[None, :, None, None] * np.ones((2, 128, 40, 1))
    noisy = wave + 0.1 * np.random.default_rng(0).normal(size=wave.shape)
    np.testing.assert_allclose(sinogram_noise(jnp.asarray(noisy, jnp.float32)), 0.1, rtol=0.05)


@pytest.fixture(scope="module")
def ct(prior):
    return methods.load("bird", task="ct", weights=prior)


@pytest.mark.parametrize("detectors, tiles", [(16, 1), (11, 1), (20, 4)])
def test_the_picture_has_the_side_of_the_detectors(ct, detectors, tiles):
    phantom = transform.resize(PHANTOM, (detectors, detectors))
    place = np.arange(detectors) - detectors // 2
    phantom[place[:, None]**2 + place**2 > (detectors // 2)**2] = 0
    values = transform.radon(phantom, ANGLES, circle=True)
    restored, report = ct(sinogram(values, ANGLES))
    assert restored.pixels.shape == (detectors, detectors, 3) and restored.grey
    assert report.plan.count == tiles and report.evaluations == 100 * tiles

    def error(density):
        density = jnp.asarray(density, jnp.float32)[None, :, :, None]
        return np.abs(operators.radon(ANGLES, detectors)(density)[0, :, :, 0] - values).mean()

    assert error(restored.pixels[..., 0] / 2 + 0.5) < 0.1 * error(np.full_like(phantom, 0.5))


def test_the_same_sinogram_gives_the_same_bytes_and_samples_differ(ct):
    slices = sinogram(SINOGRAM)
    first, again, other = (ct(slices, sample=sample)[0].pixels for sample in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["pigdm", "tmpd", "pnp-flow"])
def test_guided_draws_of_a_slice(name, prior):
    restored, report = methods.load(name, task="ct", weights=prior, steps=3)(sinogram(SINOGRAM))
    assert restored.pixels.shape == (SIDE, SIDE, 3) and restored.grey and np.isfinite(report.residual)
    assert report.evaluations == 3


def test_bird_and_diffpir_are_one_method_for_sinograms(ct, prior):
    other = methods.load("diffpir", task="ct", weights=prior)
    np.testing.assert_array_equal(other(sinogram(SINOGRAM))[0].pixels, ct(sinogram(SINOGRAM))[0].pixels)


def test_what_is_shown_of_a_sinogram_is_its_back_projection():
    slices = sinogram(SINOGRAM, ANGLES)
    assert slices.pixels.shape == (SIDE, SIDE, 3) and np.abs(slices.pixels).max() <= 1
    assert np.corrcoef(slices.pixels[..., 0].ravel(), PHANTOM.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("values, angles, message", [
    (np.zeros((4, 4, 1)), None, r"a 2-D array of numbers, \[detectors, angles\], this is float64 \[4, 4, 1\]"),
    (np.zeros((4, 4), complex), None, "complex128"),
    (np.full((4, 4), np.nan), None, "NaN"),
    (np.zeros((4, 3)), np.zeros(2), "3 columns for 2 angles$"),
    (np.zeros((4, 3)), np.zeros(4), "3 columns for 4 angles: it must be .*sinogram.T"),
    (np.zeros((4, 1)), [np.inf], "finite numbers, in degrees"),
    (SINOGRAM.T, None, "its columns do not: .*sinogram.T"),
    (255 * SINOGRAM, None, "divide it by the density"),
])
def test_what_is_no_sinogram(values, angles, message):
    with pytest.raises(ValueError, match=message):
        sinogram(values, angles)


def test_both_turns_of_a_kernel_take_smaller_tiles(tmp_path):
    network = str(networks.write_denoiser(tmp_path / "denoiser.safetensors"))
    method = methods.load("hqs", task="deblur", weights=network, kernel=np.full((3, 3), 1 / 9), kernel_is="auto")
    large = images.Picture(np.zeros((256, 256, 3), np.float32))
    smaller = method.smaller(large)
    assert smaller.largest == smaller.turned.largest == 128
    assert smaller.expected(large)[1].tile[0] == smaller.turned.expected(large)[1].tile[0]
    assert smaller.expected(large)[1].tile[0] < method.expected(large)[1].tile[0]
    assert method.largest is None and method.turned.largest is None
    assert method.smaller(images.Picture(np.zeros((9, 9, 3), np.float32))) is None
