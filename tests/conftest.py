"""Strict by default: eight virtual CPU devices, no silent dtype promotion, warnings are errors (setup.cfg).

Most of the time of these tests is compilation: machine code is not optimised, and fused loops are written without MLIR.
A test that starts a process of its own inherits the environment set here.
"""
import atexit
import os
import shutil
import tempfile

_FLAGS = {"--xla_force_host_platform_device_count": 8, "--xla_backend_optimization_level": 0,
          "--xla_llvm_disable_expensive_passes": "true", "--xla_cpu_parallel_codegen_split_count": 1,
          "--xla_cpu_use_fusion_emitters": "false"}
for _name, _value in _FLAGS.items():  # read once, when jax starts its backend
    if _name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_name}={_value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("MPLBACKEND", "Agg")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one test compiled, another, or its processes, need not
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="indigo-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of one file of tests are of no use to the next, and there are gigabytes of them."""
    yield
    jax.clear_caches()


def pytest_report_header(config):
    return f"jax {jax.__version__}, {jax.device_count()} {jax.default_backend()} devices"
