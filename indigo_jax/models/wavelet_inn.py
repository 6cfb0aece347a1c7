"""The wavelet-inspired invertible network of INDIGO: a picture as a coarse picture and details, exactly invertible."""
import functools
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze

from indigo_jax import wavelets
from indigo_jax.models import lifting
from indigo_jax.typing import Array, Key, Params


class WaveletINN(nn.Module):
    """Invertible network: per level a wavelet split, then lifting steps of conditional networks P and U.

        ``coarse, details = split(coarse)``;  ``K`` times: ``details += P_k(coarse, cond)``,
        ``coarse += U_k(details, cond)``

    The same steps serve all levels. The inverse subtracts in the opposite order. Everything is additive: with the lazy
    split the log-determinant is zero. ``module.apply(params, x, cond, method="forward")`` and
    ``module.apply(params, coarse, details, cond, method="inverse")``; calling the module is ``forward``.
    488,960 parameters at its defaults (INDIGO+, pixels), 498,176 with ``channels=4`` (latents).

    Attributes:
        channels: of a picture.
        levels: splits; each halves the sides, and levels stop before a picture with a side below ``min_side``.
        lifting_steps: pairs of P and U, each with its own weights.
        width: channels inside of P and U.
        cond_dim: length of the condition.
        detail_slicing: ``"disjoint"``: P has three times ``channels`` outputs, one set for each detail.
            ``"overlap"``: detail i gets the outputs from i on, as in the released network; the last ones are unused.
        num_blocks: conditional residual blocks in each P and U.
        cond_width: of the layer between the condition and the scales of a block.
        split: ``"lazy"``, ``"haar"``, ``"5/3"`` or ``"9/7"``, of :mod:`indigo_jax.wavelets`, with scaling ``"mean"``:
            the coarse picture has the brightness of the picture.
        undecimated: coarse and details keep the size of the picture, for tasks that do: neighbours of level ``l``, and
            the taps of P and U, lie ``2^l`` pixels apart. Then ``forward`` is one-to-one, not onto.
        offset: subtracted at the door and added to the coarse picture: 0.5 for pixels in [0, 1], 0 for latents.
        min_side: as for ``levels``.
        spectral_bound: None, or a bound ``b`` of the spectral norm of every convolution, by scaling kernels above it;
            the scales of the condition then pass through tanh. Each P and U has a Lipschitz constant in the picture of
            ``b^2 (1 + b^2)^num_blocks`` at most; what the condition does to them is not bounded.
        null_embedding: learn a vector that stands for "no condition": parameter ``null_condition``, for ``cond=None``.
        start: ``"reference"``: initial weights as torch draws them. ``"identity"``: the last convolutions are zero, and
            the blocks begin at scale one (about: it is ``1 + small``), so that an untrained network is the split alone.
        reversible: gradients recompute the activations from the results, so that memory does not grow with
            ``lifting_steps``. Steps run in a loop, which on a CPU wants ``convolution="flipped"``. Forward-mode
            differentiation does not go through it.
        remat: gradients recompute the inside of P and U from kept pictures (nothing where ``reversible``; XLA on a CPU
            may undo it).
        convolution: ``"plain"``, or ``"flipped"`` for fast gradients on a CPU; see :mod:`models.convolutions`.
        exact_bits: None, or ``k``: pictures, and what P and U add, are rounded to multiples of ``2^-k``, and sums of
            such numbers below ``2^(24 - k)`` are exact in float32. The round trip is then as exact as the rounding of
            the picture, ``2^-(k+1)``, at any type of P and U and for any weights that stay in that range.
        dtype: of P and U; parameters stay float32, sums and results at least that.
        precision: of their products: ``"highest"``, or with ``exact_bits`` ``"high"`` or ``"default"``.
        allow_inexact: take a type or precision that breaks the inverse, to measure how much.

    Errors:
        ValueError at the first call for a type or precision that breaks the inverse, or an option that is none.

    Source: You and Dragotti, INDIGO+ (2024), and its released network. For latents the papers' structure is not known
    to us: four channels and offset 0 are our choice; so are undecimated, the other splits, spectral_bound and start.
    Differs from the reference in: disjoint slicing by default; any size; memory and precision options.
    """
    channels: int = 3
    levels: int = 2
    lifting_steps: int = 4
    width: int = 32
    cond_dim: int = 128
    detail_slicing: str = "disjoint"
    num_blocks: int = 2
    cond_width: int = 64
    split: str = "lazy"
    undecimated: bool = False
    offset: float = 0.5
    min_side: int = 8
    spectral_bound: float | None = None
    null_embedding: bool = False
    start: str = "reference"
    reversible: bool = False
    remat: bool = False
    convolution: str = "plain"
    exact_bits: int | None = None
    dtype: Any = jnp.float32
    precision: str = "highest"
    allow_inexact: bool = False

    def setup(self):
        self._check_options()
        self.lifting = self.param("lifting", lambda key: lifting.init_lifting(
            key, lifting_steps=self.lifting_steps, channels=self.channels, width=self.width,
            num_blocks=self.num_blocks, cond_dim=self.cond_dim, cond_width=self.cond_width, start=self.start))
        if self.null_embedding:
            self.null_condition = self.param("null_condition", nn.initializers.normal(0.1), (self.cond_dim,))

    def __call__(self, x: Array, cond: Array | None = None) -> tuple[Array, list[list[Array]]]:
        """:meth:`forward`."""
        return self.forward(x, cond)

    def forward(self, x: Array, cond: Array | None = None) -> tuple[Array, list[list[Array]]]:
        """Decompose.

        Args:
            x: pictures ``[B, H, W, channels]``, in [0, 1] (or latents, with ``offset=0``).
            cond: ``[B, cond_dim]``; None for the learned null embedding.

        Returns:
            ``(coarse, details)``: coarse ``[B, ceil(H / 2^levels), ceil(W / 2^levels), channels]`` in the range of
            ``x``, and a list of levels, the coarsest first, each a list of three arrays as :func:`wavelets.split`
            gives them. With fewer levels where ``min_side`` ends them.

        Errors:
            ValueError for other channels, an empty picture or a condition of another shape.
        """
        if x.ndim != 4 or x.shape[-1] != self.channels or 0 in x.shape[1:3]:
            raise ValueError(f"pictures [B, H, W, {self.channels}] are needed, got {x.shape}")
        cond, params = self._condition(cond, x.shape[0]), self._parameters()
        coarse, details = self._float(x) - self.offset, []
        for level in range(self.levels):
            if min(coarse.shape[1:3]) < self.min_side:
                break
            coarse, high = wavelets.split(coarse, self.split, **self._wavelet(level))
            coarse, high = self._lift(params, coarse, high, cond, level, 1)
            details.insert(0, list(high))
        return coarse + self.offset, details

    def inverse(self, coarse: Array, details: Sequence[Any], cond: Array | None = None) -> Array:
        """Compose: ``inverse(*forward(x, cond), cond) == x``; with another coarse picture, its picture with those
        details.

        Args:
            coarse: as :meth:`forward` gives it.
            details: as :meth:`forward` gives them; a level may also be one array with the three along channels.
            cond: as for :meth:`forward`.

        Returns:
            ``[B, H, W, channels]``.

        Errors:
            ValueError for shapes that do not belong together.
        """
        cond, params = self._condition(cond, coarse.shape[0]), self._parameters()
        if coarse.ndim != 4 or coarse.shape[-1] != self.channels or len(details) > self.levels:
            raise ValueError(f"a coarse picture [B, h, w, {self.channels}] and at most {self.levels} levels of details "
                             f"are needed, got {coarse.shape} and {len(details)}")
        x = self._float(coarse) - self.offset
        for level, high in reversed(list(enumerate(reversed(details)))):
            high = tuple(jnp.split(high, 3, axis=-1) if hasattr(high, "shape") else high)
            self._check_level(x, high)
            x, high = self._lift(params, x, tuple(map(self._float, high)), cond, level, -1)
            x = wavelets.merge(x, high, self.split, **self._wavelet(level))
        return x + self.offset

    def _lift(self, params, coarse, details, cond, level, sign):
        rule = lifting.Rule(self.detail_slicing, 2**level if self.undecimated else 1, self.spectral_bound is not None,
                            self.exact_bits, self.remat, self.convolution, jnp.dtype(self.dtype), self.precision)
        parts = lifting.on_grid(coarse, details, rule)
        if self.reversible:
            return lifting.lift_reversible(lifting.stack_steps(params), *parts, cond, rule, sign)
        return lifting.lift(params, *parts, cond, rule, sign)

    def _wavelet(self, level):
        return dict(scaling="mean", undecimated=self.undecimated, dilation=2**level if self.undecimated else 1)

    def _parameters(self):
        params = unfreeze(self.lifting)  # linen freezes the attributes of setup; gradients by hand need plain dicts
        return params if self.spectral_bound is None else lifting.bound_kernels(params, self.spectral_bound)

    def _float(self, x):
        return x.astype(jnp.float64 if jnp.dtype(self.dtype) == jnp.float64 else jnp.float32)

    def _condition(self, cond, batch):
        if cond is None and not self.null_embedding:
            raise ValueError("cond=None needs WaveletINN(null_embedding=True), trained so; or give a condition "
                             f"[B, {self.cond_dim}]")
        cond = jnp.broadcast_to(self.null_condition, (batch, self.cond_dim)) if cond is None else cond
        if cond.shape != (batch, self.cond_dim):
            raise ValueError(f"a condition of shape {(batch, self.cond_dim)} is needed, got {cond.shape}")
        return cond

    def _check_level(self, coarse, high):
        wanted = 3 * [coarse.shape[0:1] + coarse.shape[3:]]
        steps = (0,) if self.undecimated else (0, 1)
        gaps = [tuple(a - b for a, b in zip(coarse.shape[1:3], d.shape[1:3])) for d in high]
        if (len(high) != 3 or [d.shape[0:1] + d.shape[3:] for d in high] != wanted or gaps[2][0] not in steps
                or gaps[2][1] not in steps or gaps[:2] != [(gaps[2][0], 0), (0, gaps[2][1])]):
            raise ValueError(f"a coarse picture {coarse.shape} does not belong to details "
                             f"{[d.shape for d in high]}: was it made at another scale?")

    def _check_options(self):
        for name, known in (("detail_slicing", ("disjoint", "overlap")), ("start", ("reference", "identity")),
                            ("split", wavelets.NAMES), ("precision", ("highest", "high", "default"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        exact = jnp.finfo(self.dtype).nmant >= 23 and self.precision == "highest"
        if not exact and self.exact_bits is None and not self.allow_inexact:
            raise ValueError(f"WaveletINN is not invertible in {jnp.dtype(self.dtype).name} at {self.precision} "
                             "precision; use float32 at highest, or exact_bits=16")


class RoundTrip(NamedTuple):
    """One row of :func:`check_inverse`: the largest ``|inverse(forward(x)) - x|``."""
    dtype: str
    size: tuple[int, int]
    error: float


def check_inverse(module: WaveletINN, params: Params, *,
                  sizes: Sequence[int | tuple[int, int]] = (8, 15, 33, (257, 8)), dtypes: Sequence[Any] | None = None,
                  tolerance: float | None = 1e-5,
                  key: Key | None = None) -> list[RoundTrip]:
    """Round trips ``inverse(forward(x)) - x`` of random pictures on the device at hand: the worst per type and size.

    Forward and inverse are two compiled programs, as in use.

    Args:
        module: the network; its other options stay.
        params: its parameters.
        sizes: sides, or pairs of height and width.
        dtypes: of P and U; default: the module's. Also those that the module itself would refuse.
        tolerance: None to report only.
        key: of the pictures, ``offset`` +- 0.5, and of standard normal conditions.

    Returns:
        One :class:`RoundTrip` per type and size.

    Errors:
        ValueError that names type, size and error of the worst one above ``tolerance``, or not a number.
    """
    rows = []
    pixels, conditions = jax.random.split(jax.random.key(0) if key is None else key)
    cond = jax.random.normal(conditions, (1, module.cond_dim))
    for dtype in dtypes or (module.dtype,):
        inn = module.clone(dtype=jnp.dtype(dtype), allow_inexact=True)
        for size in sizes:
            size = (size, size) if isinstance(size, int) else tuple(size)
            x = module.offset + jax.random.uniform(pixels, (1, *size, module.channels), minval=-0.5, maxval=0.5)
            back = _run("inverse", inn, params, *_run("forward", inn, params, x, cond), cond)
            rows.append(RoundTrip(jnp.dtype(dtype).name, size, float(jnp.abs(back - x).max())))
    bad = [row for row in rows if tolerance is not None and not row.error <= tolerance]
    if bad:
        worst = max(bad, key=lambda row: float("inf") if row.error != row.error else row.error)
        raise ValueError(f"not invertible in {worst.dtype} at {worst.size[0]}x{worst.size[1]}: the round trip is off "
                         f"by {worst.error:.2g}, above {tolerance:g}; use float32 at highest precision, smaller "
                         "weights (spectral_bound) or exact_bits=16")
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(method, module, params, *arguments):
    return module.apply(params, *arguments, method=method)
