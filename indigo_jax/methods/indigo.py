"""``--method indigo``: a diffusion prior that an invertible network guides.

Only the prior and the autoencoder see tiles; estimate, energy and invertible network belong to the whole.
"""
import functools
import hashlib
import math
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, images, metrics, operators, restoration, rng, samplers, schedules, tiles
from indigo_jax.methods import base
from indigo_jax.methods.guided_chain import Settings, resolve, visited
from indigo_jax.methods.indi import Indi
from indigo_jax.typing import Autoencoder
from indigo_jax.weights import WeightsError

_PIECE = 512  # pixels of a measurement that F sees in one piece, along a side
_LARGE = 512 * 512  # pixels above which the invertible network's gradient recomputes what it needs
_REFERENCE = 128 * 128  # pixels of the measurement for which zeta is meant
_SMALLEST = 8  # side below which an invertible network splits no further


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
        refine = None
        if chain.refine:
            import optax  # takes a moment
            refine = optax.adam(chain.refine)
        options = dict(cond=cond, scale=zeta if chain.guidance > 0 else 0.0, weights=chain.weights, eta=chain.eta,
                       distance=self._distance(params), gradient=chain.gradient, refine=refine)
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
        return None

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
