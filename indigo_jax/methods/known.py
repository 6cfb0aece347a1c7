"""Methods for a known operator: what is known of the damage as ``y = A(x) + noise``, for pictures and for sinograms."""
import copy
import dataclasses
from typing import Any, Callable, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import arrays, denoisers, images, operators, restoration, rng, samplers, schedules
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag
from indigo_jax.methods.sinograms import Sinogram, sinogram_noise
from indigo_jax.typing import Array, Kernel, Key, Operator

DEFAULT_WEIGHTS = "photo; ct: ellipses64"
_SAMPLES = 4  # of which the mean is taken
_CLEAN_255 = 2.5  # noise of a good photograph
_MIRROR = 0.7  # what a mirror image errs by beyond the border, in [-1, 1] units; measured: 0.1 and 0.3 are worse
_AROUND = 8  # pixels of canvas beyond half of the kernel of a blur
_UNEXPLAINED = 3.0  # times the noise: a residual above says that what was said of the damage is not so


_LEFT, _TOLD = 8.0, 0.03  # see _worse; chosen on 79 cases, photographs that no table has: none was told wrongly


def _worse(found, other) -> float:
    """How much worse the other of two results explains a picture: what is left of it grows, or what explains it has
    more edges, the ringing of a wrong kernel. Both alone are often misled: a turned kernel has the same spectrum, so
    that it leaves hardly more, and little of either where noise hides the edges."""
    def edges(picture):
        pixels = np.asarray(picture.pixels)
        return sum(np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1)) + 1e-9

    left = np.log((other[1].residual + 1e-9) / (found[1].residual + 1e-9))
    return float(_LEFT * left + np.log(edges(other[0]) / edges(found[0])))


class Problem(NamedTuple):
    """A batch of pictures to restore.

    Attributes:
        operator: A, linear; None where it is a blur of unknown kernel.
        y: the measurement ``[B, ...]``.
        keys: one per image ``[B]``.
        sigma: standard deviation of the noise in y, in [-1, 1] units ``[B]``.
        shape: ``(H, W, C)`` of the pictures.
        seen: ``[B, H, W]``, 1 where there is a measurement, 0 where there is none and y is 0; in between, what operator
            and y were multiplied by, since less is known; None: 1 everywhere.
    """

    operator: Any
    y: Array
    keys: Key
    sigma: Array
    shape: tuple[int, int, int]
    seen: Array | None = None

    @property
    def noise(self) -> Array:
        """Standard normal pictures of the images' keys: where a chain begins."""
        return rng.normal(rng.init_keys(self.keys), jnp.zeros((self.y.shape[0], *self.shape)))

    def residual(self, x: Array, operator: Operator | None = None) -> Array:
        """Root mean square of ``A(x) - y``, ``[B]``."""
        return self.left((operator or self.operator)(x))

    def left(self, measured: Array) -> Array:
        """Root mean square of what these measurements of a picture leave of y, where it was measured, ``[B]``."""
        left = arrays.rms(measured - self.y)
        return left if self.seen is None else left / jnp.sqrt(jnp.maximum(jnp.mean(self.seen**2, axis=(1, 2)), 1e-6))


def problem_of(task: str, y: Array, keys: Key, given: dict, shape: tuple[int, int, int], scale: int = 1) -> Problem:
    """What a task means: the only place that knows.

    Args:
        task: denoise, deblur, sr, inpaint or ct.
        y: pictures ``[B, h, w, 3]``, or for ct sinograms ``[B, detectors, angles, 1]``, sums of densities in [0, 1].
        keys: one per image.
        given: "sigma" ``[B]`` or a number (of ct: of the sums), and by task "kernel" ``[h, w]``, "mask" ``[B, H, W]``
            (1 = observed), "angles" in degrees.
        shape: ``(H, W, C)`` of the pictures.
        scale: of sr: one pixel is the mean of ``scale x scale``.
    """
    sigma = jnp.broadcast_to(jnp.asarray(given["sigma"], jnp.float32), y.shape[:1])
    if task == "ct":
        operator = operators.radon(given["angles"], shape[0])

        def mean_along_rays(x):
            return operator(jnp.mean(x, axis=-1, keepdims=True)) / shape[0]

        y = 2 * y / shape[0] - mean_along_rays(jnp.ones((1, *shape)))
        return Problem(mean_along_rays, y, keys, 2 * sigma / shape[0], shape)
    made: dict[str, Callable[[], Any]] = {
        "auto": operators.compose, "denoise": operators.compose, "jpeg": operators.compose,
        "sr": lambda: operators.average_pool(scale),
        "deblur": lambda: operators.blur(given["kernel"]) if given.get("kernel") is not None else None,
        "nonuniform": lambda: None, "inpaint": lambda: operators.inpaint(given["mask"])}
    operator = made[task]()
    return Problem(operator, operator(y) if task == "inpaint" else y, keys, sigma, shape)


