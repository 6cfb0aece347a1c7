"""What is released: one version, and everything that an installed package needs."""
import configparser
import re

import indigo_jax
from tests.paths import ROOT

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def test_the_version_is_that_of_the_package():
    assert SETUP["metadata"]["version"] == "attr: indigo_jax.__version__"
    assert f"\nversion: {indigo_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_file_that_is_no_module_goes_into_the_package():
    patterns = SETUP["options.package_data"]["indigo_jax"].split()
    packed = {path for pattern in patterns for path in (ROOT / "indigo_jax").glob(pattern)}
    assert all(any((ROOT / "indigo_jax").glob(pattern)) for pattern in patterns)
    there = {path for path in (ROOT / "indigo_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in there if path.suffix != ".py"} == packed


def test_every_dependency_has_a_floor_and_no_ceiling():
    extras = SETUP["options.extras_require"]
    for line in "\n".join([SETUP["options"]["install_requires"], *extras.values()]).split():
        assert re.fullmatch(r"[\w-]+>=[\d.]+|indigo-jax\[[\w,]+\]|jax\[tpu\]", line), line


def test_what_mypy_reads_is_there():
    files = [name.strip() for name in SETUP["mypy"]["files"].replace("\n", " ").split(",")]
    assert all((ROOT / name).exists() for name in files)
    for name in "samplers schedules denoisers operators losses paths rng guidance restoration images methods".split():
        assert any(file.removesuffix(".py") == f"indigo_jax/{name}" for file in files), name
