"""One property matrix over all operators; known answers are in test_operators_{blur,varying,resize,jpeg,radon}.py."""
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.restoration

from indigo_jax import operators, rng
from indigo_jax.typing import Operator

BATCH = 3
SIZES = [(7, 5), (1, 1), (33, 20)]


def _kernel(height, width):
    kernel = np.random.default_rng(height + width).random((height, width))
    return kernel / kernel.sum()


def _stack(*kernels):
    return jnp.stack([jnp.asarray(kernel, jnp.float32) for kernel in kernels])


def _mask(height, width):
    mask = np.random.default_rng(0).random((height, width)) < 0.6
    mask[0, 0] = True
    return mask


# name -> function of the image size; parameters are fixed, some of them one per image
SHARED = {
    "blur": lambda h, w: operators.blur(_kernel(3, 5)),
    "blur_large": lambda h, w: operators.blur(_kernel(13, 9), boundary="symmetric"),
    "blur_larger_than_image": lambda h, w: operators.blur(_kernel(41, 40)),
    "blur_very_large": lambda h, w: operators.blur(_kernel(65, 12)),
    "blur_zero": lambda h, w: operators.blur(_kernel(4, 3), boundary="zero"),
    "blur_edge": lambda h, w: operators.blur(_kernel(3, 4), boundary="edge", correlate=True),
    "blur_periodic": lambda h, w: operators.blur(_kernel(8, 9), boundary="periodic"),
    "gaussian_blur": lambda h, w: operators.gaussian_blur(1.6),
    "motion_blur": lambda h, w: operators.motion_blur(9.0, 0.7),
    "defocus_blur": lambda h, w: operators.defocus_blur(2.5),
    "varying_blur": lambda h, w: operators.varying_blur(
        _stack(_kernel(3, 4), _kernel(3, 4)[::-1], _kernel(3, 4)[:, ::-1]), operators.patch_weights(h, w, 3, 1)),
    "resize": lambda h, w: operators.resize(4, 6),
    "downsample": lambda h, w: operators.downsample(3),
    "downsample_area": lambda h, w: operators.downsample(2, method="area"),
    "average_pool": lambda h, w: operators.average_pool(4),
    "downsample_nearest": lambda h, w: operators.downsample(4, method="nearest"),
    "downsample_bilinear": lambda h, w: operators.downsample(4, method="bilinear"),
    "upsample": lambda h, w: operators.upsample(2),
    "super_resolution": lambda h, w: operators.super_resolution(4),
    "gaussian_noise": lambda h, w: operators.gaussian_noise(sigma_255=25),
    "poisson_noise": lambda h, w: operators.poisson_noise(20.0),
    "speckle_noise": lambda h, w: operators.speckle_noise(sigma=0.2),
    "jpeg": lambda h, w: operators.jpeg(30),
    "inpaint": lambda h, w: operators.inpaint(_mask(h, w)),
    "mri": lambda h, w: operators.mri(_mask(h, w)),
    "mri_coils": lambda h, w: operators.mri(_mask(h, w), operators.coil_sensitivities(h, w, 4)),
    "product": lambda h, w: operators.linear(operators.downsample(2)) @ operators.gaussian_blur(1.0),
    "sum": lambda h, w: 2.0 * operators.linear(operators.inpaint(_mask(h, w))) + operators.gaussian_blur(1.0),
    "clip": lambda h, w: operators.clip(-0.5, 0.5),
    "quantize": lambda h, w: operators.quantize(),
    "compose_linear": lambda h, w: operators.compose(
        operators.gaussian_blur(1.0), operators.inpaint(_mask(h, w)), operators.downsample(2)),
    "compose": lambda h, w: operators.compose(
        operators.gaussian_blur(1.0), operators.downsample(2), operators.gaussian_noise(sigma=0.1),
        operators.quantize()),
    "mixture": lambda h, w: operators.mixture([operators.gaussian_noise(sigma=0.3), operators.quantize()], [0.5, 0.5]),
    "random_gaussian_blur": lambda h, w: operators.random_gaussian_blur(),
    "random_motion_blur": lambda h, w: operators.random_motion_blur(),
    "random_blur": lambda h, w: operators.random_blur(),
    "random_super_resolution": lambda h, w: operators.random_super_resolution(),
    "random_jpeg": lambda h, w: operators.random_jpeg(),
    "random_gaussian_noise": lambda h, w: operators.random_gaussian_noise(),
    "random_photo_noise": lambda h, w: operators.random_photo_noise((5.0, 50.0), {"white": 1.0, "equal": 1.0}),
    "photo_mixture": lambda h, w: operators.photo_mixture(),
}
PER_IMAGE = {
    "blur_per_image": lambda h, w: operators.blur(_stack(*(_kernel(3, 3) ** p / (_kernel(3, 3) ** p).sum()
                                                           for p in (1, 2, 3)))),
    "blur_large_per_image": lambda h, w: operators.blur(operators.gaussian_kernel(jnp.array([0.0, 1.0, 2.0]), 11)),
    "varying_blur_per_image": lambda h, w: operators.varying_blur(
        operators.gaussian_kernel(jnp.linspace(0.0, 2.0, 6), 9).reshape(3, 2, 9, 9),
        _stack(operators.patch_weights(h, w, 2, 1), operators.patch_weights(h, w, 1, 2),
               operators.patch_weights(h, w, 2, 1)[::-1])),
    "gaussian_noise_per_image": lambda h, w: operators.gaussian_noise(sigma=jnp.array([0.0, 0.1, 0.5])),
    "poisson_noise_per_image": lambda h, w: operators.poisson_noise(jnp.array([5.0, 10.0, 500.0])),
    "jpeg_per_image": lambda h, w: operators.jpeg(jnp.array([5.0, 50.0, 100.0])),
    "inpaint_per_image": lambda h, w: operators.inpaint(
        operators.random_pixel_mask(rng.image_keys(5, range(BATCH)), h, w)),
}
CHANNELS = {"mri": 2, "mri_coils": 8}  # of y, where they are not those of x
SQUARE = {  # for square pictures only
    "radon": lambda h, w: operators.radon(operators.sparse_view_angles(5), h),
    "radon_wide": lambda h, w: operators.radon([0.0, 33.3, 90.0, 200.0], h, num_detectors=2 * h),
}
SQUARE_SIZES = [(7, 7), (2, 2), (20, 20)]
CASES = SHARED | PER_IMAGE | SQUARE
SLOW_TO_COMPILE = {"photo_mixture", "random_blur", "random_jpeg", "jpeg_per_image", "poisson_noise_per_image"}
PAIRS = [(name, size) for name in SHARED | PER_IMAGE for size in SIZES
         if size == SIZES[0] or name not in SLOW_TO_COMPILE]
