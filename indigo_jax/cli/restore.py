"""``indigo restore``: pictures through a method, which may be chosen by what is wrong and what is known."""
import argparse
import contextlib
import os
import pathlib
import re

from indigo_jax import __version__
from indigo_jax.cli import cache, files, progress
from indigo_jax.cli.jobs import Steps, gather, is_out_of_memory, notes_of, run_all, say
from indigo_jax.cli.ledger import Ledger
from indigo_jax.cli.manifest import settings_of
from indigo_jax.cli.masks import Masks
from indigo_jax.cli.messages import UsageError, one_line, show
from indigo_jax.cli.outputs import check_writable, choose_places, hash_file, refuse_shared, write_whole
from indigo_jax.cli.parsing import add_command, add_files, add_settings, number
from indigo_jax.cli.reports import Report

_SYNONYMS = {"super-resolution": "sr"}


def add(commands, argv):
    """The command's parser; its help has the flags of the method that ``argv`` names."""
    parser = add_command(commands, "restore", run, "Restore pictures.")
    parser.epilog = "indigo methods: which there are, and when to take which. With --method NAME --help: its own flags."
    add_files(parser, "restored")
    is_called = bool(argv) and argv[0] == "restore"  # the methods are imported for this command alone
    if is_called:
        from indigo_jax import methods
    parser.add_argument("--method", choices=("auto", *methods.METHODS) if is_called else None, default="auto", help=(
        "auto: what measured best for --task and for what is given; see: indigo methods. indigo and latent-indigo are "
        "demonstrations, which auto never takes"))
    parser.add_argument("--task", choices=methods.TASKS if is_called else None, default="auto", type=_task, help=(
        "what to undo; auto: whatever the network finds. sr also enlarges, by --scale. nonuniform: blur that changes "
        "across the picture. ct: INPUT are sinograms, .npy files [detectors, angles] of sums along parallel rays, as "
        "scikit-image's radon makes them of densities in 0..1"))
    parser.add_argument("--scale", type=number(int, 1, 16), help="with --task sr: how much larger (default: 4)",
                        default=argparse.SUPPRESS)
    parser.add_argument("--samples", type=number(int, 1, 1000), default=1, help=(
        "independent restorations of each picture, NAME-1, NAME-2, ..., with NAME-mean and NAME-spread.png: their "
        "standard deviation, a grey value of 8 for one of 1"))
    parser.add_argument("--compare", metavar="FILE", default=argparse.SUPPRESS, help=(
        "also write before | after as one picture (ct: filtered back-projection | after); a folder for several"))
    parser.add_argument("--report", metavar="FILE.json", default=argparse.SUPPRESS, help=(
        "also write what became of every input, done, skipped, failed or left out: sizes, seconds, weights, reasons"))
    parser.add_argument("--redo", action="store_true", help=(
        "also restore what was restored with the same settings before; else it is skipped, and no harm is done by "
        "starting an interrupted run again"))
    parser.add_argument("--yes", action="store_true", help="do not ask before work of more than about ten minutes")
    if is_called:
        named = [_value(argv, i) for i, word in enumerate(argv) if word.split("=")[0] == "--method"]
        method = named[-1] if named and named[-1] in methods.METHODS else None
        if method:
            parser.description += f" --method {method}: {methods.METHODS[method].summary}."
        add_settings(parser, _owners(), method)
    return parser


def _task(text):
    return _SYNONYMS.get(text, text)


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
    values, masks = _prepare(args, owners, given)
    jobs, others = gather(args.inputs, args.output, *([(".npy",), "sinograms"] if args.task == "ct" else []))
    taken = [given[name] for name in ("mask", "kernel", "angles") if name in given]
    places = choose_places(args, jobs, args.output, args.samples, "--output", taken)
    comparisons = None
    if hasattr(args, "compare"):
        comparisons = choose_places(args, jobs, args.compare, 1, "--compare", taken)
        refuse_shared(comparisons, places, jobs)
    report = Report(getattr(args, "report", None), {
        "version": __version__, "method": args.method, "task": args.task, "seed": args.seed, "samples": args.samples})
    report.facts["scale"] = getattr(args, "scale", 4) if args.task == "sr" else None
    check_writable(args.output, "--output")
    if comparisons:
        check_writable(args.compare, "--compare")
    ledger = Ledger(args, places, comparisons, masks, report, _fingerprint(args, owners, given, values))

    def read(path):
        if args.task == "ct":
            return files.sinogram_reader(given.get("angles"))(path)
        from indigo_jax import images
        return images.read(path)

    readable = {}

    def check(job):
        readable[job] = read(job.path)

    def begin(job):
        cache.use(not args.no_cache)
        method = _load(args, owners, given, values)
        report.facts["scale"] = method.scale if method.scale > 1 else None  # some networks enlarge unasked
        if chosen:
            say(args, f"--method {args.method}: {chosen}")
        with contextlib.suppress(ValueError, OSError, MemoryError):  # is said when it is done
            left = len(jobs) - report.counts["skipped"] - report.counts["failed"]
            progress.warn(method, readable.pop(job), max(left, 1), args.samples, args.yes,
                          lambda text: say(args, text))
        return Restore(args, method, places, comparisons, masks, ledger, report, read).steps()

    return run_all(args, jobs, others, places, report, "restored", begin, is_done=ledger.is_done, refuse=ledger.refuse,
                   check=check)


