"""The networks that are trained on a CPU, once more in torch, on the same parameters: what our speed is held against.

Functions of parameters, pictures channels first in torch's ``channels_last`` layout, float32: its fastest on a CPU.
"""
import functools
import math

import jax
import numpy as np

from indigo_jax import models


def torch():
    """The package; an ImportError that says what to install without it."""
    try:
        import torch as package
    except ImportError as error:
        raise ImportError(f'--against torch needs: pip install "indigo_jax[parity]" ({error})') from error
    return package


def parameters(params) -> dict:
    """Ours as nested dictionaries of tensors that take gradients; kernels as torch has them."""
    def one(leaf):
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        values = torch().from_numpy(np.array(leaf, np.float32).transpose(axes))
        layout = torch().channels_last if leaf.ndim == 4 else torch().contiguous_format
        return values.contiguous(memory_format=layout).requires_grad_()

    return jax.tree.map(one, params["params"])


def pictures(x):
    """``[B, H, W, C]`` as a tensor ``[B, C, H, W]``, not moved."""
    return torch().from_numpy(np.array(x, np.float32)).permute(0, 3, 1, 2)


def apply(module, params, x, t):
    """``module.apply`` in torch.

    Args:
        module: a :class:`models.RestorationUNet`, :class:`models.DenoisingUNet` or :class:`models.DDPMUNet`.
        params: of :func:`parameters`.
        x: pictures of :func:`pictures`, with sides that the levels divide.
        t: times, levels or timesteps ``[B]``.

    Errors:
        ValueError for another network.
    """
    twin = {models.RestorationUNet: _restoration, models.DenoisingUNet: _denoising,
            models.DDPMUNet: _ddpm}.get(type(module))
    if twin is None:
        raise ValueError(f"no twin of {type(module).__name__} in torch; there are those of RestorationUNet, "
                         "DenoisingUNet and DDPMUNet")
    return twin(module, params, x, t)


def _conv(layer, h, stride=1, padding=1):
    return torch().nn.functional.conv2d(h, layer["kernel"], layer.get("bias"), stride=stride, padding=padding)


def _dense(layer, h):
    if h.ndim == 4:  # of every pixel
        return torch().nn.functional.conv2d(h, layer["kernel"][:, :, None, None], layer.get("bias"))
    return torch().nn.functional.linear(h, layer["kernel"], layer.get("bias"))


def _norm(layer, h, groups):
    return torch().nn.functional.group_norm(h, groups, layer["scale"], layer["bias"], eps=1e-6)


def _silu(h):
    return torch().nn.functional.silu(h)


def _upsample(h):
    return torch().nn.functional.interpolate(h, scale_factor=2, mode="nearest")


