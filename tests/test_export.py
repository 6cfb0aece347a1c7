"""Exported programs: the same numbers as here, in a process that has neither the package nor flax."""
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="needs flatbuffers ([export])")

from indigo_jax import export, paths, rng, samplers  # noqa: E402
from indigo_jax.weights import WeightsError  # noqa: E402
from tests import networks  # noqa: E402

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flax", "optax", "orbax", "indigo_jax", "safetensors", "chex", "skimage", "PIL"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def run_without_package(folder, code, **environment):
    """``code`` in a fresh process in the folder, where the package cannot be imported."""
    run = subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=folder, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": "", **environment}, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def shrink(params, x, keys):
    """A sampler without a network: InDI with a linear restorer and noise."""
    kernel = samplers.indi(lambda x_t, t: params["net"]["scale"] * x_t + params["net"]["shift"], 3,
                           noise=paths.noise_from_json({"name": "constant", "eps": 0.1}))
    return samplers.sample(kernel, keys, x)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with an exported program, and its parameters."""
    path = tmp_path_factory.mktemp("export") / "shrink"
    params = {"net": {"scale": np.float32(0.5), "shift": np.array([0.1, 0.2, 0.3], np.float32)}}
    inputs = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32), rng.image_keys(0, [0])
    export.save(path, shrink, params, inputs, about={"name": "shrink"})
    return path, params


def pictures(count):
    x = np.random.default_rng(count).uniform(-1, 1, (count, 4, 4, 3)).astype(np.float32)
    return x, rng.image_keys(0, np.arange(count))


def test_a_program_runs_for_every_batch(exported):
    path, params = exported
    run = export.load(path)
    for count in (1, 3):
        x, keys = pictures(count)
        expected = shrink(params, x, keys)
        np.testing.assert_allclose(run(x, keys), expected, atol=1e-5)
        np.testing.assert_allclose(run(x, jax.random.key_data(keys)), expected, atol=1e-5)
    assert run.about["name"] == "shrink" and run.about["platforms"] == ["cpu", "cuda", "tpu"]
    assert run.about["inputs"][0] == {"shape": ["b", 4, 4, 3], "dtype": "float32"}
    assert run.about["outputs"] == [{"shape": ["b", 4, 4, 3], "dtype": "float32"}]


def test_a_program_runs_without_the_package(exported, tmp_path):
    path, params = exported
    x, keys = pictures(2)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "keys.npy", jax.random.key_data(keys))
    code = f"""
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("load", {str(path / 'load.py')!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
np.save("out.npy", module.load({str(path)!r})(np.load("x.npy"), np.load("keys.npy")))
for name in ("indigo_jax", "flax"):
    try:
        __import__(name)
    except ImportError:
        print(name, "blocked")
"""
    assert run_without_package(tmp_path, code).split() == ["indigo_jax", "blocked", "flax", "blocked"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), shrink(params, x, keys), atol=1e-5)


@pytest.mark.slow
def test_a_restorer_on_the_command_line(tmp_path):
    """Through ``eval.export`` and the ``load.py`` beside the program, to a picture."""
    from eval import export as door
    weights = str(networks.write_weights(tmp_path / "tiny.safetensors"))
    folder = tmp_path / "tiny"
    assert door.main(["--weights", weights, "-o", str(folder), "--size", "12", "20", "--steps", "2"]) == 0
    x = np.random.default_rng(0).uniform(-1, 1, (3, 12, 20, 3)).astype(np.float32)
    keys = rng.image_keys(0, np.arange(3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "keys.npy", jax.random.key_data(keys))
    code = f"""
import runpy
sys.argv = ["load.py", "x.npy", "keys.npy", "out.npy"]
runpy.run_path({str(folder / 'load.py')!r}, run_name="__main__")
"""
    run_without_package(tmp_path, code)
    program = export.sampler(weights, (12, 20), steps=2)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), program.function(program.params, x, keys), atol=1e-5)
    about = json.loads((folder / "about.json").read_text())
    assert about["arguments"] == ["y", "keys"] and about["steps"] == 2 and about["tasks"] == networks.INFO["tasks"]
    assert door.main(["--weights", weights, "-o", str(folder)]) == 2  # never over something else


def test_nothing_half_written_and_nothing_overwritten(exported, tmp_path):
    path, params = exported
    inputs = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32), rng.image_keys(0, [0])
    with pytest.raises(FileExistsError, match="exists"):
        export.save(path, shrink, params, inputs)
    with pytest.raises(Exception):
        export.save(tmp_path / "new", lambda params, x, keys: x[:2] + params["missing"], params, inputs)
    assert list(tmp_path.iterdir()) == []
    assert sorted(file.name for file in path.iterdir()) == ["about.json", "load.py", "program.bin", "weights.npz"]


def test_damaged_files_are_refused(exported, tmp_path):
    path, _ = exported
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "weights.npz").write_bytes((path / "weights.npz").read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="weights.npz is damaged"):
        export.load(copy)
    with pytest.raises(ValueError, match="holds no exported program"):
        export.load(pathlib.Path(tmp_path))


def test_a_sampler_of_what_is_not_there():
    with pytest.raises(WeightsError, match="known names"):
        export.sampler("no-such-weights", (8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        export.sampler("indi-photo", (0, 8))
