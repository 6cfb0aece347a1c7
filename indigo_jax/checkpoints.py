"""Training states on disk: orbax checkpoints with the position in the data, and config.json beside them.

A workdir holds ``config.json``, ``checkpoints/STEP/`` (the last ones, to go on from) and, if asked for, ``best/STEP/``
(those with the best scores). A step appears whole or not at all; one that was damaged later is moved to ``broken/``.
Nothing of it depends on how many devices and processes wrote it. Several processes need a file system they share.
"""
import json
import os
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from indigo_jax.typing import Params

CONFIG = "config.json"


def manager(workdir: str | os.PathLike, *, every: int = 1, max_to_keep: int = 3,
            best_by: str = "") -> ocp.CheckpointManager:
    """An asynchronous checkpoint manager of ``workdir/checkpoints``, keeping the last ``max_to_keep`` steps.

    With ``best_by``, of ``workdir/best``, keeping the best by that score: the name of one of the ``scores`` given to
    :func:`save`, with a minus before it ("-eval_loss") where less is better.
    """
    options = dict(save_interval_steps=every, max_to_keep=max_to_keep, enable_async_checkpointing=True, create=True)
    if best_by:
        name = best_by.removeprefix("-")
        options |= dict(best_fn=lambda scores: scores[name], best_mode="min" if best_by.startswith("-") else "max")
    return ocp.CheckpointManager(_folder(workdir, "best" if best_by else "checkpoints"),
                                 options=ocp.CheckpointManagerOptions(**options))


def save(manager: ocp.CheckpointManager, step: int, state: dict, *, position: dict | None = None,
         scores: dict | None = None) -> bool:
    """Begin to save a step, in the background; all processes must do it together. False if it is there already.

    Args:
        state: a tree of arrays by name; "params" and "ema" are what :func:`restore_params` looks for.
        position: in the data, the same on all processes: ``iterator.get_state()`` of :func:`indigo_jax.data.pipeline`.
        scores: of a manager made with ``best_by``.
    """
    items = {"state": ocp.args.StandardSave(state)}
    if position is not None:
        items["position"] = ocp.args.JsonSave(position)
    return manager.save(step, args=ocp.args.Composite(**items), metrics=scores)


def restore(manager: ocp.CheckpointManager, step: int, target: dict) -> tuple[dict, dict]:
    """State and position in the data of a step.

    Args:
        target: ``jax.ShapeDtypeStruct`` for every array, with the sharding that it shall have: any mesh.
    """
    items = {"state": ocp.args.StandardRestore(target)}
    old = sorted((pathlib.Path(manager.directory) / str(step) / "data").glob("process_0-of-*.json"))
    if old:  # earlier runs have one file for each process
        return manager.restore(step, args=ocp.args.Composite(**items))["state"], json.loads(old[0].read_text())
    restored = manager.restore(step, args=ocp.args.Composite(**items, position=ocp.args.JsonRestore()))
    return restored["state"], restored["position"]


def newest_whole_step(workdir: str | os.PathLike) -> int | None:
    """The newest step of ``workdir/checkpoints`` that can be read, or None.

    Damaged newer ones are moved to ``workdir/broken``, and a line on standard error says so. The processes read every
    step together, each its share of the arrays, and agree. Call it before a manager is made.
    """
    from jax.experimental import multihost_utils
    index, count = jax.process_index(), jax.process_count()
    while True:
        newest = latest_step(workdir)
        step = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if newest is None else newest)))
        if step < 0:
            return None
        path = _folder(workdir, "checkpoints") / str(step)
        reason = _damage(path, index=index, count=count)
        if not np.any(multihost_utils.process_allgather(np.asarray(bool(reason)))):
            return step
        if index == 0:
            aside = _set_aside(workdir, path)
            older = latest_step(workdir)
            print(f"checkpoint {step} is damaged ({reason or 'as another process found'}): moved to {aside}, going on "
                  + ("from the start" if older is None else f"from step {older}"), file=sys.stderr)
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")


def write_config(workdir: str | os.PathLike, config: dict) -> None:
    """Write ``config.json`` in one move (first process only)."""
    if jax.process_index():
        return
    path = pathlib.Path(workdir) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(temporary, path)


