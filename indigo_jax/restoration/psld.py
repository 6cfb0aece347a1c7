"""PSLD: DPS in latents, which are also held where an autoencoder would put a picture that explains the measurement."""
import jax.numpy as jnp

from indigo_jax import guidance, operators, samplers
from indigo_jax.arrays import misfit, norm, per_image
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Array, Autoencoder, Denoiser, Kernel, Operator


def psld(denoiser: Denoiser, schedule: NoiseSchedule, operator: Operator, y: Array, autoencoder: Autoencoder, *,
         scale=1.0, gluing=0.1, eta: float = 1.0, num_iterations: int = 10,
         sampler: samplers.Sampler | None = None) -> Kernel:
    """Posterior sampling with latent diffusion (Rout et al. 2023, Algorithm 2) as a kernel on latents.

    DDIM with, after each step, E and D the autoencoder, z0 the denoised latent,

        ``z_s -= scale d/dz_t |y - A D(z0)| + gluing d/dz_t |z0 - E(x)|``,  ``x = D(z0) + A^+ (y - A D(z0))``

    Args:
        denoiser: of latents, differentiable.
        schedule: the levels to visit.
        operator: linear and known, of pictures.
        y: measurements ``[B, ...]``.
        autoencoder: differentiable, in the units of the diffusion.
        scale: the paper's eta, omega of the released program, there 1, and 0.1 for holes; a number or one per image.
        gluing: gamma, there 0.1, and 0.01 for a large hole; a number or one per image.
        eta: of DDIM, where no other sampler is given; 1 as in the paper. The released program has 0, and 1000 steps.
        num_iterations: of the conjugate gradients that stand for ``A^+``: exact after two for masks and average
            pooling; for blurs, few of them regularise.
        sampler: as for :func:`dps`; default: DDIM of eta.

    Returns:
        ``Kernel(init, step, num_steps)`` on latents: ``x_init`` is standard normal noise, the result is for
        ``autoencoder.decode``; state and info are the sampler's.

    Both terms are norms, as in the authors' released program, whose weights are the defaults. Algorithm 2 is cited with
    squares, and step lengths eta_i and gamma_i that may change: with ``scale / (2 |y - A D(z0)|)`` and
    ``gluing / (2 |z0 - E(x)|)`` both are the same, with constant ones they are not.

    Differs from the reference in: norms of each image, not of the batch; ``A^+`` where the paper, whose operators are
    masks, has ``A^T`` (the program has nothing for blurs, and repeats pixels for sr; for masks all are the same); no
    noise is added to ``A D(z0)``, as the program does; DDIM of eta 1 for the ancestral step.

    Source: Rout, Raoof, Daras, Caramanis, Dimakis & Shakkottai, Solving Linear Inverse Problems Provably via Posterior
    Sampling with Latent Diffusion Models, NeurIPS 2023 (arXiv 2307.00619).
    """
    def energy(z0):
        x = autoencoder.decode(z0)
        glued = operators.proximal(operator, y, x, 0.0, num_iterations=num_iterations)
        of_y, of_z = norm(misfit(operator(x), y)), norm(z0 - autoencoder.encode(glued))
        return jnp.ravel(per_image(scale, of_y)) * of_y + jnp.ravel(per_image(gluing, of_z)) * of_z

    guided = guidance.energy(energy, 1.0)(denoiser)
    return samplers.ddim(guided, schedule, eta) if sampler is None else sampler(guided, schedule)
