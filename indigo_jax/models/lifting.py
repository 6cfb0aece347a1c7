"""The additive lifting steps of an invertible network, as pure functions of explicit parameters.

A step is ``details += P(coarse, cond)``, then ``coarse += U(details, cond)``. Its inverse subtracts the same, so the
activations of a run can be had again from its results: :func:`lift_reversible` keeps nothing else for the gradient.
"""
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.typing import Array, Key, Params

Details = tuple[Array, Array, Array]


class Rule(NamedTuple):
    """What is not a parameter; as for :class:`models.WaveletINN`. ``bounded``: scales of the condition in -1..1."""
    slicing: str = "disjoint"
    dilation: int = 1
    bounded: bool = False
    exact_bits: int | None = None
    remat: bool = False
    convolution: str = "plain"
    dtype: Any = jnp.float32
    precision: str = "highest"


def init_lifting(key: Key, *, lifting_steps: int, channels: int, width: int, num_blocks: int, cond_dim: int,
                 cond_width: int, start: str) -> Params:
    """``{"step_0": {"predict": network, "update": network}, ...}``; ``start`` as :class:`models.WaveletINN` has it."""
    def one(key, inputs, outputs):
        return _init_network(key, inputs, outputs, width, num_blocks, cond_dim, cond_width, start)

    keys = jax.random.split(key, 2 * lifting_steps)
    return {f"step_{i}": {"predict": one(keys[2 * i], channels, 3 * channels),
                          "update": one(keys[2 * i + 1], 3 * channels, channels)} for i in range(lifting_steps)}


def _init_network(key, inputs, outputs, width, num_blocks, cond_dim, cond_width, start):
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-1/sqrt(fan-in), as torch draws them

    def layer(key, shape, bias=True):
        kernel_key, bias_key = jax.random.split(key)
        kernel = uniform(kernel_key, shape, jnp.float32)
        limit = (kernel.size / shape[-1]) ** -0.5
        drawn = {"bias": jax.random.uniform(bias_key, shape[-1:], minval=-limit, maxval=limit)} if bias else {}
        return {"kernel": kernel, **drawn}

    keys = iter(jax.random.split(key, 2 + 4 * num_blocks))
    network = {"conv_in": layer(next(keys), (3, 3, inputs, width), bias=False)}
    for i in range(num_blocks):
        network[f"block_{i}"] = {"conv1": layer(next(keys), (3, 3, width, width)),
                                 "conv2": layer(next(keys), (3, 3, width, width)),
                                 "dense1": layer(next(keys), (cond_dim, cond_width)),
                                 "dense2": layer(next(keys), (cond_width, width))}
        if start == "identity":
            dense = network[f"block_{i}"]["dense2"]
            dense["bias"] = jnp.ones_like(dense["bias"])
    network["conv_out"] = layer(next(keys), (3, 3, width, outputs), bias=False)
    if start == "identity":
        network["conv_out"] = jax.tree.map(jnp.zeros_like, network["conv_out"])
    return network


def bound_kernels(params: Params, bound: float) -> Params:
    """``K min(1, bound / n(K))`` for every 3x3 kernel, ``n(K) >= |x -> conv(x, K)|_2`` of :func:`operator_norm`."""
    def one(leaf):
        return leaf * jnp.minimum(1.0, bound / operator_norm(leaf)) if leaf.ndim == 4 else leaf

    return jax.tree.map(one, params)


