"""Problems whose posterior is known exactly: Gaussian pictures and mixtures of them, measured linearly with noise."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.arrays import per_image
from indigo_jax.denoisers import Prediction
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Denoiser


class Mixture(NamedTuple):
    """Pictures ``[H, W, C]`` from Gaussians of one covariance; all in float64.

    Attributes:
        weights: of the modes ``[K]``, of sum 1.
        means: ``[K, D]``, D = H W C.
        covariance: ``[D, D]``.
        shape: ``(H, W, C)``.
    """

    weights: np.ndarray
    means: np.ndarray
    covariance: np.ndarray
    shape: tuple[int, int, int]

    @property
    def mean(self) -> np.ndarray:
        """Of all ``[D]``."""
        return self.weights @ self.means

    @property
    def spread(self) -> float:
        """Standard deviation of a pixel, root mean square over pixels, differences of the modes counted."""
        between = np.sum(self.weights[:, None] * (self.means - self.mean)**2)
        return float(np.sqrt((np.trace(self.covariance) + between) / self.mean.size))

    def posterior(self, a: np.ndarray, y: np.ndarray, sigma: float) -> "Mixture":
        """Of x given ``y = a x + sigma n``, a mixture again; a ``[M, D]``, y ``[M]``."""
        total = a @ self.covariance @ a.T + sigma**2 * np.eye(len(y))
        gain = np.linalg.solve(total, a @ self.covariance).T
        left = y - self.means @ a.T
        log = np.log(self.weights) - 0.5 * np.sum(left * np.linalg.solve(total, left.T).T, axis=1)
        weights = np.exp(log - log.max())
        covariance = self.covariance - gain @ a @ self.covariance
        return Mixture(weights / weights.sum(), self.means + left @ gain.T, 0.5 * (covariance + covariance.T),
                       self.shape)

    def modes(self, x: np.ndarray) -> np.ndarray:
        """The likeliest mode of each of x ``[N, D]``: ``[N]``."""
        left = x[:, None] - self.means
        whitened = np.linalg.solve(np.linalg.cholesky(self.covariance), left.reshape(-1, left.shape[-1]).T)
        return np.argmax(np.log(self.weights) - 0.5 * np.sum(whitened**2, axis=0).reshape(left.shape[:2]), axis=1)

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """``[count, D]``."""
        means = self.means[random.choice(len(self.weights), count, p=self.weights)]
        return means + random.standard_normal(means.shape) @ np.linalg.cholesky(self.covariance).T

    def denoiser(self, schedule: NoiseSchedule) -> Denoiser:
        """``E[x | x_t]``, exact, and the eps that belongs to it."""
        values, basis = np.linalg.eigh(self.covariance)
        values, basis, means, log = (jnp.asarray(array, jnp.float32) for array in (
            np.maximum(values, 0), basis, self.means @ basis, np.log(self.weights)))

        def denoise(x_t, t):
            a = schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t)][:, None]
            left = (x_t.reshape(x_t.shape[0], -1) @ basis)[:, None] - jnp.sqrt(a)[..., None] * means
            total = (a * values + 1 - a)[:, None]
            share = jax.nn.softmax(log - 0.5 * jnp.sum(left**2 / total, axis=2), axis=1)[..., None]
            found = jnp.sum(share * (means + values * jnp.sqrt(a)[..., None] / total * left), axis=1)
            x0 = (found @ basis.T).reshape(x_t.shape)
            a = per_image(a[:, 0], x_t)
            return Prediction(x0, (x_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a))

        return denoise


def smooth_covariance(side: int, std: float, corner: float) -> np.ndarray:
    """Of pictures ``[side, side, 1]`` of spectrum ``1 / (f^2 + corner^2)``, f in cycles per pixel, on a torus; their
    pixels have standard deviation ``std``."""
    f = np.fft.fftfreq(side)
    spectrum = 1 / (f[:, None]**2 + f**2 + corner**2)
    row = np.fft.ifft2(spectrum / spectrum.mean()).real * std**2
    index = np.arange(side)
    apart = (index[:, None] - index) % side
    return row[apart[:, None, :, None], apart[None, :, None, :]].reshape(side**2, side**2)


def matrix(operator: Callable, shape: tuple[int, int, int]) -> np.ndarray:
    """A linear operator as ``[M, D]``."""
    size = int(np.prod(shape))
    return np.asarray(operator(jnp.eye(size).reshape(size, *shape)), np.float64).reshape(size, -1).T
