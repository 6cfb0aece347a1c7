"""InceptionV3 of FID: a second program on random weights, frozen numbers, its converter, and what a picture becomes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import convert, metrics, models, weights
from indigo_jax.cli import main
from indigo_jax.convert import kinds
from tests import inception_reference

DIVISOR = 16
CHANNELS = (2, 66, 67, 14, 4, 20, 28, 90)
TORCH = ((12.7952, 9.90873, 7.63354, 5.83414, 4.05718, 3.43373, 2.80667, 2.2474),
         (12.30428, 10.25594, 7.33387, 5.5586, 3.73222, 3.18151, 2.7319, 2.27083))


@pytest.fixture(scope="module")
def state():
    return inception_reference.state(DIVISOR)


@pytest.fixture(scope="module")
def found(state):
    """Of pictures large enough that the last maps have 2 x 2 pixels, where a maximum is no mean."""
    x = np.random.default_rng(1).uniform(-1, 1, (2, 107, 111, 3)).astype(np.float32)
    network = models.InceptionV3(divisor=DIVISOR)
    return x, np.asarray(jax.jit(network.apply)(convert.inception(state), x))


def test_features_are_those_of_a_second_program(state, found):
    x, features = found
    assert features.shape == (2, 2048 // DIVISOR) and features.dtype == np.float32
    expected = inception_reference.features(state, x[:1], DIVISOR)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features[:1], expected, rtol=1e-4, atol=1e-5)


def test_frozen_features(found):
    """What torchvision's layers, as pytorch-fid patches them, give with these weights at a sixteenth of their width."""
    np.testing.assert_allclose(found[1][:, CHANNELS], TORCH, rtol=1e-4, atol=2e-5)


def test_as_released_it_has_its_widths():
    shapes = jax.eval_shape(models.InceptionV3().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), "f4"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 21_785_568 - 17_216  # torch's, one bias for two halves
    assert shapes["params"]["Mixed_7c_branch3x3dbl_1"]["kernel"].shape == (1, 1, 2048, 448)
    with pytest.raises(ValueError, match="at least 75 x 75"):
        models.InceptionV3().init(jax.random.key(0), jnp.zeros((1, 74, 80, 3)))


def test_the_command_converts_and_load_reads(tmp_path, capsys, state):
    whole = {**state, "fc.weight": np.zeros((1008, 128), np.float32), "fc.bias": np.zeros(1008, np.float32),
             "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}
    np.savez(tmp_path / "net.npz", **whole)
    out = tmp_path / "inception.safetensors"
    assert main(["weights", "convert", str(tmp_path / "net.npz"), "-o", str(out)]) == 0
    module, params, info = weights.load(out, kind="features")
    assert module == models.InceptionV3(divisor=DIVISOR) and info["source"]["kind"] == "inception"
    jax.tree.map(np.testing.assert_array_equal, params, convert.inception(state))  # 32 bits unless told otherwise
    with pytest.raises(weights.WeightsError, match="a network of features"):
        weights.load(out, kind="prior")


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("Mixed_6b.branch7x7_2.bn.running_mean"), "lacks Mixed_6b.branch7x7_2.bn.running_mean"),
    (lambda s: [s.pop(name) for name in list(s) if name.startswith("Mixed_7a.branch3x3_1.")], "lacks Mixed_7a_branch"),
    (lambda s: s.update({"Mixed_9.weight": np.zeros(3)}), "unknown Mixed_9.weight"),
    (lambda s: s.update({"Mixed_5b.branch1x1.conv.weight": np.zeros((4, 12, 3, 3))}), "has the shape"),
    (lambda s: s.update({"Mixed_5b.branch1x1.bn.bias": np.zeros(3)}), "another width"),
    (lambda s: s.pop("Conv2d_1a_3x3.conv.weight"), "not an InceptionV3")])
def test_what_is_no_inception_is_refused(state, change, message):
    state = dict(state)
    change(state)
    with pytest.raises(ValueError, match=message):
        convert.inception(state)


def test_it_is_recognised(state):
    assert list(kinds.recognise({f"net.{name}": 0 for name in state})) == ["inception"]


def test_the_clean_input_is_pillows_bicubic_on_floats():
    x = np.random.default_rng(2).integers(0, 256, (1, 40, 700, 3)).astype(np.uint8)
    found = metrics.inception_input(x)
    assert found.shape == (1, 299, 299, 3) and found.dtype == np.float32
    plane = Image.fromarray(x[0, ..., 1].astype(np.float32), mode=None).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[0, ..., 1], np.clip(np.asarray(plane), 0, 255) / 128 - 1, atol=1e-6)
    np.testing.assert_allclose(metrics.inception_input(np.full((1, 20, 20, 1), 64, np.uint8)), -0.5, atol=1e-6)


def test_the_legacy_input_is_bilinear_between_two_pixels():
    """Twice as large: at a quarter and three quarters between neighbours; three times smaller: every third pixel."""
    x = np.random.default_rng(3).integers(0, 256, (1, 897, 299, 3)).astype(np.uint8)
    found = metrics.inception_input(x, resize="legacy")
    np.testing.assert_allclose(found, x[:, 1::3] / 127.5 - 1, atol=1e-6)
    ramp = np.broadcast_to(np.arange(150, dtype=np.uint8)[None, :, None, None], (1, 150, 150, 3))
    places = np.clip((np.arange(299) + 0.5) * 150 / 299 - 0.5, 0, 149)
    shown = metrics.inception_input(ramp, resize="legacy")[0, :, 7, 0]
    np.testing.assert_allclose(shown, places / 127.5 - 1, atol=1e-6)
    for call, message in ((lambda: metrics.inception_input(x, resize="area"), "clean or legacy"),
                          (lambda: metrics.inception_input(x[0]), r"x\[None\]")):
        with pytest.raises(ValueError, match=message):
            call()
