"""LPIPS: official values, an independent numpy network on random weights, gradients, and what is refused."""
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import metrics
from tests.paths import SHARED, needs_shared

KERNELS = {"conv1": (11, 11, 3, 64), "conv2": (5, 5, 64, 192), "conv3": (3, 3, 192, 384), "conv4": (3, 3, 384, 256),
           "conv5": (3, 3, 256, 256)}
VALUE_AND_GRADIENT = jax.jit(jax.value_and_grad(lambda a, b, params: metrics.lpips(a, b, params).sum()))


def random_weights(seed=0):
    random, arrays = np.random.default_rng(seed), {}
    for i, (name, shape) in enumerate(KERNELS.items()):
        gain = np.sqrt(2 / np.prod(shape[:3]))
        arrays[f"{name}/kernel"] = (gain * random.standard_normal(shape)).astype(np.float32)
        arrays[f"{name}/bias"] = (0.1 * random.standard_normal(shape[3])).astype(np.float32)
        arrays[f"lin{i}"] = random.uniform(0, 1, shape[3]).astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "weights.npz"
    np.savez(path, **random_weights())
    return path


@pytest.fixture(scope="module")
def params(weights_file):
    return metrics.load_lpips(weights_file)


@pytest.fixture(scope="module")
def pair():
    random = np.random.default_rng(1)
    return tuple(random.uniform(-1, 1, (2, 34, 39, 3)).astype(np.float32) for _ in range(2))


def numpy_lpips(a, b, arrays):
    """The paper's distance of two images ``[H, W, 3]`` in numpy float64, written from windows and einsum."""
    def windows(x, size, stride):
        return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))[::stride, ::stride]

    def features(x):
        x = (x.astype(np.float64) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        found = []
        for name, stride, padding in zip(KERNELS, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)):
            if name in ("conv2", "conv3"):
                x = windows(x, 3, 2).max(axis=(-2, -1))
            kernel = arrays[f"{name}/kernel"].astype(np.float64)
            x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
            x = np.einsum("yxchw,hwco->yxo", windows(x, kernel.shape[0], stride), kernel, optimize=True)
            x = np.maximum(x + arrays[f"{name}/bias"], 0)
            found.append(x / (np.sqrt((x ** 2).sum(axis=-1, keepdims=True)) + 1e-10))
        return found

    return sum((((f - g) ** 2) @ arrays[f"lin{i}"]).mean() for i, (f, g) in enumerate(zip(features(a), features(b))))


# --- the other networks

FIRES = {"fire2": (64, 16, 64), "fire3": (128, 16, 64), "fire4": (128, 32, 128), "fire5": (256, 32, 128),
         "fire6": (256, 48, 192), "fire7": (384, 48, 192), "fire8": (384, 64, 256), "fire9": (512, 64, 256)}
VGG = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128), "conv2_2": (128, 128), "conv3_1": (128, 256),
       "conv3_2": (256, 256), "conv3_3": (256, 256), "conv4_1": (256, 512), "conv4_2": (512, 512),
       "conv4_3": (512, 512), "conv5_1": (512, 512), "conv5_2": (512, 512), "conv5_3": (512, 512)}
HEADS = {"squeeze": (64, 128, 256, 384, 384, 512, 512), "vgg": (64, 128, 256, 512, 512)}


def random_arrays(network):
    """Kernels, biases and heads of the published architectures."""
    if network == "vgg":
        kernels = {name: (3, 3, *widths) for name, widths in VGG.items()}
    else:
        kernels = {"conv1": (3, 3, 3, 64)}
        for name, (inputs, narrow, half) in FIRES.items():
            kernels |= {f"{name}/squeeze": (1, 1, inputs, narrow), f"{name}/expand1": (1, 1, narrow, half),
                        f"{name}/expand3": (3, 3, narrow, half)}
    random, arrays = np.random.default_rng(3), {}
    for name, shape in kernels.items():
        arrays[f"{name}/kernel"] = (np.sqrt(2 / np.prod(shape[:3])) * random.standard_normal(shape)).astype(np.float32)
        arrays[f"{name}/bias"] = (0.1 * random.standard_normal(shape[3])).astype(np.float32)
    return arrays | {f"lin{i}": random.uniform(0, 1, width).astype(np.float32) for i, width in
                     enumerate(HEADS[network])}


