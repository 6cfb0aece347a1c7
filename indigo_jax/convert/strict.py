"""What every converter shares: nested trees, and the check against the network itself."""
import re
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np


def from_torch(state_dict: dict[str, np.ndarray], scopes: tuple[tuple[str, str], ...],
               weight: Callable[[str, np.ndarray], np.ndarray] = lambda scope, value: value) -> dict:
    """A state_dict as a nested tree of parameters: renamed, its matrices and kernels with the outputs as last axis.

    A name that no rule changes keeps its own, for :func:`check` to refuse.

    Args:
        state_dict: ``{torch parameter name: array}``.
        scopes: ``(pattern, replacement)``: regular expressions from the start of a module's name, one after the other.
        weight: ``(our scope, array in torch layout) -> array``: what a weight should look like before its axes are
            turned.

    Errors:
        ValueError when two names mean the same parameter.
    """
    tensors, sources = {}, {}
    for name, value in state_dict.items():
        scope, _, leaf = name.rpartition(".")
        for pattern, ours in scopes:
            scope = re.sub(f"^{pattern}", ours, scope)
        value = np.asarray(value)
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = weight(scope, value)
            value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
        ours = f"{scope}/{leaf}".replace(".", "/")
        if ours in tensors:
            raise ValueError(f"the state_dict has the same parameter twice: {sources[ours]} and {name}")
        tensors[ours], sources[ours] = value, name
    return nest(tensors)


def with_class(state_dict: dict[str, np.ndarray], table: str, bias: str, label: int | str | None) -> dict:
    """A state_dict without its classes: the vector of one of them is added to the bias of the time, where it went.

    Args:
        state_dict: ``{torch parameter name: array}``.
        table: name of the vectors of the classes ``[N, T]``; without it nothing changes.
        bias: name of the bias ``[T]`` of the layer whose output they are added to.
        label: the class, from 0; "mean" for the mean of all.

    Errors:
        ValueError for a network with classes and no label, or the other way round.
    """
    if table not in state_dict:
        if label is not None:
            raise ValueError(f"a network without classes (no {table}); leave the label out")
        return state_dict
    vectors = np.asarray(state_dict[table], np.float32)
    if label is None:
        raise ValueError(f"a network with {len(vectors)} classes ({table}): say which it is to believe in, with "
                         f"--label 0 to {len(vectors) - 1}, or --label mean")
    if label != "mean" and not 0 <= int(label) < len(vectors):
        raise ValueError(f"label {label}: the network has the classes 0 to {len(vectors) - 1}")
    vector = vectors.mean(axis=0) if label == "mean" else vectors[int(label)]
    rest = {name: value for name, value in state_dict.items() if name != table}
    return {**rest, bias: np.asarray(rest[bias], np.float32) + vector}


def nest(tensors: dict[str, np.ndarray]) -> dict:
    """``{"a/b": array}`` as ``{"params": {"a": {"b": array}}}``, in float32."""
    tree = {}
    for name, value in tensors.items():
        *folders, leaf = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = np.asarray(value, np.float32)
    return {"params": tree}


def check(params: dict, module, *, source: str, size: int = 1, inputs: tuple | None = None) -> dict:
    """``params`` if they are exactly those of ``module``: same names, same shapes.

    Args:
        params: the parameters.
        module: the network.
        source: what to call their origin in an error.
        size: side of pictures of three channels that the network takes, with a time.
        inputs: shapes of what it takes, if that is anything else.

    Errors:
        ValueError that names what is missing, unknown or of another shape.
    """
    inputs = ((1, size, size, 3), (1,)) if inputs is None else inputs
    structs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    wanted = _shapes(jax.eval_shape(module.init, jax.random.key(0), *structs))
    given = _shapes(params)
    for kind, names in (("lacks", wanted.keys() - given.keys()), ("has unknown", given.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{source} {kind} {', '.join(sorted(names)[:4])} ({len(names)} in all) for "
                             f"{type(module).__name__}")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ValueError(f"{source}: {name} has the shape {given[name]}, {type(module).__name__} needs {shape}")
    return params


def _shapes(tree):
    return {"/".join(str(key.key) for key in path[1:]): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
