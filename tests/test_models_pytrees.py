"""Networks of flax.nnx and of pytrees (as equinox's) called as linen modules, trained, saved, loaded, restored with."""
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from indigo_jax import models, weights
from indigo_jax.cli import main
from indigo_jax.weights import registry
from tests import tiny_training
from train import indi


class Nnx(nnx.Module):
    """A stranger's restorer in flax.nnx."""

    def __init__(self, width: int = 4, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)
        self.last = nnx.Conv(width, 3, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, x, t):
        return x + t[:, None, None, None] * self.dropout(self.last(nnx.relu(self.norm(self.first(x)))))


@jax.tree_util.register_pytree_with_keys_class
class Pytree:
    """The same as equinox does it: made anew without its constructor, a function and a list in it."""

    reach = 4

    def __init__(self, width: int = 4, *, key: Any):
        keys = jax.random.split(key)
        shapes = ((3, 3, 3, width), (3, 3, width, 3))
        self.kernels = [jax.random.normal(k, shape) / math.sqrt(9 * shape[2]) for k, shape in zip(keys, shapes)]
        self.activation = jax.nn.relu

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("kernels"), self.kernels)], self.activation

    @classmethod
    def tree_unflatten(cls, activation, children):
        new = object.__new__(cls)
        (new.kernels,), new.activation = children, activation
        return new

    def __call__(self, x, t):
        def conv(x, kernel):
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        return x + t[:, None, None, None] * conv(self.activation(conv(x, self.kernels[0])), self.kernels[1])


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.mark.parametrize("network, names", [
    (Nnx, {"first": {"kernel", "bias"}, "last": {"kernel", "bias"}, "norm": {"scale", "bias", "mean", "var"}}),
    (Pytree, {"kernels": {"0", "1"}})])
def test_it_computes_what_the_network_does(network, names):
    module = models.adapted(network)(width=6)
    assert type(module).__name__ == network.__name__ and module == models.adapted(network)(width=6).clone()
    params = module.init(jax.random.key(3))
    assert {name: set(branch) for name, branch in params["params"].items()} == names
    x, t = jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jnp.asarray([0.5, 1.0])
    own = network(6, rngs=nnx.Rngs(jax.random.key(3))) if network is Nnx else network(6, key=jax.random.key(3))
    np.testing.assert_allclose(jax.jit(module.apply)(params, x, t), own(x, t), atol=1e-5)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    assert not np.allclose(module.apply(other, x, t), own(x, t), atol=0.1)
    grads = jax.grad(lambda p: jnp.sum(module.apply(p, x, t)**2))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert getattr(module, "reach", None) == getattr(network, "reach", None) and not hasattr(module, "image_size")


def test_equinox():
    """Whose modules have functions among their leaves."""
    eqx = pytest.importorskip("equinox")

    class Eqx(eqx.Module):
        mlp: eqx.nn.MLP

        def __init__(self, width: int, *, key):
            self.mlp = eqx.nn.MLP(4, 3, width, 1, key=key)

        def __call__(self, x, t):
            t = jax.numpy.broadcast_to(t[:, None, None, None], (*x.shape[:3], 1))
            return jax.vmap(jax.vmap(jax.vmap(self.mlp)))(jax.numpy.concatenate([x, t], axis=-1))

    module, key = models.adapted(Eqx)(width=6), jax.random.key(3)
    x, t = jax.random.normal(key, (2, 4, 4, 3)), jax.numpy.ones(2)
    params = module.init(key)
    assert set(params["params"]["mlp"]["layers"]["0"]) == {"weight", "bias"}
    np.testing.assert_allclose(jax.jit(module.apply)(params, x, t), Eqx(6, key=key)(x, t), atol=1e-6)


def test_what_is_one_already_and_what_cannot_be_one():
    assert models.adapted(models.DRUNet) is models.DRUNet
    assert models.adapted(models.adapted(Pytree)).network is Pytree

    def make(*widths, key):
        return Pytree(widths[0], key=key)

    with pytest.raises(TypeError, match=r"make: its constructor takes \*widths, which no file can tell"):
        models.adapted(make)


@pytest.mark.parametrize("network", [Nnx, Pytree])
def test_from_training_to_a_picture_by_the_commands(tmp_path, monkeypatch, network):
    """``train.indi``, ``indigo weights convert``, ``indigo restore``, with nothing but the environment variable."""
    pictures = tiny_training.write_pictures(tmp_path / "pictures")
    module = models.adapted(network)(width=5)
    indi.train(tiny_training.tiny(pictures, tmp_path / "run", num_steps=2, checkpoint_every=2, model=module))
    monkeypatch.setenv(registry.VARIABLE, f"{__name__}:{network.__name__}")
    out = tmp_path / "mine.safetensors"
    assert main(["weights", "convert", str(tmp_path / "run"), "-o", str(out), "--dtype", "float32"]) == 0
    loaded, params, info = weights.load(out, kind="restorer")
    assert loaded == module and info["arguments"]["width"] == 5
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--method", "indi", "--task",
                 "denoise", "--weights", str(out)]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (16, 16)
    weights.save(tmp_path / "again.safetensors", params, info)
    with pytest.raises(weights.WeightsError, match="has the shape"):
        weights.save(tmp_path / "again.safetensors", params, {**info, "arguments": {"width": 6}})
