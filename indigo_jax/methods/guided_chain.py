"""The settings of ``--method indigo`` and ``latent-indigo``, and what they mean: a chain that leaves nothing open."""
import dataclasses
from typing import NamedTuple

from indigo_jax import restoration, schedules
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.restoration import LatentRegularizer, latent_regularizers

REGULARIZERS = {  # R0 ... R4
    "none": LatentRegularizer(), "penalty": LatentRegularizer(penalty=1.0),
    "reencode": LatentRegularizer(reencode=0.25), "resample": LatentRegularizer(resample=1),
    "trust-region": LatentRegularizer(radius=1.0)}
# of the distances |v - u| and LPIPS: the norm of the gradient in u, faces of 64 px and inn-pixel, see resolve
DISTANCES = {"norm": 1.4, "lpips": 0.08}
_LATENT_GUIDANCE = {"syn": 1.0, "real": 0.3}
_START = {None: 0.199, "pixel": 0.5, "latent": 0.5}  # least alpha_bar, by variant: INDIGO+'s t = 396; our choice
_NOISE = 1e-3  # the same of a chain from pure noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(base.Restoration.Settings):
    """Of both methods; each None is a choice of the preset or of the method."""

    prior: str = flag("faces64", "the diffusion prior", metavar="NAME|PATH", file="weights")
    inn: str = flag("inn-pixel", "the invertible network that knows the damage", metavar="NAME|PATH", file="weights")
    estimate: str | None = flag(None, "weights of a network for --method indi that makes the first estimate (default: "
                                      "bicubic)", metavar="NAME|PATH", file="weights")
    steps: int = flag(100, "of the sampler", low=1, high=10_000)
    preset: str = flag("syn", "guidance for synthetic damage, or gentler for real pictures",
                       choices=("syn", "real"))
    guidance: float | None = flag(None, "how strongly the picture pulls, zeta for one of 128 x 128 pixels; 0 leaves "
                                        "all to the prior (default: by --preset: 3.5 or 1; for latents 1 or 0.3)",
                                  low=0, high=1e6, metavar="N")
    refine: float = flag(0.0, "learning rate with which the invertible network adapts to each picture, 0 for not at "
                              "all; INDIGO+ has 5e-5 for real pictures, which loses with the bundled networks", low=0,
                         high=1, metavar="RATE")
    gradient: str = flag("full", "through the prior, or cheaper, past it", choices=("full", "truncated"))
    distance: str = flag("norm", "how what the picture would be with this measurement is compared with the estimate: "
                                 "by their difference, or as people see it", choices=tuple(DISTANCES))
    lpips: str | None = flag(None, "weights of --distance lpips, an .npz file (default: the environment variable "
                                   "INDIGO_LPIPS)", metavar="FILE")
    eta: float = flag(0.5, "share of new noise in each step, of DDIM", low=0, high=1)
    start: float | None = flag(None, "alpha_bar of the first level, where noise is mixed with the first estimate: the "
                                     "nearer to 1, the less the prior may change (default: 0.199, for latents 0.5)",
                               low=_NOISE, high=0.9999, metavar="ALPHA_BAR")
    tile: int | None = flag(None, "side of the pieces that the prior sees (default: the side that it has learned)",
                            low=1, high=16384, metavar="PIXELS")
    from_noise: bool = flag(False, "start from pure noise, not from a first estimate")
    unconditional: bool = flag(False, "do not tell the invertible network how this picture is damaged")
    no_color_fix: bool = flag(False, "leave the colours as they come; else the low frequencies are those of the first "
                                     "estimate")
    precision: str = flag("float32", "in which the prior and the autoencoder compute and their weights are held; "
                                     "bfloat16 halves them", choices=("float32", "bfloat16"))
    same_size: bool = flag(False, "the picture has its wanted size already; so with --task denoise, deblur and jpeg")


class Chain(NamedTuple):
    """What the settings mean: nothing is left open. ``guidance`` is zeta for a measurement of 128 x 128."""

    steps: int
    weights: tuple[float, float]
    guidance: float
    refine: float
    gradient: str
    guide_every: int
    regularizer: LatentRegularizer | None
    eta: float
    conditional: bool
    start: float
    from_noise: bool
    fix_color: bool

    @property
    def evaluations(self) -> int:
        """How often the prior is called."""
        rule = self.regularizer
        extra = self.steps // rule.every * rule.resample if rule is not None and self.guidance > 0 else 0
        return self.steps + extra


def resolve(settings: Settings, variant: str | None) -> Chain:
    """The chain of the settings.

    The second of the released weights belongs to LPIPS: in pixels another distance has as much less of it as its
    gradient is larger, both as measured. Between latents the weights are ours.

    Args:
        settings: of :class:`Indigo` or :class:`LatentIndigo`.
        variant: "pixel" or "latent" of LatentINDIGO; None for INDIGO.

    Errors:
        ValueError for what contradicts.
    """
    preset = restoration.indigo_preset(settings.preset)
    fidelity, weight = preset["weights"]
    if variant != "latent":
        weight *= DISTANCES["lpips"] / DISTANCES[settings.distance]
    default = preset["scale"] if variant is None else _LATENT_GUIDANCE[settings.preset]
    guidance = float(default if settings.guidance is None else settings.guidance)
    if settings.from_noise and settings.start is not None:
        raise ValueError("from_noise visits all levels; leave start out")
    start = float(_START[variant] if settings.start is None else settings.start)
    regularizer = getattr(settings, "regularizer", None)
    if isinstance(regularizer, str):
        regularizer = REGULARIZERS[regularizer]
    if variant is not None and regularizer is None:
        regularizer = latent_regularizers.DEFAULT
    return Chain(settings.steps, (fidelity, weight), guidance, float(settings.refine), settings.gradient,
                 getattr(settings, "guide_every", 1), regularizer, float(settings.eta), not settings.unconditional,
                 _NOISE if settings.from_noise else start, settings.from_noise, not settings.no_color_fix)


def visited(schedule: schedules.NoiseSchedule, steps: int, start: float) -> schedules.NoiseSchedule:
    """The levels that a chain visits: evenly spaced, none with less than ``start`` of alpha_bar.

    Errors:
        ValueError for more steps than levels.

    >>> visited(schedules.linear(), 100, 0.199).timesteps[::-1][:3].tolist()
    [396.0, 392.0, 388.0]
    """
    levels = schedules.truncate(schedule, start)
    available = levels.timesteps.shape[0]
    if steps > available:
        raise ValueError(f"steps {steps}: the prior has {available} levels of noise to visit; use at most so many")
    return schedules.respace(levels, steps, "linspace" if steps > 1 else "trailing")
