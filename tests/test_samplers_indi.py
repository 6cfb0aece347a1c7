"""The InDI sampler against closed forms: four modes in the plane, Gaussian pictures, Gaussian scalars.

The expected numbers of the tables below come from an independent numpy computation of the method; where they are
draws of 40,000 samples they carry an error of about 0.02 in the MSE.
"""
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, paths, rng, samplers
from tests import oracles

COUNT = 40_000
IDENTITY, MISSING = ((1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 0.0))
NOISES = [oracles.Noise("none"), oracles.Noise("constant", 0.1), oracles.Noise("brownian", 0.3)]
noises = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.mode)


def library(noise):
    """The library's noise mode for the oracle's."""
    return {"none": samplers.no_noise, "constant": lambda: samplers.constant_noise(noise.eps),
            "brownian": lambda: samplers.brownian_noise(noise.eps)}[noise.mode]()


def uniform(num_steps):
    return np.linspace(1, 0, num_steps + 1)


@functools.cache
def many_keys(seed):
    return rng.image_keys(seed, np.arange(COUNT))


def keys_for(y, seed=0):
    """The keys of images 0, 1, 2, ..."""
    return many_keys(seed)[:len(y)]


def run(restorer, times, y, *, noise=NOISES[0], seed=0, trace=None, keys=None, **knobs):
    """``sample`` under jit."""
    kernel = samplers.indi(restorer, times, noise=library(noise), **knobs)
    keys = keys_for(y, seed) if keys is None else keys
    return jax.jit(lambda keys, y: samplers.sample(kernel, keys, y, trace=trace))(keys, jnp.asarray(y))


def run_each(kernels, keys, y, **knobs):
    """The pictures of several kernels, in one program."""
    return jax.jit(lambda keys, y: [samplers.sample(kernel, keys, y, **knobs)[0] for kernel in kernels])(
        keys, jnp.asarray(y))


def from_x1(kernel):
    """The kernel that starts from the given x_1 itself, so that only its steps act."""
    return kernel._replace(init=lambda x_1, keys: kernel.init(x_1, keys)._replace(x=x_1))


def smooth(x, t):
    """A cheap nonlinear restorer that mixes neighbours, for the tests that need no oracle."""
    blurred = 0.5 * x + 0.25 * (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1))
    return jnp.tanh(blurred + 0.3 * oracles.per_image(t, x))


def pictures(count=6, shape=(40,), seed=3):
    """The sampler takes any shape after the batch; a flat one compiles fastest."""
    return np.random.default_rng(seed).uniform(-1, 1, (count,) + shape).astype(np.float32)


# ---------------------------------------------------------------- four modes in the plane, exact F

STEPS = (1, 2, 5, 10, 20, 100)
TOYS = {
    "identity": oracles.FourModes(IDENTITY, 1.0),
    "missing-constant-.01": oracles.FourModes(MISSING, 0.0, oracles.Noise("constant", 0.01)),
    "missing-constant-.1": oracles.FourModes(MISSING, 0.0, oracles.Noise("constant", 0.1)),
    "missing-brownian-.1": oracles.FourModes(MISSING, 0.0, oracles.Noise("brownian", 0.1)),
    "missing-measured-.3": oracles.FourModes(MISSING, 0.3),
}
TABLE = [
    ("identity", "mse", (0.891, 1.059, 1.248, 1.253, 1.254, 1.254)),
    ("identity", "on", (0.04, 0.59, 0.99, 1, 1, 1)),
    ("identity", "distance", (0.515, 0.159, 0.004, 0, 0, 0)),
    ("missing-constant-.01", "mse", (1.000, 1.975, 1.990, 1.99, 2.00, 2.00)),
    ("missing-constant-.01", "on", (0, 0.986, 1, 1, 1, 1)),
    ("missing-constant-.01", "tv", (0.5, 0.001, 0.003, 0, 0, 0)),
    ("missing-constant-.1", "on", (0, 0.854, 1, 1, 1, 1)),
    ("missing-brownian-.1", "on", (0, 0.796, 1, 1, 1, 1)),
    ("missing-measured-.3", "mse", (1.001, 1.775, 2.011, 2.011, 2.011, 2.011)),
    ("missing-measured-.3", "on", (0, 0.583, 1, 1, 1, 1)),
]
WITHIN = {"mse": 0.02, "on": 0.01, "distance": 0.005, "tv": 0.01}  # Monte Carlo error


@functools.cache
def toy_scores(name, grids=tuple(tuple(uniform(num_steps)) for num_steps in STEPS)):
    """``{number of steps: score}``; the seeds are fixed, their draw is a fair one."""
    toy = TOYS[name]
    x, y = toy.draw(COUNT, seed=2)
    knobs = {"noise": library(toy.noise), "measurement_noise": toy.sigma}
    kernels = [samplers.indi(toy.restorer(), times, **knobs) for times in grids]
    outputs = run_each(kernels, keys_for(y, seed=1), y)
    return {len(times) - 1: toy.score(out, x) for times, out in zip(grids, outputs)}


