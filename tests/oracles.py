"""Closed-form restorers ``F(x_t, t) = E[x | x_t]`` and what a right sampler must make of them.

The corrupted image of InDI is ``x_t = (1 - t) x + t y + t eps_t n`` (Delbracio & Milanfar, TMLR 2023, eq. 7) with
``y = H x + sigma n'``. For the priors below ``F`` is known exactly, so that samplers are tested without a network.
The closed forms are float64 numpy and share no code with the library; only the restorers are jax, in float32.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ATOMS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)


class Noise(NamedTuple):
    """``mode`` is none, constant or brownian; written again here so as not to trust the library's own."""

    mode: str = "none"
    eps: float = 0.0

    def var(self, t):
        """Variance of the noise in ``x_t``: ``t^2 eps_t^2`` (finite at t = 0 in every mode)."""
        return {"none": 0.0 * t, "constant": t * t * self.eps**2, "brownian": t * self.eps**2}[self.mode]

    def step_var(self, t, s):
        """Variance that the step ``t -> s`` adds: ``s^2 (eps_s^2 - eps_t^2)``."""
        return s * (t - s) / t * self.eps**2 if self.mode == "brownian" else 0.0


def per_image(t, x):
    """``t`` ``[B]`` with as many axes as ``x`` ``[B, ...]``."""
    return jnp.reshape(t, (-1,) + (1,) * (x.ndim - 1))


# ---------------------------------------------------------------- four modes in the plane


class Score(NamedTuple):
    mse: float  # summed over the two coordinates
    on: float  # fraction within 0.05 of an atom
    distance: float  # mean distance to the nearest atom
    tv: float  # total variation between the frequencies of the atoms and 1/4 each


class FourModes(NamedTuple):
    """Atoms ``(+-1, +-1)`` with weights 1/4 seen through ``y = H x + sigma n``, ``H`` any 2x2 matrix."""

    matrix: tuple
    sigma: float
    noise: Noise = Noise()

    def draw(self, num: int, seed: int = 0):
        """``x``, ``y``: float32 ``[num, 2]``."""
        rng = np.random.default_rng(seed)
        x = ATOMS[rng.integers(0, 4, num)]
        y = x @ np.array(self.matrix).T + self.sigma * rng.normal(size=x.shape)
        return x.astype(np.float32), y.astype(np.float32)

    def x_t(self, x, y, t: float, seed: int = 1):
        """A draw of eq. 7 at time ``t``."""
        normal = np.random.default_rng(seed).normal(size=x.shape)
        return (1 - t) * x + t * y + np.sqrt(self.noise.var(t)) * normal

    def restorer(self) -> Callable:
        """``F(x, t) = sum_k softmax_k(-|x - m_k|^2 / 2 s^2) c_k``, ``m_k = ((1 - t) I + t H) c_k``."""
        atoms = jnp.asarray(ATOMS, jnp.float32)
        seen = jnp.asarray(ATOMS @ np.array(self.matrix).T, jnp.float32)

        def restore(x, t):
            t = per_image(t, x)
            means = (1 - t)[..., None] * atoms + t[..., None] * seen
            var = t * t * self.sigma**2 + self.noise.var(t)
            weights = jax.nn.softmax(-jnp.sum((x[:, None] - means)**2, -1) / (2 * var), axis=-1)
            return jnp.sum(weights[..., None] * atoms, axis=1)

        return restore

    def exact_mse(self, times) -> float:
        """MSE of the Euler sampler by quadrature: diagonal ``H`` splits into two scalar problems, nothing is drawn.

        Only where the steps add no noise (modes none and constant).
        """
        if self.noise.mode == "brownian" or np.any(np.array(self.matrix) != np.diag(np.diag(self.matrix))):
            raise ValueError("quadrature needs a diagonal H and steps that add no noise")
        normal = np.linspace(-9, 9, 20001)
        weight = np.exp(-normal**2 / 2) / np.sum(np.exp(-normal**2 / 2))
        total = 0.0
        for h in np.diag(self.matrix):  # x = +1 by symmetry; the noise of y and eps_1 n add up
            x = h + np.sqrt(self.sigma**2 + self.noise.var(1.0)) * normal
            for t, s in zip(times[:-1], times[1:]):
                estimate = np.tanh((1 - t + t * h) * x / (t * t * self.sigma**2 + self.noise.var(t)))
                x = s / t * x + (1 - s / t) * estimate
            total += np.sum(weight * (x - 1)**2)
        return total

    @staticmethod
    def score(out, x) -> Score:
        """``out``, ``x`` ``[num, 2]``; ties (a point on an axis) go to the first atom."""
        out, x = np.asarray(out, np.float64), np.asarray(x, np.float64)
        distances = np.linalg.norm(out[:, None] - ATOMS, axis=-1)
        nearest, distance = distances.argmin(1), distances.min(1)
        frequencies = np.bincount(nearest, minlength=4) / len(out)
        return Score(mse=np.mean(np.sum((out - x)**2, -1)), on=np.mean(distance < 0.05), distance=np.mean(distance),
                     tv=0.5 * np.sum(np.abs(frequencies - 0.25)))


