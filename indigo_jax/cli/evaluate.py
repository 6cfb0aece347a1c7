"""``indigo evaluate``: measure restored pictures against their references, paired by name."""
import argparse
import csv
import io
import math
import pathlib
import sys

from indigo_jax.cli import statistics
from indigo_jax.cli.messages import UsageError, one_line, show, some, write_text
from indigo_jax.cli.outputs import check_writable
from indigo_jax.cli.parsing import add_command


def run(args):
    """Print a table of metrics, and write it where asked; returns the exit code."""
    import numpy as np
    from indigo_jax import metrics
    output = getattr(args, "output", None)
    if output is not None and (pathlib.Path(output).suffix.lower() != ".csv" or pathlib.Path(output).is_dir()):
        raise UsageError(f"--output writes a table: name it {pathlib.Path(output).with_suffix('.csv')}, not {output}")
    protocols, of_sets, network = _protocols(args)
    names = [protocol.name for protocol in (*protocols, *of_sets)]
    if len(set(names)) < len(names):
        raise UsageError(f"--metrics {args.metrics}: each metric once")
    known, wanted = statistics.of_reference(args, protocols, of_sets), statistics.check_wanted(args, of_sets)
    for flag in ("output", "save_statistics"):
        if hasattr(args, flag):
            check_writable(getattr(args, flag), f"--{flag.replace('_', '-')}")
    if not hasattr(args, "restored"):
        return statistics.alone(args, wanted, network)
    pairs, failed, extra = _pairs(args) if known is None else _unpaired(args)
    rows, features, others = _measure(args, pairs, protocols, {protocol.resize for protocol in of_sets}, network)
    failed += others
    for reason in failed:
        print(f"{args.parser.prog}: {reason}", file=sys.stderr)
    if extra:
        print(f"{args.parser.prog}: note: {len(extra)} restored without a reference, not measured: {some(extra)}",
              file=sys.stderr)
    if not rows:
        print(f"{args.parser.prog}: nothing could be measured", file=sys.stderr)
        return 1
    mean = {"name": "mean"}
    for name in names:
        values = [row[name] for row in rows if name in row]
        if values:
            mean[name] = math.fsum(values) / len(values)
    try:
        for protocol in of_sets:
            got, true = map(np.array, features[protocol.resize])
            mean[protocol.name] = protocol(got, true if known is None else known[protocol])
    except ValueError as error:
        print(f"{args.parser.prog}: {one_line(error)}: FID and KID need two pictures", file=sys.stderr)
        return 1
    if any(protocol.metric == "fid" for protocol in of_sets) and len(rows) < metrics.USUAL_COUNT:
        print(f"{args.parser.prog}: note: FID of {len(rows)} pictures, biased upwards as all are of fewer than "
              f"{metrics.USUAL_COUNT:,}: compare it only with values of as many, and say how many", file=sys.stderr)
    print(_table([*rows, mean], names))
    if output is not None:
        text = io.StringIO()
        table = csv.DictWriter(text, ["name", *names], lineterminator="\n")
        table.writeheader()
        table.writerows([*rows, mean])
        if not write_text(output, text.getvalue()):
            return 1
    if wanted is not None:
        return statistics.write(args, wanted, np.array(features[wanted.resize][1]), failed)
    return 1 if failed else 0


def _measure(args, pairs, protocols, resizes, network):
    """A row of each pair, the features of both sides for each way to resize, and what could not be measured. A pair
    without a reference (None) has its restored picture twice."""
    from indigo_jax import metrics
    rows, features, failed = [], {resize: ([], []) for resize in resizes}, []
    for name, reference, restored in pairs:
        try:
            a, b, visible = _read(restored, reference or restored, args.parser.prog,
                                  any(protocol.needs_reference for protocol in protocols))
            row = {"name": name}
            for protocol in protocols:  # one that a picture is too small for leaves the others
                try:
                    score, = metrics.score_pairs([(show(restored), a, b, visible)], [protocol]).rows
                    row[protocol.name] = score[protocol.name]
                except ValueError as error:
                    failed.append(one_line(error))
            if protocols and len(row) == 1:
                continue
            sides = (a,) if reference is None else (a, b)
            found = {resize: [network.features(x[None], resize=resize)[0] for x in sides] for resize in resizes}
            rows.append(row)
            for resize, two in found.items():
                for side, one in zip(features[resize], two):
                    side.append(one)
        except (ValueError, OSError, MemoryError) as error:
            failed.append(one_line(error))
    return rows, features, failed


def _read(restored, reference, prog, of_one_size):
    """The pixels of both files, and which of them are seen (None: all)."""
    from indigo_jax import images
    a, b = images.read(restored), images.read(reference)
    for path, picture in ((restored, a), (reference, b)):
        for note in picture.notes:
            print(f"{prog}: note: {show(path)}: {note}", file=sys.stderr)
    if of_one_size and a.pixels.shape != b.pixels.shape:
        a = _cut(a, b, restored, reference, prog)
    a, b, visible = images.to_measure(a, b)
    if visible is not None:
        print(f"{prog}: note: {show(restored)}: measured where it is seen, in {visible.mean():.0%} of its pixels; the "
              "rest is transparent", file=sys.stderr)
    return a, b, visible


def _cut(a, b, restored, reference, prog):
    """The restored picture without what enlarging has added to odd sides; refused where that is not the difference."""
    from indigo_jax import images
    sizes = [f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}" for picture in (a, b)]
    height, width = b.pixels.shape[:2]
    factor = images.enlarged_by((height, width), a.pixels.shape[:2])
    if factor is None:
        raise ValueError(f"{show(restored)}: {sizes[0]} pixels, but its reference {show(reference)} has {sizes[1]}; "
                         "nothing is resized to be measured, and this is not what enlarging by a whole factor adds to "
                         "odd sides, so make them of one size first")
    print(f"{prog}: note: {show(restored)}: {sizes[0]} pixels, measured on the {sizes[1]} at the top left that its "
          f"reference {show(reference)} has: enlarging by {factor} rounds the sides up", file=sys.stderr)
    return a._replace(pixels=a.pixels[:height, :width], alpha=None if a.alpha is None else a.alpha[:height, :width])


