"""BIRD: restore by optimising the initial noise of a fast DDIM sampler, together with what is unknown of the operator.

Source: Chihaoui, Lemkhenter & Favaro, Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024
(arXiv 2405.19572), and its released code, which differentiates neither the network nor anything but linear steps.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from indigo_jax import rng
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator, Params

GRADIENTS = ("stop", "exact", "prox")
CLIPS = ("straight_through", "hard")


class BirdState(NamedTuple):
    """What the next iteration needs.

    Attributes:
        z: the initial noise ``[B, H, W, C]``, on the sphere of radius ``sqrt(H W C)`` after the first iteration.
        params: the operator's unknowns, every leaf ``[B, ...]``; None for a known operator.
        opt_state: of the optimiser over ``{"z": z, "params": params}``.
        x0: picture of the newest rollout, that is of z before the newest update (as the released code returns it).
        eps: the noise predictions of the newest rollout ``[S, B, H, W, C]``; None unless some are reused.
    """

    z: Array
    params: Params
    opt_state: Any
    x0: Array
    eps: Array | None

    @property
    def x(self) -> Array:
        """The picture: what :func:`samplers.sample` returns."""
        return self.x0


class BirdInfo(NamedTuple):
    """Diagnostics of an iteration: ``loss`` ``[B]``, see :class:`Objective`; the picture ``x0``."""

    loss: Array
    x0: Array | None


class Objective(NamedTuple):
    """What :func:`bird_objective` says at one z.

    Attributes:
        loss: ``[B]``, mean squared residual of each image, or the operator's own loss where it has one.
        grad_z: the descent direction for z that the mode asks for, ``[B, H, W, C]``.
        grad_params: exact gradient for the operator's unknowns; None for a known operator.
        x0: the picture ``[B, H, W, C]``.
        eps: noise predictions ``[S, B, H, W, C]``, noisiest first.
    """

    loss: Array
    grad_z: Array
    grad_params: Params
    x0: Array
    eps: Array


def bird(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array,
         optimizer: optax.GradientTransformation, gradient: str = "stop", *, num_iterations: int = 60,
         clip: str = "straight_through", prox: Callable[[Array], Array] | None = None, refresh: int | None = None,
         params: Params = None, image_shape: tuple[int, int, int] | None = None) -> Kernel:
    """BIRD as a kernel whose steps are the iterations of its optimisation.

    ``minimise |y - A_p(x0(z))|^2`` over z with ``|z| = sqrt(H W C)`` and the unknowns p, where x0(z) is DDIM (eta = 0)
    over the levels of the schedule. One iteration: rollout, residual, optimiser step, back to the sphere.

    Args:
        denoiser: not clipped (its eps is used; BIRD clips by itself), as ``denoisers.from_eps(fn, schedule)``.
        schedule: the few levels of the fast sampler, as ``schedules.respace(schedule, 5, "linspace")``. The released
            code takes 10, "leading".
        operator: ``A(x) -> y``, or with unknowns ``A(x, params) -> y`` and ``A.init(keys)``
            (:class:`indigo_jax.typing.BlindOperator`). ``A.loss(x, y, params)`` replaces the squared residual, as for
            :func:`operators.blind_noise`.
        y: the measurements ``[B, ...]``.
        optimizer: over the tree ``{"z": z, "params": params}``; see :func:`bird_optimizer`.
        gradient: "stop" takes the noise predictions as constants, so that d x0 / d z is a known diagonal: no network is
            ever differentiated, and the memory is that of a forward pass. "exact" differentiates the network, one
            step at a time. "prox" is "stop" with ``x0 - prox(x0)`` in place of ``A'(A x0 - y)``.
        num_iterations: how many.
        clip: of x0 to ``[-1, 1]`` in every DDIM step: "hard", whose gradient is 0 outside (the released code), or
            "straight_through".
        prox: for "prox": ``argmin_x |A x - y|^2 + rho |x - x0|^2`` as a function of x0 (:func:`operators.proximal`).
        refresh: recompute the noise predictions of so many of the S levels per iteration, in turn, and reuse the
            others; all of them in the first and the last iteration. Good for inpainting and denoising, bad for
            super-resolution. Default: all, always.
        params: unknowns to start from; default ``operator.init(keys)``.
        image_shape: ``(H, W, C)`` of the pictures; default that of y for operators that keep the shape.

    Returns:
        ``Kernel(init, step, num_steps)``. ``init(z)`` takes the noise ``[B, H, W, C]`` as it is, ``init(keys)`` draws
        it; the state is :class:`BirdState`, the info :class:`BirdInfo`.

    Errors:
        ValueError for unknown modes, "prox" without prox, refresh out of range, an unknown image shape.

    Differs from the reference in: images in batches, each with its own sphere, unknowns and loss; the straight-through
    clip (about 1 dB for inpainting); "exact", "prox" and refresh, which are ours.
    """
    num_levels = schedule.timesteps.shape[0]
    if refresh is not None and not 1 <= refresh <= num_levels:
        raise ValueError(f"refresh must be between 1 and the {num_levels} levels of the schedule, got {refresh}")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
    objective = bird_objective(denoiser, schedule, operator, y, gradient, clip=clip, prox=prox)
    shape = _image_shape(operator, y, image_shape)
    blind = hasattr(operator, "init")

    def init(z: Array, keys=None) -> BirdState:
        if jnp.issubdtype(z.dtype, jax.dtypes.prng_key):
            z, keys = rng.normal(rng.init_keys(z), jnp.zeros(shape)), z
        if z.shape != shape:
            raise ValueError(f"z must be of the pictures' shape {shape}, got {z.shape}")
        unknowns = params
        if unknowns is None and blind:
            unknowns = operator.init(rng.image_keys(0, jnp.arange(shape[0])) if keys is None else keys)
        eps = None if refresh is None else jnp.zeros((num_levels, *shape))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
            return BirdState(z, unknowns, optimizer.init({"z": z, "params": unknowns}), jnp.zeros(shape), eps)

    def step(keys, state: BirdState, i) -> tuple[BirdState, BirdInfo]:
        del keys  # an iteration draws nothing
        fresh = None
        if refresh is not None:
            turn = (jnp.arange(num_levels) - refresh * i) % num_levels < refresh
            fresh = turn | (i == 0) | (i == num_iterations - 1)
        now = objective(state.z, state.params, state.eps, fresh)
        variables = {"z": state.z, "params": state.params}
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update({"z": now.grad_z, "params": now.grad_params}, state.opt_state,
                                                  variables)
        variables = optax.apply_updates(variables, updates)
        eps = None if refresh is None else now.eps
        return (BirdState(to_sphere(variables["z"]), variables["params"], opt_state, now.x0, eps),
                BirdInfo(now.loss, now.x0))

    return Kernel(init, step, num_iterations)


def bird_objective(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, gradient: str = "stop", *,
                   clip: str = "straight_through", prox: Callable[[Array], Array] | None = None) -> Callable:
    """BIRD's objective and its gradient: ``objective(z, params=None, eps=None, fresh=None) -> Objective``.

    With ``eps`` ``[S, B, H, W, C]`` and ``fresh`` ``[S]`` (booleans), levels that are not fresh reuse their eps. The
    other arguments are those of :func:`bird`.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    if clip not in CLIPS:
        raise ValueError(f"clip must be one of {', '.join(CLIPS)}; got {clip!r}")
    if (gradient == "prox") != (prox is not None):
        raise ValueError("gradient='prox' and prox= belong together: pass prox=lambda x0: operators.proximal(...)")
    blind = hasattr(operator, "init")

    def losses(x0, params):
        if hasattr(operator, "loss"):
            return operator.loss(x0, y, params)
        residual = (operator(x0, params) if blind else operator(x0)) - y
        return jnp.mean(residual**2, axis=tuple(range(1, residual.ndim)))

    def rollout(z, eps, fresh):
        return ddim_rollout(denoiser, schedule, z, clip=clip, eps=eps, fresh=fresh, remat=gradient == "exact")

    def objective(z, params=None, eps=None, fresh=None) -> Objective:
        if gradient == "exact":
            def total(z, params):
                x0, _, new_eps = rollout(z, eps, fresh)
                loss = losses(x0, params)
                return jnp.sum(loss), (loss, x0, new_eps)

            (grad_z, grad_params), (loss, x0, new_eps) = jax.grad(total, (0, 1), has_aux=True)(z, params)
            return Objective(loss, grad_z, grad_params, x0, new_eps)
        x0, jacobian, new_eps = rollout(z, eps, fresh)
        loss, pullback = jax.vjp(losses, x0, params)
        grad_x0, grad_params = pullback(jnp.ones_like(loss))
        if gradient == "prox":
            grad_x0 = x0 - jnp.clip(prox(x0), -1.0, 1.0)
        return Objective(loss, jacobian * grad_x0, grad_params, x0, new_eps)

    return objective


