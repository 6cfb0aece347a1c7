"""A checkpoint of another program as ``{parameter name: array}``: its file, its layout, its wrappers.

A training run saves more than a network: optimisers, an average of the parameters, buffers, and names that begin with
those of whatever the network was wrapped in. Here is what is known of that.
"""
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

import numpy as np

from indigo_jax.convert import averages, torch_file
from indigo_jax.convert.averages import AVERAGED, OTHERS
from indigo_jax.convert.torch_file import Tensor

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
_BUFFERS = re.compile(  # of diffusion, of averaging, of normalisation, of counting: numbers that programs compute anew
    r"(.*\.)?((log_|sqrt_)?(one_minus_|recip_|recipm1_)?(alphas|betas|gammas)(_cumprod)?(_prev|_next)?|"
    r"posterior_variance|posterior_log_variance(_clipped)?|posterior_mean_coef[12]|lvlb_weights|logvar|loss_weight|"
    r"p2_loss_weight|snr|sigmas|log_sigmas|scale_factor|num_batches_tracked|initted|step|decay|num_updates|n_averaged|"
    r"position_ids|inv_freq|total_ops|total_params)")


class Checkpoint(NamedTuple):
    """What was found in a file.

    Attributes:
        tensors: ``{name: array or Tensor}``: names as in the file, without those of optimisers and buffers.
        notes: what a person should know of the choice that was made, sentences.
    """

    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def read(path, *, raw: bool = False) -> Checkpoint:
    """The parameters in a file, and of two sets the averaged one.

    Args:
        path: a ``.safetensors`` or ``.npz`` file, or one of ``torch.save``; the suffix is not looked at. Nothing in it
            is run (:mod:`torch_file`).
        raw: take the parameters as they were trained, not their average.

    Errors:
        ValueError, one line, for a file that is damaged, would run code or holds no parameters.
    """
    path = pathlib.Path(path)
    try:
        return choose(_tree(path), raw=raw)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def array(value) -> np.ndarray:
    """A value of :attr:`Checkpoint.tensors` as float32 (whole numbers as they are)."""
    return value.array() if isinstance(value, Tensor) else torch_file.as_float(np.asarray(value))


