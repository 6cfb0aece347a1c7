"""Operators made of operators: chains, random choices, and what a picture file does to values."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import rng
from indigo_jax.arrays import per_image
from indigo_jax.operators import base
from indigo_jax.typing import Array, Key

_CHOICE = 0x6D6978  # folded in for the choice of a mixture; operators fold small numbers


@base.operator()
class Compose(base.Applied):
    """See :func:`compose`."""
    operators: tuple

    linear = property(lambda self: all(operator.linear for operator in self.operators))
    stochastic = property(lambda self: any(operator.stochastic for operator in self.operators))
    shape_preserving = property(lambda self: all(operator.shape_preserving for operator in self.operators))

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:  # type: ignore[override]
        for position, operator in enumerate(self.operators):
            x = operator(x, keys=None if keys is None else rng.fold(keys, position))
        return x

    def adjoint(self, y: Array, *, shape: tuple[int, ...] | None = None) -> Array:
        """``A* y = A_1* ... A_n* y``; ``shape`` of the images, (height, width) or with their channels, if the size of
        ``y`` does not tell."""
        if not self.linear:
            names = [type(operator).__name__ for operator in self.operators if not operator.linear]
            raise ValueError(f"only linear operators have an adjoint; not linear here: {names}")
        if shape is None:
            shapes = [None] * len(self.operators)
        else:
            shape = shape if len(shape) == 3 else (*shape, y.shape[-1])
            x, shapes = jax.ShapeDtypeStruct((y.shape[0], *shape), y.real.dtype), []
            for operator in self.operators:
                shapes.append(x.shape[1:3])
                x = jax.eval_shape(operator, x)
        for operator, size in zip(reversed(self.operators), reversed(shapes)):
            y = operator.adjoint(y, shape=size)
        return y


@base.operator(stochastic=True)
class Mixture(base.Applied):
    """See :func:`mixture`."""
    operators: tuple
    probabilities: Array

    shape_preserving = property(lambda self: all(operator.shape_preserving for operator in self.operators))

    def choice(self, keys: Key) -> Array:
        """Which operator each image gets: int32 ``[B]``."""
        edges = jnp.cumsum(self.probabilities)[:-1]
        draw = rng.uniform(rng.fold(keys, _CHOICE))
        return jnp.sum((draw[:, None] >= edges).astype(jnp.int32), axis=1)

    def _apply(self, x: Array, keys: Key) -> Array:
        made = [operator(x, keys=keys) for operator in self.operators]
        if len({each.shape for each in made}) > 1:
            sizes = ", ".join(f"{type(operator).__name__} {each.shape[1:]}"
                              for operator, each in zip(self.operators, made))
            raise ValueError(f"mixture: of pictures {x.shape[1:]} the operators make different shapes: {sizes}")
        choice = per_image(self.choice(keys), x)
        return jnp.select([choice == index for index in range(len(made))], made)


@base.operator()
class Clip(base.Applied):
    """See :func:`clip`."""
    low: Array
    high: Array

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:  # type: ignore[override]
        del keys
        return jnp.clip(x, self.low.astype(x.dtype), self.high.astype(x.dtype))


@base.operator()
class Quantize(base.Applied):
    """See :func:`quantize`."""
    def __call__(self, x: Array, *, keys: Key | None = None) -> Array:  # type: ignore[override]
        del keys
        level = base.straight_through(jnp.round, jnp.clip((x + 1.0) * 127.5, 0.0, 255.0))
        return level / 127.5 - 1.0


def compose(*operators) -> Compose:
    """``A(x) = A_n(... A_2(A_1(x)))``: left to right, in the order in which things happen to the picture.

    Operator i gets the keys folded by its position i. The chain is linear if all its parts are, and then has the exact
    adjoint ``A* = A_1* A_2* ... A_n*``.

    >>> from indigo_jax import operators
    >>> compose(operators.gaussian_blur(1.0), operators.downsample(2))(jnp.ones((1, 8, 8, 3))).shape
    (1, 4, 4, 3)
    """
    return Compose(tuple(operators))


def mixture(operators, probabilities) -> Mixture:
    """One of several operators for each image, drawn from the image's key.

    Args:
        operators: operators whose results have one shape: all keep the size, or all change it alike.
        probabilities: one per operator, not negative; divided by their sum.

    All the operators are computed for all the images and one result is kept. They all get the image's own key, which is
    safe since one result is kept, and lets the compiler draw equal noise only once.

    Errors:
        ``ValueError`` for probabilities that do not fit; where it is called, for results of different sizes.
    """
    operators = tuple(operators)
    probabilities = base.check_number(probabilities, "probabilities", 0.0)
    if not operators or probabilities.shape != (len(operators),):
        raise ValueError(f"{len(operators)} operators need as many probabilities, got {probabilities.shape}")
    numbers = base.concrete(probabilities)
    if numbers is not None and np.sum(numbers) <= 0:
        raise ValueError("at least one probability must be above 0")
    return Mixture(operators, probabilities / jnp.sum(probabilities))


def clip(low: float = -1.0, high: float = 1.0) -> Clip:
    """``y = min(max(x, low), high)``."""
    return Clip(jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32))


def quantize() -> Quantize:
    """Clip to ``[-1, 1]`` and round to the 256 levels of a picture file, ``k / 127.5 - 1``; straight-through gradient.

    >>> [round(float(level)) for level in quantize()(jnp.array([-3.0, 0.1, 1.0])) * 127.5 + 127.5]
    [0, 140, 255]
    """
    return Quantize()
