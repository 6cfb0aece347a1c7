"""InceptionV3 of FID once more: tiny checkpoints by torch's names, and what they compute in numpy, nothing folded."""
import numpy as np

EPSILON = 1e-3


def _layers(divisor):
    """``{name: (kernel height, width, in, out, stride, pad y, pad x)}`` of all convolutions."""
    found = {}

    def add(name, inputs, outputs, sides=(1, 1), stride=1, pads=(0, 0)):
        found[name] = (*sides, inputs if inputs == 3 else inputs // divisor, outputs // divisor, stride, *pads)

    add("Conv2d_1a_3x3", 3, 32, (3, 3), 2)
    add("Conv2d_2a_3x3", 32, 32, (3, 3))
    add("Conv2d_2b_3x3", 32, 64, (3, 3), 1, (1, 1))
    add("Conv2d_3b_1x1", 64, 80)
    add("Conv2d_4a_3x3", 80, 192, (3, 3))
    for block, inputs, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        add(f"{block}.branch1x1", inputs, 64)
        add(f"{block}.branch5x5_1", inputs, 48)
        add(f"{block}.branch5x5_2", 48, 64, (5, 5), 1, (2, 2))
        add(f"{block}.branch3x3dbl_1", inputs, 64)
        add(f"{block}.branch3x3dbl_2", 64, 96, (3, 3), 1, (1, 1))
        add(f"{block}.branch3x3dbl_3", 96, 96, (3, 3), 1, (1, 1))
        add(f"{block}.branch_pool", inputs, pool)
    add("Mixed_6a.branch3x3", 288, 384, (3, 3), 2)
    add("Mixed_6a.branch3x3dbl_1", 288, 64)
    add("Mixed_6a.branch3x3dbl_2", 64, 96, (3, 3), 1, (1, 1))
    add("Mixed_6a.branch3x3dbl_3", 96, 96, (3, 3), 2)
    for block, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        add(f"{block}.branch1x1", 768, 192)
        add(f"{block}.branch7x7_1", 768, width)
        add(f"{block}.branch7x7_2", width, width, (1, 7), 1, (0, 3))
        add(f"{block}.branch7x7_3", width, 192, (7, 1), 1, (3, 0))
        add(f"{block}.branch7x7dbl_1", 768, width)
        for i, out in ((2, width), (3, width), (4, width), (5, 192)):
            add(f"{block}.branch7x7dbl_{i}", width, out, *(((1, 7), 1, (0, 3)) if i % 2 else ((7, 1), 1, (3, 0))))
        add(f"{block}.branch_pool", 768, 192)
    add("Mixed_7a.branch3x3_1", 768, 192)
    add("Mixed_7a.branch3x3_2", 192, 320, (3, 3), 2)
    add("Mixed_7a.branch7x7x3_1", 768, 192)
    add("Mixed_7a.branch7x7x3_2", 192, 192, (1, 7), 1, (0, 3))
    add("Mixed_7a.branch7x7x3_3", 192, 192, (7, 1), 1, (3, 0))
    add("Mixed_7a.branch7x7x3_4", 192, 192, (3, 3), 2)
    for block, inputs in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        add(f"{block}.branch1x1", inputs, 320)
        add(f"{block}.branch3x3_1", inputs, 384)
        add(f"{block}.branch3x3dbl_1", inputs, 448)
        add(f"{block}.branch3x3dbl_2", 448, 384, (3, 3), 1, (1, 1))
        for name in ("branch3x3_2", "branch3x3dbl_3"):
            add(f"{block}.{name}a", 384, 384, (1, 3), 1, (0, 1))
            add(f"{block}.{name}b", 384, 384, (3, 1), 1, (1, 0))
        add(f"{block}.branch_pool", inputs, 192)
    return found


def state(divisor, seed=0):
    """``{torch parameter name: float32 array}`` without the classes."""
    random, found = np.random.default_rng(seed), {}
    for name, (height, width, inputs, outputs, *_) in _layers(divisor).items():
        kernel = random.standard_normal((outputs, inputs, height, width)) * np.sqrt(2 / (inputs * height * width))
        found[f"{name}.conv.weight"] = kernel
        found[f"{name}.bn.weight"] = random.uniform(0.8, 1.4, outputs)
        found[f"{name}.bn.bias"] = 0.2 * random.standard_normal(outputs)
        found[f"{name}.bn.running_mean"] = 0.2 * random.standard_normal(outputs)
        found[f"{name}.bn.running_var"] = random.uniform(0.5, 1.5, outputs)
    return {name: value.astype(np.float32) for name, value in found.items()}


def features(state, x, divisor):
    """``[B, H, W, 3] -> [B, 2048 / divisor]`` in float64."""
    layers, state = _layers(divisor), {name: value.astype(np.float64) for name, value in state.items()}

    def windows(h, sides, stride):
        return np.lib.stride_tricks.sliding_window_view(h, sides, axis=(2, 3))[:, :, ::stride, ::stride]

    def run(h, *names):
        for name in names:
            height, width, _, _, stride, pad_y, pad_x = layers[name]
            h = np.pad(h, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
            h = np.einsum("bihwyx,oiyx->bohw", windows(h, (height, width), stride), state[f"{name}.conv.weight"],
                          optimize=True)
            scale, shift, mean, variance = (state[f"{name}.bn.{leaf}"][:, None, None] for leaf in (
                "weight", "bias", "running_mean", "running_var"))
            h = np.maximum((h - mean) / np.sqrt(variance + EPSILON) * scale + shift, 0)
        return h

    def shrink(h):
        return windows(h, (3, 3), 2).max(axis=(4, 5))

    def pooled(h, with_nan):
        return with_nan(windows(np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan), (3, 3), 1),
                        axis=(4, 5))

    h = run(np.transpose(x, (0, 3, 1, 2)).astype(np.float64), "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
    h = shrink(run(shrink(h), "Conv2d_3b_1x1", "Conv2d_4a_3x3"))
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
                  "Mixed_7a", "Mixed_7b", "Mixed_7c"):
        names = [name for name in layers if name.startswith(block)]
        chains = {}
        for name in names:
            chains.setdefault(name.split(".")[1].split("_")[0], []).append(name)
        chains.pop("branch", None)
        parts = []
        for chain in chains.values():
            straight = [name for name in chain if name[-1] not in "ab"]
            split = [name for name in chain if name[-1] in "ab"]
            out = run(h, *straight)
            parts += [run(out, name) for name in split] or [out]
        if f"{block}.branch_pool" in layers:
            parts.append(run(pooled(h, np.nanmax if block == "Mixed_7c" else np.nanmean), f"{block}.branch_pool"))
        else:
            parts.append(shrink(h))
        h = np.concatenate(parts, axis=1)
    return h.mean(axis=(2, 3))
