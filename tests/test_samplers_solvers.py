"""Heun, DPM-Solver++ and Euler against their papers' algorithms on a Gaussian, and what the second order is worth.

The laws come from the papers' algorithms in float64, run on affine forms ``mean + coefficients . normals``: for a
Gaussian every step is affine.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import guidance, rng, samplers, schedules
from tests.oracles import GaussianDiffusion

GAUSSIAN = GaussianDiffusion(mean=0.3, std=0.5)
NUM, SIZE = 4096, 8
KEYS = rng.image_keys(0, np.arange(NUM))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((NUM, SIZE)))
WHOLE = schedules.karras(400, 0.01, 20.0)
SHORT = schedules.respace(WHOLE, 9, "karras")

MAKERS = {
    "heun": samplers.heun,
    "heun, churn": lambda d, s: samplers.heun(d, s, churn=3.0, churn_range=(0.05, 10.0), churn_noise=1.003,
                                              levels=WHOLE),
    "2M": samplers.dpm_solver,
    "SDE-2M": lambda d, s: samplers.dpm_solver(d, s, eta=1.0),
    "euler": lambda d, s: samplers.euler_ancestral(d, s, eta=0.0),
    "ancestral": samplers.euler_ancestral,
}
DETERMINISTIC = ("heun", "2M", "euler")


# ---------------------------------------------------------------- the papers' algorithms, on affine forms

class Forms:
    """``x = form[0] + form[1:] . normals``, the first normal that of the start."""

    def __init__(self, schedule, count=64, gaussian=GAUSSIAN):
        self.gaussian, a = gaussian, np.asarray(schedule.alpha_bar, np.float64)
        self.sigma = np.append(np.sqrt(1 / a - 1)[::-1], 0.0)  # as visited
        self.x, self.used, self.count = np.zeros(count), 1, count
        self.x[1] = 1 / np.sqrt(a[-1])

    def noise(self):
        self.used += 1
        return np.eye(self.count)[self.used]

    def denoised(self, x, sigma):
        share = self.gaussian.std**2 / (self.gaussian.std**2 + sigma**2)
        x0 = share * x
        x0[0] += (1 - share) * self.gaussian.mean
        return x0

    def law(self):
        return self.x[0], np.linalg.norm(self.x[1:])


def edm(forms, churn=0.0, low=0.0, high=np.inf, boost=1.0):
    """Algorithm 2 of Karras et al.; sigma^ is rounded to the levels of WHOLE."""
    n, x = len(forms.sigma) - 1, forms.x
    known = np.sqrt(1 / np.asarray(WHOLE.alpha_bar, np.float64) - 1)
    for now, after in zip(forms.sigma[:-1], forms.sigma[1:]):
        hat = now
        if churn and low <= now <= high:
            hat = np.exp(np.log(known)[np.abs(np.log(known) - np.log(now * (1 + min(churn / n, 2**0.5 - 1)))).argmin()])
            x = x + np.sqrt(max(hat**2 - now**2, 0)) * boost * forms.noise()
        d = (x - forms.denoised(x, hat)) / hat
        moved = x + (after - hat) * d
        if after:
            d_after = (moved - forms.denoised(moved, after)) / after
            moved = x + (after - hat) * (d / 2 + d_after / 2)
        x = moved
    forms.x = x


def multistep(forms, sde):
    """DPM-Solver++(2M), Algorithm 2 of Lu et al., and its SDE form, in lambda, alpha and sigma of the VP process."""
    sigmas = forms.sigma
    alpha, sigma = 1 / np.sqrt(1 + sigmas**2), sigmas / np.sqrt(1 + sigmas**2)
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    x, before = forms.x * alpha[0], None
    for i in range(1, len(sigmas)):
        x0, h = forms.denoised(x / alpha[i - 1], sigmas[i - 1]), lam[i] - lam[i - 1]
        mixed = x0
        if before is not None and sigma[i] > 0:
            r = (lam[i - 1] - lam[i - 2]) / h
            mixed = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        if sde:
            x = (sigma[i] / sigma[i - 1] * np.exp(-h) * x + alpha[i] * (1 - np.exp(-2 * h)) * mixed
                 + sigma[i] * np.sqrt(1 - np.exp(-2 * h)) * forms.noise())
        else:
            x = sigma[i] / sigma[i - 1] * x - alpha[i] * np.expm1(-h) * mixed
        before = x0
    forms.x = x


def euler(forms, eta):
    """Ancestral Euler as k-diffusion has it: down to less than the next level, then noise up to it."""
    x = forms.x
    for now, after in zip(forms.sigma[:-1], forms.sigma[1:]):
        up = min(after, eta * np.sqrt(after**2 * (now**2 - after**2) / now**2))
        down = np.sqrt(after**2 - up**2)
        x = x + (x - forms.denoised(x, now)) / now * (down - now)
        if up:
            x = x + up * forms.noise()
    forms.x = x


ALGORITHMS = {
    "heun": edm, "heun, churn": lambda forms: edm(forms, 3.0, 0.05, 10.0, 1.003),
    "2M": lambda forms: multistep(forms, False), "SDE-2M": lambda forms: multistep(forms, True),
    "euler": lambda forms: euler(forms, 0.0), "ancestral": lambda forms: euler(forms, 1.0),
}


def law(name, schedule):
    forms = Forms(schedule)
    ALGORITHMS[name](forms)
    return forms.law()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("schedule", [SHORT, schedules.respace(WHOLE, 40, "log_snr")], ids=["9", "40"])
def test_output_has_the_law_of_the_papers_algorithm(name, schedule):
    kernel = MAKERS[name](GAUSSIAN.denoiser(WHOLE), schedule)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS, NOISE)
    mean, std = law(name, schedule)
    assert abs(float(x.mean()) - mean) < 4 * std / np.sqrt(NUM * SIZE)
    assert abs(float(x.std()) / std - 1) < 4 / np.sqrt(2 * NUM * SIZE)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_solver_is_the_papers_algorithm_number_for_number(name):
    kernel, forms = MAKERS[name](GAUSSIAN.denoiser(WHOLE), SHORT), Forms(SHORT)
    ALGORITHMS[name](forms)
    x, _ = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z))(KEYS[:4], NOISE[:4])
    np.testing.assert_allclose(x, forms.x[0] + forms.x[1] * np.asarray(NOISE[:4]), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_many_steps_reach_the_data(name):
    mean, std = law(name, schedules.respace(WHOLE, 50, "karras"))
    assert abs(mean - GAUSSIAN.mean) < 0.02 and abs(std - GAUSSIAN.std) < 0.05


# ---------------------------------------------------------------- what the second order is worth

def worst_error(algorithm, schedule, gaussian):
    """Largest distance from the exact probability flow for ``|x_T| <= 2``, in closed form: all is affine."""
    forms = Forms(schedule, gaussian=gaussian)
    algorithm(forms)
    level = forms.sigma[0]
    factor = gaussian.std / np.sqrt(gaussian.std**2 + level**2)
    exact = np.array([gaussian.mean * (1 - factor), factor * np.sqrt(1 + level**2)])
    return max(abs((forms.x[:2] - exact) @ [1, z]) for z in (-2, 2))


@pytest.mark.parametrize("std", [0.3, 0.4, 0.45])
@pytest.mark.parametrize("whole", [schedules.geometric(2000, 0.01, 10.0), schedules.karras(2000), schedules.linear()],
                         ids=["geometric", "karras", "linear"])
def test_second_order_reaches_the_error_of_ddim_100_with_25_evaluations(whole, std):
    """DDIM with its best spacing; Heun with 13 steps, 2M with 20."""
    def error(algorithm, num_steps, spacing):
        return worst_error(algorithm, schedules.respace(whole, num_steps, spacing), GaussianDiffusion(0.2, std))

    wanted = min(error(ALGORITHMS["euler"], 100, spacing) for spacing in schedules.RESPACINGS[1:])
    assert 0.01 < wanted < 0.03
    assert error(edm, 13, "asinh") < wanted < error(edm, 13, "karras")
    assert error(ALGORITHMS["2M"], 20, "log_snr") < wanted


# ---------------------------------------------------------------- as of every kernel

@pytest.mark.parametrize("name", ["heun, churn", "SDE-2M"])
def test_an_image_alone_and_a_loop_of_ones_own(name):
    kernel = MAKERS[name](GAUSSIAN.denoiser(WHOLE), SHORT)
    run = jax.jit(lambda keys, z: samplers.sample(kernel, keys, z)[0])
    batch = run(KEYS[:8], NOISE[:8])
    np.testing.assert_allclose(run(KEYS[5:6], NOISE[5:6]), batch[5:6], atol=1e-6)
    state, step = kernel.init(NOISE[:8], KEYS[:8]), jax.jit(kernel.step)
    for i in range(kernel.num_steps):
        state, info = step(KEYS[:8], state, i)
    np.testing.assert_allclose(state.x, batch, atol=1e-6)
    assert info.x0.shape == batch.shape


@pytest.mark.parametrize("name", MAKERS)
def test_guidance_pulls(name):
    guided = guidance.energy(lambda x0: jnp.sum((x0 - 0.9)**2, axis=1), 0.05)(GAUSSIAN.denoiser(WHOLE))
    free, pulled = (jax.jit(lambda keys, z, kernel=MAKERS[name](denoiser, SHORT): samplers.sample(
        kernel, keys, z)[0])(KEYS[:64], NOISE[:64]).mean() for denoiser in (GAUSSIAN.denoiser(WHOLE), guided))
    assert free + 0.02 < pulled < 0.9


def test_one_step_is_the_mean():
    schedule = schedules.respace(WHOLE, 1, "karras")
    wanted = GAUSSIAN.denoiser(WHOLE)(NOISE[:2], schedule.timesteps[jnp.array([0, 0])]).x0
    for name in DETERMINISTIC:
        kernel = MAKERS[name](GAUSSIAN.denoiser(WHOLE), schedule)
        np.testing.assert_allclose(samplers.sample(kernel, KEYS[:2], NOISE[:2])[0], wanted, atol=1e-5)


@pytest.mark.parametrize("call, words", [
    (lambda: samplers.heun(None, SHORT, churn=-1.0), "churn must be at least 0"),
    (lambda: samplers.heun(None, SHORT, churn=1.0), "give levels, the denoiser's whole schedule"),
    (lambda: samplers.dpm_solver(None, SHORT, eta=2.0), r"eta must be in \[0, 1\]"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
