"""Training objectives: InDI's path, its distribution of times, and its loss; those of diffusion and of the INN."""
import math
from typing import Callable

import jax
import jax.numpy as jnp

from indigo_jax import rng, schedules
from indigo_jax.arrays import per_image
from indigo_jax.paths import NoiseMode
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Key, Restorer

LOSSES = ("l1", "l2")
PREDICTIONS = ("eps", "x0", "v")
WEIGHTINGS = ("simple", "min_snr")
TIME, _NOISE = 0, 1  # what an image's key is folded with


def indi_path(x: Array, y: Array, t: Array, noise: NoiseMode, n: Array) -> Array:
    """``x_t = (1 - t) x + t y + t eps_t n`` (Eq. 7): ``x``, ``y``, ``n`` ``[B, ...]``, ``t`` ``[B]``.

    Errors:
        ValueError for y of another shape than x, and times that are not one per image.
    """
    if y.shape != x.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    t = per_image(t, x, "t")
    return (1 - t) * x + t * y + noise.std(t) * n


def indi_times(keys: Key, *, a: float = 1.0, stratified: bool = True) -> Array:
    """Times ``[B]`` in (0, 1] from ``p_a(t) = 1 / (1 + a) U(0, 1] + a / (1 + a) delta(t = 1)``.

    a = 0 is uniform; the larger a, the more the single step from t = 1 is trained (which is the state that every
    sampling run visits).

    Args:
        keys: one per image ``[B]``.
        a: weight of t = 1, at least 0.
        stratified: image i draws from the i-th of B equal slices of the distribution, so that every batch covers it.
            Otherwise the times are independent.

    Source: the mixture is read in a public re-implementation, which attributes it to the paper's Sec. 6.3.
    """
    if a < 0:
        raise ValueError(f"a must be at least 0, got {a}")
    u = rng.uniform(keys)
    if stratified:
        u = (jnp.arange(u.shape[0], dtype=jnp.float32) + u) / u.shape[0]
    return jnp.minimum((1.0 - u) * (1.0 + a), 1.0)


