"""Operators with unknowns: what they start as, what they equal when known, and that fitting finds what was there."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules
from indigo_jax.typing import BlindOperator
from tests.oracles import GaussianDiffusion

# compiling is most of the time here
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0,
                                                     "xla_llvm_disable_expensive_passes": True})
KEYS = rng.image_keys(0, [0, 1])
X = jnp.clip(0.5 * rng.normal(KEYS, jnp.zeros((2, 12, 10, 3))), -1, 1)
ALL = {"blur": operators.blind_blur(5), "mlp": operators.blind_blur(5, form="mlp"),
       "varying": operators.blind_varying_blur(5, 2, 3), "gaussian": operators.blind_gaussian_blur(9),
       "noise": operators.blind_noise()}


@pytest.mark.parametrize("name", ALL)
def test_protocol_and_unknowns_per_image(name):
    operator = ALL[name]
    assert isinstance(operator, BlindOperator) and operator.shape_preserving and not operator.linear

    @quick
    def start(keys, x):
        params = operator.init(keys)
        return params, operator(x, params)

    params, y = start(KEYS, X)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params))
    assert y.shape == X.shape and y.dtype == X.dtype
    np.testing.assert_allclose(start(KEYS[1:], X[1:])[1], y[1:], atol=2e-6)


def test_the_network_of_a_kernel_is_a_relu6_layer_and_a_softmax():
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32),
                          jax.eval_shape(ALL["mlp"].init, KEYS))
    params["out"]["kernel"] *= 0.02
    inside = np.einsum("bi,bij->bj", params["input"], params["hidden"]["kernel"]) / 3 + params["hidden"]["bias"]
    params["hidden"]["kernel"] /= 3
    assert inside.min() < -1 and inside.max() > 7  # both ends of the clip are reached
    logits = np.einsum("bj,bjk->bk", np.clip(inside, 0, 6), params["out"]["kernel"]) + params["out"]["bias"]
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted = (wanted / wanted.sum(1, keepdims=True)).reshape(2, 5, 5)
    np.testing.assert_allclose(ALL["mlp"].kernel(params), wanted, rtol=1e-3, atol=1e-6)


def test_the_network_of_a_kernel_starts_evenly_around_zero():
    """As torch's layers do: evenly up to one over the root of their inputs, on both sides."""
    params = jax.device_get(jax.jit(ALL["mlp"].init)(rng.image_keys(0, range(50))))
    assert 0 <= params["input"].min() and 0.09 < params["input"].max() <= 0.1
    for layer, inputs in (("hidden", params["input"].shape[1]), ("out", params["hidden"]["bias"].shape[1])):
        for leaf in params[layer].values():
            np.testing.assert_allclose([leaf.min(), leaf.max()], np.array([-1, 1]) / inputs**0.5, rtol=0.05)
            assert abs(leaf.mean()) < 0.05 / inputs**0.5


def test_varying_kernels_start_as_one_broad_gaussian_and_are_those_of_varying_blur():
    operator = ALL["varying"]
    apply, params = quick(operator), operator.init(KEYS)
    np.testing.assert_allclose(apply(X, params), operators.gaussian_blur(2.0, size=5)(X), atol=2e-6)
    params = {"logits": rng.normal(KEYS, params["logits"])}
    kernels = operator.kernel(params)
    assert kernels.shape == (2, 6, 5, 5) and float(kernels.min()) > 0
    np.testing.assert_allclose(kernels.sum((-2, -1)), 1.0, rtol=1e-5)
    want = operators.varying_blur(kernels, operators.patch_weights(12, 10, 2, 3))(X)
    np.testing.assert_allclose(apply(X, params), want, atol=1e-6)


def test_a_narrow_kernel_may_still_grow():
    """Nothing of it is so small that no step would find it again."""
    logits = operators.blind_varying_blur(9, 1, 2, start_sigma=0.1).init(KEYS)["logits"]
    assert np.isfinite(logits).all() and float(logits.min()) == pytest.approx(np.log(1e-8))


def test_varying_kernels_are_found_where_the_picture_is_known():
    truth = operators.linear_motion_kernel(jnp.full(2, 3.0), jnp.array([0.0, np.pi / 2]), 3)
    x = rng.normal(KEYS[:1], jnp.zeros((1, 24, 32, 3)))
    y = operators.varying_blur(truth, operators.patch_weights(24, 32, 1, 2))(x)
    operator, optimizer = operators.blind_varying_blur(3, 1, 2), optax.adam(0.1)
    params = operator.init(KEYS[:1])

    def step(carry, _):
        params, state = carry
        slope = jax.grad(lambda p: jnp.mean((operator(x, p) - y)**2))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = quick(lambda carry: jax.lax.scan(step, carry, length=120))((params, optimizer.init(params)))
    np.testing.assert_allclose(operator.kernel(params)[0], truth, atol=0.02)  # softmax: never quite 0


