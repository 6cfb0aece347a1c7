"""Blur against scipy, kernels against what they should be, kernel files good and bad."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from indigo_jax import operators, rng

SCIPY_MODES = {"reflect": "mirror", "symmetric": "reflect", "edge": "nearest", "periodic": "wrap", "zero": "constant"}


def _random_kernel(height, width):
    kernel = np.random.default_rng(height * 100 + width).random((height, width))
    return kernel / kernel.sum()


@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("size", [(3, 3), (3, 5), (4, 2), (11, 9), (10, 12)], ids=str)
def test_equals_scipy_with_an_asymmetric_kernel(boundary, size):
    kernel = _random_kernel(*size)
    x = np.random.default_rng(0).normal(size=(14, 13)).astype(np.float32)
    for correlate, reference in ((False, ndimage.convolve), (True, ndimage.correlate)):
        want = reference(np.float64(x), kernel, mode=SCIPY_MODES[boundary])
        got = operators.blur(kernel, boundary=boundary, correlate=correlate)(jnp.asarray(x)[None, :, :, None])
        np.testing.assert_allclose(got[0, :, :, 0], want, atol=2e-6)


def test_an_impulse_shows_the_kernel_not_its_mirror_image():
    kernel = np.zeros((3, 3))
    kernel[0, 1], kernel[1, 2] = 0.75, 0.25
    impulse = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    np.testing.assert_allclose(operators.blur(kernel)(impulse)[0, 1:4, 1:4, 0], kernel, atol=1e-7)


@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("image", [(1, 1), (1, 6), (3, 2)], ids=str)
def test_kernel_larger_than_the_image_as_numpy_pads(boundary, image):
    kernel = _random_kernel(15, 12)
    x = np.random.default_rng(1).normal(size=image).astype(np.float32)
    mode = {"periodic": "wrap", "zero": "constant"}.get(boundary, boundary)
    padded = np.pad(x, ((7, 7), (5, 6)), mode)
    want = [[np.sum(kernel[::-1, ::-1] * padded[i:i + 15, j:j + 12]) for j in range(image[1])] for i in range(image[0])]
    got = operators.blur(kernel, boundary=boundary)(jnp.asarray(x)[None, :, :, None])
    np.testing.assert_allclose(got[0, :, :, 0], want, atol=3e-6)


@pytest.mark.parametrize("size, kernel_size", [((12, 300), (9, 20)), ((70, 130), (66, 5))], ids=str)
def test_pictures_wider_than_a_strip_and_kernels_taller_than_the_fourier_rows(size, kernel_size):
    kernel = _random_kernel(*kernel_size)
    x = np.random.default_rng(6).normal(size=size).astype(np.float32)
    got = operators.blur(kernel)(jnp.asarray(x)[None, :, :, None])
    np.testing.assert_allclose(got[0, :, :, 0], ndimage.convolve(np.float64(x), kernel, mode="mirror"), atol=2e-6)


@pytest.mark.parametrize("side", [5, 11])
def test_one_kernel_per_image(side):
    kernels = np.stack([_random_kernel(side, side), _random_kernel(side, side)[::-1]])
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 12, 9, 3)), jnp.float32)
    together = operators.blur(kernels)(x)
    for i in range(2):
        np.testing.assert_allclose(together[i:i + 1], operators.blur(kernels[i])(x[i:i + 1]), atol=2e-6)
    with pytest.raises(ValueError, match="2 kernels for 1 images"):
        operators.blur(kernels)(x[:1])


def test_flat_pictures_stay_flat():
    x = jnp.full((1, 9, 8, 3), 0.3)
    for boundary in ("reflect", "symmetric", "edge", "periodic"):
        np.testing.assert_allclose(operators.gaussian_blur(2.0, boundary=boundary)(x), x, atol=1e-5)


def test_gaussian_blur_equals_scipy():
    x = np.random.default_rng(3).normal(size=(20, 24)).astype(np.float32)
    want = ndimage.gaussian_filter(np.float64(x), 1.6, mode="mirror", radius=5)
    got = operators.gaussian_blur(1.6)(jnp.asarray(x)[None, :, :, None])
    np.testing.assert_allclose(got[0, :, :, 0], want, atol=2e-6)


def test_gradient_with_respect_to_the_kernel():
    kernel = jnp.asarray(_random_kernel(9, 9), jnp.float32)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(1, 10, 10, 1)), jnp.float32)

    def energy(kernel):
        return jnp.sum(operators.blur(kernel)(x) ** 2)

    direction = jnp.asarray(np.random.default_rng(5).normal(size=(9, 9)), jnp.float32)
    slope = float(jnp.vdot(jax.grad(energy)(kernel), direction))
    step = 1e-2
    assert slope == pytest.approx(float(jax.jit(energy)(kernel + step * direction)
                                        - jax.jit(energy)(kernel - step * direction)) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("kernel, words", [
    (np.ones((3, 3)), "sums to"), (np.zeros((3, 3)), "sums to"), (np.full((3, 3), np.nan), "nan"),
    (np.ones(3) / 3, "shape"), (np.ones((0, 3)), "shape"), (np.ones((1, 1, 1, 1)), "shape"),
])
def test_bad_kernels_are_refused(kernel, words):
    with pytest.raises(ValueError, match=words):
        operators.blur(kernel)


def test_unknown_boundary_is_refused():
    with pytest.raises(ValueError, match="'mirror'"):
        operators.blur(np.ones((1, 1)), boundary="mirror")


def _moments(kernel):
    """Mean and covariance of a kernel in pixels, (x, y) from its centre."""
    kernel = np.float64(kernel)
    y, x = np.mgrid[:kernel.shape[0], :kernel.shape[1]] - np.array(kernel.shape)[:, None, None] // 2
    mean = np.array([(kernel * x).sum(), (kernel * y).sum()])
    x, y = x - mean[0], y - mean[1]
    return mean, np.array([[(kernel * x * x).sum(), (kernel * x * y).sum()],
                           [(kernel * x * y).sum(), (kernel * y * y).sum()]])


def test_gaussian_kernel_moments_and_limits():
    kernels = operators.gaussian_kernel(jnp.array([0.0, 1.0, 2.0]), 25)
    delta = np.zeros((25, 25))
    delta[12, 12] = 1.0
    np.testing.assert_allclose(kernels[0], delta, atol=1e-7)
    for kernel, sigma in zip(kernels[1:], (1.0, 2.0)):
        mean, covariance = _moments(kernel)
        np.testing.assert_allclose(mean, 0.0, atol=1e-5)
        np.testing.assert_allclose(covariance, sigma ** 2 * np.eye(2), atol=2e-3)
    assert operators.gaussian_kernel(0.0).shape == (1, 1)
    with pytest.raises(ValueError, match="sigma"):
        operators.gaussian_kernel(-1.0)
    with pytest.raises(ValueError, match="size="):
        jax.jit(operators.gaussian_kernel)(1.0)


def test_straight_motion_has_its_length_and_direction():
    np.testing.assert_allclose(operators.linear_motion_kernel(5.0)[2], [0.125, 0.25, 0.25, 0.25, 0.125], atol=1e-3)
    assert np.abs(np.asarray(operators.linear_motion_kernel(5.0))[[0, 1, 3, 4]]).max() < 1e-6
    for angle in (0.3, 1.2, 2.5):
        kernel = operators.linear_motion_kernel(13.0, angle, 17)
        mean, covariance = _moments(kernel)
        values, vectors = np.linalg.eigh(covariance)
        along = vectors[:, 1] * np.sign(vectors[0, 1] * np.cos(angle) + vectors[1, 1] * np.sin(angle))
        np.testing.assert_allclose(mean, 0.0, atol=1e-4)
        np.testing.assert_allclose(along, [np.cos(angle), np.sin(angle)], atol=0.02)
        assert values[1] == pytest.approx(12.0 ** 2 / 12, rel=0.05) and values[0] < 0.3
    np.testing.assert_allclose(operators.linear_motion_kernel(1.0), [[1.0]], atol=1e-6)


def test_camera_shake_is_centred_normalised_and_within_its_extent():
    keys = rng.image_keys(0, range(40))
    kernels = np.asarray(jax.jit(lambda keys: operators.motion_kernel(keys, size=25, length=15.0))(keys))
    assert kernels.shape == (40, 25, 25) and kernels.min() >= 0.0
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1.0, atol=1e-5)
    spread = []
    for kernel in kernels:
        mean, covariance = _moments(kernel)
        np.testing.assert_allclose(mean, 0.0, atol=2e-3)
        spread.append(np.sqrt(np.linalg.eigvalsh(covariance)))
        rows, columns = np.nonzero(kernel > 1e-6)
        assert np.hypot(rows - 12, columns - 12).max() <= 7.0 + np.sqrt(2)
    spread = np.array(spread)
    assert spread[:, 1].min() > 1.5 and np.median(spread[:, 0]) > 0.6  # long, and most of them bent
    np.testing.assert_allclose(operators.motion_kernel(keys[3], size=25, length=15.0), kernels[3], atol=1e-5)


def test_disk_covers_its_area():
    kernel = np.asarray(operators.disk_kernel(3.2))
    assert kernel.shape == (7, 7)
    assert kernel[3, 3] == pytest.approx(1 / (np.pi * 3.2 ** 2), rel=0.01)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    assert kernel[0, 0] == 0.0 and 0 < kernel[0, 3] < kernel[3, 3]
    np.testing.assert_allclose(operators.disk_kernel(0.0, 3)[1, 1], 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["kernel.npy", "kernel.npz", "KERNEL.PNG"])
def test_kernel_files_are_read_and_normalised(tmp_path, name):
    kernel = np.arange(1, 13).reshape(3, 4)
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, kernel)
    elif name.endswith("npz"):
        np.savez(path, kernel=kernel, comment=np.zeros(2))
    else:
        Image.fromarray(kernel.astype(np.uint8)).save(path, format="PNG")
    loaded = operators.load_kernel(path)
    assert loaded.dtype == jnp.float32
    np.testing.assert_allclose(loaded, kernel / kernel.sum(), rtol=1e-6)
    operators.blur(loaded)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def _write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


@pytest.mark.parametrize("name, content", [
    ("pickle.npy", np.array([[Bomb()]], dtype=object)), ("pickle.npz", {"kernel": np.array([[Bomb()]], dtype=object)}),
    ("text.npy", b"not an array"), ("text.png", b"not a picture"), ("empty.npy", b""), ("text.npz", b"PK"),
    ("flat.npy", np.ones(5)), ("zero.npy", np.zeros((3, 3))), ("nan.npy", np.full((2, 2), np.nan)),
    ("complex.npy", np.ones((2, 2), complex)), ("wide.npy", np.ones((1, 5000))), ("none.npy", np.ones((0, 3))),
    ("two.npz", {"a": np.ones((2, 2)), "b": np.ones((2, 2))}), ("kernel.mat", b"MATLAB"),
    ("lie.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }"
     .ljust(127) + b"\n"),
])
def test_bad_kernel_files_are_refused_by_name(tmp_path, name, content):
    path = _write(tmp_path / name, content)
    with pytest.raises(ValueError, match=name):
        operators.load_kernel(path)


def test_missing_kernel_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npy"):
        operators.load_kernel(tmp_path / "absent.npy")