def indi(restorer: Restorer, x: Array, y: Array, keys: Key, *, noise: NoiseMode, loss: str = "l1", a: float = 1.0,
         stratified: bool = True, t: Array | None = None) -> Array:
    """InDI's loss ``|| F(x_t, t) - x ||_p`` for one draw of t and n per image (Eq. 9).

    With p = 2, F tends to ``E[x | x_t]``, on which the sampler's theory rests; with p = 1 to the conditional median
    per pixel, which often looks better.

    Args:
        restorer: ``restorer(x_t, t) -> x0``.
        x: clean pictures ``[B, H, W, C]`` in ``[-1, 1]``; any other ``[B, ...]`` will do.
        y: measurements, as x.
        keys: one per image ``[B]``.
        noise: the mode that sampling will use too.
        loss: "l1" (mean absolute error) or "l2" (mean squared error).
        a, stratified: see :func:`indi_times`.
        t: times ``[B]``; drawn by :func:`indi_times` with ``rng.fold(keys, TIME)`` where None.

    Returns:
        Mean error of each image, ``[B]`` float32.

    Errors:
        ValueError for an unknown loss, y of another shape than x, and estimates of another one.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    t = indi_times(rng.fold(keys, TIME), a=a, stratified=stratified) if t is None else t
    x_t = indi_path(x, y, t, noise, rng.normal(rng.fold(keys, _NOISE), x))
    x0 = restorer(x_t, t)
    if x0.shape != x.shape:
        raise ValueError(f"the restorer gives {x0.shape} for pictures of shape {x.shape}")
    error = x0 - x
    return _mean(jnp.abs(error) if loss == "l1" else error**2)


# ------------------------------------------------------------------------------------------------ diffusion

def diffusion_levels(keys: Key, count: int, *, stratified: bool = True) -> Array:
    """Indices ``[B]`` int32, uniform in ``0 ... count - 1``; ``stratified`` as in :func:`indi_times`."""
    u = rng.uniform(keys)
    if stratified:
        u = (jnp.arange(u.shape[0], dtype=jnp.float32) + u) / u.shape[0]
    return jnp.minimum((u * count).astype(jnp.int32), count - 1)


def diffusion(apply_fn: Callable, x: Array, keys: Key, schedule: NoiseSchedule, *, prediction: str = "eps",
              weighting: str = "simple", learned_variance: bool = False, index: Array | None = None) -> Array:
    """Denoising loss ``w_t || f(x_t, t) - target ||^2`` for one draw of t and n per image (Ho et al. 2020, Eq. 14).

    ``x_t = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) n``; the target is n ("eps"), x ("x0") or
    ``sqrt(alpha_bar) n - sqrt(1 - alpha_bar) x`` ("v", Salimans & Ho 2022, App. D). The least loss is reached by the
    conditional mean of the target.

    With ``learned_variance`` the network has a second half of channels and ``0.001 L_vlb`` is added, through which
    only that half learns (Nichol & Dhariwal 2021, Sec. 3.1).

    Args:
        apply_fn: ``apply_fn(x_t [B, H, W, C], t [B]) -> [B, H, W, C]`` (or 2 C), t the schedule's timesteps.
        x: pictures ``[B, H, W, C]`` in ``[-1, 1]``.
        keys: one per image ``[B]``.
        schedule: the whole schedule.
        prediction: "eps", "x0" or "v".
        weighting: "simple" (w = 1), or "min_snr": ``min(SNR, 5)`` on the error of x0 (Hang et al. 2023).
        learned_variance: only with prediction "eps".
        index: levels of the schedule ``[B]`` int32; drawn by :func:`diffusion_levels` with ``rng.fold(keys, TIME)``
            where None.

    Returns:
        Mean over each image, ``[B]`` float32.

    Errors:
        ValueError for an unknown prediction or weighting, or an output of other shape than the target's.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}; got {weighting!r}")
    if learned_variance and prediction != "eps":
        raise ValueError(f"a learned variance goes with prediction 'eps', not {prediction!r}")
    if index is None:
        index = diffusion_levels(rng.fold(keys, TIME), schedule.timesteps.shape[0])
    alpha_bar = schedule.alpha_bar[index]
    signal, sigma = _levels(schedule, index, x)
    n = rng.normal(rng.fold(keys, _NOISE), x)
    x_t = signal * x + sigma * n

    output = apply_fn(x_t, schedule.timesteps[index])
    channels = x.shape[-1] * (2 if learned_variance else 1)
    if output.shape != (*x.shape[:-1], channels):
        raise ValueError(f"the network gives {output.shape} for pictures of shape {x.shape}; {channels} channels are "
                         "needed")
    if learned_variance:
        output, v = jnp.split(output, 2, axis=-1)
    target = {"eps": n, "x0": x, "v": signal * n - sigma * x}[prediction]
    loss = _mean((output - target) ** 2)
    if weighting == "min_snr":
        snr = alpha_bar / (1 - alpha_bar)
        loss = loss * jnp.minimum(snr, 5.0) / {"eps": snr, "x0": jnp.ones_like(snr), "v": snr + 1}[prediction]
    if learned_variance:
        x0 = jax.lax.stop_gradient((x_t - sigma * output) / signal)
        loss = loss + 0.001 * schedule.timesteps.shape[0] * _variational_bound(schedule, index, x, x0, v)
    return loss


def flow(apply_fn: Callable, x: Array, keys: Key, schedule: NoiseSchedule, *, index: Array | None = None) -> Array:
    """Loss of a rectified flow ``|| f(x_t, t) - (z - x) ||^2`` at ``x_t = (1 - t) x + t z`` (Liu et al. 2023, Eq. 1).

    The least loss is reached by ``E[z - x | x_t]``; :func:`denoisers.from_flow` makes a prior of it.

    Args:
        apply_fn, x, keys, index: as for :func:`diffusion`.
        schedule: :func:`schedules.flow`, whose levels are the times t that are learned, or any other.

    Returns:
        Mean over each image, ``[B]`` float32.

    Errors:
        ValueError for an output of other shape than x.
    """
    if index is None:
        index = diffusion_levels(rng.fold(keys, TIME), schedule.timesteps.shape[0])
    signal, sigma = _levels(schedule, index, x)
    t, z = sigma / (signal + sigma), rng.normal(rng.fold(keys, _NOISE), x)
    return _error(apply_fn, (1 - t) * x + t * z, schedule.timesteps[index], z - x)


