"""``indigo restore``: pictures through a method, which may be chosen by what is wrong and what is known."""
import argparse
import json
import pathlib
import re
import sys

from indigo_jax import __version__
from indigo_jax.cli import files
from indigo_jax.cli.jobs import choose_targets, gather, refuse_shared, run_all
from indigo_jax.cli.messages import UsageError, one_line, write_text
from indigo_jax.cli.parsing import add_command, add_files, add_settings, number


def add(commands, argv):
    """The command's parser; its help has the flags of the method that ``argv`` names."""
    parser = add_command(commands, "restore", run, "Restore pictures.")
    parser.epilog = "indigo methods: which there are, and when to take which. With --method NAME --help: its own flags."
    add_files(parser, "restored")
    is_called = bool(argv) and argv[0] == "restore"  # the methods are imported for this command alone
    if is_called:
        from indigo_jax import methods
    parser.add_argument("--method", choices=("auto", *methods.METHODS) if is_called else None, default="auto", help=(
        "auto: what measured best for --task and for what is given; see: indigo methods"))
    parser.add_argument("--task", choices=methods.TASKS if is_called else None, default="auto", help=(
        "what to undo; auto: whatever the network finds. sr also enlarges, by --scale. nonuniform: blur that changes "
        "across the picture. ct: INPUT are sinograms, .npy files [detectors, angles] of sums along parallel rays, as "
        "scikit-image's radon makes them of densities in 0..1"))
    parser.add_argument("--scale", type=number(int, 1, 16), help="with --task sr: how much larger (default: 4)",
                        default=argparse.SUPPRESS)
    parser.add_argument("--samples", type=number(int, 1, 1000), default=1, help=(
        "independent restorations of each picture, NAME-1, NAME-2, ..."))
    parser.add_argument("--compare", metavar="FILE", default=argparse.SUPPRESS, help=(
        "also write before | after as one picture (ct: filtered back-projection | after); a folder for several"))
    parser.add_argument("--report", metavar="FILE.json", default=argparse.SUPPRESS, help=(
        "also write what was done: sizes, seconds, weights, device"))
    if is_called:
        named = [_value(argv, i) for i, word in enumerate(argv) if word.split("=")[0] == "--method"]
        method = named[-1] if named and named[-1] in methods.METHODS else None
        add_settings(parser, _owners(), method)
    return parser


def _value(argv, i):
    return argv[i].partition("=")[2] if "=" in argv[i] else (argv[i + 1:] or [""])[0]


def _owners():
    """``{method: {name: (field, flag)}}``, without flags that are for tasks of other methods."""
    from indigo_jax import methods
    from indigo_jax.methods.flags import flags_of
    return {name: {flag: (field, known) for flag, (field, known) in flags_of(method.Settings).items()
                   if not known.tasks or set(known.tasks) & set(method.tasks)}
            for name, method in methods.METHODS.items()}


def run(args):
    """Restore every picture; returns the exit code."""
    owners = _owners()
    given = {name: getattr(args, name) for names in owners.values() for name in names if hasattr(args, name)}
    chosen = _choose(args, owners, given)
    restoration_of = _prepare(args, owners, given)
    report = getattr(args, "report", None)
    jobs, failed = gather(args.inputs, args.output, *([(".npy",), "sinograms"] if args.task == "ct" else []))
    targets = choose_targets(args, jobs, args.output, args.samples, "--output")
    comparisons = choose_targets(args, jobs, args.compare, 1, "--compare") if hasattr(args, "compare") else None
    if comparisons:
        refuse_shared(comparisons, targets)
    if report is not None and (pathlib.Path(report).suffix.lower() != ".json" or pathlib.Path(report).is_dir()):
        raise UsageError(f"--report writes JSON: name it {pathlib.Path(report).with_suffix('.json')}, not {report}")
    method = restoration_of()
    if chosen:
        print(f"{args.parser.prog}: --method {args.method}: {chosen}", file=sys.stderr)

    def work(picture, device):
        samples = [method(picture, seed=args.seed, sample=sample, device=device) for sample in range(args.samples)]
        return samples, device

    rows = []

    def finish(job, picture, result, seconds):
        from indigo_jax import images
        results, device = result
        restored, reports = zip(*results)
        for target, one in zip(targets[job], restored):
            images.write(target, one)
        if comparisons:
            labels = ["after"] if args.samples == 1 else [f"after, sample {i + 1}" for i in range(args.samples)]
            row = images.side_by_side([one.pixels for one in (picture, *restored)], [method.before, *labels])
            images.write(comparisons[job][0], row)
        height, width = restored[0].pixels.shape[:2]
        rows.append({"input": str(job.path), "outputs": [str(target) for target in targets[job]], "width": width,
                     "height": height, "seconds": round(seconds, 4), **method.facts(reports),
                     **_kernels(targets[job], reports, report), "weights": method.info.get("name"),
                     "sha256": method.info["sha256"],
                     "device": f"{device.platform}:{device.id} ({device.device_kind})"})
        return f"{width} x {height} pixels, {method.line(reports)}, {seconds:.1f} s"

    read = files.sinogram_reader(given.get("angles")) if args.task == "ct" else None
    code = run_all(args, jobs, targets, failed, work, finish, method.devices, "restored", read, method.warning)
    if report is not None:
        settings = {"version": __version__, "method": args.method, "task": args.task, "seed": args.seed,
                    "samples": args.samples, "scale": method.scale if method.scale > 1 else None}
        text = json.dumps({**settings, "files": rows, "failed": [
            {"input": name, "reason": reason} for name, reason in failed]}, indent=2, ensure_ascii=False) + "\n"
        if not write_text(report, text):
            return 1
    return code


