"""How to restore: what a user may choose, and the numbers that it means."""
import math
from typing import NamedTuple

from indigo_jax import restoration
from indigo_jax.restoration import LatentRegularizer, latent_regularizers

REGULARIZERS = {  # R0 ... R4
    "none": LatentRegularizer(), "penalty": LatentRegularizer(penalty=1.0),
    "reencode": LatentRegularizer(reencode=0.25), "resample": LatentRegularizer(resample=1),
    "trust-region": LatentRegularizer(radius=1.0)}
_DEFAULT = {"pixel": latent_regularizers.PIXEL, "latent": latent_regularizers.LATENT}
_REFINE = {"syn": 0.0, "real": 5e-5}  # learning rates
_LATENT_GUIDANCE = {"syn": 1.0, "real": 0.3}
START = {None: 0.199, "pixel": 0.5, "latent": 0.5}  # least alpha_bar visited, by variant: INDIGO+'s t = 396; our choice
_NOISE = 1e-3  # the same of a chain from pure noise


class Settings(NamedTuple):
    """How to restore; each None is a choice of the preset or of the method.

    Attributes:
        steps: of the sampler.
        preset: "syn" for synthetic degradations or "real", of :func:`restoration.indigo_preset`. Its zeta for latents
            is our choice; the paper's is not known to us.
        guidance: zeta for a measurement of 128 x 128 pixels. It grows with the square root of their number, so that
            each pixel is pulled alike at any size. 0: the prior alone.
        refine: learning rate of the invertible network's refinement on each picture; 0: none.
        gradient: "full" or "truncated"; see :func:`restoration.indigo`.
        guide_every: guide in one of so many steps; latents only.
        regularizer: a name of :data:`REGULARIZERS`, or a :class:`LatentRegularizer`; latents only.
        eta: of DDIM.
        conditional: use F(y); the null embedding otherwise.
        start: alpha_bar of the noisiest level visited, where noise is mixed with the first estimate: the nearer to 1,
            the less the prior may change. INDIGO: 0.199, the t = 396 of INDIGO+; LatentINDIGO, whose start is not known
            to us: 0.5, which gave 1.3 dB more than 0.199 with ``latent-faces`` on three portraits.
        from_noise: start from pure noise, not from a first estimate. The steps then span all levels.
        fix_color: give the result the low frequencies of the first estimate: :func:`restoration.fix_color`.
        tile: side in pixels of what the prior sees in one piece; default: the side that it has learned.
    """

    steps: int = 100
    preset: str = "syn"
    guidance: float | None = None
    refine: float | None = None
    gradient: str = "full"
    guide_every: int = 1
    regularizer: str | LatentRegularizer | None = None
    eta: float = 0.5
    conditional: bool = True
    start: float | None = None
    from_noise: bool = False
    fix_color: bool = True
    tile: int | None = None


class Chain(NamedTuple):
    """What of the settings is part of a program: nothing is left open. ``tile`` is not, nor the size of zeta."""

    steps: int
    weights: tuple[float, float]
    guided: bool
    refine: float
    gradient: str
    guide_every: int
    regularizer: LatentRegularizer | None
    eta: float
    conditional: bool
    start: float
    from_noise: bool
    fix_color: bool


def resolve(settings: Settings, variant: str | None) -> tuple[Chain, float]:
    """The chain of the settings, and zeta.

    Args:
        variant: "pixel" or "latent" of LatentINDIGO; None for INDIGO.

    Errors:
        ValueError for an unknown name, numbers out of range, or what is for latents without latents.
    """
    preset = restoration.indigo_preset(settings.preset)
    default = preset["scale"] if variant is None else _LATENT_GUIDANCE[settings.preset]
    guidance = float(default if settings.guidance is None else settings.guidance)
    refine = float(_REFINE[settings.preset] if settings.refine is None else settings.refine)
    for name, value in (("guidance", guidance), ("refine", refine)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number from 0, got {value}")
    if settings.steps < 1 or settings.guide_every < 1:
        raise ValueError(f"steps and guide_every must be at least 1, got {settings.steps} and {settings.guide_every}")
    if settings.from_noise and settings.start is not None:
        raise ValueError("from_noise visits all levels; leave start out")
    start = float(START[variant] if settings.start is None else settings.start)
    if not _NOISE <= start < 1:
        raise ValueError(f"start is an alpha_bar, a number from {_NOISE} and below 1; got {start}")
    regularizer = settings.regularizer
    if variant is None and (regularizer is not None or settings.guide_every > 1):
        raise ValueError("regularizer and guide_every are for latents; leave them out")
    if isinstance(regularizer, str):
        if regularizer not in REGULARIZERS:
            raise ValueError(f"regularizer must be one of {', '.join(REGULARIZERS)}; got {regularizer!r}")
        regularizer = REGULARIZERS[regularizer]
    if variant is not None and regularizer is None:
        regularizer = _DEFAULT[variant]
    return Chain(settings.steps, preset["weights"], guidance > 0, refine, settings.gradient, settings.guide_every,
                 regularizer, float(settings.eta), settings.conditional,
                 _NOISE if settings.from_noise else start, settings.from_noise, settings.fix_color), guidance


def evaluations(chain: Chain) -> int:
    """How often a chain calls the prior."""
    rule = chain.regularizer
    return chain.steps + (chain.steps // rule.every * rule.resample if rule is not None and chain.guided else 0)
