"""Schedulers' configs of diffusers: the same levels of noise, and no setting that goes without a word."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import export, models, schedules, weights
from indigo_jax.convert import kinds, to_diffusers
from indigo_jax.convert.scheduler import schedule_of

OLD = {"beta_start": 0.0001, "beta_end": 0.02}
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DEFAULTS = {"LCMScheduler": {**STABLE}, "HeunDiscreteScheduler": {**STABLE, "beta_schedule": "linear"}}


def diffusers_alphas(config):
    """``alphas_cumprod`` as the constructors of diffusers 0.42 make them, step by step."""
    config = {"beta_schedule": "linear", **OLD, **DEFAULTS.get(config.get("_class_name"), {}), **config}
    count, start, end = config.get("num_train_timesteps", 1000), config["beta_start"], config["beta_end"]
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"])
    elif config["beta_schedule"] == "linear":
        betas = np.linspace(start, end, count)
    elif config["beta_schedule"] == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count)**2
    else:
        def bar(t):
            return np.cos((t + 0.008) / 1.008 * np.pi / 2)**2
        betas = np.array([min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)])
    if config.get("rescale_betas_zero_snr"):
        root = np.sqrt(np.cumprod(1 - betas))
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        return root**2
    return np.cumprod(1 - betas)


@pytest.mark.parametrize("config", [
    {}, {"_class_name": "DDPMScheduler"}, {"beta_schedule": "scaled_linear"}, STABLE,
    {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}, {"_class_name": "LCMScheduler"},
    {"_class_name": "HeunDiscreteScheduler"}, {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.01},
    {"beta_schedule": "squaredcos_cap_v2", "beta_start": 0.3}, {"beta_schedule": "linear", "num_train_timesteps": 50},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
    {"trained_betas": [0.1, 0.2, 0.05], "beta_schedule": "sigmoid", "num_train_timesteps": 3},
    {**STABLE, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True, "prediction_type": "sample"},
    {"trained_betas": [0.1, 0.2, 0.05], "rescale_betas_zero_snr": True, "prediction_type": "sample"}], ids=str)
def test_the_levels_are_those_of_diffusers(config):
    info, _ = schedule_of(config, kinds.Options())
    levels = schedules.from_json(json.loads(json.dumps(info["schedule"])))
    wanted = diffusers_alphas(config)
    np.testing.assert_allclose(levels.alpha_bar, wanted, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(levels.timesteps, np.arange(len(wanted)))


def diffusers_timesteps(config, steps):
    """``set_timesteps`` of DDIM and PNDM, ascending."""
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "linspace":
        return np.linspace(0, 999, steps).round()
    if spacing == "trailing":
        return np.round(np.arange(1000, 0, -1000 / steps))[::-1] - 1
    return np.arange(steps) * (1000 // steps) + config.get("steps_offset", 0)


@pytest.mark.parametrize("config", [
    {}, {"steps_offset": 1, "set_alpha_to_one": False}, {"steps_offset": 1}, {"timestep_spacing": "trailing"},
    {"timestep_spacing": "trailing", "steps_offset": 1}, {"timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"_class_name": "PNDMScheduler"}], ids=str)
def test_the_steps_of_its_sampler_can_be_taken(config):
    info, _ = schedule_of({**STABLE, **config}, kinds.Options())
    spacing = info.get("timestep_spacing", "leading")
    levels = schedules.respace(schedules.from_json(info["schedule"]), 20, spacing, steps_offset=info["steps_offset"]
                               if spacing == "leading" else 0, set_alpha_to_one=info.get("set_alpha_to_one", True))
    alphas = diffusers_alphas(STABLE)
    timesteps = diffusers_timesteps(config, 20).astype(int)
    np.testing.assert_array_equal(levels.timesteps, timesteps)
    np.testing.assert_allclose(levels.alpha_bar, alphas[timesteps], rtol=1e-4)
    final = 1 if config.get("set_alpha_to_one", "_class_name" not in config) else alphas[0]
    np.testing.assert_allclose(levels.alpha_bar_prev[0], final, rtol=1e-5)


@pytest.mark.parametrize("config, kept, left", [
    ({"steps_offset": 1}, "steps_offset 1", ""),
    ({"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"},
     "steps_offset 1, set_alpha_to_one False", ""),
    ({"timestep_spacing": "trailing"}, "timestep_spacing 'trailing'", ""),
    ({"_class_name": "PNDMScheduler"}, "set_alpha_to_one False", ""),
    ({"thresholding": True}, "", "thresholding True"),
    ({"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "steps_offset": 1}, "steps_offset 1",
     "use_karras_sigmas True, final_sigmas_type 'sigma_min'"),
    ({"timestep_spacing": "other", "steps_offset": -1}, "", "timestep_spacing 'other', steps_offset -1"),
    ({"variance_type": "fixed_large"}, "", "variance_type 'fixed_large'"),
    ({"clip_sample": True, "clip_sample_range": 2.0}, "", "clip_sample_range 2.0")], ids=str)
def test_settings_of_its_sampler_are_said_in_one_sentence(config, kept, left):
    info, notes = schedule_of({**STABLE, **config}, kinds.Options())
    assert len(notes) == 1 and "\n" not in notes[0] and "the methods here choose theirs" in notes[0]
    parts = [f"{kept}, kept in the file for schedules.respace"] * bool(kept) + [f"{left}, left out"] * bool(left)
    assert notes[0].endswith(": " + "; ".join(parts))
    assert set(info) - {"schedule", "prediction", "steps_offset"} == {
        name for name in ("set_alpha_to_one", "timestep_spacing") if name in kept or config.get(name) == "leading"}


def test_settings_that_ask_for_nothing_special_need_no_word():
    """All that DDIM, DDPM and DPM-Solver write of themselves by default."""
    config = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", **STABLE, "num_train_timesteps": 1000,
              "trained_betas": None, "clip_sample": True, "clip_sample_range": 1.0, "set_alpha_to_one": True,
              "steps_offset": 0, "prediction_type": "epsilon", "thresholding": False, "sample_max_value": 1.0,
              "dynamic_thresholding_ratio": 0.995, "timestep_spacing": "leading", "rescale_betas_zero_snr": False,
              "variance_type": "fixed_small", "use_karras_sigmas": False, "lambda_min_clipped": -np.inf,
              "final_sigmas_type": "zero", "solver_order": 2, "algorithm_type": "dpmsolver++"}
    assert schedule_of(config, kinds.Options())[1] == []


@pytest.mark.parametrize("config, words", [
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEulerDiscreteScheduler, which has no"),
    ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "EDMEulerScheduler, which has no betas"),
    ({"_class_name": "CogVideoXDDIMScheduler", **STABLE, "snr_shift_scale": 3.0}, "snr_shift_scale = 3.0"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type = 'continuous'"),
    ({"use_flow_sigmas": True}, "use_flow_sigmas = True"), ({"variance_type": "learned"}, "variance_type = 'learned'"),
    ({"beta_schedule": "laplace"}, "beta_schedule 'laplace', which no schedule has; known are linear, scaled_linear"),
    ({"beta_start": None}, "betas make no schedule"), ({"num_train_timesteps": 0}, "betas make no schedule"),
    ({"num_train_timesteps": 10**9}, "betas make no schedule .*num_timesteps"), ({"beta_end": 1.5}, "every beta must"),
    ({"trained_betas": "x"}, "betas make no schedule"), ({"trained_betas": [0.1, 0.0]}, "must descend within"),
    ({"beta_start": float("nan")}, "betas make no schedule")], ids=str)
def test_configs_that_make_no_schedule(config, words):
    with pytest.raises(ValueError, match=words) as error:
        schedule_of(config, kinds.Options())
    assert "\n" not in str(error.value) and str(error.value).startswith("its scheduler")


def test_the_settings_go_through_a_file_to_the_exported_sampler_and_back(tmp_path, monkeypatch):
    settings = {"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}
    info, _ = schedule_of({"num_train_timesteps": 40, **settings}, kinds.Options())
    module = models.DenoisingUNet(width=4, multipliers=(1,), num_res_blocks=1)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    path, network = tmp_path / "p.safetensors", {"architecture": "DenoisingUNet", "arguments": {
        "width": 4, "multipliers": [1], "num_res_blocks": 1}}
    weights.save(path, params, {**network, **info})
    stored = weights.load(path)[2]
    assert {name: stored[name] for name in settings} == settings
    back = to_diffusers.scheduler_config(stored)
    assert {name: back[name] for name in settings} == settings and schedule_of(back, kinds.Options())[0] == info
    assert back["clip_sample"] and not to_diffusers.scheduler_config({**stored, "kind": "latent prior"})["clip_sample"]

    seen, respace = [], schedules.respace
    monkeypatch.setattr(schedules, "respace", lambda *args, **knobs: seen.append(respace(*args, **knobs)) or seen[-1])
    export.sampler(path, (8, 8), steps=4)
    assert seen[0].timesteps.tolist() == [1, 11, 21, 31]
    assert float(seen[0].alpha_bar_prev[0]) == float(schedules.from_json(info["schedule"]).alpha_bar[0]) < 1
    for name, value in (("steps_offset", -1), ("timestep_spacing", "x"), ("set_alpha_to_one", 3)):
        with pytest.raises(weights.WeightsError, match=f"'{name}' in its info is .*which schedules.respace does not"):
            weights.save(path, params, {**network, **info, name: value})
