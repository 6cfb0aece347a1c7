"""What networks of others answer, kept as numbers in ``tests/goldens``, so that converters are held to them anywhere.

    python -m tests.goldens                  makes those of diffusers and transformers anew; needs the extra ``parity``
    python -m tests.goldens_programs FOLDER  those of the papers' own programs

A golden is a tiny network: the configs that its library writes, names and shapes of its parameters, what goes in and
what comes out. The parameters themselves are drawn from their names (:func:`draw`), here as there.
"""
import json
import pathlib
import tempfile
import zlib
from typing import Any, NamedTuple

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))
X, T = np.random.default_rng(1).standard_normal((2, 4, 16, 16)).astype(np.float32), np.array([3, 870], np.float32)
RGB, LATENTS = X[:, :3], X[..., :8, :8]
CONTEXT = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)
POOLED = np.random.default_rng(3).standard_normal(10).astype(np.float32)


class Golden(NamedTuple):
    """A network and what it answers.

    Attributes:
        kind: "diffusers" for a folder that ``save_pretrained`` writes, "text" for a text encoder, "file" for a network
            in one file, "kdsr" for that encoder within its checkpoint, "lpips" for the metric of the two halves of x.
        config: what ``config.json`` holds; {} where there is none.
        shapes: of the parameters, by name.
        options: of the conversion; ``context`` and ``pooled`` are arrays of the golden.
        calls: (method or None, names of the arrays that go in, names of those that come out).
        arrays: those, pictures with channels first.
    """

    kind: str
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    options: dict[str, Any]
    calls: list
    arrays: dict[str, np.ndarray]


