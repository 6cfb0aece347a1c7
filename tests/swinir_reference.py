"""SwinIR and KDSR's encoder window by window in numpy, float64, from the papers; names of the released checkpoints."""
import math

import numpy as np

from tests.autoencoder_reference import conv

SMALL = dict(width=8, depths=(2, 1), num_heads=2, window=4, mlp_ratio=2.0, unshuffle=2, features=6)
MEAN = np.array([0.4488, 0.4371, 0.4040])[None, :, None, None]


def shapes(arguments):
    """``{torch name: shape}``."""
    width, side, fold = arguments["width"], arguments["window"], arguments["unshuffle"]
    hidden, found = int(arguments["mlp_ratio"] * width), {}

    def add(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    add("conv_first.1" if fold > 1 else "conv_first", width, 3 * fold**2, 3, 3)
    add("patch_embed.norm", width)
    for group, depth in enumerate(arguments["depths"]):
        for block in range(depth):
            prefix = f"layers.{group}.residual_group.blocks.{block}"
            found[f"{prefix}.attn.relative_position_bias_table"] = ((2 * side - 1)**2, arguments["num_heads"])
            for name, *shape in (("norm1", width), ("norm2", width), ("attn.qkv", 3 * width, width),
                                 ("attn.proj", width, width), ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden)):
                add(f"{prefix}.{name}", *shape)
        add(f"layers.{group}.conv", width, width, 3, 3)
    add("norm", width)
    add("conv_after_body", width, width, 3, 3)
    if fold == 1:
        add("conv_last", 3, width, 3, 3)
        return found
    features = arguments["features"]
    add("conv_before_upsample.0", features, width, 3, 3)
    for i in range(int(math.log2(fold))):
        add(f"conv_up{i + 1}", features, features, 3, 3)
    add("conv_hr", features, features, 3, 3)
    add("conv_last", 3, features, 3, 3)
    return found


def forward(state, arguments, x):
    """Pictures ``[B, 3, H, W]`` in [0, 1], sides divisible by ``unshuffle window``."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    fold, picture = arguments["unshuffle"], x - MEAN
    b, c, rows, columns = picture.shape
    h = picture.reshape(b, c, rows // fold, fold, columns // fold, fold).transpose(0, 1, 3, 5, 2, 4)
    h = h.reshape(b, c * fold**2, rows // fold, columns // fold)
    first = conv(state, h, "conv_first.1" if fold > 1 else "conv_first")
    h = norm(state, first, "patch_embed.norm")
    for group, depth in enumerate(arguments["depths"]):
        inner = h
        for block in range(depth):
            prefix = f"layers.{group}.residual_group.blocks.{block}"
            shift = arguments["window"] // 2 if block % 2 else 0
            inner = inner + attention(state, norm(state, inner, f"{prefix}.norm1"), f"{prefix}.attn", arguments, shift)
            inner = inner + dense(state, gelu(dense(state, norm(state, inner, f"{prefix}.norm2"), f"{prefix}.mlp.fc1")),
                                  f"{prefix}.mlp.fc2")
        h = h + conv(state, inner, f"layers.{group}.conv")
    h = first + conv(state, norm(state, h, "norm"), "conv_after_body")
    if fold == 1:
        return picture + conv(state, h, "conv_last") + MEAN
    h = leaky(conv(state, h, "conv_before_upsample.0"), 0.01)
    for i in range(int(math.log2(fold))):
        h = leaky(conv(state, h.repeat(2, axis=2).repeat(2, axis=3), f"conv_up{i + 1}"), 0.2)
    return conv(state, leaky(conv(state, h, "conv_hr"), 0.2), "conv_last") + MEAN


def attention(state, h, prefix, arguments, shift):
    """Place by place: each looks at those of its window that were its neighbours in the picture, too."""
    side, heads = arguments["window"], arguments["num_heads"]
    b, channels, rows, columns = h.shape
    table, out = state[f"{prefix}.relative_position_bias_table"], np.zeros_like(h)
    qkv = dense(state, h, f"{prefix}.qkv").reshape(b, 3, heads, channels // heads, rows, columns)
    for top in range(-shift, rows, side):
        for left in range(-shift, columns, side):
            inside = [(i, j) for i in range(top, top + side) for j in range(left, left + side)
                      if 0 <= i < rows and 0 <= j < columns]
            for i, j in inside:
                for head in range(heads):
                    query = qkv[:, 0, head, :, i, j]
                    scores = np.stack([(query * qkv[:, 1, head, :, k, m]).sum(-1) / math.sqrt(channels // heads)
                                       + table[(i - k + side - 1) * (2 * side - 1) + j - m + side - 1, head]
                                       for k, m in inside], -1)
                    weights = np.exp(scores - scores.max(-1, keepdims=True))
                    weights /= weights.sum(-1, keepdims=True)
                    values = np.stack([qkv[:, 2, head, :, k, m] for k, m in inside], -1)
                    place = slice(head * channels // heads, (head + 1) * channels // heads)
                    out[:, place, i, j] = np.einsum("bn,bcn->bc", weights, values)
    return dense(state, out, f"{prefix}.proj")


def dense(state, h, name):
    return np.einsum("oi,bi...->bo...", state[f"{name}.weight"], h) + state[f"{name}.bias"].reshape(
        1, -1, *[1] * (h.ndim - 2))


def norm(state, h, name):
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    return h * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def gelu(h):
    return 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))


def leaky(h, slope):
    return np.where(h > 0, h, slope * h)


# ---------------------------------------------------------------- KDSR

def kdsr_shapes(channels=4, blocks=2, embedding=3):
    """``{torch name: shape}`` of its encoder."""
    found = {"E.0": (channels, 3, 3, 3)}
    for i in range(blocks):
        found |= {f"E.{2 + i}.body.{half}": (channels, channels, 3, 3) for half in (0, 2)}
    for i, (out, into) in enumerate(((2, 1), (2, 2), (4, 2))):
        found[f"E.{2 + blocks + 2 * i}"] = (out * channels, into * channels, 3, 3)
    found |= {f"mlp.{i}": (4 * channels, 4 * channels) for i in (0, 2)} | {"compress.0": (embedding, 4 * channels)}
    return {f"{name}.{leaf}": shape if leaf == "weight" else shape[:1] for name, shape in found.items()
            for leaf in ("weight", "bias")}


def kdsr_forward(state, x, blocks=2):
    """Pictures ``[B, 3, H, W]`` in [0, 1] -> ``[B, embedding]``."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    h = leaky(conv(state, x, "E.0"), 0.1)
    for i in range(blocks):
        h = h + conv(state, leaky(conv(state, h, f"E.{2 + i}.body.0"), 0.1), f"E.{2 + i}.body.2")
    for i in range(3):
        h = leaky(conv(state, h, f"E.{2 + blocks + 2 * i}"), 0.1)
    h = h.mean((2, 3))
    for name in ("mlp.0", "mlp.2", "compress.0"):
        h = leaky(dense(state, h, name), 0.1)
    return h
