"""The kernel of a blur from the blurred picture alone, where the sharp one has few edges."""
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration

steps = importlib.import_module("indigo_jax.restoration.sparse_kernel")  # the file; the package's name is the function
SIZE = 9
SHIFTED = np.zeros((SIZE, SIZE), np.float32)  # a bent path, off the middle
SHIFTED[2, 1:6], SHIFTED[2:7, 6] = 1, 1
SHIFTED /= SHIFTED.sum()


def rectangles(seed, side=72, margin=4, kernel=SHIFTED):
    """A picture of some grey rectangles, blurred, and cut so that nothing is said beyond its border."""
    random = np.random.default_rng(seed)
    x = np.full((1, side + 2 * margin, side + 2 * margin, 3), -0.5, np.float32)
    for _ in range(25):
        top, left = random.integers(0, side, 2)
        height, width = random.integers(8, 30, 2)
        x[:, top:top + height, left:left + width] = random.uniform(-1, 1, 3)
    y = np.asarray(operators.blur(kernel)(x)) + 0.01 * random.standard_normal(x.shape).astype(np.float32)
    return y[:, margin:-margin, margin:-margin]


@pytest.mark.parametrize("size, sizes", [(3, [3]), (5, [5]), (7, [5, 7]), (25, [5, 7, 9, 13, 19, 25])])
def test_sizes_from_coarse_to_fine(size, sizes):
    assert steps._pyramid(size) == sizes


def likeness(found, wanted):
    """1 for the same kernel, wherever it lies."""
    n = 2 * max(found.shape[0], wanted.shape[0])
    across = np.fft.rfft2(found, (n, n)) * np.conj(np.fft.rfft2(wanted, (n, n)))
    return np.fft.irfft2(across, (n, n)).max() / np.linalg.norm(found) / np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def find():
    return jax.jit(restoration.sparse_kernel, static_argnums=1)