@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("name,metric,expected", TABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_four_modes_table(name, metric, expected, num_steps):
    score = toy_scores(name)[num_steps]
    assert abs(getattr(score, metric) - expected[STEPS.index(num_steps)]) <= WITHIN[metric], score


@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("name", [name for name, toy in TOYS.items() if toy.noise.mode != "brownian"])
def test_four_modes_mse_equals_quadrature(name, num_steps):
    assert abs(toy_scores(name)[num_steps].mse - TOYS[name].exact_mse(uniform(num_steps))) <= WITHIN["mse"]


@pytest.mark.parametrize("power,expected", [(1, 0.59), (2, 0.89), (3, 0.97)])
def test_four_modes_grid_dense_near_0_helps_denoising(power, expected):
    score = toy_scores("identity", (tuple(uniform(2)**power),))[2]
    assert abs(score.on - expected) <= WITHIN["on"]


def test_four_modes_many_steps_choose_the_nearest_atom():
    """The limit costs what nearest-atom (MAP) guessing costs, well below a draw from the posterior (2 MMSE)."""
    toy, scores = TOYS["identity"], toy_scores("identity")
    x, y = toy.draw(COUNT, seed=2)
    nearest = oracles.ATOMS[np.linalg.norm(y[:, None] - oracles.ATOMS, axis=-1).argmin(1)]
    assert abs(scores[100].mse - np.mean(np.sum((nearest - x)**2, -1))) < 0.001
    assert scores[100].mse < 2 * scores[1].mse - 0.4


@pytest.mark.parametrize("noise", NOISES[:2], ids=lambda noise: noise.mode)
def test_four_modes_with_any_matrix(noise):
    """A sheared, rotated ``H``: the restorer is the conditional mean, and many steps end on atoms in equal numbers."""
    toy = oracles.FourModes(((0.6, 0.5), (-0.2, 0.4)), 0.2, noise)
    x, y = toy.draw(COUNT)
    mid = toy.x_t(x, y, 0.7).astype(np.float32)
    residual = x - np.asarray(jax.jit(toy.restorer())(mid, jnp.full((COUNT,), 0.7)))
    for probe in (np.ones_like(mid), mid, np.tanh(3 * mid[:, ::-1]), mid**3):  # E[(x - E[x | x_t]) g(x_t)] = 0
        np.testing.assert_allclose(np.mean(residual * probe, 0), 0, atol=4 * np.std(residual * probe) / COUNT**0.5)
    score = toy.score(run(toy.restorer(), uniform(20), y, noise=noise)[0], x)
    assert score.on > 0.99 and score.tv < 0.01


# ---------------------------------------------------------------- Gaussian pictures, exact linear F

GAUSSIAN = oracles.GaussianImages(sigma=0.02)  # y = blur(x) + 0.02 n; the sampler adds no noise
PICTURES = 200
DECIBELS = {1: 17.71, 2: 17.63, 5: 16.97, 10: 16.25, 20: 15.76, 100: 15.31, 2000: 15.19}
HIGH = {1: 0.015, 5: 0.264, 10: 0.529, 20: 0.733, 100: 0.940, 2000: 0.997}
W2 = {1: 1.3e-2, 10: 1.15e-3, 2000: 3.7e-8}


@functools.partial(jax.jit, static_argnames=("prior", "solver"))
def respond(times, y, prior, solver):
    kernel = samplers.indi(prior.restorer(), times, noise=library(prior.noise), solver=solver)
    return samplers.sample(from_x1(kernel), rng.image_keys(0, [0, 0]), y)[0]  # equal noise for both


def gain_of_sampler(prior, times, solver="euler"):
    """The gain of the real sampler at each frequency: what it makes of one bright pixel, less what of none."""
    y = np.zeros((2, prior.size, prior.size, 1), np.float32)
    y[0, 0, 0] = 1
    out = np.asarray(respond(jnp.asarray(times, jnp.float32), y, prior, solver), np.float64)
    return np.fft.fft2((out[0] - out[1])[..., 0]).real


@functools.cache
def gaussian_draw():
    return GAUSSIAN.draw(PICTURES)


@pytest.mark.parametrize("num_steps", DECIBELS)
def test_gaussian_pictures_table(num_steps):
    """Closed form == table, and the gain of the sampler at all 64 x 64 frequencies == closed form."""
    chain = GAUSSIAN.chain(uniform(num_steps))
    gain = gain_of_sampler(GAUSSIAN, uniform(num_steps))
    np.testing.assert_allclose(gain, chain.gain, rtol=2e-4, atol=2e-5)
    for measured in (chain, chain._replace(gain=gain)):
        assert abs(GAUSSIAN.psnr(measured) - DECIBELS[num_steps]) <= 0.0055
        assert abs(GAUSSIAN.high_energy(measured) - HIGH.get(num_steps, GAUSSIAN.high_energy(chain))) <= 0.001
        assert GAUSSIAN.w2(measured) == pytest.approx(W2.get(num_steps, GAUSSIAN.w2(chain)), rel=0.03)


def check_gaussian_draws(num_steps):
    x, y = gaussian_draw()
    out = np.asarray(run(GAUSSIAN.restorer(), uniform(num_steps), y, measurement_noise=GAUSSIAN.sigma)[0])
    assert abs(-10 * np.log10(np.mean((out - x)**2)) - DECIBELS[num_steps]) <= 0.05
    high = GAUSSIAN.frequency > 0.25
    energy = [np.sum(np.abs(np.fft.fft2(images[..., 0])[:, high])**2) for images in (out, x)]
    assert energy[0] / energy[1] == pytest.approx(GAUSSIAN.high_energy(GAUSSIAN.chain(uniform(num_steps))), rel=0.01)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10, 20, 100])
