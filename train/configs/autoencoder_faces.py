"""The shipped autoencoder ``autoencoder-faces``: 8 pixels per latent, 8 channels, small enough to train on a CPU.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, or any folder of
pictures; 64 x 64 cut out at random.
Command: ``python -m train.autoencoder --config train/configs/autoencoder_faces.py --data faces128.npz --workdir RUN``
Hardware: two CPU cores; 20 GFLOP and about 0.4 s a step, half an hour.
Expect: about 27 dB or more on held-out faces, latents of standard deviations near 1 (meant, not yet measured).
A network of 2.1 M parameters, 4 MB as float16. Pixels are folded 2 x 2 into channels at the door, so that the widest
level is 32 x 32 for 64 x 64 pixels. No pool branches: what a latent becomes depends on its neighbourhood alone, so
that pictures of any size can be taken in tiles.
"""
from indigo_jax import models
from train.autoencoder_config import AutoencoderConfig


def get_config() -> AutoencoderConfig:
    return AutoencoderConfig(
        model=models.TinyAutoencoder(latent_channels=8, channels=(48, 80, 96), levels=2, num_blocks=2, pool_channels=0,
                                     patch_size=2),
        num_steps=4_500, batch_size=8, crop=64,
        learning_rate=1e-3, warmup_steps=150, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.998,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
