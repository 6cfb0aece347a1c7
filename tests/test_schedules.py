"""InDI's time grids and noise modes."""
import json

import jax
import numpy as np
import pytest

from indigo_jax import denoisers, guidance, paths, rng, samplers, schedules, weights
from tests import networks
from tests.oracles import GaussianDiffusion


@pytest.mark.parametrize("spacing", paths.SPACINGS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_grids_run_from_one_to_zero(spacing, num_steps):
    grid = paths.indi_times(num_steps, spacing)
    assert grid.dtype == np.float32 and grid.shape == (num_steps + 1,)
    assert grid[0] == 1 and grid[-1] == 0 and (np.diff(grid) < 0).all()
    np.testing.assert_array_equal(paths.check_times(grid), grid)


def test_where_the_grids_are_dense():
    assert paths.indi_times(2)[1] == 0.5
    assert paths.indi_times(10, "dense_near_1")[1] > 0.7
    assert paths.indi_times(10, "dense_near_0")[-2] < 0.05


def test_any_list_either_way_round_and_whole_numbers():
    np.testing.assert_array_equal(paths.check_times([0, 0.9, 1]), np.float32([1, 0.9, 0]))
    np.testing.assert_array_equal(paths.check_times(4), paths.indi_times(4))


def test_traced_times_are_taken_as_they_are():
    assert jax.jit(lambda t: paths.check_times(t) * 2)(np.float32([1, 0.5, 0])).tolist() == [2, 1, 0]


@pytest.mark.parametrize("times, message", [
    ([1.0], "at least two"), ([1, 0.5], "from 1"), ([0.9, 0], "from 1"), ([1, 0.5, 0.5, 0], "strictly decreasing"),
    ([1, 0.2, 0.4, 0], "strictly decreasing"), ([[1, 0]], "at least two"), ([1, float("nan"), 0], "strictly"),
    (0, "at least 1"), (-3, "at least 1")])
def test_bad_grids_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        paths.check_times(times)


def test_unknown_spacing_names_the_known_ones():
    with pytest.raises(ValueError, match="uniform, dense_near_1, dense_near_0"):
        paths.indi_times(3, "dense")


T = np.float64([1.0, 0.7, 0.5, 0.1])
S = np.float64([0.7, 0.5, 0.1, 0.0])


def test_noise_modes_against_their_formulas():
    none, constant, brownian = paths.no_noise(), paths.constant_noise(0.2), paths.brownian_noise(0.2)
    np.testing.assert_array_equal(none.std(T), np.zeros(4))
    np.testing.assert_allclose(constant.std(T), 0.2 * T)
    np.testing.assert_array_equal(constant.step_std(T, S), np.zeros(4))
    np.testing.assert_allclose(brownian.std(T), 0.2 * np.sqrt(T))
    np.testing.assert_allclose(brownian.step_std(T, S), 0.2 * np.sqrt(S * (T - S) / T))
    assert brownian.step_std(T, S)[-1] == 0 and brownian.std(np.float64(0.0)) == 0


def test_custom_noise_equals_the_built_in_ones():
    same = paths.custom_noise(lambda t: 0.2 / t**0.5)
    np.testing.assert_allclose(same.step_std(T, S), paths.brownian_noise(0.2).step_std(T, S), atol=1e-12)
    np.testing.assert_allclose(same.std(T), paths.brownian_noise(0.2).std(T))
    flat = paths.custom_noise(lambda t: 0.2 + 0 * t)
    np.testing.assert_allclose(flat.step_std(T, S), 0, atol=1e-9)


def test_total_variance_is_kept_from_level_to_level():
    """Shrinking the noise of x_t by s/t and adding a step's noise gives the noise of x_s."""
    for noise in (paths.constant_noise(0.3), paths.brownian_noise(0.3),
                  paths.custom_noise(lambda t: 0.3 * (2 - t))):
        carried = (S / T * noise.std(T)) ** 2 + noise.step_std(T, S) ** 2
        np.testing.assert_allclose(carried, noise.std(S) ** 2, atol=1e-12)


def test_equal_custom_modes_compare_equal():
    def fn(t):
        return 0.3 * (2 - t)
    assert paths.custom_noise(fn) == paths.custom_noise(fn)
    assert paths.custom_noise(fn).eps == pytest.approx(0.3)


@pytest.mark.parametrize("make, message", [
    (lambda: paths.constant_noise(-0.1), "at least 0"),
    (lambda: paths.brownian_noise(float("inf")), "finite"),
    (lambda: paths.custom_noise(lambda t: 0.1 * t), "must not increase"),
    (lambda: paths.custom_noise(lambda t: 0.1 - 0.2 * t), "at least 0")])
def test_bad_noise_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_noise_modes_travel_through_json():
    for noise in (paths.no_noise(), paths.constant_noise(0.01), paths.brownian_noise(0.1)):
        assert paths.noise_from_json(paths.noise_to_json(noise)) == noise
    with pytest.raises(ValueError, match="cannot be written"):
        paths.noise_to_json(paths.custom_noise(lambda t: 0.1 + 0 * t))
    with pytest.raises(ValueError, match="unknown noise mode 'pink'"):
        paths.noise_from_json({"name": "pink"})


# ------------------------------------------------------------------------------------------------ diffusion schedules

def test_linear_and_scaled_linear_against_their_definitions():
    beta = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(schedules.linear().alpha_bar, np.cumprod(1 - beta), rtol=1e-6)
    root = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    np.testing.assert_allclose(schedules.scaled_linear().alpha_bar, np.cumprod(1 - root**2), rtol=1e-6)


def test_cosine_follows_the_cosine_until_the_bound_takes_over():
    schedule = schedules.cosine(300)
    u = np.arange(1, 301) / 300
    exact = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], exact[:-1], rtol=1e-4)
    assert float(schedule.alpha_bar[-1] / schedule.alpha_bar[-2]) == pytest.approx(0.001, rel=1e-3)
    floor = schedules.cosine(300, max_beta=0.9999, min_beta=1e-2)
    assert float(floor.alpha_bar[0]) == pytest.approx(0.99)


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.scaled_linear(), schedules.cosine(1000)])
def test_levels_ascend_in_noise(schedule):
    assert (np.diff(schedule.alpha_bar) < 0).all() and (np.diff(schedule.timesteps) > 0).all()
    np.testing.assert_array_equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])
    assert schedule.alpha_bar_prev[0] == 1


