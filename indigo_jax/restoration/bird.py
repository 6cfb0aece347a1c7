"""BIRD: restore by optimising the initial noise of a fast DDIM sampler, together with what is unknown of the operator.

Source: Chihaoui, Lemkhenter & Favaro, Blind Image Restoration via Fast Diffusion Inversion, NeurIPS 2024
(arXiv 2405.19572), and its released code, which differentiates neither the network nor anything but linear steps.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from indigo_jax import rng
from indigo_jax.arrays import square
from indigo_jax.restoration import stopping
from indigo_jax.restoration.rollout import ddim_rollout
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
        average: moving average of x0 ``[B, H, W, C]``; None unless asked for.
        watch: what stopping and the guard remember; None unless one of them is on.
    """

    z: Array
    params: Params
    opt_state: Any
    x0: Array
    eps: Array | None = None
    average: Array | None = None
    watch: stopping.Watch | None = None

    @property
    def x(self) -> Array:
        """The picture, averaged where that is on: what :func:`samplers.sample` returns."""
        return self.x0 if self.average is None else self.average


class BirdInfo(NamedTuple):
    """Diagnostics of an iteration.

    Attributes:
        loss: ``[B]``, see :class:`Objective`; of an image that has stopped, that of its picture.
        x0: the picture.
        evaluations: network evaluations that the image needed, ``[B]``.
        stopped: ``[B]`` booleans; None without ``stop_at``.
    """

    loss: Array
    x0: Array | None
    evaluations: Array
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
         optimizer: optax.GradientTransformation, gradient: str = "stop", *, num_iterations: int = 60,
         clip: str = "straight_through", prox: Callable[[Array], Array] | None = None, refresh: int | None = None,
         params: Params = None, image_shape: tuple[int, int, int] | None = None, average: float | None = None,
         stop_at=None, patience: int = 3, check_every: int = 10, guard: float | None = None) -> Kernel:
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

        average: keep a moving average of x0, ``m <- average m + (1 - average) x0``, and give that back.
        stop_at: noise level of y in ``[-1, 1]`` units, a number or one per image. An image whose residual (the root of
            its loss) has been at most this for ``patience`` rollouts in a row is left as it is: z, unknowns,
            optimiser, picture. Only exact rollouts count, those whose noise predictions are all new.
        patience: see stop_at.
        check_every: with refresh and stop_at or guard: make every so manieth rollout exact.
        guard: with refresh: an image whose loss in an exact rollout is more than this many times that of the rollout
            before it gets exact ones from then on. Its reused predictions said things that are not so.

    Returns:
        ``Kernel(init, step, num_steps)``. ``init(z)`` takes the noise ``[B, H, W, C]`` as it is, ``init(keys)`` draws
        it; the state is :class:`BirdState`, the info :class:`BirdInfo`.

    Errors:
        ValueError for unknown modes, "prox" without prox, numbers out of range, an unknown image shape, a guard without
        refresh, stop_at for an operator with a loss of its own (it has no residual).

    The state is all that the next iteration needs beside its number i: a run may be cut anywhere, its state saved and
    loaded, and continued. Also by another kernel of as many iterations and the same optimizer, as a cheap start and an
    exact end; what that kernel does not use of the state it passes on::

        state = jax.lax.fori_loop(0, 40, lambda i, state: stop.step(keys, state, i)[0], stop.init(keys))
        state = jax.lax.fori_loop(40, 60, lambda i, state: exact.step(keys, state, i)[0], state)

    What is decided while it runs (stop_at, guard) is decided for each image by itself. Evaluations are skipped when no
    image of the batch needs them: under jit on several devices they agree on that by an all-reduce of one boolean;
    under :func:`sharding.per_device` each device decides alone. Numbers that the optimiser keeps for the whole batch
    (its step count) go on when an image has stopped.

    Differs from the reference in: images in batches, each with its own sphere, unknowns and loss; the straight-through
    clip (about 1 dB for inpainting); "exact", "prox", refresh, the average and stopping, which are ours.
    """
    num_levels = schedule.timesteps.shape[0]
    if refresh is not None and not 1 <= refresh <= num_levels:
        raise ValueError(f"refresh must be between 1 and the {num_levels} levels of the schedule, got {refresh}")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
    if average is not None and not 0 <= average < 1:
        raise ValueError(f"average must be at least 0 and below 1, got {average}")
    if guard is not None and refresh is None:
        raise ValueError("a guard is for reused noise predictions: it needs refresh")
    if stop_at is not None and hasattr(operator, "loss"):
        raise ValueError("stop_at needs a residual: this operator has a loss of its own")
    objective = bird_objective(denoiser, schedule, operator, y, gradient, clip=clip, prox=prox)
    shape = _image_shape(operator, y, image_shape)
    blind = hasattr(operator, "init")
    rule = None
    if stop_at is not None or guard is not None:
        rule = stopping.rule(stop_at, guard, patience=patience, check_every=check_every)

    def init(z: Array, keys=None) -> BirdState:
        if jnp.issubdtype(z.dtype, jax.dtypes.prng_key):
            z, keys = rng.normal(rng.init_keys(z), jnp.zeros(shape)), z
        if z.shape != shape:
            raise ValueError(f"z must be of the pictures' shape {shape}, got {z.shape}")
        unknowns = params
        if unknowns is None and blind:
            unknowns = operator.init(rng.image_keys(0, jnp.arange(shape[0])) if keys is None else keys)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
            opt_state = optimizer.init({"z": z, "params": unknowns})
        return BirdState(z, unknowns, opt_state, jnp.zeros(shape),
                         None if refresh is None else jnp.zeros((num_levels, *shape)),
                         None if average is None else jnp.zeros(shape),
                         None if rule is None else stopping.start(shape[0]))

    def freshness(watch, i):
        """Which levels are made anew ``[S]`` or ``[S, B]``, and for which images that is all of them."""
        if refresh is None:
            return None, jnp.ones(shape[:1], bool)
        turn = (jnp.arange(num_levels) - refresh * i) % num_levels < refresh
        exact = (i == 0) | (i == num_iterations - 1)
        if rule is None:
            return turn | exact, None
        exact = exact | (i % rule.check_every == 0) | watch.astray
        return (turn[:, None] | exact) & ~watch.stopped, exact

    def iterate(state: BirdState, i) -> tuple[BirdState, BirdInfo]:
        fresh, exact = freshness(state.watch, i)
        now = objective(state.z, state.params, None if refresh is None else state.eps, fresh)
        variables = {"z": state.z, "params": state.params}
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update({"z": now.grad_z, "params": now.grad_params}, state.opt_state,
                                                  variables)
        variables = optax.apply_updates(variables, updates)
        mean = state.average
        if average is not None:
            mean = jnp.where(i == 0, now.x0, average * mean + (1 - average) * now.x0)
        new = BirdState(to_sphere(variables["z"]), variables["params"], opt_state, now.x0,
                        state.eps if refresh is None else now.eps, mean, state.watch)
        levels = jnp.full(shape[:1], num_levels) if fresh is None else jnp.sum(fresh, axis=0, dtype=jnp.int32)
        levels = jnp.broadcast_to(levels, shape[:1])
        if rule is None:
            return new, BirdInfo(now.loss, now.x0, levels)
        before, watch = state.watch.stopped, stopping.update(rule, state.watch, now.loss, exact)
        found, started = (new.x0, new.average), (new.z, new.params, new.opt_state)
        found = stopping.keep(before, found, (state.x0, state.average))
        started = stopping.keep(watch.stopped, started, (state.z, state.params, state.opt_state))
        new = BirdState(*started, found[0], new.eps, found[1], watch)
        return new, BirdInfo(watch.loss, new.x0, jnp.where(before, 0, levels), watch.stopped)

    def idle(state: BirdState) -> tuple[BirdState, BirdInfo]:
        watch = state.watch
        return state, BirdInfo(watch.loss, state.x0, jnp.zeros(shape[:1], jnp.int32), watch.stopped)

    def step(keys, state: BirdState, i) -> tuple[BirdState, BirdInfo]:
        del keys  # an iteration draws nothing
        if rule is None:
            return iterate(state, i)
        return jax.lax.cond(jnp.all(state.watch.stopped), idle, lambda state: iterate(state, i), state)

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
        return jnp.mean(square(residual), axis=tuple(range(1, residual.ndim)))

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
