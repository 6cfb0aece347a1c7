"""Wavelets: exact inverses at every size, energy, known coefficients."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import wavelets


def picture(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=1, static_argnames=("scaling", "undecimated", "dilation"))
def there_and_back(x, name, **options):
    """The parts of a picture, and the picture made of them."""
    coarse, details = wavelets.split(x, name, **options)
    return coarse, details, wavelets.merge(coarse, details, name, **options)


OPTIONS = [{}, {"scaling": "mean"}, {"undecimated": True}, {"undecimated": True, "dilation": 4, "scaling": "mean"}]


def check_inverse(name, height, width, channels, options):
    x = picture(2, height, width, channels)
    coarse, details, back = there_and_back(x, name, **options)
    np.testing.assert_allclose(back, x, atol=2e-6)
    rows, columns = (height, width) if "undecimated" in options else (-(-height // 2), -(-width // 2))
    odd = (height, width) if "undecimated" in options else (height // 2, width // 2)
    assert coarse.shape[1:3] == (rows, columns)
    assert [d.shape[1:3] for d in details] == [(odd[0], columns), (rows, odd[1]), odd]


@pytest.mark.parametrize("name", wavelets.NAMES)
def test_merge_is_the_inverse(name):
    for shape, options in zip(((7, 8, 2), (1, 6, 3), (16, 17, 1), (5, 3, 1)), OPTIONS, strict=True):
        check_inverse(name, *shape, options)


@pytest.mark.slow
@pytest.mark.parametrize("name", wavelets.NAMES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_merge_is_the_inverse_at_every_size(name, options):
    for shape in ((1, 1, 1), (1, 6, 3), (5, 1, 4), (2, 3, 1), (7, 8, 2), (16, 17, 3),
                  *((length, 1, 1) for length in range(2, 18))):
        check_inverse(name, *shape, options)


def test_lazy_is_slicing():
    x = picture(2, 7, 6, 3)
    coarse, details = wavelets.split(x)
    np.testing.assert_array_equal(coarse, x[:, ::2, ::2])
    for ours, wanted in zip(details, (x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2])):
        np.testing.assert_array_equal(ours, wanted)


def test_haar_keeps_energy_and_is_the_textbook_one():
    x = picture(1, 8, 6, 2)
    coarse, (d1, _, d3) = wavelets.split(x, "haar")
    a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    np.testing.assert_allclose(coarse, (a + b + c + d) / 2, atol=1e-6)
    np.testing.assert_allclose(d1, (c + d - a - b) / 2, atol=1e-6)
    np.testing.assert_allclose(d3, (a - b - c + d) / 2, atol=1e-6)
    energy = sum(float((part**2).sum()) for part in jax.tree.leaves(wavelets.split(x, "haar")))
    assert energy == pytest.approx(float((x**2).sum()), rel=1e-6)


def test_undecimated_haar_keeps_energy_away_from_the_border():
    x = jnp.pad(picture(1, 6, 6, 1), ((0, 0), (4, 4), (4, 4), (0, 0)))
    for dilation in (1, 2):
        parts = wavelets.split(x, "haar", undecimated=True, dilation=dilation)
        energy = sum(float((part**2).sum()) for part in jax.tree.leaves(parts))
        assert energy == pytest.approx(float((x**2).sum()), rel=1e-6)


@pytest.mark.parametrize("name, degree", [("haar", 0), ("5/3", 1), ("9/7", 3)])
@pytest.mark.parametrize("undecimated", [False, True])
def test_details_of_polynomials_vanish_inside_and_not_of_the_next_degree(name, degree, undecimated):
    t = jnp.linspace(-1.0, 1.0, 33)
    for power in range(degree + 2):
        x = jnp.broadcast_to((t**power)[:, None], (33, 33))[None, :, :, None]
        _, (d1, d2, _) = wavelets.split(x, name, undecimated=undecimated)
        inside = float(jnp.abs(d1[:, 4:-4]).max())
        assert inside < 2e-6 if power <= degree else inside > 1e-5
        assert float(jnp.abs(d2).max()) < 2e-6  # constant along rows: nothing even at the border


@pytest.mark.parametrize("name", ["haar", "5/3", "9/7"])
@pytest.mark.parametrize("undecimated", [False, True])
def test_gain_of_a_constant(name, undecimated):
    x = jnp.ones((1, 9, 12, 1))
    mean, _ = wavelets.split(x, name, scaling="mean", undecimated=undecimated)
    energy, _ = wavelets.split(x, name, undecimated=undecimated)
    np.testing.assert_allclose(mean, 1.0, atol=1e-6)
    np.testing.assert_allclose(energy, 1.0 if undecimated else 2.0, atol=2e-6)


@pytest.mark.parametrize("name", wavelets.NAMES)
def test_determinant_is_one_with_scaling_mean(name):
    def flat(x):
        parts = wavelets.split(x.reshape(1, 4, 6, 1), name, scaling="mean")
        return jnp.concatenate([part.ravel() for part in jax.tree.leaves(parts)])

    _, logarithm = np.linalg.slogdet(np.asarray(jax.jacobian(flat)(jnp.zeros(24)), np.float64))
    assert abs(logarithm) < 1e-5


def test_undecimated_does_not_depend_on_the_phase():
    x = picture(1, 16, 16, 1)
    moved = jnp.roll(x, 1, axis=2)
    for ours, theirs in zip(*(jax.tree.leaves(wavelets.split(a, "5/3", undecimated=True)) for a in (x, moved))):
        np.testing.assert_allclose(ours[:, :, 4:-4], theirs[:, :, 5:-3], atol=1e-6)


@pytest.mark.parametrize("call, words", [
    (lambda x: wavelets.split(x, "db4"), "unknown wavelet 'db4'"),
    (lambda x: wavelets.split(x, "haar", scaling="max"), "scaling must be"),
    (lambda x: wavelets.split(x, "haar", dilation=2), "dilation must be 1"),
    (lambda x: wavelets.merge(x, (x[:, 1:],) * 3), "are not of one picture"),
    (lambda x: wavelets.merge(x, (x[:, 2:], x[:, :, 2:], x[:, 2:, 2:])), "are not of one picture"),
])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call(picture(1, 4, 4, 1))
