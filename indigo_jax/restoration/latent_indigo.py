"""LatentINDIGO: INDIGO for latent diffusion, with an invertible network of pixels or of latents.

Source: You, Siromani and Dragotti, LatentINDIGO (arXiv 2505.12935), of which the abstract, and the alternation of
INDIGO+'s released program. The paper's losses, regularisation and numbers are not known to us: what stands here is a
reconstruction, and the defaults are our choice.
"""
import math
from typing import Callable

import jax
import jax.numpy as jnp
import optax

from indigo_jax import rng, samplers
from indigo_jax.restoration import latent_regularizers as latents
from indigo_jax.restoration.indigo import GRADIENTS, IndigoInfo, IndigoState
from indigo_jax.restoration.inn_energy import InvertibleNetwork, inn_energy
from indigo_jax.restoration.latent_regularizers import Autoencoder, LatentRegularizer
from indigo_jax.samplers.ddim import DdimState
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Image, Kernel, Key

VARIANTS = ("pixel", "latent")
_REGULARIZER = 0x7FFFFFFE  # folded into the keys of a step for what the regulariser draws


def latent_indigo(denoiser: Denoiser, schedule: NoiseSchedule, inn: InvertibleNetwork, y: Image,
                  autoencoder: Autoencoder, variant: str = "pixel", *, cond: Array | None = None, scale=1.0,
                  weights: tuple[float, float] = (2.5, 1.0),
                  distance: Callable[[Array, Array], Array] | None = None, eta: float = 0.5, gradient: str = "full",
                  guide_every: int = 1, refine: optax.GradientTransformation | None = None, refine_until: int = 0,
                  regularizer: LatentRegularizer | None = None) -> Kernel:
    """LatentINDIGO as a kernel: DDIM in latents, pulled down the energy of an invertible network, then regularised.

        "pixel": ``u = D(z0) / 2 + 1/2``, ``m = y / 2 + 1/2``;  "latent": ``u = z0``, ``m = E(y)``
        ``(c, d) = g(u);  v = g^-1(m, d)``
        ``z_s = regularise(ddim(z_t) - scale d/dz_t (w_1 |m - c| + w_2 distance(v, u)))``

    and, with ``refine``, then one step of an optimiser on ``mean (m - c(u))^2`` for the parameters of g. Norms,
    networks and optimisers belong to each image by itself.

    "latent" encodes the measurement once, before the chain, and decodes nothing unless the regulariser is told to.

    Args:
        denoiser: of latents, differentiable where the gradient is full: ``denoisers.from_eps(fn, schedule)``. A
            prompt: ``guidance.classifier_free(unconditional, 5.0)(conditional)``. Large latents:
            ``denoisers.from_eps(blended_tiles(fn), schedule)``.
        schedule: the levels to visit, as for :func:`indigo`.
        inn: the invertible network, of pictures in [0, 1] or of latents.
        y: measurements ``[B, h, w, 3]`` in ``[-1, 1]``, of the size of the network's coarse pictures; for "latent" of
            a size that the autoencoder takes, E(y) having that of its coarse latents.
        autoencoder: E and D in the units of the diffusion; :func:`tiled_autoencoder` for large pictures.
        variant: "pixel" or "latent".
        cond: conditions ``[B, D]`` for the network, F(y).
        scale: zeta, a number or one per image; the number 0 is DDIM, neither guided nor regularised. The pull on one
            pixel does not depend on the size when the scale grows with the square root of it.
        weights: ``(w_1, w_2)``.
        distance: ``[B, ...] x 2 -> [B]`` between v and u, in pixels as LPIPS; the norm ``|v - u|`` where None.
            Differentiated in both.
        eta: of DDIM.
        gradient: "full" goes through the denoiser; "truncated" takes eps as a constant,
            ``dz0/dz_t = 1/sqrt(alpha_bar)``, and needs no backward pass of it.
        guide_every: guide and refine at the levels 0, k, 2k, ... of the schedule only; the others are plain DDIM steps
            that neither decode nor call the network.
        refine: optimiser of the network's parameters, image by image; None leaves them.
        refine_until: level of the schedule down to which, not included, they are refined.
        regularizer: see :class:`LatentRegularizer`; ``latent_regularizers.PIXEL`` or ``LATENT`` where None.

    Returns:
        ``Kernel(init, step, num_steps)`` on latents: ``x_init`` is z_t at the noisiest level, pure noise or
        ``indigo_start(schedule, autoencoder.encode(estimate), keys)``; the result is for ``autoencoder.decode``.
        State :class:`IndigoState`; info :class:`IndigoInfo`, its residual in the units of the network and NaN where
        nothing was measured.

    Errors:
        ValueError for an unknown mode, ``guide_every`` below 1, a regulariser's numbers out of range, distances that
        are not one per image, or a network whose coarse pictures have another size than the measurements.
    """
    for name, value, known in (("variant", variant, VARIANTS), ("gradient", gradient, GRADIENTS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if guide_every < 1:
        raise ValueError(f"guide_every must be at least 1, got {guide_every}")
    if regularizer is None:
        regularizer = latents.PIXEL if variant == "pixel" else latents.LATENT
    latents.check(regularizer)
    num_steps, pixels = schedule.timesteps.shape[0], variant == "pixel"
    unguided = isinstance(scale, (int, float)) and scale == 0
    network = inn_energy(inn, y / 2 + 0.5 if pixels else autoencoder.encode(y), cond=cond, weights=weights,
                         distance=distance, optimizer=refine)

    def view(z0):
        """What the network sees."""
        return autoencoder.decode(z0) / 2 + 0.5 if pixels else z0

    def other(params, z0, u):
        """Latents to compare ``z0`` with."""
        if not regularizer.through_network and not pixels:
            return autoencoder.round_trip(z0)
        u = network.swapped(params, u) if regularizer.through_network else u
        return autoencoder.encode(2 * u - 1) if pixels else u

    def energy(params, z0):
        u = view(z0)
        energies, residual = network.energy(params, u)
        if regularizer.penalty:
            energies = energies + latents.autoencoder_penalty(z0, other(params, z0, u), weight=regularizer.penalty)
        return energies, u, residual

    def init(z: Array, keys) -> IndigoState:
        del keys
        return IndigoState(z, *network.start(z.shape[0]))

    def guide(state, level):
        """``(prediction, drift, params, opt_state, residual)`` of a step; nothing but the first where it is free."""
        t = jnp.full(state.x.shape[:1], schedule.timesteps[level])
        if gradient == "full" and not unguided:
            start, slope, predict = state.x, 1.0, lambda z_t: _with_drift(denoiser(z_t, t))
        else:
            known = _with_drift(denoiser(state.x, t))
            start, slope, predict = known.x0, 1 / jnp.sqrt(schedule.alpha_bar[level]), lambda z0: known._replace(x0=z0)

        def total(start):
            prediction = predict(start)
            energies, u, residual = energy(state.params, prediction.x0)
            return jnp.sum(energies), (prediction, u, residual)

        def act(start, params, opt_state):
            if unguided:
                prediction, drift = predict(start), jnp.zeros_like(start)
                u = view(prediction.x0)
                residual = network.residual(params, u)
            else:
                slopes, (prediction, u, residual) = jax.grad(total, has_aux=True)(start)
                drift = -_per_image(scale, start) * slope * slopes
            if refine is not None:
                params, opt_state = network.refine(params, opt_state, jax.lax.stop_gradient(u), level > refine_until)
            return prediction, drift, params, opt_state, residual

        def free(start, params, opt_state):
            return (predict(start), jnp.zeros_like(start), params, opt_state,
                    jnp.full(start.shape[:1], jnp.nan, start.dtype))

        arguments = (start, state.params, state.opt_state)
        return act(*arguments) if guide_every == 1 else jax.lax.cond(level % guide_every == 0, act, free, *arguments)

    def regularise(keys, z_s, z0, params, level):
        now = level % regularizer.every == regularizer.every - 1
        if regularizer.reencode:
            def reencode(z_s):
                return latents.reencode(z_s, z0, other(params, z0, view(z0)), schedule.alpha_bar_prev[level],
                                        share=regularizer.reencode)

            late = level < math.ceil(regularizer.last * num_steps)
            z_s = jax.lax.cond(now & late, reencode, lambda z_s: z_s, z_s)
        if regularizer.resample:
            def resample(z_s):
                return latents.resample(rng.fold(keys, _REGULARIZER), z_s, level, denoiser, schedule, eta=eta,
                                        repeats=regularizer.resample)

            z_s = jax.lax.cond(now, resample, lambda z_s: z_s, z_s)
        return z_s

    def step(keys: Key, state: IndigoState, i) -> tuple[IndigoState, IndigoInfo]:
        level = num_steps - 1 - i
        prediction, drift, params, opt_state, residual = guide(state, level)
        new, info = samplers.ddim(lambda z_t, t: prediction, schedule, eta).step(keys, DdimState(state.x), i)
        if unguided:
            return IndigoState(new.x, params, opt_state), IndigoInfo(info.t, info.x0, residual)
        z_s = new.x + drift
        if regularizer.radius is not None:
            z_s = latents.trust_region(z_s, new.x, schedule.alpha_bar_prev[level], radius=regularizer.radius)
        z_s = regularise(keys, z_s, info.x0, state.params, level)
        return IndigoState(z_s, params, opt_state), IndigoInfo(info.t, info.x0, residual)

    return Kernel(init, step, num_steps)


def _with_drift(prediction):
    """A prediction whose leaves are all arrays."""
    return prediction._replace(drift=jnp.zeros_like(prediction.x0) + prediction.drift)


def _per_image(numbers, x):
    numbers = jnp.asarray(numbers, jnp.float32)
    return numbers.reshape((-1,) + (1,) * (x.ndim - 1)) if numbers.ndim else numbers
