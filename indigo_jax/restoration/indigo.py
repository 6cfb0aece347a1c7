"""INDIGO: a diffusion sampler that is pulled towards what an invertible network makes of it and of the measurement.

Sources: You and Dragotti, INDIGO (arXiv 2306.02949), INDIGO+ (arXiv 2501.14014) and its released program.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from indigo_jax import guidance, rng, samplers, schedules
from indigo_jax.restoration.inn_energy import InvertibleNetwork, inn_energy
from indigo_jax.samplers.ddim import DdimState
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Key, Params

GRADIENTS = ("full", "truncated")
PRESETS = ("syn", "real")


class IndigoState(NamedTuple):
    """What the next step needs: ``x`` is ``x_t`` ``[B, H, W, C]``; with refinement each image has its own network, all
    leaves of ``params`` and the optimiser's moments being ``[B, ...]``."""

    x: Array
    params: Params
    opt_state: Any


class IndigoInfo(NamedTuple):
    """Diagnostics of a step.

    Attributes:
        t: the timestep it started from.
        x0: the estimate before guidance.
        residual: ``|y - c(x0)|`` per element (root mean square, in [0, 1] units) of each image ``[B]``.
    """

    t: Array
    x0: Array | None
    residual: Array


def indigo(denoiser: Denoiser, schedule: NoiseSchedule, inn: InvertibleNetwork, y: Array, *, cond: Array | None = None,
           scale=3.5, weights: tuple[float, float] = (2.5, 1.0),
           distance: Callable[[Array, Array], Array] | None = None, eta: float = 0.5, clip: str = "hard",
           gradient: str = "full",
           refine: optax.GradientTransformation | None = None, refine_until: int = 0) -> Kernel:
    """INDIGO as a kernel: DDIM whose next state goes down an energy of the estimate ``x0``.

        ``u = x0 / 2 + 1/2;  (c, d) = g(u);  v = g^-1(y, d)``
        ``x_s = ddim(x_t) - scale d/dx_t (w_1 |y - c| + w_2 distance(v, u))``

    and, with ``refine``, then one step of an optimiser on ``mean (y - c(u))^2`` for the parameters of g. Norms,
    networks and optimisers belong to each image by itself.

    Args:
        denoiser: unclipped, differentiable: ``denoisers.from_eps(fn, schedule)``.
        schedule: the levels to visit; :func:`indigo_schedule` has those of the released program.
        inn: the invertible network; what it makes of a picture must have the size of y.
        y: measurements ``[B, h, w, C]`` in ``[-1, 1]``.
        cond: conditions ``[B, D]`` for the network, F(y); whatever the network takes where None.
        scale: zeta, a number or one per image; the number 0 is DDIM, nothing else computed. See :func:`indigo_preset`.
        weights: ``(w_1, w_2)``.
        distance: ``[B, H, W, C] x 2 -> [B]`` in [0, 1] units, as LPIPS in INDIGO+; the norm ``|v - u|`` of INDIGO where
            None. Differentiated in both.
        eta: of DDIM.
        clip: of x0, "hard" (no gradient where it clips, as released) or "straight_through".
        gradient: "full" goes through the denoiser; "truncated" takes eps as a constant,
            ``dx0/dx_t = 1/sqrt(alpha_bar)``, and needs no backward pass of it.
        refine: optimiser of the network's parameters, image by image; None leaves them.
        refine_until: level of the schedule down to which, not included, they are refined.

    Returns:
        ``Kernel(init, step, num_steps)``: ``x_init`` is x_t at the noisiest level, pure noise or :func:`indigo_start`.
        State :class:`IndigoState`, info :class:`IndigoInfo`.

    Errors:
        ValueError for an unknown mode, or a network whose coarse pictures have another size than y.

    Differs from the reference in: norms of each image, not of the batch; any first estimate and network. The first
    paper's scale and steps are not known to us: the defaults are INDIGO+'s.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    num_steps, unguided = schedule.timesteps.shape[0], isinstance(scale, (int, float)) and scale == 0
    network = inn_energy(inn, y / 2 + 0.5, cond=cond, weights=weights, distance=distance, optimizer=refine)
    decorate = guidance.clip_x0(clip)
    base = decorate(denoiser if gradient == "full" else _constant_eps(denoiser, schedule))

    def init(x: Array, keys) -> IndigoState:
        del keys
        return IndigoState(x, *network.start(x.shape[0]))

    def step(keys: Key, state: IndigoState, i) -> tuple[IndigoState, IndigoInfo]:
        x, params, opt_state = state
        pull = guidance.energy(lambda x0: network.energy(params, x0 / 2 + 0.5)[0], scale)
        new, info = samplers.ddim(base if unguided else pull(base), schedule, eta).step(keys, DdimState(x), i)
        x0 = jax.lax.stop_gradient(info.x0)
        residual = network.residual(params, x0 / 2 + 0.5)
        if refine is not None:
            active = num_steps - 1 - i > refine_until
            params, opt_state = network.refine(params, opt_state, x0 / 2 + 0.5, active)
        return IndigoState(new.x, params, opt_state), IndigoInfo(info.t, x0, residual)

    return Kernel(init, step, num_steps)


def _constant_eps(denoiser, schedule):
    """The same numbers, with ``dx0 / dx_t = 1 / sqrt(alpha_bar)``."""
    def constant(x_t, t):
        prediction = denoiser(jax.lax.stop_gradient(x_t), t)
        signal = jnp.sqrt(schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t.astype(jnp.float32))])
        moved = (x_t - jax.lax.stop_gradient(x_t)) / signal[:, None, None, None]
        return prediction._replace(x0=prediction.x0 + moved)

    return constant


def indigo_preset(name: str) -> dict[str, Any]:
    """Arguments of :func:`indigo` for faces of 512 x 512 in pixels: ``"syn"`` for synthetic degradations, ``"real"``.

    Source: INDIGO+'s released program.

    >>> indigo_preset("syn")["scale"]
    3.5
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    if name == "syn":
        return {"scale": 3.5, "weights": (2.5, 1.0)}
    return {"scale": 1.0, "weights": (1.0, 0.5), "refine": optax.adam(5e-5), "refine_until": 0}


