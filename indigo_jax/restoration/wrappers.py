"""What can be put around the kernel of an optimisation, as :func:`bird`: averages of its pictures, and when to stop."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax.arrays import split_as
from indigo_jax.samplers.base import State
from indigo_jax.typing import Array, Kernel


def averaged(kernel: Kernel, decay: float) -> Kernel:
    """A kernel whose result is a moving average of its pictures: ``m <- decay m + (1 - decay) x0``, at first x0.

    The state is :class:`samplers.State`: ``x`` the average, ``extra`` the state of the kernel. The info is the
    kernel's.

    Args:
        kernel: one whose info has ``x0``.
        decay: in ``[0, 1)``; 0 gives the newest picture.

    Errors:
        ValueError for another decay.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")

    def init(*arguments, **options) -> State:
        state = kernel.init(*arguments, **options)
        return State(jnp.zeros_like(state.x), state)

    def step(keys, state: State, i):
        inner, info = kernel.step(keys, state.extra, i)
        return State(jnp.where(i == 0, info.x0, decay * state.x + (1 - decay) * info.x0), inner), info

    return Kernel(init, step, kernel.num_steps)


class StoppedState(NamedTuple):
    """State of a kernel in :func:`stopped`.

    Attributes:
        inner: that of the kernel.
        loss: of each image's newest rollout ``[B]``.
        good: exact rollouts in a row that were within the limit ``[B]``.
        stopped: the image is finished ``[B]``.
    """

    inner: Any
    loss: Array
    good: Array
    stopped: Array

    @property
    def x(self) -> Array:
        """The picture."""
        return self.inner.x


def stopped(kernel: Kernel, sigma, *, patience: int = 3) -> Kernel:
    """A kernel that leaves an image as it is once its residual, the root of its loss, is that of the noise.

    Each image is decided for by itself. Only exact rollouts count, those whose noise predictions are all new (with
    :class:`Reuse` set ``check_every``, or there are two of them). The rollout that makes the count full is the
    image's last: its state stays as that iteration leaves it. Where all images of a batch have stopped nothing is
    evaluated: under jit on several devices they agree on that by an all-reduce of one boolean; under
    :func:`sharding.per_device` each device decides alone. Numbers that an optimiser keeps for the whole batch (its
    step count) go on.

    Args:
        kernel: :func:`bird`, or :func:`averaged` around it: every leaf of its state is ``[B, ...]`` or of the whole
            batch. Its loss must be a mean squared residual, not a loss of the operator's own.
        sigma: noise level of y in ``[-1, 1]`` units, a number or one per image.
        patience: so many rollouts in a row have at most this residual.

    Returns:
        ``Kernel(init, step, num_steps)``; state :class:`StoppedState`; in the info ``stopped`` says which images are
        finished, whose ``loss`` and ``x0`` are those of their pictures and whose ``evaluations`` are 0.

    Errors:
        ValueError for a patience below 1.
    """
    if patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}")
    limit = jnp.asarray(sigma, jnp.float32)**2

    def init(*arguments, **options) -> StoppedState:
        inner = kernel.init(*arguments, **options)
        batch = inner.x.shape[0]
        fresh = jnp.full(batch, jnp.inf), jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)
        return StoppedState(inner, *split_as(fresh, inner.x))

    def step(keys, state: StoppedState, i):
        def iterate(inner):
            return kernel.step(keys, inner, i)

        def idle(inner):
            info = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(iterate, inner)[1])
            return inner, split_as(info, inner.x)

        done = state.stopped
        inner, info = jax.lax.cond(jnp.all(done), idle, iterate, state.inner)
        inner = _keep(done, inner, state.inner)
        loss = jnp.where(done, state.loss, info.loss)
        count = jnp.where(info.exact, jnp.where(loss <= limit, state.good + 1, 0), state.good)
        good = jnp.where(done, state.good, count)
        info = info._replace(loss=loss, x0=_keep(done, info.x0, inner.x), stopped=good >= patience,
                             evaluations=jnp.where(done, 0, info.evaluations))
        return StoppedState(inner, loss, good, good >= patience), info

    return Kernel(init, step, kernel.num_steps)


def _keep(done: Array, new: Any, old: Any) -> Any:
    """Two trees of arrays: ``old`` for the images that are done (``[B]``), else ``new``.

    An array whose first axis is not the batch is taken from ``new``.
    """
    def choose(new, old):
        if new.ndim == 0 or new.shape[0] != done.shape[0]:
            return new
        return jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return jax.tree.map(choose, new, old)
