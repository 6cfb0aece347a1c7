"""Noise schedules of diffusion: structs of arrays, ascending in noise.

``x_t = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) n``
"""
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import arrays
from indigo_jax.spelling import near
from indigo_jax.typing import Array

RESPACINGS = ("leading", "trailing", "linspace", "karras", "log_snr", "asinh")
_KNEE = 0.2  # of "asinh", about half the spread of pictures in [-1, 1]


class NoiseSchedule(NamedTuple):
    """The noise levels of a diffusion, ascending in noise; every sampler reads them from here.

    Attributes:
        timesteps: what the network was trained to be told at each level, float32 ``[S]``, ascending.
        alpha_bar: share of the picture's variance that is left, float32 ``[S]``, descending in (0, 1); the last may be
            0, see :func:`rescale_zero_terminal_snr`.
        alpha_bar_prev: of the next less noisy level, float32 ``[S]``; 1 at the first, unless :func:`respace` was told
            otherwise.
    """

    timesteps: Array
    alpha_bar: Array
    alpha_bar_prev: Array


def linear(num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """``beta_t`` evenly spaced (Ho et al. 2020, Sec. 4); ``alpha_bar = cumprod(1 - beta)``.

    >>> linear().alpha_bar.shape, round(float(linear().alpha_bar[0]), 6)
    ((1000,), 0.9999)
    """
    return _from_betas(np.linspace(beta_start, beta_end, arrays.whole(num_timesteps, "num_timesteps")))


def scaled_linear(num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
    """``sqrt(beta_t)`` evenly spaced: the schedule of latent diffusion (Rombach et al. 2022) and Stable Diffusion."""
    return _from_betas(np.linspace(beta_start**0.5, beta_end**0.5, arrays.whole(num_timesteps, "num_timesteps")) ** 2)


def cosine(num_timesteps: int, s: float = 0.008, max_beta: float = 0.999, *, min_beta: float = 0.0) -> NoiseSchedule:
    """``alpha_bar(u) ~ cos^2(pi/2 (u + s) / (1 + s))`` with every beta kept in ``[min_beta, max_beta]`` (Nichol &
    Dhariwal 2021, Eq. 17)."""
    u = np.arange(arrays.whole(num_timesteps, "num_timesteps") + 1) / num_timesteps
    f = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
    return _from_betas(np.clip(1 - f[1:] / f[:-1], min_beta, max_beta))


def geometric(num_timesteps: int = 1000, sigma_min: float = 0.004, sigma_max: float = 10.0) -> NoiseSchedule:
    """Noise levels in constant ratio, for networks that are told the level itself: ``sigma_k`` from ``sigma_min`` to
    ``sigma_max`` in ``[-1, 1]`` units, ``alpha_bar = 1 / (1 + sigma^2)``.

    ``x_t / sqrt(alpha_bar) = x + sigma n``: the variance-exploding form of the same diffusion (Song et al. 2021).

    >>> round(float(geometric(10, 0.01, 10.0).alpha_bar[-1]), 4)
    0.0099
    """
    _check_sigmas(sigma_min, sigma_max)
    sigma = np.geomspace(sigma_min, sigma_max, arrays.whole(num_timesteps, "num_timesteps"))
    return _from_alpha_bar(1 / (1 + sigma**2))


def karras(num_timesteps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
           ) -> NoiseSchedule:
    """Noise levels of EDM: ``sigma^(1/rho)`` evenly spaced from ``sigma_min`` to ``sigma_max`` in ``[-1, 1]`` units
    (Karras et al. 2022, Eq. 5), ``alpha_bar = 1 / (1 + sigma^2)``. Its timesteps are the paper's ``ln(sigma) / 4``.

    >>> [round(float(sigma), 3) for sigma in sigmas(karras(3))]
    [0.002, 2.515, 80.0]
    """
    _check_sigmas(sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho must be above 0, got {rho}")
    sigma = np.linspace(sigma_min**(1 / rho), sigma_max**(1 / rho), arrays.whole(num_timesteps, "num_timesteps"))**rho
    return _from_alpha_bar(1 / (1 + sigma**2), np.log(sigma) / 4)


def flow(num_timesteps: int = 1000, shift: float = 1.0, time_scale: float = 1000.0) -> NoiseSchedule:
    """Times of a rectified flow, ``x_t = (1 - t) x + t z``, as levels of diffusion.

    ``alpha_bar = (1 - t)^2 / ((1 - t)^2 + t^2)``: the flow, divided by ``sqrt((1 - t)^2 + t^2)``, is a diffusion.
    ``t = shift u / (1 + (shift - 1) u)`` (Esser et al. 2024, Eq. 23) at ``u = (k + 1/2) / num_timesteps``, which leaves
    out the ends, where nothing is left of the noise or of the picture.

    Args:
        num_timesteps: how many.
        shift: above 1 for more noise, as for large pictures.
        time_scale: the network is told ``time_scale t``; 1000 as in Stable Diffusion 3.

    Errors:
        ValueError for numbers that are not above 0.

    Source: Liu, Gong & Liu, Flow Straight and Fast, ICLR 2023 (arXiv 2209.03003).

    >>> flow(2).timesteps.tolist(), [round(float(a), 4) for a in flow(2).alpha_bar]
    ([250.0, 750.0], [0.9, 0.1])
    """
    if not (shift > 0 and time_scale > 0):
        raise ValueError(f"shift and time_scale must be above 0, got {shift} and {time_scale}")
    u = (np.arange(arrays.whole(num_timesteps, "num_timesteps")) + 0.5) / num_timesteps
    t = shift * u / (1 + (shift - 1) * u)
    return _from_alpha_bar((1 - t)**2 / ((1 - t)**2 + t**2), time_scale * t)


def own(alpha_bar, timesteps=None) -> NoiseSchedule:
    """A schedule of your own numbers, which travels with weights as they do.

    Args:
        alpha_bar: ``[S]``, in ``(0, 1)`` and descending: the first level has the least noise. The last may be 0.
        timesteps: ``[S]`` ascending, what the network is told; default: 0, 1, 2, ...

    Errors:
        ValueError for other numbers.

    >>> own([0.9, 0.5, 0.1]).timesteps.tolist()
    [0.0, 1.0, 2.0]
    """
    alpha_bar = np.asarray(alpha_bar, np.float64)
    timesteps = np.arange(alpha_bar.size) if timesteps is None else np.asarray(timesteps, np.float64)
    if alpha_bar.ndim != 1 or not alpha_bar.size or timesteps.shape != alpha_bar.shape:
        raise ValueError(f"alpha_bar and timesteps must be lists of one length, got shapes {alpha_bar.shape} and "
                         f"{timesteps.shape}")
    if not (0 <= alpha_bar.min() and 0 < alpha_bar.max() < 1 and (np.diff(alpha_bar) < 0).all()
            and np.isfinite(timesteps).all() and (np.diff(timesteps) > 0).all()):
        raise ValueError("alpha_bar must descend within (0, 1), its last to 0 at the lowest, and timesteps must ascend")
    return _from_alpha_bar(alpha_bar, timesteps)


def sigmas(schedule: NoiseSchedule) -> Array:
    """``sigma = sqrt(1 / alpha_bar - 1)`` of each level, ``[S]`` ascending: ``x_t / sqrt(alpha_bar) = x + sigma n``.

    Errors:
        ValueError for a schedule whose noisiest level holds nothing of the picture; see :func:`check_signal`.

    >>> [round(float(sigma), 4) for sigma in sigmas(geometric(3, 0.5, 2.0))]
    [0.5, 1.0, 2.0]
    """
    check_signal(schedule, "sigma = sqrt(1 / alpha_bar - 1)")
    return jnp.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)


def rescale_zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The same levels, moved so that nothing of the picture is left at the noisiest: a chain that starts from pure
    noise then starts where training ended, and finds pictures darker or brighter than the mean.

    ``sqrt(a) <- (sqrt(a) - sqrt(a_T)) sqrt(a_1) / (sqrt(a_1) - sqrt(a_T))``, a = alpha_bar, of the first level 1 and
    the last T. Rescale the whole schedule, then :func:`respace` it as "trailing". The network must have been trained
    with it and predict v or x0: eps says nothing where no picture is left.

    Errors:
        ValueError for a schedule of one level.

    Source: Lin, Liu, Li & Yang, Common Diffusion Noise Schedules and Sample Steps Are Flawed, WACV 2024 (arXiv
    2305.08891), Algorithm 1.

    >>> rescale_zero_terminal_snr(linear(3, 0.1, 0.5)).alpha_bar.tolist()[-1]
    0.0
    """
    if schedule.timesteps.shape[0] < 2:
        raise ValueError("a schedule of one level cannot be rescaled; give the network's whole schedule")
    root = np.sqrt(np.asarray(schedule.alpha_bar, np.float64))
    return _from_alpha_bar(((root - root[-1]) * root[0] / (root[0] - root[-1]))**2, schedule.timesteps)


def check_signal(schedule: NoiseSchedule, what: str) -> None:
    """Refuse, for ``what`` divides by ``sqrt(alpha_bar)``, a schedule whose noisiest level holds no picture.

    Errors:
        ValueError where that level is known: not of a schedule that is an argument of a compiled program.
    """
    if not isinstance(schedule.alpha_bar, jax.core.Tracer) and np.asarray(schedule.alpha_bar)[-1] == 0:
        raise ValueError("the noisiest level of this schedule holds nothing of the picture (alpha_bar = 0), and "
                         f"{what} needs some of it: predict v or x0, sample with ddim or ddpm, or cut the level off "
                         "with schedules.truncate(schedule, 1e-6)")


def respace(schedule: NoiseSchedule, num_steps: int, spacing: str = "leading", *, steps_offset: int = 0,
            set_alpha_to_one: bool = True) -> NoiseSchedule:
    """``num_steps`` of a schedule's levels, for sampling with fewer steps.

    Of T levels: "leading" takes ``0, T // N, 2 (T // N), ...`` (never the noisiest), "trailing" takes
    ``T - 1, T - 1 - T / N, ...`` (always the noisiest), "linspace" both ends (Lin et al. 2024, Tab. 2): all evenly in
    time. With ``sigma^2 = 1 / alpha_bar - 1``, "karras" takes the levels nearest to an even spacing in ``sigma^(1/7)``
    (Karras et al. 2022, Eq. 5) and "log_snr" in ``log sigma``, both ends included: for solvers of second order (of a
    cosine schedule :func:`truncate` first what is nothing but noise). "asinh", for :func:`samplers.heun`, takes the
    noisiest and, as evenly, those nearest to ``0.2 sinh(theta)`` on the way to theta = 0: even in ``log sigma`` above
    0.2, even in sigma below, so that the last step, to 0, is no shorter than the others. Those are ours.

    Args:
        schedule: the network's whole schedule.
        num_steps: how many levels.
        spacing: see above.
        steps_offset: added to the levels of "leading", as diffusers does; 1 for Stable Diffusion.
        set_alpha_to_one: the last step ends at the picture; if not, as in diffusers, at the first level of
            ``schedule``, as of Stable Diffusion 1 and 2, which leaves a little noise.

    Errors:
        ValueError for more steps than levels, an unknown spacing, an offset that leaves the levels or another spacing
        than "leading"; for spacings by sigma also where the noisiest level has none.

    >>> respace(linear(), 10).timesteps.tolist()
    [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0]
    """
    total, n = schedule.timesteps.shape[0], arrays.whole(num_steps, "num_steps")
    if n > total:
        raise ValueError(f"num_steps {n} is more than the {total} levels of the schedule")
    if spacing not in RESPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(RESPACINGS)}; got {spacing!r}")
    if steps_offset and (spacing != "leading" or not 0 <= steps_offset < total - (n - 1) * (total // n)):
        raise ValueError(f"steps_offset {steps_offset} is for the spacing leading, and at most "
                         f"{total - 1 - (n - 1) * (total // n)} for {n} of {total} levels; got spacing {spacing}")
    if spacing in ("karras", "log_snr", "asinh"):
        check_signal(schedule, f"the spacing {spacing}")
        sigma = np.sqrt(1 / np.asarray(schedule.alpha_bar, np.float64) - 1)
        place = {"karras": lambda: sigma**(1 / 7), "log_snr": lambda: np.log(sigma),
                 "asinh": lambda: np.arcsinh(sigma / _KNEE)}[spacing]()
        index = _nearest(place, np.linspace(place[-1], 0, n + 1)[:-1] if spacing == "asinh" else
                         np.linspace(place[-1], place[0], n))
    else:
        index = {"leading": np.arange(n) * (total // n) + steps_offset,
                 "trailing": np.round(np.arange(1, n + 1) * total / n).astype(int) - 1,
                 "linspace": np.round(np.linspace(0, total - 1, n)).astype(int)}[spacing]
    alpha_bar, first = schedule.alpha_bar[index], jnp.ones(1) if set_alpha_to_one else schedule.alpha_bar[:1]
    return NoiseSchedule(schedule.timesteps[index], alpha_bar, jnp.concatenate([first, alpha_bar[:-1]]))


_MAKERS = {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine, "geometric": geometric,
           "karras": karras, "flow": flow, "own": own}
_MOST_TIMESTEPS = 100_000  # of a stored schedule, so that a forged file cannot ask for a monster


def to_json(name: str, **arguments) -> dict:
    """A schedule of this module as ``{"name": ..., argument: ...}`` with its defaults written out, for files; any other
    as ``to_json("own", alpha_bar=schedule.alpha_bar, timesteps=schedule.timesteps)``.

    Errors:
        ValueError for an unknown name, or arguments that the schedule does not take. Whether the numbers make a
        schedule is seen by :func:`from_json`.

    >>> to_json("linear", num_timesteps=10)
    {'name': 'linear', 'num_timesteps': 10, 'beta_start': 0.0001, 'beta_end': 0.02}
    """
    if name not in _MAKERS:
        raise ValueError(f"unknown schedule {name!r}{near(name, _MAKERS)}; known: {', '.join(_MAKERS)}")
    try:
        bound = inspect.signature(_MAKERS[name]).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"schedule {name}: {error}") from error
    if name == "own":
        levels = own(**arguments)
        return {"name": name, "alpha_bar": [float(a) for a in np.asarray(arguments["alpha_bar"])],
                "timesteps": levels.timesteps.tolist()}
    bound.apply_defaults()
    wrong = [key for key, value in bound.arguments.items()
             if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value)]
    if wrong or bound.arguments["num_timesteps"] > _MOST_TIMESTEPS:
        wrong = wrong[0] if wrong else "num_timesteps"
        raise ValueError(f"schedule {name}: {wrong} = {bound.arguments[wrong]!r} is not a number that it takes")
    return {"name": name, **bound.arguments}


def from_json(stored: dict) -> NoiseSchedule:
    """Inverse of :func:`to_json`; the same errors.

    >>> from_json({"name": "cosine", "num_timesteps": 300}).timesteps.shape
    (300,)
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("name"), str):
        raise ValueError(f"a stored schedule is a table with a name and numbers; got {stored!r}")
    arguments = to_json(**stored)
    return _MAKERS[arguments.pop("name")](**arguments)


def truncate(schedule: NoiseSchedule, alpha_bar_min: float) -> NoiseSchedule:
    """The levels with ``alpha_bar >= alpha_bar_min``: a sampler of few steps wastes none of them where all is noise.

    Errors:
        ValueError where no level is left.

    >>> truncate(linear(), 0.5).timesteps.shape
    (259,)
    """
    count = int(np.sum(np.asarray(schedule.alpha_bar) >= alpha_bar_min))
    if not count:
        raise ValueError(f"alpha_bar_min {alpha_bar_min:g} is above all levels of the schedule, which begin at "
                         f"{float(schedule.alpha_bar[0]):g}")
    return NoiseSchedule(*(level[:count] for level in schedule))


def log_variances(schedule: NoiseSchedule) -> tuple[Array, Array]:
    """Bounds of the reverse step's log-variance, ``[S]`` each: of the posterior ``q(x_{t-1} | x_t, x_0)`` and of
    ``q(x_t | x_{t-1})`` (Ho et al. 2020, Sec. 3.2). The first posterior variance is 0 and takes the second's place."""
    before = schedule.alpha_bar_prev
    beta = 1 - schedule.alpha_bar / before
    posterior = beta * (1 - before) / (1 - schedule.alpha_bar)
    posterior = posterior.at[0].set(posterior[1] if posterior.shape[0] > 1 else beta[0])
    return jnp.log(jnp.maximum(posterior, 1e-20)), jnp.log(jnp.maximum(beta, 1e-20))


def _from_betas(betas):
    if not ((betas >= 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1):
        raise ValueError(f"every beta must be in [0, 1), the last at most 1; got {betas.min():g} to {betas.max():g}")
    return _from_alpha_bar(np.cumprod(1 - np.asarray(betas, np.float64)))


def _from_alpha_bar(alpha_bar, timesteps=None):
    """Of float64 numbers; the timesteps count the levels where none are given."""
    timesteps = np.arange(len(alpha_bar)) if timesteps is None else timesteps
    if np.float32(np.max(alpha_bar)) == 1:
        raise ValueError(f"the first level has a noise of sigma = {np.sqrt(1 / np.max(alpha_bar) - 1):.2g}, which "
                         "float32 cannot tell from none; begin at 5e-4 or more: fewer levels, a larger sigma_min, "
                         "another shift")
    return NoiseSchedule(*(jnp.asarray(values, jnp.float32)
                           for values in (timesteps, alpha_bar, np.append(1.0, alpha_bar[:-1]))))


def _check_sigmas(sigma_min, sigma_max):
    if not 0 < sigma_min <= sigma_max:
        raise ValueError(f"sigma_min {sigma_min} and sigma_max {sigma_max} must be above 0 and in this order")


def _nearest(place, wanted):
    """Indices, all different and ascending, of the levels whose places are nearest to those wanted, noisiest first."""
    index, n = np.abs(place[None] - wanted[::-1, None]).argmin(axis=1), len(wanted)
    count = np.arange(n)
    index = np.maximum.accumulate(index - count) + count  # one at least above the one before
    return np.minimum(index, len(place) - n + count)
