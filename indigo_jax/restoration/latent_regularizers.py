"""What keeps the latents of a guided chain where the autoencoder and the prior were trained.

The LatentINDIGO paper says that there is such a step; its formula is not known to us. These are four candidates.
"""
import math
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.arrays import norm, per_image
from indigo_jax.restoration.indigo import View
from indigo_jax.samplers.ddim import ddim_move
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Autoencoder, Denoiser, Key

_SLOT = 0x7FFFFFFE  # folded into the keys of a step for what R3 draws


class LatentRegularizer(NamedTuple):
    """Which of the steps to take; none of them by default.

    Attributes:
        penalty: weight of :func:`autoencoder_penalty` (R1) in the energy; 0: off.
        reencode: share of :func:`reencode` (R2); 0: off.
        resample: repeats of :func:`resample` (R3); 0: off.
        radius: of :func:`trust_region` (R4); None: off.
        every: R2 and R3 act after every so many steps, never after the last ones of those.
        last: R2 acts only in this last share of the chain.
        through_network: R1 and R2 compare with what the invertible network makes of the estimate and the measurement,
            brought to latents, in place of ``E(D(z0))``.
    """

    penalty: float = 0.0
    reencode: float = 0.0
    resample: int = 0
    radius: float | None = None
    every: int = 5
    last: float = 0.5
    through_network: bool = False


DEFAULT = LatentRegularizer(radius=1.0)  # measured best, see docs/methods/indigo.md; the paper's is not known to us


def regularised(view: View, regularizer: LatentRegularizer, other: Callable[..., Array], denoiser: Denoiser,
                schedule: NoiseSchedule, eta: float) -> View:
    """A view whose chain takes the steps that a regulariser asks for.

    Args:
        view: what the invertible network sees.
        regularizer: which steps.
        other: ``other(network, params, z0, u)``, the latents to compare ``z0`` with in R1 and R2.
        denoiser, schedule, eta: of the chain, for R3.

    Errors:
        ValueError for numbers out of range.
    """
    chosen = regularizer
    if min(chosen.penalty, chosen.resample, chosen.radius or 0) < 0 or chosen.every < 1:
        raise ValueError(f"a regulariser's numbers are at least 0, and every at least 1; got {chosen}")
    if not (0 <= chosen.reencode <= 1 and 0 <= chosen.last <= 1):
        raise ValueError(f"reencode and last are shares in [0, 1]; got {chosen}")

    def penalty(network, params, z0, u):
        return autoencoder_penalty(z0, other(network, params, z0, u), weight=chosen.penalty)

    def regularise(network, params, keys, z_s, unguided, z0, level):
        def with_encoder(z_s):
            return reencode(z_s, z0, other(network, params, z0, view.see(z0)), schedule.alpha_bar_prev[level],
                            share=chosen.reencode)

        def with_prior(z_s):
            return resample(rng.fold(keys, _SLOT), z_s, level, denoiser, schedule, eta=eta, repeats=chosen.resample)

        now = level % chosen.every == chosen.every - 1
        late = level < math.ceil(chosen.last * schedule.timesteps.shape[0])
        if chosen.radius is not None:
            z_s = trust_region(z_s, unguided, schedule.alpha_bar_prev[level], radius=chosen.radius)
        if chosen.reencode:
            z_s = jax.lax.cond(now & late, with_encoder, lambda z_s: z_s, z_s)
        if chosen.resample:
            z_s = jax.lax.cond(now, with_prior, lambda z_s: z_s, z_s)
        return z_s

    return view._replace(penalty=penalty if chosen.penalty else None, regularise=regularise)


def autoencoder_penalty(z0: Array, other: Array, *, weight: float = 1.0) -> Array:
    """R1, a term of the energy: ``weight |E(D(z0)) - z0|`` of each image, ``[B]``.

    Args:
        z0: estimate ``[B, h, w, C]``.
        other: ``E(D(z0))``; differentiated, too.

    Source: PSLD (Rout et al. 2023), the gluing term.
    """
    return weight * norm(other - z0)


def reencode(z_s: Array, z0: Array, other: Array, alpha_bar_s, *, share: float) -> Array:
    """R2: the step that DDIM takes with ``(1 - share) z0 + share E(D(z0))`` for ``z0``, eps and noise as they were.

        ``z_s <- z_s + sqrt(alpha_bar_s) share (E(D(z0)) - z0)``

    Args:
        z_s: the next latents ``[B, h, w, C]``, guided or not.
        z0: the estimate that they were made of.
        other: ``E(D(z0))``.
        alpha_bar_s: of the level of ``z_s``.
    """
    return z_s + jnp.sqrt(alpha_bar_s) * share * (other - z0)


def resample(keys: Key, z_s: Array, level: Array, denoiser: Denoiser, schedule: NoiseSchedule, *, eta: float = 0.0,
             repeats: int = 1) -> Array:
    """R3: go back up one level and come down without guidance, ``repeats`` times.

        ``z_t = sqrt(a_t / a_s) z_s + sqrt(1 - a_t / a_s) n;  z_s <- ddim(z_t)``

    Args:
        keys: one per image ``[B]``.
        z_s: latents ``[B, h, w, C]`` just below the level.
        level: index t of the schedule.

    Source: the time travel of RePaint (Lugmayr et al. 2022, Algorithm 1).
    """
    move = ddim_move(schedule, eta)
    kept = schedule.alpha_bar[level] / schedule.alpha_bar_prev[level]

    def once(j, z_s):
        up, down = rng.fold(keys, 2 * j), rng.fold(keys, 2 * j + 1)
        z_t = jnp.sqrt(kept) * z_s + jnp.sqrt(1 - kept) * rng.normal(up, z_s)
        return move(down, denoiser(z_t, jnp.full(z_t.shape[:1], schedule.timesteps[level])), level)

    return jax.lax.fori_loop(0, repeats, once, z_s)


def trust_region(z_s: Array, unguided: Array, alpha_bar_s, *, radius: float) -> Array:
    """R4: guidance moves an image by at most ``radius sqrt(h w C) sqrt(1 - alpha_bar_s)``, its norm of noise.

    Args:
        z_s: the next latents ``[B, h, w, C]`` after guidance.
        unguided: before.
        alpha_bar_s: of their level; at the clean one nothing moves.
    """
    move = z_s - unguided
    limit = radius * jnp.sqrt((1 - alpha_bar_s) * move[0].size)
    shrink = jnp.minimum(1.0, limit / norm(move))
    return unguided + per_image(shrink, move) * move


def manifold_drift(z: Array, autoencoder: Autoencoder) -> Array:
    """``|E(D(z)) - z| / |z|`` of each image, ``[B]``: how far latents are from what the autoencoder would say."""
    return norm(autoencoder.encode(autoencoder.decode(z)) - z) / norm(z)
