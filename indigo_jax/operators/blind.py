"""Operators with unknowns: called as ``A(x, params)``; ``A.init(keys)`` makes the params to start from, per image."""
import jax
import jax.numpy as jnp

from indigo_jax.operators import base, kernels
from indigo_jax.operators.blur import BOUNDARIES, blur
from indigo_jax.operators.varying_blur import patch_weights, varying_blur
from indigo_jax.typing import Array, Key, Params

KERNEL_FORMS = ("softmax", "mlp")
_INPUTS, _HIDDEN = 200, 1000  # of the kernel network


@base.operator()
class BlindBlur(base.Applied):
    """See :func:`blind_blur`."""
    start_sigma: Array
    size: int = base.static(default=9)
    form: str = base.static(default="softmax")
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

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

    def _apply(self, x: Array, params: Params) -> Array:
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
    _check(size, boundary)
    base.check_choice(form, "form", KERNEL_FORMS)
    return BlindBlur(base.check_number(start_sigma, "start_sigma", 0.0), size, form, boundary, correlate)


@base.operator()
class BlindVaryingBlur(base.Applied):
    """See :func:`blind_varying_blur`."""
    start_sigma: Array
    size: int = base.static(default=9)
    rows: int = base.static(default=3)
    columns: int = base.static(default=3)
    boundary: str = base.static(default="reflect")
    correlate: bool = base.static(default=False)

    def init(self, keys: Key) -> Params:
        """Unknowns to start from, one set per key: ``{"logits": [B, rows * columns, size, size]}``."""
        start = jnp.log(kernels.gaussian_kernel(self.start_sigma, self.size) + 1e-8)
        return {"logits": jnp.broadcast_to(start, (*keys.shape, self.rows * self.columns, *start.shape))}

    def kernel(self, params: Params) -> Array:
        """The kernels of the patches, row by row: ``[B, rows * columns, size, size]``, non-negative, sum 1."""
        return jax.nn.softmax(params["logits"], axis=(-2, -1))

    def _apply(self, x: Array, params: Params) -> Array:
        weights = patch_weights(x.shape[1], x.shape[2], self.rows, self.columns)
        return varying_blur(self.kernel(params), weights, boundary=self.boundary, correlate=self.correlate)(x)


def blind_varying_blur(size: int, rows: int, columns: int, *, start_sigma: float | Array = 2.0,
                       boundary: str = "reflect",
                       correlate: bool = False) -> BlindVaryingBlur:
    """Blur by unknown kernels that change across the picture: one per patch of a grid, blended (:func:`varying_blur`).

    Each kernel is the softmax of its logits, which start as a broad Gaussian. Images of any size; each has its own
    kernels.

    Args:
        size: side of the kernels, odd.
        rows, columns: of the grid. More patches follow the blur better and have less picture each to be found from.
        start_sigma, boundary, correlate: as for :func:`blind_blur`.

    Errors:
        ValueError for an even size, a grid without patches, an unknown boundary.

    Differs from the reference in: BIRD's released code models non-uniform blur as no blur at all (``A x = x``) and
    stops after 25 iterations.

    >>> from indigo_jax import rng
    >>> A = blind_varying_blur(5, 2, 3)
    >>> params = A.init(rng.image_keys(0, [0, 1]))
    >>> A.kernel(params).shape, A(jnp.zeros((2, 8, 8, 3)), params).shape
    ((2, 6, 5, 5), (2, 8, 8, 3))
    """
    _check(size, boundary)
    if min(rows, columns) < 1:
        raise ValueError(f"rows and columns must be at least 1, got {rows} and {columns}")
    start_sigma = base.check_number(start_sigma, "start_sigma", 0.0)
    return BlindVaryingBlur(start_sigma, size, rows, columns, boundary, correlate)


@base.operator()
class BlindGaussianBlur(base.Applied):
    """See :func:`blind_gaussian_blur`."""
    start_sigma: Array
    size: int = base.static(default=9)
    boundary: str = base.static(default="reflect")

    def init(self, keys: Key) -> Params:
        """The unknown to start from, one per key: ``{"log_sigma": [B]}``."""
        return {"log_sigma": jnp.broadcast_to(jnp.log(self.start_sigma), keys.shape)}

    def sigma(self, params: Params) -> Array:
        """Standard deviation of the Gaussian in pixels, ``[B]``."""
        return jnp.exp(params["log_sigma"])

    def kernel(self, params: Params) -> Array:
        """The kernels that the unknowns stand for: ``[B, size, size]``, non-negative, sum 1."""
        return kernels.gaussian_kernel(self.sigma(params), self.size)

    def _apply(self, x: Array, params: Params) -> Array:
        profile = jnp.sum(self.kernel(params), axis=-1)  # separable: down, then across
        return blur(profile[:, None, :], boundary=self.boundary)(
            blur(profile[:, :, None], boundary=self.boundary)(x))


def blind_gaussian_blur(size: int, *, start_sigma: float = 2.0, boundary: str = "reflect") -> BlindGaussianBlur:
    """Gaussian blur of unknown width, one per image: ``y = A(x, params)`` with the logarithm of the width as unknown.

    The width moves by at most about the optimiser's rate (times 100 percent) per iteration; differentiable above 0.05
    pixels.

    Args:
        size: side of the kernel, odd; about ``6 sigma + 1`` for the largest width in question.
        start_sigma: width to start from, pixels, above 0. Better too wide than too narrow.
        boundary: as for :func:`blur`.

    Errors:
        ValueError for an even size, a start_sigma below 0.05 or an unknown boundary.

    >>> from indigo_jax import rng
    >>> A = blind_gaussian_blur(9)
    >>> params = A.init(rng.image_keys(0, [0, 1]))
    >>> A.sigma(params).shape, A(jnp.zeros((2, 8, 8, 3)), params).shape
    ((2,), (2, 8, 8, 3))
    """
    _check(size, boundary)
    return BlindGaussianBlur(base.check_number(start_sigma, "start_sigma", 0.05), size, boundary)


def _check(size, boundary):
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd and at least 1, got {size}")
    base.check_choice(boundary, "boundary", BOUNDARIES)
