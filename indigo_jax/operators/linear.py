"""Linear operators of one's own: from plain functions, with sums, products and multiples."""
import dataclasses
import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.operators.compose import Compose
from indigo_jax.typing import Array, Key


class _Algebra:
    """``A @ B``, ``A + B``, ``A - B``, ``2 * A``, ``A / 2``, ``-A``, ``A.H``, ``A.T``; the other may be any operator
    that has an adjoint."""

    linear = True
    stochastic = False
    differentiable = True  # its pullback is its adjoint
    __array_ufunc__ = None  # numpy's numbers leave multiplication to us

    def __matmul__(self, other):
        return Product((_part(other), self))

    def __rmatmul__(self, other):
        return Product((self, _part(other)))

    def __add__(self, other):
        return Sum((self, _part(other)))

    def __radd__(self, other):
        if isinstance(other, int) and other == 0:  # where sum() begins
            return self
        return Sum((_part(other), self))

    def __mul__(self, factor):
        return Product((self, Multiple(_number(factor, "multiplied"))))

    __rmul__ = __mul__

    def __truediv__(self, factor):
        return Product((self, Multiple(1 / _number(factor, "divided"))))

    def __neg__(self):
        return -1.0 * self

    def __pos__(self):
        return self

    @property
    def H(self):
        """The conjugate transpose A* as an operator, of measurements."""
        return Adjoint(self, False)

    @property
    def T(self):
        """The transpose; of a real operator the same as ``H``."""
        return Adjoint(self, True)

    def __sub__(self, other):
        return Sum((self, -1.0 * linear(other)))

    def __rsub__(self, other):
        return Sum((_part(other), -self))


def _number(factor, done):
    if isinstance(factor, (str, bytes)) or factor is None or callable(factor):
        raise ValueError(f"an operator is {done} by a number, not by {factor!r}; A @ B is first B, then A")
    if jnp.ndim(factor):
        raise ValueError(f"an operator is {done} by a number, not by an array of shape {jnp.shape(factor)}; a "
                         "factor for each pixel is operators.linear(lambda x: w * x), and A(x) is A of a picture")
    number = base.concrete(factor)
    if done == "divided" and number is not None and not number:
        raise ValueError("an operator is divided by a number, not by 0")
    return jnp.asarray(factor)


def _part(operator):
    if not getattr(operator, "linear", False):
        fix = "make one of a plain function with operators.linear(function, adjoint)"
        if hasattr(operator, "shape"):
            fix = "A(x) is A of a picture; make one of a matrix with operators.linear(lambda x: ...)"
        elif isinstance(operator, (int, float, complex)):
            fix = "2 * A and A / 2 are multiples"
        raise ValueError(f"only linear operators can be added and multiplied, not {type(operator).__name__}: {fix}")
    ours = isinstance(operator, _Algebra) or dataclasses.is_dataclass(operator)
    return operator if ours else LinearOperator(operator, operator.adjoint, None, None, None)


@base.operator()
class Product(_Algebra, Compose):
    """``A @ B``: the parts from right to left, as :func:`compose` has them from left to right."""


@base.operator()
class Sum(_Algebra):
    """``A + B``: all parts see the same picture, and their measurements are added."""

    operators: tuple

    shape_preserving = property(lambda self: all(operator.shape_preserving for operator in self.operators))

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        seen = [operator(x) for operator in self.operators]
        if len({y.shape for y in seen}) > 1:
            raise ValueError(f"measurements of the shapes {', '.join(str(y.shape) for y in seen)} cannot be added")
        return functools.reduce(jnp.add, seen)

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y = A_1* y + A_2* y``."""
        return functools.reduce(jnp.add, [operator.adjoint(y, shape=shape) for operator in self.operators])


@base.operator()
class Multiple(_Algebra):
    """``y = c x`` for a number c."""

    factor: Array

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        dtype = jnp.complex64 if jnp.iscomplexobj(self.factor) else x.dtype
        return x.astype(dtype) * self.factor.astype(dtype)

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y = conj(c) y``."""
        del shape
        return Multiple(jnp.conj(self.factor))(y)


