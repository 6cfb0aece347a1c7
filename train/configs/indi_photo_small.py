"""The shipped model ``indi-photo``: one small network for noise, blur, 4x super-resolution and JPEG.

Data: 400 natural photographs of 481 x 321 (BSDS500 train and test) in one pack, degraded on the fly.
Command: ``python -m train.indi --config train/configs/indi_photo_small.py --data bsds400.npz --workdir RUN``
Hardware: two CPU cores; about 0.5 s a step, two hours and a half.
Expect: see ``indigo_jax/weights/indi-photo.md``. The shipped weights took two such runs, the second with
``--start-from`` the first: 17,500 steps in all, the last 5,500 on exactly this mixture.
"""
from indigo_jax import models, operators
from train.indi_config import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=48, multipliers=(1, 2, 3), num_res_blocks=1, patch_size=2),
        degradation=operators.photo_mixture(
            dict(motion_blur=0.56, jpeg=0.22, gaussian_noise=0.11, super_resolution=0.05, gaussian_blur=0.06),
            gaussian_blur=operators.random_gaussian_blur((0.5, 3.0), sigma_255=(0.0, 0.5)),
            motion_blur=operators.random_motion_blur((7.0, 17.0), straight=0.6, sigma_255=(0.0, 0.5)),
            super_resolution=operators.random_super_resolution(4, sigma_255=(0.0, 0.5)),
            jpeg=operators.random_jpeg((5, 50)),
            gaussian_noise=operators.random_gaussian_noise((5.0, 50.0))),
        tasks=("denoise", "deblur", "sr", "jpeg"),
        num_steps=17_500, batch_size=8, crop=64, margin=16, a=2.0,
        learning_rate=8e-4, warmup_steps=100, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.999,
        checkpoint_every=500, log_every=50, eval_every=500, cache=True)
