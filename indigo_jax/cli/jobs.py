"""The pictures of a command: which there are, and the loop that does them one by one."""
import contextlib
import os
import pathlib
import sys
import time
from typing import Any, Callable, NamedTuple

from indigo_jax.cli import interrupts
from indigo_jax.cli.messages import UsageError, one_line, show
from indigo_jax.cli.outputs import Places, clean
from indigo_jax.cli.progress import Calls
from indigo_jax.cli.reports import Report

_SAID = 5  # files that are left out, each with a line of its own


class Job(NamedTuple):
    """One picture to do: a file, given itself (``root`` is then "") or found in a folder."""

    root: str
    name: str

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return pathlib.Path(self.root, self.name)

    @property
    def relative(self) -> str:
        """Its place below the output folder, but for the extension."""
        return self.name if self.root else os.path.basename(self.name)


class Steps(NamedTuple):
    """How a command does its pictures; made when there is one to do.

    Attributes:
        work: ``work(job, picture, device, tick) -> result``, in a thread of the device; calls ``tick()``, if it is not
            None, as often as ``calls`` said.
        finish: ``finish(job, picture, result, seconds) -> (line, facts)`` writes; a line to print and a report's facts.
        devices: to work on.
        read: ``read(path) -> picture``.
        notes: ``notes(job, picture) -> sentences`` to be said before work begins.
        calls: ``calls(picture)``, how many parts of long work are told; 0 for quick work.
    """

    work: Callable[[Job, Any, Any, Any], Any]
    finish: Callable[[Job, Any, Any, float], tuple[str, dict]]
    devices: list
    read: Callable[[pathlib.Path], Any]
    notes: Callable[[Job, Any], list[str]] = lambda job, picture: []
    calls: Callable[[Any], int] = lambda picture: 0


def gather(inputs, output, extensions=None, what="pictures"):
    """What is to be done.

    Args:
        inputs: files and folders.
        output: a folder of results inside of an input is not read.
        extensions: of ``what``; default: those of pictures.

    Returns:
        The jobs, and ``(status, name, reason)`` of what is no job: inputs that are not there while others are, pictures
        that cannot be read.
    """
    from indigo_jax import images
    extensions = extensions or images.EXTENSIONS
    output = pathlib.Path(output)
    jobs, others, seen = [], [], set()
    for text in inputs:
        path = pathlib.Path(text)
        if not path.is_dir():
            found = [Job("", text)]
            if not path.is_file():
                others.append(("failed", text, f"{show(path)}: no such file or folder; check the path"))
                continue
        else:
            try:
                files, left_out = images.find_pictures(path, exclude=output, extensions=extensions)
            except images.ImageError as error:
                raise UsageError(one_line(error)) from error
            found = [Job(str(path), str(file.relative_to(path))) for file in files]
            others += [("left out", str(file), reason) for file, reason in left_out]
        if not found:
            others.append(("failed", text, f"{show(path)}: no {what} in this folder, at any depth (looked for "
                                           f"{', '.join(extensions)})"))
        for job in found:
            place = os.path.realpath(job.path) if len(inputs) > 1 else job
            if place not in seen:
                seen.add(place)
                jobs.append(job)
    if not jobs:
        raise UsageError(next(reason for status, _, reason in others if status == "failed"))
    return jobs, others


def notes_of(job: Job, picture, places: Places, times: int = 1) -> list[str]:
    """What of a picture is left out by reading it or will be by writing a result ``times`` larger.

    Errors:
        :class:`images.ImageError` where its result cannot be written.
    """
    from indigo_jax import images
    if not isinstance(picture, images.Picture):
        return []
    frames = [f"the first of {picture.frames} pages or frames"] * (picture.frames > 1)
    return [*frames, *picture.notes, *images.check_target(places.of(job)[0], picture, times=times)]


def run_all(args, jobs: list[Job], others, places: Places, report: Report, verb: str, begin: Callable[[Job], Steps], *,
            is_done: Callable[[Job], dict | None] = lambda job: None,
            refuse: Callable[[Job], str | None] = lambda job: None,
            check: Callable[[Job], Any] = lambda job: None) -> int:
    """Read, compute and write every picture; returns the exit code. What is known of a picture is told to the report.

    Args:
        args: of the command.
        jobs, others: from :func:`gather`.
        places: where the results go.
        report: to be told.
        verb: what is done to pictures.
        begin: ``begin(job)``, called before the first job that is to be done, says how.
        is_done: facts of a job that is done already, else None.
        refuse: why a job cannot be done, before it is read; None if it can.
        check: ``check(job)`` raises where the job's file cannot be read; ``begin`` waits for one that can.
    """
    since, work, told = time.perf_counter(), _Work(args, jobs, places, report), bytearray(len(jobs))
    left_out = sum(status == "left out" for status, *_ in others)
    for status, name, reason in others:
        report.add(name, status, reason)
        if status == "failed" or report.counts[status] <= _SAID:
            work.say(reason if status == "failed" else f"note: left out: {reason}")
    if left_out > _SAID:
        work.say(f"note: {left_out - _SAID} more are left out")

    def close_interrupted():
        for job, is_told in zip(jobs, told):
            if not is_told:
                report.add(job.path, "left out", "interrupted before it was done")
        report.facts["interrupted"] = True
        report.close()

    try:
        with interrupts.before_end(close_interrupted):
            work.run(begin, is_done, refuse, check, told)
    except KeyboardInterrupt:
        close_interrupted()
        raise
    except BaseException:
        report.discard()
        raise
    try:
        report.close()
    except OSError as error:
        work.say(one_line(error))
        report.counts["failed"] += 1
    _summary(args, jobs, places, report, verb, time.perf_counter() - since, work.line)
    return 1 if report.counts["failed"] or report.counts["left out"] else 0


