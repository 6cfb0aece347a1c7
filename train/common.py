"""What the training scripts share: choosing a config file, logging, pictures. Nothing here knows an algorithm."""
import argparse
import csv
import dataclasses
import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

import jax
import tyro

import indigo_jax
from train import distributed


def config_from_command_line(argv=None) -> Any:
    """``--config FILE [--field value ...]``: the file's ``get_config()`` with fields overridden by flags.

    A wrong flag or value ends the program with exit code 2 and a line that names it.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", required=True)
    wants_help = {"-h", "--help"} & set(sys.argv[1:] if argv is None else argv)
    if wants_help and "--config" not in " ".join(sys.argv[1:] if argv is None else argv):
        print("usage: python -m train.NAME --config train/configs/FILE.py [--field value ...]\n"
              f"With --config FILE --help: the fields of that config.\n\n{distributed.HELP}")
        raise SystemExit(0)
    known, rest = parser.parse_known_args(argv)
    module = load_file(known.config)
    config = module.get_config()
    return tyro.cli(type(config), default=config, args=rest,
                    description=f"{module.__doc__}\n{distributed.HELP}")


def load_file(path: str):
    """A Python file as a module, whatever the working directory."""
    file = pathlib.Path(path)
    if not file.is_file():
        found = sorted(p.name for p in (pathlib.Path(__file__).parent / "configs").glob("[!_]*.py"))
        print(f"config {path} not found; there are: {', '.join(found)} in train/configs/", file=sys.stderr)
        raise SystemExit(2)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def module_to_json(module) -> dict:
    """A linen module as ``{"architecture": class name, "arguments": constructor arguments}``."""
    arguments = {}
    for field in dataclasses.fields(module):
        if field.init and field.name not in ("parent", "name"):
            value = getattr(module, field.name)
            arguments[field.name] = jax.numpy.dtype(value).name if field.name == "dtype" else value
    return {"architecture": type(module).__name__, "arguments": arguments}


def code_version() -> str:
    """Package version and, in a checkout, the commit."""
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10,
                                cwd=pathlib.Path(__file__).parent)
        suffix = f"+{commit.stdout.strip()}" if commit.returncode == 0 and commit.stdout.strip() else ""
    except (OSError, subprocess.TimeoutExpired):
        suffix = ""
    return indigo_jax.__version__ + suffix


def _rows_until(path, step):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["step"].isdigit() and int(row["step"]) <= step]


class Logger:
    """Numbers to ``metrics.csv`` and TensorBoard, pictures to TensorBoard; first process only. A context manager."""

    def __init__(self, workdir, columns: tuple[str, ...], *, start: int = 0):
        from tensorboardX import SummaryWriter
        self.active = jax.process_index() == 0
        if not self.active:
            return
        self._columns = ("step",) + columns
        path = pathlib.Path(workdir) / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _rows_until(path, start)  # what an interrupted run logged after its last checkpoint is done again
        self._file = path.open("w", newline="")
        self._csv = csv.DictWriter(self._file, self._columns)
        self._csv.writeheader()
        self._csv.writerows(kept)
        self._board = SummaryWriter(str(pathlib.Path(workdir) / "tensorboard"))

    def scalars(self, step: int, values: dict) -> None:
        """One row: ``values`` may have any of the columns."""
        if not self.active:
            return
        self._csv.writerow({"step": step, **values})
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)
        self._board.flush()

    def picture(self, name: str, step: int, pixels) -> None:
        """A picture ``[H, W, 3]`` uint8 for TensorBoard."""
        if self.active:
            self._board.add_image(name, pixels, step, dataformats="HWC")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.active:
            self._file.close()
            self._board.close()
