"""The converters of autoencoders: whole, strict, and the converted TAEF2 does what the original is known to do."""
import jax
import numpy as np
import pytest
from PIL import Image

from indigo_jax import convert, metrics, models
from tests import autoencoder_reference as reference
from tests.autoencoder_reference import SMALL_KL, SMALL_TINY, STABLE_DIFFUSION, TAEF2
from tests.paths import SHARED, needs_shared


def empty_state(shapes):
    """A checkpoint of the right names and shapes that takes no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("attention", ["old", "new"])
def test_a_checkpoint_of_stable_diffusion_fits_the_default_network(attention):
    state = empty_state(reference.kl_shapes(STABLE_DIFFUSION, attention))
    assert convert.diffusers_vae_arguments(state) == STABLE_DIFFUSION
    assert {name: getattr(models.AutoencoderKL(), name) for name in STABLE_DIFFUSION} == STABLE_DIFFUSION
    params = convert.diffusers_vae(state)
    assert count(params) == 83_653_863 and len(jax.tree.leaves(params)) == len(state) == 248


def test_a_checkpoint_of_taef2_fits_the_default_network():
    state = empty_state(reference.tiny_shapes(TAEF2))
    assert convert.taef2_arguments(state) == TAEF2
    assert {name: getattr(models.TinyAutoencoder(), name) for name in TAEF2} == TAEF2
    params = convert.taef2(state)
    assert count(params) == 2_677_027 and len(jax.tree.leaves(params)) == len(state) == 158


@pytest.mark.parametrize("changes", [
    {"block_out_channels": (8,)}, {"block_out_channels": (8, 8, 16), "layers_per_block": 3}, {"latent_channels": 16},
    {"out_channels": 1}, {"num_groups": 2},
])
def test_arguments_of_diffusers_are_found_in_names_and_shapes(changes):
    arguments = {**SMALL_KL, **changes}
    state = empty_state(reference.kl_shapes(arguments))
    assert convert.diffusers_vae_arguments(state, num_groups=arguments["num_groups"]) == arguments
    assert len(jax.tree.leaves(convert.diffusers_vae(state, num_groups=arguments["num_groups"]))) == len(state)


def test_taesd_is_read_too():
    """It has 4 latent channels and no pool branches."""
    arguments = {"latent_channels": 4, "channels": 64, "pool_channels": 0}
    state = empty_state(reference.tiny_shapes(arguments))
    assert convert.taef2_arguments(state) == arguments
    assert count(convert.taef2(state)) == 2_445_063


@pytest.mark.parametrize("attention, axes, dtype", [("old", 2, np.float32), ("new", 2, np.float16),
                                                    ("old", 4, np.float32)])
def test_layouts_of_diffusers(attention, axes, dtype):
    state = {name: value.astype(dtype) for name, value in
             reference.random_state(reference.kl_shapes(SMALL_KL, attention)).items()}
    if axes == 4:
        state = {name: value[..., None, None] if value.ndim == 2 else value for name, value in state.items()}
    params = convert.diffusers_vae(state, num_groups=4)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    place = "decoder.mid_block.attentions.0."
    for ours, theirs in zip(("q", "k", "v", "proj_out"), reference.ATTENTION[attention], strict=True):
        np.testing.assert_array_equal(params["decoder"]["mid_attention"][ours]["kernel"][0, 0].T,
                                      state[f"{place}{theirs}.weight"].reshape(12, 12).astype(np.float32))
    for name, ours in (
            ("encoder.down_blocks.0.downsamplers.0.conv.weight", params["encoder"]["down_0_downsample"]["kernel"]),
            ("decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
             params["decoder"]["up_1_block_0"]["shortcut"]["kernel"]),
            ("post_quant_conv.weight", params["post_quant_conv"]["kernel"])):
        np.testing.assert_array_equal(ours.transpose(3, 2, 0, 1), state[name].astype(np.float32))
    np.testing.assert_array_equal(params["decoder"]["norm_out"]["scale"],
                                  state["decoder.conv_norm_out.weight"].astype(np.float32))


QUERY = "encoder.mid_block.attentions.0.query.weight"


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("decoder.mid_block.resnets.1.norm2.bias"), "lacks decoder/mid_block_1/norm2/bias"),
    (lambda s: s.pop("quant_conv.bias"), "lacks quant_conv/bias"),
    (lambda s: s.pop("encoder.down_blocks.1.resnets.0.conv1.weight"), "lacks encoder/down_1_block_0/conv1/kernel"),
    (lambda s: s.update({"encoder.extra.weight": np.zeros((3, 3))}), "has unknown encoder/extra/kernel"),
    (lambda s: s.update({"decoder.conv_out.bias": np.zeros(4)}), "decoder/conv_out/bias has the shape"),
    (lambda s: s.update({QUERY: np.zeros((12, 12))}), r"same parameter twice: .*to_q.weight and .*query.weight"),
    (lambda s: s.clear(), "not an AutoencoderKL of diffusers"),
])
def test_diffusers_vae_is_strict(change, words):
    state = empty_state(reference.kl_shapes(SMALL_KL))
    change(state)
    with pytest.raises(ValueError, match=words):
        convert.diffusers_vae(state, num_groups=4)


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("encoder.11.pool.1.bias"), "lacks encoder/block_3_0/pool_norm/bias"),
    (lambda s: s.pop("decoder.12.weight"), "lacks decoder/up_2/kernel"),
    (lambda s: s.update({"decoder.2.weight": np.zeros(3)}), r"has unknown decoder\.2\.weight"),
    (lambda s: s.update({"encoder.3.conv.1.weight": np.zeros(3)}), r"has unknown encoder\.3\.conv\.1\.weight"),
    (lambda s: s.update({"encoder.2.bias": np.zeros(8)}), "has unknown encoder/down_1/bias"),
    (lambda s: s.update({"extra": np.zeros(8)}), "has unknown extra"),
    (lambda s: s.update({"decoder.19.bias": np.zeros(4)}), "decoder/conv_out/bias has the shape"),
    (lambda s: s.clear(), "not a TAEF2 or TAESD"),
])
def test_taef2_is_strict(change, words):
    state = empty_state(reference.tiny_shapes(SMALL_TINY))
    change(state)
    with pytest.raises(ValueError, match=words):
        convert.taef2(state)


@needs_shared
def test_the_real_taef2_reconstructs_real_pictures():
    """PSNR of whole pictures of 256 x 256, against what their collectors measured with another program."""
    data = SHARED / "data"
    with np.load(data / "weights" / "taef2_fp16.npz", allow_pickle=False) as archive:
        params = convert.taef2(dict(archive))
    module = models.TinyAutoencoder()

    @jax.jit
    def reconstruct(x):
        z = module.apply(params, x, method="encode")
        return z, module.apply(params, z, method="decode")

    for name, known in (("set5/butterfly.png", 28.6), ("faces_stargan256/156498.jpg", 32.6)):
        x = np.asarray(Image.open(data / "eval_open" / name).convert("RGB"))[None]
        z, y = reconstruct((x / 127.5 - 1).astype(np.float32))
        assert abs(metrics.psnr(np.asarray(y), x)[0] - known) < 0.2
        assert abs(float(z.std()) - 0.85) < 0.1
