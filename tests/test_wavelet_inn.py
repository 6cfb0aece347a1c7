"""The invertible network: round trips, determinant, gradients by inversion and their memory, options that protect."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import wavelets, weights
from indigo_jax.models import DegradationEncoder, WaveletINN, check_inverse, lifting

TINY = dict(channels=2, levels=1, lifting_steps=2, width=4, cond_dim=3, cond_width=4, num_blocks=1)


def make(shape=(2, 8, 8, 2), seed=0, **options):
    """A tiny network, its parameters, pictures in [0, 1] and conditions."""
    module = WaveletINN(**{**TINY, **options})
    x = jax.random.uniform(jax.random.key(seed + 1), shape)
    cond = jax.random.normal(jax.random.key(seed + 2), (shape[0], module.cond_dim))
    return module, jax.jit(module.init)(jax.random.key(seed), x, cond), x, cond


@functools.partial(jax.jit, static_argnums=0)
def forward(module, params, x, cond):
    return module.apply(params, x, cond, method="forward")


@functools.partial(jax.jit, static_argnums=0)
def inverse(module, params, coarse, details, cond):
    return module.apply(params, coarse, details, cond, method="inverse")


def count(module, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), *inputs)))


@pytest.mark.parametrize("options, total", [({}, 488_960), ({"channels": 4, "offset": 0.0}, 498_176),
                                            ({"null_embedding": True}, 488_960 + 128)])
def test_parameter_counts(options, total):
    module = WaveletINN(**options)
    assert count(module, (1, 8, 8, module.channels), (1, 128)) == total


# ----------------------------------------------------------------------------------------------------------- inverse

@pytest.mark.parametrize("levels, sizes", [
    (2, ((15, 32),)), pytest.param(1, ((1, 1), (8, 8), (9, 15)), marks=pytest.mark.slow),
    pytest.param(2, ((257, 17),), marks=pytest.mark.slow), pytest.param(3, ((33, 40),), marks=pytest.mark.slow)])
def test_round_trip_at_any_size(levels, sizes):
    module, params, *_ = make(channels=3, levels=levels, shape=(1, 8, 8, 3))
    larger = jax.tree.map(lambda leaf: 1.5 * leaf, params)
    for tree in (params, larger):
        assert max(row.error for row in check_inverse(module, tree, sizes=sizes)) < 1e-5


def network_by_numpy(params, x, cond, rule):
    """A second implementation of ``lifting.network``."""
    def conv(layer, h):
        height, width = h.shape[1:3]
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        total = sum(padded[:, i:i + height, j:j + width] @ layer["kernel"][i, j] for i in range(3) for j in range(3))
        return total + layer.get("bias", np.float32(0))

    def dense(layer, h):
        return h @ layer["kernel"] + layer["bias"]

    del rule
    h = conv(params["conv_in"], x)
    for i in range(len(params) - 2):
        block = params[f"block_{i}"]
        scale = dense(block["dense2"], np.maximum(dense(block["dense1"], cond), 0))
        h = h + conv(block["conv2"], np.maximum(conv(block["conv1"], h), 0)) * scale[:, None, None]
    return conv(params["conv_out"], h)


@pytest.fixture
def in_numpy(monkeypatch):
    """The network's own code on arrays of numpy, which need no compiling for each size."""
    for module in (wavelets, lifting):
        monkeypatch.setattr(module, "jnp", np)
    monkeypatch.setattr(lifting, "network", network_by_numpy)
    monkeypatch.setattr(lifting, "_on_grid", lambda x, bits: x)


def random_network(slicing):
    """A narrow network with weights about as torch draws them."""
    module = WaveletINN(**{**TINY, "channels": 3, "lifting_steps": 4, "num_blocks": 2, "detail_slicing": slicing})
    random = np.random.default_rng(1)

    def draw(leaf):  # of a bias alone the fan-in is not known here
        return np.float32(random.uniform(-1, 1, leaf.shape) / max(leaf.size / leaf.shape[-1], 9)**0.5)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 3)))
    return module, jax.tree.map(draw, shapes)


