"""Both autoencoders written a second time, in NumPy and float64, on names and arrays of their checkpoints.

Nothing here knows of :mod:`indigo_jax`: the ``..._shapes`` say what a checkpoint holds, the others what it computes.
Arrays are ``[B, C, H, W]``.
"""
import math

import numpy as np

TAEF2 = dict(latent_channels=32, channels=64, pool_channels=256)
SMALL_TINY = dict(latent_channels=5, channels=8, pool_channels=16)
STABLE_DIFFUSION = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, out_channels=3,
                        num_groups=32)
SMALL_KL = dict(block_out_channels=(8, 12), layers_per_block=1, latent_channels=2, out_channels=3, num_groups=4)
ATTENTION = {"old": ("query", "key", "value", "proj_attn"), "new": ("to_q", "to_k", "to_v", "to_out.0")}


def tiny_shapes(arguments):
    """``{name: shape}`` of a checkpoint of TAEF2, or of TAESD with ``pool_channels=0``."""
    z, c, pool = (arguments[name] for name in ("latent_channels", "channels", "pool_channels"))
    found = {}

    def block(prefix, pooled):
        for place in (0, 2, 4):
            found[f"{prefix}.conv.{place}.weight"], found[f"{prefix}.conv.{place}.bias"] = (c, c, 3, 3), (c,)
        if pooled and pool:
            found[f"{prefix}.pool.0.weight"], found[f"{prefix}.pool.3.weight"] = (pool, c, 1, 1), (c, pool, 1, 1)
            found[f"{prefix}.pool.1.weight"], found[f"{prefix}.pool.1.bias"] = (pool,), (pool,)

    for prefix, weight in (("encoder.0", (c, 3, 3, 3)), ("encoder.14", (z, c, 3, 3)), ("decoder.1", (c, z, 3, 3)),
                           ("decoder.19", (3, c, 3, 3))):
        found[f"{prefix}.weight"], found[f"{prefix}.bias"] = weight, weight[:1]
    for prefix in ("encoder.2", "encoder.6", "encoder.10", "decoder.7", "decoder.12", "decoder.17"):
        found[f"{prefix}.weight"] = (c, c, 3, 3)
    for place in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        block(f"encoder.{place}", place > 10)
    for place in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        block(f"decoder.{place}", place < 6)
    return found


def kl_shapes(arguments, attention="new"):
    """``{name: shape}`` of a checkpoint of diffusers."""
    widths, z = arguments["block_out_channels"], arguments["latent_channels"]
    found = {}

    def add(prefix, *weight):
        found[f"{prefix}.weight"], found[f"{prefix}.bias"] = weight, weight[:1]

    def block(prefix, wide, out):
        add(f"{prefix}.norm1", wide)
        add(f"{prefix}.conv1", out, wide, 3, 3)
        add(f"{prefix}.norm2", out)
        add(f"{prefix}.conv2", out, out, 3, 3)
        if wide != out:
            add(f"{prefix}.conv_shortcut", out, wide, 1, 1)

    def half(name, first, last, order, stage, per_level, resample):
        add(f"{name}.conv_in", order[0], first, 3, 3)
        wide = order[0]
        for level, out in enumerate(order):
            for i in range(per_level):
                block(f"{name}.{stage}_blocks.{level}.resnets.{i}", wide, out)
                wide = out
            if level < len(order) - 1:
                add(f"{name}.{stage}_blocks.{level}.{resample}.0.conv", out, out, 3, 3)
        for i in range(2):
            block(f"{name}.mid_block.resnets.{i}", widths[-1], widths[-1])
        add(f"{name}.mid_block.attentions.0.group_norm", widths[-1])
        for part in ATTENTION[attention]:
            add(f"{name}.mid_block.attentions.0.{part}", widths[-1], widths[-1])
        add(f"{name}.conv_norm_out", order[-1])
        add(f"{name}.conv_out", last, order[-1], 3, 3)

    n, pictures = arguments["layers_per_block"], arguments["out_channels"]
    half("encoder", pictures, 2 * z, widths, "down", n, "downsamplers")
    half("decoder", z, pictures, widths[::-1], "up", n + 1, "upsamplers")
    add("quant_conv", 2 * z, 2 * z, 1, 1)
    add("post_quant_conv", z, z, 1, 1)
    return found


def random_state(shapes, seed=0):
    """A checkpoint of random arrays: norms near identity, nothing zero, activations near one.

    Only those of the encoder's first convolution are near 0.01, so that the epsilon of the first norm counts.
    """
    random, state = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape) / math.sqrt(np.prod(shape[1:])) if len(shape) > 1 else (
            0.2 * random.standard_normal(shape))
        value = value + (len(shape) == 1 and name.endswith("weight"))
        state[name] = (0.01 * value if name.startswith("encoder.conv_in.") else value).astype(np.float32)
    return state


