"""The fixed degradations of the table for photographs: what ``indi-photo`` is trained for, at stated levels.

Noise, 4x super-resolution, JPEG, Gaussian blur, and motion blur of 9, 11, 13 and 15 px, straight and shaken. The angles
and paths of the motion, like the noise, come from the name of the picture. Command: ``python -m eval.tables``.
"""
import functools

import numpy as np

from eval.problems import Degradation
from indigo_jax import operators, rng

LENGTHS = (9, 11, 13, 15)
_SIZE = 17  # side of every motion kernel: one compilation serves all


def straight(length: int, keys):
    """A straight motion in a random direction."""
    return operators.motion_blur(float(length), rng.uniform(keys, 0.0, np.pi), size=_SIZE)


def shake(length: int, keys):
    """A random camera shake."""
    return operators.blur(operators.motion_kernel(keys, size=_SIZE, length=float(length)))


def get_config() -> tuple[Degradation, ...]:
    return (
        Degradation("Gaussian noise, sigma 25", "", lambda keys: operators.gaussian_noise(sigma_255=25.0)),
        Degradation("4x super-resolution, bicubic", "", lambda keys: operators.random_super_resolution(
            4, sigma_255=0.0)),
        Degradation("JPEG, quality 10", "", lambda keys: operators.jpeg(10)),
        Degradation("Gaussian blur, sigma 1.6 px", "", lambda keys: operators.gaussian_blur(1.6)),
        *(Degradation("motion blur, straight", f"{length} px", functools.partial(straight, length))
          for length in LENGTHS),
        *(Degradation("motion blur, shake", f"{length} px", functools.partial(shake, length))
          for length in LENGTHS),
    )
