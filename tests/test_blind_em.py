"""Blind deblurring: the kernel from an exact pair, the noise level, the plan, the alternation on a real prior."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import convert, denoisers, metrics, models, operators, restoration, rng, samplers, schedules
from indigo_jax.methods import bird, known
from indigo_jax.restoration import kernel_estimate
from indigo_jax.restoration.blind_em import blur_of, largest_size
from tests.oracles import GaussianDiffusion
from tests.paths import SHARED, needs_shared

X = jnp.clip(operators.gaussian_blur(0.7)(jax.random.normal(jax.random.key(0), (2, 40, 36, 3))), -1, 1)
TRUE = operators.motion_kernel(rng.image_keys(3, [0, 1]), size=9, length=jnp.array([7.0, 9.0]))
FLAT = jnp.full((2, 9, 9), 1 / 81)


def test_the_kernel_of_an_exact_pair_is_found():
    true = jax.vmap(kernel_estimate.centred)(TRUE)
    found = restoration.estimate_kernel(X, operators.blur(true)(X), FLAT, strength=1e-6, threshold=0.0,
                                        num_iterations=3000)
    assert float(jnp.abs(found - true).sum((1, 2)).max()) < 0.1  # 2 is the largest that it can be
    np.testing.assert_allclose(found.sum((1, 2)), 1.0, rtol=1e-5)
    assert bool((found >= 0).all())


def test_large_pictures_are_fitted_strip_by_strip(monkeypatch):
    y, windows = operators.blur(TRUE)(X), operators.patch_weights(40, 36, 1, 2)
    pairs = jnp.stack([TRUE, FLAT], axis=1)
    whole, cells = (kernel_estimate._normal_equations(X[0], y[0], shape.shape[1:], w, None)
                    for shape, w in ((FLAT, None), (pairs, windows)))
    monkeypatch.setattr(kernel_estimate, "_LARGEST", 81 * 36 * 3 * 14)  # 14 rows at a time, 7 for two cells
    for expected, shape, w in ((whole, FLAT, None), (cells, pairs, windows)):
        found = kernel_estimate._normal_equations(X[0], y[0], shape.shape[1:], w, None)
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_what_was_not_seen_does_not_count(monkeypatch):
    """Noise outside of what was measured changes nothing, in one strip or in several; inside it would."""
    y = operators.blur(TRUE)(X)
    seen = jnp.zeros((2, 40, 36)).at[:, 5:33, 6:30].set(1.0)
    spoiled = jnp.where(seen[..., None] > 0, y, jax.random.normal(jax.random.key(1), y.shape))
    found = restoration.estimate_kernel(X, spoiled, FLAT, seen=seen, strength=1e-6, threshold=0.0, num_iterations=3000)
    true = jax.vmap(kernel_estimate.centred)(TRUE)
    assert float(jnp.abs(found - true).sum((1, 2)).max()) < 0.1
    whole = restoration.estimate_kernel(X, spoiled, FLAT, strength=1e-6)
    assert float(jnp.abs(whole - true).sum((1, 2)).min()) > 0.3
    one = kernel_estimate._normal_equations(X[0], spoiled[0], (9, 9), None, seen[0])
    monkeypatch.setattr(kernel_estimate, "_LARGEST", 81 * 36 * 3 * 14)
    for a, b in zip(kernel_estimate._normal_equations(X[0], spoiled[0], (9, 9), None, seen[0]), one):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_the_kernels_of_a_blur_that_changes_are_found():
    cells = operators.motion_kernel(rng.image_keys(5, [0, 1, 2, 3]), size=5, length=5.0)
    cells = jax.vmap(kernel_estimate.centred)(cells)
    windows = operators.patch_weights(40, 36, 2, 2)
    y = operators.varying_blur(cells, windows)(X)
    found = restoration.estimate_kernel(X, y, jnp.full((2, 4, 5, 5), 1 / 25), windows=windows, strength=1e-6,
                                        threshold=0.0, num_iterations=3000)
    assert float(jnp.abs(found - cells).sum((2, 3)).max()) < 0.1
    np.testing.assert_allclose(found.sum((2, 3)), 1.0, rtol=1e-5)
    one = restoration.estimate_kernel(X, y, jnp.full((2, 5, 5), 1 / 25), strength=1e-6)
    assert float(jnp.abs(one[:, None] - cells).sum((2, 3)).min()) > 0.2  # no one kernel does


@pytest.mark.parametrize("family, true", [
    ("gaussian", operators.gaussian_kernel(1.3, 9)), ("motion", operators.linear_motion_kernel(6.0, 0.8, 9))])
def test_the_member_of_a_family_is_found(family, true):
    noisy = operators.blur(true)(X) + 0.02 * jax.random.normal(jax.random.key(2), X.shape)
    found = restoration.estimate_kernel(X, noisy, FLAT, family=family, strength=1e-6)
    assert float(jnp.abs(found - true).sum((1, 2)).max()) < 0.15
    members = kernel_estimate.family_kernels(family, 9)
    np.testing.assert_allclose(members.sum((1, 2)), 1.0, rtol=1e-5)


def test_a_strong_prior_keeps_the_previous_kernel():
    found = restoration.estimate_kernel(X, X, FLAT, strength=1e6, threshold=0.0)
    np.testing.assert_allclose(found, FLAT, atol=1e-4)


def test_simplex_projection_is_the_nearest_point():
    random = np.random.default_rng(0)
    for v in random.normal(size=(5, 7)).astype(np.float32):
        p = np.asarray(kernel_estimate.to_simplex(jnp.asarray(v)))
        assert (p >= 0).all() and abs(p.sum() - 1) < 1e-6
        others = random.dirichlet(np.ones(7), 2000)
        assert np.sum((p - v)**2) <= np.sum((others - v)**2, axis=1).min() + 1e-6


def test_the_fit_has_nesterovs_speed():
    """Where one direction is a thousand times steeper than the others: gradient descent would leave 0.87 of it."""
    gram, best = jnp.diag(jnp.array([1, 1e-3, 1e-3, 1e-3])), jnp.full(4, 0.25)
    start = jnp.array([[0.25, 0.6], [0.1, 0.05]])
    found = kernel_estimate._simplex_least_squares(gram, gram @ best, start, 150)
    assert float(jnp.linalg.norm(found - best) / jnp.linalg.norm(start.ravel() - best)) < 0.3


def test_centring_moves_by_whole_pixels_and_loses_what_leaves():
    kernel = jnp.zeros((5, 5)).at[0, 1].set(0.75).at[0, 2].set(0.25)
    expected = np.zeros((5, 5))
    expected[2, 2], expected[2, 3] = 0.75, 0.25
    np.testing.assert_allclose(kernel_estimate.centred(kernel), expected, atol=1e-6)


def test_rows_and_columns_are_moved_by_their_own_shifts():
    kernel = np.zeros((5, 5), np.float32)
    kernel[0, 3], kernel[1, 3], kernel[4, 0], kernel[4, 4] = 8, 8, 1, 1  # centroid at (0.9, 2.9): down, and back
    moved = np.zeros((5, 5))
    moved[1, 2], moved[2, 2] = 8, 8  # the last row leaves, whichever column it stands in
    np.testing.assert_allclose(kernel_estimate.centred(jnp.asarray(kernel / 18)), moved / 16, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_noise_level_of_a_blurred_picture(sigma):
    y = jnp.broadcast_to(jnp.sin(jnp.linspace(0.0, 6.0, 128))[:, None, None], (2, 128, 128, 3))
    noisy = y + sigma * jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(restoration.noise_level(noisy), sigma, rtol=0.1)
    np.testing.assert_allclose(restoration.noise_level(noisy[:, 1:, 1:]), sigma, rtol=0.15)  # odd sides


def test_plan_counts_evaluations_and_ends_at_the_picture():
    """Two rounds, from 250 and 60 of 300 levels down to 3, and the last walk from the noisiest to the cleanest."""
    schedule = schedules.linear(300)
    kernel = restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X,
                                  walks=restoration.Walks(2, 4, 4))
    assert kernel.num_steps == 12
    x, info = jax.jit(lambda keys: samplers.sample(kernel, keys, X))(rng.image_keys(0, [0, 1]))
    assert x.shape == X.shape and info.steps.residual.shape == (12, 2) and float(jnp.abs(x).max()) <= 1
    np.testing.assert_array_equal(info.steps.t, [250, 168, 85, 3, 60, 41, 22, 3, 299, 199, 100, 0])


@pytest.mark.parametrize("renoise", [0.0, 0.6])
def test_a_step_is_its_formula(renoise):
    """Of a walk: the data term at the round's own noise level, and of the noise so much stays as ``renoise`` says."""
    schedule, x, keys = schedules.linear(300), X[:, :28, :24], rng.image_keys(0, [0, 1])
    denoiser, start = GaussianDiffusion(0.1, 0.5).denoiser(schedule), operators.gaussian_kernel(1.0, 5)
    y = operators.blur(TRUE[:, 2:7, 2:7] / TRUE[:, 2:7, 2:7].sum((1, 2), keepdims=True))(x)
    kernel = restoration.blind_em(denoiser, schedule, y, size=5, start=1.0,
                                  walks=restoration.Walks(2, 4, 0, temper=(0.3, 0.1), renoise=renoise))
    step = jax.jit(kernel.step)

    def noise(x_t, x0, level):
        a = schedule.alpha_bar[level]
        return (x_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)

    first, info = step(keys, kernel.init(y, keys), 0)
    raised = noise(first.x, info.x0, 168)  # the picture was y, raised to level 250 by noise that is not seen again
    state, info = step(keys, first, 1)
    a = schedule.alpha_bar[168]
    denoised = jnp.clip(denoiser(first.x, jnp.full(2, schedule.timesteps[168])).x0, -1, 1)
    np.testing.assert_allclose(state.denoised, denoised, atol=1e-5)
    wanted = operators.proximal(operators.blur(start), y, denoised, 0.3**2 * (a / (1 - a) + 1 / 0.5**2))
    np.testing.assert_allclose(info.x0, jnp.clip(wanted, -1, 1), atol=1e-3)
    before, after = noise(first.x, info.x0, 168), noise(state.x, info.x0, 85)
    new = np.asarray(after - (1 - renoise**2)**0.5 * before)
    assert abs(new.std() - renoise) < 0.03
    assert abs(np.mean(new * np.asarray(before))) < 0.05
    assert 0.8 < float(raised.std()) < 1.2  # were it the same noise twice, more


