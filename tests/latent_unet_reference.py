"""Stable Diffusion's UNet written a second time, in NumPy and float64, on names and arrays of its checkpoints.

Nothing here knows of :mod:`indigo_jax`: :func:`shapes` says what a checkpoint holds, the others what it computes.
Arrays are ``[B, C, H, W]``, lists of pixels or words ``[B, N, C]``.
"""
import math

import numpy as np

from tests.autoencoder_reference import conv, norm, silu

STABLE_DIFFUSION_1 = dict(block_out_channels=(320, 640, 1280, 1280), has_attention=(True, True, True, False),
                          layers_per_block=2, num_heads=(8, 8, 8, 8), context_dim=768, in_channels=4, out_channels=4,
                          num_groups=32)
STABLE_DIFFUSION_2 = {**STABLE_DIFFUSION_1, "context_dim": 1024, "num_heads": (5, 10, 20, 20)}
SMALL = dict(block_out_channels=(8, 12), has_attention=(True, False), layers_per_block=1, num_heads=(2, 3),
             context_dim=6, in_channels=4, out_channels=4, num_groups=4)
_erf = np.vectorize(math.erf, otypes=[float])


def config(arguments, linear=False):
    """The ``config.json`` of such a network; with "told", the size of a text as a whole, as that of XL."""
    depth, more = arguments.get("transformer_depth"), {}
    if depth is not None:
        more["transformer_layers_per_block"] = list(depth)
    if "told" in arguments:
        more |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                 "projection_class_embeddings_input_dim": arguments["told"] + 48, "time_cond_proj_dim": None}
    kinds = ["CrossAttn" * has for has in arguments["has_attention"]]
    return {**more, "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0", "act_fn": "silu",
            "attention_head_dim": list(arguments["num_heads"]),
            "block_out_channels": list(arguments["block_out_channels"]), "center_input_sample": False,
            "cross_attention_dim": arguments["context_dim"],
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds], "downsample_padding": 1,
            "dual_cross_attention": False, "flip_sin_to_cos": True, "freq_shift": 0,
            "in_channels": arguments["in_channels"], "layers_per_block": arguments["layers_per_block"],
            "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": arguments["num_groups"],
            "num_class_embeds": None, "only_cross_attention": False, "out_channels": arguments["out_channels"],
            "sample_size": 64, "up_block_types": [f"{kind}UpBlock2D" for kind in kinds[::-1]],
            "use_linear_projection": linear, "upcast_attention": linear}


