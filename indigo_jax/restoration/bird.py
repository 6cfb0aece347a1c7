"""BIRD: restore by optimising the initial noise of a fast DDIM sampler, together with what is unknown of the operator.

Source: Chihaoui, Lemkhenter & Favaro, Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024
(arXiv 2405.19572), and its released code, which differentiates neither the network nor anything but linear steps.
"""
import math
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from indigo_jax import operators, rng
from indigo_jax.arrays import mean_square, misfit, split_as
from indigo_jax.restoration.reuse import Reuse, Reused
from indigo_jax.samplers.base import in_float32
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator, Params

if TYPE_CHECKING:
    import optax  # takes a moment to import, and most methods do without it

GRADIENTS = ("stop", "exact", "prox")
CLIPS = ("straight_through", "hard")
PROX_RHO = 0.01  # noise of 0.03 in y against a variance of 0.1 of the picture about the rollout


class BirdState(NamedTuple):
    """What the next iteration needs.

    Attributes:
        z: the initial noise ``[B, H, W, C]``, on the sphere of radius ``sqrt(H W C)`` after the first iteration.
        params: the operator's unknowns, every leaf ``[B, ...]``; None for a known operator.
        opt_state: of the optimiser over ``{"z": z, "params": params}``.
        x0: picture of the newest rollout, that is of z before the newest update (as the released code returns it).
        reused: what :class:`Reuse` remembers; None without.
    """

    z: Array
    params: Params
    opt_state: Any
    x0: Array
    reused: Reused | None = None

    @property
    def x(self) -> Array:
        """The picture: what :func:`samplers.sample` returns."""
        return self.x0