def indigo_schedule(schedule: NoiseSchedule, *, num_steps: int = 250, start: int = 100) -> NoiseSchedule:
    """``num_steps`` evenly spaced levels of a schedule, of which only the ``start`` least noisy are visited.

    >>> from indigo_jax import schedules
    >>> indigo_schedule(schedules.linear()).timesteps[::-1][:3].tolist()
    [396.0, 392.0, 388.0]
    """
    if not 1 <= start <= num_steps:
        raise ValueError(f"start must be between 1 and the {num_steps} steps, got {start}")
    return jax.tree.map(lambda levels: levels[:start], schedules.respace(schedule, num_steps, "leading"))


def indigo_start(schedule: NoiseSchedule, estimate: Array, keys: Key) -> Array:
    """``x_t`` at the schedule's noisiest level for a first estimate ``[B, H, W, C]`` in ``[-1, 1]``, as bicubic y.

    Differs from the reference in: noise of the level that is visited first, not of the one above it.
    """
    alpha_bar = schedule.alpha_bar[-1]
    return jnp.sqrt(alpha_bar) * estimate + jnp.sqrt(1 - alpha_bar) * rng.normal(rng.init_keys(keys), estimate)


def fix_color(x: Array, reference: Array, *, levels: int = 5) -> Array:
    """``x`` with the low frequencies of a reference: ``clip(x - low(x) + low(reference))``, both ``[B, H, W, C]``.

    ``low`` is ``levels`` times the filter [1 2 1] / 4 along both axes, its taps 1, 2, 4, ... pixels apart.
    """
    def low(picture):
        for level in range(levels):
            for axis in (1, 2):
                picture = _smooth(picture, axis, 2**level)
        return picture

    return jnp.clip(x - low(x) + low(reference), -1.0, 1.0)


def _smooth(x, axis, distance):
    length = x.shape[axis]
    before, after = (jnp.clip(jnp.arange(length) + offset, 0, length - 1) for offset in (-distance, distance))
    return (jnp.take(x, before, axis=axis) + 2 * x + jnp.take(x, after, axis=axis)) / 4
