"""The UNet of DDPM (Ho et al. 2020), as BIRD uses it for CelebA-HQ."""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.typing import Array

_NAMES = ("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut")  # of the parts of a block, as in the port


class DDPMUNet(layers.Network):
    """Noise predictor of DDPM in the layout of its public torch port (the ``Model`` of DDIM, SDEdit and BIRD).

    At its defaults, BIRD's network for CelebA-HQ 256: 113,673,219 parameters. Weights of that port come through
    :func:`convert.ddpm_unet`.

    Attributes:
        channels: width of the first level.
        multipliers: width of each level over ``channels``; each level halves the sides.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_resolutions: sides, of pictures of ``image_size``, at which each block is followed by attention.
        image_size: side of the pictures of its training. It only places the attention: any sides that the levels
            divide can be put in.
        out_channels: of the prediction.
        num_groups: of every GroupNorm.
        patch_size: side of the pixel blocks folded into channels at the door (1: none). 2 costs a quarter.
        convolution, dtype: see :class:`layers.Network`.

    Differs from the reference in: no dropout; it runs at sizes other than ``image_size``.
    """
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    image_size: int = 256
    out_channels: int = 3
    num_groups: int = 32
    patch_size: int = 1

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Predict the noise.

        Args:
            x: noisy pictures ``[B, H, W, C]``; H and W divisible by ``patch_size 2^(levels - 1)``.
            t: ``[B]`` timesteps, as numbers from 0 to 999 (not divided by anything).

        Returns:
            ``[B, H, W, out_channels]`` float32.

        Errors:
            ValueError for sides that the levels do not divide.
        """
        layers.check_pictures(x, multiple=self.patch_size * 2 ** (len(self.multipliers) - 1))
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        sides = [self.image_size // self.patch_size // 2**level for level in range(len(widths))]
        attends = [side in self.attention_resolutions for side in sides]

        features = sinusoidal_embedding(t, self.channels).astype(self.dtype)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="temb_dense_0")(features)
        features = nn.Dense(4 * self.channels, dtype=self.dtype, name="temb_dense_1")(nn.silu(features))

        def block(h, level, name, attention):
            h = layers.ResidualBlock(widths[level], self.num_groups, names=_NAMES, name=f"{name[0]}block_{name[1]}",
                                     **self.how)(h, nn.silu(features))
            return Attention(self.num_groups, name=f"{name[0]}attn_{name[1]}", **self.how)(h) if attention else h

        h = layers.space_to_depth(x.astype(self.dtype), self.patch_size)
        h = self.conv3x3(h, self.channels, "conv_in")
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.num_res_blocks):
                h = block(h, level, (f"down_{level}_", i), attends[level])
                skips.append(h)
            if level < len(widths) - 1:
                h = nn.Conv(width, (3, 3), strides=(2, 2), padding=((0, 1), (0, 1)), dtype=self.dtype,
                            name=f"down_{level}_downsample")(h)
                skips.append(h)
        h = block(h, -1, ("mid_", 1), True)
        h = block(h, -1, ("mid_", 2), False)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, (f"up_{level}_", i), attends[level])
            if level:
                h = self.conv3x3(layers.upsample_nearest(h), width, f"up_{level}_upsample")
        h = self.conv3x3(nn.silu(self.group_norm(h, "norm_out")), self.out_channels * self.patch_size**2, "conv_out")
        return layers.depth_to_space(h, self.patch_size).astype(jnp.float32)


class Attention(layers.Network):
    """Self-attention over all pixels, one head: ``x + proj(softmax(q k^T / sqrt(C)) v)`` of ``norm(x)``."""
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        h = self.group_norm(x, "norm")
        q, k, v = (nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name=name)(h) for name in "qkv")
        return x + nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="proj_out")(attend(q, k, v))


def attend(q: Array, k: Array, v: Array) -> Array:
    """``softmax(q k^T / sqrt(C)) v`` over the pixels of ``[B, H, W, C]``; the softmax in float32."""
    q, k, v_ = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (q, k, v))
    scores = jnp.einsum("bic,bjc->bij", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    return jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores).astype(v.dtype), v_).reshape(v.shape)


def sinusoidal_embedding(t: Array, features: int) -> Array:
    """``[sin(t f_i), cos(t f_i)]`` with ``f_i = 10000^(-i / (half - 1))``: t ``[B]`` -> ``[B, features]`` float32."""
    half = features // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
