"""What the commands of this folder share: the command line, text files, one-line messages."""
import argparse
import csv
import io
import os
import pathlib
import secrets
import sys
from typing import Callable

from indigo_jax import methods, paths
from indigo_jax.images.picture import show
from indigo_jax.methods import flags

RESULTS = pathlib.Path(__file__).parent / "results"
_GUIDED = {"prior": "prior", "inn": "inn", "autoencoder": "autoencoder", "chain-steps": "steps", "guidance": "guidance",
           "start": "start"}  # flags: settings


def write(path, content: str | bytes) -> None:
    """Write a file, whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path, rows: list[dict]) -> None:
    """One line per row, numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def some(names: list[str]) -> str:
    """The first five names."""
    return ", ".join(map(show, names[:5])) + (", ..." if len(names) > 5 else "")


class Parser(argparse.ArgumentParser):
    """Wrong usage ends with exit code 2 and one line."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see python -m {self.prog} --help\n")


def whole(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def run(parser: Parser, work: Callable[[], None]) -> int:
    """Exit code 0, or 2 and one line for what the user can put right."""
    try:
        work()
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def add_model_arguments(parser: Parser) -> None:
    """The flags about pictures and weights that tables and figures share."""
    parser.add_argument("--data", metavar="FOLDER", help="clean pictures; default: four photographs of scikit-image")
    parser.add_argument("--weights", default="indi-photo", metavar="NAME|FILE", help="default: indi-photo")
    parser.add_argument("--lpips", default=os.environ.get("INDIGO_LPIPS") or None, metavar="FILE",
                        help="LPIPS weights (npz, not bundled); default: $INDIGO_LPIPS, else LPIPS is left out")
    parser.add_argument("--spacing", choices=paths.SPACINGS, default="uniform",
                        help="the grid of times for several steps; default: uniform")
    parser.add_argument("--limit", type=whole, metavar="N", help="only the first N pictures, for a quick look")
    parser.add_argument("--batch", type=whole, default=4, metavar="B", help="pictures restored at a time; default: 4")
    parser.add_argument("--seed", type=int, default=0, help="of all noise and random kernels; default: 0")


def add_guided_arguments(parser: Parser) -> None:
    """The flags about INDIGO's networks and chains that tables and figures share: some of the method's settings."""
    known = flags.flags_of(methods.METHODS["latent-indigo"].Settings)
    for name, setting in _GUIDED.items():
        flag = known[setting][1]
        parser.add_argument(f"--{name}", metavar=flag.metavar or "N", help=f"indigo: {flag.help}",
                            type=whole if setting == "steps" else str if flag.file else float)


def guided_settings(args) -> dict:
    """What these flags say, for :func:`methods.load`."""
    given = {setting: getattr(args, name.replace("-", "_")) for name, setting in _GUIDED.items()}
    return {setting: value for setting, value in given.items() if value is not None}


def guided_methods() -> tuple[str, ...]:
    """The methods that an invertible network guides."""
    return tuple(name for name, method in methods.METHODS.items() if issubclass(method, methods.Indigo))
