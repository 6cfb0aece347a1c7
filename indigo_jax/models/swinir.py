"""SwinIR (Liang et al. 2021): attention in windows; as INDIGO+ uses it, for the first estimate of a picture."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.models import layers
from indigo_jax.models.restoration_unet import pad_to_multiple
from indigo_jax.typing import Array

_MEAN = (0.4488, 0.4371, 0.4040)  # of its training pictures (DIV2K), in [0, 1]


class SwinIR(layers.Network):
    """A degraded picture -> a restored one of the same size, in one call.

    At its defaults the network of DifFace and DiffBIR: 15,792,587 parameters. Pictures of any size: padded by
    reflection below and to the right up to a multiple of ``unshuffle window``, and cut. Attention looks at windows of
    ``window`` folded pixels; each block but the first of a pair moves them by half.

    Attributes:
        width: channels; ``num_heads`` divides it.
        depths: blocks in each group.
        num_heads: of attention.
        window: side of the windows, in folded pixels.
        mlp_ratio: hidden channels of the two dense layers after attention, in units of ``width``.
        unshuffle: side of the pixel blocks that are folded into channels at the door, a power of two; 1: none, and
            the result is the picture plus what the last convolution makes of it.
        features: channels of the way back to pixels, where ``unshuffle`` is above 1.
        convolution, dtype: see :class:`layers.Network`.

    Source: SwinIR, ICCV workshops 2021 (arXiv 2108.10257); the folded pixels: Yue and Loy, DifFace, TPAMI 2024
    (arXiv 2212.06512).
    """
    width: int = 180
    depths: tuple[int, ...] = (6,) * 8
    num_heads: int = 6
    window: int = 8
    mlp_ratio: float = 2.0
    unshuffle: int = 8
    features: int = 64

    @nn.compact
    def __call__(self, x: Array, t: Array | None = None) -> Array:
        """Restore.

        Args:
            x: pictures ``[B, H, W, 3]`` in [-1, 1].
            t: ``[B]``, not looked at: here so that it is called as other restorers are.

        Returns:
            ``[B, H, W, 3]`` float32, about in [-1, 1].
        """
        del t
        mean = jnp.asarray(_MEAN, jnp.float32)
        picture = pad_to_multiple(x.astype(jnp.float32) / 2 + 0.5 - mean, self.unshuffle * self.window)
        h = layers.space_to_depth(picture, self.unshuffle).astype(self.dtype)
        first = self.conv3x3(h, self.width, "conv_first")
        h = _norm(first, "norm_in", self.dtype)
        for group, depth in enumerate(self.depths):
            inner = h
            for block in range(depth):
                inner = WindowBlock(self.num_heads, self.window, self.window // 2 if block % 2 else 0, self.mlp_ratio,
                                    name=f"group_{group}_block_{block}", **self.how)(inner)
            h = h + self.conv3x3(inner, self.width, f"group_{group}_conv")
        h = first + self.conv3x3(_norm(h, "norm_out", self.dtype), self.width, "conv_after_body")
        if self.unshuffle == 1:
            h = picture + self.conv3x3(h, 3, "conv_last").astype(jnp.float32)
        else:
            leaky = functools.partial(nn.leaky_relu, negative_slope=0.2)
            h = nn.leaky_relu(self.conv3x3(h, self.features, "conv_before_up"), 0.01)
            for i in range(self.unshuffle.bit_length() - 1):
                h = leaky(self.conv3x3(layers.upsample_nearest(h), self.features, f"conv_up_{i}"))
            h = leaky(self.conv3x3(h, self.features, "conv_hr"))
            h = self.conv3x3(h, 3, "conv_last").astype(jnp.float32)
        return 2 * (h[:, :x.shape[1], :x.shape[2]] + mean) - 1


class WindowBlock(layers.Network):
    """``h += attention(norm(h))`` within windows that are moved by ``shift``, ``h += dense(gelu(dense(norm(h))))``."""
    num_heads: int
    window: int
    shift: int
    mlp_ratio: float

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """``[B, h, w, C]`` with sides divisible by the window -> the same."""
        batch, rows, columns, channels = h.shape
        side, heads = self.window, self.num_heads
        counts = rows // side, columns // side

        def windows(x):
            x = x.reshape(batch, counts[0], side, counts[1], side, -1).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(batch, counts[0] * counts[1], side * side, -1)

        moved = jnp.roll(_norm(h, "norm_attention", self.dtype), (-self.shift, -self.shift), (1, 2))
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(windows(moved))
        q, k, v = jnp.split(qkv.reshape(*qkv.shape[:3], 3 * heads, -1), 3, axis=3)
        table = self.param("position_bias", nn.initializers.truncated_normal(0.02), ((2 * side - 1)**2, heads))
        bias = table[_relative_positions(side)].transpose(2, 0, 1)
        scores = jnp.einsum("bnihc,bnjhc->bnhij", q, k, preferred_element_type=jnp.float32) * q.shape[-1]**-0.5
        scores = scores + bias
        if self.shift:  # what lay on opposite sides of the picture does not see each other
            region = _regions(rows, columns, side, self.shift)
            scores = jnp.where((region[:, :, None] == region[:, None, :])[None, :, None], scores, scores - 100.0)
        out = jnp.einsum("bnhij,bnjhc->bnihc", jax.nn.softmax(scores).astype(self.dtype), v)
        out = nn.Dense(channels, dtype=self.dtype, name="proj")(out.reshape(*out.shape[:3], channels))
        out = out.reshape(batch, *counts, side, side, channels).transpose(0, 1, 3, 2, 4, 5).reshape(h.shape)
        h = h + jnp.roll(out, (self.shift, self.shift), (1, 2))
        inner = nn.Dense(int(self.mlp_ratio * channels), dtype=self.dtype, name="dense_in")(
            _norm(h, "norm_dense", self.dtype))
        return h + nn.Dense(channels, dtype=self.dtype, name="dense_out")(nn.gelu(inner, approximate=False))


def _norm(h, name, dtype):
    """LayerNorm over the channels, in float32."""
    norm = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name)
    return norm(h.astype(jnp.float32)).astype(dtype)


def _relative_positions(side):
    """``[side^2, side^2]``: the row of the table for each pair of places in a window."""
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places[None] + side - 1
    return apart[..., 0] * (2 * side - 1) + apart[..., 1]


def _regions(rows, columns, side, shift):
    """``[windows, side^2]``: after the move, which part of the picture each place comes from."""
    bands = [np.repeat(np.arange(3), (length - side, side - shift, shift)) for length in (rows, columns)]
    region = 3 * bands[0][:, None] + bands[1][None]
    region = region.reshape(rows // side, side, columns // side, side).transpose(0, 2, 1, 3)
    return region.reshape(-1, side * side)
