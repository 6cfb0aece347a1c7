"""Magnetic resonance imaging: Cartesian samples of the Fourier transform, seen by one coil or several."""
import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.operators import base
from indigo_jax.operators.linear import LinearOperator
from indigo_jax.typing import Array, Key

_AXES = (1, 2)


def _centred(transform, x: Array) -> Array:
    """An orthonormal transform with the origin at pixel ``[H // 2, W // 2]`` on both sides."""
    return jnp.fft.fftshift(transform(jnp.fft.ifftshift(x, _AXES), axes=_AXES, norm="ortho"), _AXES)


@base.operator(linear=True, shape_preserving=False)
class MRI(base.Applied):
    """See :func:`mri`."""
    mask: Array
    coils: Array
    channels: int = base.static(default=3)

    def _apply(self, x: Array) -> Array:
        for name, array in (("mask", self.mask), ("coils", self.coils)):
            if array.shape[1:3] not in (x.shape[1:3], (1, 1)) or array.shape[0] not in (1, x.shape[0]):
                raise ValueError(f"mri: {name} of {array.shape} do not fit images of {x.shape}")
        if x.shape[3] != self.channels:
            raise ValueError(f"mri: made for {self.channels} channels, got images of {x.shape}; say channels=")
        grey = jnp.mean(x, axis=3, keepdims=True)
        samples = self.mask.astype(jnp.complex64) * _centred(jnp.fft.fft2, self.coils * grey.astype(jnp.complex64))
        return jnp.concatenate([samples.real, samples.imag], axis=3)

    def adjoint(self, y: Array, *, shape: tuple[int, int] | None = None) -> Array:
        """``A* y``: images ``[B, H, W, channels]`` of the same size as ``y``, all channels alike."""
        del shape
        real, imaginary = jnp.split(y, 2, axis=3)
        samples = self.mask.astype(jnp.complex64) * jax.lax.complex(real, imaginary)
        pictures = _centred(jnp.fft.ifft2, samples)
        grey = jnp.sum(jnp.conj(self.coils) * pictures, axis=3, keepdims=True).real
        return jnp.broadcast_to(grey / self.channels, (*grey.shape[:3], self.channels))

    @property
    def svd(self):
        """Singular values of one coil that sees all alike, with Fourier's basis, as :func:`operators.linear` has them,
        without the null space; None for other coils.

        Pictures are real, so that a frequency and its opposite are two samples of one number: the values are
        ``sqrt((M(k)^2 + M(-k)^2) / (2 channels))``.
        """
        if self.coils.shape[1:] != (1, 1, 1):
            return None
        root = self.channels**0.5
        origin = jnp.fft.ifftshift(self.mask**2, _AXES)
        opposite = jnp.roll(jnp.flip(origin, _AXES), 1, _AXES)
        values = jnp.fft.fftshift(jnp.sqrt((origin + opposite) / 2), _AXES) * jnp.abs(self.coils) / root

        def to_basis(x):
            return _centred(jnp.fft.fft2, (jnp.sum(x, axis=3, keepdims=True) / root).astype(jnp.complex64))

        def from_basis(c):
            grey = _centred(jnp.fft.ifft2, c).real
            return jnp.broadcast_to(grey / root, (*grey.shape[:3], self.channels))

        return values, to_basis, from_basis

    def closed_form(self, rho: Array):
        """``s -> (A* A + rho)^+ A* s`` where :attr:`svd` tells it, else None."""
        return LinearOperator(self, self.adjoint, None, self.svd, None).closed_form(rho)

    def zero_filled(self, y: Array) -> Array:
        """The classical picture: samples that were not taken count as 0. With all samples, the picture itself where
        the coils' squares sum to 1."""
        return self.channels * self.adjoint(y)