def test_gaussian_pictures_drawn(num_steps):
    """200 drawn pictures through the sampler: PSNR within 0.05 dB of the table, energy of detail within 1 %."""
    check_gaussian_draws(num_steps)


@pytest.mark.slow
def test_gaussian_pictures_drawn_2000_steps():
    check_gaussian_draws(2000)


def test_many_steps_reach_optimal_transport():
    """The limit attains the least error of any estimator with perfect realism; drawing from the posterior does not."""
    assert abs(GAUSSIAN.psnr(GAUSSIAN.optimal_transport()) - 15.18) <= 0.0055
    limit = GAUSSIAN.psnr(GAUSSIAN.chain(uniform(2000)))
    assert 0 < limit - GAUSSIAN.psnr(GAUSSIAN.optimal_transport()) < 0.01
    posterior = -10 * np.log10(2 * GAUSSIAN.mse(GAUSSIAN.chain(uniform(1))))
    assert abs(posterior - 14.70) <= 0.0055


def test_gaussian_pictures_brownian():
    """Brownian noise: the error and the energy at each frequency follow the closed-form recursion."""
    prior = oracles.GaussianImages(sigma=0.02, noise=oracles.Noise("brownian", 0.1), size=32)
    x, y = prior.draw(PICTURES)
    chain = prior.chain(uniform(10))
    out = np.asarray(run(prior.restorer(), uniform(10), y, noise=prior.noise)[0])
    assert abs(-10 * np.log10(np.mean((out - x)**2)) - prior.psnr(chain)) <= 0.05
    energy = np.mean(np.abs(np.fft.fft2(out[..., 0]))**2, 0) / prior.size**2
    ratio = energy / prior.output_var(chain)
    assert abs(ratio.mean() - 1) < 0.01 and ratio.std() < 0.12  # 200 draws of a squared Gaussian: std 0.1


# ---------------------------------------------------------------- where the steps lie

GRIDS = {
    "uniform": lambda num_steps: paths.indi_times(num_steps),
    "dense_near_0": lambda num_steps: paths.indi_times(num_steps, "dense_near_0"),
    "dense_near_1": lambda num_steps: paths.indi_times(num_steps, "dense_near_1"),
    "cubic": lambda num_steps: 1 - (1 - uniform(num_steps))**3,  # denser still near 1
}
GRID_TABLE = {  # N: (W2^2, energy of detail)
    ("uniform", "euler"): {2: (9.7e-3, 0.05), 4: (5.0e-3, 0.19), 10: (1.15e-3, 0.53)},
    ("dense_near_0", "euler"): {2: (1.2e-2, 0.02), 4: (8.8e-3, 0.06), 10: (3.3e-3, 0.29)},
    ("dense_near_1", "euler"): {2: (5.3e-3, 0.17), 4: (1.7e-3, 0.45), 10: (3.5e-4, 0.72)},
    ("uniform", "heun"): {2: (6.7e-3, 0.12), 4: (2.0e-3, 0.42), 10: (1.0e-4, 0.85)},
    ("cubic", "heun"): {2: (1.9e-3, 0.43), 4: (4.3e-4, 0.69), 10: (1.8e-5, 0.93)},
}
NOISE_FREE = oracles.GaussianImages(sigma=0.0, noise=oracles.Noise("constant", 0.02))


@pytest.mark.parametrize("num_steps", [2, 4, 10])
@pytest.mark.parametrize("grid,solver", GRID_TABLE)
def test_grid_table(grid, solver, num_steps):
    """y = blur(x) without noise, constant noise 0.02: grid and solver give the table, in closed form and for real."""
    times = GRIDS[grid](num_steps)
    chain = NOISE_FREE.chain(np.asarray(times, np.float64), solver)
    gain = gain_of_sampler(NOISE_FREE, times, solver)
    np.testing.assert_allclose(gain, chain.gain, rtol=2e-4, atol=2e-5)
    distance, energy = GRID_TABLE[grid, solver][num_steps]
    assert NOISE_FREE.w2(chain._replace(gain=gain)) == pytest.approx(distance, rel=0.035)
    assert abs(NOISE_FREE.high_energy(chain._replace(gain=gain)) - energy) <= 0.0055


def test_best_first_knot_of_two_steps_is_near_0_9():
    chains = {knot: NOISE_FREE.chain([1, knot, 0]) for knot in np.arange(0.3, 1, 0.01).round(2)}
    distances = {knot: NOISE_FREE.w2(chain) for knot, chain in chains.items()}
    assert 0.84 <= min(distances, key=distances.get) <= 0.92
    assert distances[0.9] == pytest.approx(3.7e-3, rel=0.02) and distances[0.5] == pytest.approx(9.7e-3, rel=0.02)
    gain = gain_of_sampler(NOISE_FREE, [1.0, 0.9, 0.0])
    assert NOISE_FREE.w2(chains[0.9]._replace(gain=gain)) == pytest.approx(3.7e-3, rel=0.02)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 4000])