def operator_norm(kernel: Array, *, squarings: int = 8) -> Array:
    """An upper bound of the spectral norm of a convolution over pictures of any size, with zeros beyond the border.

    ``sqrt(h w) sigma(K)``, ``K`` the kernel ``[h, w, I, O]`` as a matrix ``[h w I, O]``, since no pixel is in more than
    ``h w`` patches. ``sigma^2 <= trace((K^T K)^m)^(1/m)`` with ``m = 2^squarings``: at most 0.7 % above for 32 columns.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    gram = jnp.matmul(matrix.T, matrix, precision="highest")
    logarithm = 0.0
    for i in range(squarings + 1):
        gram = jnp.matmul(gram, gram, precision="highest") if i else gram
        trace = jnp.maximum(jnp.trace(gram), 1e-12)
        gram, logarithm = gram / trace, logarithm + jnp.log(trace) / 2**i
    return jnp.sqrt(1.0 * kernel.shape[0] * kernel.shape[1]) * jnp.exp(logarithm / 2)


def network(params: Params, x: Array, cond: Array, rule: Rule) -> Array:
    """``conv_out(blocks(conv_in(x)))``; a block is ``h + a(cond) conv2(relu(conv1(h)))``, ``a`` one number a channel.

    ``x`` ``[B, H, W, I]``, ``cond`` ``[B, D]`` -> ``[B, H, W, O]`` in ``rule.dtype``.
    """
    def conv(layer, h):
        h = layers.CONVOLUTIONS[rule.convolution](
            h, layer["kernel"].astype(rule.dtype), (1, 1), "SAME", rhs_dilation=(rule.dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision(rule.precision))
        return h + layer["bias"].astype(rule.dtype) if "bias" in layer else h

    def dense(layer, h):
        h = jnp.matmul(h, layer["kernel"].astype(rule.dtype), precision=rule.precision)
        return h + layer["bias"].astype(rule.dtype)

    cond = cond.astype(rule.dtype)
    h = conv(params["conv_in"], x.astype(rule.dtype))
    for i in range(len(params) - 2):
        block = params[f"block_{i}"]
        scale = dense(block["dense2"], jax.nn.relu(dense(block["dense1"], cond)))
        scale = jnp.tanh(scale) if rule.bounded else scale
        h = h + conv(block["conv2"], jax.nn.relu(conv(block["conv1"], h))) * scale[:, None, None]
    return conv(params["conv_out"], h)


def _addition(params, source, cond, *, shapes, rule):
    """What a network adds to its target: three details of a coarse picture, or a coarse picture of three details.

    ``shapes``: of the target, one or three. Details of odd pictures, smaller by one, are filled up with zeros at the
    right and below where they go in, and cut where they come out.
    """
    if isinstance(source, tuple):
        (height, width), dtype = shapes[1:3], source[0].dtype
        filled = [jnp.pad(d, ((0, 0), (0, height - d.shape[1]), (0, width - d.shape[2]), (0, 0))) for d in source]
        return _on_grid(network(params, jnp.concatenate(filled, -1), cond, rule).astype(dtype), rule.exact_bits)
    out = _on_grid(network(params, source, cond, rule).astype(source.dtype), rule.exact_bits)
    channels = source.shape[-1]
    stride = channels if rule.slicing == "disjoint" else 1
    return tuple(out[:, :height, :width, i * stride:i * stride + channels]
                 for i, (_, height, width, _) in enumerate(shapes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _on_grid(x, bits):
    """``x`` rounded to multiples of ``2^-bits``; as if it were not, for gradients."""
    return x if bits is None else jnp.round(x * 2.0**bits) * 2.0**-bits


@_on_grid.defjvp
def _on_grid_jvp(bits, primals, tangents):
    return _on_grid(primals[0], bits), tangents[0]


def on_grid(coarse: Array, details: Details, rule: Rule) -> tuple[Array, Details]:
    """Both on the grid of ``rule.exact_bits``, where sums are exact below ``2^(24 - bits)``."""
    return jax.tree.map(lambda a: _on_grid(a, rule.exact_bits), (coarse, details))


def lift(params: Params, coarse: Array, details: Details, cond: Array, rule: Rule, sign: int) -> tuple[Array, Details]:
    """All steps (``sign=1``), or their inverses from the last to the first (``sign=-1``)."""
    for i in range(len(params))[::sign]:
        coarse, details = _step(params[f"step_{i}"], coarse, details, cond, rule, sign)
    return coarse, details


def _step(params, coarse, details, cond, rule, sign):
    for part in _parts(sign):
        source, target = (coarse, details) if part == "predict" else (details, coarse)
        add = functools.partial(_addition, shapes=_shapes(target), rule=rule)
        addition = (jax.checkpoint(add) if rule.remat else add)(params[part], source, cond)
        target = jax.tree.map(lambda a, b: a + b if sign > 0 else a - b, target, addition)
        coarse, details = (source, target) if part == "predict" else (target, source)
    return coarse, details


def stack_steps(params: Params) -> Params:
    """``{"predict": network, "update": network}`` with a leading axis of steps, for :func:`lift_reversible`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[f"step_{i}"] for i in range(len(params))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def lift_reversible(stacked: Params, coarse: Array, details: Details, cond: Array, rule: Rule,
                    sign: int) -> tuple[Array, Details]:
    """:func:`lift`, of :func:`stack_steps`, whose gradient recomputes every activation from the results.

    Steps are turns of a loop, on the way back too: left to itself, a compiler would recompute all of them first and
    keep them. So memory does not grow with steps.
    """
    def turn(state, params):
        return _step(params, *state, cond, rule._replace(remat=False), sign), None

    return jax.lax.scan(turn, (coarse, details), stacked, reverse=sign < 0)[0]


def _reversible_forward(stacked, coarse, details, cond, rule, sign):
    results = lift_reversible(stacked, coarse, details, cond, rule, sign)
    return results, (stacked, results, cond)


def _reversible_backward(rule, sign, residuals, cotangents):
    stacked, results, cond = residuals

    def turn(state, params):
        (coarse, details), (grad_coarse, grad_details), grad_cond = state
        grad_params = {}
        for part in reversed(_parts(sign)):
            predict = part == "predict"
            source, target = (coarse, details) if predict else (details, coarse)
            grad_source, grad_target = (grad_coarse, grad_details) if predict else (grad_details, grad_coarse)
            addition, pull = jax.vjp(functools.partial(_addition, shapes=_shapes(target), rule=rule), params[part],
                                     source, cond)
            target = jax.tree.map(lambda a, b: a - b if sign > 0 else a + b, target, addition)
            grad_params[part], more_source, more_cond = pull(jax.tree.map(lambda g: sign * g, grad_target))
            grad_source, grad_cond = jax.tree.map(jnp.add, grad_source, more_source), grad_cond + more_cond
            coarse, details = (source, target) if predict else (target, source)
            grad_coarse, grad_details = (grad_source, grad_target) if predict else (grad_target, grad_source)
        return ((coarse, details), (grad_coarse, grad_details), grad_cond), grad_params

    (_, (grad_coarse, grad_details), grad_cond), grad_params = jax.lax.scan(
        turn, (results, cotangents, jnp.zeros_like(cond)), stacked, reverse=sign > 0)
    return grad_params, grad_coarse, grad_details, grad_cond


lift_reversible.defvjp(_reversible_forward, _reversible_backward)


def _parts(sign):
    """The halves of a step in order, backwards for the inverse."""
    return ("predict", "update")[::sign]


def _shapes(tree):
    return tuple(a.shape for a in tree) if isinstance(tree, tuple) else tree.shape