PAIRS += [(name, size) for name in SQUARE for size in SQUARE_SIZES]
LINEAR = [name for name, make in CASES.items() if make(8, 8).linear]
STOCHASTIC = [name for name, make in CASES.items() if make(8, 8).stochastic]


# compiling is nearly all of the time here, so let it be quick rather than good
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
fast_compile = functools.partial(jax.jit, compiler_options=QUICK)


def _first_size(name):
    return SQUARE_SIZES[0] if name in SQUARE else SIZES[0]


def _normal(name, *shape):
    return jnp.asarray(np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape), jnp.float32)


@fast_compile
def _apply(operator, x, keys):
    """Everything that the properties of any operator need, in one compilation."""
    y, pullback = jax.vjp(lambda image: operator(image, keys=keys), x)
    return y, pullback(jnp.ones_like(y))[0]


@fast_compile
def _linear(operator, x, z, weight):
    shape = x.shape[1:3]
    y = operator(x)
    adjoint = operator.adjoint(weight, shape=shape)
    pullback = jax.vjp(operator, x)[1](weight)[0]
    return y, operator(z), operator(2.0 * x - 3.0 * z), adjoint, pullback


@fast_compile
def _one_by_one(operator, x, keys):
    """Every image on its own, by vmap over a batch of one."""
    return jax.vmap(lambda image, key: operator(image[None], keys=key[None])[0])(x, keys)


