"""INDIGO: a diffusion sampler that is pulled towards what an invertible network makes of it and of the measurement.

Sources: You and Dragotti, INDIGO (arXiv 2306.02949), INDIGO+ (arXiv 2501.14014) and its released program.
"""
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import guidance, rng, schedules
from indigo_jax.restoration.inn_energy import InnEnergy, inn_energy
from indigo_jax.samplers.base import Info, in_float32, own_keys
from indigo_jax.samplers.ddim import ddim_move
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, InvertibleNetwork, Kernel, Key, Operator, Params

if TYPE_CHECKING:
    import optax  # takes a moment to import, and most methods do without it

GRADIENTS = ("full", "truncated")
PRESETS = ("syn", "real")


class IndigoState(NamedTuple):
    """What the next step needs: ``x`` is ``x_t`` ``[B, H, W, C]``; with refinement each image has its own network, all
    leaves of ``params`` and the optimiser's moments being ``[B, ...]``."""

    x: Array
    params: Params
    opt_state: Any


class View(NamedTuple):
    """How an invertible network sees a chain: the default is a chain of pixels, :func:`latent_indigo` has others.

    Attributes:
        see: estimate ``x0`` of the chain -> u, what the network takes.
        measure: y -> m, the measurement in the units of the network's coarse part.
        show: u -> what a ``distance`` compares: of a chain of pixels the picture in [-1, 1].
        penalty: ``penalty(network, params, x0, u) -> [B]``, added to the energy; None: nothing.
        regularise: ``regularise(network, params, keys, x_s, unguided, x0, level) -> x_s`` after every step that may be
            guided, ``unguided`` being what DDIM alone makes of ``x0`` and ``level`` that of x_t; None: nothing.
    """

    see: Callable[[Array], Array] = lambda x0: x0 / 2 + 0.5
    measure: Callable[[Array], Array] = lambda y: y / 2 + 0.5
    show: Callable[[Array], Array] = lambda u: 2 * u - 1
    penalty: Callable[[InnEnergy, Params, Array, Array], Array] | None = None
    regularise: Callable[..., Array] | None = None