def test_a_kernel_of_unknown_size_is_found():
    """A denoiser that knows the pictures: what is left to find is the kernel."""
    x = jnp.clip(operators.gaussian_blur(0.7)(jax.random.normal(jax.random.key(4), (2, 28, 32, 3))), -1, 1)
    true = jnp.stack([operators.linear_motion_kernel(length, 0.0, 13) for length in (11.0, 3.0)])
    y, schedule = operators.blur(true)(x), schedules.linear(100)
    knows = denoisers.Prior(lambda x_t, t: denoisers.Prediction(x, x_t), schedule)

    @jax.jit
    def deblur(y, keys):
        return bird.deblur(knows, known.problem_of("deblur", y, keys, {"sigma": 0.01}, x.shape[1:]))

    found = deblur(y, rng.image_keys(0, [0, 1]))
    assert found.kernel.shape == (2, 13, 13)
    assert float(jnp.abs(found.kernel - true).sum((1, 2)).max()) < 0.3


@pytest.mark.parametrize("sides, cells, largest", [
    ((64, 80), 1, 25), ((51, 64), 1, 25), ((50, 64), 1, 23), ((16, 99), 1, 7), ((1, 1), 1, 1), ((64, 64), 9, 9)])
def test_largest_size_is_odd_and_less_than_half(sides, cells, largest):
    assert largest_size(*sides, cells=cells) == largest


