"""Blur of a canvas: right up to the border, where a mirrored border is wrong."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from indigo_jax import operators


def _kernel(height, width, seed=0):
    kernel = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return kernel / kernel.sum()


def _scene(height, width, channels=1):
    """A smooth random picture."""
    noise = np.random.default_rng(1).normal(size=(2, height, width, channels))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 2.5, 2.5, 0), mode="wrap")
    return jnp.asarray(0.4 * smooth / smooth.std(), jnp.float32)


@pytest.mark.parametrize("height, width", [(7, 9), (4, 6), (21, 1)])
def test_it_is_the_valid_part_of_a_larger_scene(height, width):
    kernel, scene = _kernel(height, width), _scene(140, 130)
    operator = operators.canvas_blur(kernel)
    (rows, columns), (top, left) = operator.margin, (height // 2, width // 2)
    assert operator.margin == (top + 8, left + 8)
    valid = np.stack([scipy.signal.convolve2d(x[..., 0], kernel, "valid") for x in np.asarray(scene, np.float64)])
    # valid[i] stands for scene row i + (height - 1) - height // 2
    first = rows - (height - 1) + height // 2, columns - (width - 1) + width // 2
    y = operator(scene[:, :96 + 2 * rows, :96 + 2 * columns])
    assert y.shape == (2, 96, 96, 1)
    np.testing.assert_allclose(y[..., 0], valid[:, first[0]:first[0] + 96, first[1]:first[1] + 96], atol=2e-6)
    np.testing.assert_allclose(  # inside, as blur has it
        y[:, 24:72, 24:72], operators.crop(operators.blur(kernel)(scene[:, :96 + 2 * rows, :96 + 2 * columns]),
                                           operator.margin)[:, 24:72, 24:72], atol=2e-6)


@pytest.mark.parametrize("kernel", [_kernel(5, 4), np.stack([_kernel(5, 5, 0), _kernel(5, 5, 1)])], ids=["one", "two"])
def test_linear_with_an_exact_adjoint(kernel):
    operator = operators.canvas_blur(kernel, (4, 3))
    assert operators.check_adjoint(operator, (2, 15, 14, 3)) < 1e-6
    x, y = _scene(15, 14), _scene(7, 8)
    np.testing.assert_allclose(operator.adjoint(y), jax.linear_transpose(operator, x)(y)[0], atol=1e-5)
    np.testing.assert_allclose(operators.check_adjoint(operators.linear(operator), (2, 15, 14, 3)), 0.0, atol=1e-6)


def test_half_quadratic_splitting_is_right_up_to_the_border():
    scene, kernel = _scene(96, 96), operators.disk_kernel(4.0)
    canvas = operators.canvas_blur(kernel)
    rows = canvas.margin[0]
    x = operators.crop(scene, rows)
    y = canvas(scene)
    smooth = operators.gaussian_blur(0.6, boundary="edge")

    @jax.jit
    def restore(operator, start):
        x = start
        for sigma in np.geomspace(0.2, 0.01, 6):
            x = smooth(operators.proximal(operator, y, x, 0.23 * (0.005 / sigma)**2, num_iterations=12))
        return x

    honest = operators.crop(restore(canvas, operators.extend(y, rows)), rows)
    mirrored = restore(operators.blur(kernel), y)
    border = np.ones(x.shape, bool)
    border[:, 8:-8, 8:-8] = False
    error = {name: float(np.sqrt(np.mean(np.square(np.asarray(found - x))[border])))
             for name, found in (("honest", honest), ("mirrored", mirrored))}
    assert error["honest"] < 0.5 * error["mirrored"], error


@pytest.mark.parametrize("height, width", [(3, 5), (4, 6), (1, 2)])
def test_a_flipped_kernel_makes_a_correlation_a_convolution(height, width):
    kernel, x = _kernel(height, width), _scene(20, 17)
    np.testing.assert_allclose(operators.blur(operators.flip_kernel(kernel))(x),
                               operators.blur(kernel, correlate=True)(x), atol=1e-6)
    if height % 2 == width % 2 == 1:
        np.testing.assert_array_equal(operators.flip_kernel(operators.flip_kernel(kernel)), kernel)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="less than half"):
        operators.canvas_blur(_kernel(9, 3), 2)
    with pytest.raises(ValueError, match="leaves nothing"):
        operators.canvas_blur(_kernel(3, 3))(_scene(12, 40))
    with pytest.raises(ValueError, match="at least 0"):
        operators.extend(_scene(4, 4), (1, -1))
    with pytest.raises(ValueError, match="one per image"):
        operators.canvas_blur(np.stack([_kernel(3, 3)] * 3), 2)(_scene(12, 12))
    with pytest.raises(ValueError, match="not to 1"):
        operators.canvas_blur(np.ones((3, 3)))
