"""``--method indigo`` and ``--method latent-indigo``: a diffusion prior that an invertible network guides.

Only the prior and the autoencoder see tiles; estimate, energy and invertible network belong to the whole.
"""
import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from indigo_jax import denoisers, images, metrics, operators, restoration, rng, samplers, schedules, tiles, weights
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.indi import Indi
from indigo_jax.restoration import LatentRegularizer, latent_regularizers
from indigo_jax.typing import Autoencoder
from indigo_jax.weights import WeightsError, latents

REGULARIZERS = {  # R0 ... R4
    "none": LatentRegularizer(), "penalty": LatentRegularizer(penalty=1.0),
    "reencode": LatentRegularizer(reencode=0.25), "resample": LatentRegularizer(resample=1),
    "trust-region": LatentRegularizer(radius=1.0)}
# of the distances |v - u| and LPIPS: the norm of the gradient in u, faces of 64 px and inn-pixel, see resolve
DISTANCES = {"norm": 1.4, "lpips": 0.08}
_LATENT_GUIDANCE = {"syn": 1.0, "real": 0.3}
_START = {None: 0.199, "pixel": 0.5, "latent": 0.5}  # least alpha_bar, by variant: INDIGO+'s t = 396; our choice
_NOISE = 1e-3  # the same of a chain from pure noise
_PIECE = 512  # pixels of a measurement that F sees in one piece, along a side
_LARGE = 512 * 512  # pixels above which the invertible network's gradient recomputes what it needs
_REFERENCE = 128 * 128  # pixels of the measurement for which zeta is meant
_LATENT_TILE = 64  # latents that the autoencoder takes in one piece, along a side
_SMALLEST = 8  # side below which an invertible network splits no further


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
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


