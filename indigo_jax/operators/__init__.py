"""Degradations ``y = A(x)`` of images ``[B, H, W, C]`` in ``[-1, 1]``.

Every operator is a callable pytree with the flags ``linear``, ``stochastic`` and ``shape_preserving``; the linear ones
have an exact ``adjoint``, the stochastic ones need ``keys``, one per image.
"""
from indigo_jax.operators.blind import blind_blur, blind_gaussian_blur, blind_varying_blur
from indigo_jax.operators.blind_noise import blind_noise
from indigo_jax.operators.blur import blur, defocus_blur, gaussian_blur, motion_blur
from indigo_jax.operators.canvas import canvas_blur, crop, extend
from indigo_jax.operators.compose import clip, compose, mixture, quantize
from indigo_jax.operators.degradations import (
    photo_mixture, random_blur, random_gaussian_blur, random_gaussian_noise, random_jpeg, random_motion_blur,
    random_photo_noise, random_super_resolution)
from indigo_jax.operators.inpaint import (box_mask, inpaint, random_box_mask, random_pixel_mask,
                                          random_stroke_mask, smooth_fill)
from indigo_jax.operators.jpeg import block_dct, inverse_block_dct, jpeg, jpeg_steps
from indigo_jax.operators.kernels import (
    disk_kernel, flip_kernel, gaussian_kernel, linear_motion_kernel, load_kernel, motion_kernel)
from indigo_jax.operators.linear import LinearOperator, check_adjoint, linear
from indigo_jax.operators.mri import cartesian_mask, coil_sensitivities, mri
from indigo_jax.operators.noise import gaussian_noise, poisson_noise, speckle_noise
from indigo_jax.operators.photo_noise import photo_noise, some_grey
from indigo_jax.operators.proximal import proximal
from indigo_jax.operators.radon import filtered_backprojection, radon, sparse_view_angles
from indigo_jax.operators.realesrgan import face_degradation, realesrgan
from indigo_jax.operators.resize import average_pool, downsample, resize, super_resolution, upsample
from indigo_jax.operators.varying_blur import patch_weights, varying_blur

__all__ = [
    "LinearOperator", "average_pool", "blind_blur", "blind_gaussian_blur", "blind_noise", "blind_varying_blur",
    "block_dct", "blur", "box_mask", "canvas_blur", "cartesian_mask", "check_adjoint", "clip", "coil_sensitivities",
    "compose", "crop",
    "defocus_blur", "disk_kernel", "downsample", "extend", "face_degradation", "filtered_backprojection", "flip_kernel",
    "gaussian_blur", "gaussian_kernel", "gaussian_noise", "inpaint", "inverse_block_dct", "jpeg", "jpeg_steps",
    "linear", "linear_motion_kernel",
    "load_kernel", "mixture", "motion_blur", "motion_kernel", "mri", "patch_weights", "photo_mixture", "photo_noise",
    "poisson_noise", "proximal", "quantize", "radon", "random_blur", "random_box_mask", "random_gaussian_blur",
    "random_gaussian_noise", "random_jpeg", "random_motion_blur", "random_photo_noise", "random_pixel_mask",
    "random_stroke_mask",
    "random_super_resolution", "realesrgan", "resize", "smooth_fill", "some_grey", "sparse_view_angles",
    "speckle_noise", "super_resolution", "upsample", "varying_blur",
]
