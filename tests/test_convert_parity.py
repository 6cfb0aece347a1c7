"""Converted networks beside torch and diffusers themselves, where these are installed (extra ``parity``)."""
import json
import os

import jax
import numpy as np
import pytest

from indigo_jax import convert
from indigo_jax.convert import checkpoint, compvis, kinds, sources

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs


def randomised(network, seed=0):
    """The network with parameters that are all far from zero and one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(0.5 * noise / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 0.2 * noise + (
                "norm" in name and name.endswith("weight")))
    return network.eval()


def pictures(batch=2, channels=3, side=16, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, channels, side, side)).astype(np.float32)


def ours(converted, x, *arguments, **options):
    x = np.moveaxis(x, 1, -1)
    found = jax.jit(lambda p, *a: converted.module.apply(p, *a, **options))(converted.params, x, *arguments)
    return jax.tree.map(lambda each: np.moveaxis(np.asarray(each), -1, 1), found)


def theirs(function, *arrays):
    with torch.no_grad():
        return function(*(torch.from_numpy(np.asarray(each)) for each in arrays))


def close(a, b):
    b = np.asarray(b)
    assert np.std(b) > 0.01
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max(), rtol=1e-4)


SMALL = dict(sample_size=16, layers_per_block=1, block_out_channels=(32, 64),
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
LAYOUTS = {
    "defaults": {}, "google/ddpm": dict(attention_head_dim=None, norm_eps=1e-6, downsample_padding=0, freq_shift=1,
                                        flip_sin_to_cos=False),
    "heads of 16": dict(attention_head_dim=16, norm_num_groups=8), "no attention in the middle": dict(
        add_attention=False), "classes": dict(num_class_embeds=5),
    "three levels": dict(block_out_channels=(32, 32, 64), layers_per_block=2, down_block_types=(
        "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unet2d(tmp_path, layout):
    network = randomised(diffusers.UNet2DModel(**{**SMALL, **LAYOUTS[layout]}))
    network.save_pretrained(tmp_path)
    x, t = pictures(), np.array([3.0, 870.0], np.float32)
    label = 3 if layout == "classes" else None
    options = {} if label is None else {"class_labels": torch.full((2,), label)}
    expected = theirs(lambda x, t: network(x, t, **options).sample, x, t)
    close(ours(kinds.load(str(tmp_path), options=kinds.Options(label=label)), x, t), expected)


@pytest.mark.parametrize("safe", [True, False])
def test_a_pipeline_with_its_scheduler(tmp_path, safe):
    network = randomised(diffusers.UNet2DModel(**{**SMALL, **LAYOUTS["google/ddpm"]}))
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2",
                                        prediction_type="v_prediction")
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path, safe_serialization=safe)
    converted = kinds.load(str(tmp_path))
    assert converted.info["prediction"] == "v"
    from indigo_jax import schedules
    np.testing.assert_allclose(schedules.from_json(converted.info["schedule"]).alpha_bar, scheduler.alphas_cumprod,
                               rtol=1e-4, atol=1e-7)
    x, t = pictures(), np.array([3.0, 470.0], np.float32)
    close(ours(converted, x, t), theirs(lambda x, t: network(x, t).sample, x, t))


@pytest.mark.parametrize("arguments", [
    {}, {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.3,
         "scaling_factor": 1.5}, {"mid_block_add_attention": False}, {"shift_factor": -0.2}])
def test_autoencoder_kl(tmp_path, arguments):
    network = randomised(diffusers.AutoencoderKL(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, **arguments))
    network.save_pretrained(tmp_path)
    converted, x = kinds.load(str(tmp_path)), pictures()
    shift, factor = arguments.get("shift_factor") or 0.0, arguments.get("scaling_factor", 0.18215)
    assert converted.module.scaling_factor == factor
    z = theirs(lambda x: network.encode(x).latent_dist.mean, x)
    mean, log_var = ours(converted, x, method="encode")
    close(mean, z - shift)
    close(log_var, theirs(lambda x: network.encode(x).latent_dist.logvar, x))
    close(ours(converted, np.asarray(z - shift), method="decode"), theirs(lambda z: network.decode(z).sample, z))


@pytest.mark.parametrize("safe", [True, False])
def test_autoencoder_tiny(tmp_path, safe):
    network = randomised(diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4,
                                                   decoder_block_out_channels=(8,) * 4))
    network.save_pretrained(tmp_path, safe_serialization=safe)
    converted, x = kinds.load(str(tmp_path)), pictures()
    z = theirs(lambda x: network.encode(x).latents, x)
    close(ours(converted, x, method="encode"), z)
    close(ours(converted, np.asarray(z), method="decode"), theirs(lambda z: network.decode(z).sample, z))


@pytest.mark.parametrize("new", [True, False])
def test_files_of_torch(tmp_path, new):
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    base = torch.randn(6, 5)
    state = {str(dtype): (3 * torch.randn(4, 3)).to(dtype) for dtype in dtypes}
    state |= {"view": base[1:4, ::2], "turned": base.T, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3),
              "parameter": torch.nn.Parameter(base.clone())}
    torch.save({"state_dict": state, "optimizer": {"param_groups": []}, "epoch": 3}, tmp_path / "net.pt",
               _use_new_zipfile_serialization=new)
    found = checkpoint.read(tmp_path / "net.pt").tensors
    assert found.keys() == state.keys()
    for name, value in state.items():
        value = value.detach()
        value = value.float() if value.is_floating_point() else value
        np.testing.assert_array_equal(checkpoint.array(found[name]), value.numpy())


class ResBlock(torch.nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, width):
        super().__init__()
        conv = [torch.nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        self.res = torch.nn.Sequential(conv[0], torch.nn.ReLU(), conv[1])

    def forward(self, x):
        return x + self.res(x)


class DRUNet(torch.nn.Module):
    """As section 3 of its paper describes it, with the names of the released checkpoints."""

    def __init__(self, widths, blocks, channels):
        super().__init__()
        self.m_head = torch.nn.Conv2d(channels + 1, widths[0], 3, padding=1, bias=False)
        for level in range(1, len(widths)):
            wide, deep = widths[level - 1], widths[level]
            down = [ResBlock(wide) for _ in range(blocks)] + [torch.nn.Conv2d(wide, deep, 2, 2, bias=False)]
            up = [torch.nn.ConvTranspose2d(deep, wide, 2, 2, bias=False)] + [ResBlock(wide) for _ in range(blocks)]
            setattr(self, f"m_down{level}", torch.nn.Sequential(*down))
            setattr(self, f"m_up{level}", torch.nn.Sequential(*up))
        self.m_body = torch.nn.Sequential(*(ResBlock(widths[-1]) for _ in range(blocks)))
        self.m_tail = torch.nn.Conv2d(widths[0], channels, 3, padding=1, bias=False)
        self.levels = len(widths)

    def forward(self, x):
        skips = [self.m_head(x)]
        for level in range(1, self.levels):
            skips.append(getattr(self, f"m_down{level}")(skips[-1]))
        h = self.m_body(skips[-1])
        for level in range(self.levels - 1, 0, -1):
            h = getattr(self, f"m_up{level}")(h + skips.pop())
        return self.m_tail(h + skips.pop())


@pytest.mark.parametrize("widths, blocks, channels", [((8, 12, 16, 20), 2, 3), ((4, 8), 1, 1)])
def test_drunet(tmp_path, widths, blocks, channels):
    network = randomised(DRUNet(widths, blocks, channels))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    x, sigma = pictures(), np.array([0.1, 0.3], np.float32)
    level = np.broadcast_to(sigma[:, None, None, None] / 2, (2, 1, 16, 16))
    each = [x] if channels == 3 else [x[:, i:i + 1] for i in range(3)]
    expected = [theirs(network, np.concatenate([(one + 1) / 2, level], axis=1)) for one in each]
    close(ours(kinds.load(str(tmp_path / "net.pth")), x, sigma), 2 * np.concatenate(expected, axis=1) - 1)


def test_configs_are_read_as_diffusers_reads_them(tmp_path):
    """What a config leaves out is as in the version that is installed."""
    network = randomised(diffusers.UNet2DModel(**SMALL))
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: config[name] for name in (*SMALL, "_class_name")}))
    x, t = pictures(), np.array([3.0, 870.0], np.float32)
    close(ours(kinds.load(str(tmp_path)), x, t), theirs(lambda x, t: network(x, t).sample, x, t))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_empty_text(activation):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                         num_attention_heads=4, max_position_embeddings=11, hidden_act=activation,
                                         bos_token_id=28, eos_token_id=29)
    network = randomised(transformers.CLIPTextModel(config))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    for pad in (None, 0):
        tokens = [28, 29] + [29 if pad is None else pad] * 9
        expected = theirs(lambda t: network(t)[0], np.array([tokens]))[0]
        close(convert.empty_text(state, num_heads=4, activation=activation, pad=pad), expected)


def test_conditional_unet_and_its_other_names(tmp_path):
    """diffusers' own reading of the names of latent diffusion gives what ours gives."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from tests import foreign
    network = randomised(diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=12, attention_head_dim=4, sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")))
    network.save_pretrained(tmp_path)
    context = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    np.save(tmp_path / "empty.npy", context)
    x, t = pictures(channels=4, side=8), np.array([3.0, 870.0], np.float32)
    seen = torch.from_numpy(np.broadcast_to(context, (2, 5, 12)).copy())
    expected = theirs(lambda x, t: network(x, t, encoder_hidden_states=seen).sample, x, t)
    options = kinds.Options(context=str(tmp_path / "empty.npy"))
    close(ours(kinds.load(str(tmp_path), options=options), x, t), expected)

    state = foreign.latent_unet("compvis")
    theirs_of = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": torch.from_numpy(np.array(value))
                                             for name, value in state.items()}, {"layers_per_block": 1})
    ours_of = compvis.unet(state)
    assert ours_of.keys() == theirs_of.keys()
    assert all(np.array_equal(ours_of[name], np.asarray(value)) for name, value in theirs_of.items())


