"""Degrade and restore any folder of pictures: noise, blur, motion blur, super-resolution, JPEG at stated levels.

Command: ``python -m eval.run --config eval/configs/folder.py --data FOLDER --output FOLDER``, which adds noise; with
``--tasks denoise deblur motion sr jpeg`` all of them, and with ``--method once`` restores by another method that finds
out by itself what it must know.
Hardware: any; about two seconds for a picture of 321 x 481 on two CPU cores.
"""
import functools

from eval.configs import photo_degradations
from eval.problems import Degradation
from eval.run.config import EvalConfig
from indigo_jax import operators


def get_config() -> EvalConfig:
    return EvalConfig(
        degradations=(
            Degradation("denoise", "sigma 25", lambda keys: operators.gaussian_noise(sigma_255=25.0)),
            Degradation("deblur", "Gaussian, sigma 1.6 px", lambda keys: operators.gaussian_blur(1.6)),
            Degradation("motion", "shake, 13 px", functools.partial(photo_degradations.shake, 13)),
            Degradation("sr", "4x, bicubic", lambda keys: operators.random_super_resolution(4, sigma_255=0.0)),
            Degradation("jpeg", "quality 10", lambda keys: operators.jpeg(10)),
        ),
        method_tasks={"denoise": "denoise", "deblur": "deblur", "motion": "deblur"}, tasks=("denoise",))