@pytest.mark.parametrize("boundary", ["reflect", "zero"])
def test_gaussian_is_the_ordinary_gaussian_blur(boundary):
    operator = operators.blind_gaussian_blur(9, boundary=boundary)
    np.testing.assert_allclose(operator.sigma(operator.init(KEYS)), 2.0, rtol=1e-6)
    sigma = jnp.array([0.7, 1.9])
    params = {"log_sigma": jnp.log(sigma)}
    np.testing.assert_allclose(operator.kernel(params), operators.gaussian_kernel(sigma, 9), atol=1e-6)
    np.testing.assert_allclose(operator(X, params), operators.gaussian_blur(sigma, size=9, boundary=boundary)(X),
                               atol=2e-6)


def test_gradient_for_the_width_is_that_of_finite_differences():
    operator = ALL["gaussian"]

    @quick
    def energy(log_sigma):
        def each(log_sigma):
            return jnp.sum(operator(X, {"log_sigma": log_sigma})**2, axis=(1, 2, 3))

        value, pullback = jax.vjp(each, log_sigma)
        return value, pullback(jnp.ones_like(value))[0]

    log_sigma, h = jnp.log(jnp.array([0.8, 1.6])), 0.02
    slope = energy(log_sigma)[1]
    differences = (energy(log_sigma + h)[0] - energy(log_sigma - h)[0]) / (2 * h)
    np.testing.assert_allclose(slope, differences, rtol=2e-3)
    assert float(jnp.abs(slope).min()) > 1.0


def test_unknown_width_is_found_where_the_picture_is_known():
    """The residual is least at the true width: its slope changes sign there."""
    operator, truth = ALL["gaussian"], jnp.log(jnp.array([0.8, 1.6]))
    y = operator(X, {"log_sigma": truth})

    @quick
    def slope(log_sigma):
        return jax.grad(lambda s: jnp.sum((operator(X, {"log_sigma": s}) - y)**2))(log_sigma)

    assert bool((slope(truth + 0.1) > 0).all() and (slope(truth - 0.1) < 0).all())
    np.testing.assert_allclose(slope(truth), 0.0, atol=1e-4)


def _params(sigma, speckle):
    return {"log_sigma": jnp.log(jnp.asarray(sigma)), "log_speckle": jnp.log(jnp.asarray(speckle))}


def test_likelihood_is_that_of_a_gaussian():
    operator, params = operators.blind_noise(), _params([0.2, 0.05], [0.3, 0.1])
    y = X + 0.3 * rng.normal(rng.fold(KEYS, 1), X)
    x, seen = np.asarray(X, np.float64), np.asarray(y, np.float64)
    sigma, speckle = (np.array(level)[:, None, None, None] for level in ([0.2, 0.05], [0.3, 0.1]))
    deviation = np.sqrt(sigma**2 + (speckle * (x + 1))**2 + (2 / 255)**2 / 12)
    density = np.exp(-0.5 * ((seen - x) / deviation)**2) / (np.sqrt(2 * np.pi) * deviation)
    want = -np.mean(np.log(density), axis=(1, 2, 3)) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(operator.loss(X, y, params), want, rtol=1e-5)
    np.testing.assert_array_equal(operator(X, params), X)


def test_best_sigma_is_the_root_mean_square_of_the_residual():
    """Closed form for Gaussian noise alone; the slope on either side points to it, and x weighs as in least squares."""
    operator = operators.blind_noise()
    y = X + 0.2 * rng.normal(rng.fold(KEYS, 2), X)
    rms = jnp.sqrt(jnp.mean((y - X)**2, axis=(1, 2, 3)))
    of_rounding = (2 / 255)**2 / 12

    @quick
    def slopes(level):
        params = _params(jnp.sqrt(level**2 - of_rounding), jnp.full(2, 1e-6))
        of_x, of_params = jax.grad(lambda x, p: jnp.sum(operator.loss(x, y, p)), (0, 1))(X, params)
        return of_x, of_params["log_sigma"], operator.sigma(params)

    def slope(level):
        return slopes(level)[1]

    np.testing.assert_allclose(slope(rms), 0.0, atol=1e-5)
    assert bool((slope(1.05 * rms) > 0.05).all() and (slope(0.95 * rms) < -0.05).all())
    got, _, level = slopes(rms)
    np.testing.assert_allclose(level, rms, rtol=1e-5)
    scale = (rms**2 * X[0].size)[:, None, None, None]
    np.testing.assert_allclose(got, (X - y) / scale, rtol=1e-4, atol=1e-7)


def test_both_levels_of_the_library_s_own_noise_are_found():
    """Maximum of the likelihood for known pictures, on a sample of 2 x 12288 values: standard error about 2 percent."""
    x = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 64)[None, :, None, None], (2, 64, 64, 3))
    sigma, speckle = jnp.array([0.05, 0.2]), jnp.array([0.2, 0.1])
    noisy = operators.compose(operators.speckle_noise(sigma=speckle), operators.gaussian_noise(sigma=sigma))
    y = noisy(x, keys=KEYS)
    operator, optimizer = operators.blind_noise(), optax.adam(0.05)
    params = operator.init(KEYS)

    def step(carry, _):
        params, state = carry
        slope = jax.grad(lambda p: jnp.sum(operator.loss(x, y, p)))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = quick(lambda carry: jax.lax.scan(step, carry, length=200))((params, optimizer.init(params)))
    np.testing.assert_allclose(operator.sigma(params), sigma, rtol=0.08)
    np.testing.assert_allclose(operator.speckle(params), speckle, rtol=0.08)