def _kernels(targets, reports, report):
    """Writes the kernels that were found beside the results, where a report names them."""
    import numpy as np
    kernels = []
    for target, one in zip(targets, reports):
        if report is not None and one.kernel is not None:
            kernels.append(str(target.with_name(f"{target.stem}-kernel.npy")))
            np.save(kernels[-1], one.kernel)
    return {"kernels": kernels} if kernels else {}


def _choose(args, owners, given):
    """Settle ``args.method``; why, where it was not named. Refuses flags and tasks of other methods."""
    from indigo_jax import methods, weights
    if args.method == "auto":
        able = {name: set(flags) for name, flags in owners.items() if args.task in methods.METHODS[name].tasks
                and not (args.task == "deblur" and methods.METHODS[name].needs_kernel and "kernel" not in given)}
        kind = weights.kind_of(given["weights"]) if "weights" in given else None
        able = {name: flags for name, flags in able.items() if kind in (None, methods.METHODS[name].kind_of_weights)}
        if not able:
            raise UsageError(f"--task {args.task}: no method takes {weights.KINDS[kind].partition(' (')[0]} for it; "
                             "leave --weights out, or name others")
        try:
            args.method, why = methods.choose(args.task, tuple(given), able)
        except ValueError as error:
            for name in given:
                tasks = {owner: flags[name][1].tasks for owner, flags in owners.items() if name in flags}
                if all(tasks.values()) and not any(args.task in each for each in tasks.values()):
                    wanted = " or ".join(dict.fromkeys(task for each in tasks.values() for task in each))
                    raise UsageError(f"{_flag(name)} is for --task {wanted}; add that, or leave it out") from error
            raise UsageError(str(error)) from error
        return why
    tasks = methods.METHODS[args.method].tasks
    if args.task == "auto" and args.task not in tasks:
        raise UsageError(f"--method {args.method} needs a --task. There is: {', '.join(tasks)}")
    if args.task not in tasks:
        other = next(name for name, method in methods.METHODS.items() if args.task in method.tasks)
        raise UsageError(f"--task {args.task} is for --method {other}; add that, or give another --task. There is: "
                         f"{', '.join(tasks)}")
    for name in given:
        if name not in owners[args.method]:
            if name == "weights":
                networks = _networks(owners[args.method])
                raise UsageError(f"--method {args.method} takes its networks by {' and '.join(networks)}; leave "
                                 "--weights out")
            takers = [method for method, flags in owners.items() if name in flags]
            raise UsageError(f"{_flag(name)} is for --method {' and '.join(takers)}; leave it out")
    return None


def _prepare(args, owners, given):
    """Check what can be checked without a network, read the files that are named; a function that makes the method."""
    from indigo_jax import methods
    if hasattr(args, "scale") and args.task != "sr":
        raise UsageError("--scale enlarges, which is for --task sr; add --task sr, or leave --scale out")
    values = {}
    for name, value in given.items():
        known = owners[args.method][name][1]
        if known.tasks and args.task not in known.tasks:
            raise UsageError(f"{_flag(name)} is for --task {' and '.join(known.tasks)}; leave it out")
        if name != "angles":
            values[name] = files.READERS.get(known.file, lambda value: value)(value)
    if args.task == "inpaint" and "mask" not in given:
        raise UsageError("--task inpaint needs --mask FILE, a picture in which the area to fill is white")

    def make():
        try:
            return methods.load(args.method, task=args.task, scale=getattr(args, "scale", None), **values)
        except ValueError as error:
            text = one_line(error)
            name, _, reason = text.partition(": no weights of this name")
            if reason and name not in given.values():
                text = (f"{name}, a default, is not among the weights here; name others with "
                        f"{' or '.join(_networks(owners[args.method]))}; see: indigo weights list")
            raise UsageError(_as_flags(text, owners[args.method])) from error
        except RuntimeError as error:
            raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error

    return make


def _networks(names):
    """The flags that name networks."""
    return [_flag(name) for name, (_, known) in names.items() if known.file == "weights"]


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _as_flags(text, names):
    """A sentence about settings as one about flags: names with an underscore, and one at its beginning."""
    for name in sorted(names, key=len, reverse=True):
        if "_" in name:
            text = re.sub(rf"(?<![\w-]){name}(?!\w)", _flag(name), text)
        elif re.match(rf"{name} (?!=)", text) and not text.startswith("--"):
            text = f"--{text}"
    for name in ("task", "scale"):
        text = re.sub(rf"^{name} ", f"--{name} ", text)
    return text
