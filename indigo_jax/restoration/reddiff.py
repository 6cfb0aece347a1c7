"""RED-diff: a picture that is optimised, with the network's error at ever lower levels as its regulariser."""
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.arrays import misfit, per_image, square
from indigo_jax.operators import base
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Denoiser, Kernel, Operator

if TYPE_CHECKING:
    import optax  # takes a moment to import, and most methods do without it


def reddiff(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array,
            optimizer: "optax.GradientTransformation | None" = None, *, weight=0.25) -> Kernel:
    """Regularisation by denoising diffusion (Mardani et al. 2023, Algorithm 1) as a kernel.

    One step of an optimiser at each level, from the noisiest, along the gradient of

        ``|A x - y|^2 / 2 + weight s (eps(x_t) - n)^T x``,  ``x_t = sqrt(a) x + sqrt(1 - a) n``,  ``s = sqrt(1/a - 1)``

    where eps is the network's and held fixed, n new noise, a = alpha_bar. A point, not a sample: a variational
    posterior of no spread. What spread there is over keys is noise of the optimisation.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``; its eps is used, never differentiated.
        schedule: the levels to visit; the paper takes all 1000.
        operator: ``A(x) -> y``, differentiable and known, linear or not.
        y: measurements ``[B, ...]``.
        optimizer: default the paper's Adam, ``optax.adam(0.1, b1=0.9, b2=0.99)``; each image has its own.
        weight: the paper's lambda, a number or one per image. For Gaussian pictures of spread p the gradient of its
            term is ``weight (x - mean)`` where noise is high, so ``(sigma / p)^2`` would be Bayes' rule.

    Returns:
        ``Kernel(init, step, num_steps)``; its ``x_init`` is a first estimate ``[B, H, W, C]``, as ``A^+ y``. The
        ``extra`` of the state is the optimiser's; the info's ``x0`` is the picture before the step.

    Errors:
        ValueError for a weight that is negative or not finite.

    Differs from the reference in: sums over pixels where the released program has means over y and over x.

    Source: Mardani, Song, Kautz & Vahdat, A Variational Perspective on Solving Inverse Problems with Diffusion Models
    (arXiv 2305.04391), whose ``lambda_t = lambda / SNR_t``.
    """
    import optax
    weight = base.check_number(weight, "weight", 0.0)
    optimizer = optax.adam(0.1, b1=0.9, b2=0.99) if optimizer is None else optimizer
    num_steps, levels = schedule.timesteps.shape[0], schedules.sigmas(schedule)

    def init(x, keys) -> State:
        del keys
        x = in_float32(x)
        with jax.numpy_dtype_promotion("standard"):
            return State(x, jax.vmap(optimizer.init)(x))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t, a, x = schedule.timesteps[k], schedule.alpha_bar[k], state.x
        n = rng.normal(keys, x)
        eps = denoiser(jnp.sqrt(a) * x + jnp.sqrt(1 - a) * n, jnp.full(x.shape[:1], t)).eps
        data = jax.grad(lambda x: 0.5 * jnp.sum(square(misfit(operator(x), y))))(x)
        gradient = data + per_image(weight, x, "weight") * levels[k] * (eps - n)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts with float32
            updates, memory = jax.vmap(optimizer.update)(gradient, state.extra, x)
        return State(optax.apply_updates(x, updates), memory), Info(t, x)

    return Kernel(init, step, num_steps)