# ---------------------------------------------------------------- Gaussian priors: every step is linear


def wiener(prior, transfer, noise_var, t):
    """``E[x | x_t] = f x_t`` for a zero-mean Gaussian: ``f = S m / (S m^2 + var)``, ``m = 1 - t + t h``."""
    m = 1 - t + t * transfer
    return prior * m / (prior * m * m + noise_var)


class Chain(NamedTuple):
    gain: np.ndarray  # x_0 = gain * x_1 + noise that the steps added
    added: np.ndarray  # variance of that noise


def linear_chain(prior, transfer, sigma: float, noise: Noise, times, solver: str = "euler") -> Chain:
    """What the InDI sampler does to each independent Gaussian mode, from ``times[0]`` to ``times[-1]``.

    Euler: ``x_s = (s/t) x_t + (1 - s/t) f_t x_t``. Heun: the mean of the slopes ``(1 - f) x / t`` at both ends, except
    for a step to s = 0, which is Euler's.
    """
    def f(t):
        return wiener(prior, transfer, t * t * sigma**2 + noise.var(t), t)

    gain, added = np.ones_like(prior, np.float64), np.zeros_like(prior, np.float64)
    for t, s in zip(times[:-1], times[1:]):
        factor = (1 - s / t) * f(t) + s / t
        if solver == "heun" and s > 0:
            factor = 1 + 0.5 * (s - t) * ((1 - f(t)) / t + (1 - f(s)) / s * factor)
        gain = factor * gain
        added = factor**2 * added + noise.step_var(t, s)
    return Chain(gain, added)


class GaussianScalar(NamedTuple):
    """``x ~ N(mean, std^2)`` per element, ``y = h x + offset + sigma n``: the smooth case, for orders and laws."""

    mean: float
    std: float
    transfer: float
    offset: float
    sigma: float
    noise: Noise = Noise()

    def law(self, t):
        """Mean and std of ``x_t`` (eq. 7)."""
        m = 1 - t + t * self.transfer
        var = m * m * self.std**2 + t * t * self.sigma**2 + self.noise.var(t)
        return m * self.mean + t * self.offset, np.sqrt(var)

    def draw(self, num: int, size: int = 8, seed: int = 0):
        """``x``, ``y``: float32 ``[num, size]``."""
        rng = np.random.default_rng(seed)
        x = self.mean + self.std * rng.normal(size=(num, size))
        y = self.transfer * x + self.offset + self.sigma * rng.normal(size=x.shape)
        return x.astype(np.float32), y.astype(np.float32)

    def restorer(self) -> Callable:
        def restore(x, t):
            t = per_image(t, x)
            gain = wiener(self.std**2, self.transfer, t * t * self.sigma**2 + self.noise.var(t), t)
            centre = (1 - t + t * self.transfer) * self.mean + t * self.offset
            return self.mean + gain * (x - centre)

        return restore

    def chain(self, times, solver: str = "euler") -> Chain:
        return linear_chain(np.array(self.std**2), self.transfer, self.sigma, self.noise, times, solver)

    def output_law(self, times, solver: str = "euler"):
        """Mean and std of the sampler's output: the centre moves on a straight line, which every solver follows."""
        chain, (_, std) = self.chain(times, solver), self.law(1.0)
        return self.mean, np.sqrt(chain.gain**2 * std**2 + chain.added)

    def transport(self) -> float:
        """Gain of the exact flow from ``x_1`` to ``x_0`` when the steps add no noise: std_0 / std_1."""
        return self.std / self.law(1.0)[1]


