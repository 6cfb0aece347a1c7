"""``indigo weights list | verify | convert``: the files that networks are kept in."""
import dataclasses
import pathlib
import sys

from indigo_jax.cli.messages import UsageError, one_line, show


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
        print(f"{entry.name}  {size}  {entry.source}  {show(entry.path)}")
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
    try:
        if args.kind == "indigo":
            weights.export(args.source, args.output)
        else:
            module, params, info = _FOREIGN[args.kind](args.source)
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


_FOREIGN = {"keras-ddpm": _keras_ddpm}  # name: file -> module, params, what is known of them
KINDS = ("indigo", *_FOREIGN)
