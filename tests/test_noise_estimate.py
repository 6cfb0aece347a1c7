"""How noisy a photograph is: flat blocks and patches, against noise of known level and numpy's eigenvalues."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from indigo_jax import denoisers, operators, restoration, rng, schedules
from indigo_jax.methods import known, once

RANDOM = np.random.default_rng(4)
DOWN, ACROSS = np.mgrid[:96, :120]
RAMP = np.stack([0.4 * np.sin(DOWN / 30 + channel) + 0.3 * np.cos(ACROSS / 41) for channel in range(3)], axis=-1)
WEAVE = RAMP + 0.25 * (np.sin(1.9 * DOWN + 0.7 * ACROSS) * np.cos(ACROSS / 9))[..., None]  # fine texture everywhere


def noisy(x, level, blur=0.0, equal=False):
    noise = RANDOM.standard_normal((*x.shape[:2], 1 if equal else 3))
    noise = ndimage.gaussian_filter(noise, (blur, blur, 0)) if blur else noise
    return jnp.asarray(x + level * noise / noise.std(), jnp.float32)[None]


def test_patches_are_those_of_numpy():
    y = np.asarray(noisy(WEAVE, 0.05), np.float64)[0]
    patches = np.lib.stride_tricks.sliding_window_view(y, (5, 5), (0, 1)).reshape(-1, 75)
    values = np.linalg.eigvalsh(np.cov(patches.T, bias=True))[::-1]
    first = next(i for i in range(75) if values[i:].mean() <= np.median(values[i:]))
    level, white = restoration.patch_noise_level(jnp.asarray(y[None], jnp.float32))
    np.testing.assert_allclose(level, np.sqrt(values[first:].mean()), rtol=1e-4)
    assert bool(white[0]) == (values[-1] > 0.7 * values[first:].mean())


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("x", [RAMP, WEAVE], ids=["ramp", "texture"])
def test_patches_see_white_noise_beside_texture(x, level):
    found, white = restoration.patch_noise_level(noisy(x, level))
    np.testing.assert_allclose(found, level, rtol=0.06)
    assert white[0]


def test_correlated_noise_is_not_white():
    assert not restoration.patch_noise_level(noisy(RAMP, 0.1, blur=0.6))[1][0]


def test_black_and_white_parts_do_not_count():
    y = np.asarray(noisy(RAMP, 0.05)).copy()
    y[:, :, :60] = 1.0  # half of the picture has lost its noise
    level, white = restoration.patch_noise_level(jnp.asarray(y))
    np.testing.assert_allclose(level, 0.05, rtol=0.06)
    assert white[0]
    np.testing.assert_array_equal(restoration.patch_noise_level(jnp.ones((1, 40, 40, 3)))[0], 0)


def test_patches_alone_as_in_a_batch():
    y = jnp.concatenate([noisy(RAMP, 0.1), noisy(WEAVE, 0.02)])
    together = restoration.patch_noise_level(y)
    for index in range(2):
        alone = restoration.patch_noise_level(y[index:index + 1])
        np.testing.assert_allclose(together[0][index], alone[0][0], rtol=1e-4)
        assert together[1][index] == alone[1][0]


@pytest.mark.parametrize("shape", [(1, 1), (4, 400), (16, 16)])
def test_small_pictures_have_too_few_patches(shape):
    level, white = restoration.patch_noise_level(jnp.zeros((1, *shape, 3)))
    assert not white[0] and level[0] == 0


def test_so_many_patches_are_enough():
    """Four for each number in one, 300 of 5 x 5 pixels in three channels: 20 x 15, and not 20 x 14."""
    enough, too_few = (noisy(np.zeros((24, width, 3)), 0.1) for width in (19, 18))
    assert restoration.patch_noise_level(enough)[0][0] > 0.02 and restoration.patch_noise_level(too_few)[0][0] == 0


def test_patches_of_large_pictures_are_few():
    """Memory does not grow with the picture."""
    shape = jax.eval_shape(restoration.patch_noise_level, jax.ShapeDtypeStruct((1, 3000, 4000, 3), jnp.float32))
    assert shape[0].shape == (1,)
    program = jax.make_jaxpr(restoration.patch_noise_level)(jax.ShapeDtypeStruct((1, 3000, 4000, 3), jnp.float32))
    made = [var.aval.size for equation in program.eqns for var in equation.outvars]
    assert max(made) < 75 * 80_000


@pytest.mark.parametrize("blur, low, high", [(0.0, 0.88, 1.05), (0.6, 0.8, 1.05)])
@pytest.mark.parametrize("level", [0.02, 0.1])
def test_flat_blocks_see_noise_of_any_colour(level, blur, low, high):
    for equal in (False, True):
        ratio = restoration.flat_noise_level(noisy(RAMP, level, blur, equal))[0] / level
        assert low < ratio < high


def test_the_level_of_the_patches_is_taken_where_it_is_to_be_believed():
    """White noise beside texture: the patches. Noise equal in all channels, or correlated: the flat blocks."""
    def knowing(x_t, t):
        return denoisers.Prediction(jnp.asarray(WEAVE, jnp.float32)[None], None)

    schedule = schedules.geometric(500)
    prior = denoisers.Prior(knowing, schedule)

    def found(y, told):
        problem = known.Problem(operators.compose(), y, rng.image_keys(0, [0]), jnp.array([told]), WEAVE.shape)
        return once.explained(prior, problem)[0]

    white = noisy(WEAVE, 0.05)
    np.testing.assert_allclose(found(white, 0.05), restoration.patch_noise_level(white)[0][0], rtol=1e-6)
    np.testing.assert_allclose(found(white, 0.15), restoration.patch_noise_level(white)[0][0], rtol=1e-6)
    for other in (noisy(RAMP, 0.05, equal=True), noisy(WEAVE, 0.05, blur=0.6)):
        assert found(other, 0.05) == pytest.approx(0.05, rel=0.2)


def falling_as_a_photograph(side=192):
    """A grey texture ``[H, W, 3]`` everywhere, its spectrum 1 / f and soft as lenses make it, without noise."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequencies[0, 0] = np.inf
    x = np.fft.ifft2(np.fft.fft2(np.random.default_rng(0).standard_normal((side, side))) / frequencies**1.5).real
    return np.repeat((0.15 * x / x.std())[..., None], 3, axis=2)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_seen_where_a_blur_has_left_nothing(sigma):
    """Of a picture that is texture all over, which other estimates take for noise."""
    random, kernel = np.random.default_rng(0), np.zeros((1, 9), np.float32)
    kernel[0] = 1 / 9
    x = jnp.asarray(random.choice([-0.3, 0.3], (2, 64, 80, 3)), jnp.float32)
    clean = operators.blur(kernel)(x)
    y = clean + sigma * random.standard_normal(clean.shape).astype(np.float32)
    np.testing.assert_allclose(restoration.blurred_noise_level(y, kernel), sigma, rtol=0.2)
    assert sigma > 0.05 or (np.asarray(restoration.flat_noise_level(y)) > 1.3 * sigma).all()
    np.testing.assert_allclose(restoration.blurred_noise_level(y[1:], kernel),
                               restoration.blurred_noise_level(y, kernel)[1:], rtol=1e-4)
    with pytest.raises(ValueError, match="does not fit"):
        restoration.blurred_noise_level(y[:, :, :8], kernel)


@pytest.mark.parametrize("told", [0.03, 0.1])
def test_texture_without_noise_is_not_taken_for_noise(told):
    """A photograph full of texture: what its flattest blocks show is not believed, unless there is grain beside it."""
    texture = falling_as_a_photograph()
    prior = denoisers.Prior(lambda x_t, t: denoisers.Prediction(jnp.zeros_like(x_t), None), schedules.geometric(500))

    def found(level, **kind):
        y = noisy(texture, level, **kind)
        problem = known.Problem(operators.compose(), y, rng.image_keys(0, [0]), jnp.array([told]), texture.shape)
        return float(once.explained(prior, problem)[0])

    assert found(1e-4) < 0.01
    for level in (0.04, 0.08):
        if level < told:
            assert found(level, equal=True) == pytest.approx(level, rel=0.25)