class BirdInfo(NamedTuple):
    """Diagnostics of an iteration.

    Attributes:
        loss: ``[B]``, see :class:`Objective`; of an image that has stopped, that of its picture.
        x0: the picture.
        evaluations: network evaluations that the image needed, ``[B]``.
        exact: all noise predictions of the rollout were new, so that its loss can be believed, ``[B]``.
        stopped: ``[B]`` booleans; None unless :func:`stopped` is around the kernel.
    """

    loss: Array
    x0: Array | None
    evaluations: Array
    exact: Array
    stopped: Array | None = None


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
         optimizer: "optax.GradientTransformation", gradient: str | Callable[[Array], Array] = "stop", *,
         num_iterations: int = 60, clip: str = "straight_through", reuse: Reuse | None = None) -> Kernel:
    """BIRD as a kernel whose steps are the iterations of its optimisation.

    ``minimise |y - A_p(x0(z))|^2`` over z with ``|z| = sqrt(H W C)`` and the unknowns p, where x0(z) is DDIM (eta = 0)
    over the levels of the schedule. One iteration: rollout, residual, optimiser step, back to the sphere. To stop
    each image when its residual is that of the noise, or to average the pictures, wrap the kernel: :func:`stopped`,
    :func:`averaged`.

    Args:
        denoiser: not clipped (its eps is used; BIRD clips by itself), as ``denoisers.from_eps(fn, schedule)``.
        schedule: the few levels of the fast sampler, as ``schedules.respace(schedule, 5, "linspace")``. The released
            code takes 10, "leading".
        operator: ``A(x) -> y``, or with unknowns ``A(x, params) -> y`` and ``A.init(keys)``
            (:class:`indigo_jax.typing.BlindOperator`). ``A.loss(x, y, params)`` replaces the squared residual, as for
            :func:`operators.blind_noise`.
        y: the measurements ``[B, ...]``.
        optimizer: over the tree ``{"z": z, "params": params}`` of one image; see :func:`bird_optimizer`. Each image
            has its own, so that one that looks at a whole tree, as for clipping by a global norm, couples none.
        gradient: "stop" takes the noise predictions as constants, so that d x0 / d z is a known diagonal: no network is
            ever differentiated, and the memory is that of a forward pass. "exact" differentiates the network, one
            step at a time. A function is "stop" with ``x0 - gradient(x0)`` in place of ``A'(A x0 - y)``, where
            ``gradient(x0) = argmin_x |A x - y|^2 + rho |x - x0|^2`` (:func:`operators.proximal`); "prox" is that
            with rho = 0.01, for a linear operator and little noise.
        num_iterations: how many.
        clip: of x0 to ``[-1, 1]`` in every DDIM step: "hard", whose gradient is 0 outside (the released code), or
            "straight_through".
        reuse: noise predictions of earlier rollouts in place of new ones; None: all are new, always.

    Returns:
        ``Kernel(init, step, num_steps)``. ``init(z, keys=None, params=None)`` takes the noise ``[B, H, W, C]``, or in
        its place keys ``[B]`` to draw it with (for pictures of the shape of y), and unknowns to start from, by
        default ``operator.init(keys)``. State :class:`BirdState`, info :class:`BirdInfo`.

    Errors:
        ValueError for unknown modes, numbers out of range, and noise of another shape than the pictures.

    The state is all that the next iteration needs beside its number i: a run may be cut anywhere, its state saved and
    loaded, and continued. Also by another kernel of as many iterations and the same optimizer, as a cheap start and an
    exact end; what that kernel does not use of the state it passes on::

        state = jax.lax.fori_loop(0, 40, lambda i, state: stop.step(keys, state, i)[0], stop.init(keys))
        state = jax.lax.fori_loop(40, 60, lambda i, state: exact.step(keys, state, i)[0], state)

    Differs from the reference in: images in batches, each with its own sphere, unknowns and loss; the straight-through
    clip (about 1 dB for inpainting); "exact", "prox" and reuse, which are ours.
    """
    num_levels = schedule.timesteps.shape[0]
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
    if reuse is not None:
        reuse.check(num_levels)
    objective = bird_objective(denoiser, schedule, operator, y, gradient, clip=clip)

    def init(z: Array, keys=None, params: Params = None) -> BirdState:
        if jnp.issubdtype(z.dtype, jax.dtypes.prng_key):
            if y.ndim != 4 or not getattr(operator, "shape_preserving", True):
                raise ValueError("this operator changes the shape: give the noise z itself, of the pictures' shape")
            z, keys = rng.normal(rng.init_keys(z), jnp.zeros_like(y, jnp.float32)), z
        z = in_float32(z)
        if params is None and hasattr(operator, "init"):
            params = operator.init(rng.image_keys(0, jnp.arange(z.shape[0])) if keys is None else keys)
        seen = jax.eval_shape(operator, z, *([] if params is None else [params])).shape
        if seen != y.shape or z.shape[:1] != y.shape[:1]:
            raise ValueError(f"z must be of the pictures' shape: the operator makes {seen} of noise {z.shape}, but the "
                             f"measurements have shape {y.shape}")
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
            opt_state = jax.vmap(optimizer.init)({"z": z, "params": params})
        remembered = reuse and reuse.start(num_levels, z.shape)
        return BirdState(z, params, *split_as((opt_state, jnp.zeros(z.shape), remembered), z))

    def step(keys, state: BirdState, i) -> tuple[BirdState, BirdInfo]:
        del keys  # an iteration draws nothing
        eps, fresh = None, None
        reused: Any = state.reused
        exact = jnp.ones(state.z.shape[:1], bool)
        evaluations = jnp.full(state.z.shape[:1], num_levels)
        if reuse is not None:
            eps, (fresh, exact) = jnp.moveaxis(reused.eps, 1, 0), reuse.plan(reused, i, num_iterations)
            evaluations = jnp.broadcast_to(jnp.sum(fresh, axis=0, dtype=jnp.int32), exact.shape)
        now = objective(state.z, state.params, eps, fresh)
        variables = {"z": state.z, "params": state.params}
        with jax.numpy_dtype_promotion("standard"):
            gradients = {"z": now.grad_z, "params": now.grad_params}
            updates, opt_state = jax.vmap(optimizer.update)(gradients, state.opt_state, variables)
        import optax
        variables = optax.apply_updates(variables, updates)
        if reuse is not None:
            reused = reuse.learn(reused, jnp.moveaxis(now.eps, 0, 1), now.loss, exact)
        return (BirdState(to_sphere(variables["z"]), variables["params"], opt_state, now.x0, reused),
                BirdInfo(now.loss, now.x0, *split_as((evaluations, exact), state.z)))

    return Kernel(init, step, num_iterations)