@pytest.mark.parametrize("spacing,formula", [
    ("uniform", lambda u: u), ("dense_near_1", lambda u: 1 - (1 - u)**2), ("dense_near_0", lambda u: u**2)],
    ids=["uniform", "dense_near_1", "dense_near_0"])
def test_times(spacing, formula, num_steps):
    times = np.asarray(paths.indi_times(num_steps, spacing))
    assert times.shape == (num_steps + 1,) and times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times) < 0)
    np.testing.assert_allclose(times, formula(uniform(num_steps)), atol=1e-6)
    np.testing.assert_array_equal(paths.check_times(times), times)
    np.testing.assert_array_equal(paths.check_times(times[::-1]), times)


@pytest.mark.parametrize("bad", [
    [], [1.0], [0.0, 0.5], [0.1, 1.0], [1.0, 0.5], [0.9, 0.0], [1.0, 0.5, 0.5, 0.0], [1.0, 0.4, 0.6, 0.0],
    [1.0, float("nan"), 0.0], [[1.0, 0.0]], [1.0, 0.5, -0.1], [1.5, 0.5, 0.0]], ids=str)
def test_bad_times_are_refused(bad):
    with pytest.raises(ValueError):
        paths.check_times(bad)
    with pytest.raises(ValueError):
        samplers.indi(smooth, bad)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_are_refused(num_steps):
    with pytest.raises(ValueError):
        paths.indi_times(num_steps)
    with pytest.raises(ValueError):
        samplers.indi(smooth, num_steps)


def test_a_whole_number_of_steps_means_the_uniform_grid():
    kernels = [samplers.indi(smooth, times, noise=samplers.no_noise()) for times in (3, uniform(3), uniform(3)[::-1])]
    y = pictures(2)
    outputs = [np.asarray(out) for out in run_each(kernels, keys_for(y), y)]
    assert kernels[0].num_steps == 3
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_unknown_spacing_is_refused_by_name():
    with pytest.raises(ValueError, match="dense_near_2"):
        paths.indi_times(4, "dense_near_2")


# ---------------------------------------------------------------- unit tests (i) to (viii)


@pytest.mark.parametrize("noise", NOISES[:2], ids=lambda noise: noise.mode)
def test_i_one_step_is_the_plain_regressor_bitwise(noise):
    """N = 1 is F(y + eps_1 n, 1)."""
    y = pictures(2, (8, 6, 3)) if noise.mode == "none" else pictures()
    kernel = samplers.indi(smooth, uniform(1), noise=library(noise))
    start = jax.jit(kernel.init)(jnp.asarray(y), keys_for(y)).x
    if noise.mode == "none":
        np.testing.assert_array_equal(np.asarray(start), y)
    out, _ = run(smooth, uniform(1), y, noise=noise)
    np.testing.assert_array_equal(np.asarray(out), np.asarray(jax.jit(smooth)(start, jnp.ones(len(y), jnp.float32))))


def test_start_is_the_measurement_plus_eps_1_noise():
    y = pictures(2000)
    kernels = [samplers.indi(smooth, 3, noise=library(noise)) for noise in NOISES[1:]]
    starts = jax.jit(lambda keys, y: [kernel.init(y, keys).x for kernel in kernels])(keys_for(y), y)
    for noise, start in zip(NOISES[1:], starts):
        added = (np.asarray(start) - y) / noise.eps
        assert abs(added.mean()) < 4 / added.size**0.5 and abs(added.std() - 1) < 4 / (2 * added.size)**0.5


def test_ii_constant_mode_adds_no_noise_after_the_start():
    y, noise, times = pictures(), samplers.constant_noise(0.1), uniform(6)
    assert all(float(noise.step_std(t, s)) == 0 for t, s in zip(times[:-1], times[1:]))
    kernel = samplers.indi(smooth, times, noise=noise)
    walks = jax.jit(lambda keys, x_1: samplers.sample(from_x1(kernel), keys, x_1)[0])
    whole = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])
    np.testing.assert_array_equal(*(np.asarray(walks(keys_for(y, seed), y)) for seed in (0, 1)))  # whatever the keys
    results = [np.asarray(whole(keys_for(y, seed), y)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-4  # the start did depend on them


def test_no_noise_is_independent_of_keys():
    y, kernel = pictures(), samplers.indi(smooth, uniform(4), noise=samplers.no_noise())
    sampled = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])
    np.testing.assert_array_equal(*(np.asarray(sampled(keys_for(y, seed), y)) for seed in (0, 7)))


