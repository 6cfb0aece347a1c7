"""From networks to the callables that samplers take."""
import dataclasses
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import paths, schedules
from indigo_jax.paths import NoiseMode
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.spelling import near
from indigo_jax.typing import Array, Denoiser


class Prediction(NamedTuple):
    """What a denoiser says about a noisy image.

    Attributes:
        x0: estimate of the clean image ``[B, H, W, C]``.
        eps: estimate of the noise, consistent with ``x0`` through the schedule.
        log_var: log-variance of the step to the next level of the denoiser's own schedule, if the network learned it.
        drift: what guidance adds to the sampler's next state.
        share: what the network says of the variance, in [-1, 1]: where between its bounds it lies. A sampler makes its
            own variance of it, since its steps may be longer.
    """

    x0: Array
    eps: Array | None
    log_var: Array | None = None
    drift: Array | float = 0.0
    share: Array | None = None


class Prior(NamedTuple):
    """A diffusion model: ``denoiser(x_t, t) -> Prediction`` for all levels of its ``schedule``; itself a denoiser."""

    denoiser: Denoiser
    schedule: NoiseSchedule

    def __call__(self, x_t: Array, t: Array) -> Prediction:
        return self.denoiser(x_t, t)


def of(network: Callable, info: dict, *, clip: bool = False, y: Array | None = None):
    """What samplers take, of a network and of what travels with its weights (:func:`weights.load`). The only maker.

    Args:
        network: ``network(x, t)``, as ``functools.partial(module.apply, params)`` or the same in tiles; with ``y`` also
            given y.
        info: of its weights.
        clip: of a prior: keep x0 in [-1, 1]; see :func:`from_eps`.
        y: the measurement, for a restorer or a conditional prior, which also look at it.

    Returns:
        :class:`Prior` for a diffusion prior, :class:`DirectRestorer` for a restorer.

    Errors:
        ValueError for the info of something else, a prediction that there is not, and a module without its parameters.
    """
    if not isinstance(info, dict):
        raise ValueError(f"denoisers.of takes the info of weights.load, a dict, not a {type(info).__name__}; with a "
                         "schedule alone: denoisers.from_eps(network, schedule), from_x0 or from_v")
    if hasattr(network, "apply") or not callable(network):
        raise ValueError(f"a network is a function here, not a {type(network).__name__}: give "
                         "lambda x, t: module.apply(params, x, t)")
    if "noise" in info:
        return restorer(network, noise=paths.noise_from_json(info["noise"]), y=y)
    if "schedule" not in info:
        raise ValueError(f"{info.get('name', 'these weights')}: neither a diffusion prior nor a restorer: "
                         "its info has no 'schedule' (beside 'prediction'), and no 'noise'")
    if (info.get("condition", "none") == "y") != (y is not None):
        raise ValueError(f"{info.get('name', 'these weights')}: " + (
            "a prior of pictures alone: leave y out" if y is not None else
            "a diffusion of pictures given a measurement, no prior for known operators: say denoisers.of(..., y=y)"))
    if info.get("prediction") not in BY_PREDICTION:
        raise ValueError(f"{info.get('name', 'these weights')}: 'prediction' in its info is "
                         f"{info.get('prediction')!r}{near(info.get('prediction'), BY_PREDICTION)}; there are "
                         f"{', '.join(BY_PREDICTION)}")
    if y is not None:
        given, network = network, lambda x, t: given(x, t, y)  # noqa: E731
    with jax.ensure_compile_time_eval():  # numbers, not part of a program that is being traced
        schedule = schedules.from_json(dict(info["schedule"]))
    options = {"learned_variance": True} if info.get("learned_variance") else {}
    if info["prediction"] == "edm":
        options["sigma_data"] = info.get("sigma_data", 0.5)
    return Prior(BY_PREDICTION[info["prediction"]](network, schedule, clip=clip, **options), schedule)


@dataclasses.dataclass(frozen=True)
class DirectRestorer:
    """See :func:`restorer`."""

    apply_fn: Callable
    noise: NoiseMode | None = None
    y: Array | None = None

    def __call__(self, x_t: Array, t: Array) -> Array:
        return self.apply_fn(x_t, t) if self.y is None else self.apply_fn(x_t, t, self.y)


