"""Tomography: scikit-image's Radon transform and its inverse, and an adjoint that is exact."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.data import shepp_logan_phantom
from skimage.transform import iradon
from skimage.transform import radon as skimage_radon
from skimage.transform import resize

from indigo_jax import operators
from indigo_jax.operators import base
from indigo_jax.operators.radon import FILTERS

ANGLES = np.array([0.0, 7.0, 30.0, 45.0, 77.7, 90.0, 120.5, 180.0, -33.0])


@functools.lru_cache(maxsize=None)
def phantom(size):
    """Shepp and Logan's, float64 [size, size], 0 outside the inscribed circle."""
    picture = resize(shepp_logan_phantom(), (size, size), anti_aliasing=True)
    row, column = np.mgrid[:size, :size] - size // 2
    return np.where(row**2 + column**2 <= (size // 2) ** 2, picture, 0.0)


def batch(*pictures):
    return jnp.asarray(np.stack(pictures)[..., None], jnp.float32)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def relative(found, want):
    return np.linalg.norm(np.float64(found) - want) / np.linalg.norm(want)


@pytest.mark.parametrize("size", [64, 33])
def test_equals_scikit_image_on_its_phantom(size):
    found = operators.radon(ANGLES, size)(batch(phantom(size)))
    want = skimage_radon(phantom(size), ANGLES, circle=True)
    assert found.shape == (1, size, len(ANGLES), 1) and found.dtype == jnp.float32
    assert relative(found[0, :, :, 0], want) < 1e-6


def test_more_detectors_see_the_corners_as_scikit_image_without_the_circle():
    picture = np.random.default_rng(0).random((12, 12))
    want = skimage_radon(picture, ANGLES, circle=False)
    found = operators.radon(ANGLES, 12, num_detectors=len(want))(batch(picture))
    assert len(want) == 17 and relative(found[0, :, :, 0], want) < 1e-6


def test_fewer_detectors_are_the_middle_ones():
    x = normal(0, 1, 12, 12, 2)
    all_, some = operators.radon(ANGLES, 12)(x), operators.radon(ANGLES, 12, num_detectors=5)(x)
    np.testing.assert_allclose(some, all_[:, 4:9], atol=1e-5)


def test_one_pixel_is_seen_where_geometry_says():
    """A point (row, column) from the centre is met by the ray at column cos(a) - row sin(a), with weight 1 in all."""
    row, column = 5, -9
    picture = np.zeros((40, 40))
    picture[20 + row, 20 + column] = 1.0
    y = np.asarray(operators.radon(ANGLES, 40)(batch(picture)))[0, :, :, 0]
    np.testing.assert_allclose(y.sum(0), 1.0, atol=0.25)  # bilinear samples of one pixel
    place = (np.arange(40)[:, None] - 20) * y
    radians = np.deg2rad(ANGLES)
    np.testing.assert_allclose(place.sum(0) / y.sum(0), column * np.cos(radians) - row * np.sin(radians), atol=0.3)


@pytest.mark.parametrize("num_detectors", [None, 11, 30])
def test_the_adjoint_is_exact(num_detectors):
    operator = operators.radon(ANGLES, 20, num_detectors=num_detectors)
    x = normal(1, 2, 20, 20, 3)
    y = normal(2, 2, num_detectors or 20, len(ANGLES), 3)
    seen, back = np.float64(operator(x)), np.float64(operator.adjoint(y))
    left, right = np.vdot(seen, np.float64(y)), np.vdot(np.float64(x), back)
    assert abs(left - right) < 1e-6 * np.linalg.norm(seen) * np.linalg.norm(y)
    assert abs(left) > 1e-3 * np.linalg.norm(seen) * np.linalg.norm(y)
    np.testing.assert_allclose(jax.linear_transpose(operator, x)(y)[0], back, atol=1e-5)


def test_the_adjoint_is_the_transposed_matrix():
    operator = operators.radon([20.0, 110.0], 5)
    forward = jax.vmap(lambda x: operator(x[None])[0])(jnp.eye(25).reshape(25, 5, 5, 1)).reshape(25, -1)
    backward = jax.vmap(lambda y: operator.adjoint(y[None])[0])(jnp.eye(10).reshape(10, 5, 2, 1)).reshape(10, -1)
    np.testing.assert_allclose(forward, backward.T, atol=1e-6)
    assert np.abs(forward).max() > 0.5


def test_linear_without_an_offset():
    operator = operators.radon(ANGLES, 16)
    x, z = normal(3, 2, 16, 16, 1), normal(4, 2, 16, 16, 1)
    np.testing.assert_array_equal(operator(0 * x), 0.0)
    np.testing.assert_allclose(operator(2 * x - 3 * z), 2 * operator(x) - 3 * operator(z), atol=1e-4)


def test_pictures_and_channels_do_not_mix():
    operator, x = operators.radon(ANGLES, 16), normal(5, 3, 16, 16, 2)
    y = operator(x)
    for i in range(3):
        for channel in range(2):
            np.testing.assert_allclose(operator(x[i:i + 1, :, :, channel:channel + 1])[0, :, :, 0], y[i, :, :, channel],
                                       atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda image: operator(image[None])[0])(x), y, atol=1e-6)


def test_angles_are_traced_and_one_program_serves_all():
    traces = []

    @jax.jit
    def run(operator, x):
        traces.append(1)
        return operator(x)

    x = normal(6, 1, 8, 8, 1)
    first, second = run(operators.radon([0.0, 30.0], 8), x), run(operators.radon([0.0, 60.0], 8), x)
    assert len(traces) == 1 and np.abs(first - second).max() > 0.1
    inside = jax.jit(lambda angles: operators.radon(angles, 8)(x))(jnp.array([0.0, 30.0]))
    np.testing.assert_allclose(inside, first, atol=1e-4)


def test_memory_does_not_grow_with_the_angles():
    """Of the transpose, which would otherwise keep the interpolation of every angle."""
    def temporary(num_views):
        operator = operators.radon(operators.sparse_view_angles(num_views), 32)
        run = jax.jit(lambda y: base.transpose(operator, y, (1, 32, 32, 1)))
        return run.lower(jnp.zeros((1, 32, num_views, 1))).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(2), temporary(100)
    assert many - few < 98 * 32 * 8 * 4  # a few sinograms at most; one angle's pixels are 32 sinogram columns
    assert few < 2**20


def test_conjugate_gradients_reconstruct_what_enough_views_determine():
    x = batch(phantom(24))
    operator = operators.radon(operators.sparse_view_angles(60), 24)
    found = operators.proximal(operator, operator(x), jnp.zeros_like(x), 0.0, num_iterations=60)
    assert relative(found, np.asarray(x)) < 0.05


@pytest.mark.parametrize("size", [64, 33])
def test_filtered_backprojection_equals_scikit_image(size):
    angles = operators.sparse_view_angles(20)
    sinogram = skimage_radon(phantom(size), angles, circle=True)
    found = operators.filtered_backprojection(batch(sinogram), angles)
    want = iradon(sinogram, angles, circle=True)
    assert found.shape == (1, size, size, 1) and relative(found[0, :, :, 0], want) < 1e-5
    larger = operators.filtered_backprojection(batch(sinogram), angles, size=size + 8)
    assert relative(larger[0, :, :, 0], iradon(sinogram, angles, output_size=size + 8, circle=True)) < 1e-5


@pytest.mark.parametrize("name, tolerance", list(zip(FILTERS, (1e-5, 1e-5, 1e-5, 2e-2, 2e-2))))
def test_windows_of_the_ramp(name, tolerance):
    angles = operators.sparse_view_angles(20)
    sinogram = skimage_radon(phantom(32), angles, circle=True)
    found = operators.filtered_backprojection(batch(sinogram), angles, filter=name)[0, :, :, 0]
    want = iradon(sinogram, angles, circle=True, filter_name=name)
    assert relative(found, want) < tolerance


def test_many_views_reconstruct_the_phantom_better_than_few():
    x = batch(phantom(64), phantom(64).T)

    def error(num_views):
        angles = operators.sparse_view_angles(num_views)
        found = operators.filtered_backprojection(operators.radon(angles, 64)(x), angles)
        return np.sqrt(np.mean((np.asarray(found) - np.asarray(x)) ** 2))

    few, many = error(10), error(180)
    assert many < 0.04 and few > 2.5 * many


def test_filtered_backprojection_is_per_picture_and_linear():
    angles, y = operators.sparse_view_angles(7), normal(7, 3, 16, 7, 2)
    found = operators.filtered_backprojection(y, angles)
    alone = operators.filtered_backprojection(y[1:2, :, :, 1:], angles)
    np.testing.assert_allclose(alone[0, :, :, 0], found[1, :, :, 1], atol=1e-6)
    np.testing.assert_allclose(operators.filtered_backprojection(-2 * y, angles), -2 * found, atol=1e-6)


def test_pictures_in_minus_one_to_one_from_their_densities():
    """The recipe of the docstring: (A(x) + A(1)) / 2 is the sinogram of (x + 1) / 2."""
    operator, u = operators.radon(ANGLES, 16), batch(phantom(16))
    x = 2 * u - 1
    np.testing.assert_allclose((operator(x) + operator(jnp.ones_like(x))) / 2, operator(u), atol=1e-5)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several (virtual) devices")
def test_sharded_batch_needs_no_communication():
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    operator, x = operators.radon(ANGLES, 8), normal(8, count, 8, 8, 1)
    run = jax.jit(lambda x: operator.adjoint(operator(x)))
    split = jax.device_put(x, sharding)
    np.testing.assert_allclose(run(split), run(x), atol=1e-4)
    program = run.lower(split).compile().as_text()
    assert not any(word in program for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("make, words", [
    (lambda: operators.radon([], 8), "at least one angle"),
    (lambda: operators.radon(30.0, 8), "list of at least one angle"),
    (lambda: operators.radon([[0.0, 1.0]], 8), "list of at least one angle"),
    (lambda: operators.radon([0.0, np.nan], 8), "angles_degrees must be finite"),
    (lambda: operators.radon([0.0, np.inf], 8), "angles_degrees must be finite"),
    (lambda: operators.radon(["north"], 8), "angles_degrees must be numbers"),
    (lambda: operators.radon([0.0], 1), "size must be a whole number, at least 2"),
    (lambda: operators.radon([0.0], 8.5), "size must be a whole number"),
    (lambda: operators.radon([0.0], 8, num_detectors=0), "num_detectors must be"),
    (lambda: operators.radon([0.0], 8)(jnp.zeros((8, 8, 1))), "batch axis"),
    (lambda: operators.radon([0.0], 8)(jnp.zeros((1, 8, 9, 1))), "pictures of 8 x 8 pixels"),
    (lambda: operators.radon([0.0], 8).adjoint(jnp.zeros((1, 8, 2, 1))), r"sinograms \[B, 8, 1 angles, C\]"),
    (lambda: operators.radon([0.0], 8).adjoint(jnp.zeros((1, 7, 1, 1))), r"sinograms \[B, 8, 1 angles, C\]"),
    (lambda: operators.radon([0.0], 8).adjoint(jnp.zeros((1, 8, 1, 1)), shape=(9, 9)), "pictures of 8 x 8 pixels"),
    (lambda: operators.sparse_view_angles(0), "num_views"),
    (lambda: operators.filtered_backprojection(jnp.zeros((8, 2)), [0.0, 90.0]), "sinograms"),
    (lambda: operators.filtered_backprojection(jnp.zeros((1, 8, 3, 1)), [0.0, 90.0]), "2 angles"),
    (lambda: operators.filtered_backprojection(jnp.zeros((1, 8, 1, 1)), [np.nan]), "finite"),
    (lambda: operators.filtered_backprojection(jnp.zeros((1, 8, 1, 1)), [0.0], filter="box"), "filter must be one of"),
    (lambda: operators.filtered_backprojection(jnp.zeros((1, 8, 1, 1)), [0.0], size=1), "size"),
    (lambda: operators.filtered_backprojection(jnp.zeros((1, 8, 1, 1), jnp.int32), [0.0]), "floating point"),
])
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