def _fold(h, block):
    batch, channels, height, width = h.shape
    h = h.permute(0, 2, 3, 1).reshape(batch, height // block, block, width // block, block, channels)
    h = h.permute(0, 1, 3, 2, 4, 5).reshape(batch, height // block, width // block, block * block * channels)
    return h.permute(0, 3, 1, 2)


def _unfold(h, block):
    batch, channels, height, width = h.shape
    h = h.permute(0, 2, 3, 1).reshape(batch, height, width, block, block, channels // block**2)
    h = h.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, channels // block**2)
    return h.permute(0, 3, 1, 2)


def _res_block(p, names, h, time, norm):
    norm_in, conv_in, dense, norm_out, conv_out, shortcut = names
    x, h = h, _conv(p[conv_in], _silu(norm(p[norm_in], h)))
    h = norm(p[norm_out], h + _dense(p[dense], time)[:, :, None, None])
    h = _conv(p[conv_out], _silu(h))
    return (_conv(p[shortcut], x, padding=0) if shortcut in p else x) + h


def _restoration(module, p, x, t):
    half = module.width // 2
    frequencies = torch().exp(-math.log(10_000.0) * torch().arange(half) / half)
    angles = 1000.0 * t[:, None] * frequencies
    features = torch().cat([torch().cos(angles), torch().sin(angles)], -1)
    features = _silu(_dense(p["time_out"], _silu(_dense(p["time_in"], features))))
    widths = [int(round(module.width * m)) for m in module.multipliers]

    def norm(layer, h):
        return _norm(layer["norm"], h, math.gcd(h.shape[1], 32))

    def block(name, h):
        return _res_block(p[name], models.layers.IN_OUT, h, features, norm)

    h = _conv(p["conv_in"], _fold(x, module.patch_size))
    skips = [h]
    for level in range(len(widths)):
        if level:
            h = _conv(p[f"down{level}"], h, stride=2)
            skips.append(h)
        for i in range(module.num_res_blocks):
            h = block(f"down{level}_block{i}", h)
            skips.append(h)
    for i in range(2):
        h = block(f"middle_block{i}", h)
    for level in reversed(range(len(widths))):
        for i in range(module.num_res_blocks + 1):
            h = block(f"up{level}_block{i}", torch().cat([h, skips.pop()], 1))
        if level:
            h = _conv(p[f"up{level}"], _upsample(h))
    h = _conv(p["conv_out"], _silu(norm(p["norm_out"], h)))
    return x + t[:, None, None, None] * _unfold(h, module.patch_size)


def _denoising(module, p, x, sigma):
    level = sigma[:, None, None, None].expand(-1, 1, *x.shape[2:])

    def blocks(h, name, repeats):
        for i in range(repeats):
            inner = torch().relu(_conv(p[f"{name}_block{i}_in"], h))
            h = h + _conv(p[f"{name}_block{i}_out"], inner)
        return h

    first = h = _conv(p["conv_in"], _fold(torch().cat([x, level], 1), module.patch_size))
    skips, count = [], len(module.multipliers)
    for i in range(count - 1):
        h = blocks(h, f"down{i}", module.num_res_blocks)
        skips.append(h)
        h = _dense(p[f"down{i}"], _fold(h, 2))
    h = blocks(h, "middle", 2 * module.num_res_blocks)
    for i in reversed(range(count - 1)):
        h = _unfold(_dense(p[f"up{i}"], h), 2) + skips.pop()
        h = blocks(h, f"up{i}", module.num_res_blocks)
    return x + _unfold(_conv(p["conv_out"], h + first), module.patch_size)


def _ddpm(module, p, x, t):
    half = module.channels // 2
    angles = t[:, None] * torch().exp(-math.log(10_000.0) * torch().arange(half) / (half - 1))
    features = torch().cat([torch().sin(angles), torch().cos(angles)], -1)
    features = _silu(_dense(p["temb_dense_1"], _silu(_dense(p["temb_dense_0"], features))))
    names = ("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut")
    norm = functools.partial(_norm, groups=module.num_groups)

    def attention(p, x):
        h = norm(p["norm"], x)
        q, k, v = (_conv(p[name], h, padding=0).flatten(2).transpose(1, 2) for name in "qkv")
        h = torch().nn.functional.scaled_dot_product_attention(q, k, v)
        return x + _conv(p["proj_out"], h.transpose(1, 2).reshape(x.shape), padding=0)

    def block(name, i, h):
        h = _res_block(p[f"{name}block_{i}"], names, h, features, norm)
        return attention(p[f"{name}attn_{i}"], h) if f"{name}attn_{i}" in p else h

    h = _conv(p["conv_in"], _fold(x, module.patch_size))
    skips, count = [h], len(module.multipliers)
    for level in range(count):
        for i in range(module.num_res_blocks):
            h = block(f"down_{level}_", i, h)
            skips.append(h)
        if level < count - 1:
            h = torch().nn.functional.pad(h, (0, 1, 0, 1))
            h = _conv(p[f"down_{level}_downsample"], h, stride=2, padding=0)
            skips.append(h)
    h = block("mid_", 2, block("mid_", 1, h))
    for level in reversed(range(count)):
        for i in range(module.num_res_blocks + 1):
            h = block(f"up_{level}_", i, torch().cat([h, skips.pop()], 1))
        if level:
            h = _conv(p[f"up_{level}_upsample"], _upsample(h))
    return _unfold(_conv(p["conv_out"], _silu(norm(p["norm_out"], h))), module.patch_size)


def bird(module, params, schedule, y, unknowns, rates):
    """BIRD's blind deblurring as its released program goes: each DDIM step with its noise prediction as a constant, the
    kernel by a network, Adam on both, z back to its sphere.

    Args:
        module, params: the network, as for :func:`apply`; not differentiated.
        schedule: its few levels.
        y: blurred pictures ``[B, H, W, C]``.
        unknowns: of ``operators.blind_blur(form="mlp", boundary="zero", correlate=True)``.
        rates: of z and of the unknowns.

    Returns:
        ``(start, step)``: ``start(z) -> state`` of noise ``[B, H, W, C]``; ``step(state) -> (z, x0, loss)``, which
        moves the state on: z and the picture ``[B, C, H, W]``, the losses ``[B]``.
    """
    nn, y = torch().nn.functional, pictures(y)
    batch, channels = y.shape[:2]
    taps = unknowns["out"]["bias"].shape[-1]
    levels = [(float(t), *(math.sqrt(float(each)) for each in (a, 1 - a, b, 1 - b))) for t, a, b in zip(
        schedule.timesteps[::-1], schedule.alpha_bar[::-1], schedule.alpha_bar_prev[::-1])]

    def rollout(x):
        for t, signal, noise, signal_s, noise_s in levels:
            with torch().no_grad():
                eps = apply(module, params, x, torch().full((batch,), t))
            x0 = torch().clamp((x - noise * eps) / signal, -1, 1)
            x = signal_s * x0 + noise_s * (x - signal * x0) / noise
        return x

    def kernel(net):
        h = nn.relu6(torch().einsum("bi,bij->bj", net["input"], net["hidden"]["kernel"]) + net["hidden"]["bias"])
        logits = torch().einsum("bj,bjk->bk", h, net["out"]["kernel"]) + net["out"]["bias"]
        return torch().softmax(logits, 1).reshape(batch, 1, math.isqrt(taps), math.isqrt(taps))

    def start(z):
        net = jax.tree.map(lambda leaf: torch().from_numpy(np.array(leaf, np.float32)), unknowns)
        learned = [*net["hidden"].values(), *net["out"].values()]
        z = pictures(z)
        for leaf in (z, *learned):
            leaf.requires_grad_()
        optimizer = torch().optim.Adam([{"params": [z], "lr": rates[0]}, {"params": learned, "lr": rates[1]}])
        return z, net, optimizer

    def step(state):
        z, net, optimizer = state
        optimizer.zero_grad()
        x0 = rollout(z)
        blurred = nn.conv2d(x0.reshape(1, batch * channels, *x0.shape[2:]), kernel(net).repeat_interleave(channels, 0),
                            padding="same", groups=batch * channels).reshape(x0.shape)
        losses = torch().mean((blurred - y)**2, dim=(1, 2, 3))
        losses.sum().backward()
        optimizer.step()
        with torch().no_grad():
            radius = math.sqrt(z[0].numel())
            z.mul_(radius / torch().linalg.vector_norm(z, dim=(1, 2, 3), keepdim=True))
        return z, x0, losses

    return start, step