@pytest.mark.parametrize("spacing, expected", [
    ("leading", [0, 250, 500, 750]), ("trailing", [249, 499, 749, 999]), ("linspace", [0, 333, 666, 999])])
def test_respacing(spacing, expected):
    whole = schedules.linear()
    few = schedules.respace(whole, 4, spacing)
    assert few.timesteps.tolist() == expected
    np.testing.assert_array_equal(few.alpha_bar, whole.alpha_bar[np.array(expected)])
    np.testing.assert_array_equal(few.alpha_bar_prev, np.append(np.float32(1), few.alpha_bar[:-1]))
    for a, b in zip(schedules.respace(whole, 1000, spacing), whole):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make, message", [
    (lambda: schedules.respace(schedules.linear(10), 11), "more than the 10 levels"),
    (lambda: schedules.respace(schedules.linear(10), 5, "middle"), "leading, trailing, linspace, karras, log_snr"),
    (lambda: schedules.linear(0), "at least 1"), (lambda: schedules.linear(10, 0.1, 1.5), r"in \[0, 1\)")])
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name, arguments", [("linear", {}), ("scaled_linear", dict(num_timesteps=30)),
                                             ("cosine", dict(num_timesteps=300, min_beta=1e-4, max_beta=0.9999))])
def test_a_schedule_is_the_same_after_storing_it(name, arguments):
    stored = schedules.to_json(name, **arguments)
    assert json.loads(json.dumps(stored)) == stored == schedules.to_json(**stored)
    for a, b in zip(schedules.from_json(stored), getattr(schedules, name)(**arguments)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stored, message", [
    ({"name": "magic"}, "unknown schedule 'magic'; known: linear, scaled_linear, cosine"),
    ({"name": "cosine"}, "missing a required argument: 'num_timesteps'"),
    ({"name": "linear", "s": 1}, "unexpected keyword argument 's'"),
    ({"name": "linear", "beta_end": float("nan")}, "beta_end = nan is not a number"),
    ({"name": "linear", "num_timesteps": 10**7}, "num_timesteps = 10000000 is not"),
    ({"name": "linear", "beta_end": 2.0}, "every beta must be in"),
    ({"num_timesteps": 3}, "a table with a name and numbers"),
    ("linear", "a table with a name and numbers"),
])
def test_stored_schedules_that_are_none(stored, message):
    with pytest.raises(ValueError, match=message):
        schedules.from_json(stored)