@pytest.mark.slow  # most of a minute
def test_the_kernel_of_a_picture_of_few_edges_is_found(find):
    y = np.concatenate([rectangles(seed) for seed in range(3)])
    found = np.asarray(find(y, SIZE))
    assert found.shape == (3, SIZE, SIZE) and (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-5)
    for kernel in found:
        assert likeness(kernel, SHIFTED) > 0.75 > likeness(kernel, SHIFTED[::-1, ::-1])  # a convolution's, not turned
        centroid = [np.sum(kernel * np.arange(SIZE)[:, None]), np.sum(kernel * np.arange(SIZE))]
        assert np.abs(np.subtract(centroid, SIZE // 2)).max() <= 0.51
    np.testing.assert_allclose(find(y[1:2], SIZE)[0], found[1], atol=2e-3)  # alone as in a batch


@pytest.mark.slow  # half a minute
def test_what_was_not_seen_does_not_count(find):
    y = rectangles(0)
    canvas = np.pad(y, [(0, 0), (12, 12), (12, 12), (0, 0)], mode="symmetric")
    seen = np.pad(np.ones(y.shape[:3], np.float32), [(0, 0), (12, 12), (12, 12)])
    other = np.where(seen[..., None] > 0, canvas, np.random.default_rng(5).uniform(-1, 1, canvas.shape))
    masked = jax.jit(lambda y, seen: restoration.sparse_kernel(y, SIZE, seen=seen))
    assert likeness(np.asarray(masked(canvas, seen))[0], SHIFTED) > 0.75
    assert likeness(np.asarray(masked(other.astype(np.float32), seen))[0], SHIFTED) > 0.5


def test_sharp_pictures_have_a_narrow_kernel_and_sizes_are_checked(find):
    x = jnp.asarray(np.kron(np.random.default_rng(0).uniform(-1, 1, (1, 9, 9, 1)), np.ones((1, 8, 8, 3))), jnp.float32)
    kernel = np.asarray(find(x, 5))[0]
    assert kernel[2, 2] == kernel.max() > 0.4
    for size in (4, 37):
        with pytest.raises(ValueError, match="odd and less than half"):
            restoration.sparse_kernel(x, size)


def test_a_small_kernel_is_found_and_not_its_mirror_image(find):
    bent = np.zeros((7, 7), np.float32)
    bent[1, 0:3], bent[2, 2:6] = 1 / 7, 1 / 7
    found = np.asarray(find(rectangles(2, kernel=bent), 7))[0]
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    assert (found >= 0).all()
    assert likeness(found, bent) > 0.95 and likeness(found, bent[::-1, ::-1]) < 0.9


def test_the_strip_leads_from_the_end_to_the_begin():
    y = jnp.asarray([[0.0, 8.0], [5.0, 3.0], [4.0, 4.0]])
    np.testing.assert_allclose(steps._closed(y, 3), [[0, 8], [5, 3], [4, 4], [3, 5], [2, 6], [1, 7]], atol=1e-6)


def test_the_least_strength_leaves_each_direction_its_gradients():
    """Directions of 45 degrees each, and of opposite ones the same: the weakest of the four says how much."""
    random = np.random.default_rng(2)
    angle, length = random.uniform(-np.pi, np.pi, (9, 11)), random.uniform(0.1, 1.0, (9, 11))
    counted = (random.random((9, 11)) < 0.8).astype(np.float32)
    inside = (angle % np.pi < np.pi / 4) & (counted > 0)
    length = np.where(inside, 0.1 * length, length)  # so that this one decides
    across, down = (jnp.asarray(length * part(angle), jnp.float32) for part in (np.cos, np.sin))
    for number in (1, 4):
        least = steps._selection((across, down), across**2 + down**2, jnp.asarray(counted), number)
        np.testing.assert_allclose(least, np.sort(length[inside]**2)[-number], rtol=1e-4)


def test_a_picture_of_plateaus_that_is_not_blurred_is_its_own_answer():
    """And below its weight a step is not there."""
    y = np.full((16, 20), 0.2)
    y[4:9, 3:12], y[10:14, 8:16] = 0.8, 0.5
    point = jnp.asarray([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(steps._picture(jnp.asarray(y, jnp.float32), point, jnp.float32(1e-3)), y, atol=2e-3)
    grainy = y + 1e-3 * np.random.default_rng(0).standard_normal(y.shape)
    found = np.asarray(steps._picture(jnp.asarray(grainy, jnp.float32), point, jnp.float32(1e-3)))
    assert np.abs(np.diff(found[5:8, 4:11])).max() < 1e-4 < np.abs(np.diff(grainy[5:8, 4:11])).max()


def test_the_kernel_between_gradients_is_that_of_least_squares():
    """Against the matrix of shifted gradients, written out; it may be held against a part of the pixels."""
    random, size = np.random.default_rng(3), 3
    gradients, wanted = (2 * random.standard_normal((2, 8, 9)) for _ in range(2))
    counted = (random.random((8, 9)) < 0.7).astype(np.float64)
    shifts = [(i - 1, j - 1) for i in range(size) for j in range(size)]
    a = np.concatenate([np.stack([(counted * np.roll(g, shift, (0, 1))).ravel() for shift in shifts], 1)
                        for g in gradients])
    b = np.concatenate([(counted * w).ravel() for w in wanted])
    k = np.linalg.solve(a.T @ a + steps._KERNEL * np.eye(size**2), a.T @ b).reshape(size, size)
    given, asked, where = (jnp.asarray(each, jnp.float32) for each in (gradients, wanted, counted))
    found = steps._kernel(list(given), list(asked), where, size)
    np.testing.assert_allclose(found, k, atol=2e-4)


def test_small_taps_and_small_islands_go():
    kernel = np.zeros((7, 7), np.float32)
    kernel[1:5, 2] = 1.0
    kernel[5, 3] = 0.5  # touches the line at a corner
    tidy = kernel.copy()
    kernel[2, 3], kernel[6, 6], kernel[0, 6] = 0.04, 0.2, 0.2  # below 5 % of the largest; islands below 10 % of the sum
    np.testing.assert_allclose(steps._tidied(jnp.asarray(kernel)), tidy / 4.5, atol=1e-6)