def edm_levels(keys: Key, schedule: NoiseSchedule, *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Levels of a schedule ``[B]`` int32, the nearest to ``ln(sigma) ~ N(mean, std^2)`` (Karras et al. 2022, Tab. 1);
    stratified, as :func:`indi_times`."""
    u = (jnp.arange(keys.shape[0], dtype=jnp.float32) + rng.uniform(keys)) / keys.shape[0]
    wanted = mean + std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
    known = jnp.log(schedules.sigmas(schedule))
    return jnp.searchsorted((known[1:] + known[:-1]) / 2, wanted).astype(jnp.int32)


def edm(apply_fn: Callable, x: Array, keys: Key, schedule: NoiseSchedule, *, sigma_data: float = 0.5,
        index: Array | None = None) -> Array:
    """EDM's loss of a raw network, ``|| F(c_in u, ln(sigma) / 4) - (x - c_skip u) / c_out ||^2``, ``u = x + sigma n``
    (Karras et al. 2022, Eq. 8): its weight makes every level count alike.

    Args:
        apply_fn: ``apply_fn(c_in u [B, H, W, C], ln(sigma) / 4 [B]) -> F``; see :func:`denoisers.from_edm`.
        x, keys: as for :func:`diffusion`.
        schedule: as :func:`schedules.karras`.
        sigma_data: standard deviation of the pictures.
        index: levels of the schedule ``[B]``; drawn by :func:`edm_levels` with ``rng.fold(keys, TIME)`` where None.

    Returns:
        Mean over each image, ``[B]`` float32.

    Errors:
        ValueError for an output of other shape than x.
    """
    index = edm_levels(rng.fold(keys, TIME), schedule) if index is None else index
    sigma = schedules.sigmas(schedule)[index]
    level, n = per_image(sigma, x), rng.normal(rng.fold(keys, _NOISE), x)
    size = jnp.sqrt(level**2 + sigma_data**2)
    target = (level * x - sigma_data**2 * n) / (sigma_data * size)  # (x - c_skip u) / c_out
    return _error(apply_fn, (x + level * n) / size, jnp.log(sigma) / 4, target)


def noise_levels(keys: Key, low: float, middle: float, high: float, *, share: float = 0.75) -> Array:
    """Standard deviations ``[B]``: log-uniform in ``[low, middle]`` for a ``share`` of the pictures, in
    ``[middle, high]`` for the rest; stratified, as :func:`indi_times`."""
    u = rng.uniform(keys)
    u = (jnp.arange(u.shape[0], dtype=jnp.float32) + u) / u.shape[0]
    knots = jnp.log(jnp.asarray([low, middle, high]))
    return jnp.exp(jnp.interp(u, jnp.asarray([0.0, share, 1.0]), knots))


def denoising(denoiser: Callable, x: Array, noisy: Array, sigma: Array, level: Array) -> Array:
    """``rms(D(noisy, level) - x) / sqrt(sigma)``: about the same size at every level, so that all weigh alike.

    The error that can be reached grows roughly as the square root of the noise. Its least expected value is reached
    near the conditional mean (exactly there if the error of a picture does not vary).

    Args:
        denoiser: ``denoiser(noisy, level) -> x0``.
        x: clean pictures ``[B, H, W, C]`` in ``[-1, 1]``.
        noisy: as x.
        sigma: standard deviation of the noise ``[B]``.
        level: what the denoiser is told: ``[B]`` or ``[B, H, W, 1]``.

    Returns:
        The loss of each picture ``[B]`` float32.
    """
    error = _mean((denoiser(noisy, level) - x) ** 2)
    return jnp.sqrt(error + 1e-12) / jnp.sqrt(sigma)


def _levels(schedule, index, x):
    """``sqrt(alpha_bar)`` and ``sqrt(1 - alpha_bar)``, shaped for the images."""
    alpha_bar = schedule.alpha_bar[index]
    return tuple(per_image(jnp.sqrt(a), x) for a in (alpha_bar, 1 - alpha_bar))


def _error(apply_fn, x_t, t, target):
    """Mean squared error of a network's output, of each image."""
    output = apply_fn(x_t, t)
    if output.shape != target.shape:
        raise ValueError(f"the network gives {output.shape} for pictures of shape {target.shape}")
    return _mean((output - target) ** 2)


def _mean(values):
    """Over each image, ``[B, ...] -> [B]``."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _variational_bound(schedule, index, x, x0, v):
    """The term of level ``index`` in L_vlb, in bits per number, ``[B]``."""
    def at(values):
        return per_image(values[index], x)

    low, high = (at(a) for a in schedules.log_variances(schedule))
    log_var = 0.5 * (v + 1) * high + 0.5 * (1 - v) * low  # Nichol & Dhariwal, Eq. 15
    a, before = at(schedule.alpha_bar), at(schedule.alpha_bar_prev)
    from_x0 = jnp.sqrt(before) * (1 - a / before) / (1 - a)  # Ho et al., Eq. 7
    kl = 0.5 * (log_var - low - 1 + jnp.exp(low - log_var) + (from_x0 * (x - x0)) ** 2 * jnp.exp(-log_var))
    # at level 0 the mean is x0: nothing of x_t is left
    bound = jnp.where(per_image(index, x) == 0, -_log_likelihood(x, x0, 0.5 * log_var), kl)
    return _mean(bound) / math.log(2.0)


def _log_likelihood(x, mean, log_std):
    """Of 256 grey values in ``[-1, 1]`` under a Gaussian integrated over their bins (Ho et al. 2020, Eq. 13)."""
    inverse = jnp.exp(-log_std)
    above = jnp.where(x > 0.999, 1.0, jax.scipy.special.ndtr((x - mean + 1 / 255) * inverse))
    below = jnp.where(x < -0.999, 0.0, jax.scipy.special.ndtr((x - mean - 1 / 255) * inverse))
    return jnp.log(jnp.maximum(above - below, 1e-12))


# ------------------------------------------------------------------------------------------------ invertible networks

def inn(forward: Callable, inverse: Callable, x: Array, y: Array, *, absolute: float = 0.1, swapped: float = 0.1,
        sparse: float = 0.01) -> Array:
    """What makes an invertible network a model of a degradation: its coarse picture is the degraded one.

    ``mean (c - y)^2 + absolute mean |c - y| + swapped mean |g^-1(y, d) - x| + sparse mean |d|``, ``(c, d) = g(x)``. The
    third term makes the details fit the true measurement; nothing else trains the inverse with another coarse picture.

    Args:
        forward: ``forward(x) -> (coarse, details)``.
        inverse: ``inverse(coarse, details) -> x``.
        x: clean pictures ``[B, H, W, C]`` in [0, 1], or latents.
        y: degraded ones, of the size and kind of the coarse picture.
        absolute, swapped, sparse: weights.

    Returns:
        The loss of each picture, ``[B]`` float32.

    Errors:
        ValueError for a coarse picture of another size than y.

    Source: the first term is that of the papers (INDIGO+, 2024); the other terms and all weights are our choice, since
    the papers' are not known to us.
    """
    coarse, details = forward(x)
    if coarse.shape != y.shape:
        raise ValueError(f"the coarse picture is {coarse.shape}, the measurement {y.shape}: the network's levels and "
                         "the scale of the degradation do not fit")

    def mean(values):
        return jnp.mean(values, axis=(1, 2, 3))

    loss = mean((coarse - y) ** 2) + absolute * mean(jnp.abs(coarse - y))
    if swapped:
        loss = loss + swapped * mean(jnp.abs(inverse(y, details) - x))
    leaves = jax.tree.leaves(details)
    if sparse and leaves:
        total = sum(jnp.sum(jnp.abs(leaf), axis=(1, 2, 3)) for leaf in leaves)
        loss = loss + sparse * total / sum(leaf[0].size for leaf in leaves)
    return loss


def contrastive(a: Array, b: Array, *, temperature: float = 0.1) -> Array:
    """How badly each embedding of one batch finds its partner in another: what partners share is what gets embedded.

    ``-log softmax_j(cos(a_i, b_j) / temperature)`` at ``j = i``, a and b less the mean of both: untrained encoders give
    almost one direction to all pictures, where cosines have no slope. ``log B`` where all are alike. If row i is, in
    both, of one degradation, and each picture occurs in both, then pictures are no help, and degradations are.

    Args:
        a, b: ``[B, D]``; rows of the same number are partners.
        temperature: of the softmax, above 0.

    Returns:
        The loss of each row of a, ``[B]`` float32.

    Errors:
        ValueError for embeddings of other shapes, or a temperature that is not above 0.

    Source: van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding" (2018), eq. 4; of
    degradations: Wang et al., "Unsupervised degradation representation learning for blind super-resolution" (2021),
    whose negatives are other pictures' degradations, of a queue.

    >>> abs(contrastive(jnp.eye(2), jnp.eye(2)).round(5)).tolist()
    [0.0, 0.0]
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"two batches of embeddings [B, D] are needed, got {a.shape} and {b.shape}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    middle = jnp.mean(jnp.concatenate([a, b]), axis=0)
    a, b = ((each - middle) / jnp.sqrt(jnp.sum((each - middle)**2, axis=1, keepdims=True) + 1e-12) for each in (a, b))
    return -jnp.diagonal(jax.nn.log_softmax(jnp.matmul(a, b.T, precision="highest") / temperature, axis=1))