def read_safetensors(path) -> dict[str, np.ndarray]:
    """``{name: array}`` of a safetensors file, bfloat16 widened to float32, each array a view of the mapped file.

    Errors:
        :class:`torch_file.DamagedFile` for any other file, and one that is not whole.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise torch_file.DamagedFile("not a whole safetensors file; it may have been downloaded in part")
        try:
            header = json.loads(stream.read(length))
            entries = {name: (entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
                       for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise torch_file.DamagedFile(f"not a safetensors file ({error})") from error
    data, tensors = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, "u1"), {}
    for name, (kind, shape, start, end) in entries.items():
        dtype = {"BF16": np.dtype("<u2"), "BOOL": np.dtype("?")}.get(kind) or np.dtype(
            f"<{kind[0].lower()}{int(kind[1:]) // 8}" if re.fullmatch(r"[FIU](16|32|64)|[IU]8", kind) else "V0")
        if dtype.itemsize == 0:
            raise torch_file.DamagedFile(f"{name} is of the type {kind}, which is not read; save it as float32")
        if not 0 <= start <= end <= len(data):
            raise torch_file.DamagedFile(f"it ends before {name} does; it may have been downloaded in part")
        if end - start != dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise torch_file.DamagedFile(f"{name} has not as many bytes as its shape {list(shape)} says")
        values = data[start:end].view(dtype).reshape(shape) if end > start else np.zeros(shape, dtype)
        tensors[name] = torch_file.widen_bfloat16(values) if kind == "BF16" else values
    return tensors


def _tree(path) -> Any:
    with open(path, "rb") as stream:
        head = stream.read(32)
    if head[:4] == b"PK\3\4" and path.suffix.lower() == ".npz":
        return _read_npz(path)
    if torch_file.looks_like(head):
        return torch_file.read(path)
    if head.startswith((b"version https://git-lfs", b"<!DOCTYPE", b"<html")):
        raise torch_file.DamagedFile("a text that stands for the file, not the file itself; download it again")
    if path.suffix.lower() == ".safetensors" or head[8:9] == b"{":
        return read_safetensors(path)
    if path.suffix.lower() in SUFFIXES:
        raise torch_file.DamagedFile("a damaged file, or one of another format; it may have been downloaded in part")
    raise torch_file.DamagedFile(f"no checkpoint; give a file {', '.join(SUFFIXES)}")


def _read_npz(path):
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # a broken archive fails in many ways
        raise torch_file.DamagedFile(f"a damaged file, or not of arrays alone ({error})") from error


# ------------------------------------------------------------------------------------------------------- layouts

def choose(tree: Any, *, raw: bool = False) -> Checkpoint:
    """The parameters in what a training run has saved, and of two sets the averaged one.

    Known layouts: names and arrays; a dict with the parameters under one of :data:`OTHERS`, their average under one of
    :data:`AVERAGED`; the list ``[model, optimizer, epoch, step, average]`` of DDPM's torch port; averages that a word
    of their names marks (``ema_model.a.weight`` beside ``model.a.weight``; ``model_ema.``, without dots behind it, of
    latent diffusion), which take the names of the others.

    Errors:
        ValueError where there are none, or not the raw ones that are asked for.
    """
    average, other = _split(tree if raw else _named_shadows(tree))
    if raw and other is None and average is not None:
        raise ValueError("it holds averaged parameters alone; leave --raw out")
    chosen, taken = (other, False) if raw or average is None else (average, True)
    if chosen is None:
        raise ValueError(f"no parameters in it; found {_outline(tree)}, where names and arrays are expected, or such "
                         f"under {', '.join(OTHERS[:4])}, {', '.join(AVERAGED[:3])}")
    where, values = chosen
    notes = []
    if average is not None and other is not None:
        notes.append(f"of two sets of parameters the averaged one ({where}) was taken; --raw takes the other" if taken
                     else f"of two sets of parameters the one that is not averaged ({where or 'the rest'}) was taken")
    elif taken:
        notes.append(f"its parameters are averaged ones ({where})")
    flat = dict(_flatten(values))
    return Checkpoint({name: value for name, value in flat.items() if not _BUFFERS.fullmatch(name)}, tuple(notes))


def _named_shadows(tree):
    """The same with names for averages that are a list in the order of the parameters: ``{"shadow_params": [...]}``.

    Errors:
        ValueError where the list fits no set of parameters beside it.
    """
    if not isinstance(tree, Mapping):
        return tree
    found = {name: value["shadow_params"] for name, value in tree.items()
             if isinstance(value, Mapping) and isinstance(value.get("shadow_params"), (list, tuple))}
    other = next((tree[name] for name in OTHERS if _has_arrays(tree.get(name))), None)
    if not found or other is None:
        return tree
    flat, named = {name: value for name, value in _flatten(other) if not _BUFFERS.fullmatch(name)}, dict(tree)
    for where, shadows in found.items():
        left, values = list(shadows), {}
        for name, value in flat.items():  # what is not a parameter, as running means, has no average
            if left and left[0].shape == value.shape:
                values[name] = left.pop(0)
        if left:
            raise ValueError(f"{where}.shadow_params has {len(shadows)} averages without names, which do not follow "
                             f"the {len(flat)} parameters beside it; --raw takes those")
        named[where] = {**flat, **values}
    return named


def _split(tree, depth=0):
    """``(average, other)``, each ``(where, tree of arrays)`` or None."""
    if isinstance(tree, (list, tuple)) and not isinstance(tree, Tensor):
        found = [(number, value) for number, value in enumerate(tree)
                 if _has_arrays(value) and not _is_optimizer(value)]
        if not found:
            return None, None
        (first, model), rest = found[0], found[1:]
        return (f"entry {rest[-1][0]}", rest[-1][1]) if rest else None, (f"entry {first}", model)
    if not isinstance(tree, Mapping) or depth > 3:
        return None, None
    average = next(((name, tree[name]) for name in AVERAGED if _has_arrays(tree.get(name))), None)
    other = next(((name, tree[name]) for name in OTHERS if _has_arrays(tree.get(name))), None)
    if average is not None:
        inner = [pair and (".".join(filter(None, (average[0], pair[0]))), pair[1])
                 for pair in _split(average[1], depth + 1)]
        average = inner[0] or inner[1] or average
        if other is None:
            both = inner if all(inner) else averages.apart(dict(_flatten(tree)))
            return tuple(both) if all(both) else (average, None)
    if other is not None:
        inner_average, inner = _split(other[1], depth + 1)
        average = average or (inner_average and (f"{other[0]}.{inner_average[0]}", inner_average[1]))
        return average, (".".join(filter(None, (other[0], inner[0]))), inner[1]) if inner else None
    return averages.apart(dict(_flatten(tree)))


def _flatten(tree, prefix=""):
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(value, (Tensor, np.ndarray)):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) and not _is_optimizer(value):
            yield from _flatten(value, f"{prefix}{name}.")


def _has_arrays(tree):
    return isinstance(tree, Mapping) and next((True for _, value in _flatten(tree) if value.ndim), False) or (
        isinstance(tree, (list, tuple)) and not isinstance(tree, Tensor) and any(map(_has_arrays, tree)))


def _is_optimizer(tree):
    return isinstance(tree, Mapping) and ("param_groups" in tree or {"exp_avg", "exp_avg_sq"} <= tree.keys())


def _outline(tree):
    if isinstance(tree, Mapping):
        names = [str(name) for name in tree]
        return f"a table of {len(names)} entries ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"
    if isinstance(tree, (list, tuple)):
        return f"a list of {len(tree)} entries ({', '.join(type(value).__name__ for value in tree[:6])})"
    return type(tree).__name__


# ------------------------------------------------------------------------------------------------------- wrappers

def under(tensors: dict[str, Any], signature: tuple[str, ...]) -> list[str]:
    """The prefixes under which all names of a signature are found: ``""``, ``"module."``, ``"model.unet."``, ...

    >>> under({"net.a.weight": 0, "net.b.weight": 0, "a.weight": 0}, ("a.weight", "b.weight"))
    ['net.']
    """
    first = signature[0]
    prefixes = [name[:-len(first)] for name in tensors if name.endswith(first)]
    return sorted({prefix for prefix in prefixes if (not prefix or prefix.endswith("."))
                   and all(prefix + name in tensors for name in signature)}, key=len)


def cut(tensors: dict[str, Any], prefix: str, read_as: Callable = array) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays under a prefix, without it, and the names that are not under it.

    Errors:
        ValueError that names an array which is damaged, or holds whole numbers where parameters are.
    """
    inside = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            try:
                found = inside[name.removeprefix(prefix)] = read_as(value)
            except torch_file.DamagedFile as error:
                raise ValueError(f"{name}: {error}") from error
            if found.dtype.kind != "f" and name.endswith((".weight", ".bias")):
                raise ValueError(f"{name} holds whole numbers ({found.dtype}), as of a quantised network: give the "
                                 "checkpoint in floats")
    return inside, [name for name in tensors if not name.startswith(prefix)]