def draw(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters that are all far from zero and one, each from its name."""
    def one(name, shape):
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            return 0.5 * noise / max(1, np.prod(shape[1:])) ** 0.5
        return 0.2 * noise + name.endswith("weight")  # of a norm

    return {name: np.asarray(one(name, tuple(shape)), np.float32) for name, shape in shapes.items()}


def draw_for(kind: str, shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """:func:`draw` for a kind of golden: in long chains without norms the signal must not die out, and LPIPS has no
    weights of heads below zero."""
    gain = 2.8 if kind in ("kdsr", "lpips") else 1.0
    return {name: np.abs(value) if kind == "lpips" and name.startswith("lin") else value * gain**(value.ndim > 1)
            for name, value in draw(shapes).items()}


def load(name: str) -> Golden:
    """A golden of :data:`NAMES`."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return Golden(**json.loads(str(arrays.pop("about"))), arrays=arrays)


def save(name: str, golden: Golden) -> None:
    """Write it down."""
    FOLDER.mkdir(exist_ok=True)
    about = json.dumps({key: value for key, value in golden._asdict().items() if key != "arrays"})
    np.savez_compressed(FOLDER / f"{name}.npz", about=about, **golden.arrays)


# ------------------------------------------------------------------------------- with torch: what makes them

SMALL = dict(sample_size=16, layers_per_block=1, block_out_channels=(32, 64),
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
UNETS = {
    "defaults": {}, "ddpm": dict(attention_head_dim=None, norm_eps=1e-6, downsample_padding=0, freq_shift=1,
                                 flip_sin_to_cos=False),
    "heads_of_16": dict(attention_head_dim=16, norm_num_groups=8), "plain_middle": dict(add_attention=False),
    "three_levels": dict(block_out_channels=(32, 32, 64), layers_per_block=2, down_block_types=(
        "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
}
AUTOENCODER = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                   down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
AUTOENCODERS = {"4_channels": {}, "16_channels": dict(
    latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.3, scaling_factor=1.5)}
PROMPTED = {"sd": dict(
    block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=12, attention_head_dim=4, sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
    "xl": dict(
    block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=12, attention_head_dim=(2, 4), sample_size=4,
    transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 * 6 + 10, use_linear_projection=True,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))}


def make() -> dict[str, Golden]:
    """All of them, by the libraries that are installed."""
    import diffusers
    import torch
    import transformers
    torch.set_num_threads(1)

    def drawn(network):
        shapes = {name: list(value.shape) for name, value in network.state_dict().items()
                  if value.is_floating_point()}
        state = {name: torch.from_numpy(value) for name, value in draw(shapes).items()}
        network.load_state_dict(state, strict=False)
        return network.eval(), shapes

    def golden(kind, network, options, calls, **arrays):
        """``calls``: (method, names of inputs, {name: function of the inputs})."""
        network, shapes = drawn(network)
        config = {}
        if kind == "diffusers":
            with tempfile.TemporaryDirectory() as folder:
                network.save_pretrained(folder)
                config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        with torch.no_grad():
            for _, names, outputs in calls:
                for name, function in outputs.items():
                    arrays[name] = function(network, *(torch.from_numpy(arrays[each].copy()) for each in names)).numpy()
        said = [[method, names, list(outputs)] for method, names, outputs in calls]
        return Golden(kind, config, shapes, options, said, arrays)

    def seen(array, x):
        return torch.from_numpy(array)[None].expand(len(x), *array.shape)

    found = {}
    for name, layout in UNETS.items():
        found[f"unet2d_{name}"] = golden(
            "diffusers", diffusers.UNet2DModel(**{**SMALL, **layout}), {},
            [[None, ["x", "t"], {"y": lambda n, x, t: n(x, t).sample}]], x=RGB, t=T)
    found["unet2d_classes"] = golden(
        "diffusers", diffusers.UNet2DModel(**SMALL, num_class_embeds=5), {"label": 3},
        [[None, ["x", "t"], {"y": lambda n, x, t: n(x, t, class_labels=torch.full((2,), 3)).sample}]], x=RGB, t=T)
    for name, layout in AUTOENCODERS.items():
        shift = layout.get("shift_factor", 0.0)
        found[f"vae_{name}"] = golden(
            "diffusers", diffusers.AutoencoderKL(**AUTOENCODER, **layout), {},
            [["encode", ["x"], {"mean": lambda n, x: n.encode(x).latent_dist.mean - shift,
                                "log_var": lambda n, x: n.encode(x).latent_dist.logvar}],
             ["decode", ["mean"], {"y": lambda n, z: n.decode(z + shift).sample}]], x=RGB)
    found["vae_tiny"] = golden(
        "diffusers", diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4,
                                               decoder_block_out_channels=(8,) * 4), {},
        [["encode", ["x"], {"z": lambda n, x: n.encode(x).latents}],
         ["decode", ["z"], {"y": lambda n, z: n.decode(z).sample}]], x=RGB)
    found["prompted_sd"] = golden(
        "diffusers", diffusers.UNet2DConditionModel(**PROMPTED["sd"]), {"context": True},
        [[None, ["x", "t"], {"y": lambda n, x, t: n(x, t, encoder_hidden_states=seen(CONTEXT, x)).sample}]],
        x=LATENTS, t=T, context=CONTEXT)
    found["prompted_xl"] = golden(
        "diffusers", diffusers.UNet2DConditionModel(**PROMPTED["xl"]), {"context": True},
        [[None, ["x", "t"], {"y": lambda n, x, t: n(x, t, encoder_hidden_states=seen(CONTEXT, x), added_cond_kwargs={
            "text_embeds": seen(POOLED, x), "time_ids": torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 2)
        }).sample}]], x=LATENTS, t=T, context=CONTEXT, pooled=POOLED)
    found["text"] = golden(
        "text", transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=11, hidden_act="quick_gelu", bos_token_id=28, eos_token_id=29)),
        {"num_heads": 4, "activation": "quick_gelu"},
        [[None, ["tokens"], {"y": lambda n, t: n(t)[0][0]}]], tokens=np.array([[28] + 10 * [29]]))
    return found


if __name__ == "__main__":
    for which, made in make().items():
        save(which, made)
        print(f"{FOLDER / which}.npz: {len(made.shapes)} parameters, {', '.join(made.arrays)}")
