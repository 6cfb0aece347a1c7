"""Noise predictions of BIRD's earlier rollouts, used again in place of new ones."""
from typing import NamedTuple

import jax.numpy as jnp

from indigo_jax.typing import Array


class Reused(NamedTuple):
    """What is remembered from one rollout to the next.

    Attributes:
        eps: the noise predictions ``[B, S, H, W, C]``, noisiest first.
        loss: of the newest rollout ``[B]``; infinite before the first.
        astray: reused predictions were found to be wrong: the image gets exact rollouts only, ``[B]`` booleans.
    """

    eps: Array
    loss: Array
    astray: Array


class Reuse(NamedTuple):
    """Which noise predictions of a rollout are made anew; for :func:`bird`. All are in the first and last iteration.

    Good for inpainting and denoising, bad for super-resolution.

    Attributes:
        refresh: so many of the S levels per iteration, in turn.
        check_every: in the iterations 0, k, 2k, ... all levels are made anew; None: never between first and last.
            Stopping and the guard see by these.
        guard: an image whose loss in an exact rollout is more than this many times that of the rollout before it gets
            exact ones from then on: its reused predictions were wrong. None: never.
    """

    refresh: int
    check_every: int | None = None
    guard: float | None = None

    def check(self, num_levels: int):
        """ValueError for numbers out of range."""
        if not 1 <= self.refresh <= num_levels:
            raise ValueError(f"refresh must be between 1 and the {num_levels} levels of the schedule, got "
                             f"{self.refresh}")
        if self.check_every is not None and self.check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {self.check_every}")
        if self.guard is not None and not (self.guard >= 1 and self.check_every):
            raise ValueError(f"guard must be at least 1 and needs check_every, got {self}")

    def start(self, num_levels: int, shape: tuple[int, ...]) -> Reused:
        """Nothing predicted yet, for pictures of ``shape`` ``[B, H, W, C]``."""
        batch, *picture = shape
        return Reused(jnp.zeros((batch, num_levels, *picture)), jnp.full(batch, jnp.inf), jnp.zeros(batch, bool))

    def plan(self, reused: Reused, i: Array, num_iterations: int) -> tuple[Array, Array]:
        """``(fresh, exact)`` of iteration i: the levels to make anew, ``[S]`` or with a guard ``[S, B]``, and for
        which images that is all of them ``[B]``; booleans.

        >>> fresh, exact = Reuse(1).plan(Reuse(1).start(3, (2, 8, 8, 3)), 4, 9)
        >>> fresh.tolist(), exact.tolist()
        ([False, True, False], [False, False])
        """
        num_levels = reused.eps.shape[1]
        turn = (jnp.arange(num_levels) - self.refresh * i) % num_levels < self.refresh
        exact = (i == 0) | (i == num_iterations - 1)
        if self.check_every is not None:
            exact = exact | (i % self.check_every == 0)
        if self.guard is None:
            return turn | exact, jnp.broadcast_to(exact, reused.loss.shape)
        exact = exact | reused.astray
        return turn[:, None] | exact, exact

    def learn(self, reused: Reused, eps: Array, loss: Array, exact: Array) -> Reused:
        """After a rollout with these predictions and losses ``[B]``."""
        astray = reused.astray
        if self.guard is not None:
            astray = astray | (exact & (loss > self.guard * reused.loss))
        return Reused(eps, loss, astray)