def trained_network(name):
    """The network of shipped weights, without its encoder."""
    module, params, _ = weights.load(name)
    names = set(WaveletINN.__dataclass_fields__) & set(type(module).__dataclass_fields__) - {"parent", "name", "start"}
    options = {name: getattr(module, name) for name in names}
    options["spectral_bound"] = options["spectral_bound"] or None
    params = {"params": params["params"]["inn"]}
    return WaveletINN(null_embedding=True, **options), jax.tree.map(np.asarray, params)


def round_trips(request, sizes, module, params):
    """The worst errors ``{(side, levels): error}``, of values as they occur: pictures in [0, 1], normal latents."""
    random, errors = np.random.default_rng(0), {}
    shape = (1, max(sizes), max(sizes), module.channels)
    x = random.uniform(size=shape) if module.offset else random.normal(size=shape)
    x, cond = np.float32(x), np.float32(random.normal(size=(1, module.cond_dim)))
    request.getfixturevalue("in_numpy")
    for levels in (1, 2, 3):
        inn = module.clone(levels=levels).bind(params)
        for side in sizes:
            picture = x[:, :side, :side]
            coarse, details = inn.forward(picture, cond)
            back = inn.inverse(coarse, details, cond)
            assert isinstance(back, np.ndarray) and back.dtype == np.float32 and back.shape == picture.shape
            assert len(details) == min(levels, next(i for i in range(9) if -(-side // 2**i) < 8))
            errors[side, levels] = float(np.abs(back - picture).max())
    return errors


def test_round_trip_at_some_sizes(request):
    errors = round_trips(request, (8, 9, 15, 30, 33, 66), *random_network("disjoint"))
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


@pytest.mark.parametrize("name", ["inn-pixel", "inn-latent"])
def test_round_trip_of_shipped_weights(name, request):
    errors = round_trips(request, (8, 15, 33), *trained_network(name))
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


@pytest.mark.slow
@pytest.mark.parametrize("slicing, every", [("disjoint", 1), ("overlap", 9)])
def test_round_trip_at_every_size_and_number_of_levels(slicing, every, request):
    """Sides 8 to 257, levels 1 to 3, with the steps and blocks of the published network but narrower."""
    errors = round_trips(request, range(8, 258, every), *random_network(slicing))
    assert len(errors) == 3 * -(-250 // every)
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inn-pixel", "inn-latent"])
def test_round_trip_of_shipped_weights_at_every_size(name, request):
    """Sides 8 to 257, levels 1 to 3."""
    errors = round_trips(request, range(8, 258), *trained_network(name))
    assert len(errors) == 3 * 250
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


def test_on_numpy_it_is_the_same_network(request):
    module, params, x, cond = make((1, 19, 16, 2), levels=2, num_blocks=2)
    wanted = forward(module, params, x, cond)
    request.getfixturevalue("in_numpy")
    found = module.apply(*jax.tree.map(np.asarray, (params, x, cond)), method="forward")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_round_trip_of_the_whole_network(levels):
    """In a loop, which compiles faster."""
    module = WaveletINN(levels=levels, reversible=True)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 128)))
    check_inverse(module, params, sizes=[(size, 8 + (37 * size) % 250) for size in range(7 + levels, 258, 31)])


def fast(*options, slow=()):
    """Cases of which some are slow."""
    return [*options, *(pytest.param(case, marks=pytest.mark.slow) for case in slow)]


@pytest.mark.parametrize("options", fast(
    {"split": "9/7", "levels": 2}, {"undecimated": True, "split": "haar", "levels": 2}, {"detail_slicing": "overlap"},
    slow=({"split": "haar"}, {"split": "5/3"}, {"undecimated": True, "levels": 2}, {"spectral_bound": 0.5},
          {"exact_bits": 18}, {"reversible": True})), ids=str)
def test_round_trip_of_the_variants(options):
    module, params, x, cond = make(shape=(1, 17, 18, 2), **options)
    coarse, details = forward(module, params, x, cond)
    np.testing.assert_allclose(inverse(module, params, coarse, details, cond), x, atol=1e-5)
    same = "undecimated" in options
    assert coarse.shape[1:3] == ((17, 18) if same else tuple(-(-side // 2**module.levels) for side in (17, 18)))
    assert len(details) == module.levels and all(len(level) == 3 for level in details)
    assert details[0][2].shape[1] <= details[-1][2].shape[1]


def test_details_along_channels_are_taken_too():
    module, params, x, cond = make()
    coarse, details = forward(module, params, x, cond)
    joined = [jnp.concatenate(level, -1) for level in details]
    np.testing.assert_allclose(inverse(module, params, coarse, joined, cond), x, atol=1e-6)


def test_levels_stop_before_small_sides():
    module, params, x, cond = make(levels=3, shape=(1, 16, 7, 2))
    coarse, details = forward(module, params, x, cond)
    np.testing.assert_allclose(coarse, x, atol=1e-7)
    assert not details
    assert len(jax.eval_shape(module.apply, params, jnp.zeros((1, 17, 16, 2)), cond)[1]) == 2  # 17x16, 9x8, 5x4


def test_an_identity_start_is_the_split_alone():
    module, params, x, cond = make(start="identity")
    coarse, [[d1, _, d3]] = forward(module, params, x, cond)
    np.testing.assert_allclose(coarse, x[:, ::2, ::2], atol=1e-7)
    np.testing.assert_allclose(d1, x[:, 1::2, ::2] - 0.5, atol=1e-7)
    np.testing.assert_allclose(d3, x[:, 1::2, 1::2] - 0.5, atol=1e-7)


def test_the_coarse_picture_depends_on_the_condition():
    module, params, x, cond = make()
    one, other = (forward(module, params, x, c)[0] for c in (cond, cond + 1))
    assert float(jnp.abs(one - other).max()) > 1e-3


@pytest.mark.parametrize("slicing", ["disjoint", pytest.param("overlap", marks=pytest.mark.slow)])
def test_log_determinant_is_zero(slicing):
    module, params, x, cond = make(shape=(1, 8, 8, 1), channels=1, detail_slicing=slicing)

    def flat(v):
        parts = module.apply(params, v.reshape(1, 8, 8, 1), cond, method="forward")
        return jnp.concatenate([part.ravel() for part in jax.tree.leaves(parts)])

    jacobian = np.asarray(jax.jit(jax.jacobian(flat))(x.ravel()), np.float64)
    assert np.abs(np.abs(jacobian).sum(0) - 1).max() > 0.01  # more than the split
    assert abs(np.linalg.slogdet(jacobian)[1]) < 1e-5


# --------------------------------------------------------------------------------------------- gradients and memory

def loss(module, params, x, y, cond):
    """Through both directions, as INDIGO's guidance: the inverse with another coarse picture, and that picture."""
    coarse, details = module.apply(params, x, cond, method="forward")
    back = module.apply(params, y, details, cond, method="inverse")
    return jnp.sum((back - x) ** 3) + jnp.sum((coarse - y) ** 2) + sum(jnp.sum(d**3) for d in details[0])


@pytest.mark.parametrize("options", fast(
    {"reversible": True},
    slow=({"remat": True}, {"reversible": True, "exact_bits": 18, "convolution": "flipped"})), ids=str)
def test_gradients_by_inversion_equal_the_plain_ones(options):
    module, params, x, cond = make(shape=(2, 9, 8, 2), detail_slicing="overlap")
    y = jax.random.uniform(jax.random.key(5), (2, 5, 4, 2))

    def gradients(module):
        grad = jax.jit(jax.grad(functools.partial(loss, module), argnums=(0, 1, 2, 3)))
        return jax.tree.map(np.asarray, grad(params, x, y, cond))

    wanted = gradients(module)
    for ours, theirs in zip(jax.tree.leaves(gradients(module.clone(**options))), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1.0, np.abs(theirs).max()))
    assert all(np.abs(g).max() > 1e-3 for g in wanted[1:])


def test_memory_of_gradients_by_inversion_does_not_grow_with_steps():
    def temporary(steps, reversible):
        module = WaveletINN(**{**TINY, "lifting_steps": steps, "reversible": reversible})
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 128, 128, 2), (1, 3))]
        params = jax.eval_shape(module.init, jax.random.key(0), *shapes)
        y = jax.ShapeDtypeStruct((1, 64, 64, 2), jnp.float32)
        grad = jax.jit(jax.grad(functools.partial(loss, module), argnums=1))
        return grad.lower(params, shapes[0], y, shapes[1]).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8, True) < 1.1 * temporary(2, True)
    assert temporary(4, False) > 1.3 * temporary(2, False)


