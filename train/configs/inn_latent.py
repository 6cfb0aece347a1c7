"""The shipped network ``inn-latent``: INDIGO's invertible network for latents of pictures degraded twice and shrunk 4x.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, or any folder of
clean pictures; degraded on the fly with the numbers of KDSR-GANV2, one in five by shrinking alone, as for
``inn_pixel``. The autoencoder is ``autoencoder-faces``, or another file: ``--autoencoder FILE``.
Command: ``python -m train.inn --config train/configs/inn_latent.py --data faces128.npz --workdir RUN``
Hardware: one CPU core; 2.7 s a step, most of it for encoding and degrading, half an hour.
Expect: of held-out faces, decoded, 30.2 dB between the coarse part and the measurement's latents, 34.9 dB for latents
made of the measurement's and their own details.
Measurements of 32 x 32 become 4 x 4 latents, the coarse part of the 16 x 16 ones of a picture. The pictures fill the
crop, so that there is no margin. Learning rate and length are our own; the papers' are not known to us.
"""
from indigo_jax import models, operators
from train.inn import InnConfig


def get_config() -> InnConfig:
    return InnConfig(
        model=models.GuidanceINN(channels=8, offset=0.0, encoder_channels=32, encoder_blocks=3),
        autoencoder="autoencoder-faces",
        degradation=operators.realesrgan("kdsr", factor=4),
        single=operators.compose(operators.downsample(4), operators.quantize()), single_share=0.2,
        num_steps=700, batch_size=8, crop=128, margin=0,
        learning_rate=1e-3, warmup_steps=100, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.998,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
