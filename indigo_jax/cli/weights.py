"""``indigo weights list | verify | convert | export``: the files that networks are kept in."""
import argparse
import contextlib
import dataclasses
import pathlib
import sys

from indigo_jax.cli.messages import UsageError, one_line, show
from indigo_jax.cli.parsing import add_command, number


def list_known(args):
    """Print the weights that ``--weights`` knows by name; returns the exit code."""
    from indigo_jax import weights
    try:
        entries = weights.available()
    except weights.WeightsError as error:
        raise UsageError(str(error)) from error
    if not entries:
        print(f"no weights are bundled or in {show(weights.cache_folder())}")
    for entry in entries:
        size = "missing" if entry.size is None else f"{entry.size / 2**20:.1f} MiB"
        learned = f"\n    learned: {entry.learned}" if entry.learned else ""
        print(f"{entry.name}  {size}  {entry.source}  {show(entry.path)}{learned}")
    return 0


def verify(args):
    """Check weights files, one line each; returns the exit code."""
    from indigo_jax import weights
    code = 0
    try:
        names = args.names or [entry.name for entry in weights.available()]
    except weights.WeightsError as error:
        raise UsageError(str(error)) from error
    for name in names:
        try:
            facts = weights.verify(name)
            print(f"{name}: good, {facts['parameters']:,} parameters in {facts['tensors']} tensors, "
                  f"{facts['size']:,} bytes, sha256 {facts['sha256']}")
        except weights.WeightsError as error:
            print(f"{args.parser.prog}: {error}", file=sys.stderr)
            code = 1
    if not names:
        print(f"no weights are bundled or in {show(weights.cache_folder())}")
    return code


