"""Goldens of networks that their papers' programs define, which no package installs; see :mod:`tests.goldens`.

    python -m tests.goldens_programs FOLDER        makes them anew, of checkouts in FOLDER

FOLDER has the repositories ``openai/guided-diffusion``, ``zsyOAOA/DifFace``, ``cszn/DPIR``, ``Zj-BinXia/KDSR``,
``richzhang/PerceptualSimilarity``, ``ermongroup/ddim`` and ``JingyunLiang/SwinIR`` of GitHub, each under its own name;
of one that is missing nothing is made. They need torch, LPIPS also torchvision and SwinIR timm. They are run to make
numbers; nothing of them is here.
"""
import contextlib
import importlib
import pathlib
import sys
from types import SimpleNamespace

import numpy as np

from tests import goldens
from tests.goldens import RGB, Golden, T

ADM = dict(image_size=16, in_channels=3, model_channels=32, out_channels=6, num_res_blocks=1, channel_mult=(1, 2),
           attention_resolutions=(2,), num_head_channels=16, use_scale_shift_norm=True, resblock_updown=True)
ADMS = {  # what differs, and what the conversion must be told
    "released": ({}, {"head_channels": 16}),
    "plain": (dict(num_head_channels=-1, num_heads=2, use_scale_shift_norm=False, resblock_updown=False, out_channels=3,
                   attention_resolutions=(1, 2)), {"heads": 2}),
    "classes": (dict(num_classes=5), {"head_channels": 16, "label": 3}),
    "new_order": (dict(num_head_channels=-1, num_heads=4, use_new_attention_order=True),
                  {"heads": 4, "attention_order": "new"}),
    "three_levels": (dict(channel_mult=(0.5, 1, 1), model_channels=64, num_res_blocks=2, attention_resolutions=(4,),
                          num_head_channels=32), {"head_channels": 32}),
    "middle_alone": (dict(attention_resolutions=()), {"head_channels": 16}),
}
BY_LEVEL = dict(num_res_blocks=[1, 2, 1], channel_mult=[1, 1, 2], attention_resolutions=[2, 4], resblock_updown=False)
SIGMA = np.array([0.1, 0.3], np.float32)
PAIR = np.random.default_rng(4).uniform(-1, 1, (4, 3, 31, 36)).astype(np.float32)  # smallest sides: 31
SMALL_PAIR = PAIR[..., :18, :23].copy()


def checkout(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """A repository among the checkouts; None where it is not there."""
    return folder / name if (folder / name).is_dir() else None


@contextlib.contextmanager
def importing(*folders):
    """The folders come first where modules are looked for, and what came from them is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if any(str(folder) in str(getattr(sys.modules[name], "__file__", None)) for folder in folders):
                del sys.modules[name]


def answered(kind, network, options, given, function, *, arrays) -> Golden:
    """One call of a network whose parameters are drawn: ``y = function(network, *arrays)``."""
    import torch
    constant = ("attn_mask", "relative_position_index", "scaling_layer.shift", "scaling_layer.scale")
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()
              if not name.endswith(constant) and not name.startswith("lins.")}  # LPIPS: its heads once more
    state = {name: torch.from_numpy(value) for name, value in goldens.draw_for(kind, shapes).items()}
    left, _ = network.load_state_dict(state, strict=False)
    assert all(name.endswith(constant) or name.startswith("lins.") for name in left), left
    with torch.no_grad():
        y = function(network.eval(), *(torch.from_numpy(arrays[name].copy()) for name in given)).numpy()
    return Golden(kind, {}, shapes, options, [[None, list(given), ["y"]]], {**arrays, "y": y})


def adm(folder):
    """Guided diffusion, and DifFace's form of it, whose blocks are counted level by level (INDIGO+'s prior)."""
    made = {}
    if (program := checkout(folder, "guided-diffusion")) is not None:
        with importing(program):
            unet = importlib.import_module("guided_diffusion.unet")
            for name, (changes, options) in ADMS.items():
                label = [options["label"]] * 2 if "label" in options else None
                made[f"adm_{name}"] = answered(
                    "file", unet.UNetModel(**{**ADM, **changes}), {"image_size": 16, **options}, ["x", "t"],
                    lambda n, x, t, label=label: n(x, t, *([] if label is None else [t.new_tensor(label).long()])),
                    arrays={"x": RGB, "t": T})
    if (program := checkout(folder, "DifFace")) is not None:
        with importing(program):
            unet = importlib.import_module("models.unet")
            made["adm_by_level"] = answered(
                "file", unet.UNetModel(**{**ADM, **BY_LEVEL}), {"image_size": 16, "head_channels": 16}, ["x", "t"],
                lambda n, x, t: n(x, t), arrays={"x": RGB, "t": T})
    return made


def ddpm(folder):
    """The UNet of DDIM's program, which SDEdit and BIRD use, too."""
    if (program := checkout(folder, "ddim")) is None:
        return {}
    config = SimpleNamespace(
        model=SimpleNamespace(ch=32, out_ch=3, ch_mult=[1, 2, 2], num_res_blocks=1, attn_resolutions=[8], dropout=0.0,
                              in_channels=3, resamp_with_conv=True, type="simple"),
        data=SimpleNamespace(image_size=16), diffusion=SimpleNamespace(num_diffusion_timesteps=1000))
    with importing(program):
        network = importlib.import_module("models.diffusion").Model(config)
        return {"ddpm_three_levels": answered("file", network, {"image_size": 16}, ["x", "t"],
                                              lambda n, x, t: n(x, t), arrays={"x": RGB, "t": T})}


