"""The shipped network ``inn-pixel``: INDIGO's invertible network for pictures that were degraded twice and shrunk 4x.

Data: 5,000 aligned face pictures of 128 x 128 (UTKFace, for non-commercial research) in one pack, or any folder of
clean pictures of at least 96 x 96; degraded on the fly with the numbers of KDSR-GANV2, one in five by shrinking alone.
Command: ``python -m train.inn --config train/configs/inn_pixel.py --data faces128.npz --workdir RUN``
Hardware: one CPU core; 1.9 s a step, an hour.
Expect: of held-out faces 26.4 dB between the coarse part and the measurement (most of the rest is its noise), 40 dB for
pictures made of the measurement and their own details.
The network has its published size; the encoder is smaller than the published one (0.3 of 4.4 M parameters), which on a
CPU would cost more than all the rest. Learning rate and length are our own.
"""
from indigo_jax import models, operators
from train.inn import InnConfig


def get_config() -> InnConfig:
    return InnConfig(
        model=models.GuidanceINN(encoder_channels=32, encoder_blocks=3),
        degradation=operators.realesrgan("kdsr", factor=4),
        single=operators.compose(operators.downsample(4), operators.quantize()), single_share=0.2,
        num_steps=1_700, batch_size=8, crop=64, margin=16,
        learning_rate=1e-3, warmup_steps=100, final_learning_rate=1e-6, weight_decay=1e-5, ema=0.998,
        checkpoint_every=250, log_every=50, eval_every=500, data_threads=1, cache=True)