class GaussianImages(NamedTuple):
    """Stationary Gaussian pictures ``S(f) ~ 1 / (f^2 + corner^2)`` behind a periodic Gaussian blur and white noise.

    Frequencies in cycles per pixel; pixel variance 0.06, peak 1 for the PSNR.
    """

    sigma: float = 0.02
    noise: Noise = Noise()
    size: int = 64
    pixel_var: float = 0.06
    corner: float = 0.02
    blur: float = 1.6

    @property
    def frequency(self):
        f = np.fft.fftfreq(self.size)
        return np.hypot(f[:, None], f[None])

    @property
    def prior(self):
        spectrum = 1 / (self.frequency**2 + self.corner**2)
        return self.pixel_var * spectrum / spectrum.mean()

    @property
    def transfer(self):
        return np.exp(-2 * np.pi**2 * self.blur**2 * self.frequency**2)

    def filter(self, images, gain):
        """Multiply each frequency of ``images`` ``[B, H, W, 1]`` by ``gain`` ``[H, W]`` (numpy)."""
        return np.fft.ifft2(np.fft.fft2(images, axes=(1, 2)) * gain[..., None], axes=(1, 2)).real

    def draw(self, num: int, seed: int = 0):
        """``x``, ``y``: float32 ``[num, H, W, 1]``."""
        rng = np.random.default_rng(seed)
        x = self.filter(rng.normal(size=(num, self.size, self.size, 1)), np.sqrt(self.prior))
        y = self.filter(x, self.transfer) + self.sigma * rng.normal(size=x.shape)
        return x.astype(np.float32), y.astype(np.float32)

    def restorer(self) -> Callable:
        half = self.size // 2 + 1
        prior, transfer = (jnp.asarray(a[:, :half], jnp.float32) for a in (self.prior, self.transfer))

        def restore(x, t):
            noise_var = t * t * self.sigma**2 + self.noise.var(t)
            gain = wiener(prior, transfer, noise_var[:, None, None], t[:, None, None])
            spectrum = jnp.fft.rfft2(x[..., 0]) * jax.lax.complex(gain, jnp.zeros_like(gain))
            return jnp.fft.irfft2(spectrum, s=x.shape[1:3])[..., None]

        return restore

    def chain(self, times, solver: str = "euler") -> Chain:
        return linear_chain(self.prior, self.transfer, self.sigma, self.noise, times, solver)

    def output_var(self, chain: Chain):
        """Variance of each frequency of the output."""
        start = self.prior * self.transfer**2 + self.sigma**2 + self.noise.var(1.0)
        return chain.gain**2 * start + chain.added

    def mse(self, chain: Chain) -> float:
        return np.mean(self.prior - 2 * chain.gain * self.transfer * self.prior + self.output_var(chain))

    def psnr(self, chain: Chain) -> float:
        return -10 * np.log10(self.mse(chain))

    def high_energy(self, chain: Chain) -> float:
        """Energy above 0.25 cycles per pixel, relative to the clean pictures'."""
        high = self.frequency > 0.25
        return self.output_var(chain)[high].sum() / self.prior[high].sum()

    def w2(self, chain: Chain) -> float:
        """Squared 2-Wasserstein distance per pixel between the laws of the output and of the clean pictures."""
        return np.mean((np.sqrt(self.output_var(chain)) - np.sqrt(self.prior))**2)

    def optimal_transport(self) -> Chain:
        """The limit of many steps: the gain that carries the law of y to the law of x."""
        start = self.prior * self.transfer**2 + self.sigma**2 + self.noise.var(1.0)
        return Chain(np.sqrt(self.prior / start), np.zeros_like(start))


# ---------------------------------------------------------------- distances


def sliced_w1(a, b, num_directions: int = 32, seed: int = 0) -> float:
    """Mean over random directions of the 1-Wasserstein distance between two sets ``[num, dim]`` of equal size."""
    directions = np.random.default_rng(seed).normal(size=(num_directions, np.shape(a)[-1]))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.mean(np.abs(np.sort(np.asarray(a) @ directions.T, 0) - np.sort(np.asarray(b) @ directions.T, 0)))


# ---------------------------------------------------------------- diffusion of a Gaussian: the law of every step


class GaussianDiffusion(NamedTuple):
    """``x ~ N(mean, std^2)`` per element, seen through ``x_t = sqrt(a) x + sqrt(1 - a) n``."""

    mean: float
    std: float

    def denoiser(self, schedule) -> Callable:
        """``E[x | x_t]`` and the eps that belongs to it, as a ``denoiser(x_t, t) -> Prediction``."""
        from indigo_jax.denoisers import Prediction

        def denoise(x_t, t):
            a = per_image(schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t)], x_t)
            gain = self.std**2 * jnp.sqrt(a) / (a * self.std**2 + 1 - a)
            x0 = self.mean + gain * (x_t - jnp.sqrt(a) * self.mean)
            return Prediction(x0, (x_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a))

        return denoise

    def output_law(self, schedule, *, eta: float | None = None, variance: str = "small", pull=0.0, towards=0.0):
        """Mean and std of the sampler's output from standard normal noise: every step is affine, so a recursion in
        float64. ``eta`` None is DDPM. ``pull``: a drift ``-pull d (x0 - towards)^2 / d x_t`` is added to each step."""
        a_t, a_s = (np.asarray(a, np.float64) for a in (schedule.alpha_bar, schedule.alpha_bar_prev))
        m, v = 0.0, 1.0
        for t, s in zip(a_t[::-1], a_s[::-1]):
            gain = self.std**2 * np.sqrt(t) / (t * self.std**2 + 1 - t)  # x0 = offset + gain x_t
            offset = self.mean * (1 - gain * np.sqrt(t))
            beta = 1 - t / s
            small = beta * (1 - s) / (1 - t)
            if eta is None:
                of_x0, of_x = np.sqrt(s) * beta / (1 - t), np.sqrt(1 - beta) * (1 - s) / (1 - t)
                added = (beta if variance == "large" else small) if s < 1 else 0.0
            else:
                added = eta**2 * small
                of_eps = np.sqrt(max(1 - s - added, 0.0)) / np.sqrt(1 - t)
                of_x0, of_x = np.sqrt(s) - of_eps * np.sqrt(t), of_eps
            factor, constant = of_x0 * gain + of_x, of_x0 * offset
            factor, constant = factor - 2 * pull * gain * gain, constant - 2 * pull * gain * (offset - towards)
            m, v = factor * m + constant, factor**2 * v + added
        return m, np.sqrt(v)