def test_jit_vmap_and_a_picture_alone():
    module, params, x, cond = make(shape=(3, 8, 9, 2))
    together = forward(module, params, x, cond)
    alone = jax.vmap(lambda a, b: forward(module, params, a[None], b[None]))(x, cond)
    for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(together)):
        np.testing.assert_allclose(ours[:, 0], theirs, atol=1e-6)
    first = forward(module, params, x[:1], cond[:1])[0]
    np.testing.assert_allclose(first, together[0][:1], atol=1e-6)


# -------------------------------------------------------------------------------------------- types that break it

@pytest.mark.parametrize("options, words", [
    ({"dtype": jnp.bfloat16}, "not invertible in bfloat16 at highest"), ({"dtype": "float16"}, "in float16"),
    ({"precision": "default"}, "in float32 at default"), ({"precision": "low"}, "precision must be one of"),
    ({"detail_slicing": "both"}, "detail_slicing must be"), ({"split": "db4"}, "split must be"),
    ({"start": "zero"}, "start must be")])
def test_options_that_break_the_inverse_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


@pytest.mark.slow
def test_check_inverse_measures_what_bfloat16_breaks():
    """On small pictures both programs may round alike, and nothing is seen."""
    module, params, *_ = make(lifting_steps=4)
    rows = check_inverse(module, params, sizes=(64,), dtypes=("float32", "bfloat16"), tolerance=None)
    assert [row[:2] for row in rows] == [("float32", (64, 64)), ("bfloat16", (64, 64))]
    assert rows[0].error < 1e-5 < rows[1].error
    with pytest.raises(ValueError, match="not invertible in bfloat16 at 64x64: the round trip is off by"):
        check_inverse(module, params, sizes=(64,), dtypes=("bfloat16",))
    exact = check_inverse(module.clone(exact_bits=16), params, sizes=(64,), dtypes=("bfloat16",))
    assert exact[0].error <= 2.0**-17 + 1e-7