def test_the_residual_is_that_of_the_kernel_that_was_used():
    schedule, y = schedules.linear(100), operators.blur(TRUE)(X)
    kernel = restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, y, size=9, sigma=0.02)
    state = kernel.init(y, None)
    _, info = jax.jit(kernel.step)(rng.image_keys(0, [0, 1]), state, 0)
    left = blur_of(state.blur_kernel, (1, 1), y.shape)(info.x0) - y
    np.testing.assert_allclose(info.residual, np.sqrt(np.mean(left**2, axis=(1, 2, 3))), rtol=1e-4)


def test_kernels_of_a_grid_lie_row_by_row():
    """Three of four patches keep a ramp, and that of the second column in the first row moves it by one."""
    kernels, x = np.zeros((1, 4, 3, 3), np.float32), jnp.broadcast_to(jnp.arange(16.0)[:, None], (1, 16, 16))[..., None]
    kernels[0, [0, 2, 3], 1, 1] = kernels[0, 1, 2, 1] = 1
    moved = np.abs(np.asarray(blur_of(jnp.asarray(kernels), (2, 2), x.shape)(x) - x))[0, ..., 0]
    np.testing.assert_allclose([moved[2, 1], moved[2, -2], moved[-3, 1], moved[-3, -2]], [0, 1, 0, 0], atol=1e-5)
    one = blur_of(jnp.asarray(kernels[:, 1]), (1, 1), x.shape)(x)
    np.testing.assert_allclose(np.abs(one - x)[:, 2:-2], 1.0, atol=1e-5)