def _protocols(args):
    """Those of pairs, those of sets, and the network of the latter or None."""
    from indigo_jax import metrics, weights
    names = [name.strip() for name in args.metrics.split(",")]
    sets = [name for name in names if metrics.is_of_sets(name)]
    options, network = {}, None
    try:
        if hasattr(args, "niqe_parameters"):
            options["niqe_parameters"] = metrics.load_niqe(args.niqe_parameters)
    except (ValueError, OSError) as error:
        raise UsageError(f"--niqe-parameters {one_line(error)}") from error
    if sets and not hasattr(args, "inception"):
        raise UsageError(f"--metrics {sets[0]} needs --inception FILE, the weights that are not bundled; make them by: "
                         "indigo weights convert pt_inception-2015-12-05-6726825d.pth -o inception.safetensors")
    try:
        if sets:
            network = metrics.feature_network(*weights.load(args.inception, kind="features"))
    except (ValueError, OSError) as error:
        raise UsageError(f"--inception {one_line(error)}") from error
    try:
        return ([metrics.by_name(name, **options) for name in names if name not in sets],
                [metrics.set_by_name(name, network) for name in sets], network)
    except (ValueError, OSError) as error:
        raise UsageError(f"--metrics {one_line(error)}") from error


def _pairs(args):
    """(name, reference, restored) by name; reasons for references without a partner and for pictures that are left
    out; names of restored ones without a reference."""
    from indigo_jax import images
    sides, missing = [], []
    for flag, text in (("--reference", args.reference), ("--restored", args.restored)):
        path = pathlib.Path(text)
        try:
            files, left_out = images.find_pictures(path)
            stems = images.by_stem([file.relative_to(path).as_posix() for file in files if file != path], path)
        except ValueError as error:
            raise UsageError(f"{flag} {one_line(error)}") from error
        missing += [reason for _, reason in left_out]
        if not files:
            raise UsageError(f"{flag} {show(path)}: no pictures in this folder"
                             + (f" that can be read ({len(left_out)} left out)" if left_out else ""))
        sides.append(path if path.is_file() else {stem: path / name for stem, name in stems.items()})
    reference, restored = sides
    if isinstance(reference, pathlib.Path) != isinstance(restored, pathlib.Path):
        raise UsageError("--reference and --restored must be two folders or two files")
    if isinstance(reference, pathlib.Path):
        return [(reference.name, reference, restored)], [], []
    both = sorted(reference.keys() & restored.keys())
    if not both:
        raise UsageError(f"no name is in both {show(args.reference)} ({some(sorted(reference))}) and "
                         f"{show(args.restored)} ({some(sorted(restored))}); pairs are made by name")
    missing += [f"{show(reference[stem])}: no restored picture of this name in {show(args.restored)}"
                for stem in sorted(reference.keys() - restored.keys())]
    extra = sorted(restored.keys() - reference.keys())
    return [(stem, reference[stem], restored[stem]) for stem in both], missing, extra


def _unpaired(args):
    """As :func:`_pairs`, of the restored pictures alone: those of the reference are a file of statistics."""
    from indigo_jax import images
    try:
        files, left_out = images.find_pictures(args.restored)
    except ValueError as error:
        raise UsageError(f"--restored {one_line(error)}") from error
    if not files:
        raise UsageError(f"--restored {show(args.restored)}: no pictures in this folder")
    return [(file.name, None, file) for file in files], [reason for _, reason in left_out], []


def _table(rows, names):
    lines = [["name", *names]] + [[show(row["name"]), *(_number(row, name) for name in names)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _number(row, name):
    return f"{row[name]:.{6 if name.startswith('kid') else 4}f}" if name in row else ""


def add(commands):
    """The command's parser."""
    parser = add_command(commands, "evaluate", run, "Measure restored pictures against their references.")
    parser.add_argument("--reference", required=True, metavar="DIR", default=argparse.SUPPRESS, help=(
        "the true pictures (a folder, or one file); for fid also a file of their statistics, FILE.npz, with mu and "
        "sigma as published ones have"))
    parser.add_argument("--restored", metavar="DIR", default=argparse.SUPPRESS, help=(
        "the restored ones, of the same names (extensions may differ)"))
    parser.add_argument("--metrics", default="psnr,ssim", metavar="NAMES", help=(
        "of psnr, ssim, ms-ssim, lpips (set INDIGO_LPIPS to its weights; or lpips-squeeze-v0.1, lpips-vgg-v0.1), niqe "
        "(of the restored alone), fid, kid (of all together), or whole protocols such as psnr-y-bt601-crop4-u8"))
    parser.add_argument("--niqe-parameters", metavar="FILE.npz", default=argparse.SUPPRESS, help=(
        "niqe: parameters made by weights convert --from niqe; those that come along, bsds400, are not the official"))
    parser.add_argument("--inception", metavar="NAME|PATH", default=argparse.SUPPRESS, help=(
        "fid, kid: weights made by weights convert --from inception"))
    parser.add_argument("--save-statistics", metavar="FILE.npz", default=argparse.SUPPRESS, help=(
        "fid: keep the statistics of the reference pictures for --reference FILE.npz; --restored may be left out then"))
    parser.add_argument("-o", "--output", metavar="FILE.csv", default=argparse.SUPPRESS, help="also write a table")