def test_the_posterior_variance_lies_below_the_prior_one():
    schedule = schedules.linear(50)
    low, high = schedules.log_variances(schedule)
    assert (low[1:] < high[1:]).all() and low[0] == low[1]
    np.testing.assert_allclose(np.exp(high), np.linspace(1e-4, 0.02, 50), rtol=2e-3)


# ---------------------------------------------------------------- levels in constant ratio

def test_geometric_levels():
    schedule = schedules.geometric(30, 0.01, 10.0)
    sigma = np.sqrt(1 / np.asarray(schedule.alpha_bar, np.float64) - 1)
    np.testing.assert_allclose(sigma, np.geomspace(0.01, 10.0, 30), rtol=1e-3)
    assert schedule.timesteps.tolist() == list(range(30)) and schedule.alpha_bar_prev[0] == 1
    np.testing.assert_array_equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])
    stored = schedules.to_json("geometric", num_timesteps=30, sigma_min=0.01, sigma_max=10.0)
    assert stored == json.loads(json.dumps(stored)) and stored["name"] == "geometric"
    jax.tree.map(np.testing.assert_array_equal, schedules.from_json(stored), schedule)


def test_the_levels_that_are_usual():
    """Of those who say nothing: DDPM's, Stable Diffusion's, EDM's, and ours for networks that are told sigma."""
    np.testing.assert_allclose(1 - schedules.linear().alpha_bar[0], 1e-4, rtol=1e-3)
    np.testing.assert_allclose(1 - schedules.scaled_linear().alpha_bar[0], 0.00085, rtol=1e-3)
    for schedule, ends in ((schedules.geometric(), (0.004, 10.0)), (schedules.karras(), (0.002, 80.0))):
        np.testing.assert_allclose(schedules.sigmas(schedule)[np.array([0, -1])], ends, rtol=0.02)
        assert schedule.timesteps.shape == (1000,)


def test_one_geometric_level():
    np.testing.assert_allclose(schedules.geometric(1, 0.5, 0.5).alpha_bar, [0.8], rtol=1e-6)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_geometric_levels_out_of_order(low, high):
    with pytest.raises(ValueError, match="must be above 0 and in this order"):
        schedules.geometric(10, low, high)


# ---------------------------------------------------------------- EDM's levels, times of a flow, spacings of solvers

def test_karras_levels_are_even_in_the_seventh_root():
    schedule = schedules.karras(50, 0.002, 80.0)
    sigma = np.sqrt(1 / np.asarray(schedule.alpha_bar, np.float64) - 1)
    np.testing.assert_allclose(sigma, [(80**(1 / 7) + i / 49 * (0.002**(1 / 7) - 80**(1 / 7)))**7
                                       for i in range(49, -1, -1)], rtol=0.01)  # 1 - alpha_bar in float32
    np.testing.assert_allclose(schedule.timesteps, np.log(sigma) / 4, atol=3e-3)
    np.testing.assert_allclose(schedules.sigmas(schedule), sigma, rtol=1e-4)
    assert schedule.alpha_bar_prev[0] == 1
    np.testing.assert_array_equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times(shift):
    schedule = schedules.flow(100, shift, 1.0)
    t = np.asarray(schedule.timesteps, np.float64)
    u = (np.arange(100) + 0.5) / 100
    np.testing.assert_allclose(t, shift * u / (1 + (shift - 1) * u), rtol=1e-6)
    np.testing.assert_allclose(schedules.sigmas(schedule), t / (1 - t), rtol=2e-3)  # of z against x
    np.testing.assert_allclose(schedules.flow(100, shift).timesteps, 1000 * t, rtol=1e-6)


@pytest.mark.parametrize("whole", [
    schedules.linear(), schedules.truncate(schedules.cosine(300), 1e-4), schedules.karras(), schedules.flow()],
    ids=["linear", "cosine", "karras", "flow"])