@fast_compile
def _one_by_one_with_its_parameters(operator, x, keys):
    def alone(leaves, image, key):
        return jax.tree.map(lambda leaf: leaf[None], leaves)(image[None], keys=key[None])[0]
    return jax.vmap(alone)(operator, x, keys)


@functools.lru_cache(maxsize=None)
def _case(name, size):
    """Operator, images, keys, and the output with its gradient."""
    operator = CASES[name](*size)
    x = jnp.clip(0.6 * _normal(name, BATCH, *size, 3), -1.0, 1.0)
    keys = rng.image_keys(3, [11, 7, 5])
    return operator, x, keys, *_apply(operator, x, keys)


def _assert_same_picture(name, a, b):
    """Equal; where levels are rounded, all but a few values, which may be a level or a JPEG coefficient apart."""
    if "jpeg" in name or "photo" in name:
        assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-5) < 0.02
    else:
        np.testing.assert_allclose(a, b, atol=3e-6)


matrix = pytest.mark.parametrize("name, size", [
    pytest.param(*pair, marks=[pytest.mark.slow] if pair[1] == SIZES[-1] else []) for pair in PAIRS], ids=str)
every = pytest.mark.parametrize("name", list(CASES))


@matrix
def test_output_is_finite_float32_of_the_promised_size(name, size):
    operator, x, _, y, _ = _case(name, size)
    assert isinstance(operator, Operator)
    assert y.dtype == jnp.float32 and np.isfinite(y).all()
    assert y.shape[0] == BATCH and y.shape[3] == CHANNELS.get(name, 3)
    if operator.shape_preserving:
        assert y.shape == x.shape


@matrix
def test_gradient_is_finite_and_not_zero(name, size):
    _, x, _, _, gradient = _case(name, size)
    assert gradient.shape == x.shape and np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@every
def test_an_image_does_not_depend_on_its_batch_and_vmap_works(name):
    operator, x, keys, y, _ = _case(name, _first_size(name))
    alone = _one_by_one_with_its_parameters if name in PER_IMAGE else _one_by_one
    _assert_same_picture(name, alone(operator, x, keys), y)


@every
def test_same_keys_same_result(name):
    operator, x, keys, y, _ = _case(name, _first_size(name))
    np.testing.assert_array_equal(_apply(operator, x, keys)[0], y)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_operators_need_keys_and_use_them(name):
    operator, x, keys, y, _ = _case(name, _first_size(name))
    assert not np.array_equal(_apply(operator, x, rng.fold(keys, 1))[0], y)
    with pytest.raises(ValueError, match="image_keys"):
        operator(x)
    with pytest.raises(ValueError, match="typed keys"):
        operator(x, keys=keys[:2])


@pytest.mark.parametrize("name", sorted(set(CASES) - set(STOCHASTIC)))
def test_the_others_need_no_keys(name):
    operator, x, _, y, _ = _case(name, _first_size(name))
    _assert_same_picture(name, operator(x), y)


@pytest.mark.parametrize("name, size", [pair for pair in PAIRS if pair[0] in LINEAR], ids=str)
def test_linear_with_an_exact_adjoint(name, size):
    operator = CASES[name](*size)
    x, z = _normal(name, BATCH, *size, 3), _normal(name + "z", BATCH, *size, 3)
    weight = _normal(name + "y", *jax.eval_shape(operator, x).shape)
    y, y_z, y_sum, adjoint, pullback = _linear(operator, x, z, weight)
    np.testing.assert_allclose(y_sum, 2.0 * y - 3.0 * y_z, atol=2e-5)
    np.testing.assert_allclose(adjoint, pullback, atol=2e-5)
    left, right = np.vdot(np.float64(y), np.float64(weight)), np.vdot(np.float64(x), np.float64(adjoint))
    assert abs(left - right) <= 2e-6 * np.linalg.norm(y) * np.linalg.norm(weight) + 1e-6


