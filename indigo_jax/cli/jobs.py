"""The pictures of a command: which there are, where their results go, and the loop that does them one by one."""
import pathlib
import sys
import time
from typing import NamedTuple

from indigo_jax.cli.messages import UsageError, one_line, show

_FOREIGN = (".gif", ".heic", ".heif", ".avif", ".jp2", ".psd", ".pdf", ".svg", ".eps", ".raw", ".exr", ".npy", ".npz")


class Job(NamedTuple):
    """One picture to do: the file, and its place below the output folder."""

    path: pathlib.Path
    relative: pathlib.PurePath


def gather(inputs, output, extensions=None, what="pictures"):
    """The pictures (or ``what`` has these ``extensions``) of all inputs, and (name, reason) of inputs that are not
    there while others are."""
    from indigo_jax import images
    extensions = extensions or images.EXTENSIONS
    output = pathlib.Path(output)
    jobs, failed, seen = [], [], set()
    for text in inputs:
        path = pathlib.Path(text)
        try:
            found = images.list_pictures(path, exclude=output if path.is_dir() else None, extensions=extensions)
        except images.ImageError as error:
            if path.is_dir():
                raise UsageError(one_line(error)) from error
            failed.append((text, one_line(error)))
            continue
        if not found:
            failed.append((text, f"{show(path)}: no {what} in this folder, at any depth (looked for "
                                 f"{', '.join(extensions)})"))
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                jobs.append(Job(file, file.relative_to(path) if path.is_dir() else pathlib.PurePath(file.name)))
    if not jobs:
        raise UsageError(failed[0][1])
    return jobs, failed


def choose_targets(args, jobs, output, samples, flag):
    """{job: the files it writes}; refuses to write over an input, or twice to one file."""
    from indigo_jax import images
    output = pathlib.Path(output)
    is_picture = output.suffix.lower() in images.EXTENSIONS and not output.is_dir()
    single = len(args.inputs) == 1 and not pathlib.Path(args.inputs[0]).is_dir()
    if is_picture and not single:
        raise UsageError(f"{flag} {show(output)} names one picture, but INPUT may hold several; name a folder: "
                         f"{show(output.with_suffix(''))}")
    if output.exists() and not output.is_dir() and not is_picture:
        raise UsageError(f"{flag} {show(output)} is a file, but no picture name; name a folder, or a picture "
                         f"({', '.join(images.EXTENSIONS)})")
    if single and output.suffix.lower() in _FOREIGN and not output.is_dir():
        raise UsageError(f"{flag} {show(output)}: {output.suffix} cannot be written; use one of "
                         f"{', '.join(images.EXTENSIONS)}")
    if is_picture:
        places = {jobs[0]: output}
    else:
        places = {job: output / name for job, name in _png_names(jobs).items()}
    targets = {job: [place] if samples == 1 else [place.with_name(f"{place.stem}-{i + 1}{place.suffix}")
                                                  for i in range(samples)] for job, place in places.items()}
    inputs, owners = {job.path.resolve() for job in jobs}, {}
    for job, files in targets.items():
        for file in files:
            if file.resolve() in inputs:
                raise UsageError(f"{flag} {show(file)} would overwrite an INPUT; name another file or folder")
            other = owners.setdefault(file, job)
            if other != job:
                raise UsageError(f"{show(other.path)} and {show(job.path)} would both be written to {show(file)}; "
                                 "do them in two runs, or give the folder above them as INPUT")
    return targets


def _png_names(jobs):
    """a.jpg -> a.png; of files that differ in the extension only, a.png keeps its name and a.jpg becomes a.jpg.png."""
    groups = {}
    for job in jobs:
        groups.setdefault(job.relative.with_suffix(".png"), []).append(job)
    return {job: name if len(group) == 1 or job.relative == name else job.relative.with_name(f"{job.relative.name}.png")
            for name, group in groups.items() for job in group}


def refuse_shared(comparisons, targets):
    """Refuse comparisons that would be written where a result goes."""
    written = {file.resolve() for files in targets.values() for file in files}
    for files in comparisons.values():
        if files[0].resolve() in written:
            raise UsageError(f"--compare {show(files[0])} is where a result goes; name another file or folder")


def run_all(args, jobs, targets, failed, work, finish, devices, verb, read=None, warn=None):
    """Read, compute and write every picture; ``failed`` collects (name, reason). Returns the exit code.

    ``read(path)`` gives the picture, default :func:`images.read`; ``warn(picture)`` what is to be said before work on
    it begins, or None.
    """
    import jax
    from tqdm import tqdm

    from indigo_jax import images, sharding
    skipped = {job for job in jobs if args.skip_existing and all(target.exists() for target in targets[job])}
    jobs = [job for job in jobs if job not in skipped]
    begun, done, line = time.perf_counter(), 0, ""

    def one(job, device):
        since = time.perf_counter()
        picture = (read or images.read)(job.path)
        warning = warn(picture) if warn else None
        if warning:
            tqdm.write(f"{args.parser.prog}: note: {show(job.path)}: {warning}", file=sys.stderr)
        return picture, work(picture, device), time.perf_counter() - since

    for name, reason in failed:
        print(f"{args.parser.prog}: {reason}", file=sys.stderr)
    with tqdm(total=len(jobs), unit="picture", file=sys.stderr, disable=None, leave=False) as bar:
        for job, future in sharding.over_devices(one, jobs, devices):
            try:
                picture, result, seconds = future.result()
                line = finish(job, picture, result, seconds)
                done += 1
                if picture.frames > 1:
                    bar.write(f"{args.parser.prog}: note: {show(job.path)}: the first of {picture.frames} pages or "
                              "frames", file=sys.stderr)
            except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
                failed.append((str(job.path), _reason(job, error)))
                bar.write(f"{args.parser.prog}: {failed[-1][1]}", file=sys.stderr)
            bar.update()
    if done == 1 and not failed and not skipped:
        print(f"{show(targets[jobs[0]][0])}: {line}")
    else:
        notes = [f"{len(failed)} failed"] * bool(failed) + [f"{len(skipped)} skipped"] * bool(skipped)
        print(f"{done} of {len(jobs) + len(skipped)} pictures {verb} into {show(args.output)} in "
              f"{time.perf_counter() - begun:.1f} s" + "".join(f", {note}" for note in notes))
    return 1 if failed else 0


def _reason(job, error):
    from indigo_jax import images
    text = one_line(error)
    if isinstance(error, images.ImageError):
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "ut of memory" in text:
        return f"{show(job.path)}: not enough memory; restore it in smaller pieces with --tile 256"
    return f"{show(job.path)}: {text}"
