"""INDIGO against closed forms: a Gaussian prior, and invertible networks that are plain wavelet splits."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import guidance, operators, restoration, rng, samplers, schedules, wavelets
from indigo_jax.restoration import InvertibleNetwork
from tests.oracles import GaussianDiffusion

SCHEDULE = schedules.respace(schedules.linear(), 8)
PRIOR = GaussianDiffusion(0.1, 0.3)
KEYS = rng.image_keys(0, [0, 1])
X = PRIOR.mean + PRIOR.std * jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
Y = X.reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
START = jax.random.normal(jax.random.key(2), X.shape)


def split(params, x, cond):
    """Means of 2 x 2, and what else there is; ``params`` and ``cond`` shift the coarse picture."""
    coarse, details = wavelets.split(x, "haar", scaling="mean")
    shift = (0.0 if params is None else params) + (0.0 if cond is None else cond[:, :1, None, None])
    return coarse + shift, [list(details)]


def merge(params, coarse, details, cond):
    shift = (0.0 if params is None else params) + (0.0 if cond is None else cond[:, :1, None, None])
    return wavelets.merge(coarse - shift, tuple(details[0]), "haar", scaling="mean")


HAAR = InvertibleNetwork(split, merge)
SHIFTED = InvertibleNetwork(split, merge, jnp.full((1, 1, 1, 1), 0.2))


def run(inn=HAAR, x=START, keys=KEYS, y=Y, **options):
    kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, inn, y, **options)
    return jax.jit(functools.partial(samplers.sample, kernel))(keys, x)


def norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3)))


def test_without_guidance_it_is_ddim_to_the_bit():
    denoiser = guidance.clip_x0()(PRIOR.denoiser(SCHEDULE))
    plain = jax.jit(functools.partial(samplers.sample, samplers.ddim(denoiser, SCHEDULE, 0.5)))(KEYS, START)[0]
    np.testing.assert_array_equal(run(scale=0.0)[0], plain)
    np.testing.assert_allclose(run(scale=jnp.zeros(len(START)))[0], plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_one_step_is_its_formula(gradient):
    """x0 = offset + gain x_t, and the details cancel: |v - u| is twice |y - c| over the pixels of a block of four."""
    kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, HAAR, Y, scale=0.7, weights=(2.0, 0.5), eta=0.0,
                                clip="straight_through", gradient=gradient)
    state, info = kernel.step(KEYS, kernel.init(START, KEYS), 0)
    a, a_s = SCHEDULE.alpha_bar[-1], SCHEDULE.alpha_bar_prev[-1]
    prediction = PRIOR.denoiser(SCHEDULE)(START, jnp.full(2, SCHEDULE.timesteps[-1]))
    x0 = jnp.clip(prediction.x0, -1, 1)
    gain = PRIOR.std**2 * jnp.sqrt(a) / (a * PRIOR.std**2 + 1 - a) if gradient == "full" else 1 / jnp.sqrt(a)
    residual = (x0.reshape(2, 4, 2, 4, 2, 3).mean((2, 4)) - Y) / 2
    direction = residual / norm(residual)[:, None, None, None] / 4  # of |y - c| for each of the four pixels of u
    pull = (2.0 + 0.5 * 2) * direction.repeat(2, 1).repeat(2, 2) / 2 * gain
    wanted = jnp.sqrt(a_s) * x0 + jnp.sqrt(1 - a_s) * prediction.eps - 0.7 * pull
    np.testing.assert_allclose(state.x, wanted, atol=2e-5)
    np.testing.assert_allclose(info.residual, norm(residual) / 48**0.5, rtol=1e-4)


def test_more_guidance_leaves_a_smaller_residual():
    residuals = [norm(run(scale=jnp.float32(scale))[0].reshape(2, 4, 2, 4, 2, 3).mean((2, 4)) - Y)
                 for scale in (0.0, 0.25, 0.5, 1.0)]
    assert all((after < before).all() for before, after in zip(residuals, residuals[1:]))


def test_its_own_coarse_picture_changes_nothing():
    u = jnp.clip(PRIOR.denoiser(SCHEDULE)(START, jnp.full(2, SCHEDULE.timesteps[-1])).x0, -1, 1)
    y = u.reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
    states = []
    for scale in (0.0, 100.0):
        kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, HAAR, y, scale=scale, weights=(0.0, 1.0),
                                    eta=0.0, distance=lambda v, u: jnp.sum((v - u) ** 2, axis=(1, 2, 3)))
        state, info = kernel.step(KEYS, kernel.init(START, KEYS), 0)
        assert float(info.residual.max()) < 1e-6
        states.append(state.x)
    np.testing.assert_allclose(states[1], states[0], atol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_a_distance_sees_pictures(power):
    """In [-1, 1], as everything else: of ``sum u^power / power`` the gradient is ``u^(power - 1)``, u = x0."""
    kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, HAAR, Y, scale=0.3, weights=(0.0, 2.0), eta=0.0,
                                clip=None, distance=lambda v, u: jnp.sum(u**power, axis=(1, 2, 3)) / power)
    state, _ = kernel.step(KEYS, kernel.init(START, KEYS), 0)
    a, a_s = SCHEDULE.alpha_bar[-1], SCHEDULE.alpha_bar_prev[-1]
    prediction = PRIOR.denoiser(SCHEDULE)(START, jnp.full(2, SCHEDULE.timesteps[-1]))
    gain = PRIOR.std**2 * jnp.sqrt(a) / (a * PRIOR.std**2 + 1 - a)
    free = jnp.sqrt(a_s) * prediction.x0 + jnp.sqrt(1 - a_s) * prediction.eps
    np.testing.assert_allclose(state.x, free - 0.6 * gain * prediction.x0**(power - 1), atol=1e-5)


def test_refinement_lowers_the_residual_and_starts_anew_for_every_image():
    options = dict(inn=SHIFTED, scale=0.0, eta=0.0, refine=optax.adam(2e-2))
    plain, refined = run(**{**options, "refine": None})[1].steps, run(**options)[1].steps
    np.testing.assert_allclose(refined.residual[0], plain.residual[0], rtol=1e-5)
    assert (refined.residual[1:] < plain.residual[1:] - 1e-3).all()
    kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, SHIFTED, Y, refine=optax.adam(2e-2),
                                refine_until=7)
    state = kernel.init(START, KEYS)
    assert state.params.shape == (2, 1, 1, 1, 1)
    np.testing.assert_array_equal(kernel.step(KEYS, state, 0)[0].params, state.params)  # level 7 is not above 7


@pytest.mark.parametrize("refine", [None, optax.adam(1e-2)])
def test_an_image_alone_and_in_any_order_is_the_same(refine):
    cond = jnp.asarray([[0.05], [-0.1]])
    options = dict(inn=SHIFTED, scale=0.5, refine=refine)
    both = run(**options, cond=cond)[0]
    turned = run(**options, cond=cond[::-1], x=START[::-1], y=Y[::-1], keys=KEYS[::-1])[0]
    np.testing.assert_allclose(turned[::-1], both, atol=1e-5)
    alone = run(**options, cond=cond[1:], x=START[1:], y=Y[1:], keys=KEYS[1:])[0]
    np.testing.assert_allclose(alone[0], both[1], atol=1e-5)
    assert float(jnp.abs(run(**options, cond=cond + 0.1)[0] - both).max()) > 1e-4


def test_the_released_levels_and_start():
    schedule = restoration.indigo_schedule(schedules.linear())
    np.testing.assert_array_equal(schedule.timesteps[::-1], np.arange(396, -1, -4))
    assert float(schedule.alpha_bar_prev[0]) == 1
    assert abs(float(schedule.alpha_bar[-1]) - 0.1999) < 2e-3
    start = restoration.indigo_start(schedule, jnp.full((1, 64, 64, 3), 0.5), KEYS[:1])
    a = float(schedule.alpha_bar[-1])
    assert abs(float(start.mean()) - 0.5 * a**0.5) < 0.03 and abs(float(start.std()) - (1 - a) ** 0.5) < 0.03
    assert restoration.indigo_preset("real")["weights"] == (1.0, 0.5)


def test_colors_come_from_the_reference_and_details_stay():
    x = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (1, 16, 16, 3)), jnp.float32)
    np.testing.assert_allclose(restoration.fix_color(x + 0.3, x), x, atol=1e-5)
    np.testing.assert_allclose(restoration.fix_color(x, x), x, atol=1e-6)
    flat = restoration.fix_color(jnp.zeros_like(x), x)
    assert float(flat.std()) < 0.5 * float(x.std())
    impulse = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    low = restoration.fix_color(jnp.zeros_like(impulse), impulse, levels=1)
    np.testing.assert_allclose(low[0, 1:4, 1:4, 0], np.outer([1, 2, 1], [1, 2, 1]) / 16, atol=1e-6)


# --- a known operator in the network's place

ROWS = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
MIX = operators.linear(lambda x: jnp.einsum("ij,bjwc->biwc", ROWS, x))


def test_a_known_operator_and_its_pseudo_inverse_undo_each_other():
    fourier = operators.linear(lambda x: jnp.fft.fft(x, axis=1)[:, :3], input_shape=(8, 8, 3))
    for operator in (MIX, fourier, operators.average_pool(2), operators.inpaint(np.arange(64).reshape(8, 8) % 3 > 0)):
        inn = restoration.operator_inn(operator)
        coarse, details = inn.forward(None, X / 2 + 0.5, None)
        np.testing.assert_allclose(2 * coarse - 1, operator(X), atol=1e-5)
        np.testing.assert_allclose(inn.inverse(None, coarse, details, None), X / 2 + 0.5, atol=1e-6)
        other = inn.inverse(None, coarse, 0.3 * details, None)
        np.testing.assert_allclose(operator(2 * other - 1), operator(X), atol=1e-4)


def test_one_step_with_a_known_operator_is_its_formula():
    y, inverse = MIX(X), np.linalg.pinv(ROWS)

    def energy(x0):
        misfit = y - jnp.einsum("ij,bjwc->biwc", ROWS, x0)
        return jnp.sum(2.0 * norm(misfit / 2) + 0.5 * norm(jnp.einsum("ij,bjwc->biwc", inverse, misfit / 2)))

    kernel = restoration.indigo(PRIOR.denoiser(SCHEDULE), SCHEDULE, MIX, y, scale=0.7, weights=(2.0, 0.5), clip=None)
    state, info = kernel.step(KEYS, kernel.init(START, KEYS), 0)
    plain = samplers.ddim(PRIOR.denoiser(SCHEDULE), SCHEDULE, 0.5)
    free, about = plain.step(KEYS, plain.init(START, KEYS), 0)
    a = SCHEDULE.alpha_bar[-1]
    gain = PRIOR.std**2 * jnp.sqrt(a) / (a * PRIOR.std**2 + 1 - a)
    np.testing.assert_allclose(state.x, free.x - 0.7 * gain * jax.grad(energy)(about.x0), atol=2e-5)
    np.testing.assert_allclose(info.residual, norm(y - MIX(about.x0)) / 2 / y[0].size**0.5, rtol=1e-4)


def test_without_the_second_term_it_is_dps_also_where_nothing_undoes_the_operator():
    clip = operators.clip(-0.1, 0.3)
    dps = restoration.dps(PRIOR.denoiser(SCHEDULE), SCHEDULE, clip, clip(X), 2.5 / 2,
                          sampler=lambda *a: samplers.ddim(*a, eta=0.5))
    found = run(inn=clip, y=clip(X), weights=(2.5, 0.0), scale=1.0, clip=None)[0]
    np.testing.assert_allclose(found, jax.jit(functools.partial(samplers.sample, dps))(KEYS, START)[0], atol=1e-5)
    with pytest.raises(ValueError, match=r"Clip is not linear, so nothing undoes it: .* weights=\(w_1, 0\)"):
        run(inn=clip, y=clip(X))
    with pytest.raises(ValueError, match="this one has none: leave it out"):
        run(inn=MIX, y=MIX(X), refine=optax.sgd(0.1))


@pytest.mark.parametrize("call, words", [
    (lambda: run(gradient="none"), "full, truncated"), (lambda: run(y=Y[:, :2]), "another scale"),
    (lambda: restoration.indigo_preset("both"), "syn, real"),
    (lambda: restoration.indigo_schedule(schedules.linear(), start=300), "between 1 and the 250")])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
