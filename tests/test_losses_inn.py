"""The objective of the invertible network, against hand-made splits."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import losses, wavelets

X = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 8, 3)), jnp.float32)


def forward(x):
    coarse, details = wavelets.split(x)
    return coarse, [list(details)]


def inverse(coarse, details):
    return wavelets.merge(coarse, tuple(details[0]))


def test_each_term_of_a_constant_error():
    y = X[:, ::2, ::2] + jnp.asarray([0.1, -0.2, 0.3])[:, None, None, None]
    error = np.array([0.1, 0.2, 0.3])

    def loss(**weights):
        return losses.inn(forward, inverse, X, y, **{"absolute": 0.0, "swapped": 0.0, "sparse": 0.0, **weights})

    np.testing.assert_allclose(loss(), error**2, rtol=1e-4)
    np.testing.assert_allclose(loss(absolute=1.0) - loss(), error, rtol=1e-4)
    np.testing.assert_allclose(loss(swapped=1.0) - loss(), error / 4, rtol=1e-4)  # a quarter of the pixels is coarse
    inside = [np.abs(np.concatenate([np.ravel(d[i]) for d in forward(X)[1][0]])).mean() for i in range(3)]
    np.testing.assert_allclose(loss(sparse=1.0) - loss(), inside, rtol=1e-4)
    np.testing.assert_allclose(losses.inn(forward, inverse, X, y), loss(absolute=0.1, swapped=0.1, sparse=0.01),
                               rtol=1e-6)
    alone = losses.inn(forward, inverse, X[1:], y[1:])
    np.testing.assert_allclose(alone, losses.inn(forward, inverse, X, y)[1:], rtol=1e-6)


def test_the_true_measurement_costs_nothing_but_details():
    np.testing.assert_allclose(losses.inn(forward, inverse, X, X[:, ::2, ::2], sparse=0.0), 0, atol=1e-7)


def test_the_swapped_term_reaches_the_details():
    """Details that ignore what the measurement lost are punished by it alone."""
    y = X[:, ::2, ::2] + 0.1

    def loss(shift, swapped):
        def lifted(x):
            coarse, details = forward(x)
            return coarse, [[d + shift * coarse for d in details[0]]]

        def back(coarse, details):
            return inverse(coarse, [[d - shift * coarse for d in details[0]]])

        return losses.inn(lifted, back, X, y, swapped=swapped, sparse=0.0).sum()

    assert float(jax.grad(loss)(0.5, 0.0)) == 0.0
    assert abs(float(jax.grad(loss)(0.5, 1.0))) > 0.05


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        losses.inn(forward, inverse, X, X)
