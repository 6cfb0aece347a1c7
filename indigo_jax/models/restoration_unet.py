"""The network of InDI: a fully convolutional, time-conditioned UNet that restores pictures of any size."""
import jax.numpy as jnp
from flax import linen as nn

from indigo_jax.models import layers
from indigo_jax.typing import Array


class RestorationUNet(layers.Network):
    """``F(x_t, t) = x_t + t G(x_t, t)``: residual UNet without attention.

    ``F(x, 0) = x`` by construction, and the velocity of the residual flow ``dx/dt = (x_t - F) / t = -G`` stays
    bounded as t goes to 0. The last convolution starts at zero, so an untrained network returns its input.

    Pictures of any size: the input is padded by reflection on the lower and right side up to a multiple of
    ``patch_size * 2^(levels - 1)`` and the output is cropped.

    Sizes (our choices; the published size is not known to us. A residual UNet with multipliers 1, 2, 3, 4, three
    blocks and no attention has 26 M parameters at width 64 and 6.5 M at width 32, the sizes reported for the same
    laboratory's deblurring network):

    =========================  ==================================================================================
    25.7 M ("paper-like")      ``RestorationUNet(width=64)``
    6.4 M                      ``RestorationUNet(width=32)``
    3.8 M, for a CPU           ``RestorationUNet(width=48, multipliers=(1, 2, 3), num_res_blocks=1, patch_size=2)``
    =========================  ==================================================================================

    Attributes:
        width: channels of the first level.
        multipliers: channels of each level, in units of ``width``.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        out_channels: channels of the restored picture.
        patch_size: side of the pixel blocks folded into channels at the door (1: none). 2 costs a quarter.
        norm: ``"group"`` or ``"layer"``; see :class:`indigo_jax.models.layers.Normalization`.
        condition_on_y: the network also sees the measurement y beside x_t.
        convolution, dtype: see :class:`layers.Network`.

    Source: Delbracio & Milanfar, Inversion by Direct Iteration, TMLR 2023 (arXiv 2303.11435), Eq. 9 for the role of
    F. The form ``x_t + t G`` is ours.
    """
    width: int = 32
    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    out_channels: int = 3
    patch_size: int = 1
    norm: str = "group"
    condition_on_y: bool = False

    def __call__(self, x_t: Array, t: Array, y: Array | None = None) -> Array:
        """Estimate the clean picture.

        Args:
            x_t: ``[B, H, W, C]`` in ``[-1, 1]`` (plus noise).
            t: ``[B]`` in ``[0, 1]``.
            y: the measurement, as ``x_t``; needed if and only if ``condition_on_y``.

        Returns:
            ``F(x_t, t)``, ``[B, H, W, out_channels]`` float32.
        """
        if self.condition_on_y != (y is not None):
            raise ValueError("this network was made with condition_on_y=" + (
                "True: call it as (x_t, t, y)" if self.condition_on_y else "False: call it as (x_t, t)"))
        height, width = x_t.shape[1:3]
        inputs = x_t if y is None else jnp.concatenate([x_t, y], axis=-1)
        inputs = pad_to_multiple(inputs, self.patch_size * 2 ** (len(self.multipliers) - 1))
        residual = self.backbone(inputs, t)[:, :height, :width]
        return x_t + t[:, None, None, None] * residual.astype(jnp.float32)

    @nn.compact
    def backbone(self, x: Array, t: Array) -> Array:
        """G: picture whose sides the levels divide ``[B, H, W, C]`` -> ``[B, H, W, out_channels]``."""
        channels = [int(round(self.width * m)) for m in self.multipliers]

        features = layers.timestep_embedding(1000.0 * t, self.width)
        features = nn.Dense(4 * self.width, dtype=self.dtype, name="time_in")(features)
        features = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="time_out")(nn.silu(features)))

        def res_block(h, count, name):
            return Block(count, zero_init=True, names=layers.IN_OUT, kind=self.norm, name=name, **self.how)(h, features)

        h = self.conv3x3(layers.space_to_depth(x, self.patch_size).astype(self.dtype), channels[0], "conv_in")
        skips = [h]
        for level, count in enumerate(channels):
            if level:
                h = self.conv3x3(h, count, f"down{level}", strides=2)
                skips.append(h)
            for i in range(self.num_res_blocks):
                h = res_block(h, count, f"down{level}_block{i}")
                skips.append(h)
        for i in range(2):
            h = res_block(h, channels[-1], f"middle_block{i}")
        for level, count in reversed(list(enumerate(channels))):
            for i in range(self.num_res_blocks + 1):
                h = res_block(jnp.concatenate([h, skips.pop()], axis=-1), count, f"up{level}_block{i}")
            if level:
                h = self.conv3x3(layers.upsample_nearest(h), count, f"up{level}")
        h = nn.silu(layers.Normalization(self.norm, self.dtype, name="norm_out")(h))
        h = self.conv3x3(h, self.out_channels * self.patch_size**2, "conv_out", zero_init=True)
        return layers.depth_to_space(h, self.patch_size)


class Block(layers.ResidualBlock):
    """A residual block with the normalisation ``kind`` of :class:`layers.Normalization` (SR3)."""
    kind: str = "group"

    def group_norm(self, x: Array, name: str) -> Array:
        return layers.Normalization(self.kind, self.dtype, name=name)(x)


def pad_to_multiple(x: Array, multiple: int) -> Array:
    """Reflect-pad ``[B, H, W, C]`` below and to the right so that ``multiple`` divides both sides.

    Reflection repeats as often as the size needs, so even a 1 x 1 picture can be padded.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        x = jnp.take(x, reflected_indices(size, -size % multiple), axis=axis) if size % multiple else x
    return x


def reflected_indices(size: int, extra: int):
    """Indices ``0..size + extra - 1`` folded back into ``0..size - 1`` by mirrors at the first and last sample.

    >>> reflected_indices(3, 4).tolist()
    [0, 1, 2, 1, 0, 1, 2]
    """
    period = max(2 * size - 2, 1)
    index = jnp.arange(size + extra) % period
    return jnp.minimum(index, period - index) if size > 1 else jnp.zeros_like(index)