SCHEDULE = schedules.respace(schedules.linear(), 5, "linspace")


def _blocks(x):
    """The mean over blocks of 4 x 4 pixels, as an image of the same size."""
    b, h, w, c = x.shape
    mean = jnp.mean(x.reshape(b, h // 4, 4, w // 4, 4, c), axis=(2, 4), keepdims=True)
    return jnp.broadcast_to(mean, (b, h // 4, 4, w // 4, 4, c)).reshape(x.shape)


def test_bird_finds_the_noise_level_and_the_picture():
    """Prior: blocks of 4 x 4 equal pixels, Gaussian values. The best fit to y is its block means; the noise found is
    what they leave, 15/16 of the variance."""
    def eps(x, t):  # the mean over a block holds the picture with a sixteenth of the noise variance
        a = SCHEDULE.alpha_bar[jnp.searchsorted(SCHEDULE.timesteps, t)][:, None, None, None]
        x0 = 0.3**2 * jnp.sqrt(a) / (a * 0.3**2 + (1 - a) / 16) * _blocks(x)
        return (x - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)

    picture = _blocks(jnp.clip(1.2 * rng.normal(KEYS, jnp.zeros((2, 16, 16, 3))), -2, 2))
    sigma = jnp.array([0.1, 0.3])
    y = operators.gaussian_noise(sigma=sigma)(picture, keys=rng.fold(KEYS, 1))
    operator = operators.blind_noise(start_sigma=0.2, start_speckle=1e-3)
    kernel = restoration.bird(denoisers.from_eps(eps, SCHEDULE), SCHEDULE, operator, y,
                              restoration.bird_optimizer(0.1, 0.05, num_iterations=120), "exact", num_iterations=120)

    @jax.jit
    def run(keys):
        state = kernel.init(keys)
        return jax.lax.fori_loop(0, 120, lambda i, state: kernel.step(keys, state, i)[0], state)

    state = run(KEYS)
    left = jnp.sqrt(jnp.mean((y - _blocks(y))**2, axis=(1, 2, 3)))
    found = jnp.sqrt(jnp.mean(operator.variance(state.x0, state.params), axis=(1, 2, 3)))
    np.testing.assert_allclose(found, left, rtol=0.03)
    np.testing.assert_allclose(operator.sigma(state.params), sigma, rtol=0.15)
    error = jnp.sqrt(jnp.mean((state.x0 - picture)**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(error, sigma / 4, rtol=0.25)  # of block means


def test_bird_takes_the_loss_of_a_known_operator_too():
    class Absolute:
        shape_preserving = True

        def __call__(self, x, *, keys=None):
            return x

        def loss(self, x, y, params):
            assert params is None
            return jnp.mean(jnp.abs(x - y), axis=(1, 2, 3))

    denoiser = GaussianDiffusion(0.1, 0.6).denoiser(SCHEDULE)
    y = 0.5 * X  # nowhere where x0 may be clipped to
    now = jax.jit(restoration.bird_objective(denoiser, SCHEDULE, Absolute(), y))(rng.normal(KEYS, y))
    np.testing.assert_allclose(now.loss, jnp.mean(jnp.abs(now.x0 - y), axis=(1, 2, 3)), rtol=1e-5)
    jacobian = 1 / np.sqrt(SCHEDULE.alpha_bar[-1])
    np.testing.assert_allclose(now.grad_z, jacobian * jnp.sign(now.x0 - y) / y[0].size, rtol=1e-3)


def test_bird_runs_with_the_varying_kernels():
    denoiser = GaussianDiffusion(0.1, 0.6).denoiser(SCHEDULE)
    operator = operators.blind_varying_blur(3, 2, 2)
    kernel = restoration.bird(denoiser, SCHEDULE, operator, X, restoration.bird_optimizer(num_iterations=5),
                              num_iterations=5)
    x0, info = quick(lambda keys: samplers.sample(kernel, keys, keys))(KEYS)
    assert x0.shape == X.shape and bool((info.steps.loss[-1] < info.steps.loss[0]).all())


@pytest.mark.parametrize("make, words", [
    (lambda: operators.blind_blur(4), "odd"), (lambda: operators.blind_varying_blur(4, 2, 2), "odd"),
    (lambda: operators.blind_varying_blur(5, 0, 2), "rows and columns"),
    (lambda: operators.blind_varying_blur(5, 2, 2, boundary="wrap"), "boundary"),
    (lambda: operators.blind_gaussian_blur(0), "odd"),
    (lambda: operators.blind_gaussian_blur(5, start_sigma=0), "start_sigma"),
    (lambda: operators.blind_noise(start_sigma=0.0), "start_sigma"),
    (lambda: operators.blind_noise(start_speckle=-1.0), "start_speckle"),
    (lambda: operators.blind_blur(5, form="net"), "softmax, mlp"),
])
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
