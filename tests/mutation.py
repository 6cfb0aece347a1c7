"""Mutation score: of small faults put into the library on purpose, how many do the tests notice?

Not a test and not run by CI. It needs cosmic-ray and pytest-cov, and, once, the lines that each test reaches:

    python -m pytest -q --doctest-modules indigo_jax tests --cov=indigo_jax --cov-context=test --cov-report=
    python -m tests.mutation 100 indigo_jax/samplers indigo_jax/losses.py

Each of so many mutants, drawn by chance (150:300 is the second half of 300, to run beside the first), meets the tests
that reach its line, small ones first, in its own process; no file is changed. Mutants of bit operators and what is no
Python are left out. What survives is printed: some of it is no fault, such as another text of an error.
"""
import importlib.machinery
import os
import pathlib
import random
import re
import signal
import sys
import time

import coverage
import pytest
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests import conftest  # noqa: F401  imports jax, as strictly as the tests want it, once for all
from tests.paths import ROOT

MOST_TESTS, SECONDS = 40, 300  # of one mutant


def mutants(path):
    tree = get_ast(path.read_text())
    for name in plugins.operator_names():
        if not re.search("Bit|Shift|Invert", name) and not plugins.get_operator(name).arguments():
            operator = plugins.get_operator(name)()
            places = (start[0] for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
            yield from ((path, line, operator, index) for index, line in enumerate(places))


def survives(path, code, tests):
    """A mutant that does not end in time does not."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        plain = importlib.machinery.SourceFileLoader.get_code
        importlib.machinery.SourceFileLoader.get_code = lambda self, name=None: (
            compile(code, self.path, "exec") if self.path == str(path) else plain(self, name))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        options = ["-xq", "-p", "no:cacheprovider", "--assert=plain", "--doctest-modules"]  # not plain: not our loader
        os._exit(pytest.main([*options, "tests/conftest.py", *tests]))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(first, last, paths):
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("*.py")))]
    data = coverage.CoverageData(str(ROOT / ".coverage"))
    data.read()
    tests = {file: {line: {name.split("|")[0] for name in names} - {""} for line, names in each.items()}
             for file in data.measured_files() for each in [data.contexts_by_lineno(file)]}
    size = {}  # of a test: lines that it reaches
    for name in (name for each in tests.values() for names in each.values() for name in names):
        size[name] = size.get(name, 0) + 1
    found, killed, drawn = [mutant for file in files for mutant in mutants(file.resolve())], 0, 0
    random.Random(0).shuffle(found)
    for path, line, operator, index in found:
        if drawn == last:
            break
        before = path.read_text()
        code = mutate_code(before, operator, index)
        try:
            compile(code, str(path), "exec")
        except SyntaxError:
            continue
        drawn += 1
        if drawn <= first:
            continue
        here = tests.get(str(path), {})  # what is read at import alone, such as defaults, concerns all its tests
        chosen = sorted(here.get(line) or set().union(*here.values()), key=size.get)[:MOST_TESTS]
        if chosen and not survives(path, code, chosen):
            killed += 1
        else:
            new = next(b for a, b in zip(before.split("\n"), code.split("\n")) if a != b)
            print(f"{path.relative_to(ROOT)}:{line}: not noticed by {len(chosen)} tests: {new.strip()}", flush=True)
    print(f"{killed} of {drawn - first} noticed; there are {len(found)} in all")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    start, _, end = sys.argv[1].rpartition(":")
    main(int(start or 0), int(end), [pathlib.Path(name) for name in sys.argv[2:]])