def mri(mask, coils=None, *, channels: int = 3) -> MRI:
    """Cartesian MRI: ``y_j = M F (S_j g)`` for coil j, g the grey picture (mean of the channels of x), F the
    orthonormal Fourier transform with its origin in the middle of the picture and of k-space, M the mask.

    Measurements are real, ``[B, H, W, 2 K]``: the real parts of all K coils, then their imaginary parts, so that noise,
    residuals and norms are those of real numbers. Linear in x, with no offset: the samples of densities
    ``(x + 1) / 2``, which scanners measure, are ``(A(x) + A(1)) / 2``.

    Args:
        mask: 1 where a sample was taken, else 0: ``[H, W]``, ``[B, H, W]`` or ``[B, H, W, 1]``; lowest frequency at
            ``[H // 2, W // 2]``; see :func:`cartesian_mask`.
        coils: complex sensitivities ``[H, W, K]`` or ``[B, H, W, K]``; default: one coil that sees all alike. See
            :func:`coil_sensitivities`.
        channels: of the pictures.

    Errors:
        ValueError for a mask or coils of other dimensions or sizes, masks outside [0, 1], other channels.

    By FFT: XLA gathers a batch that is sharded over devices on each of them (:func:`sharding.per_device` does not).

    >>> A = mri(jnp.ones((4, 4)), channels=1)
    >>> A(jnp.ones((1, 4, 4, 1)))[0, 2, 2].tolist()
    [4.0, 0.0]
    """
    mask = base.check_number(mask, "mask", 0.0, 1.0)
    mask = mask[None, :, :, None] if mask.ndim == 2 else mask[..., None] if mask.ndim == 3 else mask
    coils = jnp.ones((1, 1, 1, 1), jnp.complex64) if coils is None else jnp.asarray(coils, jnp.complex64)
    coils = coils[None] if coils.ndim == 3 else coils
    if mask.ndim != 4 or mask.shape[3] != 1 or coils.ndim != 4:
        raise ValueError(f"a mask is [H, W], [B, H, W] or [B, H, W, 1], coils [H, W, K] or [B, H, W, K]; got "
                         f"{mask.shape} and {coils.shape}")
    return MRI(mask, coils, int(channels))


def cartesian_mask(keys: Key, height: int, width: int, *, acceleration: float = 4.0,
                   centre_fraction: float = 0.08) -> Array:
    """Random columns of k-space, as fastMRI's (Zbontar et al. 2018): all of the lowest frequencies, others at random.

    Args:
        keys: one typed key, or one per image ``[B]``.
        acceleration: ``round(width / acceleration)`` columns are sampled.
        centre_fraction: of the columns, around ``width // 2``, that are always sampled.

    Returns:
        float32 of 0 and 1, ``[height, width]`` or ``[B, height, width]``.

    Errors:
        ValueError for an acceleration below 1, or one that leaves no column beside the centre's.

    >>> cartesian_mask(jax.random.key(0), 2, 64, acceleration=4)[0].sum().item()
    16.0
    """
    count, centre = round(width / acceleration), max(1, round(width * centre_fraction))
    if not centre <= count <= width:
        raise ValueError(f"acceleration {acceleration} leaves {count} of {width} columns, and the centre alone has "
                         f"{centre}")
    first = width // 2 - centre // 2
    column = np.arange(width)
    middle = jnp.asarray((column >= first) & (column < first + centre))

    def one(key):
        order = jnp.argsort(jnp.where(middle, -1.0, jax.random.uniform(key, (width,))))
        taken = jnp.zeros(width).at[order[:count]].set(1.0)
        return jnp.broadcast_to(taken, (height, width))

    return jax.vmap(one)(keys) if keys.ndim else one(keys)


def coil_sensitivities(height: int, width: int, num_coils: int) -> Array:
    """Synthetic coils around the picture: each sees a broad Gaussian about its place on a circle, with a phase that
    varies slowly; ``sum_j |S_j|^2 = 1`` at every pixel.

    Returns:
        complex64 ``[height, width, num_coils]``.

    >>> coil_sensitivities(8, 8, 4).shape
    (8, 8, 4)
    """
    angle = 2.0 * np.pi * np.arange(num_coils) / num_coils
    row = (np.arange(height)[:, None, None] + 0.5) / height * 2.0 - 1.0
    column = (np.arange(width)[None, :, None] + 0.5) / width * 2.0 - 1.0
    distance = (row - np.sin(angle))**2 + (column - np.cos(angle))**2
    phase = 0.5 * np.pi * (row * np.cos(angle) + column * np.sin(angle))
    coils = np.exp(-0.5 * distance + 1j * phase)
    return jnp.asarray(coils / np.sqrt(np.sum(np.abs(coils)**2, axis=2, keepdims=True)), jnp.complex64)