class Indigo(base.Restoration):
    """INDIGO and INDIGO+ (You and Dragotti) in pixels; see :func:`restoration.indigo`.

    Attributes:
        chain: what the settings mean.
        variant: what the invertible network sees, "pixel" or "latent"; None without an autoencoder.
        factor: pixels per element of what the prior sees, along a side: 1, or those of a latent.
        distance: as of :func:`restoration.indigo`, in place of that of the settings; may be set before the first
            picture.
    """

    name = "indigo"
    summary = "a diffusion prior and an invertible network that has learned the damage (a demonstration)"
    when = "the damage can be learned but not written down, and the prior knows such pictures: portraits"
    needs, cost = "nothing", "--steps, 100, with gradients"
    tasks = ("auto", "sr", "denoise", "deblur", "jpeg")
    Settings = Settings
    kind_of_prior = "prior"
    demonstration = True
    distance: Callable | None = None
    effort = 4.0

    def load(self):
        self.space, self.variant, self.factor = None, None, 1
        self.networks = {"prior": base.open_network(self.settings.prior, self.kind_of_prior),
                         "inn": base.open_network(self.settings.inn, "inn")}
        self._check_networks(("pixel",))
        if base.side_of(self.networks["prior"]) is not None and self._channels() != 3:
            raise WeightsError(f"{self.settings.prior}: for pictures of {self._channels()} channels, not 3")
        self._finish()

    def _finish(self):
        settings, asked = self.settings, self.scale
        inn = self.networks["inn"]
        self.inn_scale = inn.info["scale"]
        self.same_size = settings.same_size or self.task in ("denoise", "deblur", "jpeg")
        if self.task == "sr" and settings.same_size:
            raise ValueError("task sr enlarges; leave same_size out, or use the task auto")
        if self.task == "sr" and self.inn_scale == 1:
            raise ValueError(f"task sr: {inn.name} keeps the size; give another inn, or leave the task out")
        if self.task == "sr" and self.scale_is_given and asked != self.inn_scale:
            raise ValueError(f"scale {asked}: {inn.name} was made for {self.inn_scale}; use {self.inn_scale}, or "
                             "another inn")
        self.scale = 1 if self.same_size else self.inn_scale
        prior = self.networks["prior"]
        learned = base.side_of(prior) or 64 * self.factor
        self.learned = max(learned // self.factor, 1) * self.factor
        if settings.tile is not None:
            self._check_tile(settings.tile)
        if settings.precision == "bfloat16":
            halved = {role: _in_bfloat16(network) for role, network in self.networks.items() if role != "inn"}
            self.networks = {**self.networks, **halved}
        self.chain = resolve(settings, self.variant)
        visited(schedules.from_json(prior.info["schedule"]), self.chain.steps, self.chain.start)
        if settings.distance == "lpips":
            self.networks["lpips"] = _lpips(settings.lpips, self.variant)
        elif settings.lpips is not None:
            raise ValueError("lpips is for the distance lpips; give distance lpips, or leave it out")
        self.estimator = None
        if settings.estimate is not None:
            if settings.from_noise:
                raise ValueError("from_noise starts without a first estimate; leave estimate out")
            self.estimator = Indi(Indi.Settings(weights=settings.estimate), scale=self.scale, devices=self.devices,
                                  task="auto" if self.scale == 1 else "sr")

    def _check_networks(self, variants):
        """Refuse networks that do not belong together."""
        (prior, _, _), (inn, _, info) = self.networks["prior"], self.networks["inn"]
        scale = 1 if inn.undecimated else 2**inn.levels
        if info["scale"] != scale:
            raise WeightsError(f"{self.settings.inn}: its info says scale {info['scale']}, its network has {scale}")
        if getattr(prior, "context_dim", 0):
            raise WeightsError(f"{self.settings.prior}: a prior that needs a text, which no method here gives it")
        found = "latent" if "autoencoder" in info else "pixel"
        if found not in variants:
            raise WeightsError(f"{self.settings.inn}: an invertible network of {found}s, where one of {variants[0]}s "
                               "is needed; give another")
        if found == "pixel" and inn.channels != 3:
            raise WeightsError(f"{self.settings.inn}: {inn.channels} channels and no autoencoder of their latents in "
                               "its info; pictures have 3")
        return found

    def _channels(self):
        module, _, info = self.networks["prior"]
        return getattr(module, "out_channels", 3) // (2 if info.get("learned_variance") else 1)

    # ------------------------------------------------------------------------------- layout

    def plan(self, height, width):
        """Neighbouring tiles of the prior share a quarter of their side, in latents half of it."""
        tile, overlap = self._tile()
        inn = self.networks["inn"].module
        in_pixels = self.factor if self.variant == "pixel" else 1  # elements of the inn per one of the prior
        least = -(-_SMALLEST * (2 ** (inn.levels - 1) if self.inn_scale > 1 else 1) // in_pixels)
        return tiles.plan(height, width, tile=tile, overlap=overlap, learned=self.learned // self.factor, least=least,
                          multiple=self.inn_scale // math.gcd(self.inn_scale, in_pixels), factor=self.factor)

    def _tile(self):
        """Side and overlap of a tile in elements of the prior."""
        tile = (self.settings.tile or self.learned) // self.factor
        return tile, tile // (4 if self.variant is None else 2)

    def _check_tile(self, tile):
        if tile % self.factor:
            unit = f"the {self.factor} pixels of a latent" if self.factor > 1 else "1"
            raise ValueError(f"tile {tile} is not a positive multiple of {unit}; use {self.learned}")
        prior = self.networks["prior"]
        piece = self._piece((tile, tile))
        try:
            jax.eval_shape(prior.module.apply, prior.params, jax.ShapeDtypeStruct(piece, jnp.float32),
                           jax.ShapeDtypeStruct((1,), jnp.float32))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"tile {tile}: the prior does not take pieces of this side ({error}); use {self.learned}"
                             ) from error

    def piece(self, plan):
        return self._piece(plan.tile)

    def _piece(self, tile):
        return (1, *(side // self.factor for side in tile), 3 if self.space is None else self.space.channels)

    # ------------------------------------------------------------------------------- one picture

    def given(self, pixels, fill):
        if self.estimator is None:
            return {}
        return {"estimate": fill(self.estimator(images.Picture(pixels))[0].pixels, times=1)}

    def solve(self, params, y, keys, *, plan, given):
        kernel, x, estimate = self.begun(params, y, keys, plan=plan, given=given)
        x, info = samplers.sample(kernel, keys, x)
        drift, space = None, self.autoencoder(params)
        if space is not None:
            z, x = x, space.decode(x)
            drift = restoration.manifold_drift(z, space._replace(decode=lambda _: x))
        x = restoration.fix_color(x, estimate) if self.chain.fix_color else jnp.clip(x, -1, 1)
        return base.Solved(x, info.steps.residual[-1], drift=drift)

    def begun(self, params, y, keys, *, plan, given):
        """Of :meth:`solve`, what comes before the first step: the kernel, where it starts, the first estimate."""
        chain, inn, factor = self.chain, self.networks["inn"].module, self.inn_scale
        pictures, estimate = y, given.get("estimate")
        y = jnp.clip(operators.downsample(factor)(pictures), -1, 1) if self.same_size and factor > 1 else pictures
        if estimate is None:
            keeps = self.same_size or factor == 1
            estimate = pictures if keeps else jnp.clip(operators.upsample(factor)(pictures), -1, 1)
        cond = _embedding(inn, params[1], y / 2 + 0.5) if chain.conditional else None
        large = {"reversible": True} if plan.canvas[0] * plan.canvas[1] > _LARGE else {}
        network = _invertible(self._fast(inn, **large), params[1])
        denoiser, levels = self._prior(params[0], plan)
        zeta = np.float32(chain.guidance * math.sqrt(math.prod(plan.canvas) / factor**2 / _REFERENCE))
        options = dict(cond=cond, scale=zeta if chain.guidance > 0 else 0.0, weights=chain.weights, eta=chain.eta,
                       distance=self._distance(params), gradient=chain.gradient,
                       refine=optax.adam(chain.refine) if chain.refine else None)
        start, kernel = self._kernel(denoiser, levels, network, y, estimate, params, options)
        if chain.from_noise:
            return kernel, rng.normal(rng.init_keys(keys), start), estimate
        return kernel, restoration.indigo_start(levels, start, keys), estimate

    def _distance(self, params):
        if self.distance is not None or "lpips" not in self.networks:
            return self.distance
        return functools.partial(metrics.lpips, params=params[-1])

    def autoencoder(self, params) -> Autoencoder | None:
        """Of the latents that the prior knows; None where it knows pixels."""
        del params

    def _kernel(self, denoiser, levels, network, y, estimate, params, options):
        return estimate, restoration.indigo(denoiser, levels, network, y, **options)

    @property
    def platform(self) -> str:
        """Of the devices that it is compiled for."""
        return self.devices[0].platform

    def _fast(self, module, **changes):
        """The network with the convolution whose gradient is fast in loops on a CPU: the same numbers, but for
        rounding."""
        if self.platform == "cpu" and hasattr(module, "convolution"):
            changes["convolution"] = "flipped"
        return module.clone(**changes) if changes else module

    def _prior(self, params, plan):
        """Denoiser and the levels that the chain visits."""
        module, _, info = self.networks["prior"]
        network = tiles.by_plan(functools.partial(self._fast(module).apply, params), plan, factor=self.factor)
        prior = denoisers.of(network, info)
        with jax.ensure_compile_time_eval():  # numbers, not part of the program
            return prior.denoiser, visited(prior.schedule, self.chain.steps, self.chain.start)

    # ------------------------------------------------------------------------------- what is said

    def evaluations(self, solved):
        return self.chain.evaluations

    def facts(self, reports):
        one = reports[0]
        drift = {} if one.drift is None else {"drift": [round(report.drift, 5) for report in reports]}
        others = {role: network for role, network in self.networks.items() if role != "prior"}
        return {"steps": self.chain.steps, "guidance": self.chain.guidance, "refine": self.chain.refine,
                "network_evaluations": sum(report.evaluations for report in reports),
                "residual": [round(report.residual, 6) for report in reports],
                "residual_of": "latents" if self.variant == "latent" else "pixels from 0 to 1", **drift,
                "tiles": one.plan.count, "canvas": list(one.plan.canvas[::-1]),
                **({"variant": self.variant} if self.variant else {}),
                **{role: {"name": network.info.get("name"), "sha256": network.info["sha256"]}
                   for role, network in others.items()}}

    def line(self, reports):
        plan, residual = reports[0].plan, max(report.residual for report in reports)
        pieces = f" in {plan.count} tiles of {plan.tile[0]} x {plan.tile[1]}" if plan.count > 1 else ""
        said = f"{residual:.3f} (latents)" if self.variant == "latent" else f"{residual * 255:.1f} of 255"
        return f"{sum(report.evaluations for report in reports)} network evaluations{pieces}, residual {said}"


class LatentIndigo(Indigo):
    """LatentINDIGO (You, Siromani and Dragotti); see :func:`restoration.latent_indigo`."""

    name = "latent-indigo"
    summary = "indigo with a prior of the latents of an autoencoder (a demonstration)"
    when = "as indigo, of larger portraits"
    kind_of_prior = "latent prior"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(Settings):
        prior: str = flag("latent-faces", "the diffusion prior", metavar="NAME|PATH", file="weights")
        inn: str | None = flag(None, "the invertible network that knows the damage (default: inn-latent, or inn-pixel)",
                               metavar="NAME|PATH", file="weights")
        autoencoder: str | None = flag(None, "the autoencoder of the prior's latents (default: the one that --prior "
                                             "names)", metavar="NAME|PATH", file="weights")
        variant: str | None = flag(None, "what the invertible network sees; latent is faster (default: as --inn, or "
                                         "latent)", choices=("pixel", "latent"))
        guide_every: int = flag(1, "guide in one of so many steps", low=1, high=10_000, metavar="N")
        regularizer: Any = flag(None, "what keeps latents natural (default: trust-region)", choices=tuple(REGULARIZERS))

    @classmethod
    def named_weights(cls, settings, task):
        inn = settings.inn or ("inn-pixel" if settings.variant == "pixel" else "inn-latent")
        autoencoder = _autoencoder_of(settings)
        return {**super().named_weights(settings, task), "inn": inn,
                **({} if autoencoder is None else {"autoencoder": autoencoder})}

    def load(self):
        self.settings = settings = dataclasses.replace(
            self.settings, inn=self.named_weights(self.settings, self.task)["inn"])
        self.networks = self.opened()
        prior, inn = self.networks["prior"], settings.inn
        name = settings.autoencoder or self.networks["autoencoder"].name
        self.variant = self._check_networks((settings.variant,) if settings.variant else ("pixel", "latent"))
        self.space = space = latents.from_module(*self.networks["autoencoder"])
        self.factor = space.factor
        network = self.networks["inn"]
        for path, info, channels in ((settings.prior, prior.info, self._channels()),
                                     (inn, network.info, network.module.channels)):
            try:
                latents.check_same(space, info)
            except ValueError as error:
                raise WeightsError(str(error)) from error
            if (path is settings.prior or "autoencoder" in info) and channels != space.channels:
                raise WeightsError(f"{path}: for latents of {channels} channels; those of {name} have {space.channels}")
        self._finish()

    def opened(self) -> dict[str, base.Network]:
        """Its networks by role, from their files."""
        settings = self.settings
        prior = base.open_network(settings.prior, self.kind_of_prior)
        name = _autoencoder_of(settings)
        if name is None:
            raise WeightsError(f"{settings.prior}: does not say of which autoencoder its latents are; give the "
                               "autoencoder")
        return {"prior": prior, "inn": base.open_network(settings.inn, "inn"),
                "autoencoder": base.open_network(name, "autoencoder")}

    def autoencoder(self, params):
        space = latents.from_module(self._fast(self.networks["autoencoder"].module), params[2], {})
        side = _LATENT_TILE if self.settings.tile is None else self.settings.tile // self.factor
        return tiles.tiled_autoencoder(space.autoencoder, factor=space.factor, tile=side, overlap=side // 4)

    def _kernel(self, denoiser, levels, network, y, estimate, params, options):
        space = self.autoencoder(params)
        kernel = restoration.latent_indigo(denoiser, levels, network, y, space, self.variant, **options,
                                           guide_every=self.chain.guide_every, regularizer=self.chain.regularizer)
        return space.encode(estimate), kernel


def _autoencoder_of(settings):
    """That of the settings, or the one that the prior names: beside its file, or among the weights; None."""
    name = settings.autoencoder or ((weights.info_of(settings.prior) or {}).get("autoencoder") or {}).get("name")
    if settings.autoencoder or not name or pathlib.Path(name).name != name:
        return name
    beside = pathlib.Path(settings.prior).with_name(f"{name}.safetensors")
    return str(beside) if pathlib.Path(settings.prior).is_file() and beside.is_file() else name


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


def _lpips(path, variant):
    """LPIPS as one of a method's networks, the last."""
    if variant == "latent":
        raise ValueError("distance lpips compares pictures, and here latents are compared; give variant pixel, or "
                         "distance norm")
    try:
        params = metrics.load_lpips(path)
    except FileNotFoundError as error:
        raise ValueError("distance lpips needs its weights, which are not bundled: give lpips, an .npz file, or set "
                         f"INDIGO_LPIPS ({error})") from error
    state = hashlib.sha256(b"".join(np.asarray(params[name]).tobytes() for name in sorted(params)))
    return base.Network(None, params, {"name": "lpips-alex-v0.1", "sha256": state.hexdigest()})


def _in_bfloat16(network):
    """A network that computes in bfloat16, and holds so what it would round at every use: the same numbers."""
    if not hasattr(network.module, "dtype"):
        raise WeightsError(f"precision bfloat16: {network.name}, a {type(network.module).__name__}, has one precision "
                           "of its own; use float32")

    def half(leaf):
        if leaf.ndim < 2:  # norms and biases, which are added in float32
            return leaf
        shape = isinstance(leaf, jax.ShapeDtypeStruct)  # all that a plan has
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) if shape else leaf.astype(jnp.bfloat16)

    return network._replace(module=network.module.clone(dtype=jnp.bfloat16),
                            params=jax.tree.map(half, network.params))


def _invertible(module, params):
    """The invertible network; its encoder is left out, so that refinement copies only what it changes."""
    def forward(params, x, cond):
        return module.apply(params, x, cond, method="forward")

    def inverse(params, coarse, details, cond):
        return module.apply(params, coarse, details, cond, method="inverse")

    return restoration.InvertibleNetwork(forward, inverse, {"params": {"inn": params["params"]["inn"]}})


def _embedding(module, params, y):
    """F(y) of the whole measurement in [0, 1]; of a large one the mean over pieces that cover it."""
    counts = [-(-side // _PIECE) for side in y.shape[1:3]]
    if counts == [1, 1]:
        return module.apply(params, y, method="embed")
    size = [-(-side // count) for side, count in zip(y.shape[1:3], counts)]
    starts = [np.linspace(0, side - part, count).astype(np.int32)
              for side, part, count in zip(y.shape[1:3], size, counts)]
    places = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)

    def piece(place):
        zero = jnp.zeros_like(place[0])
        cut = jax.lax.dynamic_slice(y, (zero, place[0], place[1], zero), (y.shape[0], *size, 3))
        return module.apply(params, cut, method="embed")

    return jax.lax.map(piece, jnp.asarray(places)).mean(axis=0)
