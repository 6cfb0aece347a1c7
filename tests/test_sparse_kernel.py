"""The kernel of a blur from the blurred picture alone, where the sharp one has few edges."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration

SIZE = 9
SHIFTED = np.zeros((SIZE, SIZE), np.float32)  # a bent path, off the middle
SHIFTED[2, 1:6], SHIFTED[2:7, 6] = 1, 1
SHIFTED /= SHIFTED.sum()


def rectangles(seed, side=72, margin=4):
    """A picture of some grey rectangles, blurred, and cut so that nothing is said beyond its border."""
    random = np.random.default_rng(seed)
    x = np.full((1, side + 2 * margin, side + 2 * margin, 3), -0.5, np.float32)
    for _ in range(25):
        top, left = random.integers(0, side, 2)
        height, width = random.integers(8, 30, 2)
        x[:, top:top + height, left:left + width] = random.uniform(-1, 1, 3)
    y = np.asarray(operators.blur(SHIFTED)(x)) + 0.01 * random.standard_normal(x.shape).astype(np.float32)
    return y[:, margin:-margin, margin:-margin]


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
