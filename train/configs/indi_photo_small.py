"""The shipped model ``indi-photo``: one small network for noise, blur, 4x super-resolution and JPEG.

Data: 400 natural photographs of 481 x 321 (BSDS500 train and test) four times and 844 of 256 x 384 (a sample of
ImageNet) once, in packs, degraded on the fly.
Command: ``python -m train.indi --config train/configs/indi_photo_small.py --data 4*bsds400.npz+imagenet256.npz
--workdir RUN``
Hardware: two CPU cores; about 0.5 s a step, three hours and a half.
Expect: see ``indigo_jax/weights/indi-photo.md``. The shipped weights took six runs of 29,700 steps in all, each with
``--start-from`` the one before and a mixture, a loss and times of its own, which that card lists; this file is the
last two of them, at the length of the first four.
"""
from indigo_jax import models, operators
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=48, multipliers=(1, 2, 3), num_res_blocks=1, patch_size=2),
        degradation=operators.photo_mixture(
            dict(motion_blur=0.42, jpeg=0.13, gaussian_noise=0.15, super_resolution=0.18, gaussian_blur=0.12),
            gaussian_blur=operators.random_gaussian_blur((0.5, 3.0), sigma_255=(0.0, 0.5)),
            motion_blur=operators.random_motion_blur((8.0, 16.0), straight=0.5, sigma_255=(0.0, 0.5)),
            super_resolution=operators.random_super_resolution(4, sigma_255=(0.0, 0.5)),
            jpeg=operators.random_jpeg((5, 50)),
            gaussian_noise=operators.random_photo_noise((5.0, 50.0))),
        tasks=("denoise", "deblur", "sr", "jpeg"), grey=0.08,
        num_steps=24_000, batch_size=8, crop=64, margin=16, loss="l2", a=5.0,
        learning_rate=8e-4, warmup_steps=100, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.999,
        checkpoint_every=500, log_every=50, eval_every=500, cache=True)
