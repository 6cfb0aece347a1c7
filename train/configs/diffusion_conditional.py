"""InDI's opponent: a diffusion of photographs given their damaged form, with InDI's network, pairs and batches.

Data: a pack of photographs, as for ``indi_against_diffusion.py``; the same mixture of degradations.
Command: ``python -m train.diffusion --config train/configs/diffusion_conditional.py --data imagenet256.npz
--workdir RUN``
Hardware: two CPU cores; about 0.2 s a step, as InDI's.
Expect: ``eval/results/given_y_conditional.md``; no weights of it are shipped, as it is for the comparison. Restore with
``denoisers.of(network, info, y=y)`` and any sampler.
The time that the network is told is that of the flow, in [0, 1] as InDI's, and its output ``x_t + t G`` the picture.
"""
from indigo_jax import schedules
from train.configs import indi_against_diffusion
from train.diffusion import DiffusionConfig


def get_config() -> DiffusionConfig:
    indi = indi_against_diffusion.get_config()
    return DiffusionConfig(
        model=indi.model.clone(condition_on_y=True),
        schedule=schedules.to_json("flow", num_timesteps=1000, time_scale=1.0), prediction="x0", condition="y",
        degradation=indi.degradation, margin=indi.margin, num_steps=indi.num_steps, batch_size=indi.batch_size,
        crop=indi.crop, learning_rate=indi.learning_rate, warmup_steps=indi.warmup_steps, decay="cosine",
        final_learning_rate=indi.final_learning_rate, weight_decay=indi.weight_decay, ema=indi.ema,
        checkpoint_every=500, log_every=50, eval_every=500, eval_samples=4, cache=True)