def _trusted(kernel, height: int, width: int, sigma: float) -> np.ndarray:
    """How far pixels of a blurred picture are to be trusted ``[height, width]``, in (0, 1], by a prior of one size: it
    has no room for what lies beyond the border and was blurred into it.

    Beyond is taken for a mirror image, which errs by ``_MIRROR``: a pixel of which that is a share m has the noise
    ``sqrt(sigma^2 + (m _MIRROR)^2)``, and is told so by the weight ``sigma`` over this.
    """
    room = max(kernel.shape)
    inside = np.pad(np.ones((1, height, width, 1), np.float32), [(0, 0), (room, room), (room, room), (0, 0)])
    share = 1 - np.asarray(operators.blur(kernel)(jnp.asarray(inside)))[0, room:-room, room:-room, 0]
    sigma = max(sigma, 1e-3)
    return sigma / np.sqrt(sigma**2 + (share * _MIRROR)**2)


def grey_prior(prior: denoisers.Prior) -> denoisers.Prior:
    """A prior whose pictures are grey, for slices: each denoised picture is the mean of its channels."""
    def grey(x_t, t):
        prediction = prior.denoiser(x_t, t)
        return prediction._replace(x0=jnp.broadcast_to(jnp.mean(prediction.x0, -1, keepdims=True), x_t.shape))

    return prior._replace(denoiser=grey)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownSettings(base.Restoration.Settings):
    """What all methods for a known operator take."""

    weights: str | None = flag(None, f"the diffusion prior; see: indigo weights list (default: {DEFAULT_WEIGHTS})",
                               metavar="NAME|PATH", file="weights")
    kernel: Any = flag(None, "the blur kernel where it is known: .npy, .npz or .png; see --kernel-is", metavar="FILE",
                       tasks=("deblur",), file="kernel")
    kernel_is: str = flag("convolution", "how the picture was made with it: correlation is that of torch, MATLAB's "
                                         "imfilter and Levin's data; auto tries both, and takes what explains it",
                          choices=("convolution", "correlation", "auto"), tasks=("deblur",))
    mask: Any = flag(None, "a picture of the same size, white where the other is to be filled", metavar="FILE",
                     tasks=("inpaint",), file="mask")
    angles: Any = flag(None, "the angles in degrees, .npy or text (default: evenly spaced over 180)", metavar="FILE",
                       tasks=("ct",), file="angles")
    sigma_255: float | None = flag(None, "noise level of the picture on the 0..255 scale; for ct of the mean along a "
                                         "ray, white being 255 (default: estimated)", low=0, high=255, metavar="N")