def test_the_client_of_the_hub_reads_the_same_cache(tmp_path, monkeypatch):
    """A folder that the client takes for its own cache, by its own function."""
    hub = pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = hub.snapshot_download("someone/tiny", cache_dir=tmp_path, local_files_only=True)
    found = sources.resolve("hf:someone/tiny")
    assert str(found.path) == folder and found.revision == commit


XL = dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=12, attention_head_dim=(2, 4),
          sample_size=4, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
          addition_time_embed_dim=8, projection_class_embeddings_input_dim=8 * 6 + 10, use_linear_projection=True,
          down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))


def test_the_unet_of_xl(tmp_path):
    """Transformers of several blocks, and what it is told beside the time."""
    network = randomised(diffusers.UNet2DConditionModel(**XL))
    network.save_pretrained(tmp_path)
    random = np.random.default_rng(0)
    context, pooled = random.standard_normal((5, 12)).astype(np.float32), random.standard_normal(10).astype(np.float32)
    np.savez(tmp_path / "text.npz", context=context, pooled=pooled)
    told = {"text_embeds": torch.from_numpy(np.stack([pooled] * 2)),
            "time_ids": torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 2)}
    x, t = pictures(channels=4, side=8), np.array([3.0, 870.0], np.float32)
    seen = torch.from_numpy(np.stack([context] * 2))
    expected = theirs(lambda x, t: network(x, t, encoder_hidden_states=seen, added_cond_kwargs=told).sample, x, t)
    converted = kinds.load(str(tmp_path), options=kinds.Options(context=str(tmp_path / "text.npz")))
    assert converted.module.transformer_depth == (1, 2)
    close(ours(converted, x, t), expected)