@pytest.mark.parametrize("name", sorted(set(CASES) - set(LINEAR)))
def test_the_others_say_that_they_have_no_adjoint(name):
    operator, x, _, y, _ = _case(name, _first_size(name))
    assert not operator.linear
    if hasattr(operator, "adjoint"):
        with pytest.raises(ValueError, match="only linear operators"):
            operator.adjoint(y)


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "resize"])
def test_adjoint_knows_the_size_where_the_factor_tells_it(name):
    operator = CASES[name](12, 12)
    x = jnp.ones((BATCH, 12, 12, 3))
    assert operator.adjoint(operator(x)).shape == x.shape


def test_numbers_are_traced_so_that_one_compilation_serves_all():
    traces = []

    @jax.jit
    def run(operator, x, keys):
        traces.append(1)
        return operator(x, keys=keys)

    x, keys = jnp.zeros((2, 8, 8, 3)), rng.image_keys(0, [0, 1])
    outputs = [run(operators.gaussian_noise(sigma_255=sigma), x, keys) for sigma in (5, 10.0, np.float32(20))]
    assert len(traces) == 1
    np.testing.assert_allclose(outputs[1], 2.0 * outputs[0], atol=1e-6)
    for quality in (10, 90):
        run(operators.jpeg(quality), x, keys)
    assert len(traces) == 2


def test_no_two_operators_share_a_structure():
    """Else a jitted function that has seen one may run its program for another, as structures are what it looks up."""
    of_class = {type(operator): jax.tree.structure(operator) for operator in (make(8, 8) for make in CASES.values())}
    assert len(of_class) > 12
    for cls, structure in of_class.items():
        assert [other for other in of_class if of_class[other] == structure] == [cls]
        assert jax.tree.structure(jax.tree.map(lambda leaf: leaf, structure.unflatten(range(structure.num_leaves)))
                                  ) == structure


def test_factories_work_inside_jit():
    def run(sigma, x):
        chain = operators.compose(operators.gaussian_blur(sigma, size=9), operators.gaussian_blur(1.0),
                                  operators.motion_blur(5.0), operators.jpeg(20.0 * sigma))
        return chain(x)

    x = _normal("inside", 1, 16, 16, 3)
    _assert_same_picture("jpeg", jax.jit(run)(jnp.float32(1.5), x), run(1.5, x))


def test_gaussian_noise_units_and_level():
    x = jnp.zeros((2, 96, 96, 3))
    keys = rng.image_keys(0, [0, 1])
    per_255 = operators.gaussian_noise(sigma_255=25)(x, keys=keys)
    np.testing.assert_allclose(per_255, operators.gaussian_noise(sigma=25 / 127.5)(x, keys=keys), atol=1e-6)
    assert abs(float(per_255.std()) * 127.5 - 25) < 0.3
    assert float(jnp.abs(operators.gaussian_noise(sigma=2.0)(x, keys=keys)).max()) > 1.0  # nothing is clipped
    with pytest.raises(ValueError, match="exactly one"):
        operators.gaussian_noise()
    with pytest.raises(ValueError, match="exactly one"):
        operators.gaussian_noise(sigma=0.1, sigma_255=10)
    with pytest.raises(ValueError, match="sigma_255"):
        operators.gaussian_noise(sigma_255=-1)


def test_poisson_and_speckle_moments():
    x = jnp.full((1, 96, 96, 3), 0.2)  # intensity 0.6
    keys = rng.image_keys(1, [0])
    photons = np.asarray(operators.poisson_noise(30.0)(x, keys=keys)) / 2 + 0.5
    assert abs(photons.mean() - 0.6) < 0.005
    assert abs(photons.var() - 0.6 / 30) < 0.001
    np.testing.assert_allclose(photons * 30, np.round(photons * 30), atol=1e-4)
    speckle = np.asarray(operators.speckle_noise(sigma=0.1)(x, keys=keys)) / 2 + 0.5
    assert abs(speckle.mean() - 0.6) < 0.003 and abs(speckle.std() - 0.06) < 0.002