def restorer(apply_fn: Callable, *, noise: NoiseMode | None = None, y: Array | None = None) -> DirectRestorer:
    """A network as InDI's restorer ``(x_t, t) -> x0``.

    Args:
        apply_fn: ``apply_fn(x_t, t)`` or, with ``y``, ``apply_fn(x_t, t, y)``: for instance
            ``functools.partial(module.apply, params)``.
        noise: the noise mode of its training. :func:`samplers.indi` refuses to sample with another one: a network
            trained on one path gives blurred or noisy pictures on another.
        y: the measurement, for networks that also look at it.

    >>> restorer(lambda x, t: 0.5 * x)(2.0, 1.0)
    1.0
    """
    return DirectRestorer(apply_fn, noise, y)


# ------------------------------------------------------------------------------------------------ diffusion

def from_eps(fn: Callable, schedule: NoiseSchedule, clip: bool = False, learned_variance: bool = False) -> Denoiser:
    """A network that predicts the noise: ``x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)`` (Ho et al. 2020,
    Eq. 15).

    Args:
        fn: ``fn(x_t, t)`` with ``t`` ``[B]`` the schedule's timesteps; gives eps, or with ``learned_variance`` eps and
            a second half of channels v in [-1, 1].
        schedule: the network's, whole or respaced; it is asked at no other timesteps.
        clip: keep x0 in [-1, 1]; eps is then derived anew from x0, so that both stay consistent.
        learned_variance: ``log_var = (v + 1)/2 log beta_t + (1 - v)/2 log beta~_t`` (Nichol & Dhariwal 2021, Eq. 15).

    Returns:
        ``denoiser(x_t [B, H, W, C], t [B]) -> Prediction``, in float32 whatever the network computes in.

    Errors:
        ValueError for a schedule that ends in nothing but noise, of which x0 cannot be told: such networks predict v or
        x0.

    >>> from indigo_jax import schedules
    >>> denoiser = from_eps(lambda x, t: 0.0 * x, schedules.linear())
    >>> denoiser(jnp.ones((1, 2, 2, 3)), jnp.zeros(1)).eps.shape
    (1, 2, 2, 3)
    """
    schedules.check_signal(schedule, "a network that predicts eps")

    def denoiser(x_t, t):
        signal, noise, index = _levels(schedule, t, x_t)
        output, log_var, v = jnp.asarray(fn(x_t, t), jnp.float32), None, None
        if learned_variance:
            if output.shape[-1] != 2 * x_t.shape[-1]:
                raise ValueError(f"learned variance needs {2 * x_t.shape[-1]} output channels, got {output.shape[-1]}")
            output, v = jnp.split(output, 2, axis=-1)
            log_var = _learned_log_variance(schedule, index, v)
        prediction = _consistent((x_t - noise * output) / signal, output, x_t, signal, noise, clip)
        return prediction._replace(log_var=log_var, share=v)

    return denoiser


def from_x0(fn: Callable, schedule: NoiseSchedule, clip: bool = False) -> Denoiser:
    """A network that predicts the clean image; ``eps = (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar)``. As
    :func:`from_eps`."""
    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        x0 = jnp.asarray(fn(x_t, t), jnp.float32)
        return _consistent(x0, (x_t - signal * x0) / noise, x_t, signal, noise, clip)

    return denoiser


def from_v(fn: Callable, schedule: NoiseSchedule, clip: bool = False) -> Denoiser:
    """A network that predicts ``v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0`` (Salimans & Ho 2022, App. D). As
    :func:`from_eps`."""
    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        v = jnp.asarray(fn(x_t, t), jnp.float32)
        return _consistent(signal * x_t - noise * v, noise * x_t + signal * v, x_t, signal, noise, clip)

    return denoiser


def from_sigma(fn: Callable, schedule: NoiseSchedule, clip: bool = False) -> Denoiser:
    """A network that is told the noise level and gives the clean image: ``x0 = D(x_t / sqrt(alpha_bar), sigma)``,
    ``sigma = sqrt(1 / alpha_bar - 1)``.

    Args:
        fn: ``fn(x + sigma n [B, H, W, C], sigma [B]) -> x0``.
        schedule: any: no level is strange to such a network, as long as it lies in the range of its training.
        clip: as in :func:`from_eps`.

    Source: the change of variables between the variance-preserving and the variance-exploding form, Song et al.,
    DDIM, ICLR 2021 (arXiv 2010.02502), Eq. 14.
    """
    schedules.check_signal(schedule, "a network that is told sigma")

    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        x0 = jnp.asarray(fn(x_t / signal, (noise / signal).reshape(-1)), jnp.float32)
        return _consistent(x0, (x_t - signal * x0) / noise, x_t, signal, noise, clip)

    return denoiser