def stable_diffusion(folder):
    """A tiny random one, in the folder that diffusers makes of it; and its text encoder."""
    transformers = pytest.importorskip("transformers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = diffusers.AutoencoderKL(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                                  down_block_types=("DownEncoderBlock2D",) * 2,
                                  up_block_types=("UpDecoderBlock2D",) * 2)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="gelu", bos_token_id=28, eos_token_id=29))
    for seed, network in enumerate((unet, vae, text)):
        randomised(network, seed)
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                                        steps_offset=1, clip_sample=False)
    diffusers.StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=None, unet=unet, scheduler=scheduler,
                                      safety_checker=None, feature_extractor=None, requires_safety_checker=False
                                      ).save_pretrained(folder)
    return unet, text


def test_a_stable_diffusion_pipeline_through_the_commands(tmp_path, monkeypatch):
    """The folder that diffusers makes; the empty text of its own encoder; a picture."""
    from PIL import Image

    from indigo_jax import weights
    from indigo_jax.cli import main
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    unet, text = stable_diffusion(tmp_path / "sd")
    vae, prior = str(tmp_path / "vae.safetensors"), str(tmp_path / "prior.safetensors")
    assert main(["weights", "convert", str(tmp_path / "sd"), "-o", vae, "--from", "vae", "--dtype", "float32"]) == 0
    assert main(["weights", "convert", str(tmp_path / "sd"), "-o", prior, "--from", "latent-unet", "--autoencoder", vae,
                 "--dtype", "float32", "--image-size", "16"]) == 0
    module, params, info = weights.load(prior, kind="latent prior")
    seen = theirs(lambda t: text(t)[0], np.array([[28] + [29] * 76]))
    close(params["params"]["context"], seen[0])
    x, t = pictures(channels=4, side=8), np.array([3.0, 870.0], np.float32)
    both = torch.cat([seen] * 2)
    expected = theirs(lambda x, t: unet(x, t, encoder_hidden_states=both).sample, x, t)
    close(np.moveaxis(np.asarray(jax.jit(module.apply)(params, np.moveaxis(x, 1, -1), t)), -1, 1), expected)
    assert info["steps_offset"] == 1
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--method", "latent-indigo",
                 "--task", "sr", "--prior", prior, "--autoencoder", vae, "--variant", "pixel", "--steps", "2"]) == 0