def drunet(folder):
    """DRUNet: pictures in [0, 1] with a map of the level, here in [-1, 1] with sigma in that unit."""
    if (program := checkout(folder, "DPIR")) is None:
        return {}

    def denoise(network, x, sigma):
        import torch
        level = (sigma / 2)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        channels = network.m_tail.weight.shape[0]
        clean = [network(torch.cat([(part + 1) / 2, level], 1)) for part in torch.split(x, channels, 1)]
        return 2 * torch.cat(clean, 1) - 1

    with importing(program):
        unet = importlib.import_module("models.network_unet")
        return {f"drunet_{name}": answered(
            "file", unet.UNetRes(in_nc=channels + 1, out_nc=channels, nc=[8, 12, 16, 20], nb=blocks), {},
            ["x", "sigma"], denoise, arrays={"x": RGB, "sigma": SIGMA})
            for name, channels, blocks in (("colour", 3, 2), ("grey", 1, 3))}


def kdsr(folder):
    """The encoder of KDSR, as it lies in a whole checkpoint of it: beside the generator."""
    if (program := checkout(folder, "KDSR")) is None:
        return {}
    with importing(program / "KDSR-classic"):
        blind = importlib.import_module("model_ST.blindsr").BlindSR(
            SimpleNamespace(n_feats=6, n_resblocks=2, n_blocks=1, scale=[2], rgb_range=1))
        x = np.float32(0.5) + np.float32([0.05, 0.4])[:, None, None, None] * RGB[..., :9, :7]
        return {"kdsr_encoder": answered("kdsr", blind, {}, ["x"], lambda n, x: n.E_st(x)[0], arrays={"x": x})}


def swinir(folder):
    """SwinIR for denoising, and DifFace's, which folds pixels first and is INDIGO+'s first estimate.

    Pictures are in [0, 1] there and in [-1, 1] here.
    """
    small = dict(img_size=8, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4, mlp_ratio=2, img_range=1.0)
    layouts = {"SwinIR": ("plain", "network_swinir", dict(upscale=1, upsampler="")),
               "DifFace": ("folded", "swinir", dict(sf=2, upsampler="nearest+conv", unshuffle=True, unshuffle_scale=2))}
    made = {}
    for repository, (name, module, arguments) in layouts.items():
        if (program := checkout(folder, repository)) is not None:
            with importing(program):
                network = importlib.import_module(f"models.{module}").SwinIR(**small, **arguments)
                made[f"swinir_{name}"] = answered("file", network, {}, ["x"], lambda n, x: 2 * n((x + 1) / 2) - 1,
                                                  arrays={"x": RGB})
    return made


def lpips(folder):
    """The three metrics, of two pairs of pictures."""
    if (program := checkout(folder, "PerceptualSimilarity")) is None:
        return {}
    with importing(program):
        package = importlib.import_module("lpips")
        return {f"lpips_{net}": answered(
            "lpips", package.LPIPS(pretrained=False, net=net, pnet_rand=True, verbose=False), {}, ["x"],
            lambda n, x: n(x[:2], x[2:])[:, 0, 0, 0], arrays={"x": PAIR if net == "alex" else SMALL_PAIR})
            for net in ("alex", "squeeze", "vgg")}


def make(folder: str) -> dict[str, Golden]:
    """All of those whose programs are in the folder."""
    import torch
    torch.set_num_threads(1)
    return {name: golden for family in (adm, ddpm, drunet, kdsr, swinir, lpips)
            for name, golden in family(pathlib.Path(folder).resolve()).items()}


if __name__ == "__main__":
    for which, made in make(sys.argv[1]).items():
        goldens.save(which, made)
        print(f"{goldens.FOLDER / which}.npz: {len(made.shapes)} parameters, {', '.join(made.arrays)}")
