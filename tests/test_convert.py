"""Converters: strict both ways, and the converted networks do what the originals are known to do."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from indigo_jax import convert, models, schedules
from tests.paths import SHARED, needs_shared


def shapes(module, size):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
                          jax.ShapeDtypeStruct((1,), jnp.float32))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def torch_state(module, size):
    """Names and shapes as the torch port has them, made from ours by the inverse of the converter's rules."""
    state, random = {}, np.random.default_rng(0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(module, size)["params"]):
        *scope, kind = [key.key for key in path]
        words = scope[0].split("_")
        if words[0] in ("down", "up") and len(words) == 4:
            scope[0] = ".".join(words)
        elif words[0] in ("down", "up"):
            scope[0] = f"{words[0]}.{words[1]}.{words[2]}.conv"
        elif words[0] == "mid":
            scope[0] = f"mid.{words[1]}_{words[2]}"
        elif words[0] == "temb":
            scope[0] = f"temb.dense.{words[2]}"
        value = random.standard_normal(leaf.shape).astype(np.float32)
        if kind == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[".".join([*scope, "bias" if kind == "bias" else "weight"])] = value
    return state


SMALL = dict(channels=32, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(16,), image_size=32)


def test_the_default_network_is_that_of_celeba_hq():
    tree = shapes(models.DDPMUNet(), 256)
    assert count(tree) == 113_673_219 and len(jax.tree.leaves(tree)) == 450


@pytest.mark.parametrize("prefix", ["", "module."])
def test_ddpm_unet_and_its_arguments(prefix):
    state = {prefix + name: value for name, value in torch_state(models.DDPMUNet(**SMALL), 32).items()}
    assert convert.ddpm_unet_arguments(state) == {**SMALL, "out_channels": 3}
    params = convert.ddpm_unet(state)["params"]
    np.testing.assert_array_equal(params["up_0_block_1"]["conv1"]["kernel"][0, 2],
                                  state[prefix + "up.0.block.1.conv1.weight"][:, :, 0, 2].T)
    np.testing.assert_array_equal(params["down_1_attn_0"]["norm"]["scale"], state[prefix + "down.1.attn.0.norm.weight"])


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("mid.block_2.norm1.bias"), "lacks mid_block_2/norm1/bias"),
    (lambda s: s.update({"mid.extra.weight": np.zeros((3, 3))}), "has unknown mid/extra/kernel"),
    (lambda s: s.update({"conv_out.bias": np.zeros(4)}), "conv_out/bias has the shape"),
    (lambda s: s.clear(), "not a DDPM UNet"),
])
def test_ddpm_unet_is_strict(change, words):
    state = torch_state(models.DDPMUNet(**SMALL), 32)
    change(state)
    with pytest.raises(ValueError, match=words):
        convert.ddpm_unet(state)


def test_networks_refuse_sides_that_their_levels_do_not_divide():
    for module, multiple in ((models.DDPMUNet(**SMALL), 2), (models.KerasUNet(), 8)):
        with pytest.raises(ValueError, match=f"divisible by {multiple}"):
            shapes(module, 2 * multiple + 1)


def keras_arrays(module):
    """Arrays with the shapes that the converter wants, found by asking for one after the other."""
    arrays = {}
    tree = shapes(module, 8)["params"]
    counts = {}
    for kind, path in convert.keras_ddpm_layers(module):
        branch = tree
        for name in path.split("/"):
            branch = branch[name]
        theirs = {"scale": "gamma", "bias": "beta"} if kind == "group_normalization" else {}
        for leaf, value in branch.items():
            arrays[f"{kind}/{counts.get(kind, 0):03d}/{theirs.get(leaf, leaf)}"] = np.ones(value.shape, np.float32)
        counts[kind] = counts.get(kind, 0) + 1
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda **o: models.DDPMUNet(**SMALL, **o), lambda **o: models.KerasUNet(
    widths=(8, 16), has_attention=(False, True), num_res_blocks=1, first_channels=8, **o)], ids=["ddpm", "keras"])
def test_bfloat16_is_close_to_float32(make):
    x, t = jax.random.normal(jax.random.key(0), (1, 16, 16, 3)), jnp.full((1,), 7.0)
    params = make().init(jax.random.key(1), x, t)
    full, half = (jax.jit(make(dtype=dtype).apply)(params, x, t) for dtype in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert 0 < float(jnp.abs(full - half).max()) < 0.1 * float(jnp.abs(full).max())


TINY = models.KerasUNet(widths=(8, 16), has_attention=(False, True), num_res_blocks=1, first_channels=8)


def test_keras_ddpm_is_strict():
    arrays = keras_arrays(TINY)
    assert count(convert.keras_ddpm(arrays, TINY)) == count(shapes(TINY, 8)) == sum(a.size for a in arrays.values())
    with pytest.raises(ValueError, match="lacks dense/000/bias"):
        convert.keras_ddpm({k: v for k, v in arrays.items() if k != "dense/000/bias"}, TINY)
    with pytest.raises(ValueError, match="no place for: dense/099/bias"):
        convert.keras_ddpm({**arrays, "dense/099/bias": np.zeros(1)}, TINY)
    last = max(name for name in arrays if name.startswith("conv2d") and name.endswith("bias"))
    with pytest.raises(ValueError, match="conv_out/bias has the shape"):
        convert.keras_ddpm({**arrays, last: np.zeros(5)}, TINY)


def test_quantised_archives(tmp_path):
    np.savez(tmp_path / "good.npz", **{"a/b.q": np.array([0, 255], np.uint8), "a/b.scale_min": np.array([0.5, -1.0])})
    assert convert.load_quantised(tmp_path / "good.npz")["a/b"].tolist() == [-1.0, 126.5]
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}: not an archive of quantised weights"):
            convert.load_quantised(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        convert.load_quantised(tmp_path / "absent.npz")


@needs_shared
def test_a_real_prior_predicts_the_noise_of_real_pictures():
    """Mean squared error of eps at three levels, against what its collectors measured with another program."""
    params = convert.keras_ddpm(convert.load_quantised(SHARED / "data" / "weights" / "anime64_ddpm_uint8.npz"))
    assert count(params) == 63_200_387
    schedule = schedules.cosine(300, max_beta=0.9999, min_beta=1e-4)
    paths = sorted((SHARED / "data" / "eval_open" / "anime64").glob("*.png"))[:4]
    x = jnp.asarray(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / 127.5 - 1, jnp.float32)
    apply = jax.jit(models.KerasUNet().apply)
    for t, known in ((50, 0.084), (150, 0.029), (290, 0.0005)):
        a, noise = schedule.alpha_bar[t], jax.random.normal(jax.random.key(t), x.shape)
        eps = apply(params, jnp.sqrt(a) * x + jnp.sqrt(1 - a) * noise, jnp.full(len(x), float(t)))
        assert abs(float(jnp.mean((eps - noise)**2)) / known - 1) < 0.2
