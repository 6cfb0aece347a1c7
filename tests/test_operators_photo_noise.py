"""The noise of photographs: of unit strength whatever its kind, and what each kind promises."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, rng
from indigo_jax.operators.photo_noise import KINDS

KEYS = rng.image_keys(0, np.arange(48))
X = jnp.linspace(-1, 1, 32)[:, None, None] * jnp.ones((48, 32, 32, 3))  # dark above, bright below
every = pytest.mark.parametrize("kind", KINDS)


def draw(kind, x=X, keys=KEYS):
    return jax.jit(lambda keys, x: operators.photo_noise(keys, x, {kind: 1.0}))(keys, x)


def channels(n):
    """Correlation of red and blue in each picture."""
    return np.array([np.corrcoef(one[..., 0].ravel(), one[..., 2].ravel())[0, 1] for one in np.asarray(n)])


@every
def test_every_kind_is_of_unit_strength_and_without_a_mean(kind):
    n, level = draw(kind)
    assert n.shape == X.shape and level.shape == (*X.shape[:3], 1)
    assert float(jnp.sqrt(jnp.mean(n**2))) == pytest.approx(1, abs=0.02) and abs(float(n.mean())) < 0.02
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(level**2, axis=(1, 2, 3))), 1, rtol=1e-5)
    if kind != "signal":
        assert bool((level == 1).all())


@every
def test_a_picture_alone_as_in_a_batch_and_by_its_key(kind):
    n, level = draw(kind)
    alone = draw(kind, X[3:4], KEYS[3:4])
    np.testing.assert_allclose(alone[0][0], n[3], atol=1e-5)
    np.testing.assert_allclose(alone[1][0], level[3], atol=1e-5)
    assert abs(np.corrcoef(np.ravel(n[0]), np.ravel(n[1]))[0, 1]) < 0.1


def test_channels_are_independent_equal_or_mixed():
    assert np.abs(channels(draw("white")[0])).max() < 0.15
    equal = draw("equal")[0]
    assert bool((equal == equal[..., :1]).all())
    mixed = channels(draw("mixed")[0])
    assert mixed.min() < 0.25 and mixed.max() > 0.75 and abs(mixed.mean() - 0.5) < 0.15  # shares spread evenly


def test_neighbours_are_correlated_and_in_half_of_them_the_channels_are_equal():
    n = np.asarray(draw("correlated")[0])
    near = np.array([np.corrcoef(one[:, 1:, 0].ravel(), one[:, :-1, 0].ravel())[0, 1] for one in n])
    far = np.array([np.corrcoef(one[:, 8:, 0].ravel(), one[:, :-8, 0].ravel())[0, 1] for one in n])
    assert near.max() > 0.6 and near.mean() > 0.2 and np.abs(far).mean() < 0.1
    equal = (n == n[..., :1]).all((1, 2, 3))
    assert 0.25 < equal.mean() < 0.75


def test_brightness_makes_noise():
    n, level = draw("signal")
    wanted = np.sqrt(0.1 + np.asarray(0.5 * (X[..., :1] + 1)))
    np.testing.assert_allclose(level, wanted / np.sqrt((wanted**2).mean((1, 2, 3), keepdims=True)), rtol=1e-4)
    dark, bright = float(n[:, :8].std()), float(n[:, -8:].std())
    assert bright / dark == pytest.approx(np.sqrt((wanted[0, -8:]**2).mean() / (wanted[0, :8]**2).mean()), rel=0.05)
    np.testing.assert_allclose(float((n / level).std()), 1, atol=0.02)


def test_kinds_come_as_often_as_their_probabilities_say():
    keys = rng.image_keys(1, np.arange(600))
    n, _ = operators.photo_noise(keys, jnp.zeros((600, 4, 4, 3)), {"white": 3.0, "equal": 1.0})
    equal = np.asarray((n == n[..., :1]).all((1, 2, 3)))
    assert equal.mean() == pytest.approx(0.25, abs=0.06)
    white, _ = operators.photo_noise(keys[:2], jnp.zeros((2, 4, 4, 3)))
    np.testing.assert_array_equal(white, operators.photo_noise(keys[:2], jnp.zeros((2, 4, 4, 3)), {"white": 0.2})[0])


@pytest.mark.parametrize("probabilities, message", [
    ({"pink": 1.0}, r"unknown kinds of noise \['pink'\]; there are white, equal"),
    ({"white": 0.0}, "at least one probability must be above 0"), ({}, "at least one")])
def test_refusals(probabilities, message):
    with pytest.raises(ValueError, match=message):
        operators.photo_noise(KEYS[:1], X[:1], probabilities)


def test_some_pictures_lose_their_colour():
    keys = rng.image_keys(2, np.arange(400))
    x = jax.random.uniform(jax.random.key(0), (400, 2, 2, 3), minval=-1.0)
    y = operators.some_grey(keys, x, 0.3)
    is_grey = np.asarray((y == y[..., :1]).all((1, 2, 3)))
    assert is_grey.mean() == pytest.approx(0.3, abs=0.08)
    np.testing.assert_array_equal(y[~is_grey], x[~is_grey])
    np.testing.assert_allclose(y[is_grey][..., 1], np.asarray(x)[is_grey] @ [0.299, 0.587, 0.114], atol=1e-5)
    assert bool((operators.some_grey(keys, x, 0.0) == x).all())
    everywhere = operators.some_grey(keys, x, 1.0)
    assert bool((everywhere == everywhere[..., :1]).all())


def test_noise_of_a_drawn_level():
    keys = rng.image_keys(0, range(200))
    noise = np.asarray(operators.random_photo_noise((10, 40), {"equal": 1.0})(jnp.zeros((200, 8, 8, 3)), keys=keys))
    np.testing.assert_array_equal(noise[..., 0], noise[..., 2])
    levels = np.sqrt(np.mean(np.square(noise), axis=(1, 2, 3))) * 127.5
    assert abs(levels.mean() - 25) < 2.5 and levels.min() < 15 and levels.max() > 35  # even from 10 to 40
    assert dict(operators.random_photo_noise().kinds) == {kind: 0.5 if kind == "white" else 0.125 for kind in KINDS}
