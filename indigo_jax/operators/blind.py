"""Operators with unknowns: called as ``A(x, params)``; ``A.init(keys)`` makes the params to start from, per image."""
import jax
import jax.numpy as jnp

from indigo_jax.operators import base, kernels
from indigo_jax.operators.blur import BOUNDARIES, blur
from indigo_jax.typing import Array, Key, Params

KERNEL_FORMS = ("softmax", "mlp")
_INPUTS, _HIDDEN = 200, 1000  # of the kernel network


@base.operator
class BlindBlur:
    """See :func:`blind_blur`."""

    start_sigma: Array
    size: int = base.static(default=9)
    form: str = base.static(default="softmax")
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

    linear = False
    stochastic = False
    shape_preserving = True

    def init(self, keys: Key) -> Params:
        """Unknowns to start from, one set per key: every leaf begins with ``[B]``."""
        return jax.vmap(self._init)(keys)

    def _init(self, key):
        if self.form == "softmax":
            return {"logits": jnp.log(kernels.gaussian_kernel(self.start_sigma, self.size) + 1e-8)}
        draw, taps = jax.random.uniform, self.size**2
        slots = [jax.random.fold_in(key, slot) for slot in range(5)]
        in_, hid = 1 / _INPUTS**0.5, 1 / _HIDDEN**0.5
        return {"input": 0.1 * draw(slots[0], (_INPUTS,)),
                "hidden": {"kernel": draw(slots[1], (_INPUTS, _HIDDEN), minval=-in_, maxval=in_),
                           "bias": draw(slots[2], (_HIDDEN,), minval=-in_, maxval=in_)},
                "out": {"kernel": draw(slots[3], (_HIDDEN, taps), minval=-hid, maxval=hid),
                        "bias": draw(slots[4], (taps,), minval=-hid, maxval=hid)}}

    def kernel(self, params: Params) -> Array:
        """The kernels that the unknowns stand for: ``[B, size, size]``, non-negative, sum 1."""
        if self.form == "softmax":
            logits = params["logits"].reshape(-1, self.size**2)
        else:
            h = jnp.einsum("bi,bij->bj", jax.lax.stop_gradient(params["input"]), params["hidden"]["kernel"])
            h = jnp.clip(h + params["hidden"]["bias"], 0.0, 6.0)
            logits = jnp.einsum("bj,bjk->bk", h, params["out"]["kernel"]) + params["out"]["bias"]
        return jax.nn.softmax(logits).reshape(-1, self.size, self.size)

    def __call__(self, x: Array, params: Params, *, keys: Key | None = None) -> Array:
        del keys
        return blur(self.kernel(params), boundary=self.boundary, correlate=self.correlate)(x)


def blind_blur(size: int, *, form: str = "softmax", start_sigma: float = 2.0, boundary: str = "reflect",
               correlate: bool = False) -> BlindBlur:
    """Blur by an unknown kernel, one per image and the same for all channels: ``y = A(x, params)``.

    Args:
        size: side of the kernel, odd.
        form: "softmax": the kernel is the softmax of its logits, which start as a Gaussian. "mlp": the softmax of a
            two-layer network of a fixed random input (200 - 1000 - size^2, ReLU6), as in SelfDeblur (Ren et al. 2020)
            and BIRD's released code; it starts nearly flat.
        start_sigma: of that Gaussian, pixels. Narrow starts fall into "no blur at all".
        boundary, correlate: as for :func:`blur`. BIRD's released code uses "zero" and True.

    Errors:
        ValueError for an even size, an unknown form or boundary.

    >>> from indigo_jax import rng
    >>> A = blind_blur(5)
    >>> params = A.init(rng.image_keys(0, [0, 1]))
    >>> A.kernel(params).shape, A(jnp.zeros((2, 8, 8, 3)), params).shape
    ((2, 5, 5), (2, 8, 8, 3))
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd and at least 1, got {size}")
    if form not in KERNEL_FORMS:
        raise ValueError(f"form must be one of {', '.join(KERNEL_FORMS)}; got {form!r}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {BOUNDARIES}, got {boundary!r}")
    return BlindBlur(base.check_number(start_sigma, "start_sigma", 0.0), size, form, boundary, correlate)
