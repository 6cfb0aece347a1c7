"""The few types that every layer shares.

Images are float32 ``[B, H, W, C]`` in ``[-1, 1]``, RGB, channels last, everywhere in the library.
"""
from typing import Any, Callable, NamedTuple, Protocol, runtime_checkable

import jax

Array = jax.Array
Image = jax.Array  # float32 [B, H, W, C] in [-1, 1]
Key = jax.Array  # typed PRNG keys, one per image: [B]; see indigo_jax.rng
Params = Any  # a linen variables dict, ready for module.apply(params, ...)


@runtime_checkable
class Restorer(Protocol):
    """``restorer(x_t, t) -> x0``: image ``[B, H, W, C]``, time ``[B]`` in ``[0, 1]``, clean estimate."""

    def __call__(self, x_t: Array, t: Array) -> Array: ...


@runtime_checkable
class Denoiser(Protocol):
    """``denoiser(x_t, t) -> Prediction``: see :class:`indigo_jax.denoisers.Prediction`."""

    def __call__(self, x_t: Array, t: Array) -> Any: ...


@runtime_checkable
class Operator(Protocol):
    """``A(x, keys=None) -> y``: a degradation of images ``[B, H, W, C]`` in ``[-1, 1]``.

    ``keys`` (one per image, ``[B]``) is needed only where ``A`` draws something at random; with the same
    keys the result is the same. Linear operators also have ``A.adjoint(y)``.
    """

    def __call__(self, x: Array, *, keys: Key | None = None) -> Array: ...


@runtime_checkable
class BlindOperator(Protocol):
    """``A(x, params) -> y``: an operator with unknowns, as :func:`indigo_jax.restoration.bird` finds them.

    ``init(keys)`` makes the unknowns to start from, every leaf ``[B, ...]``: each image has its own.

    Any operator, with unknowns or without (then ``params`` is None), may say how well a picture explains a measurement:
    ``A.loss(x, y, params) -> [B]``, differentiable in ``x`` and ``params``, a mean over the elements of ``y`` so that
    its scale does not depend on the size. Without it, the loss is the mean of ``(A(x) - y)^2``.
    """

    def init(self, keys: Key) -> Params: ...

    def __call__(self, x: Array, params: Params, *, keys: Key | None = None) -> Array: ...


class Autoencoder(NamedTuple):
    """An autoencoder as two functions, in the units of the diffusion: any scaling factor is in both.

    Attributes:
        encode: ``[B, H, W, 3]`` in [-1, 1] -> latents ``[B, h, w, C]``.
        decode: latents -> pictures, about [-1, 1].
    """

    encode: Callable[[Image], Array]
    decode: Callable[[Array], Image]


class InvertibleNetwork(NamedTuple):
    """An invertible network as two functions, for pictures in [0, 1] or for latents.

    Attributes:
        forward: ``forward(params, x, cond) -> (coarse, details)``.
        inverse: ``inverse(params, coarse, details, cond) -> x``.
        params: what both start from; shared by all images.
    """

    forward: Callable
    inverse: Callable
    params: Params = None


class Kernel(NamedTuple):
    """One algorithm as two pure functions, run by :func:`indigo_jax.samplers.sample` or by a loop of one's own::

        state = kernel.init(x_init, keys)
        for i in range(kernel.num_steps):
            state, info = kernel.step(keys, state, i)

    Attributes:
        init: ``init(x_init, keys) -> state``. ``state.x`` is the image batch.
        step: ``step(keys, state, i) -> (state, info)`` with ``i`` = 0 for the first step. ``state`` is what the
            next step needs, ``info`` is diagnostics; both are NamedTuples. The keys, one per image, are the same in
            every step: whatever draws folds i in, by :func:`indigo_jax.samplers.own_keys`.
        num_steps: how many steps the algorithm takes.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    num_steps: int