@pytest.mark.parametrize("kind", ["unet2d", "vae", "unet"])
def test_diffusers_reads_what_is_exported(tmp_path, kind):
    """``from_pretrained`` of the folder gives the network that it was made of."""
    from indigo_jax.convert import to_diffusers
    context = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    np.save(tmp_path / "text.npy", context)
    if kind == "unet2d":
        network = diffusers.UNet2DModel(**{**SMALL, **LAYOUTS["google/ddpm"]})
    elif kind == "vae":
        network = diffusers.AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8,
                                          down_block_types=("DownEncoderBlock2D",) * 2,
                                          up_block_types=("UpDecoderBlock2D",) * 2)
    else:
        network = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
            sample_size=8, transformer_layers_per_block=(2, 1), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    randomised(network).save_pretrained(tmp_path / "theirs")
    options = kinds.Options(context=str(tmp_path / "text.npy")) if kind == "unet" else kinds.Options()
    converted = kinds.load(str(tmp_path / "theirs"), options=options)
    to_diffusers.save(tmp_path / "ours", converted.module, converted.params, converted.info)
    again = type(network).from_pretrained(tmp_path / "ours").eval()
    x, t = pictures(channels=4 if kind == "unet" else 3), np.array([3.0, 870.0], np.float32)
    seen = torch.from_numpy(np.stack([context] * 2))
    call = {"unet2d": lambda network: lambda x, t: network(x, t).sample,
            "vae": lambda network: lambda x, t: network(x).sample,
            "unet": lambda network: lambda x, t: network(x, t, encoder_hidden_states=seen).sample}[kind]
    close(theirs(call(again), x, t), theirs(call(network), x, t))


class Encoder(torch.nn.Module):
    """KDSR's, as section 3 of its paper has it, with the names of the released checkpoints."""

    def __init__(self, width=8, blocks=2, out=5):
        super().__init__()

        def conv(into, out):
            return torch.nn.Conv2d(into, out, 3, padding=1)

        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.body = torch.nn.Sequential(conv(width, width), torch.nn.LeakyReLU(0.1), conv(width, width))

            def forward(self, x):
                return x + self.body(x)

        leaky = torch.nn.LeakyReLU(0.1)
        self.E = torch.nn.Sequential(conv(3, width), leaky, *(Block() for _ in range(blocks)), conv(width, 2 * width),
                                     leaky, conv(2 * width, 2 * width), leaky, conv(2 * width, 4 * width), leaky,
                                     torch.nn.AdaptiveAvgPool2d(1))
        self.mlp = torch.nn.Sequential(torch.nn.Linear(4 * width, 4 * width), leaky,
                                       torch.nn.Linear(4 * width, 4 * width), leaky)
        self.compress = torch.nn.Sequential(torch.nn.Linear(4 * width, out), leaky)

    def forward(self, x):
        return self.compress(self.mlp(self.E(x)[..., 0, 0]))


