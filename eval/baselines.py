"""Problems for a diffusion prior and the methods that solve them: BIRD, its official settings, the cheap baselines.

All noise levels are in ``[-1, 1]`` units, twice those of pictures in ``[0, 1]``. BIRD's settings are those of
:mod:`indigo_jax.restoration.tasks`, read when a method runs.
"""
import dataclasses
import functools
import hashlib
import itertools
import re
from typing import Any, Callable, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, guidance, metrics, operators, restoration, rng, samplers, schedules
from indigo_jax.typing import Array, Key

TASKS = {"inpaint": "inpainting, hole of 20/64 of the side", "denoise": "denoising, sigma 0.15",
         "sr": "4x super-resolution, mean of 4x4", "deblur": "deblurring, known 9x9 motion",
         "blind": "blind deblurring, 9x9 motion", "ct": "tomography, 20 views"}
PICTURE_TASKS = tuple(task for task in TASKS if task != "ct")  # ct is for a prior of slices
_SIGMA = {"denoise": 0.3, "ct": 0.002}  # else 0.02
FACTOR, KERNEL_SIZE, NUM_VIEWS = 4, 9, 20
_MEASURE, _KERNEL, _RESTORE = 0, 1, 2  # what a picture's key is folded with
_SMOOTH, _LAPLACE = 0.2, 0.1  # spread of a picture's differences: standard deviation; scale of a Laplacian


class Problem(NamedTuple):
    """A batch of pictures to restore; every leaf begins with ``[B]``.

    Attributes:
        x: the truth ``[B, S, S, 3]``; None where a method sees the problem.
        y: the measurement ``[B, ...]``.
        operator: ``A``, with ``y = A(x) + sigma n``.
        sigma: ``[B]``.
        mask: for inpainting ``[B, S, S]``, 1 = observed; else None.
        kernel: for deblurring ``[B, 9, 9]``; else None.
        keys: for whatever a method draws ``[B]``.
    """

    x: Array | None
    y: Array
    operator: Any
    sigma: Array
    mask: Array | None
    kernel: Array | None
    keys: Key


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FewViews:
    """``x [B, S, S, C]`` -> the mean of its channels and along each ray, ``[B, S, views, 1]``, in the units of x."""

    side: int
    num_views: int
    shape_preserving: ClassVar[bool] = False

    def __call__(self, x, *, keys=None):
        del keys
        return operators.radon(self.angles, self.side)(jnp.mean(x, axis=-1, keepdims=True)) / self.side

    @property
    def angles(self):
        """Degrees ``[views]``."""
        return operators.sparse_view_angles(self.num_views)

    def backprojected(self, y):
        """Filtered back-projection: grey pictures ``[B, S, S, 3]``."""
        sums = (y + self(jnp.ones((1, self.side, self.side, 1)))) * self.side / 2  # of densities in [0, 1]
        densities = operators.filtered_backprojection(sums, self.angles)
        return jnp.repeat(2 * densities - 1, 3, axis=-1)


# ---------------------------------------------------------------------------------------------------- the prior

def prior_side(model) -> int:
    """Side of the pictures that a prior (:class:`eval.common.Model`) has learned."""
    return int(model.info.get("image_size") or getattr(model.module, "image_size", 64))


def as_prior(model, params) -> restoration.Prior:
    """A prior's module with ``params``, which may be traced, as the functions of :mod:`restoration` take it."""
    with jax.ensure_compile_time_eval():  # numbers, not part of the program
        levels = schedules.from_json(model.info["schedule"])
    options = {"learned_variance": True} if model.info.get("learned_variance") else {}
    network = functools.partial(model.module.apply, params)
    return restoration.Prior(denoisers.BY_PREDICTION[model.info["prediction"]](network, levels, **options), levels)


# ---------------------------------------------------------------------------------------------------- problems

