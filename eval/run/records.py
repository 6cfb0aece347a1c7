"""The files of an evaluation: what it is (run.json), one record per picture, the table."""
import hashlib
import json
import math
import pathlib

from eval.command import write
from eval.problems import digest
from indigo_jax.images import EXTENSIONS
from indigo_jax.images.picture import show

TABLE = "scores.csv"


class Records:
    """The records below an output folder, all of one run.

    Attributes:
        folder: the output.
        run: digest of what the run is.
    """

    def __init__(self, folder, identity: dict):
        self.folder, self.identity = pathlib.Path(folder), identity
        self.run = digest(json.dumps(identity, sort_keys=True))

    def check(self) -> None:
        """Refuse a folder that holds another run: ValueError, one line, says what differs. OSError when it cannot be
        read."""
        path = self.folder / "run.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["identity"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{show(path)}: damaged, so nothing says what the results beside it are; name another "
                             "--output") from None
        before, now = _flat(found), _flat(self.identity)
        differ = [f"{name} was {_brief(before.get(name))}, is {_brief(now.get(name))}"
                  for name in {**before, **now} if before.get(name) != now.get(name)]
        if differ:
            raise ValueError(f"--output {show(self.folder)} holds the results of another run: {'; '.join(differ)}; "
                             "name another folder, or say what was said then")

    def begin(self, facts: dict) -> None:
        """Write what the run is, with facts that may change from one start to the next."""
        text = json.dumps({"identity": self.identity, **facts}, indent=2, sort_keys=True)
        write(self.folder / "run.json", text + "\n")

    def read(self, name: str) -> dict | None:
        """The record of a picture; None if there is none of this run."""
        try:
            record = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        same = isinstance(record, dict) and record.get("run") == self.run and record.get("name") == name
        return record if same else None

    def write(self, name: str, **values) -> None:
        """Write the record of a picture, whole or not at all: its ``scores``, or the ``error``."""
        write(self._path(name), json.dumps({"name": name, "run": self.run, **values}, indent=1) + "\n")

    def _path(self, name):
        identity = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.folder / "records" / f"{identity}.json"  # a name may be too long, or no name for a file


def picture_name(name: str) -> str:
    """Where the restoration of a picture goes: a.png for a.png, a.jpg.png for a.jpg; no two files share a place.

    Errors:
        ValueError for a name that leads out of the folder, as that of an array in a pack may.
    """
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{show(name)}: no name for a file below a folder, so its restoration cannot be written")
    plain = name.endswith(".png") and not path.stem.lower().endswith(EXTENSIONS)
    return name if plain else f"{name}.png"


def rows(records: list[dict]) -> list[dict]:
    """A row per picture and degradation; the names of the input's scores begin with "input"."""
    return [{"name": show(record["name"]), "task": score["task"], "variant": score["variant"], **score["restored"],
             **{f"input {name}": value for name, value in score["input"].items()}}
            for record in records for score in record["scores"]]


def means(rows: list[dict]) -> list[dict]:
    """A row named "mean" for each task and variant: the float64 sum over its rows, exactly rounded, by their number."""
    groups = {}
    for row in rows:
        groups.setdefault((row["task"], row["variant"]), []).append(row)
    return [{"name": "mean", "task": task, "variant": variant,
             **{column: math.fsum(row[column] for row in group) / len(group) for column in list(group[0])[3:]}}
            for (task, variant), group in groups.items()]


def _flat(tree, prefix=""):
    """``{"outer inner": value}``."""
    flat = {}
    for name, value in tree.items():
        flat.update(_flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _brief(value):
    text = "not said" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