def test_iii_brownian_step_std():
    """Closed form, and the spread of what a step really adds: eps sqrt(s (t - s) / t)."""
    eps, times = 0.3, np.array([1, 0.8, 0.35, 0.01, 0])
    noise = samplers.brownian_noise(eps)
    expected = eps * np.sqrt(times[1:] * (times[:-1] - times[1:]) / times[:-1])
    given = [float(noise.step_std(t, s)) for t, s in zip(times[:-1], times[1:])]
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert given[-1] == 0
    y = jnp.zeros((2000, 40), jnp.float32)
    kernel = samplers.indi(lambda x, t: x, times, noise=noise)  # x_s = x_t + what the step adds
    sampled = jax.jit(lambda keys, y: samplers.sample(from_x1(kernel), keys, y, trace="x")[1].trace)
    added = np.diff(np.asarray(sampled(keys_for(y), y)), axis=0, prepend=0)
    np.testing.assert_allclose(added.std((1, 2)), expected, rtol=4 / np.sqrt(2 * y.size))
    correlation = np.corrcoef(added[:-1].reshape(3, -1))
    np.testing.assert_allclose(correlation, np.eye(3), atol=4 / np.sqrt(y.size))  # fresh noise at every step


@noises
def test_noise_std_of_x_t(noise):
    times = np.array([1, 0.5, 0.01, 0])
    for given in (times, jnp.asarray(times, jnp.float32)):
        np.testing.assert_allclose(library(noise).std(given), np.sqrt(noise.var(times)), rtol=1e-5)


def test_custom_noise():
    """eps_t = eps / t^(1/4), between constant and Brownian; and Brownian or constant written as custom is the same."""
    noise = samplers.custom_noise(lambda t: 0.2 / t**0.25)
    np.testing.assert_allclose(noise.std(np.array([0.5, 0.0])), [0.5 * 0.2 / 0.5**0.25, 0], rtol=1e-6)
    expected = 0.25 * np.sqrt(0.2**2 / 0.25**0.5 - 0.2**2 / 0.5**0.5)
    np.testing.assert_allclose(noise.step_std(0.5, 0.25), expected, rtol=1e-6)
    np.testing.assert_allclose(noise.step_std(0.5, 0.0), 0, atol=0)
    y, eps = pictures(), 0.3
    modes = (samplers.brownian_noise(eps), samplers.custom_noise(lambda t: eps / t**0.5),
             samplers.constant_noise(eps), samplers.custom_noise(lambda t: eps))
    kernels = [samplers.indi(smooth, uniform(5), noise=mode) for mode in modes]
    outputs = [np.asarray(out) for out in run_each(kernels, keys_for(y), y)]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    np.testing.assert_allclose(outputs[2], outputs[3], atol=1e-5)
    assert np.abs(outputs[0] - outputs[2]).max() > 0.01


def test_iv_coefficients_are_those_of_i2sb_with_constant_beta():
    """Brownian InDI is I2SB with sigma_t^2 = eps^2 t: the posterior of x_s given x_0 and x_t.

    Product of the Gaussians N(x_s; x_0, v) and N(x_s; x_t, w), v = sigma_s^2, w = sigma_t^2 - sigma_s^2.
    """
    eps, times = 0.3, np.array([1, 0.9, 0.5, 0.2, 0.05, 0])
    noise, keys = samplers.brownian_noise(eps), rng.image_keys(0, [0, 0, 0])  # the same noise in all three rows
    x_t, x0 = (jnp.asarray([[value] for value in row], jnp.float32) for row in ((0, 0, 1), (0, 1, 0)))
    kernel = samplers.indi(lambda x, t: x0, times, noise=noise)
    step = jax.jit(lambda i: kernel.step(keys, kernel.init(x_t, keys)._replace(x=x_t), i)[0].x)
    for i, (t, s) in enumerate(zip(times[:-1], times[1:])):
        v, w = eps**2 * s, eps**2 * (t - s)
        noise_only, of_x0, of_x_t = np.asarray(step(i))[:, 0]
        np.testing.assert_allclose([of_x0 - noise_only, of_x_t - noise_only], [w / (v + w), v / (v + w)], atol=1e-6)
        np.testing.assert_allclose(float(noise.step_std(t, s)), np.sqrt(v * w / (v + w)), atol=1e-7)
        drawn = float(rng.normal(rng.fold(keys, i), x_t)[0, 0])
        np.testing.assert_allclose(noise_only, np.sqrt(v * w / (v + w)) * drawn, atol=1e-6)


@pytest.mark.parametrize("solver,order", [("euler", 1), ("heun", 2)])
def test_v_order_of_the_solver_on_a_smooth_prior(solver, order):
    """The error against the exact transport falls as N^-order: halved by Euler, quartered by Heun."""
    prior = oracles.GaussianScalar(0.2, 0.5, 0.8, 0.1, 0.6, oracles.Noise("constant", 0.1))
    x_1 = np.linspace(-2, 2, 8, dtype=np.float32)[:, None]
    exact = prior.mean + prior.transport() * (x_1 - prior.law(1.0)[0])
    kernels = [samplers.indi(prior.restorer(), num_steps, noise=library(prior.noise), solver=solver)
               for num_steps in (8, 16, 32)]
    outputs = run_each([from_x1(kernel) for kernel in kernels], keys_for(x_1), x_1)
    errors = np.array([np.abs(np.asarray(out) - exact).max() for out in outputs])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.2)


