"""The guided-diffusion UNet written a second time, in NumPy and float64, on names and arrays of its checkpoints.

Nothing here knows of :mod:`indigo_jax`: :func:`shapes` says what a checkpoint holds, :func:`forward` what it computes.
"""
import math

import numpy as np

DEFAULT = dict(channels=256, multipliers=(1, 1, 2, 2, 4, 4), num_res_blocks=2, attention_resolutions=(32, 16, 8),
               image_size=256, num_head_channels=64, resblock_updown=True, use_scale_shift_norm=True, out_channels=6)
SMALL = dict(channels=32, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(8,), image_size=16,
             num_head_channels=16, resblock_updown=True, use_scale_shift_norm=True, out_channels=6)


def entries(arguments):
    """``[(prefix of a module, kind, channels in, channels out)]`` in the order of the computation."""
    widths = [int(multiplier * arguments["channels"]) for multiplier in arguments["multipliers"]]
    sides = [arguments["image_size"] // 2**level for level in range(len(widths))]
    down, up = ("down", "up") if arguments["resblock_updown"] else ("conv_down", "conv_up")
    found, skips, width, place = [("input_blocks.0.0", "conv", 3, widths[0])], [widths[0]], widths[0], 1
    for level, out in enumerate(widths):
        for _ in range(arguments["num_res_blocks"]):
            found.append((f"input_blocks.{place}.0", "block", width, out))
            width = out
            if sides[level] in arguments["attention_resolutions"]:
                found.append((f"input_blocks.{place}.1", "attention", width, width))
            skips.append(width)
            place += 1
        if level + 1 < len(widths):
            found.append((f"input_blocks.{place}.0", down, width, width))
            skips.append(width)
            place += 1
    found += [("middle_block.0", "block", width, width), ("middle_block.1", "attention", width, width),
              ("middle_block.2", "block", width, width)]
    place = 0
    for level in range(len(widths) - 1, -1, -1):
        for left in range(arguments["num_res_blocks"], -1, -1):
            found.append((f"output_blocks.{place}.0", "block", width + skips.pop(), widths[level]))
            width, within = widths[level], 1
            if sides[level] in arguments["attention_resolutions"]:
                found.append((f"output_blocks.{place}.1", "attention", width, width))
                within = 2
            if level > 0 and left == 0:
                found.append((f"output_blocks.{place}.{within}", up, width, width))
            place += 1
    return found


def shapes(arguments):
    """``{name: shape}`` of a checkpoint."""
    channels, out_channels = arguments["channels"], arguments["out_channels"]
    time, first = 4 * channels, int(channels * arguments["multipliers"][0])
    found = {}

    def add(prefix, *weight):
        found[f"{prefix}.weight"], found[f"{prefix}.bias"] = weight, weight[:1]

    add("time_embed.0", time, channels)
    add("time_embed.2", time, time)
    for prefix, kind, wide, out in entries(arguments):
        if kind == "conv":
            add(prefix, out, wide, 3, 3)
        elif kind == "conv_down":
            add(f"{prefix}.op", out, wide, 3, 3)
        elif kind == "conv_up":
            add(f"{prefix}.conv", out, wide, 3, 3)
        elif kind == "attention":
            add(f"{prefix}.norm", wide)
            add(f"{prefix}.qkv", 3 * wide, wide, 1)
            add(f"{prefix}.proj_out", wide, wide, 1)
        else:
            add(f"{prefix}.in_layers.0", wide)
            add(f"{prefix}.in_layers.2", out, wide, 3, 3)
            add(f"{prefix}.emb_layers.1", 2 * out if arguments["use_scale_shift_norm"] else out, time)
            add(f"{prefix}.out_layers.0", out)
            add(f"{prefix}.out_layers.3", out, out, 3, 3)
            if wide != out:
                add(f"{prefix}.skip_connection", out, wide, 1, 1)
    add("out.0", first)
    add("out.2", out_channels, first, 3, 3)
    return found


def random_state(arguments, seed=0):
    """A checkpoint of random arrays: norms near identity, nothing zero, activations near one.

    Only those of the first convolution are near 0.01, so that the epsilon of the first norms counts.
    """
    random, state = np.random.default_rng(seed), {}
    for name, shape in shapes(arguments).items():
        value = random.standard_normal(shape) / math.sqrt(np.prod(shape[1:])) if len(shape) > 1 else (
            0.2 * random.standard_normal(shape))
        value = value + (len(shape) == 1 and name.endswith("weight"))
        state[name] = (0.01 * value if name.startswith("input_blocks.0.") else value).astype(np.float32)
    return state


def forward(state, arguments, x, t, order="legacy"):
    """x ``[B, 3, H, W]``, t ``[B]`` -> ``[B, out_channels, H, W]``."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}

    def silu(a):
        return a / (1 + np.exp(-a))

    def linear(a, prefix):
        return np.einsum("bi,oi->bo", a, state[f"{prefix}.weight"]) + state[f"{prefix}.bias"]

    def conv(a, prefix, stride=1):
        kernel = state[f"{prefix}.weight"]
        r = kernel.shape[-1] // 2
        a = np.pad(a, ((0, 0), (0, 0), (r, r), (r, r)))
        windows = np.lib.stride_tricks.sliding_window_view(a, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        return np.einsum("bihwyx,oiyx->bohw", windows, kernel, optimize=True) + state[f"{prefix}.bias"][:, None, None]

    def norm(a, prefix):
        grouped = a.reshape(len(a), 32, -1)
        grouped = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
        return (grouped.reshape(a.shape) * state[f"{prefix}.weight"][:, None, None]
                + state[f"{prefix}.bias"][:, None, None])

    def halve(a):
        return (a[:, :, ::2, ::2] + a[:, :, 1::2, ::2] + a[:, :, ::2, 1::2] + a[:, :, 1::2, 1::2]) / 4

    def double(a):
        return np.kron(a, np.ones((2, 2)))

    def block(a, prefix, resample):
        h = conv(resample(silu(norm(a, f"{prefix}.in_layers.0"))), f"{prefix}.in_layers.2")
        time = linear(silu(features), f"{prefix}.emb_layers.1")[:, :, None, None]
        if arguments["use_scale_shift_norm"]:
            half = h.shape[1]
            h = norm(h, f"{prefix}.out_layers.0") * (1 + time[:, :half]) + time[:, half:]
        else:
            h = norm(h + time, f"{prefix}.out_layers.0")
        h, a = conv(silu(h), f"{prefix}.out_layers.3"), resample(a)
        return h + (conv(a, f"{prefix}.skip_connection") if f"{prefix}.skip_connection.bias" in state else a)

    def attention(a, prefix):
        b, c, height, width = a.shape
        d = arguments["num_head_channels"]
        h = norm(a, f"{prefix}.norm").reshape(b, c, -1)
        qkv = np.einsum("oi,bin->bon", state[f"{prefix}.qkv.weight"][..., 0], h) + state[f"{prefix}.qkv.bias"][:, None]
        heads = []
        for start in range(0, 3 * c, 3 * d):  # one head after the other: its q, its k, its v
            first, apart = (start, d) if order == "legacy" else (start // 3, c)  # new: all q, then all k, then all v
            q, k, v = (qkv[:, first + part * apart:first + part * apart + d] for part in range(3))
            weights = np.exp(np.einsum("bdt,bds->bts", q, k) / math.sqrt(d))
            heads.append(np.einsum("bts,bds->bdt", weights / weights.sum(-1, keepdims=True), v))
        h = np.einsum("oi,bin->bon", state[f"{prefix}.proj_out.weight"][..., 0], np.concatenate(heads, 1))
        return a + (h + state[f"{prefix}.proj_out.bias"][:, None]).reshape(a.shape)

    half = arguments["channels"] // 2
    angles = np.asarray(t, np.float64)[:, None] * 10_000.0 ** (-np.arange(half) / half)
    features = linear(np.concatenate([np.cos(angles), np.sin(angles)], 1), "time_embed.0")
    features = linear(silu(features), "time_embed.2")
    h, skips, last = np.asarray(x, np.float64), [], None
    for prefix, kind, *_ in entries(arguments):
        stage, entry = prefix.rsplit(".", 1)[0], prefix.split(".")[-1]
        if last and last.startswith("input") and stage != last:
            skips.append(h)
        if stage.startswith("output") and entry == "0":
            h = np.concatenate([h, skips.pop()], 1)
        last = stage
        if kind == "conv":
            h = conv(h, prefix)
        elif kind == "conv_down":
            h = conv(h, f"{prefix}.op", 2)
        elif kind == "conv_up":
            h = conv(double(h), f"{prefix}.conv")
        elif kind == "attention":
            h = attention(h, prefix)
        else:
            h = block(h, prefix, {"block": lambda a: a, "down": halve, "up": double}[kind])
    return conv(silu(norm(h, "out.0")), "out.2")