def shapes(arguments, linear=False):
    """``{name: shape}`` of a checkpoint; ``linear``: with matrices around the transformers."""
    widths, context = arguments["block_out_channels"], arguments["context_dim"]
    attends, n, time = arguments["has_attention"], arguments["layers_per_block"], 4 * widths[0]
    found = {}

    def add(prefix, *weight, bias=True):
        found[f"{prefix}.weight"] = weight
        if bias:
            found[f"{prefix}.bias"] = weight[:1]

    def block(prefix, wide, out):
        add(f"{prefix}.norm1", wide)
        add(f"{prefix}.conv1", out, wide, 3, 3)
        add(f"{prefix}.time_emb_proj", out, time)
        add(f"{prefix}.norm2", out)
        add(f"{prefix}.conv2", out, out, 3, 3)
        if wide != out:
            add(f"{prefix}.conv_shortcut", out, wide, 1, 1)

    def attention(prefix, c, depth):
        add(f"{prefix}.norm", c)
        for name in ("proj_in", "proj_out"):
            add(f"{prefix}.{name}", *((c, c) if linear else (c, c, 1, 1)))
        for inner in (f"{prefix}.transformer_blocks.{number}" for number in range(depth)):
            for i, wide in ((1, c), (2, context)):
                add(f"{inner}.attn{i}.to_q", c, c, bias=False)
                add(f"{inner}.attn{i}.to_k", c, wide, bias=False)
                add(f"{inner}.attn{i}.to_v", c, wide, bias=False)
                add(f"{inner}.attn{i}.to_out.0", c, c)
            add(f"{inner}.ff.net.0.proj", 8 * c, c)
            add(f"{inner}.ff.net.2", c, 4 * c)
            for i in (1, 2, 3):
                add(f"{inner}.norm{i}", c)

    depths = arguments.get("transformer_depth", (1,) * len(widths))
    if "told" in arguments:
        add("add_embedding.linear_1", time, arguments["told"] + 48)
        add("add_embedding.linear_2", time, time)
    add("conv_in", widths[0], arguments["in_channels"], 3, 3)
    add("time_embedding.linear_1", time, widths[0])
    add("time_embedding.linear_2", time, time)
    skips, wide = [widths[0]], widths[0]
    for level, out in enumerate(widths):
        for i in range(n):
            block(f"down_blocks.{level}.resnets.{i}", wide, out)
            wide = out
            if attends[level]:
                attention(f"down_blocks.{level}.attentions.{i}", wide, depths[level])
            skips.append(wide)
        if level + 1 < len(widths):
            add(f"down_blocks.{level}.downsamplers.0.conv", wide, wide, 3, 3)
            skips.append(wide)
    block("mid_block.resnets.0", wide, wide)
    attention("mid_block.attentions.0", wide, depths[-1])
    block("mid_block.resnets.1", wide, wide)
    for place, out in enumerate(widths[::-1]):
        for i in range(n + 1):
            block(f"up_blocks.{place}.resnets.{i}", wide + skips.pop(), out)
            wide = out
            if attends[-1 - place]:
                attention(f"up_blocks.{place}.attentions.{i}", wide, depths[-1 - place])
        if place + 1 < len(widths):
            add(f"up_blocks.{place}.upsamplers.0.conv", wide, wide, 3, 3)
    add("conv_norm_out", wide)
    add("conv_out", arguments["out_channels"], wide, 3, 3)
    return found


def random_state(names_and_shapes, seed=0):
    """A checkpoint of random arrays: norms near identity, nothing zero, activations near one.

    Only those of the first convolution are near 0.01, so that the epsilon of the first norms counts.
    """
    random, state = np.random.default_rng(seed), {}
    for name, shape in names_and_shapes.items():
        value = random.standard_normal(shape) / math.sqrt(np.prod(shape[1:])) if len(shape) > 1 else (
            0.2 * random.standard_normal(shape))
        value = value + (len(shape) == 1 and name.endswith("weight"))
        state[name] = (0.01 * value if name.startswith("conv_in.") else value).astype(np.float32)
    return state


def linear(state, a, prefix):
    weight = state[f"{prefix}.weight"].astype(np.float64)
    return a @ weight.reshape(weight.shape[:2]).T + state.get(f"{prefix}.bias", 0)


def layer_norm(state, a, prefix):
    a = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
    return a * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def resnet(state, a, prefix, temb, groups):
    """``temb`` ``[B, T]`` before its activation."""
    h = conv(state, silu(norm(state, a, f"{prefix}.norm1", groups, 1e-5)), f"{prefix}.conv1")
    h = h + linear(state, silu(temb), f"{prefix}.time_emb_proj")[..., None, None]
    h = conv(state, silu(norm(state, h, f"{prefix}.norm2", groups, 1e-5)), f"{prefix}.conv2")
    return h + (conv(state, a, f"{prefix}.conv_shortcut") if f"{prefix}.conv_shortcut.bias" in state else a)


def attend(state, h, context, prefix, heads):
    """One image, one head, one query after another."""
    q, k, v = (linear(state, a, f"{prefix}.to_{name}") for name, a in (("q", h), ("k", context), ("v", context)))
    size, out = q.shape[-1] // heads, np.zeros_like(q)
    for image, head, query in np.ndindex(len(q), heads, q.shape[1]):
        part = slice(head * size, (head + 1) * size)
        weights = np.exp(k[image, :, part] @ q[image, query, part] / math.sqrt(size))
        out[image, query, part] = weights @ v[image, :, part] / weights.sum()
    return linear(state, out, f"{prefix}.to_out.0")


def feed_forward(state, h, prefix):
    a, b = np.split(linear(state, h, f"{prefix}.net.0.proj"), 2, axis=-1)
    return linear(state, a * b * (1 + _erf(b / math.sqrt(2))) / 2, f"{prefix}.net.2")


