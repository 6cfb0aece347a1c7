"""Fig. 1 of the InDI paper: the toy with four modes, restored by the exact restorer in one step or many."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.figures.drawing import COLOURS, pyplot
from indigo_jax import rng, samplers
from indigo_jax.paths import NoiseMode

MODES = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
_RED = "#D7263D"


class FourModes(NamedTuple):
    """Points ``x`` on four modes, each with probability 1/4, seen as ``y = diag(h) x + sigma n``.

    Attributes:
        title: for the figure.
        h: diagonal of the degradation, two numbers.
        sigma: noise of the measurement.
        noise: noise mode of the path.
    """

    title: str
    h: tuple[float, float]
    sigma: float
    noise: NoiseMode

    def observe(self, num: int, seed: int = 0):
        """``x``, ``y``: float32 ``[num, 2]``."""
        random = np.random.default_rng(seed)
        x = MODES[random.integers(0, 4, num)]
        return x, (x * self.h + self.sigma * random.normal(size=x.shape)).astype(np.float32)

    def restorer(self) -> Callable:
        """The exact ``F(x_t, t) = E[x | x_t] = sum_k softmax_k(-|x_t - m_k|^2 / (2 s^2)) c_k``, where
        ``m_k = ((1 - t) I + t H) c_k`` and ``s^2 = t^2 (sigma^2 + eps_t^2)``."""
        modes, h = jnp.asarray(MODES), jnp.asarray(self.h, jnp.float32)

        def restore(x_t, t):
            t = t[:, None, None]
            centres = ((1 - t) + t * h) * modes
            variance = (t * self.sigma) ** 2 + self.noise.std(t) ** 2
            square = jnp.sum((x_t[:, None] - centres) ** 2, axis=-1, keepdims=True)
            return jnp.sum(jax.nn.softmax(-square / (2 * variance), axis=1) * modes, axis=1)

        return restore

    def paths(self, y, num_steps: int, seed: int = 0) -> np.ndarray:
        """All states from ``x_1`` to ``x_0``, ``[num_steps + 1, B, 2]``, of observations ``y`` ``[B, 2]``."""
        kernel = samplers.indi(self.restorer(), num_steps, noise=self.noise)
        keys, y = rng.image_keys(seed, np.arange(len(y))), jnp.asarray(y, jnp.float32)
        _, info = jax.jit(lambda: samplers.sample(kernel, keys, y, trace="x"))()
        return np.concatenate([np.asarray(kernel.init(y, keys).x)[None], np.asarray(info.trace)])


TOYS = (
    FourModes("noise\n$y = x + n$,  $\\sigma = 1$", (1.0, 1.0), 1.0, samplers.no_noise()),
    FourModes("missing information\n$y = (x_1, 0)$\nconstant $\\epsilon = 0.1$", (1.0, 0.0), 0.0,
              samplers.constant_noise(0.1)),
    FourModes("missing information\n$y = (x_1, 0)$\nBrownian $\\epsilon = 0.1$", (1.0, 0.0), 0.0,
              samplers.brownian_noise(0.1)),
)


def nearest_mode(points) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest mode and the distance to it, ``[B]`` each, of points ``[B, 2]``."""
    distance = np.linalg.norm(np.asarray(points)[:, None] - MODES, axis=-1)
    return distance.argmin(axis=1), distance.min(axis=1)


def observations(toy: FourModes, num: int = 24) -> np.ndarray:
    """Where the drawn paths start: spread over a circle where the measurement is noisy, else drawn."""
    if not toy.sigma:
        return toy.observe(num)[1]
    angle = 2 * np.pi * np.arange(num) / num + 0.1
    return 1.9 * np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def draw_toy(steps=(1, 5, 50), *, num_scored: int = 10_000):
    """Fig. 1: one row per :data:`TOYS`, one column per number of steps."""
    plt = pyplot()
    limits = [2.4 if toy.sigma else 1.5 for toy in TOYS]
    figure, axes = plt.subplots(len(TOYS), len(steps), figsize=(3.3 * len(steps) + 1.2, 1.42 * sum(limits) + 1),
                                sharex=True, sharey="row", squeeze=False, layout="constrained",
                                gridspec_kw={"height_ratios": limits})
    for row, toy, limit in zip(axes, TOYS, limits):
        x, y = toy.observe(num_scored, seed=1)
        cloud = np.asarray(toy.paths(y[:400], 1)[0])
        row[0].set_ylabel(toy.title, fontsize=11, labelpad=12)
        for ax, num_steps in zip(row, steps):
            restored = toy.paths(y, num_steps)[-1]
            _draw_paths(ax, cloud, toy.paths(observations(toy), num_steps), limit)
            error = np.mean(np.sum((restored - x) ** 2, axis=-1))
            on = np.mean(nearest_mode(restored)[1] < 0.05)
            ax.text(0.5, 0.015, f"E$|\\hat x - x|^2$ = {error:.2f},  {100 * on:.0f} % on a mode", fontsize=9,
                    ha="center", va="bottom", transform=ax.transAxes,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    for ax, num_steps in zip(axes[0], steps):
        ax.set_title("N = 1: the regression $E[x|y]$" if num_steps == 1 else f"N = {num_steps} steps", fontsize=12)
    figure.suptitle("InDI with the exact restorer: paths from observations (dark dots) to the four modes of the data "
                    "(stars);\none step gives their mean (red), many steps end on them", fontsize=12)
    return figure


def _draw_paths(ax, cloud, paths, limit):
    ax.scatter(*cloud.T, s=5, color="0.82", linewidths=0, zorder=1)
    mode, _ = nearest_mode(paths[-1])
    one_step = len(paths) == 2
    for k in range(paths.shape[1]):
        colour = "0.45" if one_step else COLOURS[mode[k]]
        ax.plot(*paths[:, k].T, color=colour, linewidth=0.9, alpha=0.9, zorder=2)
        ax.plot(*paths[0, k], marker="o", markersize=3, color="0.25", zorder=3)
        ax.plot(*paths[-1, k], marker="o", markersize=5, color=_RED if one_step else colour, zorder=5)
    ax.plot(*MODES.T, "*", markersize=15, color="white", markeredgecolor="black", zorder=4)
    ax.set(xlim=(-2.4, 2.4), ylim=(-limit, limit), aspect="equal", xticks=(-2, -1, 0, 1, 2),
           yticks=(-2, -1, 0, 1, 2) if limit > 2 else (-1, 0, 1))
    ax.tick_params(labelsize=8)
    ax.grid(color="0.93", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