@pytest.mark.parametrize("spacing, place", [("karras", lambda sigma: sigma**(1 / 7)), ("log_snr", np.log)])
def test_spacings_of_solvers_are_even_and_keep_both_ends(whole, spacing, place):
    few = schedules.respace(whole, 12, spacing)
    sigma, all_sigma = (place(np.asarray(schedules.sigmas(each), np.float64)) for each in (few, whole))
    assert (few.timesteps[0], few.timesteps[-1]) == (whole.timesteps[0], whole.timesteps[-1])
    even = np.linspace(all_sigma[0], all_sigma[-1], 12)
    nearest = np.abs(all_sigma[None] - even[:, None]).min(axis=1)
    assert (np.abs(sigma - even) <= nearest + 0.5 * np.diff(all_sigma).max()).all()
    index = np.searchsorted(whole.timesteps, few.timesteps)
    assert (np.diff(index) > 0).all()
    np.testing.assert_array_equal(few.alpha_bar, whole.alpha_bar[index])


def test_levels_on_the_way_to_zero():
    """Even in asinh(sigma / 0.2), the 0 that is not among them counted."""
    whole = schedules.geometric(5000, 0.001, 50.0)
    sigma = np.asarray(schedules.sigmas(schedules.respace(whole, 10, "asinh")), np.float64)
    np.testing.assert_allclose(np.diff(np.arcsinh(np.append(0, sigma) / 0.2)), np.arcsinh(250) / 10, rtol=0.01)
    few = schedules.respace(schedules.geometric(12, 0.5, 50.0), 11, "asinh").timesteps  # none below 0.5
    assert few[-1] == 11 and (np.diff(few) > 0).all()


def test_spacings_of_solvers_of_all_levels_and_of_one():
    whole = schedules.linear(30)
    for spacing in ("karras", "log_snr", "asinh"):
        np.testing.assert_array_equal(schedules.respace(whole, 30, spacing).timesteps, whole.timesteps)
        assert schedules.respace(whole, 1, spacing).timesteps.tolist() == [29.0]


@pytest.mark.parametrize("name, arguments", [("karras", {"num_timesteps": 20, "sigma_max": 40.0}),
                                             ("flow", {"num_timesteps": 20, "shift": 2.0})])
def test_they_are_stored_and_read_again(name, arguments):
    stored = json.loads(json.dumps(schedules.to_json(name, **arguments)))
    for found, wanted in zip(schedules.from_json(stored), getattr(schedules, name)(**arguments)):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("make, words", [
    (lambda: schedules.karras(10, 2.0, 1.0), "in this order"), (lambda: schedules.karras(10, rho=0.0), "rho must be"),
    (lambda: schedules.flow(10, shift=0.0), "shift and time_scale"), (lambda: schedules.flow(0), "num_timesteps must")])
def test_bad_levels_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_schedule_of_ones_own_travels_with_weights(tmp_path):
    numbers = [0.99, 0.7, 0.31, 0.02]
    schedule = schedules.own(numbers, [3, 10, 20, 21])
    np.testing.assert_allclose(schedule.alpha_bar, numbers, rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha_bar_prev, [1.0, *numbers[:-1]], rtol=1e-6)
    stored = json.loads(json.dumps(schedules.to_json("own", alpha_bar=schedule.alpha_bar,
                                                     timesteps=schedule.timesteps)))
    jax.tree.map(np.testing.assert_array_equal, schedules.from_json(stored), schedule)
    networks.write_denoiser(tmp_path / "mine.safetensors", schedule=stored)
    info = weights.load(tmp_path / "mine.safetensors", kind="prior")[2]
    jax.tree.map(np.testing.assert_array_equal, schedules.from_json(info["schedule"]), schedule)


@pytest.mark.parametrize("numbers", [dict(alpha_bar=[0.5, 0.5]), dict(alpha_bar=[0.9, 1.2]), dict(alpha_bar=[]),
                                     dict(alpha_bar=[0.9, 0.1], timesteps=[1]), dict(alpha_bar=[0.9, -0.1]),
                                     dict(alpha_bar=[0.9, 0.1], timesteps=[2, 1]), dict(alpha_bar=[[0.9, 0.1]]),
                                     dict(alpha_bar=[0.0]), dict(alpha_bar=[0.9, 0.0, 0.0])])
def test_numbers_that_are_no_schedule(numbers):
    for make in (schedules.own, lambda **known: schedules.to_json("own", **known)):
        with pytest.raises(ValueError, match="must"):
            make(**numbers)


# ---------------------------------------------------------------- schedules that end in nothing but noise

