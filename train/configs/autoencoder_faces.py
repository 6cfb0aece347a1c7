"""The shipped autoencoder ``autoencoder-faces``: 8 pixels per latent, 8 channels, small enough to train on a CPU.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, or any folder of
pictures; 64 x 64 cut out at random.
Command: ``python -m train.autoencoder --config train/configs/autoencoder_faces.py --data faces128.npz --workdir RUN``
Hardware: one CPU core; 20 GFLOP and about 0.55 s a step, 35 minutes.
Expect: 29.3 dB on held-out faces (25.9 after 1,000 steps), 28.9 dB from latents with the noise of training; standard
deviations of the latents' channels between 0.80 and 0.92.
A network of 2.1 M parameters, 4 MB as float16. Pixels are folded 2 x 2 into channels at the door, so that the widest
level is 32 x 32 for 64 x 64 pixels. No pool branches: what a latent becomes depends on its neighbourhood alone, so
that pictures of any size can be taken in tiles.
"""
from indigo_jax import models
from train.autoencoder import AutoencoderConfig


def get_config() -> AutoencoderConfig:
    return AutoencoderConfig(
        model=models.TinyAutoencoder(latent_channels=8, channels=(48, 80, 96), levels=2, num_blocks=2, pool_channels=0,
                                     patch_size=2),
        num_steps=3_500, batch_size=8, crop=64,
        learning_rate=1e-3, warmup_steps=150, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.998,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