def to_side(image: np.ndarray, side: int) -> np.ndarray:
    """The central square of a uint8 picture ``[H, W, 3]`` at the prior's side: float32 ``[side, side, 3]``.

    Larger squares are shrunk by area, smaller ones enlarged bicubically; one of the right size stays as it is.
    """
    square = min(image.shape[:2])
    top, left = ((length - square) // 2 for length in image.shape[:2])
    x = image[top:top + square, left:left + square].astype(np.float32) / np.float32(127.5) - 1
    if square != side:
        resize = operators.resize(side, side, method="area" if square > side else "bicubic")
        x = np.clip(np.asarray(resize(jnp.asarray(x[None])))[0], -1, 1)
    return x


@functools.partial(jax.jit, static_argnums=0)
def make_problem(task: str, x: Array, keys: Key) -> Problem:
    """The problem of ``task`` (of :data:`TASKS`) for pictures ``x`` ``[B, S, S, 3]`` with keys ``[B]``.

    What is drawn depends on the picture's key and the task; known and blind deblurring share their measurement.
    """
    count, side = x.shape[:2]
    own = rng.fold(keys, np.uint32(rng.name_id("deblur" if task == "blind" else task)))
    mask = kernel = None
    if task == "inpaint":
        hole = 20 * side // 64
        top = (side - hole) // 2
        mask = operators.box_mask(side, side, top=top, left=top, box_height=hole, box_width=hole)
        mask = jnp.broadcast_to(mask, x.shape[:3])
        operator = operators.inpaint(mask)
    elif task == "denoise":
        operator = operators.compose()
    elif task == "sr":
        operator = operators.average_pool(FACTOR)
    elif task == "ct":
        rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
        inside = (rows**2 + columns**2 <= (side / 2 - 0.75)**2)[..., None]  # what every ray sees the whole of
        x = jnp.where(inside, jnp.broadcast_to(jnp.mean(x, axis=-1, keepdims=True), x.shape), -1.0)
        operator = FewViews(side, NUM_VIEWS)
    else:
        kernel = operators.motion_kernel(rng.fold(own, _KERNEL), size=KERNEL_SIZE, length=float(KERNEL_SIZE))
        operator = operators.blur(kernel)
    sigma = jnp.full(count, _SIGMA.get(task, 0.02), jnp.float32)
    seen = operator(x)
    y = seen + sigma[0] * rng.normal(rng.fold(own, _MEASURE), seen)
    return Problem(x, y if mask is None else operator(y), operator, sigma, mask, kernel, rng.fold(own, _RESTORE))


# ---------------------------------------------------------------------------------------------------- methods

def _found(problem, x, evaluations):
    """A picture and what it leaves of the measurement, seen through the true operator."""
    x = jnp.clip(x, -1.0, 1.0)
    left = problem.operator(x) - problem.y
    residual = jnp.sqrt(jnp.mean(left**2, axis=(1, 2, 3)))
    return restoration.Restored(x, residual, problem.sigma, None, evaluations)


def _shape(problem):
    """``(H, W, C)`` of the pictures."""
    if isinstance(problem.operator, FewViews):
        return (problem.operator.side, problem.operator.side, 3)
    factor = 1 if problem.operator.shape_preserving else FACTOR
    return (problem.y.shape[1] * factor, problem.y.shape[2] * factor, problem.y.shape[3])


def _noise(problem):
    return rng.normal(rng.init_keys(problem.keys), jnp.zeros((problem.y.shape[0], *_shape(problem))))


def _input(prior, problem):
    del prior
    return _found(problem, _first(problem), 0)


def _first(problem):
    """The measurement as a picture."""
    if isinstance(problem.operator, FewViews):
        return problem.operator.backprojected(problem.y)
    return problem.y if problem.operator.shape_preserving else operators.upsample(FACTOR)(problem.y)


def _bird(task, settings, blind=False):
    """BIRD with ``settings[task]``; ``blind``: with the released code's unknown kernel in place of the true one."""
    def restore(prior, problem):
        operator = operators.blind_blur(KERNEL_SIZE, form="mlp") if blind else problem.operator
        return restoration.bird_restore(prior, operator, problem.y, problem.keys, settings=settings[task],
                                        sigma=problem.sigma, image_shape=_shape(problem))
    return restore


def _bird_inpaint(prior, problem):
    return restoration.inpaint(prior, problem.y, problem.mask, problem.keys, sigma=problem.sigma,
                               settings=restoration.DEFAULT["inpaint"])


def _bird_blind(prior, problem):
    return restoration.deblur(prior, problem.y, problem.keys)


def _once(prior, problem):
    return restoration.denoise_once(prior, problem.y, sigma=problem.sigma)


def _levels(prior, num_steps):
    return schedules.respace(prior.schedule, min(num_steps, prior.schedule.timesteps.shape[0]), "linspace")


def _diffpir(num_steps):
    def restore(prior, problem):
        count = min(num_steps, prior.schedule.timesteps.shape[0])
        return restoration.solve(prior, problem.operator, problem.y, problem.keys, sigma=problem.sigma,
                                 image_shape=_shape(problem), num_steps=count)
    return restore


def _reconstruct(prior, problem):
    operator = problem.operator
    sums = (problem.y + operator(jnp.ones((1, *_shape(problem))))) * operator.side / 2  # of densities in [0, 1]
    return restoration.reconstruct(prior, operators.radon(operator.angles, operator.side), sums, problem.keys,
                                   sigma=problem.sigma * operator.side / 2)


def _ddnm(prior, problem):
    kernel = restoration.ddnm(guidance.clip_x0()(prior.denoiser), _levels(prior, 30), problem.operator, problem.y)
    return _found(problem, samplers.sample(kernel, problem.keys, _noise(problem))[0], kernel.num_steps)


def dps(prior, problem, *, num_steps: int = 100, scale: float = 1.0):
    """Diffusion posterior sampling, which differentiates the network: three to five times as long per evaluation."""
    denoiser = guidance.clip_x0(schedule=prior.schedule)(prior.denoiser)
    kernel = restoration.dps(denoiser, _levels(prior, num_steps), problem.operator, problem.y, scale)
    return _found(problem, samplers.sample(kernel, problem.keys, _noise(problem))[0], kernel.num_steps)


def wiener(prior, problem):
    """``argmin |A x - y|^2 / sigma^2 + |D x|^2 / s^2``, D the differences: the Wiener filter for pictures with Gaussian
    differences, with exact borders. No network."""
    del prior
    return _found(problem, _smooth(problem, problem.y, problem.sigma[:, None, None, None] / _SMOOTH), 0)


def total_variation(prior, problem):
    """``argmin |A x - y|^2 / (2 sigma^2) + sum |D x| / b`` by nine rounds of reweighted least squares. No network."""
    del prior
    sigma = problem.sigma[:, None, None, None]

    def reweighted(_, x):
        length = jnp.sqrt(jnp.sum(_differences(x)**2, axis=0))
        return _smooth(problem, x, sigma / jnp.sqrt(_LAPLACE * (length + 0.01)))

    return _found(problem, jax.lax.fori_loop(0, 9, reweighted, _first(problem)), 0)


def _smooth(problem, x, weight):
    """``argmin |A x - y|^2 + |weight D x|^2`` by conjugate gradients from x."""
    def rows(*parts):
        return jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)

    def seen(x):
        return rows(problem.operator(x), *(weight * _differences(x)))

    nothing = jnp.zeros_like(x)
    return operators.proximal(seen, rows(problem.y, nothing, nothing), x, 0.0, num_iterations=50)


