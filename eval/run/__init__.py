"""Degrade, restore and measure any data set, on any number of devices and processes, with the same numbers.

    python -m eval.run --config eval/configs/folder.py --data FOLDER --output FOLDER [--tasks denoise sr] [--pictures]
    python -m eval.run ... --coordinator HOST:PORT --num-processes N --process-id I      # once for each process

Writes scores.csv into the output: one row per picture and degradation with the names of the protocols, then the mean.
The scores of a picture depend on the picture, its name, the config, the weights, the code and the kind of device, not
on the other pictures, the number of devices or processes or on having been stopped: each picture has a record of its
own there, and the same command does only what is missing. A picture that cannot be read is named, the others are done.
"""
import inspect
import itertools
import json
import pathlib
import re
import sys
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import indigo_jax
from eval import coverage as coverages, problems
from eval.command import some, write_csv
from eval.coverage import WITHIN, coverage, expected
from eval.problems import Degradation, digest
from eval.run import batches, processes, records
from eval.run.config import EvalConfig
from indigo_jax import data, images, metrics, operators, rng, sharding
from indigo_jax.images.picture import one_line, show
from indigo_jax.methods import flags
from train import common, distributed

_GIVEN = (Degradation("given", "", lambda keys: operators.compose()),)  # of data in pairs
_READERS = 4  # threads
_ELSEWHERE = ("cli", "convert", "demo")  # parts of the library that no score comes from


class Outcome(NamedTuple):
    """How many pictures were scored, the rows of the table with their means, and why others failed, by name."""

    count: int
    means: list[dict]
    failed: dict[str, str]


def degradations(config: EvalConfig, source) -> tuple[Degradation, ...]:
    """Those of the config, or that of data in pairs; ValueError for a mix-up of both."""
    paired = (config.data.partition(":")[0] in ("gopro", "pairs")
              or not pathlib.Path(config.data).is_dir() and "measurement" in source[0])
    common.check_pairs(config.data, paired=paired, degrades=bool(config.degradations))
    return _GIVEN if paired else config.chosen()


def identity(config: EvalConfig, method, chosen, protocols) -> dict:
    """JSON of all that the scores depend on, beside the pictures."""
    device = jax.local_devices()[0]
    settings = {name: getattr(method.settings, name) for name, (_, flag) in flags.flags_of(method.settings).items()
                if flag.file != "weights"}  # all but names; arrays as their digests
    return {"method": config.method, "task": method.task,
            "settings": json.loads(json.dumps(settings, default=digest)),
            "weights": {role: network.info["sha256"] for role, network in method.networks.items()},
            "degradations": fingerprints(chosen), "metrics": [protocol.name for protocol in protocols],
            "seed": config.seed, "batch": config.batch, "samples": config.samples,
            "code": code(method),
            "device": f"{device.platform} {device.device_kind}", "jax": jax.__version__}


