"""The only sampling loop. What to keep and what to recompute are values, not other loops."""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.typing import Array, Kernel, Key


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


def sample(kernel: Kernel, keys: Key, x_init: Array, trace: str | Trace | None = None,
           remat: bool | Callable = False) -> tuple[Array, SampleInfo]:
    """Run a kernel from ``x_init`` to its end, in one ``lax.scan``.

    Args:
        kernel: from :func:`samplers.indi` and its like.
        keys: one per image ``[B]``, from :func:`rng.image_keys`; the step number is folded in.
        x_init: where the chain starts, ``[B, H, W, C]``; for InDI the measurement y; for :func:`restoration.bird` the
            noise, or keys ``[B]`` to draw it with: its ``init`` takes either.
        trace: "x", "x0" or a :class:`Trace`; None keeps nothing, so memory does not grow with the steps.
        remat: True recomputes each step in the backward pass instead of storing it; or a ``jax.checkpoint`` policy.

    Returns:
        The final picture ``[B, H, W, C]`` and a :class:`SampleInfo`.

    Errors:
        ValueError for an unknown trace, and for keys that are not one per image.

    >>> from indigo_jax import samplers
    >>> kernel = samplers.indi(lambda x_t, t: 0.5 * x_t, 4)
    >>> x, info = sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 2, 2, 3)), trace="x")
    >>> info.trace.shape, info.steps.t.tolist()
    ((4, 1, 2, 2, 3), [1.0, 0.75, 0.5, 0.25])
    """
    trace = Trace(trace) if isinstance(trace, str) else trace
    if trace is not None and (trace.what not in ("x", "x0") or trace.every < 1):
        raise ValueError(f"trace must be 'x', 'x0' or Trace(what, every >= 1); got {trace}")
    if keys.shape != x_init.shape[:1]:
        raise ValueError(f"one key per image: {x_init.shape[0]} images but keys of shape {keys.shape}; "
                         "make them with rng.image_keys(seed, ids)")
    step = kernel.step
    if remat:
        step = jax.checkpoint(step, policy=remat if callable(remat) else None)

    def body(carry, i):
        state, kept = carry
        state, info = step(rng.fold(keys, i), state, i)
        if trace is not None:
            kept = kept.at[i // trace.every].set(state.x if trace.what == "x" else info.x0)
        return (state, kept), info._replace(x0=None) if "x0" in info._fields else info

    state = kernel.init(x_init, keys)
    kept = None
    if trace is not None:
        kept = jnp.zeros((-(-kernel.num_steps // trace.every),) + state.x.shape, state.x.dtype)
    (state, kept), steps = jax.lax.scan(body, (state, kept), jnp.arange(kernel.num_steps))
    return state.x, SampleInfo(steps, kept)
