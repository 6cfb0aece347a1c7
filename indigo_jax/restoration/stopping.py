"""When an optimisation has explained a measurement, and when its short cuts have led it astray: image by image."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax.typing import Array


class Rule(NamedTuple):
    """See :func:`rule`. ``limit``: of the loss, a number or one per image."""

    limit: Array
    guard: Array
    patience: int
    check_every: int


class Watch(NamedTuple):
    """What is remembered of each image, all ``[B]``.

    Attributes:
        loss: of the newest rollout; infinite before the first.
        good: exact rollouts in a row that were within the limit.
        stopped: the image is finished.
        astray: reused predictions were found to be wrong: the image gets exact rollouts only.
    """

    loss: Array
    good: Array
    stopped: Array
    astray: Array


def rule(stop_at, guard: float | None, *, patience: int, check_every: int) -> Rule:
    """When to stop and when to distrust; the arguments are those of :func:`restoration.bird`, None is never.

    Errors:
        ValueError for numbers out of range.
    """
    if patience < 1 or check_every < 1:
        raise ValueError(f"patience and check_every must be at least 1, got {patience} and {check_every}")
    if guard is not None and not guard >= 1:
        raise ValueError(f"guard must be at least 1, got {guard}")
    limit = -jnp.inf if stop_at is None else jnp.asarray(stop_at, jnp.float32)**2
    return Rule(jnp.asarray(limit, jnp.float32), jnp.float32(jnp.inf if guard is None else guard), patience,
                check_every)


def start(num_images: int) -> Watch:
    """Nothing seen yet."""
    no = jnp.zeros(num_images, bool)
    return Watch(jnp.full(num_images, jnp.inf), jnp.zeros(num_images, jnp.int32), no, no)


def update(rule: Rule, watch: Watch, loss: Array, exact: Array) -> Watch:
    """After a rollout with losses ``[B]``, of which those of ``exact`` (``[B]`` booleans, or one) can be believed.

    >>> watch = start(2)
    >>> for loss in ([0.04, 0.2], [0.03, 0.04]):
    ...     watch = update(rule(0.2, None, patience=2, check_every=1), watch, jnp.array(loss), jnp.array(True))
    >>> watch.stopped.tolist(), watch.good.tolist()
    ([True, False], [2, 1])
    """
    good = jnp.where(exact, jnp.where(loss <= rule.limit, watch.good + 1, 0), watch.good)
    astray = watch.astray | (exact & (loss > rule.guard * watch.loss))
    return keep(watch.stopped, Watch(loss, good, good >= rule.patience, astray), watch)


def keep(stopped: Array, new: Any, old: Any) -> Any:
    """Two trees of arrays: ``old`` for the images that have stopped (``[B]``), else ``new``.

    An array whose first axis is not the batch is taken from ``new``.
    """
    def choose(new, old):
        if new.ndim == 0 or new.shape[0] != stopped.shape[0]:
            return new
        return jnp.where(stopped.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return jax.tree.map(choose, new, old)
