"""4x super-resolution on DIV2K (Agustsson & Timofte 2017): 800 pictures of 2K, MATLAB-like bicubic shrinking.

Data: the folder ``DIV2K_train_HR`` (add Flickr2K to the same folder if you have it), or tensorflow-datasets'
``tfds:div2k`` prepared as array_record. The small pictures are made on the device.
Command: ``python -m train.indi --config train/configs/indi_div2k_sr4.py --data DIV2K_train_HR --workdir RUN``
Hardware: a TPU v5e-16 or eight data-centre GPUs, about a day (estimated, not run).
Expect: others report for InDI on the DIV2K validation set, 100 steps: PSNR 26.45, LPIPS (AlexNet) 0.136, FID 15.39
(OFTSR, Tab. 1). One step gives the best PSNR, more steps the better LPIPS.
The noise level is 0.1 and the network sees y: with large loss of information both measurably help (the same source,
Tab. 7); the paper's default of 0.01 without y is one flag and one argument away.
"""
from indigo_jax import models, operators
from train.indi import IndiConfig


def get_config() -> IndiConfig:
    return IndiConfig(
        model=models.RestorationUNet(width=64, condition_on_y=True, dtype="bfloat16"),
        degradation=operators.random_super_resolution(4, sigma_255=(0.0, 0.0)), tasks=("sr",),
        num_steps=500_000, batch_size=256, crop=192, margin=16, noise="constant", eps=0.1, a=1.0, learning_rate=2e-4,
        warmup_steps=5000)
