"""The shipped prior ``latent-faces``: faces of 128 x 128 as 16 x 16 latents of 8 channels.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, of which the held-out
ones only measure; mirrored. The autoencoder is ``autoencoder-faces``, or another file: ``--autoencoder FILE``.
Command: ``python -m train.diffusion --config train/configs/diffusion_latent_faces.py --data faces128.npz
--workdir RUN``
Hardware: one CPU core; 22 GFLOP and about 0.8 s a step, 80 minutes.
Expect: faces in the sample grids after about 2,000 steps; a network of 5.2 M parameters, 10 MB as float16.
All latents are computed once, which takes a few minutes at every start, and kept (160 MB): encoding in every step would
cost as much as the step. The prediction is v because the schedule ends in pure noise, where eps says nothing about the
picture.
"""
from indigo_jax import models, schedules
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    return DiffusionConfig(
        model=models.LatentUNet((64, 96, 128), (False, True, True), 1, num_heads=4, context_dim=0, in_channels=8,
                                out_channels=8),
        autoencoder="autoencoder-faces", cache_latents=True,
        schedule=schedules.to_json("cosine", num_timesteps=1000), prediction="v",
        num_steps=5_500, batch_size=16, crop=128,
        learning_rate=8e-4, warmup_steps=300, decay="cosine", final_learning_rate=1e-6, ema=0.999,
        checkpoint_every=250, log_every=50, eval_every=1000, data_threads=1, cache=True)
