"""Guidance decorates a denoiser: a decorator takes ``denoiser(x_t, t) -> Prediction`` and gives another one.

    guided = guidance.compose(guidance.clip_x0(), guidance.energy(lambda x0: ..., scale=1.0))(denoiser)

It sees functions only: whatever an energy or a projection measures is the caller's business.
"""
import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp

from indigo_jax import arrays
from indigo_jax.schedules import NoiseSchedule, check_signal
from indigo_jax.typing import Array, Denoiser

Decorator = Callable[[Denoiser], Denoiser]
CLIPS = ("hard", "straight_through", "dynamic")


def compose(*decorators: Decorator) -> Decorator:
    """One decorator out of several; the first one is nearest to the denoiser.

    >>> compose()(len) is len
    True
    """
    return lambda denoiser: functools.reduce(lambda inner, decorate: decorate(inner), decorators, denoiser)


def clip_x0(mode: str = "hard", *, quantile: float = 0.995, schedule: NoiseSchedule | None = None) -> Decorator:
    """Keep ``x0`` in ``[-1, 1]``.

    Args:
        mode: "hard" is ``min(max(x0, -1), 1)``; "straight_through" gives the same numbers, with the gradient of the
            identity; "dynamic" divides each image by the ``quantile`` of its ``|x0|`` where that is above 1, then clips
            (Saharia et al. 2022, Sec. 2.3).
        quantile: of the dynamic mode.
        schedule: derive eps anew, ``eps = (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar)``, so that both agree.
            Without it eps stays as the network gave it.

    Errors:
        ValueError for an unknown mode, or a quantile outside (0, 1].

    >>> from indigo_jax.denoisers import Prediction
    >>> clipped = clip_x0()(lambda x, t: Prediction(3.0 * x, x))
    >>> float(clipped(jnp.ones((1, 1, 1, 1)), jnp.zeros(1)).x0[0, 0, 0, 0])
    1.0
    """
    if mode not in CLIPS:
        raise ValueError(f"mode must be one of {', '.join(CLIPS)}; got {mode!r}")
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], got {quantile}")

    def hard(x0):
        return jnp.clip(x0, -1.0, 1.0)

    def clip(x0):
        if mode == "dynamic":
            size = jnp.quantile(jnp.abs(x0).reshape(x0.shape[0], -1), quantile, axis=1)
            size = arrays.per_image(jnp.maximum(size, 1.0), x0)
            return jnp.clip(x0, -size, size) / size
        return hard(x0) if mode == "hard" else arrays.straight_through(hard, x0)

    return _replace_x0(clip, schedule)


def project(correct: Callable[[Array], Array], *, schedule: NoiseSchedule | None = None) -> Decorator:
    """Replace ``x0`` by ``correct(x0)``, which agrees with the measurement.

    With ``correct(x0) = x0 - A^+ (A x0 - y)`` this is DDNM (Wang, Yu & Zhang 2023, Eq. 13); with a proximal step it is
    DiffPIR's data term (Zhu et al. 2023, Eq. 13).

    Args:
        correct: ``[B, H, W, C] -> [B, H, W, C]``.
        schedule: as for :func:`clip_x0`.

    >>> from indigo_jax.denoisers import Prediction
    >>> projected = project(lambda x0: 0.0 * x0)(lambda x, t: Prediction(x, x))
    >>> float(projected(jnp.ones((1, 1, 1, 1)), jnp.zeros(1)).x0[0, 0, 0, 0])
    0.0
    """
    return _replace_x0(correct, schedule)


def energy(energy_fn: Callable[[Array], Array], scale) -> Decorator:
    """Pull the sampler's next state down an energy of ``x0``: ``drift = -scale d energy(x0(x_t)) / d x_t``.

    The gradient goes through the denoiser (Chung et al. 2023, DPS, Algorithm 1, line 7).

    Args:
        energy_fn: ``[B, H, W, C] -> [B]``, one number per image, so that images do not couple.
        scale: a number, or one per image ``[B]``.

    Errors:
        ValueError if the energy is not one number per image.

    >>> from indigo_jax.denoisers import Prediction
    >>> pulled = energy(lambda x0: jnp.sum(x0**2, (1, 2, 3)), 0.5)(lambda x, t: Prediction(x, x))
    >>> float(pulled(jnp.ones((1, 1, 1, 1)), jnp.zeros(1)).drift[0, 0, 0, 0])
    -1.0
    """
    def decorate(denoiser):
        descend = downhill(denoiser, lambda x0: (energy_fn(x0), None), scale)

        def guided(x_t, t):
            prediction, drift, _ = descend(x_t, t)
            return prediction._replace(drift=prediction.drift + drift)

        return guided

    return decorate


