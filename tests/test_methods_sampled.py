"""Methods that draw samples: one of them, or at the same cost the mean of four."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, methods, operators, rng, schedules
from indigo_jax.methods.known import Problem, levels_of, run
from indigo_jax.methods.solvers import SOLVERS
from tests import guided_networks
from tests.laws import draws
from tests.oracles import GaussianDiffusion

SAMPLED = ("diffpir", "ddnm", "ddrm", "daps", "dps", "pigdm", "tmpd")
GUIDED = ("pigdm", "tmpd", "ddnm")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return guided_networks.write_prior(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def problem():
    """Holes in pictures of a Gaussian prior: what was there is independent of what is seen."""
    gaussian, schedule = GaussianDiffusion(0.1, 0.4), schedules.linear(200)
    prior = denoisers.Prior(gaussian.denoiser(schedule), schedule)
    keys = rng.image_keys(0, jnp.arange(8))
    x = 0.1 + 0.4 * rng.normal(keys, jnp.zeros((8, 8, 8, 3)))
    operator = operators.inpaint(jnp.ones((8, 8)).at[:, :4].set(0.0))
    return prior, Problem(operator, operator(x), keys, jnp.full(8, 0.01), x.shape[1:]), x


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_the_mean_of_four_short_chains(weights, name):
    prior, given, x = problem()
    one, mean = (methods.load(name, task="inpaint", weights=weights, mask=np.ones((8, 8)), steps=22, aim=aim)
                 for aim in ("perception", "distortion"))
    kernel = one.chain(prior, given, 5)
    samples = [run(kernel, given._replace(keys=rng.fold(given.keys, number))) for number in range(4)]
    np.testing.assert_allclose(mean.restore(prior, given).x, jnp.clip(sum(samples) / 4, -1, 1), atol=1e-5)
    np.testing.assert_allclose(one.restore(prior, given).x, jnp.clip(run(one.chain(prior, given, 22), given), -1, 1),
                               atol=1e-6)
    assert one.evaluations(None) == 22 and mean.evaluations(None) == 20


def test_a_mean_errs_less_than_a_sample(weights):
    """In the holes a sample errs by twice the prior's variance, a mean of four by 5/4 of it."""
    prior, given, x = problem()
    error = {}
    for aim in ("perception", "distortion"):
        method = methods.load("diffpir", task="inpaint", weights=weights, mask=np.ones((8, 8)), steps=200, aim=aim)
        error[aim] = float(jnp.mean((method.restore(prior, given).x - x)[:, :, :4]**2))
    assert error["distortion"] < 0.75 * error["perception"]


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(300)], ids=["linear", "cosine"])
def test_levels_for_samplers_that_draw_all_noise_anew(schedule):
    prior = denoisers.Prior(None, schedule)
    kept = {(spacing, std): GaussianDiffusion(0.3, std).output_law(levels_of(prior, 50, spacing), eta=1.0)[1] / std
            for spacing in ("linspace", "log_snr") for std in (0.3, 0.5)}
    assert min(kept["log_snr", 0.3], kept["log_snr", 0.5]) > 0.92
    assert kept["linspace", 0.3] < kept["log_snr", 0.3] and kept["linspace", 0.5] < kept["log_snr", 0.5] + 0.01
    found = jax.jit(lambda: levels_of(prior, 50, "log_snr").alpha_bar)()
    np.testing.assert_array_equal(found, levels_of(prior, 50, "log_snr").alpha_bar)
    assert found[-1] >= 1e-3 and levels_of(prior, 10**4, "log_snr").timesteps.shape == schedule.timesteps.shape


def test_fewer_steps_than_samples(weights):
    method = methods.load("diffpir", weights=weights, task="inpaint", mask=np.ones((8, 8)), steps=3, aim="distortion")
    assert method.evaluations(None) == 4
    with pytest.raises(ValueError, match="aim must be one of perception, distortion; got 'both'"):
        methods.load("diffpir", weights=weights, task="inpaint", mask=np.ones((8, 8)), aim="both")


# ---------------------------------------------------------------- --sampler

def guided(name, weights, **settings):
    return methods.load(name, task="inpaint", weights=weights, mask=np.ones((8, 8)), **settings)


@pytest.mark.parametrize("sampler, steps, calls", [
    ("ddim", 5, 5), ("dpm-solver", 5, 5), ("heun", 5, 5), ("heun", 6, 5)])
def test_every_sampler_calls_the_network_as_often_as_is_reported(weights, sampler, steps, calls):
    prior, given, _ = problem()
    heard = []

    def counted(x_t, t):
        jax.debug.callback(lambda: heard.append(1))
        return prior.denoiser(x_t, t)

    method = guided("ddnm", weights, sampler=sampler, steps=steps)
    x = method.restore(prior._replace(denoiser=counted), given).x
    jax.effects_barrier()
    assert len(heard) == calls == method.evaluations(None) and np.isfinite(x).all()
    mean = guided("ddnm", weights, sampler=sampler, steps=4 * steps, aim="distortion")
    assert mean.evaluations(None) == 4 * calls


@pytest.mark.parametrize("name", GUIDED)
def test_new_noise_is_that_of_the_setting(weights, name):
    """DDIM draws where nothing is said, DPM-Solver where it is told to, Heun never."""
    prior, given, _ = problem()
    given = given._replace(y=given.y[:1], keys=given.keys[:1], sigma=given.sigma[:1])

    def drawn(**settings):
        return draws(guided(name, weights, **settings).chain(prior, given, 4), jnp.zeros((8, 8, 3)))[1]

    assert drawn() == drawn(sampler="dpm-solver", eta=0.5) == [192]
    assert drawn(eta=0.0) == drawn(sampler="dpm-solver") == drawn(sampler="heun") == []


def test_what_a_sampler_can_be(weights):
    assert tuple(SOLVERS) == ("ddim", "dpm-solver", "heun")
    with pytest.raises(ValueError, match="sampler must be one of ddim, dpm-solver, heun; got 'euler'"):
        guided("pigdm", weights, sampler="euler")
    with pytest.raises(ValueError, match="heun draws no noise of its own: leave eta out"):
        guided("tmpd", weights, sampler="heun", eta=1.0)
    assert guided("tmpd", weights, sampler="heun", eta=0.0).settings.eta == 0.0
