"""Second-order degradations: every stage against an oracle, the published numbers, one image alone and in a batch."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from indigo_jax import operators, rng
from indigo_jax.operators import realesrgan_kernels, realesrgan_stages as stages
from indigo_jax.operators.realesrgan import SETS
from indigo_jax.operators.realesrgan_kernels import Kernels

KEYS = rng.image_keys(0, np.arange(2000))
PIXELS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 12, 10, 3)), jnp.float32)


def canvas(picture, height, width):
    """The picture in a corner of a canvas of rubbish, and its size."""
    rows, columns = picture.shape[1:3]
    out = np.full((1, height, width, 3), 0.77, np.float32)
    out[:, :rows, :columns] = picture
    return jnp.asarray(out), jnp.asarray([[rows, columns]])


# ------------------------------------------------------------------------------------------------------ whole pipeline

def small():
    """The first set with small kernels, which compile fast."""
    first, second, *rest = SETS["kdsr"]
    return SETS["kdsr"]._replace(first=first._replace(kernels=first.kernels._replace(sides=(3, 5))),
                                 second=second._replace(kernels=second.kernels._replace(sides=(3, 5))), intact=0.5)


MAKE = {"small": lambda: operators.realesrgan(small()), "kdsr": operators.realesrgan,
        "stablesr": lambda: operators.realesrgan("stablesr"), "face": operators.face_degradation}


@pytest.mark.parametrize("name", ["small", *(pytest.param(name, marks=pytest.mark.slow)
                                             for name in ("kdsr", "stablesr", "face"))])
def test_the_result_belongs_to_the_picture_and_its_key(name):
    """Also: those that are only shrunk are that and nothing else."""
    operator, x = MAKE[name](), jnp.concatenate([PIXELS, PIXELS[:, ::-1]] * 8)
    first, again, turned = (np.asarray(operator(a, keys=keys)) for a, keys in (
        (x, KEYS[:16]), (x, KEYS[:16]), (x[::-1], KEYS[:16][::-1])))
    assert first.shape == (16, 3, 3, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(turned[::-1], first, atol=1e-5)
    assert len(np.unique(first[::2].round(2), axis=0)) >= 4
    levels = (first + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert levels.min() > -1e-3 and levels.max() < 255.001
    if name == "small":
        shrunk = np.asarray(operators.quantize()(operators.downsample(4)(x)))
        assert 1 <= (np.abs(first - shrunk).max((1, 2, 3)) < 1e-6).sum() <= 10


@pytest.mark.slow
@pytest.mark.parametrize("make", [operators.realesrgan, operators.face_degradation])
def test_one_picture_alone_is_as_in_a_batch(make):
    x = jnp.concatenate([PIXELS, PIXELS[:, ::-1]])
    np.testing.assert_allclose(make()(x, keys=KEYS[:2])[1:], make()(x[1:], keys=KEYS[1:2]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"factor": 1}, {"factor": 4, "enlarge": True}, {"factor": 2}])
@pytest.mark.parametrize("make", [operators.realesrgan, operators.face_degradation])
def test_sizes_flags_and_likeness(make, options):
    level = np.random.default_rng(1).uniform(-0.9, 0.9, size=(16, 1, 1, 3))
    x = jnp.asarray(np.tile(level, (1, 34, 38, 1)), jnp.float32)
    operator = make(**options)
    y = operator(x, keys=KEYS[:16])
    assert operator.stochastic and not operator.linear
    assert operator.shape_preserving == (y.shape == x.shape) == (options.get("factor") != 2)
    assert y.shape[1:3] == ((17, 19) if options["factor"] == 2 else (34, 38))
    assert float(jnp.abs(y.mean((1, 2)) - x.mean((1, 2))).mean()) < 0.1  # whatever is done, a plain picture stays


@pytest.mark.parametrize("call, words", [
    (lambda: operators.realesrgan("bsrgan"), "kdsr, stablesr"),
    (lambda: operators.realesrgan(factor=0), "factor"),
    (lambda: operators.realesrgan(SETS["kdsr"]._replace(first=SETS["kdsr"].first._replace(quality=(0, 50)))), "1..100"),
    (lambda: operators.realesrgan(SETS["kdsr"]._replace(first=SETS["kdsr"].first._replace(scale=(2, 3)))), "hold 1"),
    (lambda: operators.face_degradation(blur=(1, 2)), "unknown numbers"),
    (lambda: operators.face_degradation(sigma=(2, 1)), "sigma must be"),
    (lambda: operators.face_degradation(side=4), "odd sides"),
    (lambda: operators.face_degradation(shrink=(0, 2)), "shrink must be above 0"),
    (lambda: operators.face_degradation(sigma=(0, 2)), "sigma above 0"),
    (lambda: operators.realesrgan(SETS["kdsr"]._replace(second=SETS["kdsr"].second._replace(
        kernels=Kernels((3, 5), (-1.0, 2.0))))), "sigma"),
    (lambda: operators.realesrgan(SETS["kdsr"]._replace(second=SETS["kdsr"].second._replace(
        kernels=Kernels((3, 6), (1.0, 2.0))))), "odd sides"),
    (lambda: operators.realesrgan()(PIXELS), "draws random numbers"),
])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_sets_hold_the_published_numbers():
    """Columns of the table: KDSR-GANV2 and StableSR; kernel sides are what these programs make of 21 and 11."""
    table = {
        "kdsr": (((7, 21), (0.2, 3), (0.15, 1.5), (1, 30), (0.05, 3), (30, 95), 1.0),
                 ((7, 21), (0.2, 1.5), (0.3, 1.2), (1, 25), (0.05, 2.5), (30, 95), 0.8), (0.5, 4), (1, 2), 0.0),
        "stablesr": (((3, 19), (0.2, 1.5), (0.3, 1.5), (1, 15), (0.05, 2), (60, 95), 1.0),
                     ((3, 9), (0.2, 1.0), (0.6, 1.2), (1, 12), (0.05, 1), (60, 100), 0.5), (0.5, 2), (1, 1.5), 0.01)}
    assert set(SETS) == set(table)
    for name, (*rounds, generalized, plateau, intact) in table.items():
        numbers = SETS[name]
        assert numbers.final_sinc == 0.8 and numbers.intact == intact
        for how, row in zip((numbers.first, numbers.second), rounds):
            kernels = how.kernels
            assert (kernels.sides, kernels.sigma, how.scale, how.sigma_255, how.poisson, how.quality, how.blur) == row
            assert (kernels.generalized, kernels.plateau, kernels.sinc) == (generalized, plateau, 0.1)
            assert how.gaussian == 0.5 and how.gray == 0.4
        assert numbers.first.resize == (0.2, 0.7, 0.1) and numbers.second.resize == (0.3, 0.4, 0.3)
    assert realesrgan_kernels.SHARES == (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    face = operators.face_degradation().numbers
    assert face == ((0.1, 15), (0.8, 32), (0, 20), (30, 100), 41, 0.01)


# ------------------------------------------------------------------------------------------------------------- kernels

def test_bells_equal_their_formula():
    first, second, angle, b = 1.5, 0.7, 0.6, 1.7
    for is_plateau in (False, True):
        kernel = realesrgan_kernels.bell(*(jnp.asarray([v]) for v in (first, second, angle, b, is_plateau)), 9)[0]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        inverse = np.linalg.inv(turn @ np.diag([first**2, second**2]) @ turn.T)
        for i in range(9):
            for j in range(9):
                r = np.array([j - 4, i - 4])
                q = (r @ inverse @ r) ** b
                assert abs(float(kernel[i, j]) - (1 / (1 + q) if is_plateau else np.exp(-q / 2))) < 1e-5


def test_low_pass_equals_bessel():
    cutoff = np.array([np.pi / 5, 2.0, np.pi])
    kernel = np.asarray(realesrgan_kernels.low_pass(jnp.asarray(cutoff, jnp.float32), 21))
    radius = np.hypot(*(np.mgrid[:21, :21] - 10))
    wanted = cutoff[:, None, None] * special.j1(cutoff[:, None, None] * radius) / (2 * np.pi * np.maximum(radius, 1e-9))
    wanted[:, 10, 10] = cutoff**2 / (4 * np.pi)
    np.testing.assert_allclose(kernel, wanted, atol=2e-6)


def test_drawn_kernels_follow_their_numbers():
    how = Kernels((3, 9), (0.4, 2.0), (0.5, 4.0), (1.0, 2.0), sinc=0.25)
    kernels = np.asarray(jax.jit(functools.partial(realesrgan_kernels.draw_kernels, how=how))(KEYS))
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)
    assert abs((kernels.min((1, 2)) < -1e-6).mean() - 0.25) < 0.06  # only the low-pass filters ring
    positive = kernels[kernels.min((1, 2)) >= -1e-6]
    symmetric = np.abs(positive - positive.swapaxes(1, 2)).max((1, 2)) < 1e-6
    assert abs(symmetric.mean() - 0.69) < 0.06  # the isotropic ones
    sides = np.asarray(realesrgan_kernels.draw_sides(KEYS, (3, 9)))
    assert np.abs(np.bincount(sides)[[3, 5, 7, 9]] / len(sides) - 0.25).max() < 0.05
    outer = np.abs(kernels[:, 0]).max(1) + np.abs(kernels[:, :, 0]).max(1)
    assert (outer[sides < 9] == 0).all()
    pulse = np.asarray(realesrgan_kernels.draw_low_pass(KEYS, (3, 9), 0.8))
    assert abs((pulse[:, 4, 4] == 1).mean() - 0.2) < 0.05


@pytest.mark.parametrize("kind", range(6), ids=realesrgan_kernels.KINDS)
def test_each_kind_of_kernel_is_the_bell_of_its_name(kind):
    """Isotropic or not, with a plateau or not; the exponents have a test of their own."""
    how = Kernels((9, 9), (1.2, 1.2), shares=tuple(float(i == kind) for i in range(6)))
    q = ((np.indices((9, 9)) - 4) ** 2).sum(0) / 1.2**2
    wanted = 1 / (1 + q) if kind >= 4 else np.exp(-q / 2)
    found = np.asarray(realesrgan_kernels.draw_kernels(KEYS[:8], how))
    np.testing.assert_allclose(found, np.broadcast_to(wanted / wanted.sum(), found.shape), atol=1e-5)
    turned = np.asarray(realesrgan_kernels.draw_kernels(KEYS[:8], how._replace(sigma=(0.5, 3.0))))
    assert (np.abs(turned - turned.swapaxes(1, 2)).max((1, 2)) < 1e-6).all() == (kind % 2 == 0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_pictures_is_blurred(share):
    plain = SETS["kdsr"].first._replace(kernels=Kernels((5, 5), (2.0, 2.0)), blur=0.0, resize=(0.0, 0.0, 1.0),
                                        gaussian=1.0, sigma_255=(0.0, 0.0), quality=(100.0, 100.0))
    numbers = SETS["kdsr"]._replace(first=plain._replace(blur=share), second=plain, final_sinc=0.0)
    x = jnp.broadcast_to(jnp.asarray(np.indices((16, 16)).sum(0) % 2 * 1.6 - 0.8, jnp.float32)[None, ..., None],
                         (64, 16, 16, 3))
    contrast = np.asarray(operators.realesrgan(numbers, factor=1)(x, keys=KEYS[:64])).std((1, 2, 3))
    assert abs((contrast < 0.2).mean() - share) < 0.15 and ((contrast < 0.2) | (contrast > 0.6)).all()


@pytest.mark.parametrize("sides, lowest", [((3, 9), np.pi / 3), ((13, 15), np.pi / 5)], ids=str)
def test_cutoffs_of_low_pass_filters_are_even_from_their_lowest_to_pi(sides, lowest):
    """The next pixel over the centre is ``2 J_1(c) / c``, which falls with the cutoff c; KDSR's low-pass filters of
    13 pixels and more begin at pi / 5."""
    c = np.linspace(1e-3, 3.5, 2000)
    ratio = 2 * special.j1(c) / c
    how = Kernels(sides, (1.0, 2.0), sinc=1.0)
    drawn = {"blur": realesrgan_kernels.draw_kernels(KEYS[:500], how),
             "last": realesrgan_kernels.draw_low_pass(KEYS[:500], sides, 1.0)}
    for name, kernels in drawn.items():
        low, middle = lowest if name == "blur" else np.pi / 3, sides[1] // 2
        found = np.interp(-np.asarray(kernels[:, middle, middle + 1] / kernels[:, middle, middle]), -ratio, c)
        assert low - 0.01 < found.min() < low + 0.05 and np.pi - 0.05 < found.max() < np.pi + 0.01
        assert abs(found.mean() - (low + np.pi) / 2) < 0.1


def test_exponents_are_below_one_or_above_it_with_even_chances():
    found = np.asarray(realesrgan_kernels._exponent(KEYS, (0.5, 4.0)))
    below, above = found[found < 1], found[found >= 1]
    assert abs(len(below) / len(found) - 0.5) < 0.05
    assert 0.5 <= below.min() < 0.51 and below.max() > 0.99 and abs(below.mean() - 0.75) < 0.02
    assert above.min() < 1.02 and 3.95 < above.max() <= 4.0 and abs(above.mean() - 2.5) < 0.12


def test_choices_have_their_probabilities():
    share = np.bincount(np.asarray(realesrgan_kernels.choose(KEYS, (0.2, 0.7, 0.1)))) / 2000
    np.testing.assert_allclose(share, [0.2, 0.7, 0.1], atol=0.04)


# -------------------------------------------------------------------------------------------------------------- stages

RESIZE = jax.jit(stages.resize_canvas, static_argnums=3)


def by_hand(line, size, kind):
    """One line resized sample by sample."""
    source, out = len(line), []
    for i in range(size):
        if kind == 0:
            out.append(np.mean(line[i * source // size:-(-(i + 1) * source // size)]))
            continue
        centre = (i + 0.5) * source / size - 0.5
        if kind == 1:
            out.append(np.interp(centre, np.arange(source), line))
            continue
        before, total = int(np.floor(centre)), 0.0
        for tap in range(-1, 3):
            d, a = abs(centre - before - tap), -0.75
            weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            total += weight * line[min(max(before + tap, 0), source - 1)]
        out.append(total)
    return np.array(out)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_resizing_on_a_canvas_equals_a_loop(kind):
    x, size = canvas(PIXELS, 15, 16)
    for target in ((7, 14), (12, 10)):
        y = RESIZE(x, size, jnp.asarray([target]), (16, 17), jnp.asarray([kind]))
        wanted = np.stack([by_hand(line, target[0], kind) for line in np.asarray(PIXELS[0, :, :, 0]).T], 1)
        wanted = np.stack([by_hand(line, target[1], kind) for line in wanted])
        np.testing.assert_allclose(y[0, :target[0], :target[1], 0], wanted, atol=2e-6)
        np.testing.assert_array_equal(y[:, target[0]:], y[:, target[0] - 1:target[0]].repeat(16 - target[0], 1))


@pytest.mark.slow
def test_blur_and_jpeg_on_a_canvas_are_those_of_the_picture():
    x, size = canvas(PIXELS, 15, 16)
    kernel = realesrgan_kernels.draw_kernels(KEYS[:1], Kernels((7, 7), (1.0, 2.0)))
    blurred = jax.jit(stages.blur)(x, size, kernel)[:, :12, :10]
    np.testing.assert_allclose(blurred, operators.blur(kernel)(PIXELS), atol=1e-5)
    compressed = stages.jpeg(x, size, KEYS[:1], (40.0, 40.0))[:, :12, :10]
    difference = np.abs(np.asarray(compressed - operators.jpeg(40.0)(PIXELS)))
    assert difference[:, :11, :9].max() < 1e-5 and difference.max() < 0.2


def test_a_mirror_image_fills_the_canvas():
    x, size = canvas(PIXELS, 15, 16)
    np.testing.assert_array_equal(stages.extend(x, size, mirror=True)[0],
                                  np.pad(PIXELS[0], ((0, 3), (0, 6), (0, 0)), mode="reflect"))
    np.testing.assert_array_equal(stages.extend(x, size)[0],
                                  np.pad(PIXELS[0], ((0, 3), (0, 6), (0, 0)), mode="edge"))
    one = stages.extend(x, jnp.asarray([[1, 1]]), mirror=True)
    np.testing.assert_array_equal(one, jnp.broadcast_to(x[:, :1, :1], x.shape))


def test_levels_are_counted_inside_and_rounded_up_to_a_power():
    x, size = canvas(np.float32([[[[-1, -1, -1], [0.2, 0.4, 1.0]]]]), 3, 3)
    assert float(stages.count_levels(x, size)[0]) == 4.0
    x, size = canvas(np.linspace(-1, 1, 9, dtype=np.float32).reshape(1, 3, 1, 3), 4, 2)
    assert float(stages.count_levels(x, size)[0]) == 16.0


def test_noise_has_its_level_and_kind():
    x, size = jnp.full((400, 4, 4, 3), -0.2), jnp.full((400, 2), 4)
    noise = functools.partial(jax.jit(stages.add_noise), x, size, KEYS[:400], sigma_255=(20.0, 20.0),
                              poisson=(0.5, 0.5))
    gaussian = np.asarray(noise(gaussian=1.0, alike=0.0) - x)
    assert abs(gaussian.std() * 127.5 - 20) < 0.2 and abs(gaussian.mean()) < 0.003
    photons = np.asarray(noise(gaussian=0.0, alike=1.0) - x)
    assert np.ptp(photons, axis=-1).max() == 0
    counts = [(np.abs(photons[..., 0] - (1.0 * k - 0.4)) < 0.01).mean() for k in (0, 1)]
    np.testing.assert_allclose(counts, [np.exp(-0.4), 0.4 * np.exp(-0.4)], atol=0.03)  # one photon stands for white
    mixed = np.asarray(noise(gaussian=0.5, alike=0.4) - x)
    assert abs((np.ptp(mixed, axis=-1).max((1, 2)) < 1e-6).mean() - 0.4) < 0.08