@base.operator()
class Adjoint(_Algebra):
    """``A*``, or with ``transposed`` ``A^T = conj(A* conj(y))``, of measurements."""

    operator: Any
    transposed: bool = base.static()

    shape_preserving = property(lambda self: self.operator.shape_preserving)
    H = property(lambda self: Adjoint(self.operator.H, True) if self.transposed else self.operator)
    T = property(lambda self: self.operator if self.transposed else Adjoint(self.operator.H, True))

    def __call__(self, y: Array, *, keys: Key | None = None) -> Array:
        del keys
        return jnp.conj(self.operator.adjoint(jnp.conj(y))) if self.transposed else self.operator.adjoint(y)

    def adjoint(self, x: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A x``, or ``conj(A conj(x))``."""
        del shape
        return jnp.conj(self.operator(jnp.conj(x))) if self.transposed else self.operator(x)


class LinearOperator(_Algebra):
    """See :func:`linear`."""

    def __init__(self, forward, backward, input_shape, svd, pinv):
        self.forward, self.backward, self.input_shape, self.svd, self.pinv = forward, backward, input_shape, svd, pinv
        told = _told(forward, "function")
        self._apply, self._back = (told, None) if backward is None else _pair(told, _told(backward, "adjoint"))

    @property
    def shape_preserving(self) -> bool:
        """Whether y has the shape of x; False where no ``input_shape`` was given that could tell."""
        return self.input_shape is not None and self.input_shape == jax.eval_shape(
            self._apply, jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)).shape[1:]

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:
        del keys
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            raise ValueError(f"this operator is for pictures [B, {str(self.input_shape)[1:-1]}], got shape {x.shape}")
        if self.input_shape is None and base.concrete(x) is not None:
            _check_linear(self.forward, x.shape, jnp.asarray(x).dtype)
        return self._apply(x)

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y``. ``shape`` of the pictures, (H, W) or (H, W, C), is needed where neither an adjoint nor
        ``input_shape`` was given; channels are those of y unless it says."""
        if self.backward is not None:
            return self._back(y)
        shape = self.input_shape or shape
        if shape is None:
            raise ValueError("linear: this adjoint needs shape=(H, W, C) of the pictures; or say input_shape= once, "
                             "in operators.linear")
        shape = shape if len(shape) == 3 else (*shape, y.shape[-1])
        like = jnp.zeros((y.shape[0], *shape), y.real.dtype)
        seen = jax.eval_shape(self._apply, like).shape
        if seen != y.shape:
            raise ValueError(f"adjoint: pictures of shape {like.shape} give measurements {seen}, got {y.shape}")
        return base.adjoint_of(self._apply, like)(y)

    def closed_form(self, rho: Array) -> Callable[[Array], Array] | None:
        """``s -> (A*A + rho)^+ A* s`` where ``svd`` or ``pinv`` tells it, else None: then iterations have to."""
        number = base.concrete(rho)
        if self.pinv is not None and number is not None and not number.any():
            return self.pinv
        if self.svd is None:
            return None
        values, to_basis, from_basis = self.svd
        values = jnp.asarray(values, jnp.float32)

        def correct(residual):
            c = to_basis(self.adjoint(residual))
            kept = is_measured(values, c)
            weight = rho.reshape(-1, *[1] * (c.ndim - 1)) if rho.ndim else rho
            filtered = jnp.where(kept, 1.0 / (jnp.where(kept, values, 1.0)**2 + weight), 0.0)
            return from_basis(c * filtered.astype(c.dtype))

        return correct


def is_measured(values: Array, coefficients: Array) -> Array:
    """Which singular values are more than 1e-6 of the largest: of the picture's own, where each of a batch has some.

    >>> is_measured(jnp.array([[1.0, 1e-9], [1e-9, 1e-9]]), jnp.zeros((1, 2, 2))).tolist()
    [[True, False], [False, False]]
    """
    first = 1 if values.ndim == coefficients.ndim else 0
    return values > 1e-6 * jnp.max(values, axis=tuple(range(first, values.ndim)), keepdims=True)


def _told(function, name):
    """The function, which says what to give where it calls numpy, or returns no batch."""
    def call(x):
        try:
            y = function(x)
        except jax.errors.TracerArrayConversionError as error:
            raise ValueError(
                f"linear: the {name} needs numbers, as numpy's and scipy's do, which jax has none of while it traces a "
                "program: wrap it in jax.pure_callback(numpy_function, jax.ShapeDtypeStruct(shape_of_the_result, "
                "x.dtype), x), and likewise its adjoint: operators.linear(function, adjoint); or write it with "
                "jax.numpy") from error
        if not hasattr(y, "shape") or y.shape[:1] != x.shape[:1]:
            found = f"shape {y.shape}" if hasattr(y, "shape") else type(y).__name__
            raise ValueError(f"linear: the {name} takes a batch and returns one array of as many results, "
                             f"{x.shape[:1]} and more axes; got {found}")
        return y
    return call


def _flatten(operator):
    values, *maps = operator.svd or (None,)
    return (values,), (operator.forward, operator.backward, operator.input_shape, tuple(maps), operator.pinv)


def _unflatten(fields, values):
    forward, backward, input_shape, maps, pinv = fields
    return LinearOperator(forward, backward, input_shape, (*values, *maps) if maps else None, pinv)


jax.tree_util.register_pytree_node(LinearOperator, _flatten, _unflatten)


def linear(function: Callable[[Array], Array], adjoint: Callable[[Array], Array] | None = None,
           input_shape: tuple[int, int, int] | None = None, svd: tuple[Any, Callable, Callable] | None = None,
           pinv: Callable[[Array], Array] | None = None) -> LinearOperator:
    """A linear operator made of plain functions, for everything that takes a known operator.

    With an ``adjoint``, jax differentiates neither function: each is the other's derivative. So they may be
    ``jax.pure_callback`` into another program, or have a ``custom_vjp`` (not forward mode, not by what they close
    over). Complex measurements are welcome: the adjoint is then the conjugate transpose, of which the real part is
    taken where pictures are real.

    Linear operators combine as matrices do, those of this package, too: ``A @ B`` (first B), ``A + B``, ``A - B``,
    ``2 * A``, ``A / 2``, ``-A``; ``A.H`` is the conjugate transpose and ``A.T`` the transpose, both of measurements.

    Args:
        function: ``[B, H, W, C] -> [B, ...]``; or an operator that has its own adjoint.
        adjoint: ``[B, ...] -> [B, H, W, C]``; see :func:`check_adjoint`. None: by jax, from the function.
        input_shape: (H, W, C) of the pictures, where these are fixed. The function is then tried at once, and
            ``adjoint`` needs no shape.
        svd: ``(values, to_basis, from_basis)`` of ``A = U S V*``: the singular values, which multiply the
            coefficients ``to_basis(x) = V* x`` [B, ...], and ``from_basis(c) = V c``. Proximal steps are then exact
            without iterations. Values below 1e-6 of the largest count as 0. The basis may be complex, as Fourier's,
            for real pictures too: the values are then those of ``Re(A* A)``, equal at a frequency and its opposite.
        pinv: ``A^+``, ``[B, ...] -> [B, H, W, C]``: the same for rho = 0 (DDNM).

    Errors:
        ValueError for arguments that are no functions; a function that is affine or worse (found at once with
        ``input_shape``, else when it is first called with numbers, not under jit); one that is not of jax where it is
        traced; pictures of another shape than ``input_shape``.

    Source: the algebra is that of scico's ``LinearOperator``.

    >>> A = linear(lambda x: x[:, ::2], lambda y: jnp.repeat(y, 2, 1).at[:, 1::2].set(0.0))
    >>> A(jnp.ones((1, 4, 2, 1))).shape, check_adjoint(2 * A, (1, 4, 2, 1)) < 1e-5
    ((1, 2, 2, 1), True)
    """
    if not callable(function):
        fix = "; of a matrix M: lambda x: jnp.einsum('ij,bjwc->biwc', M, x)" if hasattr(function, "shape") else ""
        raise ValueError(f"linear takes a function of pictures, got {type(function).__name__}{fix}")
    for name, given in (("adjoint", adjoint), ("pinv", pinv)):
        if given is not None and not callable(given):
            raise ValueError(f"linear: {name} is a function, got {type(given).__name__}")
    if svd is not None and (not isinstance(svd, (tuple, list)) or len(svd) != 3 or not all(map(callable, svd[1:]))):
        raise ValueError("linear: svd is (values, to_basis, from_basis), the last two functions")
    if isinstance(input_shape, int):
        raise ValueError(f"input_shape is (height, width, channels) without the batch, got {input_shape}")
    if adjoint is None and hasattr(function, "adjoint"):
        return Product((_part(function),))  # type: ignore[return-value]
    input_shape = None if input_shape is None else tuple(int(size) for size in input_shape)
    if input_shape is not None:
        if len(input_shape) != 3:
            raise ValueError(f"input_shape is (height, width, channels) without the batch, got {input_shape}")
        _check_linear(function, (1, *input_shape), jnp.dtype(jnp.float32))
    return LinearOperator(function, adjoint, input_shape, svd, pinv)


def _pair(forward, backward):
    """Two functions, each of which is the other's adjoint in the eyes of jax, as often as it is differentiated."""
    @jax.custom_vjp
    def apply(x):
        return forward(x)

    @jax.custom_vjp
    def back(y):
        return backward(y)

    def pullback(other):
        def pull(like, cotangent):
            result = jnp.conj(other(jnp.conj(cotangent)))
            return ((result if jnp.iscomplexobj(like) else jnp.real(result)).astype(like.dtype),)
        return pull

    apply.defvjp(lambda x: (apply(x), jnp.zeros(0, x.dtype)), pullback(back))
    back.defvjp(lambda y: (back(y), jnp.zeros(0, y.dtype)), pullback(apply))
    return apply, back


@functools.lru_cache(maxsize=256)
def _check_linear(function, shape, dtype) -> None:
    """Refuse what is not linear: ``A(0) = 0``, ``A(2 x) = 2 A(x)``, ``A(x - z) = A(x) - A(z)``, as far as the numbers
    are known."""
    x, z = (jnp.asarray(np.random.default_rng(seed).uniform(-1.0, 1.0, shape), dtype) for seed in (0, 1))
    function = _told(function, "function")
    tried = [base.concrete(function(each)) for each in (0.0 * x, x, 2.0 * x, z, x - z)]
    found = [each for each in tried if each is not None]
    if len(found) < len(tried):
        return
    at_zero, once, twice, other, difference = found
    size = np.abs(once).max(initial=0.0) + 1e-30
    if np.abs(at_zero).max(initial=0.0) > 1e-4 * size:
        raise ValueError("this function is not linear: A(0) is not 0. If it is affine, take the constant away on both "
                         "sides: operators.linear(lambda x: f(x) - f(0 * x)) for measurements y - f(0)")
    if np.abs(twice - 2.0 * once).max(initial=0.0) > 1e-3 * size:
        raise ValueError("this function is not linear: A(2 x) is not 2 A(x). Clipping, rounding and noise are not "
                         "linear: leave them out; restoration.dps and bird also take operators that are not linear")
    if np.abs(once - other - difference).max(initial=0.0) > 1e-3 * size:
        raise ValueError("this function is not linear: A(x - z) is not A(x) - A(z); restoration.dps and bird also take "
                         "operators that are not linear")


def check_adjoint(operator, shape: tuple[int, ...], *, key: Key | None = None, rtol: float = 1e-4,
                  dtype=jnp.float32) -> float:
    """Try whether ``<A x, u> = <x, A* u>`` for random x and u (for real pictures the real part).

    Args:
        operator: with an ``adjoint``, or differentiable.
        shape: of a batch of pictures, ``(B, H, W, C)``.
        key: for the random numbers; always the same by default.
        rtol: how far both sides may differ, relative to ``|A x| |u|``.
        dtype: of the pictures, float or complex.

    Returns:
        by how much they differ.

    Errors:
        ValueError if that is more than rtol, or the adjoint gives another shape.

    >>> from indigo_jax import operators
    >>> check_adjoint(operators.gaussian_blur(1.0), (1, 8, 8, 3)) < 1e-5
    True
    """
    key = jax.random.key(0) if key is None else key
    x = jax.random.normal(jax.random.fold_in(key, 0), shape, dtype)
    seen = operator(x)
    u = jax.random.normal(jax.random.fold_in(key, 1), seen.shape, seen.dtype)
    back = base.adjoint_of(operator, x)(u)
    if back.shape != x.shape:
        raise ValueError(f"the adjoint gives shape {back.shape} for pictures of shape {x.shape}")
    seen, u, x, back = (np.asarray(a, np.complex128) for a in (seen, u, x, back))
    products = complex(np.vdot(u, seen) - np.vdot(back, x))
    difference = abs(products if jnp.issubdtype(dtype, jnp.complexfloating) else products.real)
    difference = float(difference / (np.linalg.norm(seen) * np.linalg.norm(u) + 1e-30))
    if not difference <= rtol:
        raise ValueError(f"this is not the adjoint: <A x, u> and <x, A* u> differ by {difference:.3g} of |A x| |u|; "
                         f"for a matrix it is the conjugate transpose. Without one, jax finds it where it can: "
                         f"operators.linear(function)")
    return difference