def _differences(x):
    """Differences downwards and to the right, 0 at the border: ``[2, B, H, W, C]``."""
    return jnp.stack([jnp.diff(x, axis=1, append=x[:, -1:]), jnp.diff(x, axis=2, append=x[:, :, -1:])])


METHODS: dict[str, dict[str, Callable]] = {  # task: {method: function(prior, problem) -> restoration.Restored}
    "inpaint": {"input": _input, "bird": _bird_inpaint, "official": _bird("inpaint", restoration.OFFICIAL),
                "ddnm": _ddnm, "diffpir": _diffpir(30)},
    "denoise": {"input": _input, "bird": _bird("denoise", restoration.DEFAULT),
                "official": _bird("denoise", restoration.OFFICIAL), "once": _once},
    "sr": {"input": _input, "bird": _bird("sr", restoration.DEFAULT),
           "official": _bird("sr", restoration.OFFICIAL), "ddnm": _ddnm, "diffpir": _diffpir(30), "dps": dps},
    "deblur": {"input": _input, "wiener": wiener, "tv": total_variation,
               "bird": _bird("deblur", restoration.DEFAULT), "official": _bird("deblur", restoration.OFFICIAL),
               "diffpir": _diffpir(50), "dps": dps},
    "blind": {"input": _input, "bird": _bird_blind, "official": _bird("deblur", restoration.OFFICIAL, blind=True),
              "diffpir": _diffpir(50)},
    "ct": {"input": _input, "tv": total_variation, "bird": _reconstruct},
}
TITLES = {"input": "input", "bird": "BIRD", "official": "BIRD, official settings", "ddnm": "DDNM",
          "diffpir": "DiffPIR", "once": "one network call", "dps": "DPS", "wiener": "Wiener, Gaussian differences",
          "tv": "total variation", ("sr", "input"): "input, bicubic", ("blind", "bird"): "BIRD, blind alternation",
          ("ct", "input"): "filtered back-projection", ("ct", "bird"): "DiffPIR, all noise new",
          ("blind", "diffpir"): "DiffPIR, told the true kernel"}