def test_heun_ends_on_the_estimate():
    """The last step is Euler's, so x_0 is an output of the restorer and never a slope at t = 0; N = 1 is Euler."""
    y = pictures(2)
    out, info = run(smooth, uniform(4), y, solver="heun", trace="x0")
    np.testing.assert_array_equal(np.asarray(out), np.asarray(info.trace[-1]))
    assert np.isfinite(np.asarray(out)).all()
    one = run(smooth, uniform(1), y, solver="heun")[0]
    np.testing.assert_array_equal(np.asarray(one), np.asarray(run(smooth, uniform(1), y)[0]))


@functools.partial(jax.jit, static_argnames="prior")
def watch_brownian(times, keys, y, prior):
    kernel = samplers.indi(prior.restorer(), times, noise=library(prior.noise))
    return samplers.sample(kernel, keys, y, trace=samplers.Trace("x", every=times.size // 4))


@pytest.mark.parametrize("num_steps,spacing", [(7, "uniform"), (4000, "uniform"), (4000, "dense_near_0")])
def test_vi_brownian_mode_is_finite_down_to_t_0(num_steps, spacing):
    prior = oracles.GaussianScalar(0.0, 0.5, 1.0, 0.0, 0.0, oracles.Noise("brownian", 0.3))
    _, y = prior.draw(64)
    times = paths.indi_times(num_steps, spacing)
    assert np.isfinite(library(prior.noise).step_std(times[:-1], times[1:])).all()
    out, info = watch_brownian(jnp.asarray(times), keys_for(y), jnp.asarray(y), prior)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((out, info)))
    mean, std = prior.output_law(np.asarray(times, np.float64))
    assert abs(np.std(out) / std - 1) < 4 / np.sqrt(2 * y.size)


@pytest.mark.parametrize("noise,matrix", [
    (oracles.Noise("constant", 0.3), MISSING), (oracles.Noise("brownian", 0.3), MISSING), (NOISES[0], IDENTITY)],
    ids=["constant", "brownian", "none"])
def test_vii_marginals_follow_the_corruption(noise, matrix):
    """law(x_t) along the sampler == law of (1 - t) x + t y + t eps_t n, by sliced Wasserstein distance."""
    toy = oracles.FourModes(matrix, 0.5, noise)
    (x, y), fresh = toy.draw(8000), toy.draw(8000, seed=9)
    out, info = run(toy.restorer(), uniform(200), y, noise=noise, trace=samplers.Trace("x", every=40))
    states = np.asarray(info.trace)
    assert states.shape == (5, 8000, 2)
    for t, state in zip([0.8, 0.6, 0.4, 0.2, 0.0], states):
        by_chance = oracles.sliced_w1(toy.x_t(*fresh, t), toy.x_t(x, y, t, seed=2))
        assert oracles.sliced_w1(state, toy.x_t(*fresh, t)) < by_chance + 0.02


@pytest.mark.parametrize("noise,transfer", [(NOISES[0], 1.0), (NOISES[1], 0.3), (NOISES[2], 0.3)],
                         ids=lambda value: getattr(value, "mode", ""))
def test_gaussian_scalar_output_law(noise, transfer):
    """Mean and std after five steps follow the recursion; after many they are those of x."""
    prior = oracles.GaussianScalar(0.3, 0.5, transfer, -0.2, 0.4, noise)
    _, y = prior.draw(20_000, size=4)
    out = np.asarray(run(prior.restorer(), uniform(5), y, noise=noise)[0])
    mean, std = prior.output_law(uniform(5))
    assert abs(out.mean() - mean) < 4 * std / out.size**0.5
    assert abs(out.std() / std - 1) < 4 / (2 * out.size)**0.5
    assert abs(std / prior.std - 1) > 0.02  # five steps are not the limit,
    assert prior.output_law(uniform(4000))[1] == pytest.approx(prior.std, rel=0.002)  # which is the law of x


@noises
def test_viii_identity_and_constant_restorers(noise):
    """F = x_t keeps x_1 (steps of Brownian noise apart), F = c gives c, for every number of steps."""
    def identity_then_constant(x, t):
        return jnp.where(oracles.per_image(jnp.asarray([True, False]), x), x, jnp.float32(0.37))

    y = pictures(2)
    grids = [uniform(1), uniform(2), paths.indi_times(9, "dense_near_1")]
    kernels = [samplers.indi(identity_then_constant, times, noise=library(noise)) for times in grids]
    outputs = run_each(kernels, keys_for(y), y)
    start = np.asarray(jax.jit(kernels[0].init)(jnp.asarray(y), keys_for(y)).x)
    for times, out in zip(grids, outputs):
        np.testing.assert_array_equal(np.asarray(out[1]), np.full_like(y[1], 0.37))
        if noise.mode != "brownian" or len(times) == 2:
            np.testing.assert_allclose(np.asarray(out[0]), start[0], atol=2e-6)


# ---------------------------------------------------------------- starting from an estimate (PMRF)


def test_start_from_an_estimate():
    """x_1 = f(y) + eps_1 n: the same as giving f(y) as the measurement."""
    y = pictures()

    def estimate(y):
        return jnp.sin(3 * y)

    started, direct = (samplers.indi(smooth, uniform(4), start=start) for start in (estimate, None))
    keys = keys_for(y)
    x_1, (out,) = jax.jit(started.init)(jnp.asarray(y), keys).x, run_each([started], keys, y)
    np.testing.assert_allclose(np.asarray(out), np.asarray(run_each([direct], keys, estimate(y))[0]), atol=1e-6)
    assert np.std(np.asarray(x_1 - estimate(y))) == pytest.approx(0.01, rel=0.2)


def test_pmrf_reaches_the_least_error_under_perfect_realism():
    """Posterior mean, then a flow from it to the prior: std of the prior, error below that of posterior draws."""
    std, sigma, eps = 0.5, 0.4, 0.02
    gain = std**2 / (std**2 + sigma**2)  # E[x | y] = gain y
    flow = oracles.GaussianScalar(0.0, std, gain, 0.0, gain * sigma, oracles.Noise("constant", eps))
    seen = oracles.GaussianScalar(0.0, std, 1.0, 0.0, sigma)
    x, y = seen.draw(20_000, size=4)
    out = np.asarray(run(flow.restorer(), uniform(100), y, noise=flow.noise, start=lambda y: gain * y)[0])
    assert out.std() == pytest.approx(flow.output_law(uniform(100))[1], rel=0.01)
    assert out.std() == pytest.approx(std, rel=0.02)
    assert np.mean((out - x)**2) < 0.93 * 2 * std**2 * (1 - gain)


# ---------------------------------------------------------------- batches, devices, traces, gradients


def test_one_image_alone_equals_the_same_image_in_a_batch():
    """Its noise is its own: the start and the steps draw from the image's key."""
    y = pictures()
    kernel, keys = samplers.indi(smooth, uniform(5), noise=samplers.brownian_noise(0.3)), keys_for(y)
    sampled = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])
    together = np.asarray(sampled(keys, y))
    np.testing.assert_allclose(np.asarray(sampled(keys[4:5], y[4:5]))[0], together[4], atol=1e-6)
    order = np.array([5, 2, 0, 1, 4, 3])
    np.testing.assert_array_equal(np.asarray(sampled(keys[order], y[order])), together[order])


