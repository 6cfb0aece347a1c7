"""The converter of INDIGO's invertible network: strict both ways, and the outputs of the released network."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import convert, models
from tests.paths import SHARED, needs_shared

SMALL = dict(channels=2, lifting_steps=2, width=4, cond_dim=3, detail_slicing="overlap", num_blocks=1, cond_width=5)
TORCH = {"predict": "p", "update": "u", "conv_in": "convin", "conv_out": "convout", "dense1": "fc.0", "dense2": "fc.2"}


def torch_state(module):
    """Names and shapes as torch has them, made from ours by the inverse of the converter's rules."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, module.channels), (1, module.cond_dim))]
    state, random = {}, np.random.default_rng(0)
    tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]["lifting"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        step, part, *scope, kind = [key.key for key in path]
        scope = [TORCH.get(name, name.replace("block_", "blocks.")) for name in scope]
        value = random.standard_normal(leaf.shape).astype(np.float32)
        if kind == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        words = ["transform_net.inn.lifts", step.removeprefix("step_"), TORCH[part], "net", *scope]
        state[".".join([*words, "bias" if kind == "bias" else "weight"])] = value
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_layouts_and_arguments(prefix):
    state = {prefix + name: value for name, value in torch_state(models.WaveletINN(**SMALL)).items()}
    assert convert.indigo_inn_arguments(state) == SMALL
    params = convert.indigo_inn(state)["params"]["lifting"]
    scope = prefix + "transform_net.inn.lifts.1.u.net."
    np.testing.assert_array_equal(params["step_1"]["update"]["conv_in"]["kernel"][0, 2],
                                  state[scope + "convin.weight"][:, :, 0, 2].T)
    np.testing.assert_array_equal(params["step_1"]["update"]["block_0"]["dense2"]["kernel"],
                                  state[scope + "blocks.0.fc.2.weight"].T)


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("transform_net.inn.lifts.0.p.net.blocks.0.conv2.bias"), "lacks lifting/step_0/predict/block_0"),
    (lambda s: s.update({"ne_net.weight": np.zeros(3)}), "has unknown ne_net"),
    (lambda s: s.update({"transform_net.inn.lifts.1.u.net.convout.weight": np.zeros((3, 4, 3, 3))}), "has the shape"),
    (lambda s: s.update({"module.transform_net.inn.lifts.0.p.net.convin.weight": np.zeros((4, 2, 3, 3))}), "twice"),
    (lambda s: s.clear(), "not INDIGO's invertible network"),
])
def test_strict(change, words):
    state = torch_state(models.WaveletINN(**SMALL))
    change(state)
    with pytest.raises(ValueError, match=words):
        convert.indigo_inn(state)


@needs_shared
def test_outputs_of_the_released_network():
    with np.load(SHARED / "fixtures" / "indigo_inn_reference.npz") as archive:
        arrays = dict(archive)
    state = {name[2:]: value for name, value in arrays.items() if name.startswith("w.")}
    module, params = models.WaveletINN(**convert.indigo_inn_arguments(state)), convert.indigo_inn(state)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 488_960
    x, y, cond = (jnp.asarray(arrays[name]) for name in ("x", "y", "gamma"))
    coarse, details = jax.jit(lambda *a: module.apply(params, *a, method="forward"))(x, cond)
    inverse = jax.jit(lambda *a: module.apply(params, *a, method="inverse"))
    np.testing.assert_allclose(coarse, arrays["coarse"], atol=1e-5)
    for level in range(2):
        for i in range(3):
            np.testing.assert_allclose(details[level][i], arrays[f"detail.{level}.{i}"], atol=1e-5)
    np.testing.assert_allclose(inverse(y, details, cond), arrays["inverse_swapped"], atol=1e-5)
    np.testing.assert_allclose(inverse(coarse, details, cond), x, atol=1e-5)
    disjoint = jax.jit(lambda *a: module.clone(detail_slicing="disjoint").apply(params, *a)[0])(x, cond)
    assert not np.allclose(disjoint, coarse, atol=1e-3)