def numpy_features(x, arrays, network):
    """The activations that are compared of one image ``[H, W, 3]``, from windows and einsum, in float64."""
    def convolve(x, name, stride=1, padding=1):
        kernel = arrays[f"{name}/kernel"].astype(np.float64)
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
        return np.maximum(np.einsum("yxchw,hwco->yxo", seen, kernel, optimize=True) + arrays[f"{name}/bias"], 0)

    def pool(x, size):
        """Torch's: of SqueezeNet (size 3) with ceil_mode, the last window of which is as large as the picture lets."""
        count = [-(-(side - size) // 2) + 1 if size == 3 else side // 2 for side in x.shape[:2]]
        return np.array([[x[2 * i:2 * i + size, 2 * j:2 * j + size].max(axis=(0, 1)) for j in range(count[1])]
                         for i in range(count[0])])

    def fire(x, name):
        x = convolve(x, f"{name}/squeeze", padding=0)
        return np.concatenate([convolve(x, f"{name}/expand1", padding=0), convolve(x, f"{name}/expand3")], axis=-1)

    x, found = (x.astype(np.float64) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450], []
    if network == "squeeze":
        found.append(x := convolve(x, "conv1", stride=2, padding=0))
        for name in FIRES:
            x = fire(pool(x, 3) if name in ("fire2", "fire4", "fire6") else x, name)
            if name not in ("fire2", "fire4"):
                found.append(x)
        return found
    for name in VGG:
        x = convolve(pool(x, 2) if name.endswith("_1") and name != "conv1_1" else x, name)
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            found.append(x)
    return found


@pytest.mark.parametrize("network, sizes", [("squeeze", [(17, 17), (33, 38), (40, 31), (36, 35)]),
                                            ("vgg", [(16, 16), (33, 38)])])
def test_other_networks_equal_independent_ones(network, sizes, tmp_path):
    arrays = random_arrays(network)
    np.savez(tmp_path / "weights.npz", **arrays)
    params = metrics.load_lpips(tmp_path / "weights.npz", network=network)
    protocol = metrics.by_name(f"lpips-{network}-v0.1", lpips_params=params)
    assert protocol.name == f"lpips-{network}-v0.1" != metrics.by_name("lpips", lpips_params=random_weights()).name
    random = np.random.default_rng(1)
    for size in sizes:
        a, b = (random.uniform(-1, 1, (1, *size, 3)).astype(np.float32) for _ in range(2))
        expected = 0.0
        for i, pair in enumerate(zip(*(numpy_features(x[0], arrays, network) for x in (a, b)), strict=True)):
            f, g = (x / (np.sqrt((x ** 2).sum(axis=-1, keepdims=True)) + 1e-10) for x in pair)
            expected += (((f - g) ** 2) @ arrays[f"lin{i}"]).mean()
        assert protocol(a, b)[0] == pytest.approx(expected, rel=2e-5)
    small = np.zeros((1, sizes[0][0] - 1, 40, 3), np.float32)
    with pytest.raises(ValueError, match=f"at least {sizes[0][0]} x {sizes[0][0]}"):
        metrics.lpips(small, small, params)


@needs_shared
def test_squeeze_has_the_values_of_the_shared_weights(monkeypatch):
    """The values that whoever converted these weights got from another program; no official ones are known."""
    weights = [SHARED / "data" / folder / f"lpips_{network}_v0.1.npz"
               for folder, network in (("weights_extra", "alex"), ("weights", "squeeze"))]
    monkeypatch.setenv("INDIGO_LPIPS", os.pathsep.join(map(str, weights)))
    a, b = (np.stack([read(folder, f"{name}.png") for name in ("I03", "I04", "I06", "I08", "I19")])
            for folder in ("ref_dir", "dist_dir"))
    measured = metrics.by_name("lpips-squeeze-v0.1")(a, b)
    np.testing.assert_allclose(measured, [0.73024, 0.23834, 0.04845, 0.03155, 0.43137], atol=6e-6)
    assert metrics.by_name("lpips").name == "lpips-alex-v0.1"  # the other file of the two


def test_a_network_of_another_name_is_refused(weights_file, params):
    with pytest.raises(ValueError, match="by the network vgg, and the weights given are of alex"):
        metrics.by_name("lpips-vgg-v0.1", lpips_params=params)
    with pytest.raises(ValueError, match="no array 'conv1_1/kernel': not the LPIPS weights of vgg"):
        metrics.load_lpips(weights_file, network="vgg")
    with pytest.raises(ValueError, match="no network 'vgg19'; use alex, squeeze, vgg"):
        metrics.load_lpips(weights_file, network="vgg19")


def read(*parts):
    with Image.open(SHARED.joinpath("data", "eval_open", "metric_calibration", *parts), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def official_params():
    return metrics.load_lpips(SHARED / "data" / "weights_extra" / "lpips_alex_v0.1.npz")


@needs_shared
def test_official_values(official_params):
    names = ("I03", "I04", "I06", "I08", "I19")
    a, b = (np.stack([read(folder, f"{name}.png") for name in names]) for folder in ("ref_dir", "dist_dir"))
    measured = metrics.by_name("lpips-alex-v0.1", lpips_params=official_params)(a, b)
    assert measured.dtype == np.float64
    assert [f"{value:.4f}" for value in measured] == ["0.7237", "0.2572", "0.0508", "0.0521", "0.4253"]


@needs_shared
def test_official_examples(official_params):
    reference, *others = (read("lpips_examples", f"ex_{name}.png")[None] for name in ("ref", "p0", "p1"))
    measured = [float(metrics.lpips(reference, other, official_params)[0]) for other in others]
    assert [f"{value:.3f}" for value in measured] == ["0.722", "0.138"]


def test_equals_an_independent_network(pair, params):
    a, b = pair
    expected = [numpy_lpips(x, y, random_weights()) for x, y in zip(a, b)]
    measured = metrics.lpips(a, b, params)
    assert measured.dtype == jnp.float32 and measured.shape == (2,)
    np.testing.assert_allclose(measured, expected, rtol=2e-5)


def test_zero_for_identical_symmetric_and_per_image(pair, params):
    a, b = pair
    np.testing.assert_allclose(metrics.lpips(a, a, params), [0, 0], atol=1e-12)
    forward = np.asarray(metrics.lpips(a, b, params))
    np.testing.assert_allclose(metrics.lpips(b, a, params), forward, rtol=1e-6)
    np.testing.assert_allclose(metrics.lpips(a, np.stack([b[0], a[1]]), params), [forward[0], 0], rtol=1e-6, atol=1e-12)


def test_bytes_mean_the_same_as_floats(params):
    random = np.random.default_rng(2)
    a, b = (random.integers(0, 256, (2, 34, 39, 3)).astype(np.uint8) for _ in range(2))
    floats = [x.astype(np.float32) / np.float32(127.5) - np.float32(1) for x in (a, b)]
    np.testing.assert_allclose(metrics.lpips(a, b, params), metrics.lpips(*floats, params), rtol=1e-6)
    np.testing.assert_allclose(metrics.lpips(a, floats[1], params), metrics.lpips(*floats, params), rtol=1e-6)


def test_gradient_under_jit_is_the_slope(pair, params):
    a, b = (x[:1, :31, :31] for x in pair)
    gradient = np.asarray(VALUE_AND_GRADIENT(a, b, params)[1])
    step = np.float32(0.02) * gradient / np.linalg.norm(gradient)
    ahead, behind = (float(VALUE_AND_GRADIENT(x, b, params)[0]) for x in (a + step, a - step))
    slope = (ahead - behind) / 0.04
    assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=0.05)


def test_derivatives_are_finite_where_every_feature_is_zero(pair, params):
    dead = {**params, "conv1/bias": jnp.full(64, -1e4, jnp.float32), "conv2/bias": jnp.full(192, -1.0, jnp.float32)}
    a, b = (x[:1, :31, :31] for x in pair)
    value, gradient = VALUE_AND_GRADIENT(a, b, dead)
    tangent = jax.jit(lambda x: jax.jvp(lambda y: metrics.lpips(y, b, dead), (x,), (jnp.ones_like(x),))[1])(a)
    assert abs(float(value)) < 1e-12 and np.isfinite(np.asarray(gradient)).all()
    assert np.isfinite(np.asarray(tangent)).all()


def test_smallest_image(params):
    x = np.zeros((1, 31, 31, 3), np.float32)
    assert float(metrics.lpips(x, x + np.float32(0.5), params)[0]) > 0
    for shape in ((1, 30, 40, 3), (1, 40, 30, 3), (1, 40, 40, 1)):
        with pytest.raises(ValueError, match="at least 31 x 31"):
            metrics.lpips(np.zeros(shape, np.float32), np.zeros(shape, np.float32), params)


def test_bad_input_is_refused(pair, params):
    a, b = pair
    with pytest.raises(ValueError, match="never resize"):
        metrics.lpips(a, b[:, 1:], params)
    spoiled = b.copy()
    spoiled[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 1 of b holds NaN"):
        metrics.lpips(a, spoiled, params)
    with pytest.raises(ValueError, match="image 1 of b holds NaN"):
        metrics.lpips(a, jnp.asarray(spoiled), params)


# --- weights


def test_absent_weights_name_the_fix(monkeypatch, tmp_path):
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    with pytest.raises(FileNotFoundError, match="set INDIGO_LPIPS="):
        metrics.load_lpips()
    with pytest.raises(FileNotFoundError, match="set INDIGO_LPIPS="):
        metrics.by_name("lpips")
    monkeypatch.setenv("INDIGO_LPIPS", str(tmp_path / "nowhere.npz"))
    with pytest.raises(FileNotFoundError, match="nowhere.npz.*not bundled"):
        metrics.by_name("lpips-alex-v0.1")


def test_weights_by_environment_and_protocol(monkeypatch, weights_file, pair, params):
    monkeypatch.setenv("INDIGO_LPIPS", str(weights_file))
    protocol = metrics.by_name("lpips")
    assert protocol.name == "lpips-alex-v0.1" and not protocol.higher_is_better
    assert protocol == metrics.Protocol("lpips") and hash(protocol) == hash(metrics.Protocol("lpips"))
    expected = np.asarray(metrics.lpips(*pair, params), np.float64)
    for measure in (protocol, metrics.Protocol("lpips")):
        np.testing.assert_array_equal(measure(*pair), expected)


def test_wrong_weights_are_refused(tmp_path):
    path = tmp_path / "weights.npz"

    def refused(match, **changes):
        arrays = {**random_weights(), **changes}
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(ValueError, match=match):
            metrics.load_lpips(path)

    refused("holds no array 'lin2'", lin2=None)
    refused("lin0 must be finite floats", lin0=np.zeros(192, np.float32))
    refused("conv1/bias must be finite floats", **{"conv1/bias": np.full(64, np.nan, np.float32)})
    refused("lin4 has weights below zero", lin4=np.full(256, -1.0, np.float32))
    refused("not an npz file of plain arrays", lin1=np.array([{"a": 1}], dtype=object))
    path.write_bytes(b"PK\x03\x04 not really an archive")
    with pytest.raises(ValueError, match="not an npz file"):
        metrics.load_lpips(path)
    path.write_text("text")
    with pytest.raises(ValueError, match="not an npz file"):
        metrics.load_lpips(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not an npz file"):
        metrics.load_lpips(tmp_path / "one.npy")
