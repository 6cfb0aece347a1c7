"""What a person says of a foreign checkpoint, what becomes of it, and the schedule of its noise."""
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from indigo_jax import schedules
from indigo_jax.typing import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a checkpoint may not say of itself; None: as it says, or what is usual.

    Attributes:
        image_size: side of the pictures of its training.
        schedule: of the noise, over 1000 steps: linear, scaled_linear or cosine.
        prediction: eps, x0 or v.
        heads, head_channels: of attention: their number on every level, or their width.
        num_groups: of every GroupNorm.
        label: of a network with classes, the one to believe in, from 0; "mean" for the mean of all.
        scaling_factor, shift_factor: of an autoencoder: diffusion works on ``scaling_factor (z - shift_factor)``.
        context: a file ``.npy`` with the embedding of the empty text ``[L, D]``, for a prior that was made for texts;
            or ``.npz`` with "context" and, for Stable Diffusion XL, "pooled" ``[D]``.
        prompt: the same of a text, towards which the prior is then guided without a classifier.
        prompt_scale: how strongly; 5 where a prompt is given.
        autoencoder: weights, by name or path, of the autoencoder whose latents a prior knows.
        encoder: a checkpoint of the network that makes the condition of INDIGO+'s invertible one.
    """

    image_size: int | None = None
    schedule: str | None = None
    prediction: str | None = None
    heads: int | None = None
    head_channels: int | None = None
    num_groups: int | None = None
    label: int | str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    context: str | None = None
    autoencoder: str | None = None
    encoder: str | None = None
    prompt: str | None = None
    prompt_scale: float | None = None


class Converted(NamedTuple):
    """A network of ours with foreign parameters.

    Attributes:
        module: the linen module.
        params: its variables.
        info: what :func:`weights.save` needs beside architecture and arguments.
        notes: what a person should know, sentences.
    """

    module: Any
    params: Params
    info: dict
    notes: tuple[str, ...] = ()


def schedule_of(config: dict | None, options: Options) -> tuple[dict, list[str]]:
    """``{"schedule", "prediction"}`` of a prior, from the config of a diffusers scheduler or what is usual, and notes.

    Errors:
        ValueError for a schedule that is none of ours.
    """
    notes, usual = [], {"schedule": schedules.to_json("linear", num_timesteps=1000), "prediction": "eps"}
    if config is not None:
        names = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
        name = names.get(config.get("beta_schedule", "linear"))
        given = config.get("trained_betas")
        if name is None and given is None:
            raise ValueError(f"its scheduler has beta_schedule {config['beta_schedule']!r}, which no schedule has; "
                             f"known are {', '.join(names)}")
        betas = {key: float(config[key]) for key in ("beta_start", "beta_end") if key in config and name != "cosine"}
        count = int(config.get("num_train_timesteps", 1000))
        usual["schedule"] = (schedules.to_json(name, num_timesteps=count, **betas) if given is None else
                             schedules.to_json("own", alpha_bar=np.cumprod(1 - np.asarray(given, np.float64))))
        kinds = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in kinds:
            raise ValueError(f"its scheduler has prediction_type {prediction!r}; known are {', '.join(kinds)}")
        usual["prediction"] = kinds[prediction]
        if config.get("rescale_betas_zero_snr"):
            if usual["prediction"] == "eps":
                raise ValueError("its scheduler has rescale_betas_zero_snr with prediction_type 'epsilon', which says "
                                 "nothing of the picture at the noisiest level; it goes with v_prediction or sample")
            levels = schedules.rescale_zero_terminal_snr(schedules.from_json(usual["schedule"]))
            usual["schedule"] = schedules.to_json("own", alpha_bar=levels.alpha_bar, timesteps=levels.timesteps)
        usual["steps_offset"] = int(config.get("steps_offset", 0))
    elif options.schedule is None:
        notes.append("nothing says what schedule of noise it was trained with: taken to be linear over 1000 steps, "
                     "predicting eps (--schedule, --prediction)")
    if options.schedule is not None:
        usual["schedule"] = schedules.to_json(options.schedule, num_timesteps=1000)
    if options.prediction is not None:
        usual["prediction"] = options.prediction
    return usual, notes


def first_of(names) -> str:
    """The first three, for an error.

    >>> first_of("abcd")
    'a, b, c, ...'
    """
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
