"""The convolution switch: gradients against a plain sum in float64, and the programs of other devices."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax.models import convolutions, layers

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def arrays(x_shape, kernel_shape):
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal(x_shape, np.float32), random.standard_normal(kernel_shape, np.float32)
    return x, kernel, random.standard_normal((*x_shape[:3], kernel_shape[3]), np.float32)


def kernel_gradient(x, cotangent, size):
    """``sum_p x[p + q - middle] cotangent[p]`` for each place q, in float64."""
    rows, columns = (side // 2 for side in size)
    padded = np.pad(x.astype(np.float64), ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    height, width = x.shape[1:3]
    return np.array([[np.einsum("bhwi,bhwo->io", padded[:, i:i + height, j:j + width], cotangent.astype(np.float64))
                      for j in range(size[1])] for i in range(size[0])])


@pytest.mark.parametrize("x_shape, kernel_shape", [
    ((2, 7, 6, 4), (3, 3, 4, 6)), ((1, 6, 9, 6), (3, 3, 6, 2)), ((3, 4, 5, 3), (5, 1, 3, 3)),
    ((1, 1, 1, 2), (3, 3, 2, 1))])
@pytest.mark.parametrize("cache", (0, 2000, 10**9))  # strips of one row, of some, and the whole picture
@pytest.mark.parametrize("way", convolutions.WAYS)
def test_every_way_to_the_gradient_of_a_kernel(way, cache, x_shape, kernel_shape, monkeypatch):
    monkeypatch.setattr(convolutions, "_CACHE", cache)
    x, _, cotangent = arrays(x_shape, kernel_shape)
    found = convolutions.WAYS[way](x, cotangent, kernel_shape[:2])
    np.testing.assert_allclose(found, kernel_gradient(x, cotangent, kernel_shape[:2]), rtol=1e-5, atol=1e-5)


def gradients(convolve, dtype=jnp.float32, strides=(1, 1), dilation=None):
    """Of the input and the kernel, for a loss that is not linear; and of the norm of the first (twice reverse)."""
    def loss(x, kernel):
        out = convolve(x.astype(dtype), kernel.astype(dtype), strides, "SAME", rhs_dilation=dilation, **OPTIONS)
        return jnp.sum(jnp.sin(out.astype(jnp.float32)))

    def penalty(x, kernel):
        return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

    first = jax.grad(loss, argnums=(0, 1))
    return lambda *inputs: (first(*inputs), jax.grad(penalty, argnums=(0, 1))(*inputs))


@pytest.mark.parametrize("way", ("own", *convolutions.WAYS))
def test_gradients_are_the_plain_ones_also_twice_and_for_each_example(way, monkeypatch):
    monkeypatch.setattr(convolutions, "best_way", lambda *shapes: way)
    monkeypatch.setattr(convolutions, "_CACHE", 2 * 2 * 6 * 10 * 4)  # two of seven rows do not divide: one
    x, kernel, _ = arrays((2, 7, 6, 4), (3, 3, 4, 6))
    many = x[:, None], np.stack([kernel, 2 * kernel])  # a kernel for each example
    plain, ours = (gradients(layers.CONVOLUTIONS[name]) for name in ("plain", "flipped"))
    wanted, found = (jax.jit(lambda of=of: (of(x, kernel), jax.vmap(of)(*many)))() for of in (plain, ours))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), found, wanted)


def test_bfloat16_sums_in_float32():
    x, kernel, cotangent = arrays((2, 16, 16, 40), (3, 3, 40, 40))
    half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(cotangent, jnp.bfloat16)
    exact = kernel_gradient(*(np.asarray(a, np.float32) for a in half), (3, 3))
    for way in convolutions.WAYS.values():
        found = way(*half, (3, 3))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


def test_a_batch_split_over_devices():
    x, kernel, _ = arrays((8, 8, 4, 4), (3, 3, 4, 6))
    mesh = jax.sharding.Mesh(jax.devices(), "data")
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    wanted, found = (jax.jit(lambda x, k, of=gradients(layers.CONVOLUTIONS[name]): of(x, k)[0])(pixels, kernel)
                     for name, pixels in (("plain", x), ("flipped", split)))
    assert convolutions.best_way(x.shape, kernel.shape) != "own"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize("platform", ("cpu", "tpu", "cuda"))
def test_other_devices_keep_the_compilers_gradients(platform):
    x, kernel, _ = arrays((1, 16, 16, 64), (3, 3, 64, 64))

    def text(name):
        def grads(x, kernel):
            return gradients(layers.CONVOLUTIONS[name])(x, kernel)[0]
        return jax.jit(grads).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()

    products = {name: [text(name).count(f"stablehlo.{kind}") for kind in ("convolution", "dot_general", "reverse",
                                                                          "optimization_barrier")]
                for name in ("plain", "flipped")}
    plain = products["plain"]
    assert plain[1] == plain[3] == 0 and plain[0] >= 2  # the result itself is not used
    assert products["flipped"] == ([plain[0] - 1, 9, 1, 9] if platform == "cpu" else plain)


def test_the_rule():
    """One pixel or one place is left to the compiler; few channels are one product, many are nine."""
    assert convolutions.best_way((8, 64, 64, 3), (3, 3, 3, 64)) == "patches"
    assert convolutions.best_way((8, 32, 32, 64), (3, 3, 64, 64)) == "dots"
    assert convolutions.best_way((8, 32, 32, 64), (1, 1, 64, 64)) == "own"
    assert convolutions.best_way((1, 1, 1, 64), (3, 3, 64, 64)) == "own"
