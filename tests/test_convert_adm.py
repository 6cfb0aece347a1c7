"""The converter of guided-diffusion checkpoints: whole, strict, and able to tell what it was given."""
import jax
import numpy as np
import pytest

from indigo_jax import convert
from tests import adm_reference
from tests.adm_reference import DEFAULT, SMALL

KNOBS = dict(image_size=16, num_head_channels=16)


def empty_state(arguments):
    """A checkpoint of the right names and shapes that takes no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in adm_reference.shapes(arguments).items()}


def test_a_checkpoint_of_the_released_size_fits_the_default_network():
    state = empty_state(DEFAULT)
    assert convert.guided_diffusion_arguments(state) == DEFAULT
    params = convert.guided_diffusion(state)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 552_814_086
    assert len(jax.tree.leaves(params)) == len(state)


@pytest.mark.parametrize("changes", [
    {},
    {"multipliers": (0.5, 1, 1, 2, 2, 4, 4), "image_size": 512},  # ImageNet 512, but for its classes
    {"channels": 128, "num_res_blocks": 1, "attention_resolutions": (16,)},  # the faces of many inverse problems
    {"channels": 192, "multipliers": (1, 2, 3, 4), "num_res_blocks": 3, "image_size": 64},
    {"resblock_updown": False},
    {"use_scale_shift_norm": False, "out_channels": 3},
    {"attention_resolutions": ()},
])
def test_arguments_are_found_in_names_and_shapes(changes):
    arguments = {**DEFAULT, **changes}
    assert convert.guided_diffusion_arguments(empty_state(arguments)) == arguments


@pytest.mark.parametrize("prefix, dtype", [("", np.float32), ("module.", np.float16)])
def test_layouts_of_the_arrays(prefix, dtype):
    state = {prefix + name: value.astype(dtype) for name, value in adm_reference.random_state(SMALL).items()}
    assert convert.guided_diffusion_arguments(state, **KNOBS) == SMALL
    params = convert.guided_diffusion(state, **KNOBS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for theirs, ours in (("input_blocks.0.0.weight", params["input_0_0"]["kernel"].transpose(3, 2, 0, 1)),
                         ("time_embed.2.weight", params["time_embed_2"]["kernel"].T),
                         ("middle_block.1.qkv.weight", params["middle_1"]["qkv"]["kernel"].T[..., None]),
                         ("output_blocks.1.2.out_layers.0.weight", params["output_1_2"]["norm_out"]["scale"]),
                         ("out.2.bias", params["conv_out"]["bias"])):
        np.testing.assert_array_equal(ours, state[prefix + theirs].astype(np.float32))


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("middle_block.2.in_layers.0.bias"), "lacks middle_2/norm_in/bias"),
    (lambda s: s.update({"input_blocks.9.0.in_layers.0.bias": np.zeros(3)}), "has unknown input_9_0/norm_in/bias"),
    (lambda s: s.update({"extra.weight": np.zeros(3)}), r"has unknown extra\.weight"),
    (lambda s: s.update({"input_blocks.1.0.in_layers.5.bias": np.zeros(3)}), r"has unknown input_blocks\.1\.0\.in_la"),
    (lambda s: s.update({"out.2.bias": np.zeros(4)}), "conv_out/bias has the shape"),
    (lambda s: s.update({"middle_block.1.qkv.weight": np.zeros((192, 64, 3))}), "middle_1/qkv/kernel has the shape"),
    (lambda s: s.update({"module.out.2.bias": s["out.2.bias"]}), r"twice: out\.2\.bias and module\.out\.2\.bias"),
    (lambda s: s.update({"label_emb.weight": np.zeros((10, 128))}), "with 10 classes .label_emb.weight.: say which"),
    (lambda s: s.pop("output_blocks.0.0.out_layers.3.weight"), "not a guided-diffusion UNet: no output_blocks.0.0.out"),
    (lambda s: [s.pop(name) for name in list(s) if name.startswith("output_blocks.3")], "3 output_blocks on 2 levels"),
    (lambda s: s.clear(), "not a guided-diffusion UNet: no time_embed.0.weight"),
])
def test_it_is_strict(change, words):
    state = adm_reference.random_state(SMALL)
    change(state)
    with pytest.raises(ValueError, match=words) as error:
        convert.guided_diffusion(state, **KNOBS)
    assert "\n" not in str(error.value)