def bird_objective(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array,
                   gradient: str | Callable[[Array], Array] = "stop", *, clip: str = "straight_through") -> Callable:
    """BIRD's objective and its gradient: ``objective(z, params=None, eps=None, fresh=None) -> Objective``.

    With ``eps`` ``[S, B, H, W, C]`` and ``fresh``, ``[S]`` or ``[S, B]`` booleans, levels that are not fresh reuse
    their eps.

    Args:
        denoiser, schedule, operator, y, gradient, clip: as for :func:`bird`.

    Errors:
        ValueError for unknown modes, and "prox" for an operator with unknowns.
    """
    if not callable(gradient) and gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, or a function; got {gradient!r}")
    if clip not in CLIPS:
        raise ValueError(f"clip must be one of {', '.join(CLIPS)}; got {clip!r}")
    blind = hasattr(operator, "init")
    if gradient == "prox" and blind:
        raise ValueError("gradient='prox' needs a known, linear operator, but this one has unknowns")
    nearest = gradient if callable(gradient) else lambda x0: operators.proximal(operator, y, x0, PROX_RHO)

    def losses(x0, params):
        if hasattr(operator, "loss"):
            return operator.loss(x0, y, params)
        return mean_square(misfit(operator(x0, params) if blind else operator(x0), y))

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
        if gradient != "stop":
            grad_x0 = x0 - jnp.clip(nearest(x0), -1.0, 1.0)
        return Objective(loss, jacobian * grad_x0, grad_params, x0, new_eps)

    return objective


def ddim_rollout(denoiser: Denoiser, schedule: NoiseSchedule, z: Array, *, clip: str = "straight_through",
                 eps: Array | None = None, fresh: Array | None = None, remat: bool = False):
    """DDIM (eta = 0) from z, with x0 clipped to ``[-1, 1]`` and eps derived anew from it in every step.

    ``x0 = clip((x_t - sqrt(1 - a_t) eps) / sqrt(a_t))``, ``x_s = sqrt(a_s) x0 + sqrt(1 - a_s) (x_t - sqrt(a_t) x0) /
    sqrt(1 - a_t)``. With eps as a constant the derivative of a step is diagonal: ``sqrt(a_s / a_t)`` where nothing was
    clipped (everywhere, for "straight_through"), else ``sqrt((1 - a_s) / (1 - a_t))``.

    Args:
        denoiser, schedule, clip: as for :func:`bird`.
        z: the noise ``[B, H, W, C]``.
        eps: noise predictions of an earlier rollout ``[S, B, H, W, C]``, to be reused where not fresh.
        fresh: which are to be made anew, ``[S]`` or, for each image, ``[S, B]`` (booleans). A level that no image
            needs costs no network evaluation.
        remat: recompute each step in the backward pass instead of storing it.

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

        def mixed():
            return jnp.where(is_fresh[:, None, None, None], predict(), old)

        if old is None:
            new = predict()
        elif is_fresh.ndim:
            new = jax.lax.cond(jnp.any(is_fresh), mixed, lambda: old)
        else:
            new = jax.lax.cond(is_fresh, predict, lambda: old)
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
                   final: float = 0.05) -> "optax.GradientTransformation":
    """Adam with a rate for the noise and one for the operator's unknowns, decayed by a cosine to ``final`` of it.

    The released code uses constant rates (``final=1``): z 3e-3 and params 2e-4 for deblurring, z 1e-3 for 8x
    super-resolution, 1e-2 for denoising and inpainting, over 100 to 200 iterations. Our defaults are for 60.
    """
    import optax

    def adam(rate):
        return optax.adam(optax.cosine_decay_schedule(rate, num_iterations, alpha=final))

    return optax.multi_transform({"z": adam(z), "params": adam(params)}, {"z": "z", "params": "params"})


def to_sphere(z: Array) -> Array:
    """Scale each image to norm ``sqrt(H W C)``, that of white noise: ``r z / sqrt(|z|^2 + 1e-9)``."""
    axes = tuple(range(1, z.ndim))
    return z * (math.prod(z.shape[1:])**0.5 / jnp.sqrt(jnp.sum(z**2, axis=axes, keepdims=True) + 1e-9))
