"""GDP: ancestral sampling towards the measurement, with the unknowns of the damage descending beside it."""
import jax
import jax.numpy as jnp

from indigo_jax import rng
from indigo_jax.arrays import misfit, per_image, rms, square
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.samplers.ddim import ddim_move
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, BlindOperator, Denoiser, Kernel, Operator


def gdp(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator | BlindOperator, y: Array, *, scale=0.1,
        rate: float = 1e-3, eta: float = 1.0) -> Kernel:
    """Generative diffusion prior (Fei et al. 2023, Algorithm 2, "GDP-x0") as a kernel.

    In each step, with ``L = |A(x0, phi) - y|^2`` per image, after a step of the sampler,

        ``x_s -= scale dL/dx0``,  ``phi -= rate dL/dphi``

    The gradient is that of x0: no backward pass of the network.

    Args:
        denoiser: ``denoiser(x_t, t) -> Prediction``; the paper clips x0.
        schedule: the levels to visit; the paper takes all 1000.
        operator: differentiable; one with unknowns has ``init(keys)`` (:class:`typing.BlindOperator`).
        y: measurements ``[B, ...]``.
        scale: s of the paper, for the sum of squares; below ``1 / |A|^2``; a number or one per image.
        rate: l of the paper, of the unknowns; below the inverse of the sum of squares of x0.
        eta: of DDIM; 1 is the paper's ancestral sampling.

    Returns:
        ``Kernel(init, step, num_steps)``. Its ``x_init`` is standard normal noise; ``extra`` of the state are the
        unknowns, None where there are none.

    Errors:
        ValueError for a negative rate.

    Differs from the reference in: no quality terms (exposure, colour, total variation), for enhancement alone; the
    mean is moved by ``scale dL/dx0`` itself: the paper divides the step by the posterior's weight of x0.

    No other sampler: the unknowns move with each step, so that a solver of several evaluations, or with a memory, has
    another denoiser each time.

    Source: Fei, Lyu, Pan, Zhang, Yang, Luo, Zhang & Dai, Generative Diffusion Prior for Unified Image Restoration and
    Enhancement, CVPR 2023 (arXiv 2304.01247).
    """
    if rate < 0:
        raise ValueError(f"rate must be at least 0, got {rate}")
    num_steps, move, first = schedule.timesteps.shape[0], ddim_move(schedule, eta), getattr(operator, "init", None)

    def seen(x0, params):
        return operator(x0) if first is None else operator(x0, params)

    def init(x: Array, keys) -> State:
        return State(in_float32(x), None if first is None else first(rng.fold(rng.init_keys(keys), 1)))

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        k = num_steps - 1 - i
        t = schedule.timesteps[k]
        prediction = denoiser(state.x, jnp.full(state.x.shape[:1], t))

        def loss(x0, params):
            left = misfit(seen(x0, params), y)
            return jnp.sum(square(left)), rms(left)

        (of_x0, of_params), residual = jax.grad(loss, (0, 1), has_aux=True)(prediction.x0, state.extra)
        drift = prediction.drift - per_image(scale, of_x0, "scale") * of_x0
        params = jax.tree.map(lambda phi, slope: phi - rate * slope, state.extra, of_params)
        x = move(keys, prediction._replace(drift=drift), k)
        return State(x, params), Info(t, prediction.x0, residual)

    return Kernel(init, step, num_steps)
