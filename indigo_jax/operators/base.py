"""What every operator shares: the decorator that makes one of a class, argument checks and the exact adjoint.

An operator is a frozen dataclass, called as ``A(x, keys=None) -> y``, and a jax pytree: its numbers and arrays are
traced leaves (one compilation serves every value), its structure (sizes, methods, modes) is static.
"""
import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.arrays import per_image, square, straight_through  # noqa: F401 - operators say base.per_image
from indigo_jax.arrays import split_as
from indigo_jax.spelling import near
from indigo_jax.typing import Array, Key, Params


def static(**kwargs) -> Any:
    """A dataclass field that is part of the program, not of the data."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Applied:
    """What :func:`operator` gives to a class, for whoever checks types."""

    if TYPE_CHECKING:
        linear: ClassVar[bool]
        stochastic: ClassVar[bool]
        shape_preserving: ClassVar[bool]

        def __call__(self, x: Array, *unknowns: Params, keys: Key | None = None) -> Array: ...

        def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array: ...

        # of linear ones
        H: ClassVar[Any]
        T: ClassVar[Any]

        def __matmul__(self, other) -> Any: ...
        def __add__(self, other) -> Any: ...
        def __radd__(self, other) -> Any: ...
        def __sub__(self, other) -> Any: ...
        def __mul__(self, factor) -> Any: ...
        def __rmul__(self, factor) -> Any: ...
        def __truediv__(self, factor) -> Any: ...
        def __neg__(self) -> Any: ...


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def operator(*, linear: bool = False, stochastic: bool = False, shape_preserving: bool = True):
    """A decorator that makes an operator of a class: a frozen dataclass and a pytree, with a compiled call.

    The class writes ``_apply(x)`` for images, after ``x`` with its unknowns if it is blind and with the ``keys`` if it
    is stochastic. A ``__call__`` of its own takes the place of ``_apply`` and of the checks.

    Args:
        linear: it has an ``adjoint``: its own, or the one that follows from ``_apply``; and combines as matrices do.
        stochastic: it needs ``keys``.
        shape_preserving: y has the shape of x.
    """
    def make(cls):
        name = re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

        def __call__(self, x: Array, *unknowns: Params, keys: Key | None = None) -> Array:
            check_image(x, name)
            return self._apply(x, *unknowns, check_keys(keys, x, name)) if stochastic else self._apply(x, *unknowns)

        def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
            """``A* y`` for images of ``shape`` (height, width), default that of ``y``."""
            return transpose(self, y, (y.shape[0], *(shape or y.shape[1:3]), y.shape[3]))

        defaults = {"linear": linear, "stochastic": stochastic, "shape_preserving": shape_preserving}
        for key, value in ({**defaults, "adjoint": adjoint, **_ALGEBRA} if linear else defaults).items():
            if not hasattr(cls, key):
                setattr(cls, key, value)
        cls.__call__ = jax.jit(__call__ if hasattr(cls, "_apply") else cls.__call__)
        return _register(dataclasses.dataclass(frozen=True, eq=False)(cls))

    return make


def _combined(name):
    """A method that combines an operator with others as matrices are; see :func:`operators.linear`."""
    def method(self, *others):
        from indigo_jax.operators.linear import linear
        found = getattr(linear(self), name)
        return found(*others) if callable(found) and name.startswith("__") else found
    return method


_ALGEBRA: dict[str, Any] = {
    "__array_ufunc__": None,  # numpy's numbers leave multiplication to us
    **{name: _combined(name) for name in ("__matmul__", "__add__", "__radd__", "__sub__", "__mul__", "__rmul__",
                                          "__truediv__", "__neg__", "__pos__")},
    **{name: property(_combined(name)) for name in ("H", "T")}}


def _register(cls):
    """``cls`` as a pytree whose structure is of this class alone.

    ``jax.tree_util.register_dataclass`` of jax 0.10 takes two classes of as many fields for one, so that a jitted
    function that has seen one operator may run its program for another.
    """
    fields = dataclasses.fields(cls)
    fixed = [field.name for field in fields if field.metadata.get("static")]
    traced = [field.name for field in fields if field.name not in fixed]
    keys = [jax.tree_util.GetAttrKey(name) for name in traced]

    def flatten(operator):
        return [getattr(operator, name) for name in traced], tuple(getattr(operator, name) for name in fixed)

    def flatten_with_keys(operator):
        leaves, structure = flatten(operator)
        return list(zip(keys, leaves)), structure

    def unflatten(structure, leaves):
        return cls(**dict(zip(traced, leaves)), **dict(zip(fixed, structure)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


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


def check_sums(array: Array, name: str, axis) -> None:
    """``ValueError`` for numbers that are known and not finite, or do not sum to 1 within 1e-3 over ``axis``."""
    numbers = concrete(array)
    if numbers is None:
        return
    if not np.isfinite(numbers).all():
        raise ValueError(f"the {name} holds nan or infinity")
    total = numbers.sum(axis=axis, dtype=np.float64)
    if np.abs(total - 1.0).max() > 1e-3:
        raise ValueError(f"the {name} sums to between {total.min():.4g} and {total.max():.4g}, not to 1; divide it by "
                         "its sum")


def check_range(value, name: str, low: float, high: float = float("inf")) -> tuple[Array, Array]:
    """``(low, high)`` of a uniform draw as two float32 numbers; a single number means a fixed value."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a number or a pair (low, high), got {value}")
    numbers = [concrete(number) for number in pair]
    if numbers[0] is not None and numbers[1] is not None and numbers[0] > numbers[1]:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value}")
    return check_number(pair[0], name, low, high), check_number(pair[1], name, low, high)


def check_choice(value: str, name: str, choices) -> str:
    """``value`` if it is one of ``choices``, else a ``ValueError`` that lists them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}{near(value, choices)}")
    return value


def check_whole(value, name: str, low: int = 1) -> int:
    """``value`` as an int, refused with a ``ValueError`` if it is not a whole number of at least ``low``."""
    if int(value) != value or value < low:
        raise ValueError(f"{name} must be a whole number, at least {low}; got {value}")
    return int(value)


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
        try:
            _, pullback = jax.vjp(function, x)
        except ValueError as error:
            if "callback" not in str(error):
                raise
            raise ValueError("jax cannot differentiate a callback into another program, so this operator has no "
                             "adjoint: give it as operators.linear(function, adjoint)") from error

        def adjoint(y):
            return jnp.conj(pullback(jnp.conj(y))[0])
    return adjoint
