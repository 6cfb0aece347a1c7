"""LatentINDIGO: INDIGO for latent diffusion, with an invertible network of pixels or of latents.

Source: You, Siromani and Dragotti, LatentINDIGO (arXiv 2505.12935), of which the abstract, and the alternation of
INDIGO+'s released program. The paper's losses, regularisation and numbers are not known to us: what stands here is a
reconstruction, and the defaults are our choice.
"""
from indigo_jax.restoration.indigo import View, indigo
from indigo_jax.restoration.latent_regularizers import DEFAULT, LatentRegularizer, regularised
from indigo_jax.schedules import NoiseSchedule
from indigo_jax.typing import Autoencoder, Denoiser, Image, InvertibleNetwork, Kernel

VARIANTS = ("pixel", "latent")


def latent_indigo(denoiser: Denoiser, schedule: NoiseSchedule, inn: InvertibleNetwork, y: Image,
                  autoencoder: Autoencoder, variant: str = "pixel", *, scale=1.0, eta: float = 0.5,
                  regularizer: LatentRegularizer | None = None, **options) -> Kernel:
    """LatentINDIGO as a kernel: :func:`indigo` in latents, regularised after each step.

        "pixel": ``u = D(z0) / 2 + 1/2``, ``m = y / 2 + 1/2``;  "latent": ``u = z0``, ``m = E(y)``
        ``(c, d) = g(u);  v = g^-1(m, d)``
        ``z_s = regularise(ddim(z_t) - scale d/dz_t (w_1 |m - c| + w_2 distance(v, u)))``

    "latent" encodes the measurement once, before the chain, and decodes nothing unless the regulariser is told to.

    Args:
        denoiser: of latents, differentiable where the gradient is full: ``denoisers.from_eps(fn, schedule)``. A
            prompt: ``guidance.classifier_free(unconditional, 5.0)(conditional)``. Large latents:
            ``denoisers.from_eps(blended_tiles(fn), schedule)``.
        schedule: the levels to visit, as for :func:`indigo`.
        inn: the invertible network, of pictures in [0, 1] or of latents; with "pixel" also a known operator.
        y: measurements ``[B, h, w, 3]`` in ``[-1, 1]``, of the size of the network's coarse pictures; for "latent" of
            a size that the autoencoder takes, E(y) having that of its coarse latents.
        autoencoder: E and D in the units of the diffusion; :func:`tiled_autoencoder` for large pictures.
        variant: "pixel" or "latent".
        scale: zeta, a number or one per image; the number 0 is DDIM, neither guided nor regularised.
        eta: of DDIM.
        regularizer: see :class:`LatentRegularizer`; ``latent_regularizers.DEFAULT``, a trust region, where None.
        options: as for :func:`indigo`, but nothing is clipped unless asked for; with "latent" a ``distance`` is between
            latents as they are, not between pictures.

    Returns:
        ``Kernel(init, step, num_steps)`` on latents: ``x_init`` is z_t at the noisiest level, pure noise or
        ``indigo_start(schedule, autoencoder.encode(estimate), keys)``; the result is for ``autoencoder.decode``.
        State and info are those of :func:`indigo`.

    Errors:
        ValueError for an unknown variant, a regulariser's numbers out of range, and as for :func:`indigo`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    if variant == "pixel":
        view = View(see=lambda z0: autoencoder.decode(z0) / 2 + 0.5)
    else:
        view = View(see=lambda z0: z0, measure=autoencoder.encode, show=lambda z0: z0)

    def other(network, params, z0, u):
        """Latents to compare the estimate with."""
        if regularizer.through_network:
            u = network.swapped(params, u)
        elif variant == "latent":
            return autoencoder.encode(autoencoder.decode(z0))
        return autoencoder.encode(2 * u - 1) if variant == "pixel" else u

    regularizer = DEFAULT if regularizer is None else regularizer
    view = regularised(view, regularizer, other, denoiser, schedule, eta)
    return indigo(denoiser, schedule, inn, y, scale=scale, eta=eta, view=view, **{"clip": None, **options})
