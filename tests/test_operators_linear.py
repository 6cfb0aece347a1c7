"""Operators that a stranger makes: callbacks, custom derivatives, complex numbers, algebra, and what is refused."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from indigo_jax.operators.base import square
from tests.oracles import GaussianDiffusion

SHAPE = (6, 5, 3)
SCHEDULE = schedules.respace(schedules.linear(), 20, "linspace")
PRIOR = GaussianDiffusion(0.2, 0.4)
KEYS = rng.image_keys(0, range(4))
X = jnp.clip(0.2 + 0.4 * rng.normal(KEYS, jnp.zeros((4, *SHAPE))), -1.0, 1.0)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 1.5, SHAPE).astype(np.float32)
MATRIX = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32) / 3


def callback():
    """Rows mixed by a matrix, in numpy."""
    def outside(matrix, rows):
        def mix(x):
            return np.einsum("ij,...jwc->...iwc", matrix, np.asarray(x))

        return lambda x: jax.pure_callback(mix, jax.ShapeDtypeStruct((x.shape[0], rows, *x.shape[2:]), x.dtype), x,
                                           vmap_method="sequential")

    return operators.linear(outside(MATRIX, 4), outside(MATRIX.T, 6), SHAPE)


def custom():
    """A function with derivatives of its own, which jax.linear_transpose refuses."""
    @jax.custom_vjp
    def weigh(x):
        return x * WEIGHTS

    weigh.defvjp(lambda x: (weigh(x), None), lambda _, cotangent: (cotangent * WEIGHTS,))
    return operators.linear(weigh, input_shape=SHAPE)


def fourier():
    """Complex: half of the frequencies of the picture."""
    kept = (np.random.default_rng(2).random(SHAPE) < 0.5).astype(np.complex64)

    def forward(x):
        return jnp.fft.fft2(x, axes=(1, 2), norm="ortho") * kept

    return operators.linear(forward, lambda y: jnp.fft.ifft2(y * kept, axes=(1, 2), norm="ortho"), SHAPE)


MAKERS = {"callback": callback, "custom": custom, "fourier": fourier}
makers = pytest.mark.parametrize("name", list(MAKERS))


def dense(operator):
    eye = jnp.eye(int(np.prod(SHAPE))).reshape(-1, *SHAPE)
    return np.asarray(operator(eye)).reshape(len(eye), -1).T


@makers
def test_proximal_solves_and_differentiates(name):
    operator = MAKERS[name]()
    assert operators.check_adjoint(operator, (2, *SHAPE)) < 1e-5
    y, x0, a = operator(X[:1]), X[1:2], dense(operator)
    left = (a.conj().T @ a).real + 0.3 * np.eye(a.shape[1])
    wanted = np.linalg.solve(left, (a.conj().T @ np.ravel(y)).real + 0.3 * np.ravel(x0))
    got = jax.jit(lambda y: operators.proximal(operator, y, x0, 0.3, num_iterations=40))(y)
    np.testing.assert_allclose(np.ravel(got), wanted, atol=2e-5)
    gradient = jax.grad(lambda x0: jnp.sum(operators.proximal(operator, y, x0, 0.3, num_iterations=40)))(x0)
    np.testing.assert_allclose(np.ravel(gradient), 0.3 * np.linalg.solve(left, np.ones(len(left))), atol=2e-4)


@makers
def test_dps_ddnm_diffpir_indigo_and_bird_take_it(name):
    operator, denoiser = MAKERS[name](), PRIOR.denoiser(SCHEDULE)
    y = operator(X)
    z = rng.normal(rng.init_keys(KEYS), X)
    misfit = {}
    for method, kernel in {
            "dps": restoration.dps(denoiser, SCHEDULE, operator, y, 1.0),
            "ddnm": restoration.ddnm(denoiser, SCHEDULE, operator, y),
            "diffpir": restoration.diffpir(denoiser, SCHEDULE, operator, y, 0.02),
            "indigo": restoration.indigo(denoiser, SCHEDULE, operator, y, scale=1.0),
            "none": samplers.ddim(denoiser, SCHEDULE)}.items():
        x, _ = jax.jit(lambda keys, z, kernel=kernel: samplers.sample(kernel, keys, z))(KEYS, z)
        misfit[method] = float(jnp.mean(square(operator(x) - y)))
    kernel = restoration.bird(denoiser, SCHEDULE, operator, y, restoration.bird_optimizer(num_iterations=20),
                              num_iterations=20)
    state = jax.lax.fori_loop(0, 20, lambda i, state: kernel.step(KEYS, state, i)[0], kernel.init(z, KEYS))
    misfit["bird"] = float(jnp.mean(square(operator(state.x0) - y)))
    assert all(misfit[method] < 0.5 * misfit["none"] for method in ("dps", "ddnm", "diffpir", "indigo")), misfit
    assert misfit["bird"] < 0.8 * misfit["none"], misfit
    assert misfit["ddnm"] < 1e-6 * misfit["none"]


@pytest.mark.parametrize("method", ["dps", "ddnm", "diffpir", "pigdm", "tmpd", "daps", "indigo", "reddiff"])
def test_measurements_of_another_shape_are_not_stretched(method):
    """One grey channel against three would broadcast without a word."""
    y, denoiser = custom()(X)[..., :1], PRIOR.denoiser(SCHEDULE)
    more = {"dps": (), "ddnm": (), "indigo": (), "reddiff": (optax.sgd(0.1),)}.get(method, (0.1,))

    def run():
        kernel = getattr(restoration, method)(denoiser, SCHEDULE, custom(), y, *more)
        return samplers.sample(kernel, KEYS, X)[0]

    with pytest.raises(ValueError, match=r"\(4, 6, 5, 3\).*\(4, 6, 5, 1\)|\(6, 5, 3\).*\(6, 5, 1\)"):
        jax.eval_shape(run)


def test_a_complex_residual_of_zero_has_a_gradient():
    gradient = jax.grad(lambda x: jnp.sum(square(jax.lax.complex(x, 2.0 * x))))(jnp.zeros(2))
    np.testing.assert_array_equal(gradient, 0.0)
    np.testing.assert_allclose(square(jnp.array([3.0 - 4.0j])), 25.0)


def test_algebra_is_that_of_matrices():
    blur, mask = operators.gaussian_blur(0.7, size=3), operators.inpaint(np.arange(30).reshape(6, 5) % 3 > 0)
    a, b = custom(), operators.linear(blur)
    da, db, dm = dense(a), dense(blur), dense(mask)
    for operator, wanted in ((a @ b, da @ db), (blur @ a, db @ da), (a @ mask, da @ dm), (a + b, da + db),
                             (mask + a, dm + da), (a - mask, da - dm), (mask - a, dm - da), (2 * a, 2 * da),
                             (np.float32(2.0) * a, 2 * da), (-a, -da), ((a + b) @ (2 * a), (da + db) @ (2 * da)),
                             (a / 4, da / 4), (+a, da), (sum([a, b, mask]), da + db + dm), (a.T @ b, da.T @ db),
                             (2 * blur, 2 * db), (-mask, -dm), (blur / 4, db / 4), (blur @ mask, db @ dm),
                             (blur + mask, db + dm), (mask - blur, dm - db), (+blur, db), (blur.H, db.T),
                             (blur.H @ blur, db.T @ db), (a.H.H, da), (a.T.T, da)):
        np.testing.assert_allclose(dense(operator), wanted, atol=1e-5)
        assert operators.check_adjoint(operator, (1, *SHAPE)) < 1e-5
        assert operator.linear and not operator.stochastic and operator.shape_preserving
        np.testing.assert_allclose(operator.adjoint(X[:1], shape=SHAPE[:2]).ravel(), wanted.T @ X[0].ravel(), atol=1e-5)
    np.testing.assert_allclose(dense(2j * a), 2j * da, atol=1e-6)
    with pytest.raises(ValueError, match="only linear operators"):
        a @ operators.jpeg(10)
    with pytest.raises(ValueError, match="by a number"):
        np.ones(3) * a


def test_transposes_of_complex_and_of_sizes_that_change():
    a, shrink = fourier(), operators.average_pool(3)
    da, u = dense(a), jax.lax.complex(X[:1], X[1:2])
    for operator, wanted in ((a.H, da.conj().T), (a.T, da.T), (a.H.T, da.conj()), (a.T.H, da.conj())):
        np.testing.assert_allclose(np.ravel(operator(u)), wanted @ np.ravel(u), atol=1e-5)
        np.testing.assert_allclose(np.ravel(operator.adjoint(u)), wanted.conj().T @ np.ravel(u), atol=1e-5)
    pictures = jnp.ones((1, 6, 3, 3))
    assert shrink.H(shrink(pictures)).shape == pictures.shape and not shrink.T.shape_preserving
    assert operators.check_adjoint(shrink.T, (1, 2, 1, 3)) < 1e-5
    rows = operators.linear(lambda x: x[:, ::2], input_shape=SHAPE)
    assert rows.H(rows(X)).shape == X.shape
    gradient = jax.grad(lambda x: jnp.vdot((rows.H @ rows)(x), x))(X)
    np.testing.assert_allclose(gradient[:, ::2], 2 * X[:, ::2])


@pytest.mark.parametrize("wrong, words", [
    (lambda a: a @ X, r"ArrayImpl: A\(x\) is A of a picture"), (lambda a: a + 1, "int: 2 \\* A and A / 2"),
    (lambda a: a * "two", "multiplied by a number, not by 'two'"), (lambda a: a / 0, "divided by a number, not by 0"),
    (lambda a: a * a, "by a number.* A @ B is first B"), (lambda a: a * X, "lambda x: w \\* x"),
    (lambda a: (a + operators.average_pool(3))(X[:, :, :3]), r"for pictures \[B, 6, 5, 3\]"),
    (lambda a: (operators.gaussian_blur(1.0) + operators.average_pool(3))(X[:, :, :3]), "cannot be added"),
    (lambda a: operators.linear(lambda x: x[:, ::2], input_shape=SHAPE).adjoint(X), "give measurements .4, 3, 5, 3."),
    (lambda a: operators.linear(MATRIX), "ndarray; of a matrix M: lambda x: jnp.einsum"),
    (lambda a: operators.linear(lambda x: x, 3), "adjoint is a function, got int"),
    (lambda a: operators.linear(lambda x: x, pinv=3), "pinv is a function, got int"),
    (lambda a: operators.linear(lambda x: x, svd=lambda x: x), "svd is .values, to_basis, from_basis."),
    (lambda a: operators.linear(lambda x: x, input_shape=4), "without the batch, got 4"),
    (lambda a: operators.linear(lambda x: (x, x))(X), "one array of as many results, .4,. and more axes; got tuple"),
    (lambda a: operators.linear(lambda x: x[0])(X), r"got shape \(6, 5, 3\)")])
def test_what_is_mistyped_is_told_what_to_type(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(custom())


def test_what_is_not_linear_is_refused():
    with pytest.raises(ValueError, match="A\\(0\\) is not 0"):
        operators.linear(lambda x: x + 1.0, input_shape=SHAPE)
    with pytest.raises(ValueError, match="A\\(0\\) is not 0"):
        operators.linear(lambda x: x + 1.0)(X)
    with pytest.raises(ValueError, match="not 2 A"):
        operators.linear(lambda x: jnp.clip(x, -0.5, 0.5), input_shape=SHAPE)
    with pytest.raises(ValueError, match="A\\(x - z\\) is not"):
        operators.linear(jnp.abs, input_shape=SHAPE)
    with pytest.raises(ValueError, match="without the batch"):
        operators.linear(lambda x: x, input_shape=(1, 2, 3, 4))
    with pytest.raises(ValueError, match="for pictures"):
        custom()(X[:, 1:])
    with pytest.raises(ValueError, match="needs shape="):
        operators.linear(lambda x: x).adjoint(X)


def test_a_callback_without_an_adjoint_says_what_to_give():
    def other(x):
        return jax.pure_callback(lambda x: 2 * np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(ValueError, match=r"cannot differentiate a callback .* operators.linear\(function, ad"):
        operators.check_adjoint(operators.linear(other, input_shape=SHAPE), (1, *SHAPE))
    assert operators.check_adjoint(operators.linear(other, other, input_shape=SHAPE), (1, *SHAPE)) < 1e-5


def test_a_function_of_numpy_says_what_to_wrap_it_in():
    for operator in (operators.linear(lambda x: np.cumsum(np.asarray(x), axis=1), lambda y: np.asarray(y), SHAPE),
                     operators.linear(lambda x: np.cumsum(np.asarray(x), axis=1), input_shape=SHAPE)):
        np.testing.assert_allclose(operator(X), np.cumsum(X, axis=1), atol=1e-6)
        for use in (jax.jit(operator), operator.adjoint, -operator) if operator.backward is None else (
                jax.jit(operator), -operator):
            with pytest.raises(ValueError, match=r"the function needs numbers.*jax.pure_callback\(numpy_function, "):
                use(X)
    with pytest.raises(ValueError, match="the adjoint needs numbers"):
        jax.jit(operators.linear(lambda x: x, lambda y: np.asarray(y), SHAPE).adjoint)(X)


def test_a_wrong_adjoint_is_found():
    wrong = operators.linear(lambda x: x * WEIGHTS, lambda y: y / WEIGHTS, SHAPE)
    with pytest.raises(ValueError, match="not the adjoint"):
        operators.check_adjoint(wrong, (2, *SHAPE))
    unconjugated = operators.linear(lambda x: jax.lax.complex(0.0 * x, x), lambda y: jnp.complex64(1j) * y, SHAPE)
    with pytest.raises(ValueError, match="not the adjoint"):
        operators.check_adjoint(unconjugated, (2, *SHAPE))


def test_closed_forms_need_no_iterations():
    u, s, vt = np.linalg.svd(MATRIX, full_matrices=False)

    def rows(matrix):
        return lambda x: jnp.einsum("ij,bjwc->biwc", jnp.asarray(matrix, jnp.float32), x)

    by_svd = operators.linear(rows(MATRIX), input_shape=SHAPE, svd=(s[:, None, None], rows(vt), rows(vt.T)))
    by_pinv = operators.linear(rows(MATRIX), rows(MATRIX.T), pinv=rows(np.linalg.pinv(MATRIX)))
    y, x0 = by_svd(X), X[::-1]
    for rho in (0.0, 0.3, jnp.array([0.1, 0.2, 0.3, 4.0])):
        wanted = operators.proximal(rows(MATRIX), y, x0, rho, num_iterations=40)
        found = jax.jit(lambda a, rho: operators.proximal(a, y, x0, rho, num_iterations=0))(by_svd, jnp.asarray(rho))
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(operators.proximal(by_pinv, y, x0, 0.0, num_iterations=0),
                               operators.proximal(by_svd, y, x0, 0.0), atol=1e-4)