def diffusers_rescaled(betas):
    """``rescale_zero_terminal_snr`` of diffusers, which goes from betas to betas."""
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    alphas = root**2
    return 1 - np.concatenate([alphas[:1], alphas[1:] / alphas[:-1]])


def diffusers_ddim(alphas_cumprod, timesteps, jump, velocity, x, set_alpha_to_one):
    """``DDIMScheduler.step`` of diffusers for v-prediction and eta 0, from the noisiest timestep on."""
    final = 1.0 if set_alpha_to_one else alphas_cumprod[0]
    for t in timesteps[::-1]:
        a, b = alphas_cumprod[t], alphas_cumprod[t - jump] if t >= jump else final
        v = velocity(x, a)
        x0, eps = a**0.5 * x - (1 - a)**0.5 * v, a**0.5 * v + (1 - a)**0.5 * x
        x = b**0.5 * x0 + (1 - b)**0.5 * eps
    return x


def gaussian_velocity(x, a, mean=0.8, std=0.25):
    """v of pictures ``N(mean, std^2)``, also where a = 0."""
    x0 = mean + std**2 * a**0.5 / (a * std**2 + 1 - a) * (x - a**0.5 * mean)
    return a**0.5 * (x - a**0.5 * x0) / (1 - a)**0.5 - (1 - a)**0.5 * x0


BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000)**2
ENDS = schedules.rescale_zero_terminal_snr(schedules.scaled_linear())


def test_nothing_is_left_at_the_end():
    with np.errstate(divide="ignore"):
        wanted = np.cumprod(1 - diffusers_rescaled(BETAS))
    np.testing.assert_allclose(ENDS.alpha_bar, wanted, rtol=1e-4, atol=1e-9)
    assert float(ENDS.alpha_bar[-1]) == 0 and float(ENDS.alpha_bar[0]) == float(schedules.scaled_linear().alpha_bar[0])
    np.testing.assert_array_equal(ENDS.alpha_bar_prev, np.append(np.float32(1), ENDS.alpha_bar[:-1]))
    stored = schedules.to_json("own", alpha_bar=ENDS.alpha_bar, timesteps=ENDS.timesteps)
    jax.tree.map(np.testing.assert_array_equal, schedules.from_json(json.loads(json.dumps(stored))), ENDS)
    assert float(schedules.linear(5, 0.1, 1.0).alpha_bar[-1]) == 0
    with pytest.raises(ValueError, match="one level cannot be rescaled"):
        schedules.rescale_zero_terminal_snr(schedules.own([0.5]))


@pytest.mark.parametrize("ends, spacing, options", [
    (True, "trailing", {}), (False, "leading", dict(steps_offset=1, set_alpha_to_one=False)), (False, "leading", {})])
@pytest.mark.parametrize("make", [denoisers.from_v, denoisers.from_x0])
def test_chains_are_those_of_diffusers(ends, spacing, options, make):
    """Exact Gaussian, 20 steps: the pictures of diffusers, and the mean and spread of the law in closed form."""
    whole = ENDS if ends else schedules.scaled_linear()
    levels = schedules.respace(whole, 20, spacing, **options)

    def network(x, t):
        a = whole.alpha_bar[t.astype(int)][:, None]
        v = gaussian_velocity(x, a)
        return v if make is denoisers.from_v else a**0.5 * x - (1 - a)**0.5 * v

    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    found, _ = samplers.sample(samplers.ddim(make(network, whole), levels), rng.image_keys(0, [0]), x)
    betas = diffusers_rescaled(BETAS) if ends else BETAS
    timesteps = {"trailing": np.arange(49, 1000, 50), "leading": np.arange(0, 1000, 50)}[spacing]
    timesteps = timesteps + options.get("steps_offset", 0)
    wanted = diffusers_ddim(np.cumprod(1 - betas), timesteps, 50, gaussian_velocity, x.astype(np.float64),
                            options.get("set_alpha_to_one", True))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    mean, std = GaussianDiffusion(0.8, 0.25).output_law(levels, eta=0.0)
    np.testing.assert_allclose(found, mean + std * x, atol=2e-4)  # affine in the noise
    assert ends == (abs(mean - 0.8) < 0.001)  # a bright picture is found from a chain that starts at pure noise only


