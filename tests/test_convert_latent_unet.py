"""The converter of Stable Diffusion's UNets: whole, strict, and able to tell what it was given."""
import jax
import numpy as np
import pytest

from indigo_jax import convert, models
from tests import latent_unet_reference as reference
from tests.latent_unet_reference import SMALL, STABLE_DIFFUSION_1, STABLE_DIFFUSION_2


def empty_state(arguments, linear=False):
    """A checkpoint of the right names and shapes that takes no memory."""
    return {name: np.broadcast_to(np.float32(0), shape)
            for name, shape in reference.shapes(arguments, linear).items()}


@pytest.mark.parametrize("arguments, linear, known", [(STABLE_DIFFUSION_1, False, 859_520_964),
                                                      (STABLE_DIFFUSION_2, True, 865_910_724)])
def test_checkpoints_of_stable_diffusion_fit_the_network(arguments, linear, known):
    """The converter holds them against the shapes of the network itself."""
    state = empty_state(arguments, linear)
    params = convert.diffusers_unet(state, reference.config(arguments, linear))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == known
    assert len(jax.tree.leaves(params)) == len(state) == 686


@pytest.mark.parametrize("linear, dtype", [(False, np.float16), (True, np.float32)])
def test_layouts_of_the_arrays(linear, dtype):
    state = {name: value.astype(dtype) for name, value in
             reference.random_state(reference.shapes(SMALL, linear)).items()}
    params = convert.diffusers_unet(state, reference.config(SMALL, linear))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    down, mid, up = params["down_0_attention_0"], params["mid_attention"]["block"], params["up_1_block_0"]
    for theirs, ours in (
            ("conv_in.weight", params["conv_in"]["kernel"].transpose(3, 2, 0, 1)),
            ("time_embedding.linear_2.weight", params["time_embed_2"]["kernel"].T),
            ("down_blocks.0.attentions.0.norm.weight", down["norm"]["scale"]),
            ("down_blocks.0.attentions.0.proj_in.weight", down["proj_in"]["kernel"].T),
            ("down_blocks.0.downsamplers.0.conv.bias", params["down_0_downsample"]["bias"]),
            ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", mid["self_attention"]["q"]["kernel"].T),
            ("mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight", mid["cross_attention"]["v"]["kernel"].T),
            ("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias",
             mid["cross_attention"]["proj_out"]["bias"]),
            ("mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight", mid["feed_forward_out"]["kernel"].T),
            ("mid_block.attentions.0.transformer_blocks.0.norm3.weight", mid["norm_feed_forward"]["scale"]),
            ("up_blocks.1.resnets.0.conv_shortcut.weight", up["shortcut"]["kernel"].transpose(3, 2, 0, 1)),
            ("up_blocks.1.resnets.0.time_emb_proj.weight", up["time"]["kernel"].T),
            ("conv_norm_out.bias", params["norm_out"]["bias"])):
        np.testing.assert_array_equal(ours.reshape(state[theirs].shape), state[theirs].astype(np.float32))


@pytest.mark.parametrize("changes", [
    {"block_out_channels": (8,), "has_attention": (False,), "num_heads": (1,)},
    {"has_attention": (False, True)},
    {"transformer_depth": (1, 3)},
    {"layers_per_block": 3, "context_dim": 5, "in_channels": 9, "out_channels": 8, "num_groups": 2},
])
def test_arguments_are_found_in_the_config(changes):
    arguments = {**SMALL, **changes}
    assert convert.diffusers_unet_arguments(reference.config(arguments)) == arguments


def test_what_a_config_leaves_out_is_as_in_diffusers():
    assert convert.diffusers_unet_arguments({}) == {**STABLE_DIFFUSION_1, "context_dim": 1280}
    given = {"attention_head_dim": 8, "num_attention_heads": [5, 10, 20, 20], "cross_attention_dim": 1024}
    arguments = convert.diffusers_unet_arguments(given)
    assert arguments == STABLE_DIFFUSION_2
    assert models.LatentUNet(**arguments).num_heads == (5, 10, 20, 20)


@pytest.mark.parametrize("changes, words", [
    ({"_class_name": "UNet2DModel"}, "with _class_name = 'UNet2DModel'"),
    ({"addition_embed_type": "text_time"}, "with addition_embed_type = 'text_time' .*, only one with None"),
    ({"transformer_layers_per_block": [1, 2, 3]}, "transformer_depth should be 2 numbers above 0"),
    ({"transformer_layers_per_block": [[1], [2]]}, "transformer_depth should be 2 numbers above 0"),
    ({"flip_sin_to_cos": False}, "with flip_sin_to_cos = False .*, only one with True"),
    ({"mid_block_type": None}, "with mid_block_type = None"),
    ({"only_cross_attention": True}, "with only_cross_attention = True"),
    ({"num_class_embeds": 1000}, "with num_class_embeds = 1000"),
    ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "the blocks AttnDownBlock2D, DownBlock2D and UpBlock2D"),
    ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}, "and CrossAttnUpBlock2D, UpBlock2D are not"),
    ({"block_out_channels": [8]}, r"block_out_channels should be 2 numbers above 0, the config says \[8\]"),
    ({"attention_head_dim": [2, 3, 4]}, "num_heads should be 2 numbers above 0"),
    ({"attention_head_dim": None}, r"num_heads should be 2 numbers above 0, the config says \[None, None\]"),
    ({"cross_attention_dim": None}, "context_dim should be a number above 0, the config says None"),
    ({"norm_num_groups": None}, "num_groups should be a number above 0"),
    ({"layers_per_block": [1, 2]}, "layers_per_block should be a number above 0"),
])
def test_configs_of_other_networks_are_refused(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        convert.diffusers_unet_arguments({**reference.config(SMALL), **changes})
    assert "\n" not in str(error.value)


MID = "mid_block.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("mid_block.resnets.1.norm2.bias"), "lacks mid_block_1/norm2/bias"),
    (lambda s: s.pop(f"{MID}.attn2.to_k.weight"), "lacks mid_attention/block/cross_attention/k/kernel"),
    (lambda s: s.update({f"{MID}.attn1.to_q.bias": np.zeros(12)}), "unknown mid_attention/block/self_attention/q/bias"),
    (lambda s: s.update({f"{MID.replace('blocks.0', 'blocks.1')}.norm1.bias": np.zeros(12)}),
     "has unknown mid_attention.*norm"),
    (lambda s: s.update({"extra.weight": np.zeros((3, 3))}), "has unknown extra/kernel"),
    (lambda s: s.update({"down_blocks.1.attentions.0.norm.bias": np.zeros(12)}), "unknown down_1_attention_0/norm/bi"),
    (lambda s: s.update({f"{MID}.attn2.to_v.weight": np.zeros((12, 7))}), "cross_attention/v/kernel has the shape"),
    (lambda s: s.update({"mid_block.attentions.0.proj_in.weight": np.zeros((12, 12, 3, 3))}), "proj_in/kernel has the"),
    (lambda s: s.update({"conv_out.bias": np.zeros(5)}), "conv_out/bias has the shape"),
    (lambda s: s.update({"norm_out.bias": np.zeros(8)}), "same parameter twice: conv_norm_out.bias and norm_out.bias"),
    (lambda s: s.clear(), "not a UNet of diffusers: no conv_in.weight among its 0 names"),
])
def test_it_is_strict(change, words):
    state = empty_state(SMALL)
    change(state)
    with pytest.raises(ValueError, match=words) as error:
        convert.diffusers_unet(state, reference.config(SMALL))
    assert "\n" not in str(error.value)