def convert(args):
    """Make a weights file of a training run, or of another project's file; returns the exit code."""
    from indigo_jax import weights
    from indigo_jax.convert import kinds, sources
    given = {name: getattr(args, name) for name in (*_OPTIONS, "raw", "revision", "offline") if hasattr(args, name)}
    kind, options = args.kind, {name: given[name] for name in _OPTIONS if name in given}
    try:
        if kind == "auto":
            kind = _recognised(args.source, sources)
        if kind in _OWN and given:
            flag = next(iter(given))
            users = [name for name, row in kinds.KINDS.items() if flag in row.options] or ["other kinds"]
            raise UsageError(f"--{flag.replace('_', '-')} is for --from {' and '.join(users)}; leave it out")
        if kind in ("lpips", "niqe"):
            return _of_metric(args, kind)
        notes = ()
        if kind == "indigo":
            weights.export(args.source, args.output, dtype=args.dtype or "float16")
        elif kind == "keras-ddpm":
            _write(args, *_keras_ddpm(args.source))
        else:
            where = {name: given[name] for name in ("raw", "revision", "offline") if name in given}
            *network, notes = kinds.load(args.source, kind, options=kinds.Options(**options), **where)
            _write(args, *network)
        facts = weights.verify(args.output)
    except (weights.WeightsError, ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    for note in notes:
        print(f"{args.parser.prog}: {one_line(note)}", file=sys.stderr)
    print(f"{show(args.output)}: {facts['parameters']:,} parameters, {facts['size']:,} bytes")
    return 0


def export(args):
    """Make a folder for diffusers of a weights file; returns the exit code."""
    from indigo_jax import weights
    from indigo_jax.convert import to_diffusers
    try:
        files = {"diffusers": to_diffusers.save}[args.to](args.output, *weights.load(args.source))
    except (weights.WeightsError, ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    print(f"{show(args.output)}: {', '.join(files)}")
    return 0


def _of_metric(args, kind):
    """An .npz for a metric, which has a file format of its own."""
    import numpy as np
    from indigo_jax import convert as converters, metrics

    def load_lpips(file):
        return metrics.load_lpips(file, network=metrics.lpips_network(arrays))

    path = pathlib.Path(args.output)
    if path.suffix != ".npz":
        raise UsageError(f"the {'weights of LPIPS' if kind == 'lpips' else 'parameters of NIQE'} are written as .npz: "
                         f"name it {path.stem}.npz")
    read, load, use = {
        "lpips": (converters.read_lpips, load_lpips, "set INDIGO_LPIPS to its path"),
        "niqe": (converters.read_niqe, metrics.load_niqe, "give it to --niqe-parameters")}[kind]
    arrays = read(args.source)
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    try:
        np.savez(temporary, **arrays)
        try:
            load(temporary)
        except ValueError as error:  # what it says of this file is true of the source
            raise ValueError(str(error).replace(str(temporary), str(args.source))) from error
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{show(path)}: {sum(value.size for value in arrays.values()):,} parameters, {path.stat().st_size:,} bytes; "
          f"{use}")
    return 0


def _recognised(source, sources):
    """The kind of what no table of kinds has: a training run of ours, a metric, an archive of Keras; else "auto"."""
    path = pathlib.Path(source)
    if path.suffix == ".mat":
        return "niqe"
    if sources.is_training_run(path):
        return "indigo"
    from indigo_jax import convert as converters
    if path.suffix == ".npz" and path.is_file():
        for kind, read in (("keras-ddpm", converters.load_quantised), ("niqe", converters.read_niqe)):
            with contextlib.suppress(ValueError, OSError):
                read(path)
                return kind
    return "lpips" if path.exists() and converters.is_lpips(path) else "auto"


def _write(args, module, params, info):
    from indigo_jax import models, weights
    arguments = {name: getattr(module, name) for name in _changed(module)}
    weights.save(args.output, params, {"architecture": type(module).__name__, "arguments": arguments, "range": [-1, 1],
                                       "name": pathlib.Path(args.output).stem, **info},
                 dtype=args.dtype or ("float32" if isinstance(module, models.InceptionV3) else "float16"))


def _changed(module):
    """Names of the constructor arguments of a linen module that are not at their defaults."""
    return [field.name for field in dataclasses.fields(module)
            if field.init and field.name not in ("parent", "name") and getattr(module, field.name) != field.default]


def _keras_ddpm(source):
    from indigo_jax import convert as converters, models, schedules
    params = converters.keras_ddpm(converters.load_quantised(source))
    schedule = schedules.to_json("cosine", num_timesteps=300, max_beta=0.9999, min_beta=1e-4)
    return models.KerasUNet(), params, {"schedule": schedule, "prediction": "eps", "image_size": 64}


_OWN = {"indigo": "the --workdir of a training run",
        "keras-ddpm": "an .npz of the quantised arrays of the Keras DDPM example",
        "lpips": "the metric's heads and AlexNet, SqueezeNet or VGG-16, in one file or in a folder, as OUT.npz",
        "niqe": "the metric's parameters, the official .mat or an .npz, as OUT.npz"}
# of kinds.KINDS, said again so that --help imports no jax; a test holds them together
_FOREIGN = {
    "ddpm-unet": "the UNet of DDPM's torch port (DDIM, SDEdit, BIRD)",
    "adm": "the UNet of guided diffusion, with classes or without",
    "diffusers-unet": "UNet2DModel of diffusers, or a DDPMPipeline with one",
    "latent-unet": "the UNet of Stable Diffusion 1, 2 and XL: UNet2DConditionModel, or a file of its own names",
    "vae": "the autoencoder of latent diffusion: AutoencoderKL, or a file of its own names",
    "taesd": "a small autoencoder, TAESD or TAEF2: AutoencoderTiny, one file, or a folder of its two halves",
    "drunet": "DRUNet, the denoiser of DPIR",
    "indigo-inn": "the invertible network of INDIGO+, with its encoder (--encoder)",
    "swinir": "SwinIR that keeps the size: the first estimate of INDIGO+, DifFace and DiffBIR",
    "inception": "InceptionV3 of FID and KID (pt_inception-2015-12-05)",
}
KINDS = ("auto", *_OWN, *_FOREIGN)
_OPTIONS = ("image_size", "schedule", "prediction", "heads", "head_channels", "attention_order", "num_groups", "label",
            "scaling_factor", "shift_factor", "context", "autoencoder", "encoder", "prompt", "prompt_scale")


def _label(text):
    if text == "mean":
        return text
    return number(int, 0, 10**6)(text)


def add(commands):
    """The parsers of the commands."""
    parser = add_command(commands, "weights", None, "List, check, convert and export network weights.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_command(actions, "list", list_known, "The names that --weights knows.")
    check = add_command(actions, "verify", verify, "Check weights files, by default all known ones.")
    check.add_argument("names", nargs="*", metavar="NAME|PATH", help="names or .safetensors files")
    out = add_command(actions, "export", export, "Make a folder for other programs of a weights file.")
    out.add_argument("source", metavar="NAME|PATH", help="weights: a prior or an autoencoder")
    out.add_argument("-o", "--output", required=True, metavar="FOLDER", default=argparse.SUPPRESS,
                     help="a new folder, as from_pretrained takes it")
    out.add_argument("--to", choices=("diffusers",), default="diffusers", help="for which program (default: diffusers)")
    make = add_command(actions, "convert", convert, "Make a weights file.")
    make.add_argument("source", metavar="SOURCE", help=(
        "a checkpoint (.safetensors, .npz, or .pt, .pth, .bin, .ckpt, of which nothing is run), a folder of "
        "save_pretrained, a pipeline, hf:OWNER/NAME for a repository of the Hugging Face hub (extra hub), or the "
        "--workdir of a training run"))
    make.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", default=argparse.SUPPRESS,
                      help="the file to write")
    described = "; ".join(f"{name}: {text}" for name, text in {**_OWN, **_FOREIGN}.items())
    make.add_argument("--from", dest="kind", choices=KINDS, default="auto", metavar="KIND",
                      help=f"what SOURCE is; auto recognises it. {described}")
    make.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default=None, help=(
        "of the file (default: float16, and float32 for inception, whose features are to be quoted)"))
    known = dict(default=argparse.SUPPRESS)
    make.add_argument("--raw", action="store_true", help=(
        "of two sets of parameters the one that was trained; else their moving average"), **known)
    make.add_argument("--revision", metavar="REVISION", help="hf: a commit, a branch or a tag (default: main)", **known)
    make.add_argument("--offline", action="store_true", help="hf: use what is in the cache of the hub alone", **known)
    make.add_argument("--image-size", type=number(int, 8, 4096, " pixels"), metavar="N", help=(
        "priors: side of the pictures of its training (default: as its config says, or by where its attention and its "
        "last level usually lie)"), **known)
    make.add_argument("--schedule", choices=("linear", "scaled_linear", "cosine"), help=(
        "priors: of the noise, over 1000 steps (default: as the scheduler's config says, or linear)"), **known)
    make.add_argument("--prediction", choices=("eps", "x0", "v"), help="priors: what the network predicts (default: as "
                      "the scheduler's config says, or eps)", **known)
    make.add_argument("--heads", type=number(int, 1, 256), metavar="N", help=(
        "adm, latent-unet: heads of attention on every level"), **known)
    make.add_argument("--head-channels", type=number(int, 1, 4096), metavar="N", help=(
        "adm: channels of each head of attention (default: 64)"), **known)
    make.add_argument("--attention-order", choices=("legacy", "new"), help=(
        "adm: new where it was trained with use_new_attention_order (default: legacy)"), **known)
    make.add_argument("--label", type=_label, metavar="N|mean", help=(
        "adm, diffusers-unet: of a network with classes, the one that it is to believe in"), **known)
    make.add_argument("--context", metavar="FILE.npy", help=(
        "latent-unet: the embedding of the empty text, where no text encoder lies beside it"), **known)
    make.add_argument("--prompt", metavar="FILE.npy", help=(
        "latent-unet: the embedding of a text, towards which the prior is guided without a classifier"), **known)
    make.add_argument("--prompt-scale", type=number(float, 0, 100), metavar="N", help=(
        "latent-unet: how strongly; 1 is the text alone (default: 5)"), **known)
    make.add_argument("--autoencoder", metavar="NAME|PATH", help=(
        "latent-unet: the converted autoencoder whose latents it knows; others are then refused"), **known)
    make.add_argument("--encoder", metavar="FILE", help=(
        "indigo-inn: the checkpoint of KDSR whose encoder makes its condition"), **known)
    make.add_argument("--num-groups", type=number(int, 1, 256), metavar="N", help=(
        "ddpm-unet, vae: into how many groups its GroupNorms part the channels (default: 32)"), **known)
    make.add_argument("--scaling-factor", type=number(float, 1e-6, 1e6), metavar="N", help=(
        "vae, taesd: diffusion works on the latents times this (default: as its config says; 4 channels: 0.18215)"),
                      **known)
    make.add_argument("--shift-factor", type=number(float, -1e6, 1e6), metavar="N", help=(
        "vae: subtracted from the latents before that (default: as its config says, or 0)"), **known)