class Restore:
    """What is done with one picture."""

    def __init__(self, args, method, places, comparisons, masks, ledger, report, read):
        self.args, self.method, self.places, self.comparisons = args, method, places, comparisons
        self.masks, self.ledger, self.report, self.read = masks, ledger, report, read

    def steps(self) -> Steps:
        """For :func:`jobs.run_all`."""
        return Steps(self._work, self._finish, self.method.devices, self.read, self._notes, self._calls)

    def _calls(self, picture):
        with contextlib.suppress(ValueError):  # is said when it is done
            if progress.is_long(self.method, picture):
                return self.method.expected(picture)[0] * self.args.samples
        return 0

    def _notes(self, job, picture):
        from indigo_jax import images
        warning = self.method.warning(picture)
        if self.comparisons and isinstance(picture, images.Picture):
            file, = self.comparisons.of(job)
            height, width = (self.method.scale * side for side in picture.pixels.shape[:2])
            images.check_size(file, *images.side_by_side_size(height, width, 1 + self.args.samples))
        return [*notes_of(job, picture, self.places, self.method.scale), *[warning] * bool(warning)]

    def _work(self, job, picture, device, tick):
        method = self.method
        if self.masks is not None:
            method = method.told(mask=self.masks.read(job))
        while True:
            try:
                return [method(picture, seed=self.args.seed, sample=sample, device=device, progress=tick)
                        for sample in range(self.args.samples)], device
            except (MemoryError, RuntimeError) as error:
                smaller = method.smaller(picture) if is_out_of_memory(error) else None
                if smaller is None:
                    raise
                method = smaller
                tall, wide = method.expected(picture)[1].tile
                say(self.args, f"note: {show(job.path)}: not enough memory; is restored in pieces of {wide} x {tall} "
                               "pixels")

    def _finish(self, job, picture, result, seconds):
        from indigo_jax import images
        (results, device), method = result, self.method
        restored, reports = zip(*results)
        files = self.places.of(job)
        digests = {file: write_whole(file, lambda path, one=one: images.write(path, one))
                   for file, one in zip(files, restored)}
        if self.comparisons:
            labels = ["after"] if len(restored) == 1 else [f"after, sample {i + 1}" for i in range(len(restored))]
            row = images.side_by_side([one.pixels for one in (picture, *restored)], [method.before, *labels])
            file, = self.comparisons.of(job)
            digests[file] = write_whole(file, lambda path: images.write(path, row))
        height, width = restored[0].pixels.shape[:2]
        facts = {"outputs": [str(file) for file in files], "width": width, "height": height,
                 "seconds": round(seconds, 4), **method.facts(reports), **self._kernels(files, reports, digests),
                 **self._together(job, restored, digests),
                 "weights": method.info.get("name"), "sha256": method.info["sha256"],
                 "device": f"{device.platform}:{device.id} ({device.device_kind})"}
        self.ledger.add(job, digests, facts, kernels=any(one.kernel is not None for one in reports))
        spread = f", {facts['spread']} {facts['spread_255']:.2f} of 255" if "spread" in facts else ""
        return f"{width} x {height} pixels, {method.line(reports)}{spread}, {seconds:.1f} s", facts

    def _together(self, job, restored, digests):
        """Writes mean and spread of several samples beside them."""
        if len(restored) == 1:
            return {}
        from indigo_jax import images
        from indigo_jax.methods import spread
        found, places = spread.spread_of(restored), self.places.beside(job)
        for file, one in zip(places, (found.mean, found.shown)):
            digests[file] = write_whole(file, lambda path, one=one: images.write(path, one))
        mean, map_ = map(str, places)
        return {"mean": mean, "spread_map": map_, "spread_255": round(found.rms, 4), "spread": spread.NAME}

    def _kernels(self, files, reports, digests):
        """Writes the kernels that were found beside the results, where a report names them."""
        import numpy as np
        kernels = []
        for file, one in zip(files, reports):
            if self.report.is_wanted and one.kernel is not None:
                kernels.append(file.with_name(f"{file.stem}-kernel.npy"))
                digests[kernels[-1]] = write_whole(kernels[-1], lambda path, one=one: np.save(path, one.kernel))
        return {"kernels": [str(kernel) for kernel in kernels]} if kernels else {}


