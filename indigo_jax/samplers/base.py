"""The only sampling loop. What to keep and what to recompute are values, not other loops."""
import functools
import re
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from indigo_jax import rng
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Key

Sampler = Callable[[Denoiser, NoiseSchedule], Kernel]  # what a method needs of one: the rest is bound beforehand


class State(NamedTuple):
    """What the next step needs, of most kernels.

    Attributes:
        x: ``x_t``, ``[B, H, W, C]``; after the last step the result.
        extra: what a kernel keeps beside it, as the state of the kernel that it wraps; None for most.
    """

    x: Array
    extra: Any = None


class Info(NamedTuple):
    """Diagnostics of a step, of most kernels.

    Attributes:
        t: the timestep, or time, from which it started, a number.
        x0: estimate of the clean picture ``[B, H, W, C]``, or None.
        residual: root mean square of what the estimate leaves of the measurement unexplained, ``[B]``; None where the
            kernel does not measure it.
    """

    t: Array
    x0: Array | None
    residual: Array | None = None


class Trace(NamedTuple):
    """Which pictures to keep on the way.

    Attributes:
        what: "x" (the state) or "x0" (the kernel's current estimate of the clean picture).
        every: keep the last of every so many steps (and the very last).
    """

    what: str
    every: int = 1


class SampleInfo(NamedTuple):
    """What :func:`sample` tells besides the result.

    Attributes:
        steps: the kernel's ``info`` of every step, stacked along a first axis ``[num_steps]``, without pictures.
        trace: pictures ``[ceil(num_steps / every), B, H, W, C]``, or None.
    """

    steps: Any
    trace: Array | None


def own_keys(step: Callable) -> Callable:
    """A step of a :class:`Kernel` that draws: it is given ``rng.fold(keys, i)``, keys of its own for each i.

    So whoever loops hands over the same keys every time. A kernel that wraps another one hands them on as they are.

    >>> draw = own_keys(lambda keys, state, i: (State(rng.normal(keys, state.x)), None))
    >>> keys, state = rng.image_keys(0, [0]), State(jnp.zeros((1, 2)))
    >>> bool((draw(keys, state, 0)[0].x == draw(keys, state, 1)[0].x).any())
    False
    """
    @functools.wraps(step)
    def with_own_keys(keys, state, i):
        return step(rng.fold(keys, i), state, i)

    return with_own_keys


def in_float32(x: Array) -> Array:
    """Pictures in which the mathematics of a sampler is done: float32 for bfloat16 and float16, float64 as it is.

    Errors:
        ValueError for what is not of floating point: whole numbers are hardly in [-1, 1].
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"a sampler starts from pictures of floating point in [-1, 1], not {x.dtype}")
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def start(x_init: Array, keys: Key) -> State:
    """``init`` of most kernels: ``x_init`` itself, :func:`in_float32`."""
    del keys
    return State(in_float32(x_init))


def _told(step):
    """The step, which says what to give where a network has been taken for a denoiser."""
    def tell(*arguments):
        try:
            return step(*arguments)
        except AttributeError as error:
            if not re.search(r"no attribute '?(x0|eps|drift|share|log_var|_replace)\b", str(error)):
                raise
            raise ValueError("a denoiser returns a denoisers.Prediction, and this one an array, as networks do: give "
                             "denoisers.from_eps(network, schedule), from_x0 or from_v; or denoisers.of(network, info)"
                             ) from error
    return tell


def sample(kernel: Kernel, keys: Key, x_init: Array, trace: str | Trace | None = None, remat: bool | Callable = False,
           *, callback: Callable[[int, Any], None] | None = None) -> tuple[Array, SampleInfo]:
    """Run a kernel from ``x_init`` to its end, in one ``lax.scan``.

    The same as the loop of :class:`Kernel`, to the bit where that is compiled (by ``jax.lax.fori_loop`` under ``jit``).
    Call it inside of a ``jax.jit`` of one's own: outside, every call traces the kernel anew, which takes a second.

    Args:
        kernel: from :func:`samplers.indi` and its like.
        keys: one per image ``[B]``, from :func:`rng.image_keys`; the kernel folds the number of each step in.
        x_init: where the chain starts, ``[B, H, W, C]``; for InDI the measurement y; for :func:`restoration.bird` the
            noise, or keys ``[B]`` to draw it with: its ``init`` takes either.
        trace: "x", "x0" or a :class:`Trace`; None keeps nothing, so memory does not grow with the steps.
        remat: True recomputes each step in the backward pass instead of storing it; or a ``jax.checkpoint`` policy.
        callback: ``callback(i, info)``, called on the host after each step, in their order; it gets arrays, the
            pictures of the info included. None costs nothing. Where the result is differentiated it is not called.

    Returns:
        The final picture ``[B, H, W, C]`` and a :class:`SampleInfo`.

    Errors:
        ValueError for an unknown trace, keys that are not one per image, pictures of whole numbers, and a network in
        the place of a denoiser.

    >>> from indigo_jax import samplers
    >>> kernel = samplers.indi(lambda x_t, t: 0.5 * x_t, 4)
    >>> x, info = sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 2, 2, 3)), trace="x")
    >>> info.trace.shape, info.steps.t.tolist()
    ((4, 1, 2, 2, 3), [1.0, 0.75, 0.5, 0.25])
    """
    trace = Trace(trace) if isinstance(trace, str) else trace
    if trace is not None and (trace.what not in ("x", "x0") or trace.every < 1):
        raise ValueError(f"trace must be 'x', 'x0' or Trace(what, every >= 1); got {trace}")
    typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed or keys.shape != x_init.shape[:1]:
        found = f"of shape {keys.shape} and {keys.dtype}" if hasattr(keys, "dtype") else f"that are {keys!r}"
        raise ValueError(f"one key per image: {x_init.shape[0]} images but keys {found}; make them with "
                         f"rng.image_keys(seed, numpy.arange({x_init.shape[0]}))")
    step = _told(kernel.step)
    if remat:
        step = jax.checkpoint(step, policy=remat if callable(remat) else None)

    def body(carry, i):
        state, kept = carry
        state, info = step(keys, state, i)
        if callback is not None:
            io_callback(callback, None, i, jax.lax.stop_gradient(info), ordered=True)
        if trace is not None:
            kept = kept.at[i // trace.every].set(state.x if trace.what == "x" else info.x0)
        return (state, kept), info._replace(x0=None) if "x0" in info._fields else info

    state = kernel.init(x_init, keys)
    kept = None
    if trace is not None:
        count = -(-kernel.num_steps // trace.every)
        kept = jnp.broadcast_to(jnp.zeros_like(state.x), (count, *state.x.shape))
    (state, kept), steps = jax.lax.scan(body, (state, kept), jnp.arange(kernel.num_steps))
    return state.x, SampleInfo(steps, kept)
