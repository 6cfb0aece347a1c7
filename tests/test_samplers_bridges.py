"""I2SB and IR-SDE, InDI's neighbours: against their papers' own variables in float64, and where the three are one."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, paths, rng, samplers
from tests.oracles import per_image

NUM, EPS, SPREAD = 4096, 0.4, 0.3
KEYS = rng.image_keys(0, np.arange(NUM))
M, P, Y = 0.2, 0.35, -0.5  # given y, x is N(M, P^2)
START = jnp.full((NUM, 4), Y)


def restorer(std):
    """``E[x | x_t, y]`` where ``x_t = (1 - t) x + t y + std(t) n``."""
    def exact(x_t, t):
        t = per_image(t, x_t)
        gain = (1 - t) * P**2 / ((1 - t)**2 * P**2 + std(t)**2 + 1e-12)
        return M + gain * (x_t - (1 - t) * M - t * Y)

    return exact


F = {"i2sb": restorer(lambda t: EPS * (t * (1 - t))**0.5), "ir_sde": restorer(lambda t: SPREAD * (t * (2 - t))**0.5)}
KERNELS = {"i2sb": lambda times, f=F["i2sb"]: samplers.i2sb(f, times, eps=EPS),
           "ir_sde": lambda times, f=F["ir_sde"]: samplers.ir_sde(f, times, spread=SPREAD)}


def gains(name, t):
    """``F(x_t) = offset + slope x_t`` in float64."""
    f = [float(F[name](jnp.full((1, 1), x), jnp.full(1, t))[0, 0]) for x in (0.0, 1.0)]
    return f[0], f[1] - f[0]


def i2sb_law(sigma2):
    """Algorithm 2 of the paper: ``sigma2`` ascending, ``alpha^2`` what is added between two times."""
    m, v = Y, 0.0
    for now, before in zip(sigma2[:0:-1], sigma2[-2::-1]):
        alpha2, total = now - before, sigma2[-1]
        offset, slope = gains("i2sb", now / total)
        of_x0, of_x = alpha2 / (alpha2 + before), before / (alpha2 + before)
        m = of_x0 * (offset + slope * m) + of_x * m
        v = (of_x0 * slope + of_x)**2 * v + before * alpha2 / (alpha2 + before)
    return m, v**0.5


def ir_sde_law(theta):
    """By Bayes' rule for the forward step from s to t, given x0 = F: precisions add."""
    m, v = Y, SPREAD**2
    for now, before in zip(theta[:0:-1], theta[-2::-1]):
        offset, slope = gains("ir_sde", -np.expm1(-now))
        r, added = np.exp(before - now), SPREAD**2 * -np.expm1(2 * (before - now))
        variance = SPREAD**2 * -np.expm1(-2 * before)  # of x_s given x0
        posterior = 1 / (1 / variance + r**2 / added) if variance else 0.0
        of_x = posterior * r / added if variance else 0.0
        of_x0 = (1 - of_x * r) * np.exp(-before)
        rest = Y - of_x0 * Y - of_x * Y
        m, v = rest + of_x0 * (offset + slope * m) + of_x * m, (of_x0 * slope + of_x)**2 * v + posterior
    return m, v**0.5


def close(x, mean, std):
    assert abs(float(x.mean()) - mean) < 4 * std / x.size**0.5 and abs(float(x.std()) / std - 1) < 3 / x.size**0.5


def run(kernel, start=START, keys=KEYS):
    return jax.jit(lambda keys, y: samplers.sample(kernel, keys, y)[0])(keys, start)


def law(name, num_steps):
    """And the times it visits."""
    if name == "i2sb":
        beta = np.linspace(0, 1, num_steps + 1)
        sigma2 = EPS**2 * (3 * beta**2 - 2 * beta**3)
        return i2sb_law(sigma2), sigma2 / sigma2[-1]
    theta = 12 * np.linspace(0, 1, num_steps + 1)**2
    times = -np.expm1(-theta)
    times[-1] = 1.0
    return ir_sde_law(theta), times


@pytest.mark.parametrize("name", KERNELS)
def test_the_law_of_the_papers_own_variables(name):
    (mean, std), times = law(name, 12)
    close(run(KERNELS[name](times)), mean, std)


@pytest.mark.parametrize("name", KERNELS)
def test_many_steps_reach_the_data_and_the_error_halves(name):
    errors = [abs(law(name, num_steps)[0][1] - P) for num_steps in (50, 100, 200)]
    assert errors[-1] < 0.03 * P
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.2)


