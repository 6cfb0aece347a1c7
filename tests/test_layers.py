"""Who may import whom: the import-linter contracts of setup.cfg, and the same rules once more without the tool. And
that arguments have names."""
import ast
import configparser
import importlib
import importlib.util
import inspect
import subprocess
import sys

import pytest

from tests.paths import ROOT

FILES = "data images sharding checkpoints weights convert"
LAYERS = (  # lowest first; the modules of one string may import one another, those of different strings may not
    ["typing rng arrays spelling"],
    ["schedules", "paths", "wavelets"],
    ["losses"],
    ["models", "denoisers", "operators", "metrics"],
    ["tiles"],
    ["samplers guidance"],
    ["restoration"],
    [FILES],
    ["methods"],
    ["export"],
    ["demo"],
    ["cli"],
    ["train eval"],
)
PLACE = {name: (level, group) for level, layer in enumerate(LAYERS) for group in layer for name in group.split()}
NEVER = {name: {"models", "operators", "metrics"} for name in ("samplers", "guidance")} | {
    name: {"samplers", "guidance", "restoration"} for name in FILES.split()} | {
    name: {"cli"} for name in ("train", "eval")}
EXTRAS = {"array_record", "diffusers", "flatbuffers", "grain", "gradio", "huggingface_hub", "matplotlib",
          "tensorboardX", "tensorflow", "tensorflow_datasets", "torch", "transformers", "tyro"}


def imports(tree, lazy=True):
    """Dotted names of all imports of a syntax tree; with ``lazy=False`` without those inside of functions."""
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        yield from (f"{'.' * tree.level}{tree.module or ''}.{alias.name}" for alias in tree.names)
    elif lazy or not isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in ast.iter_child_nodes(tree):
            yield from imports(child, lazy)


def violations(module, source):
    """What is wrong with the imports of ``module`` (a name of PLACE), one sentence each."""
    level, group = PLACE[module]
    tree = ast.parse(source)
    for name in imports(tree):
        top, *rest = name.split(".")
        if not top:
            yield f"{module} has a relative import ({name}): write the whole name"
        elif top == "flax" and module != "models":
            yield f"{module} imports flax: only models may"
        target = rest[0] if top == "indigo_jax" and rest else top
        if target == module or target not in PLACE or top not in ("indigo_jax", "train", "eval"):
            continue
        if PLACE[target][0] > level or (PLACE[target][0] == level and PLACE[target][1] != group):
            yield f"{module} imports {target}, which is not below it"
        elif target in NEVER.get(module, ()):
            yield f"{module} imports {target}: it must never see one"
    if module not in ("train", "eval", "demo"):  # the page is made of gradio
        for name in imports(tree, lazy=False):
            if name.split(".")[0] in EXTRAS:
                yield f"{module} imports the optional {name} at import time: import it where it is used"


def sources():
    """Every Python file of the library and the scripts: (module of PLACE, path)."""
    for path in sorted((ROOT / "indigo_jax").rglob("*.py")):
        parts = path.relative_to(ROOT / "indigo_jax").with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path
    for folder in ("train", "eval"):
        yield from ((folder, path) for path in sorted((ROOT / folder).rglob("*.py")))


def test_every_import_goes_down():
    found = list(sources())
    assert {"samplers", "models", "operators", "train"} <= {module for module, _ in found}
    wrong = [f"{path.relative_to(ROOT)}: {message}" for module, path in found
             for message in violations(module, path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module, source", [
    ("samplers", "from indigo_jax.models import RestorationUNet"),
    ("samplers", "from indigo_jax import operators"),
    ("samplers", "def step():\n    import indigo_jax.data.folder"),
    ("samplers", "from ..operators import blur"),
    ("operators", "import indigo_jax.metrics"),
    ("typing", "from indigo_jax.schedules import linear"),
    ("data", "from indigo_jax import samplers"),
    ("weights", "import train.indi"),
    ("cli", "from eval import tables"),
    ("eval", "from indigo_jax.cli import main"),
    ("methods", "from indigo_jax import cli"),
    ("restoration", "from indigo_jax import methods"),
    ("tiles", "from indigo_jax import samplers"),
    ("denoisers", "from flax import linen as nn"),
    ("data", "try:\n    import grain\nexcept ImportError:\n    pass"),
])
def test_the_rules_catch(module, source):
    assert list(violations(module, source))


@pytest.mark.parametrize("module, source", [
    ("samplers", "from indigo_jax import denoisers, rng, schedules\nfrom indigo_jax.samplers.base import sample"),
    ("models", "from flax import linen as nn\nfrom indigo_jax.models import layers"),
    ("data", "from indigo_jax import images, operators\ndef pipeline():\n    import grain"),
    ("cli", "from indigo_jax import __version__, samplers, weights"),
    ("methods", "from indigo_jax import arrays, denoisers, images, operators, restoration, tiles, weights"),
    ("train", "import grain\nimport tyro\nfrom indigo_jax.data import folder"),
])
def test_the_rules_allow(module, source):
    assert not list(violations(module, source))


def test_public_functions_take_every_argument_by_its_name():
    names, seen = "schedules paths wavelets losses denoisers operators metrics tiles samplers guidance restoration", 0
    for package in names.split():
        module = importlib.import_module(f"indigo_jax.{package}")
        for name in getattr(module, "__all__", dir(module)):
            function = getattr(module, name)
            if inspect.isfunction(function) and function.__module__.startswith("indigo_jax"):
                kinds = {each.kind for each in inspect.signature(function).parameters.values()}
                assert inspect.Parameter.POSITIONAL_ONLY not in kinds, f"{package}.{name}"
                seen += 1
    assert seen > 100


def test_setup_cfg_has_the_same_layers():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    layers = [line.replace("(", "").replace(")", "").replace("indigo_jax.", "") for line in lines if line]
    assert [[group.replace(" : ", " ") for group in layer.split(" | ")] for layer in layers[::-1]] == list(LAYERS)


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed ([dev])")
def test_import_linter_contracts_are_kept():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
                         timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
