"""The schedule of a prior's noise: from the config of a scheduler of diffusers, or what is usual."""
import numpy as np

from indigo_jax import schedules
from indigo_jax.convert.options import Options

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_BETAS = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
_CLASSES = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
            "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE",
            "DEISMultistep", "UniPCMultistep", "LCM", "TCD", "SASolver", "RePaint", "DDIMInverse", "DDIMParallel",
            "DDPMParallel", "DPMSolverMultistepInverse")  # whose betas are all there is to know
_OTHER_BETAS = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "LCM", "TCD")
_OTHER_SCHEDULE = ("LCM", "TCD")
# settings that make another schedule of it, or tell the network something else
_REFUSED = {"snr_shift_scale": (None, 1.0), "use_flow_sigmas": (None, False), "timestep_type": (None, "discrete"),
            "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log",
                              "learned_range")}
# of their samplers alone, with the values that ask for nothing special; solvers' own numbers are not among them
_KEPT = {"timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": True}
_IGNORED = {"thresholding": (None, False), "clip_sample_range": (None, 1.0), "use_karras_sigmas": (None, False),
            "use_exponential_sigmas": (None, False), "use_beta_sigmas": (None, False), "use_lu_lambdas": (None, False),
            "final_sigmas_type": (None, "zero"), "sigma_min": (None,), "sigma_max": (None,),
            "lambda_min_clipped": (None, -np.inf), "interpolation_type": (None, "linear"),
            "variance_type": (None, "fixed_small", "learned_range")}


def schedule_of(config: dict | None, options: Options) -> tuple[dict, list[str]]:
    """What a prior's info tells of its noise, and notes.

    Args:
        config: of a scheduler of diffusers, or None: then what is usual is taken and said.
        options: a schedule and a prediction that are said by hand go before both.

    Returns:
        ``{"schedule", "prediction"}`` and, where the config has them, ``"timestep_spacing"``, ``"steps_offset"`` and
        ``"set_alpha_to_one"`` for :func:`schedules.respace`.

    Errors:
        ValueError for a schedule that is none of ours.
    """
    notes, found = [], {"schedule": schedules.to_json("linear", num_timesteps=1000), "prediction": "eps"}
    if config is not None:
        found = _of_config(config)
        notes = _left(config)
    elif options.schedule is None:
        notes.append("nothing says what schedule of noise it was trained with: taken to be linear over 1000 steps, "
                     "predicting eps (--schedule, --prediction)")
    if options.schedule is not None:
        found["schedule"] = schedules.to_json(options.schedule, num_timesteps=1000)
    if options.prediction is not None:
        found["prediction"] = options.prediction
    return found, notes


def _of_config(config):
    kind = str(config.get("_class_name") or "DDIMScheduler").removeprefix("Flax").removesuffix("Scheduler")
    if kind not in _CLASSES and not any(name in config for name in _BETAS):
        raise ValueError(f"its scheduler is {config['_class_name']}, which has no betas: no schedule here is that of "
                         f"such a network; known are {', '.join(_CLASSES[:3])} and others")
    for name, values in _REFUSED.items():
        if config.get(name) not in values:
            raise ValueError(f"its scheduler has {name} = {config[name]!r}, which cannot be converted")
    schedule = config.get("beta_schedule", "scaled_linear" if kind in _OTHER_SCHEDULE else "linear")
    given = config.get("trained_betas")
    if schedule not in _SCHEDULES and given is None:
        raise ValueError(f"its scheduler has beta_schedule {schedule!r}, which no schedule has; known are "
                         f"{', '.join(_SCHEDULES)}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(f"its scheduler has prediction_type {prediction!r}; known are {', '.join(_PREDICTIONS)}")
    try:
        if given is not None:
            noise = schedules.to_json("own", alpha_bar=np.cumprod(1 - np.asarray(given, np.float64)))
        else:
            usual = (0.00085, 0.012) if kind in _OTHER_BETAS else (0.0001, 0.02)  # where the config has none
            betas = {} if schedule == "squaredcos_cap_v2" else {
                name: float(config.get(name, value)) for name, value in zip(("beta_start", "beta_end"), usual)}
            noise = schedules.to_json(_SCHEDULES[schedule], **betas,
                                      num_timesteps=int(config.get("num_train_timesteps", 1000)))
        levels = schedules.from_json(noise)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its scheduler's betas make no schedule ({error})") from error
    if config.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            raise ValueError("its scheduler has rescale_betas_zero_snr with prediction_type 'epsilon', which says "
                             "nothing of the picture at the noisiest level; it goes with v_prediction or sample")
        levels = schedules.rescale_zero_terminal_snr(levels)
        noise = schedules.to_json("own", alpha_bar=levels.alpha_bar, timesteps=levels.timesteps)
    return {"schedule": noise, "prediction": _PREDICTIONS[prediction], **_sampling(config)}


def _sampling(config):
    """The levels that their sampler visits, in the words of :func:`schedules.respace`; without values unknown to it."""
    given = {"steps_offset": 0, **({"set_alpha_to_one": False} if config.get("_class_name") == "PNDMScheduler" else {}),
             **{name: config[name] for name in _KEPT if config.get(name) is not None}}
    offset = given["steps_offset"]
    good = {"timestep_spacing": given.get("timestep_spacing") in ("leading", "trailing", "linspace"),
            "steps_offset": isinstance(offset, int) and not isinstance(offset, bool) and offset >= 0,
            "set_alpha_to_one": isinstance(given.get("set_alpha_to_one"), bool)}
    return {name: value for name, value in given.items() if good[name]}


def _left(config):
    """What is said of settings of their sampler: one sentence, or none where none is special."""
    found = _sampling(config)
    kept = [f"{name} {found[name]!r}" for name, value in _KEPT.items() if found.get(name, value) != value]
    ignored = [f"{name} {config[name]!r}" for name, values in _IGNORED.items() if config.get(name) not in values]
    ignored += [f"{name} {config[name]!r}" for name in _KEPT if config.get(name) is not None and name not in found]
    said = [f"{', '.join(kept)}, kept in the file for schedules.respace"] * bool(kept) + [
        f"{', '.join(ignored)}, left out"] * bool(ignored)
    sentence = f"its scheduler asks for steps of its own, and the methods here choose theirs: {'; '.join(said)}"
    return [sentence] if said else []
