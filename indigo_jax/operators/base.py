"""What every operator shares: the dataclass decorator, argument checks, the exact adjoint and straight-through steps.

An operator is a frozen dataclass, called as ``A(x, keys=None) -> y``, and a jax pytree: its numbers and arrays are
traced leaves (one compilation serves every value), its structure (sizes, methods, modes) is static.
It carries three flags: ``linear`` (then it has ``adjoint``), ``stochastic`` (then it needs ``keys``) and
``shape_preserving``.
"""
import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.arrays import per_image, square, straight_through  # noqa: F401 - operators say base.per_image
from indigo_jax.arrays import split_as
from indigo_jax.typing import Array, Key


def operator(cls):
    """Make ``cls`` a frozen dataclass and a pytree, and its call compiled; fields of :func:`static` are constants."""
    cls.__call__ = jax.jit(cls.__call__)
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


def static(**kwargs):
    """A dataclass field that is part of the program, not of the data."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def concrete(value) -> np.ndarray | None:
    """``value`` as a numpy array, or None while it is being traced (then its numbers cannot be checked)."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def check_number(value, name: str, low: float, high: float = float("inf")) -> Array:
    """``value`` as float32, refused with a ``ValueError`` if it is known and outside ``[low, high]`` or not finite."""
    numbers = concrete(value)
    if numbers is not None and not (np.isfinite(numbers).all() and (numbers >= low).all() and (numbers <= high).all()):
        raise ValueError(f"{name} must be finite and in [{low}, {high}], got {value}")
    return jnp.asarray(value, jnp.float32)


def check_range(value, name: str, low: float, high: float = float("inf")) -> tuple[Array, Array]:
    """``(low, high)`` of a uniform draw as two float32 numbers; a single number means a fixed value."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a number or a pair (low, high), got {value}")
    numbers = [concrete(number) for number in pair]
    if numbers[0] is not None and numbers[1] is not None and numbers[0] > numbers[1]:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value}")
    return check_number(pair[0], name, low, high), check_number(pair[1], name, low, high)


def check_image(x: Array, name: str) -> Array:
    """``x`` if it is a batch of images ``[B, H, W, C]``, else a ``ValueError`` that says how to make it one."""
    if x.ndim != 4:
        raise ValueError(f"{name} takes images [B, H, W, C], got shape {x.shape}; add a batch axis with x[None]")
    return x


def check_keys(keys: Key | None, x: Array, name: str) -> Key:
    """``keys`` if there is one typed key per image of ``x``, else a ``ValueError``."""
    fix = "pass keys=indigo_jax.rng.image_keys(seed, ids), one per image"
    if keys is None:
        raise ValueError(f"{name} draws random numbers: {fix}")
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != x.shape[:1]:
        raise ValueError(f"{name} needs {x.shape[0]} typed keys, got {keys.dtype}{list(keys.shape)}: {fix}")
    return keys


def transpose(function, y: Array, shape: tuple[int, ...]) -> Array:
    """The exact adjoint of a linear ``function`` of images of ``shape``, applied to ``y``: ``<A x, y> = <x, A* y>``."""
    image = jax.eval_shape(lambda y: split_as(jnp.zeros(shape, y.dtype), y), y)
    expected = jax.eval_shape(function, image).shape
    if expected != y.shape:
        raise ValueError(f"adjoint: images of shape {shape} give measurements {expected}, got {y.shape}")
    return jax.linear_transpose(function, image)(y)[0]


def adjoint_of(function, x: Array):
    """The adjoint ``y -> A* y`` of a linear ``function`` of images like ``x``, real if x is.

    That is ``function.adjoint`` if there is one, else (or if it says ``differentiable``) the pullback: of whatever jax
    can differentiate backwards.
    For complex numbers it is the conjugate transpose, ``conj(A^T conj(y))``.

    >>> adjoint_of(lambda x: jax.lax.complex(x, 2.0 * x), jnp.ones(1))(jnp.array([3 + 1j])).tolist()
    [5.0]
    """
    if hasattr(function, "adjoint") and not getattr(function, "differentiable", False):
        takes_shape = "shape" in inspect.signature(function.adjoint).parameters
        size = {"shape": x.shape[1:3]} if takes_shape else {}

        def adjoint(y):
            back = function.adjoint(y, **size)
            return back if jnp.iscomplexobj(x) else jnp.real(back)
    else:
        _, pullback = jax.vjp(function, x)

        def adjoint(y):
            return jnp.conj(pullback(jnp.conj(y))[0])
    return adjoint
