"""A folder in which every command of the pages runs in seconds: tiny networks under the names of the bundled ones, tiny
pictures and checkpoints under the names that the pages give to files, and configs made small when they are read."""
import dataclasses
import functools
import os

import numpy as np
from PIL import Image

from eval import benchmark, command
from eval.configs import photo_degradations
from eval.figures import posteriors
from eval.speed import indi as speed_of_indi, latent_indigo
from eval.tables import calibration, conditional, opponents, people, solvers
from indigo_jax import convert, methods, metrics, models, operators, schedules, weights
from tests import foreign, guided_networks, inception_reference, networks
from tests.guided_networks import write
from tests.paths import ROOT
from tests.test_benchmark_indigo import TINY
from tests.test_cli_convert import contiguous
from tests.test_convert import SMALL, torch_state
from tests.torch_files import write_zip
from train import common, distributed

FOLDERS = ("pictures", "cbsd68", "faces_utk200", "anime64", "TRUE", "GOT", "holiday")
GIVEN_Y = {"width": 8, "multipliers": [1], "num_res_blocks": 1, "patch_size": 2, "condition_on_y": True}
FLOW = {"schedule": schedules.to_json("flow", num_timesteps=30, time_scale=1.0), "prediction": "flow", "condition": "y"}
SIZES = {"RestorationUNet": networks.ARGUMENTS, "DenoisingUNet": networks.DENOISER, "DDPMUNet": guided_networks.PRIOR,
         "ADMUNet": {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": (),
                     "image_size": 16, "num_head_channels": 4, "num_groups": 4},
         "TinyAutoencoder": guided_networks.SPACE, "GuidanceINN": {**guided_networks.INN, "levels": 1},
         "PromptedUNet": {"prompt_length": 5, "prompt_channels": 6, "block_out_channels": (8,),
                          "has_attention": (True,), "layers_per_block": 1, "num_heads": 2, "num_groups": 4},
         "AutoencoderKL": {"block_out_channels": (4, 8), "layers_per_block": 1, "num_groups": 4}}
NUMBERS = {"num_steps": 1, "batch_size": 8, "crop": 16, "margin": 0, "warmup_steps": 1, "eval_every": 1,
           "eval_samples": 2, "eval_size": 16, "eval_steps": 1, "checkpoint_every": 1, "log_every": 1,
           "data_threads": 0, "steps": 2, "learned": 16}


def bundle(folder):
    """A file for each bundled name, and their manifest."""
    def path(name):
        return folder / f"{name}.safetensors"

    folder.mkdir()
    networks.write_denoiser(path("photo"))
    networks.write_weights(path("indi-photo"), name="indi-photo")
    for name in ("faces64", "ellipses64"):
        guided_networks.write_prior(path(name))
    write(path("kernels9"), "DDPMUNet", {**guided_networks.PRIOR, "image_size": 9, "patch_size": 1}, (1, 9, 9, 3),
          (1,), prediction="v", schedule=schedules.to_json("cosine", num_timesteps=100))
    guided_networks.write_inn(path("inn-pixel"))
    write(path("autoencoder-faces"), "TinyAutoencoder", guided_networks.SPACE, (1, 16, 16, 3), size=0.2)
    space = {"name": "autoencoder-faces", "sha256": weights.verify(path("autoencoder-faces"))["sha256"]}
    write(path("latent-faces"), "LatentUNet", guided_networks.UNET, (1, 8, 8, 2), (1,), prediction="v", image_size=16,
          schedule=schedules.to_json("scaled_linear", num_timesteps=100), autoencoder=space)
    guided_networks.write_inn(path("inn-latent"), channels=2, autoencoder=space)
    assert {one.stem for one in folder.glob("*.safetensors")} == {
        one.stem for one in weights.FOLDER.glob("*.safetensors")}
    weights.update_manifest(folder)


def write_files(folder):
    """What the pages take for granted."""
    random = np.random.default_rng(0)

    def picture(name, side=64):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = np.cumsum(random.normal(size=(side, side, 3)), axis=1)
        Image.fromarray(np.uint8(np.clip(128 + 8 * smooth, 0, 255))).save(path)

    for name in FOLDERS:
        for part in ("train/", "val/") if name in ("pictures", "faces_utk200") else ("",):
            large = name in ("TRUE", "GOT")  # as the metrics need them
            for i in range(3 if large else 8):
                picture(f"{name}/{part}{i}.png", 192 if large else 64)
    for name in ("bsds400", "imagenet256"):
        pack(folder / f"{name}.npz", sorted((folder / "cbsd68").glob("*.png")))
    for name in ("runs", "results"):
        (folder / name).mkdir()
    for name in ("torn", "mask", "noisy", "y"):
        picture(f"{name}.png", 16)
    np.save(folder / "sinogram.npy", np.abs(random.normal(size=(16, 12))))
    for name in ("train", "eval"):
        (folder / name).symlink_to(ROOT / name)
    write_checkpoints(folder)


