"""The UNet of latent diffusion (Rombach et al. 2022), as Stable Diffusion uses it: time, context, transformers."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from indigo_jax.models import layers
from indigo_jax.typing import Array


class LatentUNet(layers.Network):
    """Predictor (of eps, v or x0, as it was trained) for noisy latents, given a context such as an encoded text.

    At its defaults that of Stable Diffusion 1: 859,520,964 parameters. ``context_dim=1024`` and
    ``num_heads=(5, 10, 20, 20)`` make that of Stable Diffusion 2: 865,910,724. Their weights, and those of XL, come
    through :func:`convert.diffusers_unet`. With ``context_dim=0`` nothing but the time conditions it; so for a prior of
    few parameters: ``LatentUNet((64, 96, 128), (False, True, True), 1, num_heads=4, context_dim=0)`` has 5,206,084.

    GroupNorm and attention look at the whole latent. Self-attention takes memory that grows with the square of the
    number of latents of a level: large pictures go through in tiles.

    Attributes:
        block_out_channels: width of each level; each but the last halves the sides, rounding up.
        has_attention: of each level: whether a transformer follows each block. One always does in the middle.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        num_heads: of attention: a number, or one per level. They divide the widths.
        context_dim: channels of the context; 0: none is taken, and there is no cross-attention.
        in_channels: of the latents.
        out_channels: of the prediction.
        num_groups: of every GroupNorm.
        transformer_depth: blocks of each transformer: a number, or one per level; in the middle that of the last level.
        convolution, dtype: see :class:`layers.Network`.

    Source: "High-resolution image synthesis with latent diffusion models", section 3.3; "GLU variants improve
    transformer" for the feed-forward layer. Differs from the reference in: no dropout; without context the
    transformers have two layers, not a second self-attention.
    """
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    has_attention: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    num_heads: int | tuple[int, ...] = 8
    context_dim: int = 768
    in_channels: int = 4
    out_channels: int = 4
    num_groups: int = 32
    transformer_depth: int | tuple[int, ...] = 1

    epsilon = 1e-5  # torch's default; the transformers' GroupNorm has 1e-6

    @nn.compact
    def __call__(self, x: Array, t: Array, context: Array | None = None) -> Array:
        """Predict the noise, or what else it was trained for.

        Args:
            x: noisy latents ``[B, h, w, in_channels]`` of any size, in the scale of the diffusion (those of the
                autoencoder times its ``scaling_factor``).
            t: ``[B]`` timesteps, as numbers from 0 to 999 (not divided by anything).
            context: ``[B, L, context_dim]``, L of any length; None if ``context_dim`` is 0.

        Returns:
            ``[B, h, w, out_channels]`` float32.

        Errors:
            ValueError for other shapes, a missing or unwanted context, or heads that do not divide a width.
        """
        widths, levels = self.block_out_channels, len(self.block_out_channels)
        heads = (self.num_heads,) * levels if isinstance(self.num_heads, int) else self.num_heads
        depths = self.transformer_depth
        depths = (depths,) * levels if isinstance(depths, int) else depths
        layers.check_latents(x, channels=self.in_channels)
        self._check(x, t, context, heads, depths)
        context = None if context is None else context.astype(self.dtype)

        features = layers.timestep_embedding(t, widths[0]).astype(self.dtype)
        features = nn.Dense(4 * widths[0], dtype=self.dtype, name="time_embed_1")(features)
        features = nn.silu(nn.Dense(4 * widths[0], dtype=self.dtype, name="time_embed_2")(nn.silu(features)))

        def block(h, width, name):
            return layers.ResidualBlock(width, self.num_groups, self.epsilon, zero_init=True, name=name,
                                        **self.how)(h, features)

        def attention(h, level, name):
            transformer = SpatialTransformer(heads[level], self.num_groups, depths[level], name=name, **self.how)
            return transformer(h, context)

        h = self.conv3x3(x.astype(self.dtype), widths[0], "conv_in")
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.layers_per_block):
                h = block(h, width, f"down_{level}_block_{i}")
                if self.has_attention[level]:
                    h = attention(h, level, f"down_{level}_attention_{i}")
                skips.append(h)
            if level < levels - 1:
                h = self.conv3x3(h, width, f"down_{level}_downsample", strides=2)
                skips.append(h)
        h = block(h, widths[-1], "mid_block_0")
        h = block(attention(h, -1, "mid_attention"), widths[-1], "mid_block_1")
        for place in range(levels):  # numbered in the order of the computation
            level = levels - 1 - place
            for i in range(self.layers_per_block + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), widths[level], f"up_{place}_block_{i}")
                if self.has_attention[level]:
                    h = attention(h, level, f"up_{place}_attention_{i}")
            if level:
                _, rows, columns, _ = skips[-1].shape
                h = layers.upsample_nearest(h)[:, :rows, :columns]
                h = self.conv3x3(h, widths[level], f"up_{place}_upsample")
        h = nn.silu(self.group_norm(h, "norm_out"))
        return self.conv3x3(h, self.out_channels, "conv_out", zero_init=True).astype(jnp.float32)

    def _check(self, x, t, context, heads, depths):
        widths = self.block_out_channels
        if not len(widths) == len(heads) == len(self.has_attention) == len(depths):
            raise ValueError(f"{len(widths)} levels of block_out_channels, {len(self.has_attention)} of has_attention, "
                             f"{len(depths)} of transformer_depth and {len(heads)} of num_heads")
        for level, (width, number) in enumerate(zip(widths, heads)):
            if (self.has_attention[level] or level == len(widths) - 1) and width % number:
                raise ValueError(f"{number} heads of attention do not divide the {width} channels of level {level}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"times [{x.shape[0]}], one per latent, are needed, got {t.shape}")
        if self.context_dim == 0 and context is not None:
            raise ValueError(f"a network with context_dim=0 takes no context, got {context.shape}")
        if self.context_dim and (context is None or context.ndim != 3 or context.shape[1] == 0
                                 or (context.shape[0], context.shape[2]) != (x.shape[0], self.context_dim)):
            raise ValueError(f"a context [{x.shape[0]}, L, {self.context_dim}] is needed, got "
                             f"{None if context is None else context.shape}")


class SpatialTransformer(layers.Network):
    """``x + proj_out(block(proj_in(norm(x))))`` over the list of all pixels; ``depth`` blocks.

    The projections of Stable Diffusion 1 are stored as 1 x 1 convolutions, those of 2 as matrices: the same numbers.
    """
    num_heads: int
    num_groups: int = 32
    depth: int = 1

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """``x`` ``[B, h, w, C]``, ``context`` ``[B, L, D]`` or None -> ``[B, h, w, C]``."""
        batch, _, _, channels = x.shape
        h = self.group_norm(x, "norm").reshape(batch, -1, channels)
        h = nn.Dense(channels, dtype=self.dtype, name="proj_in")(h)
        for i in range(self.depth):
            h = TransformerBlock(self.num_heads, name=f"block_{i}" if i else "block", **self.how)(h, context)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros_init(), name="proj_out")(h)
        return x + h.reshape(x.shape)


class TransformerBlock(layers.Network):
    """``h += attention(norm(h))``, with a context ``h += attention(norm(h), context)``, then ``h += ff(norm(h))``,
    ``ff(h) = Dense(a gelu(b))`` with ``a, b = Dense(h)``, four times as wide (GEGLU)."""
    num_heads: int

    @nn.compact
    def __call__(self, h: Array, context: Array | None = None) -> Array:
        """``h`` ``[B, N, C]``, ``context`` ``[B, L, D]`` or None -> ``[B, N, C]``."""
        def norm(h, name):
            layer = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name)
            return layer(h.astype(jnp.float32)).astype(self.dtype)

        channels = h.shape[-1]
        normed = norm(h, "norm_self")
        h = h + HeadAttention(self.num_heads, name="self_attention", **self.how)(normed, normed)
        if context is not None:
            normed = norm(h, "norm_cross")
            h = h + HeadAttention(self.num_heads, name="cross_attention", **self.how)(normed, context)
        a = nn.Dense(8 * channels, dtype=self.dtype, name="feed_forward_in")(norm(h, "norm_feed_forward"))
        a, b = jnp.split(a, 2, axis=-1)
        return h + nn.Dense(channels, dtype=self.dtype, name="feed_forward_out")(a * nn.gelu(b, approximate=False))


class HeadAttention(layers.Network):
    """``proj(softmax(q k^T / sqrt(C / heads)) v)``, q of h, k and v of the context; only proj has a bias.

    The channels are ordered by head, then channel of the head.
    """
    num_heads: int

    @nn.compact
    def __call__(self, h: Array, context: Array) -> Array:
        """``h`` ``[B, N, C]``, ``context`` ``[B, L, D]`` -> ``[B, N, C]``."""
        channels = h.shape[-1]

        def project(a, name):
            a = nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)(a)
            return a.reshape(*a.shape[:2], self.num_heads, -1)

        q, k, v = project(h, "q"), project(context, "k"), project(context, "v")
        scores = jnp.einsum("bihc,bjhc->bhij", q, k, preferred_element_type=jnp.float32) * q.shape[-1]**-0.5
        out = jnp.einsum("bhij,bjhc->bihc", jax.nn.softmax(scores).astype(self.dtype), v)
        return nn.Dense(channels, dtype=self.dtype, name="proj_out")(out.reshape(h.shape))