def test_the_encoder_of_kdsr():
    from indigo_jax import models
    network, x = randomised(Encoder()), pictures()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    module = models.DegradationEncoder(**convert.kdsr_arguments(state))
    close(jax.jit(module.apply)(convert.kdsr(state), np.moveaxis(x, 1, -1)), theirs(network, x))


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_swinir(shift):
    """One block: the attention of torch itself, with the mask and the positions as its bias."""
    from indigo_jax.models import swinir as ours_of
    random = np.random.default_rng(0)
    block = ours_of.WindowBlock(num_heads=2, window=4, shift=shift, mlp_ratio=2.0)
    h = random.standard_normal((2, 8, 12, 8)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), h)
    params = jax.tree.map(lambda leaf: 0.3 * random.standard_normal(leaf.shape).astype(np.float32), shapes)
    p = jax.tree.map(torch.from_numpy, params["params"])
    x = torch.from_numpy(h)
    norm = torch.nn.functional.layer_norm
    moved = torch.roll(norm(x, (8,), p["norm_attention"]["scale"], p["norm_attention"]["bias"]), (-shift,) * 2, (1, 2))

    def windows(a):
        return a.reshape(2, 2, 4, 3, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(12, 16, -1)

    q, k, v = (windows(moved) @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(12, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = p["position_bias"][torch.from_numpy(ours_of._relative_positions(4))].permute(2, 0, 1)[None]
    place = torch.roll(torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij"), -1)[None],
                       (-shift,) * 2, (1, 2)).expand(2, -1, -1, -1)
    near = (windows(place)[:, :, None] - windows(place)[:, None]).abs().amax(-1) < 4  # neighbours in the picture, too
    bias = bias + torch.where(near, 0.0, -100.0)[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    out = out.permute(0, 2, 1, 3).reshape(12, 16, 8) @ p["proj"]["kernel"] + p["proj"]["bias"]
    out = torch.roll(out.reshape(2, 2, 3, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 12, 8), (shift,) * 2, (1, 2))
    x = x + out
    inner = norm(x, (8,), p["norm_dense"]["scale"], p["norm_dense"]["bias"])
    inner = torch.nn.functional.gelu(inner @ p["dense_in"]["kernel"] + p["dense_in"]["bias"])
    close(jax.jit(block.apply)(params, h), x + inner @ p["dense_out"]["kernel"] + p["dense_out"]["bias"])


def test_the_goldens_are_what_these_versions_answer():
    """Those of ``tests/goldens`` hold the converters where torch is not installed."""
    from tests import goldens
    made = goldens.make()
    assert set(made) == {name for name in goldens.NAMES if goldens.load(name).kind in ("diffusers", "text")}
    for name, golden in made.items():
        same(golden, goldens.load(name), name)


@pytest.mark.skipif("INDIGO_PROGRAMS" not in os.environ, reason="INDIGO_PROGRAMS, a folder with checkouts of the "
                    "papers' programs, is not set: see tests/goldens_programs.py")
def test_the_goldens_are_what_the_programs_answer():
    from tests import goldens, goldens_programs
    made = goldens_programs.make(os.environ["INDIGO_PROGRAMS"])
    assert made and set(made) <= set(goldens.NAMES)
    for name, golden in made.items():
        same(golden, goldens.load(name), name)


def same(made, kept, name):
    assert (made.kind, made.shapes, made.options, made.calls) == (kept.kind, kept.shapes, kept.options, kept.calls)
    for each, array in made.arrays.items():
        np.testing.assert_allclose(array, kept.arrays[each], atol=1e-5 * np.abs(array).max(), err_msg=name)