def mirrored(denoiser: Denoiser, copies: int = 4) -> Denoiser:
    """The mean of what a denoiser says of a picture and of its mirror images, each mirrored back.

    A network that has not learned that photographs may be mirrored errs differently on each; of the shipped ``photo``
    four copies save 0.16 dB.

    Args:
        denoiser: of pictures ``[B, H, W, C]``.
        copies: 1, 2 (left and right exchanged) or 4 (also top and bottom): the network's evaluations at each call.

    Errors:
        ValueError for another number.

    Source: self-ensemble of Lim et al., EDSR, CVPRW 2017 (arXiv 1707.02921), Sec. 3.3, without its quarter turns.
    """
    if copies not in (1, 2, 4):
        raise ValueError(f"copies must be 1, 2 or 4, got {copies}")

    if copies == 1:
        return denoiser
    ways = ((), (2,), (1,), (1, 2))[:copies]

    def mean(x_t, t):
        flipped = jnp.stack([jnp.flip(x_t, axes) for axes in ways])
        predictions = jax.lax.map(lambda x: denoiser(x, t), flipped)  # one after the other: memory, and one program

        def back(parts):
            flips = [jnp.flip(part, axes) if jnp.shape(part)[:3] == x_t.shape[:3] else part
                     for part, axes in zip(parts, ways)]
            return sum(flips) / copies

        return jax.tree.map(back, predictions)

    return mean


def from_flow(fn: Callable, schedule: NoiseSchedule, clip: bool = False) -> Denoiser:
    """A network that predicts the velocity ``z - x`` of a rectified flow ``f_t = (1 - t) x + t z``.

    The flow is the diffusion in another scale and time: with ``scale = sqrt(alpha_bar) + sqrt(1 - alpha_bar)`` it is
    ``f_t = x_t / scale`` at ``t = sqrt(1 - alpha_bar) / scale``; and ``x0 = f_t - t v``, ``eps = f_t + (1 - t) v``.

    Args:
        fn: ``fn(f_t [B, H, W, C], t [B]) -> v``, told the schedule's timesteps.
        schedule: :func:`schedules.flow`, whole or respaced, or whichever the network was trained with.
        clip: as in :func:`from_eps`.

    Source: Liu, Gong & Liu, Flow Straight and Fast, ICLR 2023 (arXiv 2209.03003), Eq. 1.

    >>> denoiser = from_flow(lambda f, t: 0.0 * f, schedules.flow())
    >>> denoiser(jnp.ones((1, 2, 2, 3)), jnp.full(1, 500.5)).x0.shape
    (1, 2, 2, 3)
    """
    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        scale = signal + noise
        f_t = x_t / scale
        v = jnp.asarray(fn(f_t, t), jnp.float32)
        return _consistent(f_t - noise / scale * v, f_t + signal / scale * v, x_t, signal, noise, clip)

    return denoiser


def from_edm(fn: Callable, schedule: NoiseSchedule, clip: bool = False, sigma_data: float = 0.5) -> Denoiser:
    """A raw network F of EDM: ``x0 = c_skip u + c_out F(c_in u, ln(sigma) / 4)`` for ``u = x + sigma n``.

    ``c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)``, ``c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2)``,
    ``c_in = 1 / sqrt(sigma^2 + sigma_data^2)``; ``u = x_t / sqrt(alpha_bar)`` and ``sigma^2 = 1 / alpha_bar - 1`` as
    in :func:`from_sigma`, which is for a network that is preconditioned already.

    Args:
        fn: ``fn(c_in u [B, H, W, C], ln(sigma) / 4 [B]) -> F``.
        schedule: any within the levels of the training, as :func:`schedules.karras`.
        clip: as in :func:`from_eps`.
        sigma_data: standard deviation of the pictures, of the training.

    Source: Karras et al., EDM, NeurIPS 2022 (arXiv 2206.00364), Eq. 7 and Tab. 1.

    >>> denoiser = from_edm(lambda x, c: 0.0 * x, schedules.karras(2))
    >>> denoiser(jnp.ones((1, 2, 2, 3)), schedules.karras(2).timesteps[1:]).x0.shape
    (1, 2, 2, 3)
    """
    schedules.check_signal(schedule, "a network of EDM")

    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        size = jnp.sqrt(noise**2 + (signal * sigma_data)**2)  # of x_t
        x, skip, out = x_t / size, signal * sigma_data / size, noise / size
        raw = jnp.asarray(fn(x, jnp.log(noise / signal).reshape(-1) / 4), jnp.float32)
        return _consistent(sigma_data * (skip * x + out * raw), out * x - skip * raw, x_t, signal, noise, clip)

    return denoiser


