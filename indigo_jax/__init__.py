"""Image restoration with diffusion, invertible networks and direct iteration, in JAX.

Everything is a callable: a denoiser is ``(x_t, t) -> Prediction``, a restorer is ``(x_t, t) -> x0``,
an operator is ``y = A(x)``, a kernel is a pair of pure functions, and
:func:`indigo_jax.samplers.sample` is the only loop. The names below are loaded on first use, so that
``import indigo_jax`` costs no more than importing jax.
"""
import importlib

__version__ = "0.1.0"

_SUBMODULES = frozenset({
    "arrays", "checkpoints", "convert", "data", "denoisers", "export", "guidance", "images", "losses", "methods",
    "metrics", "models", "operators", "paths", "restoration", "rng", "samplers", "schedules", "sharding", "tiles",
    "typing", "wavelets", "weights",
})


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'indigo_jax' has no attribute {name!r}; it has {sorted(_SUBMODULES)}")


def __dir__():
    return sorted(_SUBMODULES | {"__version__"})