def test_8_devices_equal_1_device():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    y = jnp.asarray(pictures(16))
    keys = keys_for(y)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    kernel = samplers.indi(smooth, uniform(5), noise=samplers.brownian_noise(0.3))
    sampled = jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])
    sharded = sampled(*jax.device_put((keys, y), sharding))
    assert len(sharded.sharding.device_set) == 8
    assert sharded.addressable_shards[0].data.shape == (2, 40)  # the result stays split, image by image
    np.testing.assert_allclose(np.asarray(sharded), np.asarray(sampled(keys, y)), atol=1e-6)


def test_restorer_is_traced_once():
    kernel = samplers.indi(chex.assert_max_traces(smooth, n=1), 20, noise=samplers.no_noise())
    sampled = jax.jit(functools.partial(samplers.sample, kernel))
    for seed in (0, 1):
        y = jnp.asarray(pictures(seed=seed))
        assert np.isfinite(np.asarray(sampled(keys_for(y), y)[0])).all()
    with pytest.raises(AssertionError):  # the count does count: another shape is another trace
        sampled(keys_for(y[:2]), y[:2])


def test_restorer_gets_float32_times_per_image():
    seen = []

    def watch(x, t):
        seen.append((x.shape, x.dtype, t.shape, t.dtype))
        return x

    out, _ = run(watch, uniform(3), pictures(2, (8, 6, 3)))
    assert seen and set(seen) == {((2, 8, 6, 3), jnp.dtype("float32"), (2,), jnp.dtype("float32"))}
    assert out.shape == (2, 8, 6, 3) and out.dtype == jnp.float32


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_traces(solver):
    """Every kept picture is what it says: the state after a step, or the restorer's estimate in it."""
    y, times = jnp.asarray(pictures(2)), paths.indi_times(6, "dense_near_1")
    kernel = samplers.indi(smooth, times, noise=samplers.no_noise(), solver=solver)
    (plain, none), (out, kept), (_, estimates) = jax.jit(
        lambda keys, y: [samplers.sample(kernel, keys, y, trace=trace) for trace in (None, "x", "x0")])(keys_for(y), y)
    assert none.trace is None
    states, estimates = np.asarray(kept.trace), np.asarray(estimates.trace)
    assert states.shape == estimates.shape == (6,) + y.shape
    np.testing.assert_array_equal(states[-1], np.asarray(out))
    np.testing.assert_allclose(np.asarray(plain), np.asarray(out), atol=1e-6)
    np.testing.assert_allclose(estimates[-1], np.asarray(out), atol=1e-6)
    before = np.concatenate([y[None], states[:-1]])
    for t, x_t, estimate in zip(times, before, estimates):
        np.testing.assert_allclose(estimate, smooth(x_t, jnp.full(2, t)), atol=1e-6)
    for info in (none, kept):
        np.testing.assert_array_equal(np.asarray(info.steps.t), times[:-1])


