"""Which pictures of a job are done, which cannot be, and the note of those that have just been done."""
import os

from indigo_jax.cli.jobs import say
from indigo_jax.cli.manifest import Manifest, key_of
from indigo_jax.cli.messages import show
from indigo_jax.cli.outputs import hash_file


class Ledger:
    """Of one run of ``restore``.

    Args:
        args: of the command.
        places, comparisons: where results and comparisons go; comparisons may be None.
        masks: one for each picture, or None.
        report: a report that names kernels wants them written.
        fingerprint: what all results depend on, from :func:`manifest.settings_of`; None: nothing is kept.
    """

    def __init__(self, args, places, comparisons, masks, report, fingerprint):
        self.args, self.places, self.comparisons, self.masks, self.report = args, places, comparisons, masks, report
        self.manifest = Manifest(places.output) if fingerprint else None
        self.fingerprint, self.begun = key_of(fingerprint), {}

    def is_done(self, job) -> dict | None:
        """Facts of a picture that need not be done."""
        files = [*self.places.all_of(job), *(self.comparisons.of(job) if self.comparisons else ())]
        if self.args.skip_existing and all(file.exists() for file in files):
            return {"reason": "there is a file of its name", "outputs": [str(file) for file in self.places.of(job)]}
        if self.manifest is None:
            return None
        try:
            stamp = _stamp(job)
            mask = None if self.masks is None else hash_file(self.masks.of(job) or job.path)
            key = key_of(self.fingerprint, hash_file(job.path), mask,
                         [os.path.relpath(file, self.places.output) for file in files])
        except OSError:  # whoever reads it will say what is wrong
            return None
        record = None if self.args.redo else self.manifest.is_done(key, files)
        if record is not None and not (record.get("kernels") and self.report.is_wanted):
            return {**record["facts"], "reason": "done before"}
        self.begun[job] = key, stamp
        return None

    def refuse(self, job) -> str | None:
        """Why a picture cannot be done."""
        folder = next((file for file in self.places.all_of(job) if file.is_dir()), None)
        if folder is not None:
            return f"{show(folder)}, where its result goes, is a folder"
        if self.masks is not None and self.masks.of(job) is None:
            return f"no mask of its name ({show(os.path.splitext(job.relative)[0])}) in {show(self.masks.folder)}"
        return None

    def add(self, job, digests, facts, *, kernels: bool) -> None:
        """Note that a picture is done. ``kernels``: some were found."""
        if self.manifest is None or job not in self.begun:
            return
        key, stamp = self.begun.pop(job)
        try:
            if _stamp(job) == stamp:  # else it was changed meanwhile: which content was read is not known
                self.manifest.add(key, digests, input=str(job.path), facts=facts,
                                  kernels=kernels and "kernels" not in facts)
        except OSError as error:
            say(self.args, f"{show(self.manifest.path)}: cannot be written ({error.strerror}); {show(job.path)} will "
                           "be done again by the next run")


def _stamp(job):
    facts = os.stat(job.path)
    return facts.st_size, facts.st_mtime_ns