def fingerprints(chosen: tuple[Degradation, ...]) -> dict[str, str]:
    """What each degradation makes of one picture of 64 x 64 with one key, as twelve digits."""
    ramp = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3)
    picture = (ramp * ramp // 97 % 256).astype(np.uint8)
    outputs = np.asarray(problems.degrade(chosen, picture, rng.image_keys(0, [0])[0]))
    return {f"{each.task} {each.variant}".strip(): digest(y) for each, y in zip(chosen, outputs)}


def code(method) -> str:
    """Twelve digits of the Python files that scores come from: the library's, those of this command, the method's."""
    library = pathlib.Path(indigo_jax.__file__).parent
    files = {path.relative_to(library).as_posix(): path for path in library.rglob("*.py")}
    files = {name: path for name, path in files.items() if name.partition("/")[0] not in _ELSEWHERE}
    modules = (problems, batches, coverages, sys.modules[__name__])
    here = {module.__name__: pathlib.Path(module.__file__) for module in modules}
    files.update(here, method=pathlib.Path(inspect.getfile(type(method))))
    return digest(*(part for name, path in sorted(files.items()) for part in (name, b"\0", path.read_bytes())))


def evaluate(config: EvalConfig, devices=None) -> Outcome:
    """Do what is missing of an evaluation and write its table; with several processes, all of them call this.

    Args:
        config: see :class:`EvalConfig`.
        devices: of this process; default: all that it has.

    Errors:
        ValueError and OSError, one line each, for what the user can put right.
    """
    if not config.data or not config.output:
        raise ValueError("say where the pictures are and where the results go: --data FOLDER --output FOLDER")
    _check_output(config)
    source = data.open_source(config.data, split="all")
    names = list(source.names)[:config.limit or None]
    protocols = [metrics.by_name(name) for name in config.metrics]
    if len({protocol.name for protocol in protocols}) != len(config.metrics) or not protocols:
        raise ValueError(f"--metrics {' '.join(config.metrics)}: at least one, each once")
    chosen, method = degradations(config, source), config.restoration()
    kept = records.Records(config.output, identity(config, method, chosen, protocols))
    kept.check()
    peers = processes.Peers(config.output, config.time_limit)
    if peers.index == 0:
        kept.begin({"data": config.data, "weights": config.weights, "version": common.code_version()})
    peers.begin()
    kept.check()
    try:
        mesh = sharding.data_mesh(jax.local_devices() if devices is None else devices)
        _do(config, source, names[peers.index::peers.count], kept, peers, method, chosen, protocols, mesh)
    except BaseException as error:
        peers.fail(error)
        raise
    peers.wait()
    outcome = _conclude(names, kept, write=peers.index == 0)
    peers.end()
    return outcome


def _check_output(config):
    output = pathlib.Path(config.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {show(output)} is a file; name a folder")
    folder = pathlib.Path(config.data)
    if folder.is_dir() and (folder.resolve() == output.resolve() or folder.resolve() in output.resolve().parents):
        raise ValueError(f"--output {show(output)} lies in --data {show(folder)}, so that results would be taken for "
                         "pictures; name a folder elsewhere")


def _do(config, source, names, kept, peers, method, chosen, protocols, mesh):
    """This process's pictures: read, restore, measure, record."""
    places, done = {name: index for index, name in enumerate(source.names)}, itertools.count(1)
    with tqdm(total=len(names), unit="picture", desc="evaluating", disable=None if peers.index == 0 else True) as bar:
        def advance():
            bar.update()
            peers.tell(next(done))

        def fail(name, error):
            bar.write(f"eval.run: {_named(name, error)}", file=sys.stderr)
            kept.write(name, error=_named(name, error))
            advance()

        def jobs():
            for name, future in sharding.over_devices(lambda name, _: source[places[name]], names, range(_READERS)):
                try:
                    job = _job(name, future.result())
                except (ValueError, OSError, MemoryError) as error:
                    fail(name, error)
                    continue
                if _is_done(config, kept, chosen, job):
                    advance()
                else:
                    yield job

        for job, y, x, finite, drawn in batches.restored(jobs(), method, chosen, mesh=mesh, batch=config.batch,
                                                         seed=config.seed, samples=config.samples):
            try:
                if not finite.all():
                    raise ValueError("the restoration holds NaN or infinity")
                scores = [_score(*row, job.truth, protocols) for row in zip(chosen, y, x)]
                for score, samples in zip(scores, () if drawn is None else drawn):
                    score["restored"] |= coverage(*(pixels / 127.5 - 1 for pixels in (samples, job.truth)))
                if config.pictures:
                    for place, pixels in zip(_places(config, chosen, job.name), x):
                        images.write(place, pixels)
            except (ValueError, OSError, MemoryError) as error:
                fail(job.name, error)
                continue
            kept.write(job.name, pixels=job.digest, scores=scores)
            advance()


def _job(name, element):
    truth = element["image"]
    given = element.get("measurement", truth)
    if given.shape != truth.shape:
        raise ValueError(f"a picture of {truth.shape[1]} x {truth.shape[0]} with a measurement of {given.shape[1]} x "
                         f"{given.shape[0]} pixels; enlarge it first")
    own = digest(str(truth.shape), truth, *([] if given is truth else [given]))
    return batches.Job(name, own, truth, given)


def _is_done(config, kept, chosen, job):
    record = kept.read(job.name)
    if record is None or "scores" not in record or record.get("pixels") != job.digest:
        return False
    return not config.pictures or all(place.is_file() for place in _places(config, chosen, job.name))


def _score(degradation, y, x, truth, protocols):
    """A picture's numbers, measured on the host in float64 from 8-bit pictures (LPIPS: in float32, one by one)."""
    return {"task": degradation.task, "variant": degradation.variant,
            **{stage: {protocol.name: float(protocol(pixels[None], truth[None])[0]) for protocol in protocols}
               for stage, pixels in (("restored", x), ("input", y))}}


def _places(config, chosen, name):
    folders = [re.sub(r"[^a-z0-9.]+", "-", f"{each.task} {each.variant}".lower()).strip("-.") for each in chosen]
    return [pathlib.Path(config.output) / "restored" / folder / records.picture_name(name) for folder in folders]


def _named(name, error):
    text = one_line(error) if str(error) else type(error).__name__
    return text if name in text else f"{show(name)}: {text}"


def _conclude(names, kept, write):
    """The table of all records, in the order of the names, and what failed."""
    found = {name: kept.read(name) for name in names}
    missing = [name for name, record in found.items() if record is None]
    if missing:
        raise ValueError(f"no result for {len(missing)} of {len(names)} pictures ({some(missing)}); start again")
    done = [record for record in found.values() if "scores" in record]
    rows, path = records.rows(done), kept.folder / records.TABLE
    means = records.means(rows)
    if write and done:
        write_csv(path, [*rows, *means])
    elif write:
        path.unlink(missing_ok=True)
    failed = {name: record["error"] for name, record in found.items() if "error" in record}
    return Outcome(len(done), means, failed)


def main(argv=None) -> int:
    """Command line; see the module's text. Exit code 1: some picture failed, 2: nothing could be done."""
    try:
        arguments = distributed.from_command_line("eval.run", argv)
        config = common.config_from_command_line(arguments, program="eval.run", kind=EvalConfig, about=__doc__)
        outcome = evaluate(config)
    except (ValueError, OSError, ImportError) as error:
        print(f"eval.run: {one_line(error)}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        memory = "RESOURCE_EXHAUSTED" in str(error) or "ut of memory" in str(error)
        reason = "not enough memory; use a smaller --batch, with a new --output" if memory else one_line(error)
        print(f"eval.run: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("eval.run: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if jax.process_index() == 0:
        _report(config, outcome)
    return 1 if outcome.failed else 0


def _report(config, outcome):
    for row in outcome.means:
        numbers = [f"{name} {row['input ' + name]:.4f} -> {value:.4f}" for name, value in row.items()
                   if "input " + name in row]
        if config.samples > 1:
            shares = ", ".join(f"{row[f'within-{k}']:.1%} within {k} (calibrated {share:.1%})"
                               for k, share in zip(WITHIN, expected(config.samples)))
            numbers.append(f"spread of this method {row['spread-over-rmse']:.2f} of the error, {shares}")
        variant = f" ({row['variant']})" if row["variant"] else ""
        print(f"{row['task']}{variant}: {', '.join(numbers)}")
    failed = f"; {len(outcome.failed)} failed: {some(list(outcome.failed))}" if outcome.failed else ""
    where = f", see {show(pathlib.Path(config.output) / records.TABLE)}" if outcome.count else ""
    print(f"{outcome.count} pictures{where}{failed}")