@pytest.mark.parametrize("what", ["x", "x0"])
def test_thinned_trace_is_the_full_trace_thinned(what):
    """The last of every k steps, and the very last."""
    y, kernel = jnp.asarray(pictures(2)), samplers.indi(smooth, uniform(6), noise=samplers.constant_noise(0.1))
    kept = {1: range(6), 2: [1, 3, 5], 3: [2, 5], 4: [3, 5], 6: [5], 9: [5]}
    traces = [what] + [samplers.Trace(what, every=every) for every in kept]
    full, *thinned = jax.jit(
        lambda keys, y: [samplers.sample(kernel, keys, y, trace=trace) for trace in traces])(keys_for(y), y)
    for (every, indices), (out, info) in zip(kept.items(), thinned):
        expected = np.asarray(full[1].trace)[list(indices)]
        np.testing.assert_allclose(np.asarray(info.trace), expected, atol=1e-6, err_msg=f"every={every}")
        np.testing.assert_allclose(np.asarray(out), np.asarray(full[0]), atol=1e-6)
        assert info.steps.t.shape == (6,)


def test_remat_gives_equal_gradients():
    """Recomputed steps draw the same noise again; and the gradient is that of the function."""
    y, direction = jnp.asarray(pictures(2)), jnp.asarray(pictures(2, seed=8))
    kernel, keys = samplers.indi(smooth, uniform(5), noise=samplers.brownian_noise(0.3)), keys_for(y)

    @functools.partial(jax.jit, static_argnames="remat")
    def loss_and_gradient(y, remat=False):
        return jax.value_and_grad(lambda y: jnp.sum(samplers.sample(kernel, keys, y, remat=remat)[0]**2))(y)

    gradients = [np.asarray(loss_and_gradient(y, remat=remat)[1]) for remat in (False, True)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
    above, below = (float(loss_and_gradient(y + step * direction)[0]) for step in (1e-2, -1e-2))
    assert np.sum(gradients[0] * np.asarray(direction)) == pytest.approx((above - below) / 2e-2, rel=1e-2)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("make", [samplers.constant_noise, samplers.brownian_noise])
@pytest.mark.parametrize("eps", [-0.01, float("nan"), float("inf")])
def test_bad_eps_is_refused(make, eps):
    with pytest.raises(ValueError, match="eps"):
        make(eps)


@pytest.mark.parametrize("fn", [lambda t: t, lambda t: 0.1 + 0.01 * t, lambda t: -0.1 / t, lambda t: float("nan") * t],
                         ids=["rising", "rising slowly", "negative", "nan"])
def test_bad_custom_noise_is_refused(fn):
    with pytest.raises(ValueError, match="eps_t"):
        samplers.custom_noise(fn)


def test_heun_with_brownian_noise_is_refused():
    with pytest.raises(ValueError, match="(?i)heun"):
        samplers.indi(smooth, uniform(4), noise=samplers.brownian_noise(0.1), solver="heun")


def test_unknown_solver_is_refused_by_name():
    with pytest.raises(ValueError, match="rk45"):
        samplers.indi(smooth, uniform(2), solver="rk45")


def test_degenerate_noise_free_problem_is_refused():
    """y = H x without noise and no added noise: x_t determines the pair, and F(x_1) is degenerate."""
    for nothing in (samplers.no_noise(), samplers.constant_noise(0.0)):
        with pytest.raises(ValueError, match="degenerate"):
            samplers.indi(smooth, 2, noise=nothing, measurement_noise=0.0)
    for num_steps, noise, sigma in [(1, samplers.no_noise(), 0.0), (2, samplers.no_noise(), 0.1),
                                    (2, samplers.no_noise(), None), (2, samplers.constant_noise(0.01), 0.0)]:
        assert samplers.indi(smooth, num_steps, noise=noise, measurement_noise=sigma).num_steps == num_steps


def test_restorer_trained_with_other_noise_is_refused():
    trained = denoisers.restorer(smooth, noise=samplers.constant_noise(0.1))
    assert samplers.indi(trained, 3, noise=samplers.constant_noise(0.1)).num_steps == 3
    for other in (samplers.constant_noise(0.01), samplers.brownian_noise(0.1), samplers.no_noise()):
        with pytest.raises(ValueError, match="constant noise of eps = 0.1"):
            samplers.indi(trained, 3, noise=other)
    assert samplers.indi(denoisers.restorer(smooth), 3, noise=samplers.brownian_noise(0.1)).num_steps == 3


def test_restorer_that_also_sees_the_measurement():
    y = jnp.asarray(pictures(2))
    seeing = denoisers.restorer(lambda x, t, y: smooth(x, t) + 0.1 * y, y=y)
    plain = run(lambda x, t: smooth(x, t) + 0.1 * y, 3, y)[0]
    np.testing.assert_array_equal(np.asarray(run(seeing, 3, y)[0]), np.asarray(plain))


@pytest.mark.parametrize("trace", ["y", samplers.Trace("eps"), samplers.Trace("x", every=0)])
def test_unknown_trace_is_refused(trace):
    y = jnp.asarray(pictures(2))
    with pytest.raises(ValueError, match="trace"):
        samplers.sample(samplers.indi(smooth, 2), keys_for(y), y, trace=trace)


def test_keys_that_are_not_one_per_image_are_refused():
    y = jnp.asarray(pictures(2))
    for keys in (keys_for(y)[:1], jax.random.key(0)):
        with pytest.raises(ValueError, match="key"):
            samplers.sample(samplers.indi(smooth, 2), keys, y)
