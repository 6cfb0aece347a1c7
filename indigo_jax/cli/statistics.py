"""Statistics of the references of ``indigo evaluate``: a file of them in place of the pictures, for FID."""
import functools
import pathlib
import sys

from indigo_jax.cli.messages import UsageError, one_line, show


def of_reference(args, protocols, of_sets):
    """``{protocol of sets: Statistics}`` where --reference names a file of them, else None."""
    from indigo_jax import metrics
    if pathlib.Path(args.reference).suffix.lower() != ".npz":
        return None
    strange = [each for each in (*protocols, *of_sets)
               if each.metric != "fid" and getattr(each, "needs_reference", True)]
    if strange or not of_sets:
        raise UsageError(f"--reference {show(args.reference)}: statistics, by which fid alone is measured"
                         + (f", not {strange[0].name}; give the pictures" if strange else "; add --metrics fid"))
    try:
        known = {each: metrics.load_statistics(args.reference, protocol=_made_by(each)) for each in of_sets}
    except (ValueError, OSError) as error:
        raise UsageError(f"--reference {one_line(error)}") from error
    if any(each.count is None for each in known.values()):
        print(f"{args.parser.prog}: note: {show(args.reference)} does not say of how many pictures it is, nor by what "
              "network", file=sys.stderr)
    return known


def check_wanted(args, of_sets):
    """The one protocol of the statistics to be written, or None; refuses what cannot be written."""
    if not hasattr(args, "save_statistics"):
        if not hasattr(args, "restored"):
            raise UsageError("--restored DIR is missing, the pictures to measure")
        return None
    path = pathlib.Path(args.save_statistics)
    fids = [each for each in of_sets if each.metric == "fid"]
    if path.suffix.lower() != ".npz" or path.is_dir():
        raise UsageError(f"--save-statistics: name it {path.with_suffix('.npz')}, not {show(path)}")
    if len(fids) != 1 or pathlib.Path(args.reference).suffix.lower() == ".npz":
        raise UsageError("--save-statistics keeps those of reference pictures for one fid: give a folder of them, and "
                         "fid once in --metrics")
    if not hasattr(args, "restored") and len(args.metrics.split(",")) > 1:
        raise UsageError("--save-statistics without --restored measures nothing; leave --metrics at fid alone")
    return fids[0]


def alone(args, wanted, network):
    """Write the statistics of all reference pictures, with nothing to measure; returns the exit code."""
    import numpy as np
    from indigo_jax import images
    try:
        files, left_out = images.find_pictures(args.reference)
    except ValueError as error:
        raise UsageError(f"--reference {one_line(error)}") from error
    failed, features = [reason for _, reason in left_out], []
    for file in files:
        try:
            features.append(network.features(images.read(file).pixels[None], resize=wanted.resize)[0])
        except (ValueError, OSError, MemoryError) as error:
            failed.append(one_line(error))
    for reason in failed:
        print(f"{args.parser.prog}: {reason}", file=sys.stderr)
    return write(args, wanted, np.asarray(features), failed)


def write(args, wanted, features, failed):
    """Write the statistics of features ``[N, D]``, where none failed; returns the exit code."""
    from indigo_jax import metrics
    from indigo_jax.cli.outputs import write_whole
    path = pathlib.Path(args.save_statistics)
    if failed or len(features) < 2:
        why = f"{len(failed)} could not be read" if failed else "they need two pictures"
        print(f"{args.parser.prog}: {show(path)}: not written, as {why}", file=sys.stderr)
        return 1
    statistics = metrics.feature_statistics(features)
    try:
        write_whole(path, functools.partial(metrics.save_statistics, statistics=statistics, protocol=_made_by(wanted)))
    except OSError as error:
        print(f"{args.parser.prog}: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{show(path)}: statistics of {len(features)} pictures by {_made_by(wanted)}; give it to --reference",
          file=sys.stderr)
    return 0


def _made_by(protocol):
    return f"{protocol.network}-{protocol.resize}"