def ddim_rollout(denoiser: Denoiser, schedule: NoiseSchedule, z: Array, *, clip: str = "straight_through",
                 eps: Array | None = None, fresh: Array | None = None, remat: bool = False):
    """DDIM (eta = 0) from z, with x0 clipped to ``[-1, 1]`` and eps derived anew from it in every step.

    ``x0 = clip((x_t - sqrt(1 - a_t) eps) / sqrt(a_t))``, ``x_s = sqrt(a_s) x0 + sqrt(1 - a_s) (x_t - sqrt(a_t) x0) /
    sqrt(1 - a_t)``. With eps as a constant the derivative of a step is diagonal: ``sqrt(a_s / a_t)`` where nothing was
    clipped (everywhere, for "straight_through"), else ``sqrt((1 - a_s) / (1 - a_t))``.

    Returns:
        ``(x0, jacobian, eps)``: the picture, the product of these derivatives (both as z), and the noise predictions
        ``[S, B, H, W, C]``, noisiest first.
    """
    levels = (schedule.timesteps, schedule.alpha_bar, schedule.alpha_bar_prev)
    t, a_t, a_s = (level[::-1] for level in levels)

    def step(carry, level):
        x, jacobian = carry
        t, a_t, a_s, old, is_fresh = level
        signal, noise, signal_s, noise_s = jnp.sqrt(a_t), jnp.sqrt(1 - a_t), jnp.sqrt(a_s), jnp.sqrt(1 - a_s)

        def predict():
            return denoiser(x, jnp.full(x.shape[:1], t)).eps

        new = predict() if old is None else jax.lax.cond(is_fresh, predict, lambda: old)
        raw = (x - noise * new) / signal
        x0 = jnp.clip(raw, -1.0, 1.0)
        x0 = raw + jax.lax.stop_gradient(x0 - raw) if clip == "straight_through" else x0
        free = True if clip == "straight_through" else jnp.abs(raw) <= 1.0
        x_s = signal_s * x0 + noise_s * (x - signal * x0) / noise
        return (x_s, jacobian * jnp.where(free, signal_s / signal, noise_s / noise)), new

    step = jax.checkpoint(step) if remat else step
    (x0, jacobian), eps = jax.lax.scan(step, (z, jnp.ones_like(z)), (t, a_t, a_s, eps, fresh))
    return x0, jacobian, eps