def conv(state, a, prefix, stride=1, pad=None):
    kernel = np.asarray(state[f"{prefix}.weight"], np.float64)
    r = kernel.shape[-1] // 2
    a = np.pad(a, ((0, 0), (0, 0), *(pad or ((r, r), (r, r)))))
    windows = np.lib.stride_tricks.sliding_window_view(a, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    out = np.einsum("bihwyx,oiyx->bohw", windows, kernel, optimize=True)
    return out + np.asarray(state.get(f"{prefix}.bias", np.zeros(len(kernel))), np.float64)[:, None, None]


def norm(state, a, prefix, groups, epsilon):
    grouped = a.reshape(len(a), groups, -1)
    grouped = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + epsilon)
    return grouped.reshape(a.shape) * state[f"{prefix}.weight"][:, None, None] + state[f"{prefix}.bias"][:, None, None]


def double(a):
    return np.kron(a, np.ones((2, 2)))


def relu(a):
    return np.maximum(a, 0)


def silu(a):
    return a / (1 + np.exp(-a))


def tiny_block(state, a, prefix):
    if f"{prefix}.pool.0.weight" in state:
        h = relu(norm(state, conv(state, a, f"{prefix}.pool.0"), f"{prefix}.pool.1", 4, 1e-5))
        a = a + conv(state, h, f"{prefix}.pool.3")
    h = a
    for place in (0, 2, 4):
        h = conv(state, relu(h) if place else h, f"{prefix}.conv.{place}")
    return relu(a + h)


def tiny_encode(state, x):
    """Pictures in ``[0, 1]`` -> latents."""
    h = conv(state, np.asarray(x, np.float64), "encoder.0")
    for place in range(1, 14):
        h = conv(state, h, f"encoder.{place}", 2) if place in (2, 6, 10) else tiny_block(state, h, f"encoder.{place}")
    return conv(state, h, "encoder.14")


def tiny_decode(state, z):
    """Latents -> pictures in ``[0, 1]``."""
    h = relu(conv(state, np.tanh(np.asarray(z, np.float64) / 3) * 3, "decoder.1"))
    for place in (3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18):
        h = conv(state, double(h), f"decoder.{place}") if place in (7, 12, 17) else (
            tiny_block(state, h, f"decoder.{place}"))
    return conv(state, h, "decoder.19")


def kl_block(state, a, prefix, groups):
    h = conv(state, silu(norm(state, a, f"{prefix}.norm1", groups, 1e-6)), f"{prefix}.conv1")
    h = conv(state, silu(norm(state, h, f"{prefix}.norm2", groups, 1e-6)), f"{prefix}.conv2")
    return h + (conv(state, a, f"{prefix}.conv_shortcut") if f"{prefix}.conv_shortcut.bias" in state else a)


def kl_attention(state, a, prefix, groups):
    b, c, height, width = a.shape
    names = ATTENTION["new" if f"{prefix}.to_q.weight" in state else "old"]
    weights = [(state[f"{prefix}.{name}.weight"].reshape(c, c), state[f"{prefix}.{name}.bias"]) for name in names]
    h = norm(state, a, f"{prefix}.group_norm", groups, 1e-6).reshape(b, c, -1)
    q, k, v = (np.einsum("oi,bin->bon", weight, h) + bias[:, None] for weight, bias in weights[:3])
    scores = np.exp(np.einsum("bct,bcs->bts", q, k) / math.sqrt(c))
    h = np.einsum("bts,bcs->bct", scores / scores.sum(-1, keepdims=True), v)
    return a + (np.einsum("oi,bin->bon", weights[3][0], h) + weights[3][1][:, None]).reshape(a.shape)


def kl_middle(state, h, name, groups):
    h = kl_block(state, h, f"{name}.mid_block.resnets.0", groups)
    h = kl_attention(state, h, f"{name}.mid_block.attentions.0", groups)
    return kl_block(state, h, f"{name}.mid_block.resnets.1", groups)


def kl_encode(state, arguments, x):
    """Pictures in ``[-1, 1]`` -> mean and log-variance along the channels, not clipped."""
    groups, levels = arguments["num_groups"], len(arguments["block_out_channels"])
    h = conv(state, np.asarray(x, np.float64), "encoder.conv_in")
    for level in range(levels):
        for i in range(arguments["layers_per_block"]):
            h = kl_block(state, h, f"encoder.down_blocks.{level}.resnets.{i}", groups)
        if level < levels - 1:
            h = conv(state, h, f"encoder.down_blocks.{level}.downsamplers.0.conv", 2, ((0, 1), (0, 1)))
    h = kl_middle(state, h, "encoder", groups)
    h = conv(state, silu(norm(state, h, "encoder.conv_norm_out", groups, 1e-6)), "encoder.conv_out")
    return conv(state, h, "quant_conv")


def kl_decode(state, arguments, z):
    """Latents -> pictures in ``[-1, 1]``."""
    groups, levels = arguments["num_groups"], len(arguments["block_out_channels"])
    h = conv(state, conv(state, np.asarray(z, np.float64), "post_quant_conv"), "decoder.conv_in")
    h = kl_middle(state, h, "decoder", groups)
    for place in range(levels):
        for i in range(arguments["layers_per_block"] + 1):
            h = kl_block(state, h, f"decoder.up_blocks.{place}.resnets.{i}", groups)
        if place < levels - 1:
            h = conv(state, double(h), f"decoder.up_blocks.{place}.upsamplers.0.conv")
    return conv(state, silu(norm(state, h, "decoder.conv_norm_out", groups, 1e-6)), "decoder.conv_out")