ON_REQUEST = ("dps",)  # slow
TOLD = (("blind", "diffpir"),)  # knows what the others must find


def title(task: str, method: str) -> str:
    """A method's name in the tables."""
    return TITLES.get((task, method), TITLES[method])


# ---------------------------------------------------------------------------------------------------- running

class Outline(NamedTuple):
    """What a method is, found without its network: ``evaluations`` per picture (None where that depends on the
    picture), ``digest`` of its whole program with all settings."""

    evaluations: int | None
    digest: str


def outline(schedule: schedules.NoiseSchedule, task: str, method: str, problem: Problem) -> Outline:
    """Trace a method on ``problem`` with a stand-in for the network."""
    evaluations = []

    def run(problem):
        free = restoration.Prior(lambda x, t: denoisers.Prediction(x, x), schedule)
        found = METHODS[task][method](free, problem)
        evaluations.append(found.evaluations)
        return found.x, found.residual

    program = jax.make_jaxpr(run)(problem._replace(x=None))
    state = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)).encode())
    for constant in program.consts:
        state.update(np.asarray(constant).tobytes())
    count = evaluations[0]
    return Outline(count if isinstance(count, int) else None, state.hexdigest()[:12])


def restorer(model, task: str, method: str) -> Callable:
    """``restore(problem) -> (x [B, S, S, 3], residual [B], evaluations)``, compiled; the truth is not shown to it."""
    @jax.jit
    def run(params, problem):
        found = METHODS[task][method](as_prior(model, params), problem)
        return found.x, found.residual, found.evaluations

    return lambda problem: run(model.params, problem._replace(x=None))


def psnr_of(x, truth) -> np.ndarray:
    """PSNR ``[B]``, not rounded to 8 bits."""
    return metrics.psnr(np.asarray(x), np.asarray(truth), round_uint8=False)


def aligned_psnr(x, truth, *, shift: int = 3) -> np.ndarray:
    """PSNR ``[B]`` at the best of all moves by at most ``shift`` pixels: blind deblurring cannot know where the picture
    was. Of the central square without an eighth of the side at each border; not rounded.

    Args:
        x, truth: float ``[B, H, W, 3]`` in ``[-1, 1]``.
    """
    x, truth = np.asarray(x), np.asarray(truth)
    height, width = truth.shape[1:3]
    border = max(min(height, width) // 8, shift)
    inner = truth[:, border:height - border, border:width - border]
    moves = itertools.product(range(border - shift, border + shift + 1), repeat=2)
    return np.max([psnr_of(x[:, i:i + inner.shape[1], j:j + inner.shape[2]], inner) for i, j in moves], axis=0)