def pack(path, files):
    """A pack of pictures."""
    parts = [file.read_bytes() for file in files]
    np.savez(path, buf=np.frombuffer(b"".join(parts), np.uint8), off=np.cumsum([0, *map(len, parts)]),
             ids=[file.name for file in files], val_mask=np.arange(len(files)) % 2 == 1)


def write_checkpoints(folder):
    """Those of others, and weights that a page calls by a name of its own."""
    write_zip(folder / "drunet_color.pth", foreign.drunet())
    write_zip(folder / "v1-5.ckpt", {"state_dict": {
        **{f"first_stage_model.{name}": value for name, value in foreign.autoencoder_kl("compvis").items()},
        **{f"model.diffusion_model.{name}": value for name, value in foreign.latent_unet("compvis").items()}}})
    inception = inception_reference.state(16)
    write_zip(folder / "pt_inception-2015-12-05-6726825d.pth", inception)
    foreign.stable_diffusion(folder / "stable-diffusion-2-1", sample_size=8)
    from scipy import io
    niqe = metrics.default_niqe()
    io.savemat(folder / "niqe_modelparameters.mat", {"mu_prisparam": niqe.mean[None], "cov_prisparam": niqe.cov})
    state = contiguous(torch_state(models.DDPMUNet(**SMALL), 32))
    weights.save(folder / "celeba.safetensors", convert.ddpm_unet(state), {
        "architecture": "DDPMUNet", "arguments": {**SMALL, "image_size": 32}, "name": "celeba", "prediction": "eps",
        "schedule": schedules.to_json("linear"), "image_size": 32})
    for name in ("prior", "anime64"):
        guided_networks.write_prior(folder / f"{name}.safetensors")
    networks.write_weights(folder / "indi_small.safetensors")
    write(folder / "given_y.safetensors", "RestorationUNet", GIVEN_Y, (1, 16, 16, 3), (1,), (1, 16, 16, 3),
          range=[-1, 1], **FLOW)


def small(config):
    """A config with tiny networks and few steps."""
    def network(module):
        sizes = SIZES[type(module).__name__]
        known = {field.name for field in dataclasses.fields(module)}
        return module.clone(**{name: tuple(value) if isinstance(value, list) else value
                               for name, value in sizes.items() if name in known})

    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changes = {name: value for name, value in NUMBERS.items() if name in own}
    changes |= {name: network(own[name]) for name in ("model", "autoencoder", "inn")
                if type(own.get(name)).__name__ in SIZES}
    if own.get("degradation") is not None:
        changes["degradation"] = operators.random_gaussian_noise((5.0, 50.0))
    return dataclasses.replace(config, **changes)


def enter(folder, monkeypatch):
    """Make the folder the working directory, whose names mean what lies there; everything that is drawn, measured or
    trained is little of it."""
    def load_file(path, load=common.load_file):
        module = load(path)
        if "train/configs" in str(path):
            made = module.get_config()
            module.get_config = lambda: small(made)
        return module

    monkeypatch.chdir(folder)
    monkeypatch.setenv("INDIGO_CACHE", str(folder / "cache"))
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    monkeypatch.setattr(weights, "FOLDER", folder / "bundle")
    monkeypatch.setattr(common, "load_file", load_file)
    monkeypatch.setattr(distributed, "_join", lambda *_: None)
    monkeypatch.setattr(command, "RESULTS", folder / "results")
    degradations = photo_degradations.get_config()
    monkeypatch.setattr(photo_degradations, "get_config", lambda: degradations[:2])
    monkeypatch.setattr(speed_of_indi, "networks", lambda large: {"tiny": networks.module()})
    rows, *shown = benchmark.BENCHMARKS["indi"]
    monkeypatch.setitem(benchmark.BENCHMARKS, "indi", (lambda args: rows(args)[:1], *shown))
    for owner, name, value in (
            (latent_indigo, "SMALL", TINY), (latent_indigo, "VARIANTS", ("none", "latent")),
            (posteriors, "_DRAWN", methods.METHODS["ddnm"]),
            (calibration, "DRAWS", 8), (calibration, "LINES", calibration.LINES[-1:]), (conditional, "SIDE", 32),
            (opponents, "LINES", opponents.LINES[:1] + opponents.LINES[-1:]), (opponents, "EXAMPLES", 4),
            (people, "SIDE", 48),
            (people, "measure", functools.partial(people.measure, tasks=[
                task for task in people.TASKS if task.title == "noise, sigma 25"])),
            (solvers, "gaussian_errors", lambda seed, found=solvers.gaussian_errors: found(
                seed, solvers.SOLVERS[:1], (10,))),
            (solvers, "face_results", lambda *given, found=solvers.face_results: found(
                *given, solvers.SOLVERS[:1], (10,), 4))):
        monkeypatch.setattr(owner, name, value)
    assert os.path.samefile("train", ROOT / "train")