def _choose(args, owners, given):
    """Settle ``args.method``; why, where it was not named. Refuses flags and tasks of other methods."""
    from indigo_jax import methods, weights
    if args.method == "auto":
        able = {name: set(flags) for name, flags in owners.items() if args.task in methods.METHODS[name].tasks
                and not (args.task == "deblur" and methods.METHODS[name].needs_kernel and "kernel" not in given)}
        kind = weights.kind_of(given["weights"]) if "weights" in given else None
        able = {name: flags for name, flags in able.items() if kind in (None, methods.METHODS[name].kind_of_weights)
                and not methods.METHODS[name].demonstration}
        if not able:
            raise UsageError(f"--task {args.task}: no method takes {weights.KINDS[kind].partition(' (')[0]} for it; "
                             "leave --weights out, or name others")
        try:
            args.method, why = methods.choose(args.task, tuple(given), able)
        except ValueError as error:
            for name in given:
                named = [owner for owner, flags in owners.items() if name in flags]
                if all(methods.METHODS[owner].demonstration for owner in named):
                    raise UsageError(f"{_flag(name)} is for --method {' and '.join(named)}, of which one must be named"
                                     ) from error
                tasks = {owner: flags[name][1].tasks for owner, flags in owners.items() if name in flags}
                if all(tasks.values()) and not any(args.task in each for each in tasks.values()):
                    wanted = " or ".join(dict.fromkeys(task for each in tasks.values() for task in each))
                    raise UsageError(f"{_flag(name)} is for --task {wanted}; add that, or leave it out") from error
            raise UsageError(str(error)) from error
        return why
    tasks = methods.METHODS[args.method].tasks
    if args.task == "auto" and args.task not in tasks:
        args.task = _only_task(args, tasks, [known.tasks for name, (_, known) in owners[args.method].items()
                                             if name in given])
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
            fix = f"--method {args.method} takes its network by --weights" if (
                name == "prior" and "weights" in owners[args.method]) else "leave it out"
            raise UsageError(f"{_flag(name)} is for --method {' and '.join(takers)}; {fix}")
    return None


def _only_task(args, tasks, of_flags):
    """The one task of a method that the flags are for; "auto" where there are several."""
    left = [task for task in tasks if all(not own or task in own for own in of_flags)]
    if hasattr(args, "scale") and "sr" in left:
        left = ["sr"]
    return left[0] if len(left) == 1 else "auto"


def _prepare(args, owners, given):
    """Check what can be checked without a network, read the files that are named: the settings, a folder of masks."""
    if hasattr(args, "scale") and args.task != "sr":
        raise UsageError("--scale enlarges, which is for --task sr; add --task sr, or leave --scale out")
    values, masks = {}, None
    for name, value in given.items():
        known = owners[args.method][name][1]
        if known.tasks and args.task not in known.tasks:
            raise UsageError(f"{_flag(name)} is for --task {' and '.join(known.tasks)}; leave it out")
        if name == "mask" and os.path.isdir(value):
            import numpy as np
            masks, values["mask"] = Masks(value), np.ones((1, 1), np.float32)  # each picture will be told its own
        elif name != "angles":
            values[name] = files.READERS.get(known.file, lambda value: value)(value)
    if args.task == "inpaint" and "mask" not in given:
        raise UsageError("--task inpaint needs --mask FILE, a picture in which the area to fill is white, or a "
                         "folder of such, one for each picture")
    _check_samples(args)
    return values, masks


def _check_samples(args):
    """Refuse several samples of a method that gives one answer."""
    from indigo_jax.methods import METHODS
    if args.samples > 1 and METHODS[args.method].one_answer:
        others = [name for name, method in METHODS.items()
                  if args.task in method.tasks and not method.one_answer and not method.demonstration]
        raise UsageError(f"--method {args.method} gives one answer, so {args.samples} samples would be the same; leave "
                         f"--samples out" + (f", or draw them with --method {others[0]}" if others else ""))


def _fingerprint(args, owners, given, values):
    """What all results depend on; None where the output is no folder, so that nothing is kept."""
    from indigo_jax import images, methods
    output = pathlib.Path(args.output)
    if output.suffix.lower() in images.EXTENSIONS and not output.is_dir():
        return None
    method = methods.METHODS[args.method]
    with _as_usage(args, owners, given):
        settings = method.Settings(**values)
        angles = {"angles": hash_file(given["angles"])} if "angles" in given else {}
        return settings_of(method, settings, args.task, seed=args.seed, samples=args.samples,
                           scale=getattr(args, "scale", None), compare=hasattr(args, "compare"), **angles)


def _load(args, owners, given, values):
    """The method with its networks."""
    from indigo_jax import methods
    with _as_usage(args, owners, given):
        return methods.load(args.method, task=args.task, scale=getattr(args, "scale", None), **values)


@contextlib.contextmanager
def _as_usage(args, owners, given):
    """Errors of settings, weights and devices as those of usage."""
    try:
        yield
    except ValueError as error:
        text = one_line(error)
        name, _, reason = text.partition(": no weights of this name")
        if reason and name not in given.values():
            text = (f"{name}, a default, is not among the weights here; name others with "
                    f"{' or '.join(_networks(owners[args.method]))}; see: indigo weights list")
        raise UsageError(_as_flags(text, owners[args.method])) from error
    except OSError as error:
        raise UsageError(one_line(error)) from error
    except RuntimeError as error:
        raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error


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