class _Work:
    """The loop of :func:`run_all`."""

    def __init__(self, args, jobs, places, report):
        self.args, self.jobs, self.places, self.report = args, jobs, places, report
        self.line, self.bar, self.steps, self.calls = "", None, None, Calls()

    def say(self, text):
        say(self.args, text)

    def run(self, begin, is_done, refuse, check, told):
        pending = self._pending(is_done, refuse, told)
        first = next((each for each in pending if self._can_be_read(*each, check, told)), None)
        clean({file.parent for job in self.jobs for file in self.places.of(job)})
        if first is None:
            return
        import jax
        from tqdm import tqdm

        from indigo_jax import sharding
        self.steps = begin(first[1])
        with tqdm(total=len(self.jobs), unit="picture", file=sys.stderr, disable=None, leave=False,
                  initial=sum(told)) as self.bar:
            for (index, job), future in sharding.over_devices(self._one, _chain(first, pending), self.steps.devices):
                interrupts.check()
                try:
                    picture, result, seconds = future.result()
                    self.line, facts = self.steps.finish(job, picture, result, seconds)
                    self.report.add(job.path, "done", **facts)
                except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
                    self._failed(job, _reason(job, error))
                told[index] = True
                self.bar.update()
        self.calls.close()

    def _pending(self, is_done, refuse, told):
        """``(index, job)`` of what is to be done; tells of the others."""
        for index, job in enumerate(self.jobs):
            facts = is_done(job)
            reason = None if facts is not None else refuse(job)
            if facts is None and reason is None:
                yield index, job
                continue
            if facts is not None:
                self.report.add(job.path, "skipped", **facts)
            else:
                self._failed(job, f"{show(job.path)}: {reason}")
            told[index] = True
            if self.bar is not None:
                self.bar.update()

    def _can_be_read(self, index, job, check, told):
        try:
            check(job)
        except (ValueError, OSError, MemoryError) as error:
            self._failed(job, _reason(job, error))
            told[index] = True
            return False
        return True

    def _one(self, item, device):
        since, (_, job) = time.perf_counter(), item
        picture = self.steps.read(job.path)
        for note in self.steps.notes(job, picture):
            self.say(f"note: {show(job.path)}: {note}")
        calls = self.steps.calls(picture)
        with self.calls.of_picture(calls) if calls else contextlib.nullcontext() as tick:
            return picture, self.steps.work(job, picture, device, tick), time.perf_counter() - since

    def _failed(self, job, reason):
        self.report.add(job.path, "failed", reason)
        self.say(reason)


def _chain(first, rest):
    yield first
    yield from rest


def _summary(args, jobs, places, report, verb, seconds, line):
    done, skipped, failed, left_out = (report.counts[status] for status in ("done", "skipped", "failed", "left out"))
    total = len(jobs) + left_out
    if done == 1 and not failed and not skipped and not left_out:
        files = next(places.of(job) for job in jobs)
        print(f"{', '.join(map(show, files))}: {line}")
    elif skipped and not done:
        which = ("the picture is" if total == 1 else f"all {skipped} pictures are" if skipped == total else
                 f"{skipped} of {total} pictures are")
        print(f"nothing to do: {which} in {show(args.output)} already" + (
            "" if getattr(args, "skip_existing", False) else ", made with these settings; --redo makes them again")
            + (f"; {failed} failed" if failed else "") + (f"; {left_out} left out" if left_out else ""))
    else:
        notes = [f"{number} {what}" for number, what in ((failed, "failed"), (skipped, "skipped"),
                                                         (left_out, "left out")) if number]
        print(f"{done} of {total} pictures {verb} into {show(args.output)} in {seconds:.1f} s"
              + "".join(f", {note}" for note in notes))


def say(args, text: str) -> None:
    """A line on stderr, between bars."""
    from tqdm import tqdm
    tqdm.write(f"{args.parser.prog}: {text}", file=sys.stderr)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a program, or what it was to be told, did not fit."""
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "ut of memory" in text


def _reason(job, error):
    from indigo_jax import images
    text = one_line(error)
    if isinstance(error, images.ImageError):
        return text
    if is_out_of_memory(error):
        how_much = f", {text}" if isinstance(error, MemoryError) and str(error) else ""
        return f"{show(job.path)}: not enough memory{how_much}; make the picture smaller, or cut it into pieces"
    return f"{show(job.path)}: {text}"