def transformer_block(state, h, context, prefix, heads):
    """Without the second attention where there is no context."""
    normed = layer_norm(state, h, f"{prefix}.norm1")
    h = h + attend(state, normed, normed, f"{prefix}.attn1", heads)
    if context is not None:
        h = h + attend(state, layer_norm(state, h, f"{prefix}.norm2"), context, f"{prefix}.attn2", heads)
    return h + feed_forward(state, layer_norm(state, h, f"{prefix}.norm3"), f"{prefix}.ff")


def spatial_transformer(state, a, context, prefix, groups, heads):
    b, c, height, width = a.shape
    h = norm(state, a, f"{prefix}.norm", groups, 1e-6).reshape(b, c, -1).swapaxes(1, 2)
    h, number = linear(state, h, f"{prefix}.proj_in"), 0
    while f"{prefix}.transformer_blocks.{number}.norm1.bias" in state:
        h = transformer_block(state, h, context, f"{prefix}.transformer_blocks.{number}", heads)
        number += 1
    return a + linear(state, h, f"{prefix}.proj_out").swapaxes(1, 2).reshape(a.shape)


def enlarge(a, height, width):
    """Nearest neighbour: row i of the result is row ``floor(i H / height)``."""
    rows = np.arange(height) * a.shape[2] // height
    columns = np.arange(width) * a.shape[3] // width
    return a[:, :, rows][:, :, :, columns]


def told(pooled, sizes):
    """What XL is told: the text as a whole ``[B, D]``, and six numbers ``[B, 6]`` as the time is."""
    angles = sizes[..., None] / 10_000.0 ** (np.arange(4) / 4)
    return np.concatenate([pooled, np.concatenate([np.cos(angles), np.sin(angles)], -1).reshape(len(sizes), -1)], 1)


def forward(state, arguments, x, t, context, added=None):
    """x ``[B, C, H, W]``, t ``[B]``, context ``[B, L, D]`` or None -> ``[B, out_channels, H, W]``."""
    widths, groups, n = (arguments[name] for name in ("block_out_channels", "num_groups", "layers_per_block"))
    heads, attends, levels = arguments["num_heads"], arguments["has_attention"], len(widths)
    half = widths[0] // 2
    angles = np.asarray(t, np.float64)[:, None] / 10_000.0 ** (np.arange(half) / half)
    temb = linear(state, np.concatenate([np.cos(angles), np.sin(angles)], axis=1), "time_embedding.linear_1")
    temb = linear(state, silu(temb), "time_embedding.linear_2")
    if added is not None:
        temb = temb + linear(state, silu(linear(state, added, "add_embedding.linear_1")), "add_embedding.linear_2")

    def stage(h, name, i, level):
        h = resnet(state, h, f"{name}.resnets.{i}", temb, groups)
        if f"{name}.attentions.{i}.norm.weight" not in state:
            return h
        return spatial_transformer(state, h, context, f"{name}.attentions.{i}", groups, heads[level])

    h = conv(state, np.asarray(x, np.float64), "conv_in")
    skips = [h]
    for level in range(levels):
        for i in range(n):
            h = stage(h, f"down_blocks.{level}", i, level)
            skips.append(h)
        if level < levels - 1:
            h = conv(state, h, f"down_blocks.{level}.downsamplers.0.conv", 2)
            skips.append(h)
    h = stage(h, "mid_block", 0, levels - 1)
    h = resnet(state, h, "mid_block.resnets.1", temb, groups)
    for place in range(levels):
        for i in range(n + 1):
            h = stage(np.concatenate([h, skips.pop()], axis=1), f"up_blocks.{place}", i, levels - 1 - place)
        if place < levels - 1:
            h = conv(state, enlarge(h, *skips[-1].shape[2:]), f"up_blocks.{place}.upsamplers.0.conv")
    assert sum(attends) * (2 * n + 1) + 1 == sum(name.endswith("0.attn1.to_q.weight") for name in state)
    return conv(state, silu(norm(state, h, "conv_norm_out", groups, 1e-5)), "conv_out")