def test_a_step_of_i2sb_is_indis():
    """From any x_t; InDI's Brownian mode differs in its start alone, and without noise all three are one."""
    times = np.array([1, 0.7, 0.45, 0.2, 0.0])
    state, steps = samplers.State(rng.normal(KEYS[:8], START[:8])), []
    for kernel in (samplers.i2sb(F["i2sb"], times, eps=EPS),
                   samplers.indi(F["i2sb"], times, noise=samplers.brownian_noise(EPS))):
        steps.append([kernel.step(KEYS[:8], state, i)[0].x for i in range(4)])
    np.testing.assert_allclose(*steps, atol=1e-6)
    noiseless = [run(samplers.i2sb(F["i2sb"], times, eps=1e-7), START[:8], KEYS[:8]),
                 run(samplers.indi(F["i2sb"], times, noise=samplers.no_noise()), START[:8], KEYS[:8])]
    np.testing.assert_allclose(*noiseless, atol=1e-5)


def test_a_short_step_of_ir_sde_near_the_picture_is_indis_and_one_at_the_start_is_not():
    x_t = rng.normal(KEYS[:8], START[:8])
    difference = []
    for t in (0.999, 0.1, 0.01):
        times, state = np.array([1, t, 0.5 * t, 0.0]), samplers.State(x_t, START[:8])
        ours = samplers.ir_sde(F["ir_sde"], times, spread=1e-6).step(KEYS[:8], state, 1)[0].x
        indi = samplers.indi(F["ir_sde"], times, noise=samplers.no_noise()).step(KEYS[:8], state, 1)[0].x
        difference.append(float(jnp.abs(ours - indi).max()))
    assert difference[0] > 0.3 and difference[1] < 0.1 and difference[2] < 0.01


@pytest.mark.parametrize("mode, std", [(paths.bridge_noise(0.3), lambda t: 0.3 * np.sqrt(t * (1 - t))),
                                       (paths.reverting_noise(0.3), lambda t: 0.3 * np.sqrt(t * (2 - t)))])
def test_modes_are_those_of_their_paths_and_travel(mode, std):
    t = np.linspace(0, 1, 11)
    np.testing.assert_allclose(mode.std(t), std(t))
    np.testing.assert_allclose(t[1:] * mode.eps_t(t[1:]), mode.std(t[1:]), atol=1e-12)
    np.testing.assert_allclose(mode.step_std(0.6, 0.2)**2, mode.std(0.2)**2 - (0.2 / 0.6 * mode.std(0.6))**2)
    assert paths.noise_from_json(paths.noise_to_json(mode)) == mode


def test_a_bridge_starts_without_noise():
    assert (samplers.indi(F["i2sb"], 3, noise=paths.bridge_noise(0.3)).init(START[:2], KEYS[:2]).x == Y).all()


def test_ir_sde_takes_no_restorer_of_another_path():
    for noise in (paths.reverting_noise(0.3), paths.custom_noise(lambda t: 0.3 * ((2 - t) / t)**0.5)):
        samplers.ir_sde(denoisers.restorer(F["ir_sde"], noise=noise), 3, spread=0.3)
    for noise in (paths.reverting_noise(0.2), paths.bridge_noise(0.3)):
        with pytest.raises(ValueError, match="trained with .* and this walk is that of reverting noise"):
            samplers.ir_sde(denoisers.restorer(F["ir_sde"], noise=noise), 3, spread=0.3)


def test_indi_on_the_path_of_ir_sde_reaches_the_data():
    """Its steps add the mode's own noise: the law of x_t stays that of the path."""
    kernel = samplers.indi(F["ir_sde"], 200, noise=paths.reverting_noise(SPREAD))
    x = run(kernel)
    assert abs(float(x.mean()) - M) < 0.02 and abs(float(x.std()) / P - 1) < 0.04


def test_the_papers_times():
    times = samplers.i2sb_times(1000, beta_min=0.1, beta_max=0.3).astype(np.float64)
    beta = -np.diff(times)
    root = 0.1**0.5 + (1 - np.abs(np.linspace(1, -1, 2001)[1::2])) * (0.3**0.5 - 0.1**0.5)
    np.testing.assert_allclose(beta, root**2 / np.sum(root**2), atol=2e-7)
    assert times[0] == 1 and times[-1] == 0


@pytest.mark.parametrize("call, words", [
    (lambda: samplers.i2sb(None, 4, eps=-1.0), "eps must be finite and at least 0"),
    (lambda: samplers.i2sb_times(4, beta_min=0.0), "must be above 0"),
    (lambda: samplers.ir_sde(None, 4, spread=0.0), "spread must be above 0"),
    (lambda: samplers.ir_sde(None, [1.0, 0.5]), "times must run from 1"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