def from_examples(examples: Array, schedule: NoiseSchedule) -> Denoiser:
    """The exact denoiser of a set of pictures, each as likely as the others: no network, nothing to train.

    ``x0 = sum_i w_i x_i``, ``w_i ~ exp(-|x_t - sqrt(a) x_i|^2 / (2 (1 - a)))``, a = alpha_bar. It samples nothing but
    these pictures, so it is for what a generator makes in any number, as blur kernels, and for tests.

    Args:
        examples: ``[N, H, W, C]``, all kept in memory.
        schedule: as for :func:`from_eps`.

    Source: Karras et al., EDM, NeurIPS 2022 (arXiv 2206.00364), Eq. 3 in the main text and B.3.

    >>> denoiser = from_examples(jnp.array([-1.0, 1.0]).reshape(2, 1, 1, 1), schedules.karras(2))
    >>> float(denoiser(jnp.full((1, 1, 1, 1), 0.7), schedules.karras(2).timesteps[:1]).x0[0, 0, 0, 0])
    1.0
    """
    flat = jnp.asarray(examples, jnp.float32).reshape(len(examples), -1)

    def denoiser(x_t, t):
        signal, noise, _ = _levels(schedule, t, x_t)
        seen, (a, b) = x_t.reshape(x_t.shape[0], -1), (level.reshape(-1, 1) for level in (signal, noise))
        product = jnp.matmul(seen, flat.T, precision=jax.lax.Precision.HIGHEST)  # |x_t|^2 is the same for all
        weights = jax.nn.softmax((a * product - a**2 / 2 * jnp.sum(flat**2, axis=1)) / b**2, axis=1)
        x0 = jnp.matmul(weights, flat, precision=jax.lax.Precision.HIGHEST).reshape(x_t.shape)
        return _consistent(x0, (x_t - signal * x0) / noise, x_t, signal, noise, False)

    return denoiser


# as files and configs name them
BY_PREDICTION: dict[str, Callable] = {"eps": from_eps, "x0": from_x0, "v": from_v, "sigma": from_sigma,
                                      "flow": from_flow, "edm": from_edm}


def _levels(schedule, t, x):
    """``sqrt(alpha_bar)``, ``sqrt(1 - alpha_bar)`` shaped for images, and the index of each ``t`` in the schedule.

    A timestep that is not in the schedule is refused: ValueError, or NaN where it is not known while compiling.
    """
    t = t.astype(jnp.float32)
    index = jnp.minimum(jnp.searchsorted(schedule.timesteps, t), schedule.timesteps.shape[0] - 1)
    known = schedule.timesteps[index] == t
    try:
        strange = np.asarray(t)[~np.asarray(known)]
    except jax.errors.TracerArrayConversionError:
        strange = ()
    if len(strange):
        raise ValueError(f"timestep {strange[0]:g} is not in the denoiser's schedule of {schedule.timesteps.shape[0]} "
                         "levels: give the denoiser the whole schedule, and respace the sampler's")
    alpha_bar = jnp.where(known, schedule.alpha_bar[index], jnp.nan).reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar), index


def _consistent(x0, eps, x_t, signal, noise, clip):
    if not clip:
        return Prediction(x0, eps)
    x0 = jnp.clip(x0, -1.0, 1.0)
    return Prediction(x0, (x_t - signal * x0) / noise)


def _learned_log_variance(schedule, index, v):
    low, high = schedules.log_variances(schedule)
    shape = (-1,) + (1,) * (v.ndim - 1)
    low, high = low[index].reshape(shape), high[index].reshape(shape)
    return 0.5 * (v + 1) * high + 0.5 * (1 - v) * low
