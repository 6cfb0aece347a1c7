"""``import indigo_jax`` stays cheap, and asking for help starts no device."""
import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

HEAVY = {"chex", "flax", "grain", "gradio", "matplotlib", "optax", "orbax", "safetensors", "scipy", "skimage",
         "tensorboardX", "tensorflow", "tensorflow_datasets", "torch", "tyro"}


def python(code, **environment):
    """Run ``code`` in a fresh interpreter that finds the package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **environment},
                          capture_output=True, text=True, encoding="utf-8", timeout=300)


def loaded(code):
    """Top-level names of ``sys.modules`` after ``code``."""
    run = python(f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_import_loads_nothing_but_the_standard_library():
    names = loaded("import indigo_jax\nassert indigo_jax.__version__")
    assert "indigo_jax" in names
    assert not names & (HEAVY | {"jax", "numpy"})


@pytest.mark.parametrize("module", ["rng", "typing", "samplers", "schedules"])
def test_sampler_core_loads_jax_only(module):
    names = loaded(f"import indigo_jax\nindigo_jax.{module}")
    assert "jax" in names
    assert not names & (HEAVY - loaded("import jax, jax.numpy"))


def test_a_method_that_optimises_nothing_imports_no_optimiser():
    names = loaded("from indigo_jax import images, methods\nmethods.load('look')")
    assert "flax" in names and not names & {"optax", "chex", "skimage", "orbax"}


@pytest.mark.parametrize("command", ["--help", "degrade --help", "evaluate --help", "weights --help", "cache --help",
                                     "demo --help"])
def test_methods_are_imported_for_their_commands_alone(command):
    code = f"from indigo_jax.cli import main\ntry:\n    main({command.split()!r})\nexcept SystemExit:\n    pass"
    run = python(f"{code}\nimport sys\nsys.exit('jax' in sys.modules)")
    assert run.returncode == 0, run.stderr


def test_unknown_attribute_names_what_there_is():
    run = python("import indigo_jax\nindigo_jax.sampler")
    assert "no attribute 'sampler'" in run.stderr and "'samplers'" in run.stderr


@pytest.mark.parametrize("arguments", [
    "--help", "restore --help", "restore --method bird --help", "methods", "degrade --help", "evaluate --help",
    "weights --help", "demo --help"])
def test_help_starts_no_device(arguments):
    code = f"import sys\nfrom indigo_jax.cli import main\nsys.exit(main({arguments.split()!r}))"
    run = python(code, JAX_PLATFORMS="no_such_platform")  # so whoever starts a device fails
    assert run.returncode == 0, run.stderr
    assert ("usage" if "--help" in arguments else "take it when") in run.stdout.lower()


def test_the_missing_platform_would_be_noticed():
    assert python("import jax\njax.devices()", JAX_PLATFORMS="no_such_platform").returncode != 0