@pytest.mark.parametrize("eta", [None, 1.0])
def test_noisy_chains_from_nothing_have_the_law(eta):
    levels = schedules.respace(ENDS, 10, "trailing")
    denoiser = denoisers.from_v(lambda x, t: gaussian_velocity(x, ENDS.alpha_bar[t.astype(int)][:, None]), ENDS)
    kernel = samplers.ddpm(denoiser, levels) if eta is None else samplers.ddim(denoiser, levels, eta)
    x = np.random.default_rng(1).standard_normal((2, 20000)).astype(np.float32)
    found, _ = samplers.sample(kernel, rng.image_keys(0, [0, 1]), x)
    mean, std = GaussianDiffusion(0.8, 0.25).output_law(levels, eta=eta)
    assert float(found.mean()) == pytest.approx(mean, abs=0.006) and float(found.std()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("use", [
    lambda: denoisers.from_eps(len, ENDS), lambda: denoisers.from_sigma(len, ENDS),
    lambda: denoisers.from_edm(len, ENDS), lambda: schedules.sigmas(ENDS),
    lambda: schedules.respace(ENDS, 10, "karras"),
    lambda: samplers.heun(len, ENDS),
    lambda: samplers.dpm_solver(len, ENDS), lambda: guidance.truncated(ENDS)(len)])
def test_what_needs_a_rest_of_the_picture_refuses_such_a_schedule(use):
    with pytest.raises(ValueError, match="holds nothing of the picture .* predict v or x0"):
        use()
    with pytest.raises(ValueError, match="holds nothing of the picture"):
        jax.eval_shape(lambda: use() and None)  # also while a program is made


@pytest.mark.parametrize("solver", [samplers.ddim, samplers.heun, samplers.dpm_solver])
def test_the_last_step_may_end_above_the_picture(solver):
    """As ``set_alpha_to_one=False``: at the noise of the first level, here of a picture of nothing."""
    levels = schedules.respace(schedules.linear(), 10, set_alpha_to_one=False, steps_offset=50)
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    denoiser = GaussianDiffusion(0.0, 1e-4).denoiser(levels)  # x0 = 0, whatever it sees
    found, _ = samplers.sample(solver(denoiser, levels), rng.image_keys(0, [0]), x)
    np.testing.assert_allclose(found, 0.01 * x, rtol=0.02)  # sqrt(1 - alpha_bar) = sqrt(beta_start)


@pytest.mark.parametrize("options, message", [
    (dict(steps_offset=1, spacing="trailing"), "steps_offset 1 is for the spacing leading"),
    (dict(steps_offset=100), "at most 99 for 10 of 1000 levels"), (dict(steps_offset=-1), "steps_offset -1")])
def test_offsets_that_leave_the_schedule(options, message):
    with pytest.raises(ValueError, match=message):
        schedules.respace(schedules.linear(), 10, **options)
    assert schedules.respace(schedules.linear(), 10, steps_offset=99).timesteps[-1] == 999
    assert schedules.respace(schedules.linear(), 7, steps_offset=147).timesteps[-1] == 999
    with pytest.raises(ValueError, match="at most 147 for 7"):
        schedules.respace(schedules.linear(), 7, steps_offset=148)


def test_variances_where_a_step_adds_nothing_are_finite():
    levels = schedules.respace(schedules.linear(), 5, set_alpha_to_one=False)  # ends at the level that it starts from
    assert all(np.isfinite(bound).all() for bound in schedules.log_variances(levels))


@pytest.mark.parametrize("make", [lambda: schedules.flow(1000, shift=0.3), lambda: schedules.flow(4000),
                                  lambda: schedules.karras(1000, 1e-4), lambda: schedules.geometric(1000, 1e-4),
                                  lambda: schedules.own([0.99999999, 0.5])])
def test_a_level_that_float32_cannot_tell_from_none_is_refused(make):
    """Its sigma would be 0, and every sampler's result nan."""
    with pytest.raises(ValueError, match=r"the first level has a noise of sigma = [\d.e-]+, which float32 cannot"):
        make()


@pytest.mark.parametrize("schedule", [schedules.flow(1000), schedules.karras(1000), schedules.karras(1000, 5e-4),
                                      schedules.linear(), schedules.cosine(4000), schedules.geometric(1000)])
def test_sigmas_are_above_nothing_and_ascend(schedule):
    sigma = np.asarray(schedules.sigmas(schedule))
    assert sigma[0] > 3e-4 and (np.diff(sigma) >= 0).all()