def test_inpaint_masks():
    x = _normal("mask", 2, 6, 4, 3)
    mask = operators.box_mask(6, 4, top=1, left=0, box_height=2, box_width=3)
    want = np.array(x)
    want[:, 1:3, 0:3] = 0.0
    np.testing.assert_array_equal(operators.inpaint(mask)(x), want)
    np.testing.assert_array_equal(operators.inpaint(mask[..., None])(x), want)
    np.testing.assert_array_equal(operators.inpaint(np.ones((6, 4), bool))(x), x)
    np.testing.assert_array_equal(operators.inpaint(np.zeros((2, 6, 4)))(x), 0 * x)
    boxes = np.asarray(operators.random_box_mask(rng.image_keys(0, range(20)), 6, 4, box_height=2, box_width=3))
    assert boxes.shape == (20, 6, 4, 1) and (boxes.sum(axis=(1, 2, 3)) == 18).all()
    assert len({boxes[i].tobytes() for i in range(20)}) > 4
    pixels = np.asarray(operators.random_pixel_mask(rng.image_keys(0, [0, 1]), 64, 64, observed=0.3))
    assert abs(pixels.mean() - 0.3) < 0.02 and not np.array_equal(pixels[0], pixels[1])
    strokes = np.asarray(operators.random_stroke_mask(rng.image_keys(0, range(8)), 40, 50, strokes=1,
                                                      thickness=(4.0, 4.0)))[..., 0]
    assert strokes.shape == (8, 40, 50) and len({each.tobytes() for each in strokes}) == 8
    lengths = [(each == 0).sum() / 4 for each in strokes]  # a stroke that begins where the one before ends: here a dot
    assert 2 <= sum(length > 8 for length in lengths) <= 6, lengths
    for each in strokes:  # a straight line, 4 pixels thick: its area and the extent of its ends agree
        at = np.argwhere(each == 0)
        length = np.ptp(at @ np.linalg.svd(at - at.mean(0))[2][0])
        assert abs(len(at) - (4 * (length - 4) + np.pi * 4)) < 0.25 * len(at) + 8 and length > 2
    for height, width in ((7, 2), (2, 5), (0, 2), (2, 0)):
        with pytest.raises(ValueError, match=f"a box of {height} x {width} does not fit into 6 x 4"):
            operators.random_box_mask(rng.image_keys(0, [0]), 6, 4, box_height=height, box_width=width)
    whole = operators.random_box_mask(rng.image_keys(0, [0]), 6, 4, box_height=6, box_width=4)
    np.testing.assert_array_equal(whole, 0.0)
    with pytest.raises(ValueError, match="does not fit images"):
        operators.inpaint(mask)(x[:, :5])
    with pytest.raises(ValueError, match="mask"):
        operators.inpaint(2 * mask)


def test_smooth_filling_is_biharmonic_and_does_not_look_at_what_is_unseen():
    down, across = np.mgrid[:20, :24] / 20
    ramp = np.stack([down - 0.5, 0.3 * across, down - across], axis=-1)[None]
    wave = np.sin(5 * down * across)[None, ..., None] * np.ones(3)
    seen = np.ones((1, 20, 24, 1), np.float32)
    seen[0, 5:15, 8:11] = seen[0, 3, 4:20] = 0
    x = jnp.asarray(np.concatenate([ramp, wave]), jnp.float32)
    found = operators.smooth_fill(jnp.where(seen > 0, x, 7.0), jnp.asarray(seen))
    np.testing.assert_allclose(found[0], x[0], atol=1e-4)  # a plane is its own continuation
    reference = skimage.restoration.inpaint_biharmonic(np.asarray(x[1]), seen[0, ..., 0] == 0, channel_axis=-1)
    np.testing.assert_allclose(found[1], reference, atol=0.01)
    assert np.abs(np.asarray(found[1] - x[1])).max() < 0.1
    alone = operators.smooth_fill(x[1:], jnp.asarray(seen))
    np.testing.assert_allclose(alone[0], found[1], atol=1e-5)


