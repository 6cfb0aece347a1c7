"""Half-quadratic splitting against the same sequence in numpy: a linear denoiser makes every step a matrix."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, operators, restoration, rng, samplers, schedules

SPREAD = 0.4  # p, the standard deviation of the prior
SCHEDULE = schedules.geometric(20_000, 0.004, 10.0)
RANDOM = np.random.default_rng(0)


def shrink(z, sigma):
    """``D(z, sigma) = z p^2 / (p^2 + sigma^2)``: exact for pixels of a Gaussian prior."""
    return z * (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None, None]


def run(operator, y, first, sigma, **options):
    kernel = restoration.hqs(denoisers.from_sigma(shrink, SCHEDULE), SCHEDULE, operator, jnp.asarray(y, jnp.float32),
                             sigma, **options)
    keys = rng.image_keys(0, np.arange(len(y)))
    return jax.jit(lambda keys, x: samplers.sample(kernel, keys, x)[0])(keys, jnp.asarray(first, jnp.float32))


def by_hand(matrix, y, first, sigma, *, num_steps=8, start=0.384, weight=0.23):
    """One image as a vector."""
    x = first.ravel().astype(np.float64)
    start = max(start, sigma)
    for i in range(num_steps):
        level = start * (sigma / start) ** (i / max(num_steps - 1, 1))
        rho = weight * sigma**2 / level**2
        z = np.linalg.solve(matrix.T @ matrix + rho * np.eye(len(x)), matrix.T @ y.ravel() + rho * x)
        x = z * SPREAD**2 / (SPREAD**2 + level**2)
    return x.reshape(first.shape)


@pytest.mark.parametrize("options", [{}, dict(num_steps=1), dict(num_steps=3, start=1.5), dict(weight=2.0)])
@pytest.mark.parametrize("sigma", [0.05, 0.6])
def test_identity(options, sigma):
    y, first = RANDOM.uniform(-1, 1, (2, 2, 4, 4, 3))
    found = run(operators.compose(), y, first, sigma, **options)
    for i in range(2):
        np.testing.assert_allclose(found[i], by_hand(np.eye(48), y[i], first[i], sigma, **options), atol=1e-3)


@pytest.mark.parametrize("make", [
    lambda: operators.average_pool(2), lambda: operators.inpaint(np.arange(16).reshape(4, 4) % 3 > 0),
    lambda: operators.gaussian_blur(0.8)], ids=["sr", "inpaint", "deblur"])
def test_linear_operators_with_a_level_for_each_image(make):
    operator, sigma = make(), np.array([0.05, 0.2])
    matrix = np.asarray(operator(jnp.eye(48).reshape(48, 4, 4, 3)), np.float64).reshape(48, -1).T
    x, first = RANDOM.uniform(-1, 1, (2, 2, 4, 4, 3))
    y = np.asarray(operator(jnp.asarray(x, jnp.float32)))
    found = run(operator, y, first, jnp.asarray(sigma, jnp.float32), num_iterations=40)
    for i in range(2):
        np.testing.assert_allclose(found[i], by_hand(matrix, y[i], first[i], sigma[i]), atol=2e-3)


def test_the_denoiser_sees_the_picture_and_its_mirror_images_in_turn():
    """One that keeps the left half and halves the rest: of four steps two halve each side."""
    def leaning(z, sigma):
        return z.at[:, :, 2:].multiply(0.5)

    denoiser = denoisers.from_sigma(leaning, SCHEDULE)
    y = jnp.ones((1, 4, 4, 3))
    far = 1e6  # the measurement says nothing
    for steps, left, right in ((1, 1, 0.5), (2, 0.5, 0.5), (3, 0.5, 0.25), (4, 0.25, 0.25)):
        kernel = restoration.hqs(denoiser, SCHEDULE, operators.compose(), y, 0.1, num_steps=steps, weight=far)
        x = samplers.sample(kernel, rng.image_keys(0, [0]), y)[0]
        np.testing.assert_allclose(x[0, 0, :, 0], [left, left, right, right], rtol=1e-3)


def test_a_measurement_without_noise_is_taken_for_one_of_the_least_level():
    y = RANDOM.uniform(-1, 1, (1, 4, 4, 3))
    least, without = (run(operators.compose(), y, y, sigma) for sigma in (0.004, 0.0))
    np.testing.assert_allclose(without, least, atol=1e-5)


def test_an_image_alone_as_in_a_batch_and_no_keys_at_all():
    y, first = RANDOM.uniform(-1, 1, (2, 3, 4, 4, 3))
    batch = run(operators.gaussian_blur(0.8), y, first, 0.1)
    np.testing.assert_allclose(run(operators.gaussian_blur(0.8), y[2:], first[2:], 0.1)[0], batch[2], atol=1e-6)


def test_the_denoiser_is_called_once_a_step():
    calls = []

    def counted(z, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return shrink(z, sigma)

    y = jnp.zeros((1, 4, 4, 3))
    kernel = restoration.hqs(denoisers.from_sigma(counted, SCHEDULE), SCHEDULE, operators.compose(), y, 0.1,
                             num_steps=5)
    jax.block_until_ready(samplers.sample(kernel, rng.image_keys(0, [0]), y)[0])
    jax.effects_barrier()
    assert len(calls) == 5 == kernel.num_steps