def indigo(denoiser: Denoiser, schedule: NoiseSchedule, inn: InvertibleNetwork | Operator, y: Array, *,
           cond: Array | None = None, scale=3.5, weights: tuple[float, float] = (2.5, 1.0),
           distance: Callable[[Array, Array], Array] | None = None, eta: float = 0.5, clip: str | None = "hard",
           gradient: str = "full", guide_every: int = 1, refine: "optax.GradientTransformation | None" = None,
           refine_until: int = 0, view: View = View()) -> Kernel:
    """INDIGO as a kernel: DDIM whose next state goes down an energy of the estimate ``x0``.

        ``u = x0 / 2 + 1/2,  m = y / 2 + 1/2;  (c, d) = g(u);  v = g^-1(m, d)``
        ``x_s = ddim(x_t) - scale d/dx_t (w_1 |m - c| + w_2 distance(v, u))``

    and, with ``refine``, then one step of an optimiser on ``mean (m - c(u))^2`` for the parameters of g. Norms,
    networks and optimisers belong to each image by itself.

    Args:
        denoiser: unclipped; differentiable where the gradient is full: ``denoisers.from_eps(fn, schedule)``.
        schedule: the levels to visit; :func:`indigo_schedule` has those of the released program.
        inn: the invertible network; what it makes of a picture must have the size of y. Where the operator is known,
            that operator: see :func:`operator_inn`.
        y: measurements ``[B, h, w, C]`` in ``[-1, 1]``.
        cond: conditions ``[B, D]`` for the network, F(y); whatever the network takes where None.
        scale: zeta, a number or one per image; the number 0 is DDIM, nothing else computed. See :func:`indigo_preset`.
            The pull on one pixel does not depend on the size when the scale grows with the square root of it.
        weights: ``(w_1, w_2)``.
        distance: ``[B, H, W, C] x 2 -> [B]`` between v and u, both as pictures in [-1, 1], as LPIPS in INDIGO+; the
            norm ``|v - u|`` of INDIGO, in the units of the network, where None. Differentiated in both.
        eta: of DDIM.
        clip: of x0, "hard" (no gradient where it clips, as released) or "straight_through"; None: not.
        gradient: "full" goes through the denoiser; "truncated" is :func:`guidance.truncated`.
        guide_every: guide and refine at the levels 0, k, 2k, ... of the schedule only; the others are plain DDIM steps
            that call no network but the denoiser.
        refine: optimiser of the network's parameters, image by image; None leaves them.
        refine_until: level of the schedule down to which, not included, they are refined.
        view: what the network sees of the chain and of y; that of pixels, as above, by default.

    Returns:
        ``Kernel(init, step, num_steps)``: ``x_init`` is x_t at the noisiest level, pure noise or :func:`indigo_start`.
        State :class:`IndigoState`. The info's ``x0`` is that before guidance, its residual the root mean square of
        ``m - c``, NaN where nothing was measured.

    Errors:
        ValueError for an unknown mode, ``guide_every`` below 1, distances that are not one per image, or a network
        whose coarse pictures have another size than y.

    Differs from the reference in: norms of each image, not of the batch; any first estimate and network. The first
    paper's scale and steps are not known to us: the defaults are INDIGO+'s.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    if guide_every < 1:
        raise ValueError(f"guide_every must be at least 1, got {guide_every}")
    num_steps, unguided = schedule.timesteps.shape[0], isinstance(scale, (int, float)) and scale == 0
    shown = distance and (lambda v, u: distance(view.show(v), view.show(u)))
    network = inn_energy(inn, view.measure(y), cond=cond, weights=weights, distance=shown, optimizer=refine)
    if gradient == "truncated":
        denoiser = guidance.truncated(schedule)(denoiser)
    estimate = denoiser if clip is None else guidance.clip_x0(clip)(denoiser)

    def predict(x_t, t):
        """A prediction whose leaves are all arrays."""
        prediction = estimate(x_t, t)
        return prediction._replace(drift=jnp.zeros_like(x_t) + prediction.drift)

    def guide(x_t, t, params):
        """``(prediction, drift, (u, residual))``."""
        def energy(x0):
            u = view.see(x0)
            energies, residual = network.energy(params, u)
            if view.penalty is not None:
                energies = energies + view.penalty(network, params, x0, u)
            return energies, (u, residual)

        if not unguided:
            return guidance.downhill(predict, energy, scale)(x_t, t)
        prediction = predict(x_t, t)
        u = view.see(prediction.x0)
        return prediction, jnp.zeros_like(x_t), (u, network.residual(params, u))

    def act(x_t, t, level, params, opt_state):
        prediction, drift, (u, residual) = guide(x_t, t, params)
        if refine is not None:
            params, opt_state = network.refine(params, opt_state, jax.lax.stop_gradient(u), level > refine_until)
        return prediction, drift, residual, params, opt_state

    def rest(x_t, t, level, params, opt_state):
        return predict(x_t, t), jnp.zeros_like(x_t), jnp.full(x_t.shape[:1], jnp.nan, x_t.dtype), params, opt_state

    @own_keys
    def step(keys: Key, state: IndigoState, i) -> tuple[IndigoState, Info]:
        level = num_steps - 1 - i
        t = schedule.timesteps[level]
        arguments = state.x, jnp.full(state.x.shape[:1], t), level, *state[1:]
        prediction, drift, residual, params, opt_state = (
            act(*arguments) if guide_every == 1 else jax.lax.cond(level % guide_every == 0, act, rest, *arguments))
        free = ddim_move(schedule, eta)(keys, prediction, level)
        x_s = free if unguided else free + drift
        if view.regularise is not None and not unguided:
            x_s = view.regularise(network, state.params, keys, x_s, free, prediction.x0, level)
        return IndigoState(x_s, params, opt_state), Info(t, prediction.x0, residual)

    return Kernel(lambda x, keys: IndigoState(in_float32(x), *network.start(x.shape[0])), step, num_steps)


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
    import optax
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
    def smoother(level, picture):  # in a loop, or XLA fuses all ten filters and works pixels out anew, 3^10 times
        return _smooth(_smooth(picture, 1, 2**level), 2, 2**level)

    def low(picture):
        return jax.lax.fori_loop(0, levels, smoother, picture)

    return jnp.clip(x - low(x) + low(reference), -1.0, 1.0)


def _smooth(x, axis, distance):
    length = x.shape[axis]
    before, after = (jnp.clip(jnp.arange(length) + offset, 0, length - 1) for offset in (-distance, distance))
    return (jnp.take(x, before, axis=axis) + 2 * x + jnp.take(x, after, axis=axis)) / 4
