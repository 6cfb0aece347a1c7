"""``indigo weights list | verify | convert``: the files that networks are kept in."""
import argparse
import dataclasses
import functools
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
    options = {flag: getattr(args, flag) for flag in ("image_size", "schedule") if hasattr(args, flag)}
    if options and args.kind not in _TORCH:
        flag = next(iter(options)).replace("_", "-")
        raise UsageError(f"--{flag} is for --from {' and '.join(_TORCH)}; leave it out")
    try:
        if args.kind == "indigo":
            weights.export(args.source, args.output)
        else:
            module, params, info = _FOREIGN[args.kind](args.source, **options)
            arguments = {name: getattr(module, name) for name in _changed(module)}
            weights.save(args.output, params, {"architecture": type(module).__name__, "arguments": arguments,
                                               "range": [-1, 1], "name": pathlib.Path(args.output).stem, **info})
        facts = weights.verify(args.output)
    except (weights.WeightsError, ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    print(f"{show(args.output)}: {facts['parameters']:,} parameters, {facts['size']:,} bytes")
    return 0


def _changed(module):
    """Names of the constructor arguments of a linen module that are not at their defaults."""
    return [field.name for field in dataclasses.fields(module)
            if field.init and field.name not in ("parent", "name") and getattr(module, field.name) != field.default]


def _keras_ddpm(source):
    from indigo_jax import convert as converters, models, schedules
    params = converters.keras_ddpm(converters.load_quantised(source))
    schedule = schedules.to_json("cosine", num_timesteps=300, max_beta=0.9999, min_beta=1e-4)
    return models.KerasUNet(), params, {"schedule": schedule, "prediction": "eps", "image_size": 64}


def _torch_prior(converter, network, source, *, image_size=None, schedule="linear"):
    """Of a torch state_dict, by the converter of this name and the one of its arguments."""
    from indigo_jax import convert as converters, models, schedules
    state = _state_dict(source)
    module = getattr(models, network)(**getattr(converters, f"{converter}_arguments")(state, image_size=image_size))
    info = {"schedule": schedules.to_json(schedule, num_timesteps=1000), "prediction": "eps",
            "image_size": module.image_size, **({"learned_variance": True} if module.out_channels == 6 else {})}
    return module, getattr(converters, converter)(state, image_size=image_size), info


def _state_dict(source):
    """``{torch parameter name: array}`` of a file; nothing is unpickled but by torch, of tensors alone."""
    import numpy as np
    suffix = pathlib.Path(source).suffix.lower()
    if not pathlib.Path(source).is_file():
        raise ValueError(f"{show(source)}: no such file; check the path")
    try:
        if suffix == ".npz":
            with np.load(source, allow_pickle=False) as archive:
                return dict(archive)
        if suffix == ".safetensors":
            from safetensors import numpy as reader
            return reader.load_file(source)
        if suffix in (".pt", ".pth", ".ckpt"):
            return _torch_state_dict(source)
    except ImportError as error:
        raise ValueError(f"{show(source)}: a torch checkpoint, which only torch reads ({one_line(error)}); install "
                         "torch, or save the state_dict as .safetensors") from error
    except Exception as error:  # a broken file fails in many ways; all mean the same to the user
        raise ValueError(f"{show(source)}: a damaged file, or not of arrays alone ({one_line(error)[:200]})") from error
    raise ValueError(f"{show(source)}: give the state_dict as .safetensors, .npz or (with torch installed) .pt")


def _torch_state_dict(source):
    import torch
    state = torch.load(source, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model"):
        state = state[name] if isinstance(state.get(name), dict) else state
    return {name: value.float().numpy() for name, value in state.items()}


_TORCH = {"ddpm-unet": functools.partial(_torch_prior, "ddpm_unet", "DDPMUNet"),
          "adm": functools.partial(_torch_prior, "guided_diffusion", "ADMUNet")}
_FOREIGN = {"keras-ddpm": _keras_ddpm, **_TORCH}  # name: file -> module, params, what is known of them
KINDS = ("indigo", *_FOREIGN)


def add(commands):
    """The parsers of the commands."""
    parser = add_command(commands, "weights", None, "List, check and convert network weights.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_command(actions, "list", list_known, "The names that --weights knows.")
    check = add_command(actions, "verify", verify, "Check weights files, by default all known ones.")
    check.add_argument("names", nargs="*", metavar="NAME|PATH", help="names or .safetensors files")
    make = add_command(actions, "convert", convert, "Make a weights file.")
    make.add_argument("source", metavar="SOURCE", help=(
        "for --from indigo: the --workdir of a training run; for keras-ddpm: an .npz of the quantised arrays of the "
        "Keras DDPM example; for ddpm-unet (of DDIM, SDEdit, BIRD) and adm (guided diffusion): a torch state_dict as "
        ".safetensors, .npz, or .pt with torch installed"))
    make.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", default=argparse.SUPPRESS,
                      help="the file to write")
    make.add_argument("--from", dest="kind", required=True, choices=KINDS, default=argparse.SUPPRESS,
                      help="what SOURCE is")
    make.add_argument("--image-size", type=number(int, 8, 4096, " pixels"), metavar="N", default=argparse.SUPPRESS,
                      help="ddpm-unet, adm: side of the pictures of its training (default: by where its attention "
                           "and its last level usually lie)")
    make.add_argument("--schedule", choices=("linear", "cosine"), default=argparse.SUPPRESS,
                      help="ddpm-unet, adm: of the noise, over 1000 steps (default: linear)")
