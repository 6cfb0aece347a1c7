"""Numbers of restored pictures: PSNR of floats, alone or aligned, and a table's rows, measured once and kept in a file.

What restores is a pure function ``restore(params, case) -> (x, numbers)`` of a :class:`problems.Case` without its
truth: pictures ``[B, S, S, 3]`` in [-1, 1], and numbers by name, of all pictures, ``[B]`` each or None.
"""
import itertools
import json
import os
import pathlib
import re
import sys
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import indigo_jax
from eval.problems import Case, Pictures, digest
from indigo_jax import methods, metrics

PSNR, ALIGNED = "psnr-rgb-crop0-float", "psnr-rgb-aligned3-float"


def psnr_of(x, truth) -> np.ndarray:
    """PSNR ``[B]``, not rounded to 8 bits."""
    return metrics.psnr(np.asarray(x), np.asarray(truth), round_uint8=False)


def lpips_of(path: str | None) -> metrics.Protocol | None:
    """LPIPS with a file of weights; without one None."""
    return metrics.by_name("lpips", lpips_params=metrics.load_lpips(path)) if path else None


def aligned_psnr(x, truth, *, shift: int = 3) -> np.ndarray:
    """PSNR ``[B]`` at the best of all moves by at most ``shift`` pixels: blind deblurring cannot know where the picture
    was. Of the central square without an eighth of the side at each border; not rounded.

    Args:
        x, truth: float ``[B, H, W, 3]`` in ``[-1, 1]``.
        shift: pixels, each way.
    """
    x, truth = np.asarray(x), np.asarray(truth)
    height, width = truth.shape[1:3]
    border = max(min(height, width) // 8, shift)
    inner = truth[:, border:height - border, border:width - border]
    moves = itertools.product(range(border - shift, border + shift + 1), repeat=2)
    return np.max([psnr_of(x[:, i:i + inner.shape[1], j:j + inner.shape[2]], inner) for i, j in moves], axis=0)


class Cache:
    """Measured numbers in a JSON lines file, one per picture and method, added as soon as they are there.

    A line belongs to a key: the weights, the problem's pixels and the method's whole program. A line that was torn by
    the end of a run is ignored. ``measured`` are the names of the numbers.
    """

    def __init__(self, path, measured):
        self.path, self.known, self.measured = pathlib.Path(path), {}, measured
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.known[row["key"]] = {name: row[name] for name in measured}
            except (ValueError, KeyError, TypeError):
                continue
        self._torn = bool(text) and not text.endswith("\n")

    def add(self, rows: list[dict]) -> None:
        """Rows with their ``key``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + "".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        self.known.update({row["key"]: {name: row[name] for name in self.measured} for row in rows})


def program_digest(function: Callable, *arguments) -> str:
    """Twelve digits of everything that a function computes, with all its settings; nothing is compiled."""
    program = jax.make_jaxpr(function)(*arguments)
    return digest(re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)), *program.consts)


def grouped(rows: list[dict], outer: str, inner: str) -> dict[str, dict[str, list[dict]]]:
    """Rows by two of their columns, in their order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[outer], {}).setdefault(row[inner], []).append(row)
    return groups


def mean(rows: list[dict], column: str) -> float | None:
    """Of a column in float64; None where a row has none."""
    values = [row[column] for row in rows]
    return None if None in values else float(np.mean(values, dtype=np.float64))


def markdown(columns, lines: list[list[str]]) -> str:
    """A Markdown table of cells, two columns of words, then numbers."""
    text = [f"| {' | '.join(line)} |" for line in (columns, *lines)]
    return "\n".join([text[0], "|---|---|" + "---:|" * (len(columns) - 2), *text[1:]])


def about(pictures: Pictures, side: int | None = None, seeds=()) -> str:
    """What a table was measured on and with: the pictures, their side, seeds, the version of the library."""
    brought, drawn = f", brought to {side} px" if side else "", f", seeds {', '.join(map(str, seeds))}" if seeds else ""
    return (f"{len(pictures.names)} pictures (`{pictures.label}`, pixels `{pictures.digest}`{brought}){drawn}, "
            f"indigo_jax {indigo_jax.__version__}")


def weights_of(method: methods.Restoration) -> str:
    """Digits of the SHA-256 of all weights of a method."""
    return " ".join(network.info["sha256"][:12] for network in method.networks.values())


class Group(NamedTuple):
    """The pictures of one line of a table.

    Attributes:
        title: of the line.
        restore, params: see above.
        weights: digits that tell the weights apart.
        cases: of one picture each, with what a row says of it, as ``{"picture": ..., "seed": ...}``.
    """

    title: str
    restore: Callable
    params: Any
    weights: str
    cases: list[tuple[dict, Case]] = []


def measure(groups: list[Group], scores: dict[str, Callable | None], cache: Cache, *,
            batch_size: int = 4) -> list[dict]:
    """A row per picture: what is said of it, then the cache's numbers.

    Args:
        groups: of one table.
        scores: by name, callables ``(x, truth) -> [B]``; what is None gives None.
        cache: of earlier runs; what is measured is added to it, with the numbers of ``restore`` and the scores.
        batch_size: pictures restored at a time.
    """
    jobs = [_keyed(group, scores) for group in groups]
    total, waiting = (sum(key not in known for keyed in jobs for key, _, _ in keyed) for known in ((), cache.known))
    if waiting < total:
        print(f"{total - waiting} of {total} results are taken from {cache.path.name}", file=sys.stderr)
    with tqdm(total=waiting, unit="picture", desc="restoring", mininterval=1.0) as bar:
        for group, keyed in zip(groups, jobs):
            todo = [job for job in keyed if job[0] not in cache.known]
            program, size = jax.jit(group.restore), min(batch_size, len(todo))
            bar.set_postfix_str(group.title)
            for start in range(0, len(todo), max(size, 1)):
                part = todo[start:start + size]
                cache.add(_measured(group, program, part, size, scores))
                bar.update(len(part))
    return [{**said, **cache.known[key]} for keyed in jobs for key, said, _ in keyed]


def _keyed(group, scores):
    """``(key, what is said, case)`` of each picture."""
    program = program_digest(group.restore, group.params, group.cases[0][1].unseen)
    names = " ".join(name for name, score in scores.items() if score is not None)
    return [(f"{group.weights} {group.title} {program} {names} "
             f"{digest(*jax.tree.leaves(case._replace(keys=jax.random.key_data(case.keys))))}", said, case)
            for said, case in group.cases]


def _measured(group, program, part, size, scores):
    """Restore some pictures, filled up to ``size`` (one shape, one compilation), and measure them."""
    cases = [case for _, _, case in part] + [part[-1][2]] * (size - len(part))
    case = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *cases)
    x, numbers = program(group.params, case.unseen)
    x, truth, rows = np.asarray(x), np.asarray(case.x), []
    numbers = {name: value if value is None else np.broadcast_to(value, size) for name, value in numbers.items()}
    for i, (key, said, _) in enumerate(part):
        one, true = x[i:i + 1], truth[i:i + 1]
        if not np.isfinite(one).all():
            raise ValueError(f"{said['picture']}: {group.title} gave no finite picture")
        rows.append({"key": key, **said, **{name: value if value is None else value[i].item()
                                            for name, value in numbers.items()},
                     **{name: score and float(score(one, true)[0]) for name, score in scores.items()}})
    return rows