def test_the_flatter_filling_is_harmonic():
    """Every unseen pixel is the mean of its four neighbours; it does not go beyond what is around the hole."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 12, 14, 3)).astype(np.float32)
    seen = np.ones((1, 12, 14, 1), np.float32)
    seen[0, 3:9, 4:10] = 0
    found = np.asarray(operators.smooth_fill(jnp.asarray(np.where(seen > 0, x, 7.0)), jnp.asarray(seen), order=1))
    around = (found[:, 2:8, 4:10] + found[:, 4:10, 4:10] + found[:, 3:9, 3:9] + found[:, 3:9, 5:11]) / 4
    np.testing.assert_allclose(found[:, 3:9, 4:10], around, atol=1e-4)
    np.testing.assert_array_equal(found[np.broadcast_to(seen > 0, x.shape)], x[np.broadcast_to(seen > 0, x.shape)])
    with pytest.raises(ValueError, match="order is 1 or 2, not 3"):
        operators.smooth_fill(x, seen, order=3)


def test_compose_runs_left_to_right_with_keys_by_position():
    x, keys = _normal("chain", 2, 8, 8, 3), rng.image_keys(0, [4, 9])
    noise, blur = operators.gaussian_noise(sigma=0.2), operators.gaussian_blur(1.0)
    chain = operators.compose(blur, noise, noise)
    want = noise(noise(blur(x), keys=rng.fold(keys, 1)), keys=rng.fold(keys, 2))
    np.testing.assert_allclose(chain(x, keys=keys), want, atol=1e-6)
    assert chain.stochastic and not chain.linear and chain.shape_preserving
    np.testing.assert_array_equal(operators.compose()(x), x)


def test_mixture_frequencies_and_choice():
    marks = [operators.compose(operators.clip(v, v)) for v in (0.1, 0.2, 0.3)]
    mixed = operators.mixture(marks, [2.0, 0.0, 6.0])
    keys = rng.image_keys(0, range(400))
    y = np.asarray(mixed(jnp.zeros((400, 1, 1, 1)), keys=keys)).ravel()
    assert set(np.round(y, 4)) == {np.float32(0.1), np.float32(0.3)}
    assert abs((y > 0.2).mean() - 0.75) < 0.07
    np.testing.assert_array_equal(np.asarray(mixed.choice(keys)) == 2, y > 0.2)
    with pytest.raises(ValueError, match="different shapes: Clip .4, 4, 3., .*2, 2, 3"):
        operators.mixture([operators.clip(), operators.downsample(2)], [1.0, 1.0])(
            jnp.zeros((1, 4, 4, 3)), keys=rng.image_keys(0, [0]))
    with pytest.raises(ValueError, match="as many probabilities"):
        operators.mixture(marks, [0.5, 0.5])
    with pytest.raises(ValueError, match="above 0"):
        operators.mixture(marks, [0, 0, 0])


def test_a_mixture_may_shrink():
    mean, corner = operators.average_pool(2), operators.downsample(2, method="nearest")
    mixed, keys = operators.mixture([mean, corner], [1.0, 1.0]), rng.image_keys(0, range(8))
    x = _normal("shrinks", 8, 4, 6, 3)
    assert not mixed.shape_preserving
    chosen = np.asarray(mixed.choice(keys))
    assert 0 < chosen.sum() < 8
    for y, image, which in zip(mixed(x, keys=keys), x, chosen):
        np.testing.assert_allclose(y, (mean, corner)[which](image[None])[0], atol=1e-6)


def test_quantize_and_photo_mixture_hold_eight_bit_levels():
    for name in ("quantize", "photo_mixture", "jpeg", "random_jpeg"):
        y = np.asarray(_case(name, (7, 5))[3])
        levels = (y + 1.0) * 127.5
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert y.min() >= -1.0 and y.max() <= 1.0
    x = jnp.linspace(-1.2, 1.2, 50)
    np.testing.assert_allclose(operators.quantize()(x), np.clip(x, -1, 1), atol=0.5 / 127.5 + 1e-6)


def test_random_jpeg_spreads_quality_evenly_on_a_logarithmic_scale():
    """Half of the draws from 5 to 80 lie below the geometric mean, 20: as strong as that quality or stronger."""
    num = 512
    x = jnp.tile(0.9 * jax.random.normal(jax.random.key(0), (1, 8, 8, 1)), (num, 1, 1, 3))
    error = jnp.mean((operators.random_jpeg((5, 80))(x, keys=rng.image_keys(0, np.arange(num))) - x)**2, (1, 2, 3))
    middle = jnp.mean((operators.jpeg(20)(x[:1]) - x[:1])**2)
    assert 0.42 < float(jnp.mean(error >= middle)) < 0.58


def test_random_degradations_draw_per_image_and_within_range():
    flat = jnp.zeros((64, 24, 24, 1))
    noise = np.asarray(operators.random_gaussian_noise((10, 40))(flat, keys=rng.image_keys(0, range(64))))
    sigma = noise.std(axis=(1, 2, 3)) * 127.5
    assert sigma.min() > 9 and sigma.max() < 43 and sigma.max() - sigma.min() > 20
    motion = operators.random_motion_blur((7, 17))
    kernels = np.asarray(motion.kernels(rng.image_keys(0, range(32))))
    assert kernels.shape == (32, 25, 25) and len({kernel.tobytes() for kernel in kernels}) == 32
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1.0, atol=1e-5)
    for straight in (0.0, 0.25, 1.0):  # a straight line takes up a thin strip, a shake of that length hardly ever
        motion = operators.random_motion_blur((15, 15), straight=straight)
        kernels = np.asarray(motion.kernels(rng.image_keys(0, range(200))))
        row, column = np.mgrid[:25, :25] - 12
        along, across, both = (np.sum(kernels * each, axis=(1, 2)) for each in (row**2, column**2, row * column))
        width = (along + across) / 2 - np.hypot((along - across) / 2, both)
        assert abs((width < 0.3).mean() - straight) < 0.09
    fixed = operators.random_gaussian_blur(1.5, sigma_255=0.0)
    x = _normal("fixed", 2, 20, 20, 3)
    np.testing.assert_allclose(fixed(x, keys=rng.image_keys(0, [0, 1])), operators.gaussian_blur(1.5, size=25)(x),
                               atol=1e-5)


@pytest.mark.parametrize("make, words", [
    (lambda: operators.photo_mixture({"fog": 1.0}), "unknown families"),
    (lambda: operators.random_photo_noise((5, 10), {"fog": 1.0}), "unknown kinds"),
    (lambda: operators.photo_mixture({"jpeg": 0.0}), "above 0"),
    (lambda: operators.photo_mixture({"jpeg": 1.0}, motion_blur=operators.random_motion_blur()), "probability 0"),
    (lambda: operators.random_gaussian_blur((3, 1)), "low <= high"),
    (lambda: operators.random_jpeg((0, 50)), "quality"),
    (lambda: operators.random_motion_blur((7, 40)), "larger size"),
    (lambda: operators.random_super_resolution(0), "factor"),
    (lambda: operators.poisson_noise(0.0), "peak"),
    (lambda: operators.jpeg(10)(jnp.zeros((4, 4, 3))), "batch axis"),
])
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_photo_mixture_with_one_family_is_that_family():
    x, keys = jnp.clip(0.4 * _normal("one", 2, 16, 16, 3), -1, 1), rng.image_keys(0, [0, 1])
    alone = operators.photo_mixture({"gaussian_noise": 1}, gaussian_noise=operators.random_gaussian_noise(30.0))
    noise = np.asarray(alone(x, keys=keys) - x)
    assert 0.15 < noise.std() < 0.3


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several (virtual) devices")
def test_sharded_batch_gives_the_same_pictures():
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, keys = _normal("sharded", count, 16, 16, 3), rng.image_keys(0, range(count))
    operator = operators.photo_mixture()
    run = jax.jit(lambda image, key: operator(image, keys=key), compiler_options=QUICK)
    split = [jax.device_put(leaf, sharding) for leaf in (x, keys)]
    _assert_same_picture("photo_mixture", run(*split), run(x, keys))
    assert "all-gather" not in run.lower(*split).compile(QUICK).as_text()  # nobody needs anybody else's pictures
