"""``indigo weights list | verify | convert``: the files that networks are kept in."""
import sys

from indigo_jax.cli.messages import UsageError, show


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
    """Make a weights file of a training run; returns the exit code."""
    from indigo_jax import weights
    try:
        weights.export(args.source, args.output)
        facts = weights.verify(args.output)
    except weights.WeightsError as error:
        raise UsageError(str(error)) from error
    print(f"{show(args.output)}: {facts['parameters']:,} parameters, {facts['size']:,} bytes")
    return 0