@pytest.mark.slow
def test_a_grid_of_kernels_runs_and_restores():
    """As above, with a kernel for each half."""
    x = jnp.clip(operators.gaussian_blur(0.7)(jax.random.normal(jax.random.key(4), (1, 32, 40, 3))), -1, 1)
    true = jnp.stack([operators.linear_motion_kernel(5.0, angle, 5) for angle in (0.0, 1.5)])
    y, schedule = operators.varying_blur(true, operators.patch_weights(32, 40, 1, 2))(x), schedules.linear(100)
    kernel = restoration.blind_em(lambda x_t, t: denoisers.Prediction(x, x_t), schedule, y, size=5, sigma=0.01,
                                  grid=(1, 2), walks=restoration.Walks(5, 1, 1))
    state, step = kernel.init(y, None), jax.jit(kernel.step)
    assert state.blur_kernel.shape == (1, 2, 5, 5)
    for i in range(kernel.num_steps):
        state, info = step(rng.image_keys(i, [0]), state, i)
    assert float(info.residual[0]) < 0.01
    assert float(jnp.abs(state.blur_kernel[0] - true).sum((1, 2)).max()) < 0.2


def test_refusals():
    schedule = schedules.linear()
    with pytest.raises(ValueError, match="family must be one of free, gaussian, motion"):
        restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X, family="disk")
    for size in (4, 41):
        with pytest.raises(ValueError, match="size must be odd and at most"):
            restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X, size=size)
    restoration.blind_em(GaussianDiffusion(0.0, 0.5).denoiser(schedule), schedule, X[:, :9], size=9)


@pytest.mark.slow
@needs_shared
def test_blind_deblurring_beats_its_input_on_a_real_prior():
    """Three pictures, their own curved kernels of 9 x 9, only the picture and the weights given; 98 evaluations."""
    params = convert.keras_ddpm(convert.load_quantised(SHARED / "data" / "weights" / "anime64_ddpm_uint8.npz"))
    schedule = schedules.cosine(300, max_beta=0.9999, min_beta=1e-4)
    module = models.KerasUNet()
    denoiser = denoisers.from_eps(lambda x, t: module.apply(params, x, t), schedule)
    paths = sorted((SHARED / "data" / "eval_open" / "anime64").glob("*.png"))[:3]
    x = jnp.asarray(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / 127.5 - 1, jnp.float32)
    keys = rng.image_keys(0, [0, 1, 2])
    true = jax.vmap(kernel_estimate.centred)(operators.motion_kernel(keys, size=9, length=9.0))
    y = operators.blur(true)(x) + 0.02 * rng.normal(rng.fold(keys, 7), x)
    kernel = restoration.blind_em(denoiser, schedule, y)
    out, _ = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y))(keys, y)
    gain = metrics.psnr(out, x) - metrics.psnr(y, x)
    assert float(gain.mean()) > 3 and float(gain.min()) > 1
