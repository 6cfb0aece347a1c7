"""How users call the public surface, for mypy: what is right passes, each ignored line is an error that it must find.

Nothing here is run; ``mypy`` (setup.cfg, ``--warn-unused-ignores`` in ``.ci/run``) reads it.
"""
import numpy as np

from indigo_jax import denoisers, guidance, images, methods, operators, restoration, rng, samplers, schedules
from indigo_jax.typing import Array, Kernel, Operator


def sampling(x: Array) -> Array:
    schedule = schedules.respace(schedules.linear(), 20, "trailing")
    denoiser = guidance.clip_x0()(denoisers.from_eps(lambda x_t, t: x_t, schedules.linear()))
    kernel: Kernel = samplers.ddim(denoiser, schedule, eta=0.5)
    keys = rng.image_keys(0, np.arange(4))
    restored, _ = samplers.sample(kernel, keys, x)
    schedules.linear("1000")  # type: ignore[arg-type]
    samplers.ddim(denoiser, "schedule")  # type: ignore[arg-type]
    samplers.ddim(denoiser, schedule, etha=0.5)  # type: ignore[call-arg]
    return restored


def operating(x: Array) -> Array:
    blur = operators.blur(np.ones((3, 3)) / 9)
    as_operator: Operator = blur
    blur.kernal  # type: ignore[attr-defined]
    blur(3)  # type: ignore[arg-type]
    return blur.adjoint(as_operator(x))


def restoring(x: Array) -> Kernel:
    schedule = schedules.linear()
    denoiser = denoisers.from_x0(lambda x_t, t: x_t, schedule)
    restoration.diffpir(denoiser, schedule, operators.blur(np.ones((3, 3)) / 9), x)  # type: ignore[call-arg]
    return restoration.diffpir(denoiser, schedule, operators.blur(np.ones((3, 3)) / 9), x, 0.1)


def pictures() -> images.Picture:
    picture = images.read("a.png")
    images.read(3)
    images.write("b.png", picture, quality="high")  # type: ignore[arg-type]
    restored, report = methods.load("indi", task="denoise")(picture, seed=0)
    return picture._replace(pixels=np.zeros((2, 2, 3)))
