"""Training states on disk: orbax checkpoints with the data iterator, and config.json beside them.

A workdir holds ``config.json`` and ``checkpoints/STEP/``. A step appears whole or not at all.
"""
import json
import os
import pathlib

import jax
import orbax.checkpoint as ocp

from indigo_jax.typing import Params

CONFIG = "config.json"


def manager(workdir: str | os.PathLike, *, every: int = 1, max_to_keep: int = 3) -> ocp.CheckpointManager:
    """An asynchronous checkpoint manager of ``workdir/checkpoints``, keeping the last ``max_to_keep`` steps."""
    directory = pathlib.Path(workdir).resolve() / "checkpoints"
    options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=max_to_keep,
                                           enable_async_checkpointing=True, create=True)
    return ocp.CheckpointManager(directory, options=options)


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
    directory = pathlib.Path(workdir).resolve() / "checkpoints"
    steps = [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()] if directory.is_dir() else []
    return max(steps, default=None)


def restore_params(workdir: str | os.PathLike, *, ema: bool = True) -> Params:
    """Parameters of the newest whole step, as numpy arrays in a linen variables dict.

    Args:
        workdir: ``--workdir`` of the training run.
        ema: the exponential moving average (what one samples with) or the raw parameters.
    """
    step = latest_step(workdir)
    if step is None:
        raise FileNotFoundError(f"{workdir}: no whole checkpoint in {pathlib.Path(workdir) / 'checkpoints'}")
    path = pathlib.Path(workdir).resolve() / "checkpoints" / str(step) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        tree = getattr(metadata, "tree", metadata)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), dict(tree))
        state = checkpointer.restore(path, target)
    return jax.device_get(state["ema" if ema else "params"])