def test_check_inverse_fails_loudly():
    module, params, *_ = make()
    assert check_inverse(module, params, sizes=(8,))[0].error < 1e-6
    with pytest.raises(ValueError, match="off by nan"):
        check_inverse(module, jax.tree.map(lambda leaf: jnp.nan * leaf, params), sizes=(8,))
    huge = jax.tree.map(lambda leaf: 100.0 * leaf, params)
    with pytest.raises(ValueError, match="not invertible in float32 at 8x8: the round trip is off by"):
        check_inverse(module, huge, sizes=(8,))


def test_products_are_at_highest_precision():
    module, params, x, cond = make()
    text = jax.jit(functools.partial(module.apply, method="forward")).lower(params, x, cond).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line or "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)


# ---------------------------------------------------------------------------------------------------- other options

def test_operator_norm_bounds_the_convolution_and_is_close_to_its_matrix():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 5))
    exact = np.linalg.norm(kernel.reshape(18, 5), 2)
    bound = float(lifting.operator_norm(kernel))
    assert 3 * exact * (1 - 1e-5) <= bound < 3 * exact * 1.01

    def convolve(x):
        return jax.lax.conv_general_dilated(x.reshape(1, 6, 6, 2), kernel, (1, 1), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC")).ravel()

    true = np.linalg.norm(np.asarray(jax.jacobian(convolve)(jnp.zeros(72))), 2)
    assert true <= bound
    clipped = lifting.bound_kernels({"k": kernel, "zero": jnp.zeros_like(kernel), "bias": jnp.ones(3)}, 0.5)
    assert float(lifting.operator_norm(clipped["k"])) == pytest.approx(0.5, rel=1e-4)
    assert not clipped["zero"].any() and clipped["bias"].all()


def test_spectral_bound_keeps_wild_weights_invertible():
    module, params, *_ = make()
    wild = jax.tree.map(lambda leaf: 30 * leaf, params)
    with pytest.raises(ValueError, match="not invertible"):
        check_inverse(module, wild, sizes=(16,))
    check_inverse(module.clone(spectral_bound=0.7), wild, sizes=(16,))


def test_the_null_embedding_stands_for_no_condition():
    module, params, x, _ = make(null_embedding=True)
    null = jnp.broadcast_to(params["params"]["null_condition"], (2, 3))
    without, given = (forward(module, params, x, cond)[0] for cond in (None, null))
    np.testing.assert_array_equal(without, given)
    gradient = jax.jit(jax.grad(lambda p: forward(module, p, x, None)[0].sum()))(params)
    assert float(jnp.abs(gradient["params"]["null_condition"]).max()) > 0
    plain, params, *_ = make()
    with pytest.raises(ValueError, match="null_embedding=True"):
        plain.apply(params, x, None, method="forward")


@pytest.mark.parametrize("change, words", [
    (lambda x, c, y, d: ("forward", x[..., :1], c), r"pictures \[B, H, W, 2\] are needed"),
    (lambda x, c, y, d: ("forward", x[:, :0], c), "pictures"),
    (lambda x, c, y, d: ("forward", x, c[:1]), r"shape \(2, 3\) is needed"),
    (lambda x, c, y, d: ("inverse", y[:, 1:], d, c), "another scale"),
    (lambda x, c, y, d: ("inverse", x, d, c), "another scale"),
    (lambda x, c, y, d: ("inverse", y, [d[0][:2]], c), "another scale"),
    (lambda x, c, y, d: ("inverse", y, 2 * d, c), "at most 1 levels"),
])
def test_shapes_that_do_not_belong_together(change, words):
    module, params, x, cond = make()
    parts = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(module.apply, params, x, cond))
    method, *arguments = change(x, cond, *parts)
    with pytest.raises(ValueError, match=words):
        module.apply(params, *arguments, method=method)


# ------------------------------------------------------------------------------------------------ degradation encoder

def test_degradation_encoder_has_the_published_size():
    assert count(DegradationEncoder(), (1, 16, 16, 3)) == 4_430_976


def test_degradation_encoder_takes_any_size_and_keeps_pictures_apart():
    module = DegradationEncoder(channels=4, num_blocks=1, embedding=6)
    y = jax.random.uniform(jax.random.key(0), (2, 9, 7, 3))
    params = jax.jit(module.init)(jax.random.key(1), y)
    embedding, features = jax.jit(functools.partial(module.apply, with_features=True))(params, y)
    assert embedding.shape == (2, 6) and features.shape == (2, 16)
    np.testing.assert_allclose(jax.jit(module.apply)(params, y[1:]), embedding[1:], atol=1e-6)
    assert float(jnp.abs(embedding[0] - embedding[1]).max()) > 1e-6
    with pytest.raises(ValueError, match=r"pictures \[B, H, W, 3\] are needed"):
        module.apply(params, y[..., :1])
