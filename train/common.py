"""What the training scripts share: choosing a config file, logging, pictures. Nothing here knows an algorithm."""
import argparse
import csv
import dataclasses
import importlib.util
import pathlib
import subprocess
from typing import Any

import jax
import tyro

import indigo_jax
from train import distributed


def config_from_command_line(argv=None, *, program: str, kind: type, about: str = "") -> Any:
    """``--config FILE [--field value ...]``: the file's ``get_config()`` with fields overridden by flags.

    Args:
        argv: default: the program's.
        program: its name, as ``train.indi``; configs that it may mean are in the folder of that package.
        kind: of its configs.
        about: what ``--help`` says of it.

    Errors:
        ValueError, one line, for a file that is missing or gives something else. A wrong flag or value ends the program
        with exit code 2 and a line that names it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, rest = parser.parse_known_args(argv)
    folder = program.partition(".")[0] + "/configs/"
    there = sorted(path.name for path in (pathlib.Path(__file__).parents[1] / folder).glob("[!_]*.py"))
    if known.config is None and {"-h", "--help"} & set(rest):
        print(f"usage: python -m {program} --config {folder}FILE.py [--field value ...]\n{about}\n{distributed.HELP}\n"
              "\nWith --config FILE --help: the fields of that config.")
        raise SystemExit(0)
    if known.config is None:
        raise ValueError(f"say what to do: --config {folder}{there[0]}")
    if not pathlib.Path(known.config).is_file():
        raise ValueError(f"config {known.config} not found; there are: {', '.join(there)} in {folder}")
    module = load_file(known.config)
    config = module.get_config()
    if not isinstance(config, kind):
        raise ValueError(f"{known.config} is no config of {program}: its get_config() gives a {type(config).__name__}")
    return tyro.cli(type(config), default=config, args=rest, description=f"{module.__doc__}\n{distributed.HELP}")


def check_pairs(data: str, *, paired: bool, degrades: bool) -> None:
    """Refuse a mix-up of paired data and a config that degrades pictures itself: ValueError."""
    if paired and degrades:
        raise ValueError(f"{data} holds pairs but the config degrades pictures itself: use a config without a "
                         "degradation (as indi_gopro), or a folder of clean pictures")
    if not paired and not degrades:
        raise ValueError(f"{data} holds no pairs: give --data gopro:FOLDER or --data "
                         "pairs:SHARP_FOLDER,BLURRED_FOLDER")


def load_file(path: str):
    """A Python file as a module, whatever the working directory."""
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def description(config, **facts) -> dict:
    """What is written beside the checkpoints: the network as class name and constructor arguments, the facts that its
    users need, the version of the code, all fields of the config. Operators and distances are described in words."""
    parts = {name: str(getattr(config, name)) for name in ("degradation", "single", "perceptual")
             if hasattr(config, name)}
    fields = {name: value for name, value in vars(config).items() if name not in ("model", *parts)}
    arguments = {field.name: getattr(config.model, field.name) for field in dataclasses.fields(config.model)
                 if field.init and field.name not in ("parent", "name")}
    if "dtype" in arguments:
        arguments["dtype"] = jax.numpy.dtype(arguments["dtype"]).name
    return {"architecture": type(config.model).__name__, "arguments": arguments, **facts, **parts,
            "code": code_version(), "config": fields}


def code_version() -> str:
    """Package version and, in a checkout, the commit."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10,
                               cwd=pathlib.Path(__file__).parent)
    except (OSError, subprocess.TimeoutExpired):
        return indigo_jax.__version__
    return indigo_jax.__version__ + (f"+{found.stdout.strip()}" if found.returncode == 0 else "")


class Logger:
    """Numbers to ``metrics.csv`` and TensorBoard, pictures to TensorBoard.

    Args:
        workdir: of the run.
        columns: names of the numbers.
        start: the step after which it goes on: what an interrupted run logged after it is done again.
    """

    def __init__(self, workdir, columns: tuple[str, ...], *, start: int = 0):
        from tensorboardX import SummaryWriter
        path, kept = pathlib.Path(workdir) / "metrics.csv", []
        if path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if row["step"].isdigit() and int(row["step"]) <= start]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._csv = csv.DictWriter(self._file, ("step", *columns))
        self._csv.writeheader()
        self._csv.writerows(kept)
        self._board = SummaryWriter(str(path.parent / "tensorboard"))

    def scalars(self, step: int, values: dict) -> None:
        """One row: ``values`` may have any of the columns."""
        self._csv.writerow({"step": step, **values})
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)
        self._board.flush()

    def picture(self, name: str, step: int, pixels) -> None:
        """A picture ``[H, W, 3]`` uint8 for TensorBoard."""
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Nothing comes after it."""
        self._file.close()
        self._board.close()
