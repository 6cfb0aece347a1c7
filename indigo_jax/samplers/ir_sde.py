"""IR-SDE: a walk that returns to the measurement as to its mean, run backwards. InDI's path, with another step."""
import jax.numpy as jnp

from indigo_jax import paths, rng
from indigo_jax.samplers.base import Info, State, in_float32, own_keys
from indigo_jax.typing import Array, Kernel, Restorer


def ir_sde(restorer: Restorer, times, *, spread: float = 10 / 127.5) -> Kernel:
    """Mean-reverting diffusion (Luo et al. 2023, Eq. 8) by its posterior steps, as a kernel whose ``x_init`` is y.

    Forwards ``x - y`` decays, ``x_t = y + a (x - y) + lambda sqrt(1 - a^2) n``. With ``t = 1 - a`` that is InDI's path,
    ``(1 - t) x + t y`` and noise of standard deviation ``lambda sqrt(t (2 - t))``; but noise and decay belong together,
    so that the way back from t to s keeps of ``x_t`` what DDPM keeps, and leans on y (``r = a_t / a_s``):

        ``x_s = y + a_s (1 - r^2) / (1 - a_t^2) (F - y) + r (1 - a_s^2) / (1 - a_t^2) (x_t - y) + std z``
        ``std^2 = lambda^2 (1 - r^2) (1 - a_s^2) / (1 - a_t^2)``

    where InDI has ``(1 - s/t) F + (s/t) x_t``. Both agree where t is small; at t = 1 this walk forgets ``x_t``. On the
    same path, with the same restorer, both lead to the same pictures in the limit of many steps.

    Args:
        restorer: ``restorer(x_t, t) -> x0`` for ``[B, H, W, C]`` and ``[B]``; in the paper it sees y, too
            (``denoisers.restorer(..., y=y)``). Trained with :func:`paths.reverting_noise` of this spread
            (``train.indi --noise reverting --eps SPREAD``).
        times: as for :func:`samplers.indi`: ``1 - exp(-theta)`` of the paper's times, down from 1. For their spacing
            see :func:`i2sb`.
        spread: lambda, standard deviation of the noise about y where the walk starts, in [-1, 1] units; the paper's
            is 10 of 255.

    Returns:
        ``Kernel(init, step, num_steps)``; ``extra`` of the state is y, the info's ``x0`` is ``F(x_t, t)``.

    Errors:
        ValueError for a spread that is not above 0, a bad grid, or a restorer that was trained with other noise
        (``restorer.noise``).

    Differs from the reference in: the posterior of a whole step, where the paper integrates its reverse equation by
    Euler's method (its successor, Refusion, offers both); x0 is predicted, the paper's network predicts noise; the
    walk begins at t = 1, not 0.995.

    Source: Luo, Gustafsson, Zhao, Sjoelund & Schoen, Image Restoration with Mean-Reverting Stochastic Differential
    Equations, ICML 2023 (arXiv 2301.11699).

    >>> from indigo_jax import samplers
    >>> kernel = ir_sde(lambda x_t, t: 0.5 + 0.0 * x_t, 4)
    >>> x, _ = samplers.sample(kernel, rng.image_keys(0, [0]), jnp.ones((1, 1, 1, 1)))
    >>> float(x[0, 0, 0, 0])
    0.5
    """
    if not spread > 0:
        raise ValueError(f"spread must be above 0, got {spread}")
    trained = getattr(restorer, "noise", None)
    if trained is not None and trained.name != "custom" and trained != paths.reverting_noise(spread):
        raise ValueError(f"the restorer was trained with {trained.name} noise of eps = {trained.eps:g}, and this walk "
                         f"is that of reverting noise with eps = spread = {spread:g}: train with --noise reverting, "
                         "or sample with samplers.indi and noise=restorer.noise")
    times = paths.check_times(times)
    num_steps, t = len(times) - 1, jnp.asarray(times, jnp.float32)
    a_t, a_s = 1 - t[:-1], 1 - t[1:]
    r = a_t / a_s
    noise_t, noise_s = t[:-1] * (1 + a_t), t[1:] * (1 + a_s)  # 1 - a^2
    of_x0, of_x = a_s * (1 - r**2) / noise_t, r * noise_s / noise_t
    std = spread * jnp.sqrt((1 - r**2) * noise_s / noise_t)

    def init(y: Array, keys) -> State:
        y = in_float32(y)
        return State(y + spread * rng.normal(rng.init_keys(keys), y), y)

    @own_keys
    def step(keys, state: State, i) -> tuple[State, Info]:
        x_t, y = state.x, state.extra
        x0 = restorer(x_t, jnp.full(x_t.shape[:1], t[i]))
        x_s = y + of_x0[i] * (x0 - y) + of_x[i] * (x_t - y) + std[i] * rng.normal(keys, x_t)
        return State(x_s, y), Info(t[i], x0)

    return Kernel(init, step, num_steps)
