"""Programs in files: a sampler or restorer compiled as far as StableHLO, its weights beside it, for serving.

Whoever runs one needs jax, numpy and flatbuffers, but neither this package nor flax: :func:`load`, or the file
``load.py`` that stands beside the program. The batch is symbolic, the size of the pictures is fixed.
"""
import hashlib
import io
import json
import os
import pathlib
import secrets
import shutil
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax import denoisers, methods, rng, samplers, schedules, tiles, weights
from indigo_jax.export import loader
from indigo_jax.export.loader import load
from indigo_jax.typing import Params

__all__ = ["PLATFORMS", "Program", "load", "restoration", "sampler", "save"]

PLATFORMS = ("cpu", "cuda", "tpu")


class Program(NamedTuple):
    """What :func:`save` takes.

    Attributes:
        function: ``function(params, *inputs)``.
        params: its weights.
        inputs: an array, or shape and dtype, for each input; the batch comes first.
        about: JSON-able, for whoever finds the files.
    """

    function: Callable
    params: Params
    inputs: tuple
    about: dict


def save(path, function: Callable, params: Params, inputs, *, batch: str | None = "b", platforms=PLATFORMS,
         about: dict | None = None) -> pathlib.Path:
    """Write ``function(params, *inputs)`` as a folder of four files, whole or not at all.

    ``program.bin`` (:mod:`jax.export`), ``weights.npz``, ``about.json`` (inputs, outputs, platforms, sha256) and
    ``load.py``, which runs it.

    Args:
        path: the folder to be made.
        function: jittable; what it closes over becomes part of the program, params do not.
        params: a tree of dicts of arrays.
        inputs: of the function: arrays, or their shapes and dtypes. Typed keys become uint32 data ``[..., 2]``.
        batch: name of the first axis of every input, of any length at run time; None: as in ``inputs``.
        platforms: that the program is lowered for, of cpu, cuda, rocm, tpu; none of them needs to be here.
        about: JSON-able, goes into about.json.

    Errors:
        FileExistsError for a path that exists. ImportError without flatbuffers (the extra ``export``). What jax raises
        for a function whose shapes cannot depend on a symbol.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError(f'exporting needs: pip install "indigo_jax[export]" ({error})') from error
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: give a folder that does not")
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    is_key = [jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in inputs]
    plain = [jax.eval_shape(jax.random.key_data, x) if key else x for x, key in zip(inputs, is_key)]
    symbol = () if batch is None else jax.export.symbolic_shape(batch)

    def call(given, *plain):
        params = jax.tree.unflatten(tree, [given[name] for name in named])
        return function(params, *(jax.random.wrap_key_data(x) if key else x for x, key in zip(plain, is_key)))

    shapes = [jax.ShapeDtypeStruct((*symbol, *x.shape[len(symbol):]), x.dtype) for x in plain]
    weight_shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in named.items()}
    exported = jax.export.export(jax.jit(call), platforms=tuple(platforms))(weight_shapes, *shapes)

    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(leaf) for name, leaf in named.items()})
    files = {"program.bin": bytes(exported.serialize(vjp_order=0)), "weights.npz": stream.getvalue()}
    description = {**(about or {}), "inputs": _describe(shapes, is_key), "outputs": _describe(exported.out_avals),
                   "platforms": list(platforms), "jax_version": jax.__version__,
                   "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    files["about.json"] = (json.dumps(description, indent=2) + "\n").encode()
    files["load.py"] = pathlib.Path(loader.__file__).read_bytes()
    _write(path, files)
    return path


def restoration(name: str, size: tuple[int, int], *, task: str = "auto", scale: int | None = None,
                **settings) -> Program:
    """A method for pictures of one size as ``(y, keys) -> x``: y ``[B, H, W, 3]`` in ``[-1, 1]``, x clipped to it.

    Args:
        name, task, scale, settings: as for :func:`methods.load`.
        size: height and width of y in pixels.

    Errors:
        Those of :func:`methods.load`; ValueError for sizes below 1.
    """
    _check_size(size)
    if settings.get("estimate") is not None:
        raise ValueError("estimate: an exported program begins with the enlarged picture; leave it out")
    method = methods.load(name, task=task, scale=scale, **settings)
    height, width = (method.scale * side for side in size)
    layout = tiles.Plan((height, width), (height, width), 0) if method.takes_any_size else method.plan(height, width)
    room = [(0, canvas // method.scale - side) for canvas, side in zip(layout.canvas, size)]

    def fill(array, mode=method.border):
        return jnp.pad(array, [(0, 0), *room, *[(0, 0)] * (array.ndim - 3)], mode)

    known = method.given(np.zeros((*size, 3), np.float32), lambda array, mode=method.border: fill(array[None], mode))

    def restore(params, y, keys):
        y = method.enlarged(y)
        given = {**known, **method.estimated(y)}
        solved = method.solve(tuple(params.values()), fill(y), keys, plan=layout, given=given)
        return jnp.clip(solved.x[:, :height, :width], -1.0, 1.0)

    picture = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return Program(restore, {role: network.params for role, network in method.networks.items()},
                   (picture, jax.eval_shape(lambda: rng.image_keys(0, [0]))),
                   {"method": name, "task": task, "arguments": ["y", "keys"], **_about(method.info)})


def sampler(name_or_path, size: tuple[int, int], *, steps: int | None = None) -> Program:
    """The usual sampler of named weights or a weights file, for pictures of one size.

    A restoration network gives InDI, ``(y, keys) -> x``: :func:`restoration`. A diffusion prior gives DDIM (eta = 0),
    ``(z,) -> x``: z white noise ``[B, H, W, 3]``. x is clipped to ``[-1, 1]``.

    Args:
        name_or_path: as for :func:`weights.load`.
        size: height and width in pixels.
        steps: of the sampler; default 1 for InDI, 50 for DDIM.

    Errors:
        :class:`weights.WeightsError`; ValueError for sizes or steps that the network or the schedule does not allow.
    """
    _check_size(size)
    if steps is not None and steps < 1:
        raise ValueError(f"steps are at least 1, got {steps}")
    module, params, info = weights.load(name_or_path)
    if info["kind"] == "restorer":
        return restoration("indi", size, weights=name_or_path, steps=steps or 1)
    whole, steps = denoisers.of(lambda x, t: x, info).schedule, steps or 50
    spacing = info.get("timestep_spacing") or ("leading" if info["prediction"] == "eps" else "trailing")
    schedule = schedules.respace(whole, steps, spacing, set_alpha_to_one=info.get("set_alpha_to_one", True),
                                 steps_offset=info.get("steps_offset", 0) if spacing == "leading" else 0)

    def draw(params, z):
        denoiser = denoisers.of(lambda *inputs: module.apply(params, *inputs), info, clip=True).denoiser
        keys = jax.vmap(jax.random.key)(jnp.zeros(z.shape[0], jnp.uint32))  # eta = 0 draws nothing
        return jnp.clip(samplers.sample(samplers.ddim(denoiser, schedule), keys, z)[0], -1.0, 1.0)

    return Program(draw, params, (jax.ShapeDtypeStruct((1, *size, 3), jnp.float32),),
                   {"sampler": "ddim", "arguments": ["z"], "steps": steps, **_about(info)})


def _check_size(size):
    if min(size) < 1:
        raise ValueError(f"sizes are at least 1, got {size[0]} x {size[1]}")


def _about(info):
    known = ("name", "architecture", "noise", "tasks", "schedule", "prediction")
    return {**{key: info[key] for key in known if key in info}, "weights_sha256": info["sha256"], "range": [-1, 1]}


def _describe(shapes, is_key=()):
    rows = [{"shape": [size if isinstance(size, int) else str(size) for size in x.shape],
             "dtype": jnp.dtype(x.dtype).name} for x in shapes]
    for row, key in zip(rows, is_key):
        if key:
            row["meaning"] = "jax.random.key_data of one key per picture"
    return rows


def _write(path, files):
    """All files in a folder of a temporary name, then that name changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir()
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