class KnownOperator(base.Restoration):
    """Solve ``y = A(x) + noise`` with a diffusion prior; a subclass has :meth:`restore`."""

    tasks: ClassVar[tuple[str, ...]] = ("denoise", "deblur", "sr", "inpaint", "ct")
    needs = "--kernel, --mask, --scale or the angles"
    Settings = KnownSettings
    kind_of_weights = "prior"
    needs_kernel = True

    @property
    def before(self):
        return "filtered back-projection" if self.task == "ct" else "before"

    @classmethod
    def named_weights(cls, settings, task):
        return {"weights": settings.weights or ("ellipses64" if task == "ct" else "photo"),
                **super().named_weights(settings, task)}

    def load(self):
        if self.task == "inpaint" and self.settings.mask is None:
            raise ValueError("inpaint needs a mask, a picture in which the area to fill is white")
        if self.task == "deblur" and self.settings.kernel is None and self.needs_kernel:
            raise ValueError(f"{self.name} undoes a blur that is known: give its kernel, or use blind")
        self.networks = {"prior": base.open_network(self.named_weights(self.settings, self.task)["weights"], "prior")}
        self.turned = None
        if self.settings.kernel is None and self.settings.kernel_is != "convolution":
            raise ValueError(f"kernel_is {self.settings.kernel_is} says how a kernel was used; give the kernel, or "
                             "leave it out")
        if self.settings.kernel is not None and self.settings.kernel_is != "convolution":
            turned = np.asarray(operators.flip_kernel(self.settings.kernel))
            settings = dataclasses.replace(self.settings, kernel=turned, kernel_is="convolution")
            if self.settings.kernel_is == "auto":
                self.turned = type(self)(settings, task=self.task, devices=self.devices)
            else:
                self.settings = settings

    def plan(self, height, width):
        return base.plan_of(self.networks["prior"], height, width, tile=self.largest, multiple=self.scale)

    def given(self, pixels, fill):
        known = {}
        height, width = pixels.shape[:2]
        if self.task == "inpaint":
            mask = np.asarray(self.settings.mask, np.float32)
            if mask.shape != (height, width):
                raise ValueError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {width} x "
                                 f"{height}")
            known["mask"] = fill(mask)
        if self.settings.kernel is not None:
            known["kernel"] = jnp.asarray(self.settings.kernel, jnp.float32)
        sigma = self.settings.sigma_255
        if sigma is None and self.task == "inpaint":
            sigma = _CLEAN_255
        if sigma is None:
            known["sigma"] = self.estimate(jnp.asarray(pixels[None], jnp.float32))[0]
        else:
            known["sigma"] = jnp.float32(sigma / 127.5)
        if self.margin():
            known["seen"] = fill(np.ones((height, width)), mode="constant")
        elif self.settings.kernel is not None:
            known["seen"] = fill(_trusted(self.settings.kernel, height, width, float(known["sigma"])), mode="constant")
        return known

    def estimated(self, y):
        if self.settings.sigma_255 is not None or self.task in ("inpaint", "ct"):
            return {}
        return {"sigma": self.estimate(y)}

    def estimate(self, y: Array) -> Array:
        """Noise level of pictures ``[B, H, W, 3]`` in [-1, 1] units, at least 0.005: ``[B]``."""
        return jnp.maximum(restoration.noise_level(y), 0.005)

    def margin(self):
        if self.settings.kernel is None or base.side_of(self.networks["prior"]) is not None:
            return 0
        return self.around(max(self.settings.kernel.shape))

    @staticmethod
    def around(size: int) -> int:
        """Pixels of canvas around a picture that was blurred by a kernel of that side."""
        return size // 2 + _AROUND

    def problem(self, y, keys, plan, given) -> Problem:
        """The problem of a canvas."""
        problem = problem_of(self.task, y, keys, given, (*plan.canvas, 3), self.scale)
        if "seen" not in given:
            return problem
        blur = operators.blur(given["kernel"], boundary="periodic" if self.margin() else "reflect")
        seen = operators.inpaint(given["seen"])
        return problem._replace(operator=operators.compose(blur, seen), y=seen(y), seen=given["seen"])

    def solve(self, params, y, keys, *, plan, given):
        prior = base.prior(self.networks["prior"], params[0], plan)
        problem = self.problem(y, keys, plan, given)
        return self.restore(grey_prior(prior) if self.task == "ct" else prior, problem)

    def restore(self, prior: denoisers.Prior, problem: Problem) -> base.Solved:
        """Solve a problem: a pure function."""
        raise NotImplementedError

    def found(self, problem: Problem, x: Array) -> base.Solved:
        """A chain's last picture, clipped, and what it leaves."""
        x = jnp.clip(x, -1.0, 1.0)
        return base.Solved(x, problem.residual(x), problem.sigma)

    def at_most(self, num_steps: int) -> int:
        """So many steps, or as many as the prior has levels."""
        return min(num_steps, schedules.from_json(self.info["schedule"]).timesteps.shape[0])

    def __call__(self, picture, *, seed=0, sample=0, device=None, progress=None):
        if isinstance(picture, Sinogram):
            return self._slice(picture, seed, sample, device, progress)
        known = dict(seed=seed, sample=sample, device=device, progress=progress)
        found = super().__call__(picture, **known)
        if self.turned is None:
            return found
        other = self.turned(picture, **known)
        score = _worse(found, other)
        (restored, report), kind = (other, "correlation") if score < -_TOLD else (found, "convolution")
        said = f"the kernel is that of a {kind}" if abs(score) > _TOLD else (
            "whether the kernel is that of a convolution or of a correlation could not be told; a convolution was "
            "assumed")
        return restored, report._replace(evaluations=found[1].evaluations + other[1].evaluations,
                                         note=". ".join(filter(None, (said, report.note))))

    def smaller(self, picture):
        other = super().smaller(picture)
        if other is not None and self.turned is not None:
            other.turned = copy.copy(self.turned)
            other.turned.largest = other.largest
        return other

    def expected(self, picture):
        evaluations, plan = super().expected(picture)
        return evaluations * (1 if self.turned is None else 2), plan

    def report(self, solved, plan):
        report = super().report(solved, plan)
        if report.residual is None or report.residual <= _UNEXPLAINED * max(report.sigma, 0.02):
            return report
        return report._replace(note="the result does not explain the picture: the damage may be another than was said")

    def _slice(self, sinogram, seed, sample, device, progress):
        """A slice from its sums along parallel rays; as many pixels a side as detectors, around them air.

        The picture is grey: -1 is a density of 0, 1 one of 1. Residual and sigma are those of the mean along a ray.
        """
        values, angles = sinogram.values, sinogram.angles
        detectors = values.shape[0]
        keys = rng.fold(rng.image_keys(seed, [base.content_id(values)]), sample)
        plan = self.plan(detectors, detectors)
        side = max(plan.canvas)
        before = side // 2 - detectors // 2
        padded = jnp.asarray(np.pad(values, [(before, side - detectors - before), (0, 0)])[None, :, :, None])
        if self.settings.sigma_255 is None:
            sigma = max(float(sinogram_noise(jnp.asarray(values)[None, :, :, None])[0]), 1e-3 * side)
        else:
            sigma = self.settings.sigma_255 / 127.5 * side / 2
        known = {"sigma": jnp.float32(sigma), "angles": angles}
        solved = self.run(padded, keys, plan, known, device, progress)
        inside = slice(before, before + detectors)
        grey = np.asarray(solved.x)[0, inside, inside].mean(axis=-1, keepdims=True)
        return images.Picture(np.repeat(grey, 3, axis=2), grey=True, mode="L"), self.report(solved, plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSettings(KnownSettings):
    """What methods take that draw samples."""

    aim: str = flag("perception", "one sample, which is sharp, or the mean of four of a quarter of the steps each, "
                                  "which errs less", choices=("perception", "distortion"))


class Sampled(KnownOperator):
    """Draw from the pictures that explain the measurement; a subclass has :meth:`chain`.

    The mean of the posterior has the least squared error, a sample of it twice that: ``--aim distortion`` takes the
    mean of four samples, at the same number of evaluations.
    """

    Settings = SampledSettings

    def chain(self, prior: denoisers.Prior, problem: Problem, num_steps: int) -> Kernel:
        """A kernel that starts at pure noise and takes so many steps, or as many as the prior has levels."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """Of all samples together."""
        return self.settings.steps

    @property
    def _samples(self):
        return 1 if self.settings.aim == "perception" else _SAMPLES

    def restore(self, prior, problem):
        if self._samples == 1:
            return self.found(problem, run(self.chain(prior, problem, self.num_steps), problem))
        kernel = self.chain(prior, problem, max(1, self.num_steps // _SAMPLES))
        samples = jax.lax.map(lambda number: run(kernel, problem._replace(keys=rng.fold(problem.keys, number))),
                              jnp.arange(_SAMPLES))
        return self.found(problem, jnp.mean(samples, axis=0))

    def evaluations(self, solved):
        return self._samples * self.at_most(max(1, self.num_steps // self._samples))


def run(kernel: Kernel, problem: Problem) -> Array:
    """The last picture ``[B, H, W, C]`` of a chain from pure noise, not clipped."""
    return samplers.sample(kernel, problem.keys, problem.noise)[0]


def levels_of(prior: denoisers.Prior, num_steps: int, spacing: str = "linspace"):
    """So many levels of a prior, from its noisiest; all, where it has fewer.

    Args:
        spacing: of :func:`schedules.respace`. "log_snr", for samplers that draw all noise anew, and "asinh" are without
            those levels where a thousandth of the picture or less is left. Of Gaussian pictures of spread 0.3 and 0.5
            fifty steps of DDIM with eta 1 then keep 92 % of the spread with ``linear()``, 93 % with ``cosine(300)``;
            evenly in time 84 and 89 %, 91 and 93 %.
    """
    schedule = prior.schedule
    with jax.ensure_compile_time_eval():  # numbers, not part of a program that is being traced
        if spacing in ("log_snr", "asinh"):
            seen = schedules.truncate(schedule, min(1e-3, np.asarray(schedule.alpha_bar)[0]))
            schedule = seen if seen.timesteps.shape[0] >= num_steps else schedule
        count = min(num_steps, schedule.timesteps.shape[0])
        return schedules.respace(schedule, count, spacing if count > 1 else "trailing")
