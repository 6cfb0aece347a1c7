"""``indigo evaluate``: measure restored pictures against their references, paired by name."""
import argparse
import csv
import io
import math
import pathlib
import sys

from indigo_jax.cli.messages import UsageError, one_line, show, some, write_text
from indigo_jax.cli.parsing import add_command


def run(args):
    """Print a table of metrics, and write it where asked; returns the exit code."""
    from indigo_jax import images, metrics
    output = getattr(args, "output", None)
    if output is not None and (pathlib.Path(output).suffix.lower() != ".csv" or pathlib.Path(output).is_dir()):
        raise UsageError(f"--output writes a table: name it {pathlib.Path(output).with_suffix('.csv')}, not {output}")
    try:
        protocols = [metrics.by_name(name.strip()) for name in args.metrics.split(",")]
    except (ValueError, OSError) as error:
        raise UsageError(f"--metrics {one_line(error)}") from error
    names = [protocol.name for protocol in protocols]
    if len(set(names)) < len(names):
        raise UsageError(f"--metrics {args.metrics}: each metric once")
    pairs, failed, extra = _pairs(args)
    rows = []
    for name, reference, restored in pairs:
        try:
            a, b = images.read(restored).pixels, images.read(reference).pixels
            rows += metrics.score_pairs([(name, a, b)], protocols).rows
        except (ValueError, OSError, MemoryError) as error:
            failed.append(one_line(error))
    for reason in failed:
        print(f"{args.parser.prog}: {reason}", file=sys.stderr)
    if extra:
        print(f"{args.parser.prog}: note: {len(extra)} restored without a reference, not measured: {some(extra)}",
              file=sys.stderr)
    if not rows:
        print(f"{args.parser.prog}: nothing could be measured", file=sys.stderr)
        return 1
    mean = {"name": "mean", **{name: math.fsum(row[name] for row in rows) / len(rows) for name in names}}
    print(_table([*rows, mean], names))
    if output is not None:
        text = io.StringIO()
        table = csv.DictWriter(text, ["name", *names], lineterminator="\n")
        table.writeheader()
        table.writerows([*rows, mean])
        if not write_text(output, text.getvalue()):
            return 1
    return 1 if failed else 0


def _pairs(args):
    """(name, reference, restored) by name; reasons for references without a partner; names of restored ones without."""
    from indigo_jax import images
    sides = []
    for flag, text in (("--reference", args.reference), ("--restored", args.restored)):
        path = pathlib.Path(text)
        try:
            files = images.list_pictures(path)
            stems = images.by_stem([file.relative_to(path).as_posix() for file in files if file != path], path)
        except ValueError as error:
            raise UsageError(f"{flag} {one_line(error)}") from error
        if not files:
            raise UsageError(f"{flag} {show(path)}: no pictures in this folder")
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
    missing = [f"{show(reference[stem])}: no restored picture of this name in {show(args.restored)}"
               for stem in sorted(reference.keys() - restored.keys())]
    extra = sorted(restored.keys() - reference.keys())
    return [(stem, reference[stem], restored[stem]) for stem in both], missing, extra


def _table(rows, names):
    lines = [["name", *names]] + [[show(row["name"]), *(f"{row[name]:.4f}" for name in names)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def add(commands):
    """The command's parser."""
    parser = add_command(commands, "evaluate", run, "Measure restored pictures against their references.")
    parser.add_argument("--reference", required=True, metavar="DIR", default=argparse.SUPPRESS, help=(
        "the true pictures (a folder, or one file)"))
    parser.add_argument("--restored", required=True, metavar="DIR", default=argparse.SUPPRESS, help=(
        "the restored ones, of the same names (extensions may differ)"))
    parser.add_argument("--metrics", default="psnr,ssim", metavar="NAMES", help=(
        "of psnr, ssim, lpips (set INDIGO_LPIPS to its weights), or whole protocols such as psnr-y-bt601-crop4-u8"))
    parser.add_argument("-o", "--output", metavar="FILE.csv", default=argparse.SUPPRESS, help="also write a table")