def read_config(workdir: str | os.PathLike) -> dict:
    """The ``config.json`` of a training run.

    Errors:
        FileNotFoundError when the folder is not a workdir.
    """
    path = pathlib.Path(workdir) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: give the --workdir of a training run")
    return json.loads(path.read_text())


def latest_step(workdir: str | os.PathLike) -> int | None:
    """The newest whole step of a workdir, or None."""
    return max(_steps(_folder(workdir, "checkpoints")), default=None)


def best_step(workdir: str | os.PathLike, best_by: str) -> int | None:
    """The step of ``workdir/best`` with the best score (as for :func:`manager`), or None."""
    name, sign = best_by.removeprefix("-"), -1 if best_by.startswith("-") else 1
    files = {step: _folder(workdir, "best") / str(step) / "metrics" / "metrics" for step in
             _steps(_folder(workdir, "best"))}
    scores = {step: sign * json.loads(file.read_text())[name] for step, file in files.items()}
    return max(scores, key=scores.get, default=None)


def restore_params(workdir: str | os.PathLike, *, ema: bool = True, best_by: str = "") -> Params:
    """Parameters of the newest whole step, as numpy arrays in a linen variables dict.

    A damaged newest step is passed over, and a line on standard error says so.

    Args:
        workdir: ``--workdir`` of the training run.
        ema: the exponential moving average (what one samples with) or the raw parameters.
        best_by: instead of the newest step, the best of those kept by this score (as for :func:`manager`).
    """
    folder = _folder(workdir, "best" if best_by else "checkpoints")
    steps = sorted(_steps(folder), reverse=True) if not best_by else [best_step(workdir, best_by)]
    name = "ema" if ema else "params"
    for step in filter(lambda step: step is not None, steps):
        reason = _damage(folder / str(step), prefix=f"{name}.")
        if not reason:
            return _read(folder / str(step) / "state", lambda path: path.startswith(f"{name}/"))[name]
        print(f"{folder / str(step)} is damaged ({reason}): passed over", file=sys.stderr)
    raise FileNotFoundError(f"{workdir}: no whole checkpoint in {folder}")


def _folder(workdir, name):
    return pathlib.Path(workdir).resolve() / name


def _steps(directory):
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()] if directory.is_dir() else []


def _read(path, wanted):
    """A saved tree, on this process alone, as numpy; ``...`` where not ``wanted(name)``."""
    own = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()},
                                             barrier_sync_key_prefix=f"read{jax.process_index()}")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=own)
    with ocp.Checkpointer(handler, multiprocessing_options=own) as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        tree = getattr(metadata, "tree", metadata)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        item = jax.tree_util.tree_map_with_path(
            lambda path, _: 0 if wanted(jax.tree_util.keystr(path, simple=True, separator="/")) else ..., tree)
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy))


def _damage(path, *, prefix="", index=0, count=1):
    """What keeps a step from being read, in a few words, or "". Reads every ``count``-th array of a name.

    By tensorstore itself, one array at a time: so orbax has no other reads under way when one of them fails.
    """
    import tensorstore
    kvstore = {"driver": "ocdbt", "base": f"file://{path}/state/"}
    try:
        if (path / "position").exists():
            json.loads((path / "position" / "metadata").read_text())
        json.loads((path / "state" / "_METADATA").read_text())
        keys = [key.decode() for key in tensorstore.KvStore.open(kvstore).result().list().result()]
        arrays = [key.rpartition("/") for key in sorted(keys) if key.endswith(("/.zarray", "/zarr.json"))]
        if not arrays:
            raise ValueError("it has no arrays")
        for name, _, kind in [array for array in arrays if array[0].startswith(prefix)][index::count]:
            driver = "zarr" if kind == ".zarray" else "zarr3"
            array = tensorstore.open({"driver": driver, "kvstore": {**kvstore, "path": f"{name}/"}}).result()
            values = array.read().result()
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{name} holds NaN or infinity")
    except (ValueError, OSError, KeyError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0][:80]
    return ""


def _set_aside(workdir, path):
    folder = _folder(workdir, "broken")
    folder.mkdir(exist_ok=True)
    names = (path.name + suffix for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    aside = next(folder / name for name in names if not (folder / name).exists())
    os.rename(path, aside)
    return aside