def downhill(denoiser: Denoiser, energy_fn: Callable[[Array], tuple[Array, Any]], scale) -> Callable:
    """What :func:`energy` adds, apart from the prediction: ``(x_t, t) -> (prediction, drift, seen)``.

    Args:
        denoiser: its prediction is given back as it is.
        energy_fn: ``x0 -> (energies [B], seen)``; what else it has seen is handed on.
        scale: a number, or one per image ``[B]``.
    """
    def descend(x_t, t):
        def total(x):
            prediction = denoiser(x, t)
            energies, seen = energy_fn(prediction.x0)
            if energies.shape != x.shape[:1]:
                raise ValueError(f"energy_fn must give one number per image [{x.shape[0]}], got {energies.shape}: "
                                 "sum over all axes but the first")
            return jnp.sum(energies), (prediction, seen)

        gradient, (prediction, seen) = jax.grad(total, has_aux=True)(x_t)
        return prediction, -arrays.per_image(scale, x_t, "scale") * gradient, seen

    return descend


def truncated(schedule: NoiseSchedule) -> Decorator:
    """The same predictions, with ``d x0 / d x_t = 1 / sqrt(alpha_bar)``, as if eps were a constant.

    Guidance that is put around it needs no backward pass of the network.

    Args:
        schedule: the levels that are visited; t is one of its timesteps.

    Errors:
        ValueError for a schedule that ends in nothing but noise.

    >>> from indigo_jax import schedules
    >>> from indigo_jax.denoisers import Prediction
    >>> short = truncated(schedules.linear())(lambda x, t: Prediction(0.0 * x, x))
    >>> gradient = jax.grad(lambda x: jnp.sum(short(x, jnp.zeros(1)).x0))(jnp.ones((1, 1, 1, 1)))
    >>> round(float(gradient[0, 0, 0, 0]), 4)
    1.0001
    """
    check_signal(schedule, "guidance past the network")

    def decorate(denoiser):
        def constant(x_t, t):
            still = jax.lax.stop_gradient(x_t)
            prediction = denoiser(still, t)
            return prediction._replace(x0=prediction.x0 + (x_t - still) / jnp.sqrt(_alpha_bar(schedule, x_t, t)))

        return constant

    return decorate


def classifier_free(unconditional: Denoiser, scale: float) -> Decorator:
    """``x0 = x0_u + scale (x0_c - x0_u)``, and the same for eps (Ho & Salimans 2022, Eq. 6, with scale = 1 + w).

    The decorated denoiser is the conditional one; scale 1 leaves it as it is.

    >>> from indigo_jax.denoisers import Prediction
    >>> guided = classifier_free(lambda x, t: Prediction(0.0 * x, x), 2.0)(lambda x, t: Prediction(x, x))
    >>> float(guided(jnp.ones((1, 1, 1, 1)), jnp.zeros(1)).x0[0, 0, 0, 0])
    2.0
    """
    def decorate(conditional):
        def guided(x_t, t):
            with_, without = conditional(x_t, t), unconditional(x_t, t)
            return with_._replace(x0=without.x0 + scale * (with_.x0 - without.x0),
                                  eps=without.eps + scale * (with_.eps - without.eps))

        return guided

    return decorate


def _replace_x0(function, schedule):
    def decorate(denoiser):
        def decorated(x_t, t):
            prediction = denoiser(x_t, t)
            x0, eps = function(prediction.x0), prediction.eps
            if schedule is not None:
                alpha_bar = _alpha_bar(schedule, x_t, t)
                eps = (x_t - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)
            return prediction._replace(x0=x0, eps=eps)

        return decorated

    return decorate


def _alpha_bar(schedule, x_t, t):
    """That of the timesteps ``t`` ``[B]``, shaped to multiply ``x_t``."""
    return arrays.per_image(schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t.astype(jnp.float32))], x_t)