def bird_optimizer(z: float = 0.1, params: float = 0.01, *, num_iterations: int = 60,
                   final: float = 0.05) -> optax.GradientTransformation:
    """Adam with a rate for the noise and one for the operator's unknowns, decayed by a cosine to ``final`` of it.

    The released code uses constant rates (``final=1``): z 3e-3 and params 2e-4 for deblurring, z 1e-3 for 8x
    super-resolution, 1e-2 for denoising and inpainting, over 100 to 200 iterations. Our defaults are for 60.
    """
    def adam(rate):
        return optax.adam(optax.cosine_decay_schedule(rate, num_iterations, alpha=final))

    return optax.multi_transform({"z": adam(z), "params": adam(params)}, {"z": "z", "params": "params"})


def to_sphere(z: Array) -> Array:
    """Scale each image to norm ``sqrt(H W C)``, that of white noise: ``r z / sqrt(|z|^2 + 1e-9)``."""
    axes = tuple(range(1, z.ndim))
    return z * (z[0].size**0.5 / jnp.sqrt(jnp.sum(z**2, axis=axes, keepdims=True) + 1e-9))


def _image_shape(operator, y, image_shape):
    if image_shape is not None:
        return (y.shape[0], *image_shape)
    if not getattr(operator, "shape_preserving", True):
        raise ValueError("this operator changes the shape: say that of the pictures with image_shape=(H, W, C)")
    return y.shape
